"""Every parser of files, on good files, on noise and on files with a few bytes changed: a number, or one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ingest.errors import TwinbeamError
from tests.ingest.parsers import NATIVE, PARSERS, Read, seed

CHANGES = 60


def outcome(read: Read, path: Path) -> bool:
    """Whether the parser gave a number, or one line."""
    try:
        return read(path) >= 0
    except TwinbeamError as error:
        return "\n" not in str(error)


@pytest.mark.parametrize(("name", "read"), PARSERS, ids=[name for name, _ in PARSERS])
def test_a_good_file_is_read(name: str, read: Read, tmp_path: Path) -> None:
    path = seed(name, tmp_path)
    if name == "any contents":
        with pytest.raises(TwinbeamError):
            read(path)
    else:
        assert read(path) >= 1


@pytest.mark.parametrize(
    ("name", "read"), [row for row in PARSERS if row[0] not in NATIVE], ids=[n for n, _ in PARSERS if n not in NATIVE]
)
def test_changed_bytes_raise_nothing_else(name: str, read: Read, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(name))
    (tmp_path / "good").mkdir()
    path = seed(name, tmp_path / "good")
    good = path.read_bytes()
    for _ in range(CHANGES):
        changed = bytearray(good)
        for place in rng.integers(0, len(good), rng.integers(1, 8)):
            changed[place] = int(rng.choice([0, 255, 32, rng.integers(256)]))
        path.write_bytes(bytes(changed[: rng.integers(1, len(good) + 1)] if rng.random() < 0.3 else changed))
        assert outcome(read, path)
    shutil.rmtree(tmp_path / "good")


@pytest.mark.parametrize(("name", "read"), PARSERS, ids=[name for name, _ in PARSERS])
def test_noise_raises_nothing_else(name: str, read: Read, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = seed(name, tmp_path)
    for size in (1, 2, 7, 100, 5_000):
        path.write_bytes(rng.bytes(size))
        assert outcome(read, path)
