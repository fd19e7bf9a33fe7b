"""How well and how fast a twin follows users that drive (`twinbeam bench twin`).

Users drive straight over the outdoor ground of a site at 30 km/h and are traced ten times a second. Between traces a
`PathTracker` carries their paths along; judged is what it says a period ahead of its last trace (extrapolated) and
half-way between two (interpolated), against a trace made there. Beside it stand what one would do first: keep the last
trace's channel, and turn each path by its Doppler shift alone.

The result, as `--json` prints it, has `tracker_error_db`, `update_us`, `trace_ms` and `synthesis_us`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.channels import SiteArrays
from sim.paths import PathTable
from sim.site import SPEED_OF_LIGHT_M_S, Site, load_site, site_path
from sim.tracer import SceneTracer
from sim.tracker import PathTracker, Trace, relative_error_db

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

SPEED_M_S, PERIOD_S = 30 / 3.6, 0.1
USERS = 4
_STEPS = 6
"""Traces of a drive."""
_TONES = 128
_TONE_STEP_HZ = 720e3
_TRIES = 4000

Told = Callable[[int, int | None], None]


def run_bench(*, site_name: str, quick: bool, seed: int, progress: Told) -> dict[str, Any]:
    """All parts, of the twin of a site. quick: fewer drives and updates."""
    path = site_path(site_name)
    site = load_site(path)
    tracer = SceneTracer.load(site, site.twin, world=False, folder=path.parent)
    rng = np.random.default_rng(seed)
    drives = 8 if quick else 64
    progress(0, 3)
    places_m = np.stack(list(islice(_drives(site, tracer, rng), drives)))
    scene = _Traced.of(site, tracer, places_m)
    progress(1, 3)
    errors = _errors_db(scene)
    progress(2, 3)
    live = SceneTracer.load(site, site.twin, world=False, folder=path.parent, batch=USERS)
    found = {
        "site": site.name,
        "seed": seed,
        "drives": drives,
        "tracker_error_db": errors,
        "update_us": _update_us(site, scene, 500 if quick else 5000),
        "trace_ms": _trace_ms(site, live, places_m, 5 if quick else 30),
        "synthesis_us": _synthesis_us(scene, 50 if quick else 500),
    }
    progress(3, 3)
    return found


def _drives(site: Site, tracer: SceneTracer, rng: np.random.Generator) -> Iterator[Real]:
    """Places [2 steps - 1, 3] of drives over outdoor ground: where traces are made, and half-way between them."""
    corner, size = np.array(site.users.corner_m), np.array(site.users.size_m)
    ahead_m = np.arange(2 * _STEPS - 1) * (0.5 * PERIOD_S * SPEED_M_S)
    for _ in range(_TRIES):
        heading = rng.uniform(0, 2 * np.pi)
        ground = corner + rng.random(2) * size + ahead_m[:, None] * [np.cos(heading), np.sin(heading)]
        inside = np.all((ground >= corner) & (ground <= corner + size))
        places_m = tracer.outdoor(np.column_stack([ground, np.full(len(ground), site.users.height_m)]))
        if inside and len(places_m) == len(ground):
            yield places_m


@dataclass(frozen=True)
class _Traced:
    """Traces at all places [D, P, 3] of the drives, link after link; arrays of the site."""

    arrays: SiteArrays
    places_m: Real
    bs_user: PathTable
    ris_user: PathTable

    @classmethod
    def of(cls, site: Site, tracer: SceneTracer, places_m: Real) -> _Traced:
        assert site.ris is not None
        flat = places_m.reshape(-1, 3)
        hop = tracer.trace(site.bs, site.bs.pattern, np.array([site.ris.position_m]))
        return cls(
            SiteArrays(site, hop, hardware=tracer.settings.hardware),
            places_m,
            tracer.trace(site.bs, site.bs.pattern, flat),
            tracer.trace(site.ris, "iso", flat),
        )

    def trace(self, step: int) -> Trace:
        """The trace of all drives at their place of that number."""
        drives, places = self.places_m.shape[:2]
        links = np.arange(drives) * places + step
        users = tuple(f"drive{index}" for index in range(drives))
        bs_user, ris_user = (_of_links(table, links) for table in (self.bs_user, self.ris_user))
        return Trace(step, users, self.places_m[:, step], bs_user, ris_user)

    def truth(self, step: int) -> Complex:
        tracker = PathTracker(self.arrays)
        trace = self.trace(step)
        tracker.take(trace)
        return tracker.cascades(trace.users, trace.positions_m)


def _of_links(table: PathTable, links: npt.NDArray[np.int64]) -> PathTable:
    rows = [np.arange(table.offsets[link], table.offsets[link + 1]) for link in links]
    return table.chosen(np.concatenate(rows), np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64))


def _errors_db(scene: _Traced) -> dict[str, Any]:
    """Error powers over channel powers of whole cascades: percentiles over drives and steps."""
    told: dict[str, list[Real]] = {"extrapolated": [], "interpolated": [], "held": [], "doppler": []}
    tracker, drives = PathTracker(scene.arrays), len(scene.places_m)
    for step in range(0, 2 * _STEPS - 2, 2):
        here, ahead = scene.trace(step), scene.trace(step + 2)
        truth = scene.truth(step + 2)
        tracker.take(here)
        told["extrapolated"].append(relative_error_db(tracker.cascades(here.users, ahead.positions_m), truth))
        told["held"].append(relative_error_db(scene.truth(step), truth))
        turned = _turned(scene.arrays, here, ahead.positions_m)
        told["doppler"].append(relative_error_db(turned, truth))
        between = PathTracker(scene.arrays)
        between.take(here)
        between.take(ahead)
        half = scene.trace(step + 1)
        told["interpolated"].append(
            relative_error_db(between.cascades(half.users, half.positions_m), scene.truth(step + 1))
        )
    found = {name: _percentiles_db(np.concatenate(errors)) for name, errors in told.items()}
    return {**found.pop("extrapolated"), **found, "period_s": PERIOD_S, "speed_m_s": SPEED_M_S, "drives": drives}


def _turned(arrays: SiteArrays, trace: Trace, places_m: Real) -> Complex:
    """Cascades at places_m if each path only turned by the way that its arrival adds: its Doppler shift."""
    tables = []
    for table in (trace.bs_user, trace.ris_user):
        owner = np.repeat(np.arange(table.links), np.diff(table.offsets))
        shorter_m = np.einsum("lx,lx->l", table.arrival, (places_m - trace.positions_m)[owner])
        turn = np.exp(2j * np.pi * arrays.carrier_hz / SPEED_OF_LIGHT_M_S * shorter_m)
        tables.append(PathTable(table.offsets, table.gain * turn, *(column for column in table.columns[1:])))
    steps_m, links = np.zeros_like(places_m), np.arange(len(places_m))
    return arrays.cascades(tables[0], tables[1], links, steps_m)


def _percentiles_db(errors_db: Real) -> dict[str, float]:
    known = errors_db[~np.isnan(errors_db)]
    return {
        "median": round(float(np.median(known)), 2),
        "p90": round(float(np.percentile(known, 90)), 2),
        "share": round(len(known) / len(errors_db), 4),
    }


def _update_us(site: Site, scene: _Traced, count: int) -> dict[str, Any]:
    """Cascades of four users between two traces; baseline: NumPy, with a matrix of all elements and paths."""
    tracker = PathTracker(scene.arrays)
    for step in (0, 2):
        tracker.take(scene.trace(step))
    rich = np.argsort(-np.diff(scene.trace(0).ris_user.offsets), kind="stable")[:USERS]
    users = tuple(f"drive{index}" for index in rich)
    start_m, way_m = scene.places_m[rich, 0], scene.places_m[rich, 2] - scene.places_m[rich, 0]
    shares = np.linspace(0.05, 0.95, count)
    ours = _timed_us(lambda share: tracker.cascades(users, start_m + share * way_m), shares)
    trace = scene.trace(0)
    plain = _timed_us(
        lambda share: _plain(site, scene.arrays.bs_ris, trace, rich, share * way_m), shares[:: max(count // 200, 1)]
    )
    table = trace.ris_user
    paths = np.diff(table.offsets)[rich]
    return {
        **_percentiles_us(ours),
        "users": USERS,
        "antennas": scene.arrays.antennas,
        "elements": scene.arrays.elements,
        "ris_paths": [int(number) for number in paths],
        "baseline": {**_percentiles_us(plain), "ratio_p50": round(float(np.median(plain) / np.median(ours)), 2)},
    }


def _plain(site: Site, bs_ris: Complex, trace: Trace, links: npt.NDArray[np.int64], steps_m: Real) -> list[Complex]:
    """One trace carried along as one would write it first: plane waves, a matrix of all paths and elements."""
    assert site.ris is not None
    wave = 2 * np.pi / site.wavelength_m
    found = []
    for link, step_m in zip(links, steps_m, strict=True):
        hops = []
        for table, panel in ((trace.bs_user, site.bs), (trace.ris_user, site.ris)):
            rows = table.rows(int(link))
            images_m = table.arrival[rows] * table.reach_m[rows, None] - step_m
            ways_m = np.linalg.norm(images_m, axis=1)
            turned = table.arrival[rows] - images_m / ways_m[:, None]
            departure = table.departure[rows] + np.einsum("lij,lj->li", table.mirror[rows], turned)
            gain = table.gain[rows] * table.reach_m[rows] / ways_m
            if panel is site.ris:
                cosine = departure @ panel.rotation()[:, 0]
                gain = gain * site.ris.peak * np.where(cosine > 0, np.abs(cosine) ** site.ris.half_exponent, 0.0)
            length_m = table.length_m[rows] - table.reach_m[rows] + ways_m
            steered = np.exp(1j * wave * (departure @ panel.element_positions_m(site.wavelength_m).T))
            hops.append((gain * np.exp(-1j * wave * length_m)) @ steered)
        found.append(np.vstack([hops[0], hops[1][:, None] * bs_ris]))
    return found


def _trace_ms(site: Site, tracer: SceneTracer, places_m: Real, count: int) -> dict[str, float]:
    """Both traces of four users, as a live twin makes them ten times a second."""
    assert site.ris is not None
    times_s = []
    for index in range(count + 2):
        users_m = places_m[np.arange(USERS) % len(places_m), index % places_m.shape[1]]
        begun_s = perf_counter()
        tracer.trace(site.bs, site.bs.pattern, users_m)
        tracer.trace(site.ris, "iso", users_m)
        times_s.append(perf_counter() - begun_s)
    return {"p50": round(float(np.median(times_s[2:])) * 1e3, 2), "samples": site.twin.samples}


def _synthesis_us(scene: _Traced, count: int) -> dict[str, Any]:
    """Effective channels of four users on all tones under one RIS state."""
    trace, tones_hz = scene.trace(0), (np.arange(_TONES) - _TONES // 2) * _TONE_STEP_HZ
    theta, links = np.ones(scene.arrays.elements, np.complex128), np.arange(USERS)
    steps_m = np.zeros((USERS, 3))
    times = _timed_us(
        lambda _: scene.arrays.effective_cfr(trace.bs_user, trace.ris_user, links, steps_m, theta, tones_hz),
        np.zeros(count),
    )
    return {**_percentiles_us(times), "users": USERS, "tones": _TONES}


def _timed_us(work: Callable[[float], object], inputs: Real) -> Real:
    work(float(inputs[0]))
    times_us = []
    for value in inputs:
        begun_s = perf_counter()
        work(float(value))
        times_us.append(1e6 * (perf_counter() - begun_s))
    return np.array(times_us)


def _percentiles_us(times_us: Real) -> dict[str, float]:
    return {name: round(float(np.percentile(times_us, share)), 1) for name, share in (("p50", 50), ("p99", 99))}
