"""Channels of several antennas that fade as paths move, and clocks that do not run together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Fading:
    """Paths to an array of half wavelengths. doppler_hz: the greatest; k_db: power of a path that stands still over all
    others, None for none; fading is alike on antennas (one angle) where spread is 0, independent where it is 1.
    lopsided: antennas weigh the paths differently. snr_db per tone."""

    antennas: int = 2
    tones: int = 24
    paths: int = 12
    doppler_hz: float = 10.0
    k_db: float | None = None
    spread: float = 1.0
    lopsided: float = 0.0
    snr_db: float = 15.0
    delay_tones: float = 0.05

    def channel(self, times_s: npt.NDArray[np.float64], rng: np.random.Generator) -> Complex:
        """Shape [len(times_s), A, S]."""
        paths = self.paths
        gains = (rng.normal(size=paths) + 1j * rng.normal(size=paths)) / np.sqrt(2 * paths)
        turns = self.doppler_hz * np.cos(rng.uniform(0, 2 * np.pi, paths))
        middle = rng.uniform(-1, 1)
        angles = np.clip(middle + self.spread * rng.uniform(-1, 1, paths), -1, 1)
        delays = rng.exponential(self.delay_tones, paths)
        if self.k_db is not None:
            k = 10 ** (self.k_db / 10)
            gains = np.concatenate([[np.exp(2j * np.pi * rng.uniform()) * np.sqrt(k)], gains]) / np.sqrt(1 + k)
            turns, angles = np.concatenate([[0.0], turns]), np.concatenate([[middle], angles])
            delays = np.concatenate([[0.0], delays])
        steering = np.exp(1j * np.pi * np.outer(np.arange(self.antennas), angles))
        weights = 1 + self.lopsided * (rng.uniform(-1, 1, steering.shape))
        over_tones = np.exp(-2j * np.pi * np.outer(delays, np.arange(self.tones)))
        over_time = np.exp(2j * np.pi * np.outer(times_s, turns)) * gains
        clean = np.einsum("tp,ap,ps->tas", over_time, steering * weights, over_tones, optimize=True)
        level = np.sqrt(np.mean(np.abs(clean) ** 2) * 10 ** (-self.snr_db / 10) / 2)
        return np.asarray(clean + level * (rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)))
