"""Channels are those of Sionna RT: its `cfr()` for arrays, and a trace to every element for the way over the RIS.

`cfr()` turns paths by 2 pi f tau in single precision, which alone is 4e-4 rad for 100 m at 3.5 GHz. It is met to 1e-4
and what rounding comes to for the longest path; the sum of its coefficients in double precision is met to 1e-4.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sim.channels import SiteArrays
from sim.paths import PathTable, empty_table
from sim.site import BaseStation, Geo, Ris, Site, TraceSettings, UserArea, sites_folder
from sim.tracer import SceneTracer
from tests.sim.sionna_arrays import in_our_order

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

TONES_HZ = np.array([-9e6, 0.0, 5e6])
SINGLE, ROUNDINGS = 2.0**-24, 4
"""Relative error of a rounding in single precision, and how many a phase goes through in `cfr()`."""


@dataclass(frozen=True)
class Place:
    """A scene with a base station and some places to stand. folder, origin: of a GeoJSON scene."""

    scene: str
    bs_m: tuple[float, float, float]
    yaw_deg: float
    users_m: tuple[tuple[float, float, float], ...]
    folder: Path = Path()
    origin: tuple[float, float] | None = None


PLACES = {
    "canyon": Place(
        "simple_street_canyon",
        (-30.0, 0.0, 20.0),
        5.0,
        ((0.0, -3.0, 1.5), (6.0, 3.0, 1.5), (20.0, 1.0, 1.5), (31.0, -2.0, 1.5)),
    ),
    "munich": Place(
        "munich",
        (110.0, -9.5, 12.0),
        164.0,
        ((88.0, -2.0, 1.5), (96.0, -6.0, 1.5), (104.0, -6.0, 1.5), (76.0, -10.0, 1.5)),
    ),
    "quad": Place(
        "quad.geojson",
        (-43.0, -32.0, 9.0),
        0.0,
        ((20.0, -32.0, 1.5), (34.5, -34.5, 1.5), (44.5, -29.5, 1.5), (42.0, -12.0, 1.5)),
        folder=sites_folder() / "quad",
        origin=(-30.0, 40.0),
    ),
}
ARRAYS = {"line": (1, 8), "plane": (4, 3)}


def site_at(place: Place, rows: int, columns: int, carrier_hz: float, ris: Ris | None = None) -> Site:
    return Site(
        name="agreement",
        scene=place.scene,
        carrier_hz=carrier_hz,
        bs=BaseStation(position_m=place.bs_m, yaw_deg=place.yaw_deg, pitch_deg=6.0, rows=rows, columns=columns),
        ris=ris,
        users=UserArea(corner_m=place.users_m[0][:2], size_m=(1.0, 1.0)),
        geo=Geo(origin=place.origin),
        twin=TraceSettings(max_depth=3, samples=50_000, max_paths=1000, floor_db=-200.0),
    )


def traced(place: Place, site: Site, batch: int) -> tuple[SceneTracer, PathTable]:
    tracer = SceneTracer.load(site, site.twin, world=False, folder=place.folder, batch=batch)
    return tracer, tracer.trace(site.bs, site.bs.pattern, np.array(place.users_m))


def sionna(tracer: SceneTracer, site: Site, users_m: Real) -> tuple[Complex, Complex]:
    """Sionna's own `cfr()` [R, N, S], antennas in our order; and what its coefficients come to in double precision."""
    rt, scene, bs = tracer.rt, tracer.scene, site.bs
    array = rt.PlanarArray(
        num_rows=bs.rows,
        num_cols=bs.columns,
        vertical_spacing=bs.spacing_wavelengths,
        horizontal_spacing=bs.spacing_wavelengths,
        pattern=bs.pattern,
        polarization="V",
    )
    scene.tx_array, scene.rx_array = array, rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    orientation = [float(np.radians(angle)) for angle in (bs.yaw_deg, bs.pitch_deg, 0.0)]
    scene.add(rt.Transmitter("sender", list(bs.position_m), orientation=orientation))
    for index, place in enumerate(users_m):
        scene.add(rt.Receiver(f"user{index}", [float(x) for x in place]))
    settings = tracer.settings
    paths = tracer.solver(
        scene, max_depth=settings.max_depth, samples_per_src=settings.samples, refraction=False, seed=settings.seed
    )
    single = paths.cfr(frequencies=TONES_HZ, normalize_delays=False, out_type="numpy")[:, 0, 0, :, 0, :]
    real, imaginary = (np.array(part, np.float64)[:, 0, 0] for part in paths.a)
    gain = (real + 1j * imaginary) * np.array(paths.valid)[:, 0, None]
    turns = (site.carrier_hz + TONES_HZ) * np.array(paths.tau, np.float64)[:, 0, :, None]
    double = np.einsum("rel,rls->res", gain, np.exp(-2j * np.pi * (turns - np.floor(turns))))
    for name in ("sender", *(f"user{index}" for index in range(len(users_m)))):
        scene.remove(name)
    order = in_our_order(array, bs)
    return np.asarray(single[:, order], np.complex128), double[:, order]


def difference(ours: Complex, theirs: Complex) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize(
    ("place", "carrier_hz"), [("canyon", 1e9), ("canyon", 3.5e9), ("munich", 1e9), ("munich", 3.5e9), ("quad", 3.5e9)]
)
def test_arrays_are_sionnas(place: str, carrier_hz: float, array: str) -> None:
    site = site_at(PLACES[place], *ARRAYS[array], carrier_hz)
    users_m = np.array(PLACES[place].users_m)
    tracer, table = traced(PLACES[place], site, batch=len(users_m))
    single, double = sionna(tracer, site, users_m)
    arrays = SiteArrays(site, empty_table(1), plane_waves=True)
    ours = arrays.direct_cfr(table, np.arange(len(users_m)), np.zeros_like(users_m), TONES_HZ)
    for user in range(len(users_m)):
        rows = table.rows(user)
        assert rows.stop > rows.start
        assert difference(ours[user], double[user]) < 1e-4
        rounding = 2 * np.pi * float(table.length_m[rows].max()) / site.wavelength_m * SINGLE
        assert difference(ours[user], single[user]) < 1e-4 + ROUNDINGS * rounding


@pytest.mark.parametrize("place", PLACES)
def test_one_at_a_time_is_as_in_a_batch(place: str) -> None:
    site, users_m = site_at(PLACES[place], 1, 8, 3.5e9), np.array(PLACES[place].users_m)
    together = traced(PLACES[place], site, batch=len(users_m))[1]
    alone = traced(PLACES[place], site, batch=1)[1]
    arrays, steps_m = SiteArrays(site, empty_table(1)), np.zeros_like(users_m)
    links = np.arange(len(users_m))
    batched, single = (arrays.direct_cfr(table, links, steps_m, TONES_HZ) for table in (together, alone))
    for user in range(len(users_m)):
        assert difference(single[user], batched[user]) < 1e-4


@pytest.mark.parametrize(("carrier_hz", "limit"), [(20e9, 1e-3), (3.5e9, 4e-3)])
def test_the_way_over_the_ris_is_that_over_each_of_its_elements(carrier_hz: float, limit: float) -> None:
    """Every antenna to every element and on to every user, each traced by itself.

    What is left: walls reflect otherwise at another angle, which grows with the size of the panel, and single precision
    of what is traced, which grows with the carrier.
    """
    place = replace(PLACES["canyon"], bs_m=(-5.0, -2.0, 10.0))
    ris = Ris(position_m=(10.0, 8.0, 6.0), yaw_deg=-120.0, rows=4, columns=4, efficiency_db=-1.0)
    site = site_at(place, 1, 2, carrier_hz, ris)
    users_m, wavelength_m = np.array(place.users_m)[:2], site.wavelength_m
    tracer = SceneTracer.load(site, site.twin, world=False, folder=Path(), batch=16)
    hop = tracer.trace(site.bs, site.bs.pattern, np.array([ris.position_m]))
    over = tracer.trace(ris, "iso", users_m)
    arrays = SiteArrays(site, hop)
    found = arrays.cascades(empty_table(2), over, np.arange(2), np.zeros((2, 3)))[:, 1:]

    elements_m = ris.element_positions_m(wavelength_m) + np.array(ris.position_m)
    antennas_m = site.bs.element_positions_m(wavelength_m) + np.array(site.bs.position_m)
    first = np.zeros((16, 2), np.complex128)
    for antenna, antenna_m in enumerate(antennas_m):
        mount = site.bs.model_copy(update={"position_m": tuple(antenna_m), "rows": 1, "columns": 1})
        first[:, antenna] = at_carrier(
            tracer.trace(mount, site.bs.pattern, elements_m), ris, wavelength_m, arriving=True
        )
    for user in range(2):
        second = np.zeros(16, np.complex128)
        for element, element_m in enumerate(elements_m):
            mount = ris.model_copy(update={"position_m": tuple(element_m)})
            table = tracer.trace(mount, "iso", users_m[user : user + 1])
            second[element] = at_carrier(table, ris, wavelength_m, arriving=False)[0]
        assert difference(found[user], second[:, None] * first) < limit


def at_carrier(table: PathTable, ris: Ris, wavelength_m: float, *, arriving: bool) -> Complex:
    """Sum [links] of the paths at a RIS element, by the formula of its pattern: peak * cos^q in front."""
    cosine = (table.arrival if arriving else table.departure) @ ris.rotation()[:, 0]
    pattern = np.where(cosine > 0, ris.peak * np.abs(cosine) ** ris.half_exponent, 0.0)
    terms = table.gain * pattern * np.exp(-2j * np.pi * table.length_m / wavelength_m)
    return np.array([terms[table.rows(link)].sum() for link in range(table.links)])
