"""A real flowgraph, and a peer that speaks as srsRAN does, stream the same capture to the daemon: it finds the cell."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import CENTER_HZ, RATE_HZ, SYSTEM_PYTHON
from tests.processes import PATIENCE_S, Running, last_json, running

HERE = Path(__file__).parent
PACE_HZ = RATE_HZ / 8
"""Samples a second: two cores carry sender, daemon and whatever else runs. Neither sender tells wall-clock time."""

FRAMES = 10


@contextmanager
def peer(python: str, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A sender as a process of its own, once it says that it is ready."""
    process = subprocess.Popen([python, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), f"{script} has died with code {process.wait(PATIENCE_S)}"
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()


def channels_heard(page: str) -> float:
    """How many channel frames the daemon has taken in."""
    with urllib.request.urlopen(f"{page}/metrics", timeout=PATIENCE_S) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith('twinbeam_inputs_total{topic="channel"}'):
                return float(line.split()[-1])
    return 0.0


@contextmanager
def daemon(folder: Path, uri: str) -> Iterator[Running]:
    """`twinbeam run` on a configuration that names `uri`."""
    config = folder / "run.toml"
    config.write_text(
        f'[source]\nuri = "{uri}"\n[emit]\nbind = ""\n[block]\nperiod_s = 0.1\ndeadline_s = 0.05\n[http]\nport = 0\n'
    )
    with running("run", str(config), "--json", folder=folder) as run:
        yield run


def told_after_some_frames(run: Running) -> dict[str, Any]:
    """The summary of a daemon that has heard a few SSBs."""
    page = run.until_logged("ready")["page"]
    run.until(lambda: run.process.poll() is not None or channels_heard(page) >= FRAMES, "channel frames")
    code, out = run.end(signal.SIGTERM)
    assert code == 0, run.other
    return last_json(out)


def assert_the_cell(told: dict[str, Any], cells: int = 1) -> None:
    """What is known of the capture: PCI 500, SSB 0 at 3512.64 MHz, 30 kHz, about 28 dB."""
    assert len(told["cells"]) == cells
    best = told["cells"][0]
    assert (best["pci"], best["ssb_index"], best["ssb_center_hz"], best["scs_hz"]) == (500, 0, 3512.64e6, 30e3)
    assert abs(best["snr_db"] - 28.0) < 3.0
    assert best["seen"] >= FRAMES


@pytest.mark.parametrize(
    ("socket", "options", "sink"),
    [
        ("sub", f"center_hz={CENTER_HZ}", ["--socket", "pub"]),
        ("sub", f"center_hz={CENTER_HZ}&key=rx", ["--socket", "pub", "--key", "rx"]),
        ("pull", f"center_hz={CENTER_HZ}", ["--socket", "push"]),
        # Only the tags tell where the radio is tuned to: at 2 GHz there is no such cell.
        ("sub", "center_hz=2e9&tags=1", ["--socket", "pub", "--tags", str(CENTER_HZ)]),
        ("pull", "center_hz=2e9&tags=1", ["--socket", "push", "--tags", str(CENTER_HZ)]),
    ],
    ids=["pub", "pub with key", "push", "pub with tags", "push with tags"],
)
def test_gnu_radio_streams_a_cell(socket: str, options: str, sink: list[str], capture: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/radio"
    uri = f"gnuradio+{address}?socket={socket}&rate_hz={RATE_HZ}&{options}"
    with (
        peer(SYSTEM_PYTHON, "flowgraph.py", str(capture), address, *sink, "--rate-hz", str(PACE_HZ)),
        daemon(tmp_path, uri) as run,
    ):
        told = told_after_some_frames(run)
    assert_the_cell(told)
    assert not told["drops"].keys() & {"tagged", "header", "truncated", "duplicate", "reordered", "tag", "clock_step"}


def test_gnu_radio_tags_where_none_are_expected(capture: Path, tmp_path: Path) -> None:
    """The mistake is counted, and nothing is made of samples that begin in the middle of a tag."""
    address = f"ipc://{tmp_path}/radio"
    uri = f"gnuradio+{address}?rate_hz={RATE_HZ}&center_hz={CENTER_HZ}"
    sink = ["--socket", "pub", "--tags", str(CENTER_HZ), "--rate-hz", str(PACE_HZ)]
    with peer(SYSTEM_PYTHON, "flowgraph.py", str(capture), address, *sink), daemon(tmp_path, uri) as run:
        page = run.until_logged("ready")["page"]

        def told() -> bool:
            with urllib.request.urlopen(f"{page}/metrics", timeout=PATIENCE_S) as reply:
                return 'reason="tagged"' in reply.read().decode()

        run.until(lambda: run.process.poll() is not None or told(), "refused messages")
        code, out = run.end(signal.SIGTERM)
    assert code == 0
    assert last_json(out)["drops"]["tagged"] > 0
    assert "cells" not in last_json(out)


@pytest.mark.parametrize("channels", [1, 2])
def test_an_srsran_radio_streams_a_cell(channels: int, capture: Path, tmp_path: Path, free_ports: list[int]) -> None:
    addresses = [f"tcp://127.0.0.1:{port}" for port in free_ports[:channels]]
    further = "".join(f"&port{n}={port}" for n, port in enumerate(free_ports[1:channels], 1))
    uri = f"srsran+{addresses[0]}?rate_hz={RATE_HZ}&center_hz={CENTER_HZ}{further}"
    with (
        peer(sys.executable, "srsran_peer.py", str(capture), *addresses, "--rate-hz", str(PACE_HZ)),
        daemon(tmp_path, uri) as run,
    ):
        told = told_after_some_frames(run)
    assert_the_cell(told)
    assert not told.keys() & {"lost", "lost_samples", "shed_samples"}
    assert not told["drops"].keys() & {"hung_up", "truncated", "frames", "non_finite"}
