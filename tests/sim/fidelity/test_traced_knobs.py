"""A site's knobs reach its paths: by geometry, by the losses of trees and by the power of what is left.

A street between two rows of houses. The base station radiates alike everywhere, so that the amplitude of a path is
lambda / (4 pi length), times what walls and trees leave of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import UsageRefused
from sim.build import build_bundle
from sim.bundle import load_bundle
from sim.channels import SiteChannels
from sim.fidelity.doubles import without_doubles
from sim.fidelity.position import position_offsets_m
from sim.fidelity.settings import FidelitySettings
from sim.paths import PathTable
from sim.site import load_site
from sim.tracer import SceneTracer
from tests.sim.canyon import CANYON, canyon

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

Real = npt.NDArray[np.float64]

BS = {"position_m": [-30.0, 0.0, 20.0], "yaw_deg": 10.0, "pitch_deg": 10.0, "columns": 2, "pattern": "iso"}
BS_M, USER_M, WAVELENGTH_M = np.array([-30.0, 0.0, 20.0]), np.array([12.0, 0.0, 1.5]), 299_792_458.0 / 2e9
PLAIN: dict[str, Any] = {"max_depth": 1, "samples": 20000, "max_paths": 100}
NORTH_M, SHIFT_M, ALPHA_DB_M, WOOD_M, VIEW_DEG = 9.5715637, 0.5, 1.5, 4.0, 56.0
"""Front of the northern houses in the scene's file; the knobs below."""

KNOBS: dict[str, Any] = PLAIN | {
    "geometry": {"shift_m": [0.0, SHIFT_M, 0.0]},
    "building_material": "itu_metal",
    "materials": {"concrete": {"relative_permittivity": 20.0}},
    "foliage": {
        "attenuation_db_m": ALPHA_DB_M,
        "trees": [{"middle_m": [-15.0, 0.0, 20.0], "size_m": [WOOD_M, 500.0, 500.0], "shape": "box"}],
    },
    "hardware": {"field_of_view_deg": VIEW_DEG},
}


def tracer_of(settings: dict[str, Any], **tables: Any) -> SceneTracer:
    site = canyon(twin=settings, bs=BS, ris=None, **tables)
    return SceneTracer.load(site, site.twin, world=False, folder=Path(), batch=1)


def traced(tracer: SceneTracer) -> PathTable:
    return tracer.trace(canyon(bs=BS).bs, "iso", USER_M[None])


@pytest.fixture(scope="module")
def plain() -> PathTable:
    return traced(tracer_of(PLAIN))


@pytest.fixture(scope="module")
def turned() -> PathTable:
    return traced(tracer_of(KNOBS))


def only(table: PathTable, wanted: Callable[[Real], npt.NDArray[np.bool_]], kind: int = 1) -> int:
    """The one path of a kind that arrives as wanted."""
    rows = np.nonzero((table.kind == kind) & wanted(table.arrival))[0]
    assert len(rows) == 1
    return int(rows[0])


def in_sight(arrival: Real) -> npt.NDArray[np.bool_]:
    return np.ones(len(arrival), np.bool_)


def from_north(arrival: Real) -> npt.NDArray[np.bool_]:
    return arrival[:, 1] > 0.3


def from_south(arrival: Real) -> npt.NDArray[np.bool_]:
    return arrival[:, 1] < -0.2


def from_below(arrival: Real) -> npt.NDArray[np.bool_]:
    return arrival[:, 2] < 0


def wood_db(table: PathTable, row: int) -> float:
    """Loss in a wood of WOOD_M along x, right across the street: walls and ground leave the slope to x as it is."""
    return float(ALPHA_DB_M * WOOD_M / abs(table.departure[row, 0]))


def loss_db(table: PathTable, row: int) -> float:
    """What a path has lost beside its length."""
    return float(-20 * np.log10(np.abs(table.gain[row]) * 4 * np.pi * table.length_m[row] / WAVELENGTH_M))


def test_moved_houses_lengthen_the_way_over_their_wall_and_no_other(plain: PathTable, turned: PathTable) -> None:
    for table, front_m in ((plain, NORTH_M), (turned, NORTH_M + SHIFT_M)):
        image_m = np.array([BS_M[0], 2 * front_m - BS_M[1], BS_M[2]])
        assert table.length_m[only(table, from_north)] == pytest.approx(np.linalg.norm(image_m - USER_M), abs=2e-3)
        assert table.length_m[only(table, in_sight, 0)] == pytest.approx(np.linalg.norm(BS_M - USER_M), abs=1e-4)
    assert plain.length_m[only(plain, from_below)] == pytest.approx(turned.length_m[only(turned, from_below)], rel=1e-6)


def test_trees_on_the_way_take_their_decibels_per_metre(plain: PathTable, turned: PathTable) -> None:
    assert loss_db(plain, only(plain, in_sight, 0)) == pytest.approx(0.0, abs=0.02)
    sight = only(turned, in_sight, 0)
    assert loss_db(turned, sight) == pytest.approx(wood_db(turned, sight), abs=0.02)


def test_houses_of_metal_reflect_all_and_the_ground_is_not_of_them(plain: PathTable, turned: PathTable) -> None:
    wall = only(turned, from_north)
    assert loss_db(turned, wall) == pytest.approx(wood_db(turned, wall), abs=0.05)
    assert loss_db(plain, only(plain, from_north)) > 0.5
    # Of permittivity 20 instead of concrete's 5 the ground reflects more; of metal it would reflect all.
    ground = only(turned, from_below)
    left_db = loss_db(turned, ground) - wood_db(turned, ground)
    assert 2.0 < left_db < loss_db(plain, only(plain, from_below)) - 2.0


def test_what_leaves_outside_of_the_knob_s_field_of_view_is_not_seen(plain: PathTable, turned: PathTable) -> None:
    boresight = canyon(bs=BS).bs.rotation()[:, 0]
    seen = np.degrees(np.arccos(turned.departure @ boresight)) <= VIEW_DEG / 2
    assert seen.all()
    south = only(plain, from_south)
    assert np.degrees(np.arccos(plain.departure[south] @ boresight)) > VIEW_DEG / 2
    assert not from_south(turned.arrival).any()
    assert turned.paths == plain.paths - 1


def test_repeats_are_taken_out_where_houses_are_moved() -> None:
    """Fronts that were in one plane, and are millimetres apart, reflect a wave twice."""
    tracer = tracer_of(PLAIN | {"geometry": {"shift_sigma_m": 1e-3, "seed": 3}})
    once = traced(tracer)
    every = traced(replace(tracer, settings=tracer.settings.model_copy(update={"drop_repeats": False})))
    assert once.paths < every.paths
    np.testing.assert_array_equal(np.sort(once.length_m), np.sort(without_doubles(every).length_m))


def test_a_site_file_s_knobs_come_through_to_its_bundle(tmp_path: Path, turned: PathTable) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        f"""
        name = "canyon"
        scene = "simple_street_canyon"
        carrier_hz = 2e9
        bs = {{ position_m = [-30.0, 0.0, 20.0], yaw_deg = 10.0, pitch_deg = 10.0, columns = 2, pattern = "iso" }}
        users = {{ corner_m = [12.0, 0.0], size_m = [0.5, 0.5] }}
        [twin]
        max_depth = 1
        samples = 20000
        max_paths = 100
        building_material = "itu_metal"
        [twin.materials.concrete]
        relative_permittivity = 20.0
        [twin.geometry]
        shift_m = [0.0, {SHIFT_M}, 0.0]
        [twin.foliage]
        attenuation_db_m = {ALPHA_DB_M}
        [[twin.foliage.trees]]
        middle_m = [-15.0, 0.0, 20.0]
        size_m = [{WOOD_M}, 500.0, 500.0]
        shape = "box"
        [twin.hardware]
        field_of_view_deg = {VIEW_DEG}
        mismatch_phase_deg = 30.0
        [twin.position]
        sigma_m = 0.7
        """
    )
    build_bundle(str(path), world=False, out=None, progress=lambda done, total: None)
    bundle, site = load_bundle(tmp_path / "twin.h5"), load_site(path)
    assert bundle.settings == site.twin == FidelitySettings.model_validate(site.twin.model_dump())
    ground_m = USER_M[2] - 0.030794144
    true_m = np.array([[USER_M[0], USER_M[1], ground_m]])
    np.testing.assert_allclose(bundle.positions_m, true_m + position_offsets_m(site.twin.position, 1), atol=1e-4)
    np.testing.assert_array_equal(bundle.bs_user.kind, turned.kind)
    np.testing.assert_allclose(bundle.bs_user.length_m, turned.length_m, atol=0.05)
    even = SiteChannels(replace(bundle, settings=FidelitySettings())).direct(bundle.positions_m[0])
    phases = np.degrees(np.angle(SiteChannels(bundle).direct(bundle.positions_m[0]) / even))
    assert np.abs(phases).max() > 5.0


def test_what_nothing_is_made_of_is_refused() -> None:
    with pytest.raises(UsageRefused, match=r"\[twin.materials\]: no material 'marble' in the scene") as refusal:
        tracer_of(PLAIN | {"building_material": "itu_metal", "materials": {"marble": {"relative_permittivity": 2.0}}})
    assert "\n" not in str(refusal.value)
    assert "twinbeam-itu_metal" in str(refusal.value)


def test_a_ris_in_a_moved_house_or_out_of_a_knob_s_view_is_refused() -> None:
    site = canyon(twin=PLAIN | {"geometry": {"shift_m": [0.0, -6.0, 0.0]}}, ris=CANYON["ris"])
    with pytest.raises(UsageRefused, match=r"the RIS at .* is inside of"):
        SceneTracer.load(site, site.twin, world=False, folder=Path())
    site = canyon(twin=PLAIN | {"hardware": {"field_of_view_deg": 10.0}})
    with pytest.raises(UsageRefused, match="boresight, which sees 5° to each side"):
        SceneTracer.load(site, site.twin, world=False, folder=Path())
