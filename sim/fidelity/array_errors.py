"""What an array does beside its pattern: it does not see all around, and its elements are not alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.fidelity.knobs import HardwareSettings
from sim.paths import PathTable
from sim.site import Mount

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]


def in_view(directions: Real, mount: Mount, opening_deg: float) -> npt.NDArray[np.bool_]:
    """Which unit vectors [L, 3] lie in the cone of `opening_deg` about where `mount` looks; 360 is all. Shape [L]."""
    if opening_deg >= 360:
        return np.ones(len(directions), np.bool_)
    cosine = np.clip(directions @ mount.rotation()[:, 0], -1.0, 1.0)
    return np.asarray(np.degrees(np.arccos(cosine)) <= opening_deg / 2)


def cut_to_view(table: PathTable, mount: Mount, settings: HardwareSettings) -> PathTable:
    """The paths that leave the array at `mount` within its field of view (paper P5, section VII-D)."""
    if settings.field_of_view_deg is None:
        return table
    rows = np.nonzero(in_view(table.departure, mount, settings.field_of_view_deg))[0]
    return table.chosen(rows, np.searchsorted(rows, table.offsets).astype(np.int64))


def element_errors(settings: HardwareSettings, elements: int, rng: np.random.Generator | None = None) -> Complex:
    """Fixed factor of each element, Gaussian in decibels and in phase, independently. Shape [elements].

    rng: by default one seeded with `settings.seed`. Such phases leave a beam of N elements, in the mean over arrays,
    exp(-s^2) + (1 - exp(-s^2)) / N of its power, s their spread in radians (J. Ruze, Proc. IEEE 54, 1966).
    """
    generator = rng or np.random.default_rng(settings.seed)
    gain_db = settings.mismatch_gain_db * generator.normal(size=elements)
    phase_rad = np.radians(settings.mismatch_phase_deg) * generator.normal(size=elements)
    return np.asarray(10 ** (gain_db / 20) * np.exp(1j * phase_rad))
