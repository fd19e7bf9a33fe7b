"""The twin's error in one zone, learnt on line: mean, covariance, how fast it changes, and whether to believe it.

The covariance recursion is paper P1's eq. 9, kept as low rank + diagonal and about a mean that is learnt as well.
Where only a part of a channel was seen, expectation-maximisation fills in the rest; where that part is too small to
teach more, the covariance is only scaled to fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from controller.belief import Conditioning
from controller.covariance import Complex, LowRankDiagonal, compressed

Validity = Literal["learning", "converged", "drifted"]

_ENOUGH_SEEN = 1 / 8
"""A look at less than this share of a channel's entries teaches nothing but the scale: EM would need as many steps
as there are unseen entries per seen one."""

_EM_DECAY = 0.7
"""Exponent of on-line EM's step n^-decay; between 1/2 and 1 it converges (O. Cappe, E. Moulines, "On-line
expectation-maximization algorithm for latent data models", J. R. Stat. Soc. B 71, 2009, assumption 1)."""

_MAX_SCALE_STEP = 0.5
_FLOOR = 1e-4
_COHERENCE_STEP = 0.2
_MAX_FORECAST_NIS = 3.0
_MAX_HORIZON = 7.0
"""Errors keep at most 0.9995 of themselves: nothing lasts for ever."""


@dataclass(frozen=True)
class LearningRule:
    """How error statistics are learnt.

    prior_weight: how many observations the prior covariance counts for; 0 is eq. 9 to the letter. memory: the most
    observations remembered; older ones fade. rank: of the factor. enough: independent observations for "converged".
    coverage: the normalised innovation squared must stay between 1 / coverage and coverage. window: independent
    observations that it is averaged over.
    """

    prior_weight: float = 4.0
    memory: float = 2000.0
    rank: int = 8
    enough: float = 30.0
    coverage: float = 3.0
    window: float = 30.0


@dataclass(frozen=True)
class ErrorStatistics:
    """What is known of the error of a zone's channels [R, N].

    covariance = scale (moments - noise): moments as they were measured, noise and all, in units of `scale`;
    noise_power is the noise in each. taught: independent observations that shaped the moments. judged: independent
    observations that the covariance was tested on. nis: running normalised innovation squared. horizon: -log of the
    share of its power that an error loses per observation.
    """

    mean: Complex
    moments: LowRankDiagonal
    covariance: LowRankDiagonal
    noise_power: float = 0.0
    taught: float = 0.0
    judged: float = 0.0
    nis: float = 1.0
    horizon: float = 2.0
    validity: Validity = "learning"

    @classmethod
    def begin(cls, mean: Complex, covariance: LowRankDiagonal) -> ErrorStatistics:
        """A zone of which nothing was learnt yet but this."""
        return cls(mean, covariance, covariance)

    @property
    def coherence(self) -> float:
        """Correlation of an error with itself one observation later, 0 to 1."""
        return float(np.sqrt(-np.expm1(-self.horizon)))


def freshness(coherence: float) -> float:
    """How many independent squares one more value of an AR(1) sequence of this coherence is worth, 0 to 1."""
    return (1.0 - coherence**2) / (1.0 + coherence**2)


def learn_from_full(
    statistics: ErrorStatistics,
    rule: LearningRule,
    innovation: Complex,
    noise_power: float,
    fresh: float = 1.0,
) -> ErrorStatistics:
    """One whole channel was measured: innovation [R, N] = measured - twin - mean, error variance noise_power.

    With w = 1/n: mean += w e, Sigma = (1 - w) Sigma + w (1 - w) e e^H, the running form of eq. 9. fresh: independent
    observations that this one is worth.
    """
    w = fresh / (rule.prior_weight + statistics.taught + fresh)
    moments, scale = statistics.moments, statistics.covariance.scale
    sample = innovation / np.sqrt(scale)
    variances = (1.0 - w) * moments.variances + w * (1.0 - w) * np.abs(sample) ** 2
    core = np.diag(np.append(np.full(moments.rank, 1.0 - w), w * (1.0 - w))).astype(np.complex128)
    basis = np.concatenate([moments.factor, sample[None]])
    learnt = compressed(variances, basis, core, rule.rank)
    noise = (1.0 - w) * statistics.noise_power + w * (1.0 - w) * noise_power / scale
    # What measuring added is taken off again, but never all of a variance.
    diagonal = np.maximum(learnt.diagonal - noise, _FLOOR * variances)
    return replace(
        statistics,
        mean=statistics.mean + w * innovation,
        moments=learnt,
        covariance=LowRankDiagonal(diagonal, learnt.factor, scale),
        noise_power=noise,
        taught=min(statistics.taught + fresh, rule.memory),
    )


def learn_from_partial(
    statistics: ErrorStatistics,
    rule: LearningRule,
    conditioning: Conditioning,
    innovation: Complex,
    fresh: float = 1.0,
) -> ErrorStatistics:
    """Part of a channel was measured; `conditioning` is what `innovation` [P, B] said about the error.

    One step of on-line EM where the look is wide enough, else of Fisher scoring for the covariance's scale.
    """
    if innovation.size < _ENOUGH_SEEN * statistics.mean.size:
        w = fresh * (rule.prior_weight + statistics.judged + 1.0) ** -_EM_DECAY
        scale_step = _scale_step(conditioning, innovation, w, rule.prior_weight + 1.0)
        return replace(statistics, covariance=statistics.covariance.scaled(scale_step))
    w = fresh * (rule.prior_weight + statistics.taught + 1.0) ** -_EM_DECAY
    learnt = _em_step(statistics.covariance, rule.rank, conditioning, w)
    return replace(
        statistics,
        mean=statistics.mean + w * conditioning.gain,
        moments=learnt,
        covariance=learnt,
        noise_power=0.0,
        taught=min(statistics.taught + fresh, rule.memory),
    )


def _em_step(covariance: LowRankDiagonal, rank: int, conditioning: Conditioning, w: float) -> LowRankDiagonal:
    """Sigma + w (1 - w) g g^H - w G K^-1 G^H, with g the gain and G = Sigma A^H.

    That is (1 - w) Sigma + w E[e e^H | y] about the moved mean. G = U S^H + D A^H, with S what is seen of the factor
    U, lies in the span of U and of the adjoint looks D A^H.
    """
    look, inverse = conditioning.observation, conditioning.inverse
    rows, antennas = covariance.diagonal.shape
    beams = np.eye(antennas, dtype=np.complex128) if look.beams is None else look.beams
    outputs, root = inverse.shape[0], np.sqrt(covariance.scale)
    adjoint = np.einsum("pm,nb->pbmn", look.patterns.conj(), beams.conj()).reshape(outputs, rows, antennas)
    diagonal = covariance.scale * covariance.diagonal
    basis = np.concatenate([root * covariance.factor, adjoint * diagonal, conditioning.gain[None]])
    seen = covariance.observed(look.patterns, look.beams).reshape(covariance.rank, outputs)
    coordinates = np.concatenate([seen.conj(), np.eye(outputs)])
    core = np.zeros((len(basis), len(basis)), np.complex128)
    core[:-1, :-1] = -w * (coordinates @ inverse @ coordinates.conj().T)
    core[: covariance.rank, : covariance.rank] += np.eye(covariance.rank)
    core[-1, -1] = w * (1.0 - w)
    flat = basis.reshape(len(basis), -1)
    changed = np.sum(((core.T @ flat) * flat.conj()).real, axis=0).reshape(rows, antennas)
    return compressed(np.maximum(diagonal + changed, 0.0), basis, core, rank)


def _scale_step(conditioning: Conditioning, innovation: Complex, w: float, prior_weight: float) -> float:
    """What to multiply the covariance by: one Fisher-scoring step of the likelihood of `innovation` in its scale.

    With K = c S + s I: score (v^H K^-1 S K^-1 v - tr K^-1 S), information tr (K^-1 S)^2, both at c = 1. The prior
    counts for the information of `prior_weight` looks without noise, else looks that show little but noise would
    throw the scale about, and in the end down: their score is skew.
    """
    solved = conditioning.inverse @ innovation.ravel()
    share = conditioning.inverse @ conditioning.spread
    score = float(np.vdot(solved, conditioning.spread @ solved).real - np.trace(share).real)
    information = float(np.sum(share * share.T).real) + w * prior_weight * innovation.size
    return float(np.exp(min(max(w * score / information, -_MAX_SCALE_STEP), _MAX_SCALE_STEP)))


def learn_coherence(statistics: ErrorStatistics, forecast_nis: float, share: float) -> ErrorStatistics:
    """Move the coherence to where forecasts from one look to the next are as uncertain as they say.

    forecast_nis: normalised innovation squared of a look against the belief that the look before left; where that
    exceeds what the prior leaves, the past is trusted too much. share: of the innovation's power that is not noise;
    what noise hides teaches nothing. A Robbins-Monro step on the horizon.
    """
    relative = forecast_nis / float(np.clip(statistics.nis, 1.0 / _MAX_FORECAST_NIS, _MAX_FORECAST_NIS))
    horizon = statistics.horizon + _COHERENCE_STEP * share * (1.0 - min(relative, _MAX_FORECAST_NIS))
    return replace(statistics, horizon=float(np.clip(horizon, 0.0, _MAX_HORIZON)))


def judge(statistics: ErrorStatistics, rule: LearningRule, nis: float, fresh: float = 1.0) -> ErrorStatistics:
    """Test the covariance against what came: coverage, and the validity that follows from it.

    nis: normalised innovation squared of an observation that is worth `fresh` independent ones.
    """
    judged = min(statistics.judged + fresh, rule.memory)
    running = statistics.nis + min(fresh / min(rule.window, judged + 1.0), 1.0) * (nis - statistics.nis)
    covered = 1.0 / rule.coverage <= running <= rule.coverage
    validity: Validity = "learning"
    if judged >= rule.enough:
        validity = "converged" if covered else "drifted"
    taught = statistics.taught
    if validity == "drifted" and statistics.validity == "converged":
        taught = min(taught, rule.enough)  # a drifted zone unlearns faster: its past weighs no more than `enough`
    return replace(statistics, nis=running, validity=validity, taught=taught, judged=judged)
