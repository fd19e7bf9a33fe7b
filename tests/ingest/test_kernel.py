"""Kernels that are cached on disk are compiled anew when something that they take from another file has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled, so nothing is cached")

_CALLED = """from ingest.kernel import kernel

ADDED = {constant}

@kernel
def called(x):
    return {factor} * x
"""
_BETWEEN = """from called import called
from ingest.kernel import kernel

@kernel
def between(x):
    return called(x)
"""
_CALLER = """from between import between
from called import ADDED
from ingest.kernel import kernel

@kernel
def caller(x):
    return between(x) + ADDED

print(caller(10.0), sum(caller.stats.cache_hits.values()))
"""


def _run(folder: Path, *, factor: float, constant: float) -> tuple[float, int]:
    """What the kernel returns in a process of its own, and how often it came from the cache."""
    source = _CALLED.format(constant=constant, factor=factor)
    if not (folder / "called.py").exists() or (folder / "called.py").read_text() != source:
        (folder / "called.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, str(folder / "caller.py")], env=environment, capture_output=True, text=True, check=True
    )
    value, hits = done.stdout.split()
    return float(value), int(hits)


def test_a_kernel_is_compiled_anew_when_one_it_calls_or_a_constant_has_changed(tmp_path: Path) -> None:
    (tmp_path / "between.py").write_text(_BETWEEN)
    (tmp_path / "caller.py").write_text(_CALLER)
    assert _run(tmp_path, factor=2.0, constant=1.0) == (21.0, 0)
    assert _run(tmp_path, factor=2.0, constant=1.0) == (21.0, 1)
    assert _run(tmp_path, factor=3.0, constant=1.0) == (31.0, 0)
    assert _run(tmp_path, factor=3.0, constant=7.5) == (37.5, 0)
    assert _run(tmp_path, factor=3.0, constant=7.5) == (37.5, 1)
