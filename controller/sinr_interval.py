"""Between which SINRs a user will be: quantiles of the distribution that outages are read from, and what outcomes
teach of them.

P(SINR < x) is the outage probability at the target x, exact for a Gaussian belief (`controller.outage`); a quantile is
where it has the wanted value, found along log(x) between brackets. A belief's covariance is never quite that of its
errors: so each end is moved by a margin that a user's outcomes settle, until as many lie beyond it as should. That is
quantile tracking (A. Angelopoulos, E. Candes, R. Tibshirani, "Conformal PID control for time series prediction",
NeurIPS 2023, eq. 4): whatever the errors are like, the share beyond an end is right in the long run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.beamforming.linear import DesignProblem
from controller.covariance import Complex, Real
from controller.outage import probability_below_zero
from ingest.kernel import kernel

SHARE = 0.9
"""Of outcomes that are to lie in the interval; as many are to lie below it as above."""

_TAIL = (1 - SHARE) / 2

_LEARNING_DB = 1.0
"""What a margin gains by an outcome beyond it that should not be; a tail's share of that is lost by any other."""

_MOST_MARGIN_DB = 60.0

_TOLERANCE = 2e-3
"""Of the probability: a hundredth of what lies outside, to either side, would be less than anybody can see."""

_STEPS = 40
_LONGEST_STEP = 3.0
_EDGE = 0.1
_NO_SINR = 1e-30


@dataclass(frozen=True)
class Margins:
    """How far a user's interval reaches beyond what its belief says, at either end."""

    low_db: float = 0.0
    high_db: float = 0.0

    def around(self, low_db: float, high_db: float) -> tuple[float, float]:
        """The interval with its margins; where they are so negative that it would turn over, its middle."""
        low_db, high_db = low_db - self.low_db, high_db + self.high_db
        middle_db = (low_db + high_db) / 2
        return min(low_db, middle_db), max(high_db, middle_db)

    def after(self, is_below: bool, is_above: bool) -> Margins:
        """The margins after an outcome below or above the interval, or inside."""
        return Margins(_moved(self.low_db, is_below), _moved(self.high_db, is_above))


def _moved(margin_db: float, is_beyond: bool) -> float:
    moved_db = margin_db + _LEARNING_DB * (is_beyond - _TAIL)
    return min(max(moved_db, -_MOST_MARGIN_DB), _MOST_MARGIN_DB)


def sinr_intervals(problem: DesignProblem, precoder: Complex) -> tuple[Real, Real]:
    """Ends of the interval in which `SHARE` of every user's SINRs lie under precoder [N, K], linear. Shape [K] each."""
    ends = np.empty((2, len(problem.means)))
    parts = zip(problem.means, problem.covariances, problem.noise_power, strict=True)
    for user, (mean, covariance, noise_power) in enumerate(parts):
        z_mean = precoder.T @ mean
        z_covariance = precoder.T @ covariance @ precoder.conj()
        for end, probability in enumerate((_TAIL, 1 - _TAIL)):
            ends[end, user] = sinr_quantile(z_mean, z_covariance, user, float(noise_power), probability)
    return ends[0], ends[1]


@kernel
def sinr_quantile(mean: Complex, covariance: Complex, user: int, noise_power: float, probability: float) -> float:
    """x with P(|z_user|^2 / (sum of the other |z|^2 + noise) < x) = probability, z ~ CN(mean [K], covariance [K, K]).

    0 for a user that is sent nothing; NaN where anything given is not finite.
    """
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.conj().T))
    root = vectors * np.sqrt(np.maximum(values, 0.0)).astype(np.complex128)
    powers = mean.real**2 + mean.imag**2
    typical = powers + np.diag(covariance).real
    others = np.sum(typical) - typical[user] + noise_power
    if not np.isfinite(others + typical[user]):
        return float(np.nan)
    if typical[user] <= _NO_SINR * others:
        return 0.0
    wanted = np.log(probability / (1.0 - probability))
    x, low, high = np.log(typical[user] / others), -np.inf, np.inf
    x_before, y_before, slope = x, np.nan, 1.0
    for _ in range(_STEPS):
        weights = np.full(mean.shape[0], -1.0 / noise_power)
        weights[user] = np.exp(-x) / noise_power
        weighted = root.conj().T * weights.astype(np.complex128)
        strengths, rotation = np.linalg.eigh(np.dot(weighted, root))
        slopes = np.abs(np.dot(rotation.conj().T, np.dot(weighted, mean))) ** 2
        below = probability_below_zero(strengths, slopes, np.sum(weights * powers) - 1.0)
        if abs(below - probability) < _TOLERANCE:
            break
        if below < probability:
            low = x
        else:
            high = x
        y = np.log(min(max(below, 1e-12), 1.0 - 1e-12) / min(max(1.0 - below, 1e-12), 1.0))
        if np.isfinite(y_before) and (y - y_before) * (x - x_before) > 0:
            slope = (y - y_before) / (x - x_before)
        x_before, y_before = x, y
        x += min(max((wanted - y) / slope, -_LONGEST_STEP), _LONGEST_STEP)
        if np.isfinite(low) and np.isfinite(high):  # a step that all but leaves the brackets halves them instead
            margin = _EDGE * (high - low)
            if not low + margin < x < high - margin:
                x = 0.5 * (low + high)
    return float(np.exp(x))
