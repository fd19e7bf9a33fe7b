"""Runs one target in this process: guided by coverage where `atheris` is there, else blindly; both by the seed alone.

Made to be started by `__main__`, which learns from `Tally` how far it came, also when it died of a parser's native
library. What failed lies in its folder as `failed-*`; libFuzzer calls its own `crash-*` and `timeout-*`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import importlib
import inspect
import mmap
import os
import struct
import sys
import traceback
import types
import warnings
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import jsonschema

from tests.fuzz.judge import HANG_S, MAX_INPUT_BYTES, Unexpected, judged, limit_memory, memory_bytes
from tests.fuzz.targets import Ready, all_targets

FAILED = 3
WATCHED = (
    "ingest.endpoints", "ingest.journal", "ingest.mcap_file", "ingest.settings_file", "ingest.stream_uri",
    "ingest.wire", "ingest.sources.*", "ingest.nr.references", "ingest.nr.csi_rs", "ingest.nr.dmrs", "ingest.nr.srs",
    "controller.config", "controller.codec", "sim.bundle", "sim.site", "mcap.data_stream", "mcap.records",
    "sigmf.validate",
)  # fmt: skip
"""Whose branches guide the search; kernels that are compiled stay as they are."""

_COUNTERS = struct.Struct("<5Q")
_LOOK_EVERY = 64
_KEPT = 64


class Tally:
    """Executions, inputs taken, and memory [bytes], in a file that outlives the process: resident at first and at most,
    and what the address space had at most."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_COUNTERS.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNTERS.size)
        self._counts = [0] * 5

    def begin(self) -> None:
        """What the process has now, it did not get for its executions."""
        if not self._counts[2]:
            Path("/proc/self/clear_refs").write_text("5")  # the resident peak is counted anew
            self._counts[2] = memory_bytes("VmRSS")

    def add(self, taken: bool) -> None:
        self._counts[0] += 1
        self._counts[1] += taken
        if self._counts[0] % _LOOK_EVERY == 1:
            self._counts[3:] = memory_bytes("VmHWM"), memory_bytes("VmPeak")
        _COUNTERS.pack_into(self._map, 0, *self._counts)


def read_tally(path: Path) -> tuple[int, int, int]:
    """Executions, inputs taken, and by how many bytes the process grew at most."""
    executions, taken, before, most, _ = _COUNTERS.unpack(path.read_bytes())
    return executions, taken, max(most - before, 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--executions", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--input", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("error")
    faulthandler.enable()
    (target,) = (one for one in all_targets() if one.name == asked.name)
    work = asked.folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    ready = target.prepare(work)
    # It holds SigMF's schema against the schema of schemas whenever it is used: thirty times the work beside.
    jsonschema.Draft202012Validator.check_schema = lambda *_, **__: None
    for seed in ready.seeds:  # loads and compiles what is needed before memory is counted
        judged(ready.execute, seed)
    if asked.input:
        limit_memory()
        with contextlib.closing(ready):
            print("taken" if judged(ready.execute, asked.input.read_bytes()) else "refused")
        return
    if asked.blind:
        limit_memory()
        run_blindly(ready, asked.folder, asked.executions, asked.seed)
    else:
        run_guided(ready, asked.folder, asked.executions, asked.seed)


def run_blindly(ready: Ready, folder: Path, executions: int, seed: int) -> None:
    """Mutates seeds, and now and then what was taken before."""
    rng, tally, kept = Random(seed), Tally(folder / "tally"), list[bytes]()
    tally.begin()
    for number in range(executions):
        whole = number < len(ready.seeds)
        data = ready.seeds[number] if whole else rng.choice(ready.seeds if not kept or rng.random() < 0.7 else kept)
        data = data if whole else ready.mutate(data, rng)[:MAX_INPUT_BYTES]
        (folder / "failed-now").write_bytes(data)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        taken = _judged(ready, folder, data)
        faulthandler.cancel_dump_traceback_later()
        tally.add(taken)
        if taken and data:
            kept = [*kept[-_KEPT:], data]
    (folder / "failed-now").unlink(missing_ok=True)


def run_guided(ready: Ready, folder: Path, executions: int, seed: int) -> NoReturn:
    """libFuzzer keeps what reaches new branches of `WATCHED`, and mutates that; ends the process."""
    import atheris

    _instrument(atheris.instrument_func)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(ready.seeds):
        (corpus / f"seed{number}").write_bytes(data)

    def once(data: bytes) -> None:
        tally.begin()
        tally.add(_judged(ready, folder, data))

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        changed = atheris.Mutate(data, most) if rng.random() < 0.2 else ready.mutate(data, rng)
        return bytes(changed[:most])

    options = {
        "runs": executions, "seed": max(seed, 1), "max_len": MAX_INPUT_BYTES, "len_control": 0, "timeout": HANG_S,
        "rss_limit_mb": 0, "reload": 0, "mutate_depth": 2, "print_final_stats": 1, "artifact_prefix": f"{folder}/",
    }  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)],
        once,
        custom_mutator=change,
        internal_libfuzzer=True,
    )
    limit_memory()
    tally = Tally(folder / "tally")
    atheris.Fuzz()
    sys.exit(0)


def _judged(ready: Ready, folder: Path, data: bytes) -> bool:
    """Judges one execution; what fails is saved and ends the process at once."""
    try:
        return judged(ready.execute, data)
    except Unexpected as failure:
        path = folder / f"failed-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        (folder / "failed-now").unlink(missing_ok=True)
        (folder / "why").write_text(str(failure))
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(FAILED)


def _instrument(instrument: Any) -> None:
    """Every Python function and method of the modules that are watched, where they stand."""
    names = [name for name in WATCHED if not name.endswith("*")]
    names += [
        name for name in sorted(sys.modules) for stem in WATCHED if stem[-1] == "*" and name.startswith(stem[:-1])
    ]
    done = set[types.CodeType]()
    for name in names:
        module = importlib.import_module(name)
        for holder in [
            module,
            *(one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == name),
        ]:
            for member in list(vars(holder).values()):
                for part in (member, *(getattr(member, each, None) for each in ("__func__", "fget"))):
                    mine = isinstance(part, types.FunctionType) and part.__module__ == name
                    if mine and part.__code__ not in done and part.__code__.co_filename == module.__file__:
                        instrument(part)
                        done.add(part.__code__)


if __name__ == "__main__":
    main()
