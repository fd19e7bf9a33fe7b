"""Runs the fuzz targets one after the other, each in a process of its own, and says what came of it: `make fuzz`.

    make fuzz ARGS="--executions 10000 --seed 1 --only wire --only journal"
    make fuzz ARGS="--only wire --input build/fuzz/wire/failed-0123456789ab"     one input again

Ends with 1 where a target failed, that is raised anything but a refusal, hung, wanted more memory than it may have or
brought the process down. The input that did it lies in the folder that is named.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.judge import ROOM_BYTES
from tests.fuzz.targets import Target, all_targets
from tests.fuzz.worker import read_tally

EXECUTIONS = 10_000


@dataclass(frozen=True)
class Outcome:
    """What came of one target. failure: why it failed, "" where it did not; input: what did it."""

    executions: int
    taken: int
    grown_bytes: int
    cpu_s: float
    failure: str = ""
    input: Path | None = None


def main() -> int:
    asked = _asked()
    targets = [one for one in all_targets() if not asked.only or one.name in asked.only]
    if unknown := set(asked.only) - {one.name for one in targets}:
        print(f"no target {unknown}; there are: {', '.join(one.name for one in all_targets())}", file=sys.stderr)
        return 2
    if asked.input:
        return max(_again(one, asked) for one in targets)
    how = "blindly" if asked.blind else "guided by coverage"
    print(f"{len(targets)} targets, seed {asked.seed}, {how}, at most {ROOM_BYTES >> 20} MiB more each", flush=True)
    failed = 0
    for target in targets:
        outcome = run(target, asked.folder, asked.executions, asked.seed, blind=asked.blind)
        print(f"{target.name:36}{_line(outcome)}", flush=True)
        if outcome.failure:
            failed += 1
            again = f"make fuzz ARGS=\"--only '{target.name}' --input '{outcome.input}'\""
            print(f"    FAILED: {outcome.failure}\n    again: {again}", flush=True)
    print(f"{failed} of {len(targets)} targets failed" if failed else "none failed")
    return 1 if failed else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument(
        "--executions", type=int, default=EXECUTIONS, help="of each target; dear ones get a share of it"
    )
    parser.add_argument("--seed", type=int, default=1, help="from 1")
    parser.add_argument("--only", action="append", default=[], help="a target by its name; may stand several times")
    parser.add_argument("--input", type=Path, help="run this one input")
    parser.add_argument("--blind", action="store_true", help="without coverage, as where there is no atheris")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where inputs that fail are kept")
    asked = parser.parse_args()
    asked.blind = asked.blind or importlib.util.find_spec("atheris") is None
    asked.folder = asked.folder.resolve()
    return asked


def run(target: Target, folder: Path, executions: int, seed: int, *, blind: bool) -> Outcome:
    """Runs one target in a process of its own."""
    folder = folder / target.name.replace(" ", "-").replace("=", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count = max(executions // target.cost, 1)
    command = [*_worker(target, folder), f"--executions={count}", f"--seed={seed}", *(["--blind"] if blind else [])]
    before_s = _children_s()
    with (folder / "log").open("wb") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, env=_environment(), check=False)
    tally = folder / "tally"
    executed, taken, grown = read_tally(tally) if tally.exists() else (0, 0, 0)
    failure = ""
    if ended.returncode or executed < count:
        why = folder / "why"
        died = f"the process ended with {ended.returncode} after {executed} executions, see {folder / 'log'}"
        failure = why.read_text() if why.exists() else died
    inputs = sorted(path for kind in ("failed-*", "crash-*", "timeout-*", "oom-*") for path in folder.glob(kind))
    return Outcome(executed, taken, grown, _children_s() - before_s, failure, inputs[0] if inputs else None)


def _again(target: Target, asked: argparse.Namespace) -> int:
    folder = asked.folder / "again"
    command = [*_worker(target, folder), f"--input={asked.input.resolve()}"]
    return abs(subprocess.run(command, env=_environment(), check=False).returncode)


def _worker(target: Target, folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.worker", target.name, str(folder)]


def _environment() -> dict[str, str]:
    """The same order of sets each time; one heap, and no threads of linear algebra: both only add address space."""
    return os.environ | {
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _children_s() -> float:
    """Time that processes which have ended spent computing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.executions:8} executions {outcome.taken:8} taken {outcome.grown_bytes >> 20:5} MiB more "
        f"{outcome.cpu_s:7.1f} s of CPU"
    )


if __name__ == "__main__":
    sys.exit(main())
