"""How fast a channel changes: its correlation over time, and the Doppler shift that explains it."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt
from scipy.special import j0

from ingest.nr.lmmse import correlate

Complex64 = npt.NDArray[np.complex64]

_GAIN = 0.05

_STEP = 1e-3
_FALLING: list[float] = (-j0(np.arange(0.0, 2.4, _STEP))).tolist()
"""-J0 at multiples of _STEP up to its first zero, where it falls all the way."""


class _Correlation:
    """Running correlation of a channel over one lag."""

    def __init__(self, lag_s: float) -> None:
        self.lag_s = lag_s
        self.power = 0.0
        self._product = 0.0

    def add(self, product: float, power: float) -> None:
        gain = _GAIN if self.power else 1.0
        self._product += gain * (product - self._product)
        self.power += gain * (power - self.power)

    def over(self, lag_s: float) -> None:
        """The next product is over this lag; lags are averaged as well."""
        self.lag_s += (_GAIN if self.power else 1.0) * (lag_s - self.lag_s)

    @property
    def is_low(self) -> bool:
        """Whether the channel changes over this lag by more than noise could tell."""
        return self.power > 0.0 and self._product < 0.9 * self.power

    @property
    def doppler_hz(self) -> float | None:
        """Frequency of the Clarke spectrum whose J0(2 pi f lag) is this correlation; None where nothing is known."""
        if self.power <= 0.0 or self.lag_s <= 0.0:
            return None
        entry = min(bisect_left(_FALLING, -self._product / self.power), len(_FALLING) - 1)
        return _STEP * entry / (2 * np.pi * self.lag_s)


class Motion:
    """Learns how fast a channel changes: its correlation over a slot's pilots, and from one slot to the next."""

    def __init__(self, span_s: float) -> None:
        self._within = _Correlation(span_s)
        self._between = _Correlation(0.0)
        self._before: Complex64 = np.zeros((0, 0), np.complex64)
        self._before_s = 0.0
        self._before_power = 0.0
        self._basis: object = None

    def observe(self, modes: Complex64, noise_power: float, time_s: float, basis: object) -> float:
        """Take in modes [q, A, L] of a slot, its carrier offset taken out; their energy.

        `basis` is another object where the modes no longer mean the same.
        """
        count, antennas, symbols = modes.shape
        comparable = basis is self._basis and self._before.shape == (count, antennas)
        if not comparable:
            self._before = np.zeros((count, antennas), np.complex64)
        energy, within, mean_energy, between = correlate(modes, self._before)
        noise_energy = noise_power * count * antennas
        if symbols > 1:
            self._within.add(within, energy / symbols - noise_energy)
        power = mean_energy - noise_energy / symbols
        if comparable:
            self._between.over(time_s - self._before_s)
            self._between.add(abs(between), max(self._before_power * power, 0.0) ** 0.5)
        self._before_s, self._before_power, self._basis = time_s, power, basis
        return energy

    @property
    def doppler_within_slot_hz(self) -> float:
        """Maximum Doppler shift by the correlation over a slot's pilots alone; 0 where they do not tell."""
        return self._within.doppler_hz or 0.0

    @property
    def doppler_hz(self) -> float | None:
        """Maximum Doppler shift, from the longer lag over which the channel still resembles itself."""
        return self._within.doppler_hz if self._within.is_low else self._between.doppler_hz
