"""What an array does beside its pattern: its elements are not alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.fidelity.knobs import HardwareSettings

Complex = npt.NDArray[np.complex128]


def element_errors(settings: HardwareSettings, elements: int, rng: np.random.Generator | None = None) -> Complex:
    """Fixed factor of each element, Gaussian in decibels and in phase, independently. Shape [elements].

    rng: by default one seeded with `settings.seed`. Such phases leave a beam of N elements, in the mean over arrays,
    exp(-s^2) + (1 - exp(-s^2)) / N of its power, s their spread in radians (J. Ruze, Proc. IEEE 54, 1966).
    """
    generator = rng or np.random.default_rng(settings.seed)
    gain_db = settings.mismatch_gain_db * generator.normal(size=elements)
    phase_rad = np.radians(settings.mismatch_phase_deg) * generator.normal(size=elements)
    return np.asarray(10 ** (gain_db / 20) * np.exp(1j * phase_rad))
