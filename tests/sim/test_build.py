"""`twin build` turns a site file into a bundle and says what it did; what cannot be built is refused beforehand."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import UsageRefused
from sim.build import build_bundle
from sim.bundle import load_bundle
from tests.sim.canyon import CANYON

needs_sionna = pytest.mark.skipif(
    importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"
)


def silent(done: int, total: int) -> None:
    """No progress wanted."""


def written(folder: Path, tables: dict[str, Any]) -> Path:
    """A site file; JSON scalars and arrays are TOML as well."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path = folder / "site.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.tracer
@pytest.mark.xdist_group("tracer")
@needs_sionna
def test_build_writes_the_bundle_that_it_reports(tmp_path: Path) -> None:
    path = written(tmp_path, {**CANYON, "users": {"corner_m": [6.0, -3.0], "size_m": [6.0, 1.0], "spacing_m": 6.0}})
    seen: list[tuple[int, int]] = []
    report = build_bundle(str(tmp_path), world=False, out=None, progress=lambda done, total: seen.append((done, total)))
    target = tmp_path / "twin.h5"
    bundle = load_bundle(target)
    assert {"site", "positions", "paths", "seconds", "bytes", "sha256"} <= set(report)
    assert report["site"] == "canyon"
    assert report["positions"] == len(bundle.positions_m) == 2
    assert report["paths"] == bundle.bs_user.paths + bundle.bs_ris.paths + bundle.ris_user.paths
    assert report["bytes"] == target.stat().st_size
    assert report["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest() == bundle.sha256
    assert report["bundle"] == str(target)
    assert report["seconds"] > 0
    assert json.loads(json.dumps(report)) == report
    assert seen[-1] == (4, 4)
    assert path.is_file()
    again = tmp_path / "again.h5"
    repeated = build_bundle(str(path), world=False, out=again, progress=silent)
    assert repeated["bundle"] == str(again)
    np.testing.assert_allclose(load_bundle(again).bs_user.gain, bundle.bs_user.gain, rtol=1e-5)


def test_no_folder_for_the_bundle_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, CANYON)
    with pytest.raises(UsageRefused, match="no such folder"):
        build_bundle(str(path), world=True, out=tmp_path / "none" / "world.h5", progress=silent)


def test_a_wrong_site_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {**CANYON, "carrier_hz": 1.0})
    for name in (str(path), str(tmp_path / "none.toml"), "no-such-site"):
        with pytest.raises(UsageRefused):
            build_bundle(name, world=False, out=None, progress=silent)
    assert not list(tmp_path.glob("*.h5*"))
