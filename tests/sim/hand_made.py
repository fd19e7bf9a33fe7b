"""Small sites and bundles made by hand, so that tests know every path in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.bundle import SiteBundle
from sim.fidelity.settings import FidelitySettings
from sim.paths import PathTable
from sim.site import BaseStation, Ris, Site, UserArea

Real = npt.NDArray[np.float64]

SPEED_OF_LIGHT_M_S = 299_792_458.0
BS = BaseStation(position_m=(0.0, 0.0, 10.0), yaw_deg=20.0, pitch_deg=5.0, rows=2, columns=3, spacing_wavelengths=0.5)
RIS = Ris(position_m=(30.0, 12.0, 8.0), yaw_deg=-130.0, pitch_deg=-3.0, rows=2, columns=2, efficiency_db=-2.0)


def small_site(*, ris: bool = True, carrier_hz: float = 3.5e9) -> Site:
    """A site of 6 antennas and 4 RIS elements, or none."""
    return Site(
        name="small",
        scene="nowhere",
        carrier_hz=carrier_hz,
        bs=BS,
        ris=RIS if ris else None,
        users=UserArea(corner_m=(10.0, -8.0), size_m=(8.0, 6.0), spacing_m=2.0),
    )


def random_directions(rng: np.random.Generator, count: int) -> Real:
    """Unit vectors [count, 3], exact in single precision's sense: each is what its stored form reads back as."""
    vectors = rng.normal(size=(count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32).astype(np.float64)


def random_mirrors(rng: np.random.Generator, count: int) -> Real:
    """Products of one to three reflections [count, 3, 3]; some are zero, as of walls that scatter."""
    mirrors = np.tile(np.eye(3), (count, 1, 1))
    for index in range(count):
        for normal in random_directions(rng, int(rng.integers(1, 4))):
            mirrors[index] -= 2 * np.outer(mirrors[index] @ normal, normal)
    mirrors[rng.random(count) < 0.3] = 0.0
    return mirrors.astype(np.float32).astype(np.float64)


def random_table(rng: np.random.Generator, counts: list[int]) -> PathTable:
    """Paths of every kind, counts[i] of link i."""
    total = sum(counts)
    gain = 1e-4 * (rng.normal(size=total) + 1j * rng.normal(size=total))
    length_m = rng.uniform(5.0, 90.0, total)
    return PathTable(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        gain=gain.astype(np.complex64).astype(np.complex128),
        length_m=length_m,
        departure=random_directions(rng, total),
        arrival=random_directions(rng, total),
        kind=rng.choice(np.array([0, 1, 2, 3, 8], np.uint8), total),
        reach_m=length_m * rng.choice([1.0, 0.4], total),
        mirror=random_mirrors(rng, total),
    )


def random_bundle(rng: np.random.Generator, *, ris: bool = True) -> SiteBundle:
    """A bundle of random paths on the small site's grid; some links have none."""
    site = small_site(ris=ris)
    positions_m = site.users.grid_m()
    counts = [int(count) for count in rng.integers(0, 5, len(positions_m))]
    none = [0] * len(positions_m)
    return SiteBundle(
        site=site,
        settings=FidelitySettings(),
        positions_m=positions_m,
        bs_user=random_table(rng, counts),
        bs_ris=random_table(rng, [3] if ris else [0]),
        ris_user=random_table(rng, [int(count) for count in rng.integers(1, 4, len(counts))] if ris else none),
        made_with={"tests": "1"},
    )


def line_of_sight(transmitter_m: Real, receivers_m: Real, wavelength_m: float) -> PathTable:
    """One free-space path per receiver [R, 3]: gain lambda / (4 pi d), isotropic antennas."""
    way = receivers_m - transmitter_m
    length_m = np.linalg.norm(way, axis=1)
    return PathTable(
        offsets=np.arange(len(receivers_m) + 1, dtype=np.int64),
        gain=(wavelength_m / (4 * np.pi * length_m)).astype(np.complex128),
        length_m=length_m,
        departure=way / length_m[:, None],
        arrival=-way / length_m[:, None],
        kind=np.zeros(len(receivers_m), np.uint8),
        reach_m=length_m,
        mirror=np.tile(np.eye(3), (len(receivers_m), 1, 1)),
    )


def free_space_bundle(*, ris: bool = True, facing: bool = True) -> SiteBundle:
    """The small site in free space. facing: the RIS looks half-way between base station and users, else away."""
    site = small_site(ris=ris)
    if site.ris is not None:
        site = site.model_copy(update={"ris": site.ris.model_copy(update={"yaw_deg": -140.0 if facing else 40.0})})
    positions_m = site.users.grid_m()
    wavelength_m = SPEED_OF_LIGHT_M_S / site.carrier_hz
    bs_m, ris_m = np.array(BS.position_m), np.array(RIS.position_m)
    empty = random_table(np.random.default_rng(0), [0] * len(positions_m))
    return SiteBundle(
        site=site,
        settings=FidelitySettings(),
        positions_m=positions_m,
        bs_user=line_of_sight(bs_m, positions_m, wavelength_m),
        bs_ris=line_of_sight(bs_m, ris_m[None], wavelength_m) if ris else replace(empty, offsets=np.zeros(2, np.int64)),
        ris_user=line_of_sight(ris_m, positions_m, wavelength_m) if ris else empty,
        made_with={},
    )
