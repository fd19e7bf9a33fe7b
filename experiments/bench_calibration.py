"""What calibration gives back of a twin that is wrong on purpose (`twinbeam bench calibration`).

The truth is a street with other materials than the twin's, an array turned by two degrees, and twenty points that
scatter a fifth of the line of sight's power and stand in no model; houses hide them as they hide users. It is measured
at many places with noise, and judged at places that are five metres or more from any of them. Judged too is the same
without the twenty points. Nothing of the truth but the measured channels goes into the calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cached_paths import CachedPaths
from sim.calibration.calibrating import STAGES, Calibration, Choices, calibrate
from sim.calibration.fitted_site import fitted_site
from sim.calibration.links import MeasuredLinks, relative_residuals, turned
from sim.calibration.scatterers import Scatterer, point_table
from sim.calibration.site_model import SiteModel, summed
from sim.site import Site
from sim.trace_settings import Material
from sim.tracer import SceneTracer

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

TONES_HZ = np.linspace(-50e6, 50e6, 64)
SNR_DB = 30.0
POINTS, POINTS_SHARE = 20, 0.2
"""Scatterers, and their power over that of the line of sight, over all links that are measured."""
YAW_DEG = 2.0
APART_M = 5.0
"""Judged places are no nearer to measured ones."""

_HOLES_M = ((0.0, 1.0), (14.0, -2.0), (28.0, 1.0), (41.0, -1.0))
"""Where nothing is measured within `APART_M`: judged are places in the middle."""

_SITE: dict[str, Any] = {
    "name": "street",
    "scene": "simple_street_canyon",
    "carrier_hz": 3.5e9,
    "bs": {"position_m": [-35.0, 0.0, 10.0], "pitch_deg": 5.0, "rows": 1, "columns": 16},
    "users": {"corner_m": [-12.0, -7.0], "size_m": [60.0, 14.0], "spacing_m": 2.0},
    "twin": {"max_depth": 3, "samples": 100_000, "max_paths": 100, "floor_db": -100.0},
}
_TRUE_MATERIALS = {
    "concrete": Material(relative_permittivity=7.0, conductivity_s_m=0.05),
    "brick": Material(relative_permittivity=5.5, conductivity_s_m=0.08),
    "marble": Material(relative_permittivity=4.5, conductivity_s_m=0.05),
}

Told = Callable[[str], None]


def run_bench(*, quick: bool, seed: int, told: Told) -> dict[str, Any]:
    """Both cases. quick: only that without scatterers."""
    begun = perf_counter()
    truth = _Truth.of(seed)
    cases = {"materials_and_yaw": _case(truth, points=False, seed=seed, told=told)}
    if not quick:
        cases["with_scatterers"] = _case(truth, points=True, seed=seed, told=told)
    found = {"site": truth.site.name, "seed": seed, "links": truth.measured_m.shape[0]}
    return {**found, "judged": truth.judged_m.shape[0], "cases": cases, "seconds": round(perf_counter() - begun, 1)}


@dataclass(frozen=True)
class _Truth:
    """site is the twin's. walls, points: true channels without scatterers and theirs, measured places first."""

    site: Site
    measured_m: Real
    judged_m: Real
    walls: Complex
    points: Complex

    @classmethod
    def of(cls, seed: int) -> _Truth:
        site = Site.model_validate(_SITE)
        bs = site.bs.model_copy(update={"yaw_deg": site.bs.yaw_deg + YAW_DEG})
        true = site.model_copy(update={"bs": bs, "materials": _TRUE_MATERIALS})
        tracer = SceneTracer.load(true, true.twin, world=False, folder=Path())
        holes_m = np.column_stack([np.array(_HOLES_M), np.full(len(_HOLES_M), site.users.height_m)])
        around = np.array([(x, y, 0.0) for x in (-0.4, 0.0, 0.4) for y in (-0.4, 0.0, 0.4)])
        judged_m = (holes_m[:, None] + around).reshape(-1, 3)
        places_m = tracer.outdoor(site.users.grid_m())
        far_m = np.linalg.norm(places_m[:, None, :2] - judged_m[None, :, :2], axis=2).min(axis=1)
        measured_m = places_m[far_m >= APART_M]
        both_m = np.concatenate([measured_m, judged_m])
        paths = CachedPaths(tracer, true.bs, both_m)
        model = SiteModel(true, paths, TONES_HZ)
        walls = model.channels(model.start)
        points = _points(tracer, model, both_m, len(measured_m), np.random.default_rng(seed))
        return cls(site, measured_m, judged_m, walls, points)


def _points(
    tracer: SceneTracer, model: SiteModel, receivers_m: Real, measured: int, rng: np.random.Generator
) -> Complex:
    """Channels [K, N, S] of scatterers at places in the street, alike but for their phases, seen where houses let."""
    site, array_m = model.site, np.array(model.site.bs.position_m)
    low = np.append(np.array(site.users.corner_m), 0.5)
    high = np.append(np.array(site.users.corner_m) + site.users.size_m, 5.0)
    out = np.zeros((len(receivers_m), site.bs.elements, len(TONES_HZ)), np.complex128)
    arrays = model.arrays(model.start.pose)
    made = 0
    while made < POINTS:
        place_m = rng.uniform(low, high)
        if not _in_sight(tracer, array_m, place_m[None])[0]:
            continue
        seen = _in_sight(tracer, place_m, receivers_m).astype(np.float64)
        point = Scatterer(place_m, complex(np.exp(2j * np.pi * rng.random())), seen)
        table = point_table(point, array_m, receivers_m, site.wavelength_m)
        out += summed(table, *arrays.per_path(replace(table, gain=table.gain * seen), TONES_HZ))
        made += 1
    sights = model.table(model.start)
    sights = replace(sights, gain=sights.gain * (sights.kind == 0))
    los = summed(sights, *arrays.per_path(sights, TONES_HZ))
    scale = POINTS_SHARE * np.sum(np.abs(los[:measured]) ** 2) / np.sum(np.abs(out[:measured]) ** 2)
    return np.asarray(out * np.sqrt(scale))


def _in_sight(tracer: SceneTracer, from_m: Real, to_m: Real) -> npt.NDArray[np.bool_]:
    """Whether no wall stands between a place and each of to_m [K, 3]."""
    import mitsuba as mi

    ways = to_m - from_m
    far_m = np.linalg.norm(ways, axis=1)
    origin = mi.Point3f(*(mi.Float(np.full(len(to_m), from_m[axis], np.float32)) for axis in range(3)))
    direction = mi.Vector3f(*(mi.Float((ways[:, axis] / far_m).astype(np.float32)) for axis in range(3)))
    hit = tracer.scene.mi_scene.ray_intersect(mi.Ray3f(origin, direction))
    return np.asarray(np.array(hit.t) > far_m - 1e-3)


def _case(truth: _Truth, *, points: bool, seed: int, told: Told) -> dict[str, Any]:
    begun = perf_counter()
    count = len(truth.measured_m)
    true = truth.walls + truth.points if points else truth.walls
    rng = np.random.default_rng(seed + 1)
    noise = 10 ** (-SNR_DB / 10) * np.mean(np.abs(true[:count]) ** 2, axis=(1, 2))
    shape = true[:count].shape
    measured = true[:count] + np.sqrt(noise / 2)[:, None, None] * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    links = MeasuredLinks(truth.measured_m, measured, TONES_HZ, noise)
    model = _model(truth.site, truth.measured_m)
    most = 2 * POINTS if points else 0
    choices = Choices(scatterers=most, seed=seed)
    found = calibrate(
        model, links, choices, lambda state: _model(fitted_site(truth.site, state), truth.measured_m), told
    )
    return {
        **_judged(truth, true[count:], found),
        **_described(truth, found),
        "seconds": round(perf_counter() - begun, 1),
    }


def _model(site: Site, places_m: Real) -> SiteModel:
    tracer = SceneTracer.load(site, site.twin, world=False, folder=Path())
    return SiteModel(site, CachedPaths(tracer, site.bs, places_m), TONES_HZ)


def _judged(truth: _Truth, true: Complex, found: Calibration) -> dict[str, Any]:
    """Residuals at the judged places, which no link of the calibration is near, after each step."""
    links = MeasuredLinks(truth.judged_m, true, TONES_HZ, np.ones(len(true)))
    before = _model(truth.site, truth.judged_m)
    after = _model(fitted_site(truth.site, found.physical), truth.judged_m)
    table = after.table(after.start)
    mended = found.correction.applied(table, truth.judged_m)
    with_walls = replace(table, gain=table.gain * found.correction.walls.of(table, truth.judged_m))
    arrays = after.arrays(after.start.pose)
    predictions = {
        STAGES[0]: before.channels(before.start),
        STAGES[1]: after.channels(after.start),
        STAGES[2]: summed(with_walls, *arrays.per_path(with_walls, TONES_HZ)),
        STAGES[3]: summed(mended, *arrays.per_path(mended, TONES_HZ)),
    }
    told = {}
    for stage, predicted in predictions.items():
        residuals = relative_residuals(links, predicted, "free")
        pooled = np.sum(residuals * links.power) / np.sum(links.power)
        told[stage] = {"median_db": _db(float(np.median(residuals))), "pooled_db": _db(float(pooled))}
    missing = float(np.sum(np.abs(true - truth.walls[len(truth.measured_m) :]) ** 2))
    told_missing = None
    if missing > 0:
        predicted = predictions[STAGES[3]]
        left = np.sum(np.abs(turned(true, predicted, "free") - predicted) ** 2)
        told_missing = round(1 - float(left) / missing, 3)
    return {"judged_residual_db": told, "missing_energy_recovered": told_missing}


def _described(truth: _Truth, found: Calibration) -> dict[str, Any]:
    materials = {name: [round(value, 3) for value in pair] for name, pair in found.physical.materials.items()}
    return {
        "accepted": found.accepted,
        "yaw_error_deg": round(YAW_DEG - float(np.degrees(found.physical.pose.yaw_rad)), 3),
        "materials": materials,
        "scatterers": len(found.correction.scatterers.points),
    }


def _db(ratio: float) -> float:
    return round(10 * float(np.log10(max(ratio, 1e-12))), 2)
