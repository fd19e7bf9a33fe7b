"""How fast a channel changes: its correlation over time, and the Doppler shift that explains it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import j0

Complex64 = npt.NDArray[np.complex64]

_GAIN = 0.05

_CLARKE_ARGUMENTS = np.linspace(0.0, 2.4, 241)
_CLARKE_CORRELATIONS = j0(_CLARKE_ARGUMENTS)
"""J0 up to its first zero, where it falls all the way."""


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

    @property
    def is_low(self) -> bool:
        """Whether the channel changes over this lag by more than noise could tell."""
        return self.power > 0.0 and self._product < 0.9 * self.power

    @property
    def doppler_hz(self) -> float | None:
        """Frequency of the Clarke spectrum whose J0(2 pi f lag) is this correlation; None where nothing is known."""
        if self.power <= 0.0 or self.lag_s <= 0.0:
            return None
        argument = float(np.interp(-self._product / self.power, -_CLARKE_CORRELATIONS, _CLARKE_ARGUMENTS))
        return argument / (2 * np.pi * self.lag_s)


class Motion:
    """Learns how fast a channel changes: its correlation over a slot's pilots, and from one slot to the next."""

    def __init__(self, span_s: float) -> None:
        self._within = _Correlation(span_s)
        self._between = _Correlation(0.0)
        self._last: tuple[float, Complex64, float, object] | None = None

    def observe(self, modes: Complex64, noise_power: float, time_s: float, basis: object) -> None:
        """Take in modes [q, A, L] of a slot, its carrier offset taken out; `basis` changes when their meaning does."""
        power = float(np.vdot(modes, modes).real) / modes.shape[2] - noise_power * modes.shape[0] * modes.shape[1]
        if modes.shape[2] > 1:
            self._within.add(float(np.vdot(modes[..., 0], modes[..., -1]).real), power)
        middle = modes.mean(axis=2)
        if self._last is not None and self._last[3] is basis:
            before_s, before, before_power, _ = self._last
            self._between.lag_s += _GAIN * (time_s - before_s - self._between.lag_s)
            if self._between.power == 0.0:
                self._between.lag_s = time_s - before_s
            self._between.add(abs(complex(np.vdot(before, middle))), np.sqrt(max(before_power * power, 0.0)))
        self._last = (time_s, middle, power, basis)

    @property
    def doppler_within_slot_hz(self) -> float:
        """Maximum Doppler shift by the correlation over a slot's pilots alone; 0 where they do not tell."""
        return self._within.doppler_hz or 0.0

    @property
    def doppler_hz(self) -> float | None:
        """Maximum Doppler shift, from the longer lag over which the channel still resembles itself."""
        return self._within.doppler_hz if self._within.is_low else self._between.doppler_hz
