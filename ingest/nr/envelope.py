"""Rician K factor: how much of a channel's power is steady and how much of it fades.

By the moments of the envelope (Greenstein, Michelson and Erceg, "Moment-method estimation of the Ricean K-factor",
IEEE Communications Letters 3(6), 1999): of steady power s and mean power m the fourth moment is 2 m^2 - s^2, on
whichever tone. Phases do not matter, so no oscillator does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel

Real = npt.NDArray[np.float64]
Complex64 = npt.NDArray[np.complex64]

LEAST_K_DB = -10.0
"""Less is told as this: no line of sight to speak of."""

_MOST_K = 1e4
_MEMORY = 4096
"""Slots that the moments reach back."""

_LOOKS = 25.0
"""Independent fadings before anything is told."""


class Envelope:
    """Follows the envelopes of G ports' channels on A antennas."""

    def __init__(self, ports: int) -> None:
        self._moments: Real = np.zeros((2, ports, 0))
        self._slots = 0

    def follow(self, powers: Real, fourths: Real, errors: Real) -> None:
        """Take in slots' means over the tones of |h|^2 and |h|^4, both [n, G, A], known with error power [n, G]."""
        if self._moments.shape[2] != powers.shape[2]:
            self._moments = np.zeros((2, *powers.shape[1:]))
            self._slots = 0
        self._slots = follow_moments(powers, fourths, errors, self._moments, self._slots)

    def k_factor_db(self, doppler_hz: float | None, lag_s: float) -> Real | None:
        """Of each port [G]; None until enough fadings were seen by slots lag_s apart under this Doppler shift."""
        if doppler_hz is None or self._slots * min(2.0 * doppler_hz * lag_s, 1.0) < _LOOKS:
            return None
        means, fourths = self._moments
        steady = np.sqrt(np.clip(2.0 - fourths.sum(axis=1) / np.sum(means**2, axis=1), 0.0, 1.0))
        found = 10.0 * np.log10(np.maximum(steady / np.maximum(1.0 - steady, 1.0 / _MOST_K), 1e-30))
        return np.asarray(np.maximum(found, LEAST_K_DB))


@kernel
def follow_moments(powers: Real, fourths: Real, errors: Real, moments: Real, slots: int) -> int:
    """Running means of the true channels' moments into moments [2, G, A]; slots that they are of.

    An LMMSE estimate h lacks the error, which is independent of it and normal: its power e adds 4 |h|^2 e + 2 e^2 to
    the fourth moment.
    """
    for slot in range(powers.shape[0]):
        slots = min(slots + 1, _MEMORY)
        for port in range(powers.shape[1]):
            error = errors[slot, port]
            for antenna in range(powers.shape[2]):
                power = powers[slot, port, antenna]
                fourth = fourths[slot, port, antenna] + 4.0 * power * error + 2.0 * error * error
                moments[0, port, antenna] += (power + error - moments[0, port, antenna]) / slots
                moments[1, port, antenna] += (fourth - moments[1, port, antenna]) / slots
    return slots
