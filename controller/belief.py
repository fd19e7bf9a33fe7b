"""The channel belief: what the controller thinks a user's channel is, and how sure it is.

The twin gives the mean, the zone's learnt error statistics the covariance, measurements condition both, the design asks
for the effective channel under any RIS state. One type for all of it.

Channels are c [R, N] with R = M + 1 cascade rows; a pattern is [1, theta] of shape [R].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.covariance import Complex, LowRankDiagonal, condition_on_pattern


@dataclass(frozen=True)
class Observation:
    """A linear look at a channel: y[p, b] = sum_{m,n} patterns[p, m] c[m, n] beams[n, b] + noise.

    patterns [P, R]. beams [N, B], or None for the antennas themselves. noise_power: variance of one entry of y.
    """

    patterns: Complex
    beams: Complex | None
    noise_power: float

    def of(self, channel: Complex) -> Complex:
        """What this look shows of `channel` [R, N], without noise. Shape [P, B]."""
        seen = self.patterns @ channel
        return seen if self.beams is None else seen @ self.beams

    def spread(self, weights: Complex) -> Complex:
        """The adjoint of `of`: weights [P, B] to [R, N]."""
        across = weights if self.beams is None else weights @ self.beams.conj().T
        return np.asarray(self.patterns.conj().T @ across)


@dataclass(frozen=True)
class Conditioning:
    """What an observation said about an error of known prior covariance.

    gain [R, N]: posterior minus prior mean, C A^H K^-1 innovation with K = S + s I. spread [P B, P B]: S = A C A^H.
    inverse: K^-1. nis: innovation^H K^-1 innovation / (P B), 1 on average when the prior covariance is right.
    """

    observation: Observation
    gain: Complex
    spread: Complex
    inverse: Complex
    nis: float

    def removed(self, covariance: LowRankDiagonal, patterns: Complex, beams: Complex | None) -> Complex:
        """What the look took away of the covariance of A' c, for another look A'. Shape [P' B', P' B']."""
        look = self.observation
        cross = covariance.cross(patterns, beams, look.patterns, look.beams)
        return np.asarray(cross @ self.inverse @ cross.conj().T)


def condition(covariance: LowRankDiagonal, observation: Observation, innovation: Complex) -> Conditioning:
    """LMMSE of a zero-mean error with `covariance` from `innovation` [P, B] = y - A mean."""
    patterns, beams = observation.patterns, observation.beams
    if len(patterns) == 1 and beams is None:
        return _condition_on_one(covariance, observation, innovation)
    spread = covariance.cross(patterns, beams, patterns, beams)
    size = spread.shape[0]
    # Inverted in units of its own scale: squared channel gains are far below 1e-10.
    scale = float(np.trace(spread).real) / size + observation.noise_power
    inverse = np.linalg.inv((spread + observation.noise_power * np.eye(size)) / scale) / scale
    inverse = (inverse + inverse.conj().T) / 2
    weights = (inverse @ innovation.ravel()).reshape(innovation.shape)
    seen = covariance.observed(patterns, beams)
    along = np.sqrt(covariance.scale) * np.sum(seen.conj() * weights, axis=(1, 2))
    gain = covariance.scale * covariance.diagonal * observation.spread(weights)
    gain = gain + np.tensordot(along, covariance.factor, axes=1)
    nis = float(np.vdot(innovation, weights).real) / size
    return Conditioning(observation, gain, spread, inverse, nis)


def _condition_on_one(covariance: LowRankDiagonal, observation: Observation, innovation: Complex) -> Conditioning:
    """`condition` for one pattern seen by the antennas themselves: what nearly every block brings."""
    gain = np.empty(covariance.diagonal.shape, np.complex128)
    spread, inverse, nis = condition_on_pattern(
        observation.patterns[0],
        covariance.diagonal,
        covariance.factor,
        covariance.scale,
        observation.noise_power,
        np.ascontiguousarray(innovation[0]),
        gain,
    )
    return Conditioning(observation, gain, spread, inverse, nis)


@dataclass(frozen=True)
class ChannelBelief:
    """Mean [R, N] and covariance of a user's channel.

    covariance: before the last partial look. conditioning: that look, of which `weight` of the information still
    holds (1 just after it, less as the channel moves on); None where there was none.
    """

    mean: Complex
    covariance: LowRankDiagonal
    conditioning: Conditioning | None = None
    weight: float = 1.0

    @property
    def antennas(self) -> int:
        return int(self.mean.shape[1])

    def seen(self, patterns: Complex, beams: Complex | None) -> Complex:
        """Covariance [P B, P B] of what patterns [P, R] and beams [N, B] (None: the antennas) would see."""
        known = self.conditioning
        if known is None or self.weight <= 0:
            covariance = self.covariance.cross(patterns, beams, patterns, beams)
        elif beams is known.observation.beams and np.array_equal(patterns, known.observation.patterns):
            covariance = known.spread - self.weight * (known.spread @ known.inverse @ known.spread)
        else:
            covariance = self.covariance.cross(patterns, beams, patterns, beams)
            covariance = covariance - self.weight * known.removed(self.covariance, patterns, beams)
        return (covariance + covariance.conj().T) / 2

    def effective(self, pattern: Complex) -> tuple[Complex, Complex]:
        """Mean [N] and covariance E[e e^H] [N, N] of the effective channel under `pattern` [R]."""
        return pattern @ self.mean, self.seen(pattern[None], None)
