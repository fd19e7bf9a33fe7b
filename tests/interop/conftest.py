"""Programs that twinbeam talks to, the real ones. `make test-interop` installs them and runs these tests.

Without it they are not collected; with it, what is missing is a failure and no skip.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

if os.environ.get("TWINBEAM_INTEROP") != "1":
    collect_ignore_glob = ["test_*.py"]

SYSTEM_PYTHON = "/usr/bin/python3"
"""Has Debian's gnuradio and python3-uhd, which are built for it."""

RATE_HZ, CENTER_HZ = 46.08e6, 3502.8e6


@pytest.fixture(scope="session")
def capture() -> Path:
    """The live n78 cell: PCI 500, SSB 0, 10 ms."""
    folder = Path(os.environ.get("TWINBEAM_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / "nr-iq" / "n78_x300_46.08Msps_3502.8MHz.cf32"
    assert path.is_file(), f"no recorded captures in {folder}: set TWINBEAM_DATA"
    return path


@pytest.fixture
def free_ports() -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(4)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
