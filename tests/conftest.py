"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path | None:
    """Where the recorded captures lie: $TWINBEAM_DATA, else beside the project; None where they are not."""
    for place in (os.environ.get("TWINBEAM_DATA"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "nr-iq").is_dir():
            return Path(place)
    return None


@pytest.fixture(scope="session")
def data() -> Path:
    """The recorded captures, read in place."""
    folder = data_folder()
    if folder is None:
        pytest.skip("no recorded captures: set TWINBEAM_DATA, or put them in ../shared/data")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)
