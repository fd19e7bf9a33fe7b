"""What is checked before anything is emitted: finite, within power, states that the RIS has."""

from __future__ import annotations

import numpy as np

from controller.covariance import Complex

POWER_TOLERANCE = 1e-6
MODULUS_TOLERANCE = 1e-5


def infeasibility(precoder: Complex, theta: Complex, power: float, states: Complex | None = None) -> str | None:
    """Why precoder [N, K] and theta [M] may not be emitted; None when they may.

    states [Q]: those that the RIS has; none, or of no length, where it has all of the unit circle.
    """
    if not (np.isfinite(precoder).all() and np.isfinite(theta).all()):
        return "not finite"
    used = float(np.sum(np.abs(precoder.astype(np.complex128)) ** 2))
    if used > power * (1 + POWER_TOLERANCE):
        return f"power {used:.3g} over {power:.3g}"
    if states is not None and len(states):
        away = np.min(np.abs(theta[:, None] - states), axis=1)
        return "RIS state that the panel does not have" if np.max(away, initial=0.0) > MODULUS_TOLERANCE else None
    if theta.size and float(np.max(np.abs(np.abs(theta) - 1.0))) > MODULUS_TOLERANCE:
        return "RIS state off the unit circle"
    return None
