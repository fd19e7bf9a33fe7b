"""Covariances of cascaded channels as low rank + diagonal: never a dense square of (M+1) N.

A channel of one user is a matrix [R, N]: R = M + 1 cascade rows (direct, then RIS elements), N antennas. Its error e
has covariance E[e e^H] = diag(d) + sum_k u_k u_k^H over all R N entries, with d [R, N] and u [r, R, N].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LowRankDiagonal:
    """scale * (diag(diagonal) + sum_k factor_k factor_k^H). diagonal [R, N] >= 0, factor [r, R, N]."""

    diagonal: Real
    factor: Complex
    scale: float = 1.0

    @classmethod
    def white(cls, variance: Real) -> LowRankDiagonal:
        """Independent entries of the given variance [R, N]."""
        return cls(np.asarray(variance, np.float64), np.zeros((0, *variance.shape), np.complex128))

    @property
    def rank(self) -> int:
        return int(self.factor.shape[0])

    @cached_property
    def variances(self) -> Real:
        """The diagonal of the whole matrix. Shape [R, N]."""
        return np.asarray(self.scale * (self.diagonal + np.sum(_power(self.factor), axis=0)))

    def scaled(self, weight: float) -> LowRankDiagonal:
        """The covariance times `weight` >= 0; the arrays are shared."""
        return replace(self, scale=self.scale * weight)

    def plus(self, other: LowRankDiagonal) -> LowRankDiagonal:
        """The covariance of a sum of independent errors."""
        ours, theirs = np.sqrt(self.scale), np.sqrt(other.scale)
        return LowRankDiagonal(
            self.scale * self.diagonal + other.scale * other.diagonal,
            np.concatenate([ours * self.factor, theirs * other.factor]),
        )

    def observed(self, patterns: Complex, beams: Complex | None) -> Complex:
        """What patterns [P, R] and beams [N, B] (None: the antennas) see of sqrt(scale) factor. [r, P, B]."""
        seen = np.sqrt(self.scale) * (patterns @ self.factor)
        return seen if beams is None else np.asarray(seen @ beams)

    def cross(
        self, patterns: Complex, beams: Complex | None, other_patterns: Complex, other_beams: Complex | None
    ) -> Complex:
        """Cov(A e, A' e) of two observations. Shape [P B, P' B'], index (p, b) with b fastest."""
        left = self.observed(patterns, beams)
        same = patterns is other_patterns and beams is other_beams
        right = left if same else self.observed(other_patterns, other_beams)
        low_rank = _columns(left).T @ _columns(right).conj()
        return low_rank + self._cross_of_diagonal(patterns, beams, other_patterns, other_beams)

    def _cross_of_diagonal(
        self, patterns: Complex, beams: Complex | None, other_patterns: Complex, other_beams: Complex | None
    ) -> Complex:
        """The part of `cross` that comes from the diagonal: per antenna, then mixed by the beams."""
        count, other_count, antennas = len(patterns), len(other_patterns), self.diagonal.shape[1]
        pairs = (patterns[:, None, :] * other_patterns.conj()[None, :, :]).reshape(count * other_count, -1)
        variance = (self.scale * pairs @ self.diagonal).reshape(count, other_count, antennas)
        if beams is None and other_beams is None:
            out = np.zeros((count, antennas, other_count, antennas), np.complex128)
            index = np.arange(antennas)
            out[:, index, :, index] = variance.transpose(2, 0, 1)
            return out.reshape(count * antennas, other_count * antennas)
        left = np.eye(antennas) if beams is None else beams
        right = np.eye(antennas) if other_beams is None else other_beams
        mixed = left.T @ (variance[..., :, None] * right.conj())
        return np.asarray(mixed.transpose(0, 2, 1, 3).reshape(count * left.shape[1], other_count * right.shape[1]))

    def posterior_white(self, noise_power: float) -> LowRankDiagonal:
        """The covariance left after every entry was measured with error variance `noise_power` > 0.

        (C^-1 + I/s)^-1 with C = c (D + U U^H) is again low rank + diagonal, by the matrix inversion lemma:
        c D' = s c D / (c D + s), U' = s / (c D + s) U (I + c U^H (c D + s)^-1 U)^(-1/2).
        """
        shifted = self.scale * self.diagonal + noise_power
        flat = self.factor.reshape(self.rank, self.diagonal.size)
        inner = np.eye(self.rank) + self.scale * ((flat.conj() / shifted.ravel()) @ flat.T)
        values, vectors = np.linalg.eigh(inner)
        rotation = (vectors / np.sqrt(values)).T
        shrunk = (rotation @ flat).reshape(self.factor.shape) * (noise_power / shifted)
        return LowRankDiagonal(self.diagonal * (noise_power / shifted), shrunk, self.scale)

    def gain_white(self, innovation: Complex, noise_power: float) -> tuple[Complex, float]:
        """LMMSE from e + white noise of variance s, innovation [R, N]: the estimate C (C + s I)^-1 innovation.

        Returns it with innovation^H (C + s I)^-1 innovation / (R N), 1 on average when C is right.
        """
        shifted = self.scale * self.diagonal + noise_power
        solved = innovation / shifted
        if self.rank:
            flat = self.factor.reshape(self.rank, self.diagonal.size)
            whitened = flat / shifted.ravel()
            inner = np.eye(self.rank) + self.scale * (flat.conj() @ whitened.T)
            weights = np.linalg.solve(inner, self.scale * (whitened.conj() @ innovation.ravel()))
            solved = solved - (weights @ whitened).reshape(innovation.shape)
        nis = float(np.vdot(innovation, solved).real) / innovation.size
        return np.asarray(innovation - noise_power * solved), nis


@kernel
def condition_on_pattern(
    pattern: Complex,
    diagonal: Real,
    factor: Complex,
    scale: float,
    noise_power: float,
    innovation: Complex,
    gain: Complex,
) -> tuple[Complex, Complex, float]:
    """LMMSE from one look by the antennas themselves, y = pattern @ e + noise, in one pass over the covariance.

    With S = A C A^H [N, N] and K = S + s I: writes gain = C A^H K^-1 innovation [R, N] and returns S, K^-1 and
    innovation^H K^-1 innovation / N. The same as `belief.condition`, which takes any look.
    """
    rank, rows, antennas = factor.shape
    seen = np.zeros((rank, antennas), np.complex128)
    for k in range(rank):
        seen[k] = np.dot(pattern, factor[k])
    spread = scale * np.dot(seen.T, seen.conj())
    power = np.empty(rows, np.float64)
    for m in range(rows):
        power[m] = pattern[m].real ** 2 + pattern[m].imag ** 2
    variance = np.dot(power, diagonal)
    for n in range(antennas):
        spread[n, n] += scale * variance[n]
    size = noise_power + np.trace(spread).real / antennas
    noisy = spread / size
    for n in range(antennas):
        noisy[n, n] += noise_power / size
    inverse = np.linalg.inv(noisy) / size
    inverse = 0.5 * (inverse + inverse.conj().T)
    weights = np.dot(inverse, innovation)
    along = scale * np.dot(seen.conj(), weights)
    for m in range(rows):
        back = scale * np.conj(pattern[m])
        for n in range(antennas):
            gain[m, n] = back * diagonal[m, n] * weights[n]
    flat = gain.reshape(rows * antennas)
    flat += np.dot(along, factor.reshape(rank, rows * antennas))
    return spread, inverse, np.sum(innovation.conj() * weights).real / antennas


def _columns(seen: Complex) -> Complex:
    """[r, P, B] as [r, P B], also where r is 0."""
    return seen.reshape(seen.shape[0], seen.shape[1] * seen.shape[2])


def _power(values: Complex) -> Real:
    return np.asarray(values.real**2 + values.imag**2)


def compressed(variances: Real, basis: Complex, core: Complex, rank: int) -> LowRankDiagonal:
    """The low rank + diagonal covariance with these `variances` [R, N] whose rest is basis^T core basis*.

    basis [q, R, N], core [q, q] Hermitian. The factor takes the greatest `rank` positive eigenvalues of the latter;
    what it does not hold stays in the diagonal, so that every variance is kept exactly.
    """
    flat = basis.reshape(len(basis), variances.size)
    gram = flat.conj() @ flat.T
    # Each basis vector in units of its own length: channels and their covariances differ by many orders of magnitude.
    lengths = np.sqrt(np.diag(gram).real)
    lengths = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(lengths, lengths))
    keep = values > 1e-12 * values.max(initial=0.0)
    root = np.sqrt(values[keep])
    inward = vectors[:, keep] * root
    inside = inward.conj().T @ (core * np.outer(lengths, lengths)) @ inward
    strengths, rotation = np.linalg.eigh((inside + inside.conj().T) / 2)
    best = np.argsort(-strengths)[:rank]
    best = best[strengths[best] > 0]
    outward = (vectors[:, keep] / root) @ (rotation[:, best] * np.sqrt(strengths[best])) / lengths[:, None]
    factor = (outward.T @ flat).reshape(len(best), *variances.shape)
    held = np.sum(_power(factor), axis=0)
    # Where rounding or a core with negative parts makes the factor hold more than there is, it gives way.
    if np.any(held > variances):
        factor = factor * np.sqrt(np.divide(variances, held, out=np.ones_like(held), where=held > variances))
        held = np.sum(_power(factor), axis=0)
    return LowRankDiagonal(np.maximum(variances - held, 0.0), factor)
