"""A street without a tracer: line of sight, the ground and one wall, as mirror images of the array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.calibration.deepmimo_twin import FixedPaths
from sim.calibration.site_model import SiteModel
from sim.paths import SPECULAR, PathTable
from sim.site import BaseStation, Site, UserArea

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

BS = BaseStation(position_m=(0.0, 0.0, 8.0), rows=1, columns=8, pattern="iso")
SITE = Site(
    name="mirrors",
    scene="nowhere",
    carrier_hz=3.5e9,
    bs=BS,
    users=UserArea(corner_m=(20.0, -8.0), size_m=(40.0, 16.0), spacing_m=4.0),
)
TONES_HZ = np.linspace(-50e6, 50e6, 24)
PLACES_M = SITE.users.grid_m()
SOURCES_M = np.array([BS.position_m, (0.0, 0.0, -8.0), (0.0, 24.0, 8.0)])
"""The array, its image under the ground, and that behind a wall at y = 12 m."""

MIRRORS = np.array([np.eye(3), np.diag([1.0, 1.0, -1.0]), np.diag([1.0, -1.0, 1.0])])


def street(factors: tuple[complex, complex, complex] = (1.0, -0.4, 0.6), places_m: Real = PLACES_M) -> PathTable:
    """Three paths to each place; factors: what each amplitude is of free space's."""
    count = len(places_m)
    ways_m = SOURCES_M[None] - places_m[:, None]
    length_m = np.linalg.norm(ways_m, axis=2)
    arrival = ways_m / length_m[:, :, None]
    return PathTable(
        offsets=np.arange(count + 1) * 3,
        gain=(np.array(factors) * SITE.wavelength_m / (4 * np.pi * length_m)).reshape(-1),
        length_m=length_m.reshape(-1),
        departure=-np.einsum("lij,klj->kli", MIRRORS, arrival).reshape(-1, 3),
        arrival=arrival.reshape(-1, 3),
        kind=np.tile(np.array([0, SPECULAR, SPECULAR], np.uint8), count),
        reach_m=length_m.reshape(-1),
        mirror=np.tile(MIRRORS, (count, 1, 1)),
    )


def street_model(site: Site, table: PathTable) -> SiteModel:
    """Channels over a table's paths from the array of `site`."""
    return SiteModel(site, FixedPaths(table, site.bs.yaw_deg, site.bs.pitch_deg), TONES_HZ)


def channels(site: Site, table: PathTable) -> Complex:
    """[K, N, S], all of it."""
    model = street_model(site, table)
    return model.channels(model.start)


def noisy(rng: np.random.Generator, true: Complex, snr_db: float = 40.0) -> tuple[Complex, Real]:
    """Measurements, and their noise's power per entry [K]."""
    noise = 10 ** (-snr_db / 10) * np.mean(np.abs(true) ** 2, axis=(1, 2))
    white = rng.normal(size=true.shape) + 1j * rng.normal(size=true.shape)
    return true + np.sqrt(noise / 2)[:, None, None] * white, noise
