"""Fields on cached geometry are those of a fresh trace, and their derivatives those of fresh traces apart."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sim.cached_paths import CachedPaths
from sim.paths import PathTable
from sim.site import Site
from sim.trace_settings import Material
from sim.tracer import SceneTracer
from tests.sim.canyon import canyon

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

USERS_M = np.array([[0.0, -3.0, 1.5], [6.0, 1.0, 1.5], [12.0, 3.0, 1.5]])


def tracer_of(site: Site) -> SceneTracer:
    settings = site.twin.model_copy(update={"max_paths": 1000, "floor_db": -300.0})
    return SceneTracer.load(site, settings, world=False, folder=Path(), batch=len(USERS_M))


def gains(table: PathTable) -> npt.NDArray[np.complex128]:
    """Gains of each link's paths by length."""
    links = np.repeat(np.arange(table.links), np.diff(table.offsets))
    return table.gain[np.lexsort((table.length_m, links))]


@pytest.fixture(scope="module")
def cached() -> CachedPaths:
    site = canyon()
    return CachedPaths(tracer_of(site), site.bs, USERS_M)


def test_fields_are_those_of_a_fresh_trace(cached: CachedPaths) -> None:
    """With another material and another yaw than were traced."""
    name = cached.materials[-1]
    permittivity, _ = cached.nominal.materials[name]
    materials = {**cached.nominal.materials, name: (permittivity + 2.0, 0.3)}
    found = cached.table(replace(cached.nominal, yaw_deg=9.0, materials=materials))
    told = {name: Material(relative_permittivity=permittivity + 2.0, conductivity_s_m=0.3)}
    bs = canyon().bs.model_copy(update={"yaw_deg": 9.0})
    site = canyon().model_copy(update={"bs": bs, "materials": told})
    fresh = tracer_of(site).trace(site.bs, site.bs.pattern, USERS_M)
    np.testing.assert_array_equal(found.offsets, fresh.offsets)
    np.testing.assert_allclose(np.sort(found.length_m), np.sort(fresh.length_m), rtol=1e-6)
    np.testing.assert_allclose(gains(found), gains(fresh), atol=2e-5 * np.abs(fresh.gain).max())
    before = cached.table(cached.nominal)
    assert np.abs(before.gain - found.gain).max() > 0.01 * np.abs(found.gain).max()


@pytest.mark.parametrize("by", ["yaw", "permittivity"])
def test_derivatives_are_differences_of_fields(cached: CachedPaths, by: str) -> None:
    nominal, material = cached.nominal, cached.materials[-1]
    step = {"yaw": 1e-2, "permittivity": 5e-2, "conductivity": 2e-3}[by]

    def gain(away: float) -> npt.NDArray[np.complex128]:
        if by == "yaw":
            return cached.table(replace(nominal, yaw_deg=nominal.yaw_deg + np.degrees(away))).gain
        permittivity, conductivity = nominal.materials[material]
        pair = (permittivity + away, conductivity) if by == "permittivity" else (permittivity, conductivity + away)
        return cached.table(replace(nominal, materials={**nominal.materials, material: pair})).gain

    found = cached.gains(nominal, (by if by == "yaw" else f"{by} {material}",))[1][0]
    expected = (gain(step) - gain(-step)) / (2 * step)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
