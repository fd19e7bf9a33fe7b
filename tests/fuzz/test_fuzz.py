"""A share of `make fuzz` that is the same each time: some hundreds of bad inputs for every target, past its checksums;
and that what fails there is noticed, told and kept.

The share runs without coverage, and without an end to memory, which belongs to a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from tests.conftest import ROOT
from tests.fuzz.__main__ import run
from tests.fuzz.judge import Unexpected, judged
from tests.fuzz.mutate import Mutator, change_json, change_text, change_toml, damage, overwrite
from tests.fuzz.targets import Target, all_targets

EXECUTIONS = 200
DEAR = 20
"""Executions of what takes a SigMF schema each time, which is checked anew each time too."""

TARGETS = all_targets()
NATIVE = ("h5 iq", "h5 channels")
HERE = [target for target in TARGETS if target.name not in NATIVE]


@pytest.mark.parametrize("target", HERE, ids=[target.name for target in HERE])
def test_bad_input_is_refused_or_counted(target: Target, tmp_path: Path) -> None:
    ready, rng = target.prepare(tmp_path), Random(7)
    with contextlib.closing(ready):
        whole = [judged(ready.execute, seed) for seed in ready.seeds]
        assert all(whole)
        for _ in range(DEAR if "sigmf" in target.name or "oai" in target.name else EXECUTIONS):
            judged(ready.execute, ready.mutate(rng.choice(ready.seeds), rng))


@pytest.mark.parametrize("name", NATIVE)
def test_bad_hdf5_in_a_process_with_little_memory(name: str, tmp_path: Path) -> None:
    (target,) = (one for one in TARGETS if one.name == name)
    outcome = run(target, tmp_path, EXECUTIONS * target.cost, 7, blind=True)
    assert (outcome.executions, outcome.failure, outcome.input) == (EXECUTIONS, "", None)
    assert 0 < outcome.taken < EXECUTIONS


@pytest.mark.parametrize("target", HERE, ids=[target.name for target in HERE])
def test_mutators_take_anything_and_repeat_themselves(target: Target, tmp_path: Path) -> None:
    ready = target.prepare(tmp_path)
    ready.close()
    inputs = [*ready.seeds, b"", b"{", b"\0" * 40, Random(3).randbytes(300)]
    for number in range(40):
        data = inputs[number % len(inputs)]
        assert ready.mutate(data, Random(number)) == ready.mutate(data, Random(number))
    changed = [ready.mutate(ready.seeds[0], Random(number)) != ready.seeds[0] for number in range(40)]
    assert sum(changed) > 25


@pytest.mark.parametrize("mutate", [damage, overwrite, change_text, change_json, change_toml])
def test_a_mutator_takes_any_bytes(mutate: Mutator) -> None:
    for number in range(300):
        rng = Random(number)
        mutate(mutate(rng.randbytes(rng.randrange(50)), rng), rng)


def _raise(error: BaseException, cause: BaseException | None = None) -> object:
    """Raises `error` while `cause` is handled, and says nothing of it."""
    try:
        if cause is not None:
            raise cause
    except BaseException:
        raise error from None
    raise error


def test_only_a_refusal_may_come_out() -> None:
    assert judged(lambda _: 1, b"")
    assert not judged(lambda _: 0, b"")
    assert not judged(lambda _: _raise(InputRefused("bad")), b"")
    assert not judged(lambda _: _raise(UsageRefused("bad"), ValueError()), b"")
    unexpected = (ValueError(), TwinbeamError("neither"), RecursionError(), MemoryError(), SystemExit(0))
    for error in unexpected:
        with pytest.raises(Unexpected, match=type(error).__name__):
            judged(lambda _, error=error: _raise(error), b"")
    with pytest.raises(Unexpected, match="want of memory"):
        judged(lambda _: _raise(InputRefused("damaged"), MemoryError()), b"")


def worked(folder: Path, execute: str) -> subprocess.CompletedProcess[str]:
    """What came of a worker whose parser is `execute`, an expression; it is given 0, 1, 2, …."""
    script = f"""
import os, sys, time
from pathlib import Path
from tests.fuzz import judge, worker
from tests.fuzz.targets import Ready
worker.HANG_S = 3.0
judge.limit_memory(64 << 20)
count = iter(range(100))
ready = Ready(lambda data: {execute}, [b"-"], lambda data, rng: str(next(count)).encode())
worker.run_blindly(ready, Path(sys.argv[1]), 20, 1)
"""
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"MALLOC_ARENA_MAX": "1"})


def test_a_worker_that_finds_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert worked(tmp_path, "bytearray(32 << 20)").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tally"]


@pytest.mark.parametrize(
    ("execute", "why"),
    [("1 // (data != b'5')", "ZeroDivisionError"), ("bytearray(1 << 30) if data == b'5' else 1", "MemoryError")],
)
def test_the_input_that_fails_is_kept(execute: str, why: str, tmp_path: Path) -> None:
    assert worked(tmp_path, execute).returncode == 3
    (kept,) = tmp_path.glob("failed-*")
    assert kept.read_bytes() == b"5"
    assert why in (tmp_path / "why").read_text()


@pytest.mark.parametrize("execute", ["time.sleep(60) if data == b'5' else 1", "os.abort() if data == b'5' else 1"])
def test_the_input_that_hangs_or_ends_the_process_is_kept(execute: str, tmp_path: Path) -> None:
    assert worked(tmp_path, execute).returncode != 0
    (kept,) = tmp_path.glob("failed-*")
    assert kept.read_bytes() == b"5"
