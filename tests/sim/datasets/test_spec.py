"""A specification says what is wrong with it in one line; what decides on the bytes of a set is in its identity."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import TwinbeamError, UsageRefused
from sim.datasets.folder import first_difference
from sim.datasets.scene_files import scene_digest
from sim.datasets.spec import load_plan
from sim.site import load_site, site_path
from tests.conftest import ROOT
from tests.processes import call
from tests.sim.datasets.specs import block_of_the_page, plan, spec_file

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("spec.samples = 400, not 500", {"samples": 500}),
    ("spec.seed = 5, not 6", {"seed": 6}),
    ("settings.max_depth = 1, not 2", {"trace": {"samples": 1000, "max_depth": 2}}),
    ("spec.cir = null, not {", {"cir": {"taps": 2, "bandwidth_hz": 1e6}}),
    ('spec.positions.draw = "uniform", not "grid"', {"positions": {"draw": "grid"}}),
]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"samples": 0}, "'samples'"),
        ({"smaples": 3}, "did you mean 'samples'"),
        ({"shard_samples": 100}, "multiple of 64"),
        ({"cfr": None}, r"nothing to keep.*\[cfr\], \[cir\] or \[cascade\]"),
        ({"cfr": {"tones": 4}}, "bandwidth_hz.*missing"),
        ({"cfr": {"tones": 8192, "bandwidth_hz": 1e8}, "shard_samples": 64000}, r"shards of 25\.2 GB.*shard_samples"),
        ({"trace": {"max_depht": 3}}, r"\[trace\].*did you mean 'max_depth'"),
        ({"trace": {"like": "both"}}, "trace.like"),
        ({"trace": {"hardware.adc_bits": 4}}, r"\[trace\].*adc_bits acts on signals"),
        ({"trace": {"position.correlation_s": 1.0}}, r"\[trace\].*correlation_s acts over time"),
        ({"trace": {"samples": 1}}, r"\[trace\].*'samples'"),
        ({"positions": {"draw": "everywhere"}}, "positions.draw"),
        ({"site": "atlantis"}, "no such site"),
        ({"site": "nowhere/site.toml"}, "no such file"),
        ({"name": "../up"}, "'name'"),
    ],
)
def test_a_wrong_specification_is_refused_in_one_line(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = spec_file(tmp_path, **changes)
    with pytest.raises(UsageRefused, match=told) as refusal:
        load_plan(path)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_cascade_needs_a_ris(tmp_path: Path) -> None:
    path = spec_file(tmp_path, cascade={})
    site = (tmp_path / "site.toml").read_text()
    (tmp_path / "site.toml").write_text(site.split("[ris]")[0] + "[users]" + site.split("[users]")[1])
    with pytest.raises(UsageRefused, match=r"no \[ris\] to cascade over"):
        load_plan(path)


def test_trace_settings_are_those_of_the_site_but_for_what_is_said(tmp_path: Path) -> None:
    made = plan(tmp_path, trace={"like": "world", "max_depth": 4})
    world = load_site(tmp_path / "site.toml").world
    assert made.world
    assert made.settings == world.model_copy(update={"max_depth": 4})
    assert not plan(tmp_path, trace={}).world
    assert plan(tmp_path, trace={}).settings == load_site(tmp_path / "site.toml").twin


def test_a_site_is_found_by_name_and_beside_the_specification(tmp_path: Path) -> None:
    assert plan(tmp_path).site.name == "canyon"
    path = spec_file(tmp_path)
    path.write_text(path.read_text().replace('"site.toml"', '"munich"'))
    shipped = load_plan(path)
    assert shipped.site == load_site(site_path("munich"))
    assert shipped.folder == site_path("munich").parent


def test_shapes_of_a_sample(tmp_path: Path) -> None:
    made = plan(tmp_path, cir={"taps": 9, "bandwidth_hz": 1e7}, cascade={})
    assert made.channels == {"cfr": (6, 4), "cir": (6, 9), "cascade": (5, 6)}
    assert made.spec.cfr is not None
    np.testing.assert_allclose(made.spec.cfr.tones_hz, [-10e6, -5e6, 0.0, 5e6])
    assert made.spec.shards == 7
    assert [len(made.spec.shard_range(shard)) for shard in range(7)] == [64] * 6 + [16]


def test_identity_is_json_and_tells_every_change(tmp_path: Path) -> None:
    before = json.loads(json.dumps(plan(tmp_path).identity()))
    assert first_difference(before, plan(tmp_path).identity()) == ""
    for told, changes in CHANGES:
        difference = first_difference(before, plan(tmp_path, **changes).identity())
        assert difference.startswith(told), difference
    moved = plan(tmp_path, {"bs": {"position_m": [-30.0, 0.0, 21.0]}}).identity()
    assert first_difference(before, moved).startswith("site.bs.")
    assert set(before["made_with"]) == {"twinbeam", "sionna-rt", "mitsuba", "drjit", "numpy"}
    older = {**before, "made_with": {**before["made_with"], "drjit": "1.4.0"}}
    assert first_difference(older, before).startswith('made_with.drjit = "1.4.0", not')


def test_the_scene_is_its_file_and_the_files_that_it_names(tmp_path: Path) -> None:
    scene = tmp_path / "hall.xml"
    (tmp_path / "wall.ply").write_bytes(b"one")
    (tmp_path / "other.ply").write_bytes(b"other")
    scene.write_text('<scene><shape><string name="filename" value="wall.ply"/></shape></scene>')
    before = scene_digest("hall.xml", tmp_path)
    (tmp_path / "other.ply").write_bytes(b"changed")
    assert scene_digest("hall.xml", tmp_path) == before
    (tmp_path / "wall.ply").write_bytes(b"two")
    meshes = scene_digest("hall.xml", tmp_path)
    assert meshes != before
    scene.write_text(scene.read_text() + "<!-- -->")
    assert scene_digest("hall.xml", tmp_path) not in (before, meshes)
    assert scene_digest("munich", tmp_path) == ""
    with pytest.raises(TwinbeamError, match="no such scene file"):
        scene_digest("none.xml", tmp_path)


def test_the_page_shows_every_key_of_a_specification(tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(block_of_the_page("toml"))
    shown = load_plan(path)
    assert shown.channels.keys() == {"cfr", "cir", "cascade"}
    named = tomllib.loads(path.read_text())
    assert named.keys() == set(type(shown.spec).model_fields)
    for table in ("positions", "cfr", "cir"):
        assert named[table].keys() == getattr(shown.spec, table).model_dump().keys()


def test_the_specification_that_we_ship_is_one() -> None:
    shipped = load_plan(ROOT / "sim" / "datasets" / "munich-csi.toml")
    assert (shipped.spec.samples, shipped.settings.max_depth, shipped.settings.samples) == (20000, 3, 100_000)
    assert shipped.channels == {"cfr": (16, 32)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "0"], "0 workers"),
        (["--out", "none/set"], "no such folder"),
        (["--out", "site.toml"], "is a file"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_refused(options: list[str], told: str, tmp_path: Path) -> None:
    spec_file(tmp_path)
    ended = call("dataset", "make", "street.toml", *options, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
