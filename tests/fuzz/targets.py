"""What is fuzzed: every parser of files (those of `tests/ingest/parsers.py`), and in `streams.py` and `settings.py`
what comes in by network and what a user writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import formats, formats_made
from tests.fuzz.mutate import Mutator, change_json, change_toml, damage
from tests.ingest.parsers import PARSERS, Read, seed


@dataclass(frozen=True)
class Ready:
    """A target that can be run: `execute` gives something or raises, `seeds` are good inputs.

    close: gives back what is open; sockets must be, a process that ends excepted.
    """

    execute: Callable[[bytes], object]
    seeds: list[bytes]
    mutate: Mutator
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Target:
    """prepare(folder): makes it ready, its files in `folder`. cost: of one execution, in those of a usual target."""

    name: str
    prepare: Callable[[Path], Ready]
    cost: int = 1


_MUTATORS: dict[str, Mutator] = {
    "side-car json": change_json,
    "side-car toml": change_toml,
    "sigmf metadata": change_json,
    "sigmf collection": change_json,
    "sigmf archive": formats.sometimes(formats.change_tar),
    "oai metadata": change_json,
    "intel5300": formats.records(">H"),
    "atheros": formats.records("<H"),
    "picoscenes": formats.records("<I"),
    "dichasus": formats.sometimes(formats.change_tfrecord),
    "deepmimo": formats.sometimes(formats.change_mat),
    "mat iq": formats.sometimes(formats.change_mat),
    "npz iq": formats.sometimes(formats.change_npz),
    "npz channels": formats.sometimes(formats.change_npz),
}
_MADE: dict[str, Callable[[Path], Mutator]] = {
    "h5 iq": formats_made.hdf5,
    "h5 channels": formats_made.hdf5,
    "journal": formats_made.journal,
}
_COSTS = {"h5 iq": 4, "h5 channels": 4, "oai metadata": 8, "sigmf metadata": 2, "sigmf collection": 2}


def _file(name: str, read: Read) -> Target:
    def prepare(folder: Path) -> Ready:
        path = seed(name, folder)
        good = path.read_bytes()

        def execute(data: bytes) -> int:
            path.write_bytes(data)
            return read(path)

        mutate = _MADE[name](path) if name in _MADE else _MUTATORS.get(name, damage)
        seeds = _of_every_format(folder) if name == "any contents" else [good]
        return Ready(execute, seeds, mutate)

    return Target(name, prepare, _COSTS.get(name, 1))


def _of_every_format(folder: Path) -> list[bytes]:
    """A good file of every format that its first bytes tell."""
    seeds = []
    for name in ("intel5300", "atheros", "picoscenes", "npz channels", "mat iq", "journal"):
        (folder / name).mkdir()
        seeds.append(seed(name, folder / name).read_bytes())
    return seeds


def all_targets() -> list[Target]:
    """Every target, files first."""
    from tests.fuzz.settings import SETTINGS
    from tests.fuzz.streams import STREAMS

    return [*(_file(name, read) for name, read in PARSERS), *STREAMS, *SETTINGS]
