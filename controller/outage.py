"""Exact outage: the probability that a Gaussian belief misses its rate under a given precoder.

With h = mean + e, e ~ CN(0, C), the SINR constraint of user k is a quadratic form in z = F^T h^T ~ CN(mu, V):
q = |z_k|^2 / gamma - sum_{u != k} |z_u|^2 - noise >= 0. Its distribution function is the inverse Laplace transform of
the moment generating function, integrated along a contour through the saddle point. No sampling.
"""

from __future__ import annotations

import numpy as np

from controller.beamforming.linear import DesignProblem
from controller.covariance import Complex, Real
from ingest.kernel import kernel

_STEP = 0.12
"""Step of the trapezoidal rule along the contour; its error falls as exp(-2 pi (pi / 8) / step), about 1e-9."""

_BEND = float(np.tan(np.pi / 8))
"""tan of the angle by which the contour leans over: half-way between where exp(s^2) and exp(-s) cease to decay."""

_NOTHING = -700.0
"""exp of this is as good as 0."""

_REACH = 36.0
"""How far along x the contour is followed; a single interferer's term falls no faster than exp(-x)."""

_DOUBT = 1e-3
"""The rule is believed where every other point gives the same but for this: its own error is then about the square."""

_REFINEMENTS = 4


def outage_probability(
    mean: Complex, covariance: Complex, precoder: Complex, user: int, sinr_target: float, noise_power: float
) -> float:
    """P(SINR of `user` < sinr_target) for an effective channel CN(mean [N], covariance [N, N]) and precoder [N, K].

    covariance is E[e e^H]. Exact to about 1e-6. A user that is sent nothing is in outage; a target of 0 is always met;
    NaN where anything given is not finite.
    """
    given = np.isfinite(mean).all() and np.isfinite(covariance).all() and np.isfinite(precoder).all()
    if not (given and np.isfinite(sinr_target) and np.isfinite(noise_power)):
        return float(np.nan)
    if sinr_target <= 0:
        return 0.0
    z_mean = precoder.T @ mean
    z_covariance = precoder.T @ covariance @ precoder.conj()
    weights = np.full(precoder.shape[1], -1.0 / noise_power)
    weights[user] = 1.0 / (sinr_target * noise_power)
    return float(probability_of_negative_form(z_mean, z_covariance, weights))


def outages(problem: DesignProblem, precoder: Complex) -> Real:
    """Outage probability of every user of `problem` under precoder [N, K]. Shape [K]."""
    parts = zip(problem.means, problem.covariances, problem.sinr_target, problem.noise_power, strict=True)
    return np.array(
        [
            outage_probability(mean, covariance, precoder, user, float(target), float(noise_power))
            for user, (mean, covariance, target, noise_power) in enumerate(parts)
        ]
    )


@kernel
def _cumulants(s: float, strengths: Real, slopes: Real, offset: float) -> tuple[float, float, float]:
    """K(s), K'(s), K''(s) of q = offset + sum_i (lambda_i |w_i|^2 + 2 Re(b_i* w_i)), w_i ~ CN(0, 1), |b_i|^2 = slopes.

    K(s) = s offset + sum_i (s^2 |b_i|^2 / (1 - s lambda_i) - log(1 - s lambda_i)).
    """
    value, first, second = s * offset, offset, 0.0
    for i in range(strengths.shape[0]):
        rest = 1.0 - s * strengths[i]
        value += s * s * slopes[i] / rest - np.log(rest)
        first += s * slopes[i] * (2.0 - s * strengths[i]) / (rest * rest) + strengths[i] / rest
        second += 2.0 * slopes[i] / rest**3 + (strengths[i] / rest) ** 2
    return value, first, second


@kernel
def _saddle(strengths: Real, slopes: Real, offset: float, side: float) -> float:
    """The minimum of K(s) - log|s| on the negative (side = -1) or positive half of K's domain; it is convex there.

    Where q cannot reach 0 there is none: then a place where exp(K), which bounds the probability, is nothing.
    """
    limit = np.inf
    for i in range(strengths.shape[0]):
        if side * strengths[i] > 0:
            limit = min(limit, 1.0 / (side * strengths[i]))
    _, _, spread = _cumulants(0.0, strengths, slopes, offset)
    low, high = 0.0, limit
    r = 1.0 / np.sqrt(spread)
    if r >= limit:
        r = 0.5 * limit
    for _ in range(200):
        value, first, second = _cumulants(side * r, strengths, slopes, offset)
        if value < _NOTHING:
            break
        slope = side * first - 1.0 / r
        if slope > 0:
            high = r
        else:
            low = r
        step = slope / (second + 1.0 / (r * r))
        following = r - step
        if not low < following < high:
            following = 0.5 * (low + high) if np.isfinite(high) else 2.0 * r
        if abs(following - r) <= 1e-10 * r:
            return float(side * following)
        r = following
    return float(side * r)


@kernel
def _bounds(strengths: Real, slopes: Real, offset: float) -> tuple[float, float]:
    """The least and the greatest value of q; a term with lambda < 0 is at most |b|^2 / |lambda|, likewise below."""
    low, high = offset, offset
    for i in range(strengths.shape[0]):
        strength, slope = strengths[i], slopes[i]
        if strength > 0.0:
            low, high = low - slope / strength, np.inf
        elif strength < 0.0:
            low, high = -np.inf, high - slope / strength
        elif slope > 0.0:
            return -np.inf, np.inf
    return low, high


@kernel
def _integral(strengths: Real, slopes: Real, offset: float, s0: float, lean: float, step: float) -> tuple[float, float]:
    """(1 / pi) Im int exp(K(s) - K(s0)) / s ds over s0 + j w sinh x + lean w (cosh x - 1), x > 0, and its doubt.

    Twice the imaginary part over 2 pi j, since the lower half of the contour mirrors the upper one. The doubt is the
    relative change from twice the step, infinite where the integrand grows.
    """
    peak, _, second = _cumulants(s0, strengths, slopes, offset)
    width = 1.0 / np.sqrt(second + 1.0 / (s0 * s0))
    even, odd = 0.0, 0.0
    for k in range(int(_REACH / step)):
        x = k * step
        s = complex(s0 + lean * width * (np.cosh(x) - 1.0), width * np.sinh(x))
        exponent = s * offset - peak
        for i in range(strengths.shape[0]):
            rest = 1.0 - s * strengths[i]
            exponent += s * s * slopes[i] / rest - np.log(rest)
        if not exponent.real < 1.0:
            return 0.0, np.inf
        along = complex(lean * width * np.sinh(x), width * np.cosh(x))
        term = np.exp(exponent) / s * along
        if k % 2:
            odd += term.imag
        else:
            even += (0.5 if k == 0 else 1.0) * term.imag
        if x > 1.5 and abs(term) < 1e-14 * abs(even + odd):
            break
    total = even + odd
    return total * step / np.pi, abs(even - odd) / abs(total) if total != 0.0 else np.inf


@kernel
def _steepest(strengths: Real, slopes: Real, offset: float, s0: float) -> float:
    """`_integral` over the contour that can be trusted most: leaning right, left or not at all, refined if need be."""
    best, least = 0.0, np.inf
    for refinement in range(_REFINEMENTS):
        for lean in (_BEND, -_BEND, 0.0):
            total, doubt = _integral(strengths, slopes, offset, s0, lean, _STEP / 2**refinement)
            if doubt < least:
                best, least = total, doubt
            if least < _DOUBT:
                return best
    return best


@kernel
def probability_below_zero(strengths: Real, slopes: Real, offset: float) -> float:
    """P(q < 0) for q = offset + sum_i (lambda_i |w_i|^2 + 2 Re(b_i* w_i)), w_i ~ CN(0, 1), |b_i|^2 = slopes.

    P = -(1 / 2 pi j) int exp(K(s)) / s ds upwards along a line left of 0, or 1 minus that right of 0. The line goes
    through the saddle point, where the integrand is largest, and leans over to the side on which exp(K) decays: mostly
    to the right, where noise is what lasts; to the left where a part of the signal is (nearly) certain.
    """
    mean, spread = offset, 0.0
    for i in range(strengths.shape[0]):
        mean += strengths[i]
        spread += 2.0 * slopes[i] + strengths[i] ** 2
    if not np.isfinite(mean + spread):
        return float(np.nan)
    if spread <= 1e-24 * max(mean * mean, 1e-300):
        return 1.0 if mean < 0 else 0.0
    side = -1.0 if mean > 0 else 1.0
    s0 = _saddle(strengths, slopes, offset, side)
    peak, _, _ = _cumulants(s0, strengths, slopes, offset)
    if peak < _NOTHING:
        return 0.0 if side < 0 else 1.0
    tail = np.exp(peak) * _steepest(strengths, slopes, offset, s0)
    probability = -tail if side < 0 else 1.0 - tail
    return float(min(max(probability, 0.0), 1.0))


@kernel
def probability_of_negative_form(mean: Complex, covariance: Complex, weights: Real) -> float:
    """P(sum_u weights_u |z_u|^2 < 1) for z ~ CN(mean [K], covariance [K, K]).

    With z = mean + root w, w white, the form has the matrix root^H diag(weights) root; its eigenvectors make it a sum
    of independent terms.
    """
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.conj().T))
    root = vectors * np.sqrt(np.maximum(values, 0.0)).astype(np.complex128)
    weighted = root.conj().T * weights.astype(np.complex128)
    strengths, rotation = np.linalg.eigh(np.dot(weighted, root))
    slopes = np.abs(np.dot(rotation.conj().T, np.dot(weighted, mean))) ** 2
    offset = np.sum(weights * (mean.real**2 + mean.imag**2)) - 1.0
    return probability_below_zero(strengths, slopes, offset)
