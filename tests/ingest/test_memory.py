"""Memory that was freed is used again: told by the page faults of a process that takes and frees blocks of samples."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import resource, sys, threading
import numpy as np
from ingest.memory import keep_freed_memory

assert sys.argv[1] == "0" or keep_freed_memory()

def work():
    global faults
    for turn in range(60):
        if turn == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [np.ones(6 << 20, np.uint8) for _ in range(4)]
        del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults)
"""


def faults(keep: bool) -> int:
    command = [sys.executable, "-c", SCRIPT, str(int(keep))]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's memory is left as it is")
def test_blocks_that_were_freed_come_without_page_faults() -> None:
    assert faults(keep=True) < 100 < faults(keep=False)
