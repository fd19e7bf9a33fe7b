"""The delay-domain prior of a channel: how much power arrives at which delay, learnt from what is received.

A channel that arrives within a window of delays lies in a subspace of few dimensions over the pilots. There its prior
covariance is A diag(p) A^H for powers p on a grid of delays, as for any channel of uncorrelated scattering; p is fitted
to the running covariance of the observations by the fixed point of its likelihood. Several ports on the same pilots are
told apart by their covers: each has its own stretch of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk, zherk

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Field = npt.NDArray[np.inexact[Any]]

_OVERSAMPLING = 2.0
_FINER = 16
"""Coarse grid points per inverse pilot bandwidth, and how many times finer delays are told where there is power.

A path between two points is taken for two paths. With the coarse grid alone the estimate lost 2 dB of what the true
delays give at 30 dB SNR and 52 PRBs (TDL-C, 200 ns), 3 dB at 106 PRBs."""

_SIDE = 6
_KAISER = 9.0
"""Columns of the fine grid are interpolated from so many of the coarse one to either side, to -80 dB."""

_LEAK = 0.01
_REACH = (1, 2, 4, 8)
"""Before a fit each delay gives this share of its power to each of the delays so many fine steps away."""

_MOMENTUM = 0.7
"""Share of the last round's step, in the logarithm of the powers, that is taken again."""

_SUBSPACE_TOLERANCE = 1e-6
"""Share of the strongest direction's power below which a direction of the subspace is left out."""

_STRONG_SHARE = 0.03
"""Likewise for a direction that is strong."""

_MAX_SUBSPACE_SHARE = 0.75
"""Of the pilots' dimensions; the rest tells the noise."""

_SEEN = 0.3
"""A coarse cell of delays is seen if its power over all pilots is more than this share of the noise."""

_MEMORY = 96
"""Observations that the running covariance reaches back."""

_LARGEST_STEP = 4.0
_DOUBTED = 4
_FLOOR = 1e-7
_NEGLIGIBLE = 3e-3
"""A delay whose power over all pilots is less than this share of the noise is not worth a round."""


@dataclass(frozen=True)
class DelayWindow:
    """Delays, after the nominal symbol start, within which a channel's paths arrive. earliest_s may be negative."""

    earliest_s: float
    latest_s: float

    @property
    def length_s(self) -> float:
        return self.latest_s - self.earliest_s

    def cut_to(self, length_s: float) -> DelayWindow:
        """The same window, no longer than `length_s`; its early end stays where it can."""
        if self.length_s <= length_s:
            return self
        earliest_s = max(self.earliest_s, -0.2 * length_s)
        return DelayWindow(earliest_s, earliest_s + length_s)


class DelayPrior:
    """Learns the powers per delay of G ports over pilots on tones_hz [S] with covers [G, S].

    `subspace` [S, r] spans what the window lets through, orthonormal; its last `strong` directions hold nearly all of
    what comes from any delay in the window. `powers` [G, D]: prior power at `delays_s` [D].
    `observations`: how many were learnt from. Raises ValueError where ports cannot be told apart by these pilots.
    """

    def __init__(self, tones_hz: Real, covers: Complex, window: DelayWindow) -> None:
        self.window = window
        self.ports = len(covers)
        self._pilots = len(tones_hz)
        span_hz = float(np.ptp(tones_hz)) + float(np.diff(tones_hz).min(initial=np.inf) if len(tones_hz) > 1 else 0.0)
        points = max(int(np.ceil(window.length_s * span_hz * _OVERSAMPLING)) + 1, 4)
        self.delays_s = np.linspace(window.earliest_s, window.latest_s, (points - 1) * _FINER + 1)
        self._is_coarse = np.tile(np.arange(len(self.delays_s)) % _FINER == 0, self.ports)
        self._middle_hz = float(tones_hz.mean())
        step_s = window.length_s / (points - 1)
        coarse_s = window.earliest_s + step_s * np.arange(-_SIDE, points + _SIDE)
        fourier = np.exp(-2j * np.pi * (tones_hz - self._middle_hz)[:, None] * coarse_s)
        columns, self._turns = _without_phase(covers[:, :, None] * fourier)
        inside = columns[:, :, _SIDE : points + _SIDE]
        strengths, directions = _directions(np.concatenate(list(inside), axis=1))
        rank = int(np.count_nonzero(strengths > _SUBSPACE_TOLERANCE * strengths[-1]))
        rank = min(rank, max(int(_MAX_SUBSPACE_SHARE * len(tones_hz)), 1))
        if rank < self.ports:
            raise ValueError(f"{self.ports} ports cannot be told apart by {len(tones_hz)} pilots")
        strong = int(np.count_nonzero(strengths > _STRONG_SHARE * strengths[-1]))
        self.strong = min(max(strong, self.ports), rank)
        basis = directions[:, -rank:]
        self.subspace: Complex = np.ascontiguousarray(_with_phase(basis) if np.isrealobj(basis) else basis)
        self._steering: Field = np.concatenate([_between(basis.conj().T @ port) for port in columns], axis=1)
        self._steering = np.asfortranarray(self._steering)
        self._lower: Field = np.zeros((rank, rank), self._steering.dtype, "F")
        self._covariance: Field = self._lower
        self._powers: Real | None = None
        self._step: Real = np.zeros(self._steering.shape[1])
        self._noise = 0.0
        self.observations = 0

    @property
    def powers(self) -> Real:
        """Shape [G, D]; flat before anything was learnt."""
        if self._powers is None:
            return np.full((self.ports, len(self.delays_s)), 1.0 / (self.ports * len(self.delays_s)))
        return self._powers.reshape(self.ports, -1)

    def observe(self, projected: npt.NDArray[np.complexfloating], noise_power: float) -> None:
        """Take in `projected` [r, n], pilots in the subspace with noise of `noise_power` per entry."""
        weight = max(1.0 / (self.observations + 1), 1.0 / _MEMORY)
        share = weight / projected.shape[1]
        if np.isrealobj(self._lower):
            columns = np.concatenate([projected.real, projected.imag], axis=1, dtype=np.float64)
            self._lower = dsyrk(share, columns, 1.0 - weight, self._lower, lower=1, overwrite_c=1)
        else:
            columns = np.asfortranarray(projected, np.complex128)
            self._lower = zherk(share, columns, 1.0 - weight, self._lower, lower=1, overwrite_c=1)
        self._noise = (1.0 - weight) * self._noise + weight * noise_power
        self.observations += 1

    def doubt(self) -> None:
        """Let what comes next weigh more: the channel is not what it was."""
        self.observations = min(self.observations, _DOUBTED)

    def fit(self, rounds: int) -> Iterator[None]:
        """Fit the powers to what was observed: a round over the coarse grid, `rounds` over the delays that matter.

        Yields after each, so that whoever has no time now may go on later; what is observed meanwhile counts next time.
        At a maximum of the likelihood a_i^H C^-1 S C^-1 a_i = a_i^H C^-1 a_i wherever p_i > 0; the powers are
        multiplied by the ratio of the two sides, as in covariance fitting (Stoica et al., SPICE and its LIKES variant).
        """
        self._covariance = np.tril(self._lower) + np.tril(self._lower, -1).conj().T
        if self._powers is None:
            energy = float(np.trace(self._covariance).real) - self._noise * len(self._covariance)
            energy = max(energy, 1e-3 * self._noise * len(self._covariance))
            coarse = self._steering[:, self._is_coarse]
            self._powers = np.where(self._is_coarse, energy / float(np.sum(np.abs(coarse) ** 2)), 0.0)
        self._step = np.zeros(len(self._powers))
        self._improve(np.flatnonzero(self._is_coarse | (self._powers > 0.0)))
        self._spread()
        yield
        for _ in range(rounds):
            self._improve(self._active(_NEGLIGIBLE * self._noise))
            yield

    def _spread(self) -> None:
        """Let a little power leak to the delays beside, so that it can move there if that is where it comes from."""
        powers = self.powers
        found = (1.0 - 2.0 * _LEAK * len(_REACH)) * powers
        for step in _REACH:
            found[:, step:] += _LEAK * powers[:, :-step]
            found[:, :-step] += _LEAK * powers[:, step:]
        self._powers = found.ravel()

    def _active(self, floor: float) -> npt.NDArray[np.int64]:
        """The delays whose power over all pilots exceeds `floor`."""
        powers = self.powers.ravel()
        return np.flatnonzero(powers > max(floor / self._pilots, 1e-9 * float(powers.max())))

    def _improve(self, active: npt.NDArray[np.int64]) -> None:
        """One round of the fixed point over the delays `active`.

        Delays in between that have lost their power are dropped; the coarse ones are kept, as powers may come back.
        """
        assert self._powers is not None
        steering = self._steering[:, active]
        covariance = (steering * self._powers[active]) @ steering.conj().T
        covariance[np.diag_indices_from(covariance)] += max(
            self._noise, 1e-12 * self._pilots * float(self._powers.sum())
        )
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        whitened = cho_solve(factor, steering, check_finite=False)
        found = np.sum(whitened.conj() * (self._covariance @ whitened), axis=0).real
        expected = np.sum(steering.conj() * whitened, axis=0).real
        before = self._powers[active]
        step = np.log(np.maximum(found, 1e-300) / np.maximum(expected, 1e-300)) + _MOMENTUM * self._step[active]
        self._step[active] = step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        powers = before * np.exp(step)
        least = _FLOOR * float(np.sum(powers)) / np.count_nonzero(self._is_coarse)
        powers = np.where(powers > least, powers, np.where(self._is_coarse[active], least, 0.0))
        self._powers[active] = powers

    def modes(self, floor: float) -> tuple[Real, Complex]:
        """Eigenvalues above `floor` [q], ascending, and eigenvectors [r, q] of the prior covariance; one at least."""
        active = self._active(1e-3 * floor)
        root = self._steering[:, active] * np.sqrt(self.powers.ravel()[active])
        if root.shape[1] < root.shape[0]:
            squares, right = np.linalg.eigh(root.conj().T @ root)
            kept = squares > max(floor, 1e-12 * float(squares[-1]))
            kept[-1] = True
            variances = np.maximum(squares[kept], 1e-300)
            return variances, np.asarray(root @ right[:, kept] / np.sqrt(variances))
        variances, vectors = np.linalg.eigh(root @ root.conj().T)
        kept = variances > max(floor, 1e-12 * float(variances[-1]))
        kept[-1] = True
        return np.maximum(variances[kept], 1e-300), np.asarray(vectors[:, kept])

    def cross_covariance(self, port: int, tones_hz: Real) -> Complex:
        """Prior covariance between the port's channel on tones_hz [O] and the subspace. Shape [O, r]."""
        powers = self.powers[port]
        active = np.flatnonzero(powers > 1e-9 * float(powers.max()))
        fourier = _turning(tones_hz - self._middle_hz, self.delays_s[active])
        steering = self._steering[:, port * len(self.delays_s) + active]
        return np.asarray((fourier * (powers[active] * self._turns[port])) @ steering.conj().T)

    def moments_s(self, port: int) -> tuple[float, float]:
        """Mean delay and RMS delay spread of a port by those of its powers that stand out of the noise.

        The little that is found far away at low SNR would more than double the spread.
        """
        powers = self.powers[port]
        nearby = np.convolve(powers, np.ones(_FINER), "same")
        least = min(_SEEN * self._noise / self._pilots, 0.5 * float(nearby.max()))
        powers = np.where(nearby > least, powers, 0.0)
        total = float(powers.sum())
        mean_s = float(powers @ self.delays_s) / total
        variance = float(powers @ (self.delays_s - mean_s) ** 2) / total
        return mean_s, float(np.sqrt(variance))


def _turning(tones_hz: Real, delays_s: Real) -> Complex:
    """exp(-2 pi j f t) at tones f [O] and delays t [D], shape [O, D]; by products where tones are even."""
    if len(tones_hz) < 3 or not np.allclose(np.diff(tones_hz, 2), 0.0):
        return np.asarray(np.exp(-2j * np.pi * tones_hz[:, None] * delays_s))
    found = np.empty((len(tones_hz), len(delays_s)), np.complex128)
    found[0] = np.exp(-2j * np.pi * tones_hz[0] * delays_s)
    found[1:] = np.exp(-2j * np.pi * (tones_hz[1] - tones_hz[0]) * delays_s)
    return np.asarray(np.multiply.accumulate(found, axis=0, out=found))


def _directions(columns: Field) -> tuple[Real, Field]:
    """Squared singular values [k] of columns [S, D], ascending, and left singular vectors [S, k].

    By the eigenvalues of the smaller Gram matrix: accurate enough for what `_SUBSPACE_TOLERANCE` keeps, faster, and
    where the singular values fall to nothing LAPACK's divide and conquer was seen to fail.
    """
    if len(columns) <= columns.shape[1]:
        strengths, directions = np.linalg.eigh(columns @ columns.conj().T)
        return np.maximum(strengths, 0.0), directions
    strengths, right = np.linalg.eigh(columns.conj().T @ columns)
    strengths = np.maximum(strengths, 0.0)
    return strengths, columns @ right / np.sqrt(np.maximum(strengths, 1e-15 * strengths[-1]))


def _without_phase(columns: Complex) -> tuple[Field, Complex]:
    """Columns [G, S, D] in real coordinates, and the turns [G] that made them real; as they are, where none does.

    Phases of a delay over pilots that lie evenly about their middle are odd about it, and so they are with the usual
    covers: but for a turn of each port's own a column equals its conjugate upside down. Such columns are real in the
    basis of `_with_phase`. Their covariance is a quarter of the work, and known twice as well: the conjugate of what
    was received, upside down, is an observation of its own (forward-backward averaging).
    """
    mirrored = columns[:, ::-1].conj()
    turns = np.exp(0.5j * np.angle(np.sum(columns.conj() * mirrored, axis=(1, 2))))
    turned = columns * turns[:, None, None]
    if not np.allclose(turned, turned[:, ::-1].conj(), atol=1e-6):
        return columns, np.ones(len(columns), np.complex128)
    half = turned.shape[1] // 2
    middle = turned[:, half : turned.shape[1] - half].real
    upper = np.sqrt(2.0) * turned[:, :half]
    return np.concatenate([upper.real, middle, upper.imag], axis=1), turns


def _between(coarse: Field) -> Field:
    """Columns [r, D] on the fine grid from those [r, points + 2 _SIDE] on the coarse one and beyond its ends.

    By a sinc under a Kaiser window: the coarse grid takes twice the samples that the band needs, so a few do.
    """
    points = coarse.shape[1] - 2 * _SIDE
    fine = np.empty((coarse.shape[0], (points - 1) * _FINER + 1), coarse.dtype)
    fine[:, ::_FINER] = coarse[:, _SIDE : points + _SIDE]
    taps = np.arange(1 - _SIDE, _SIDE + 1)
    for step in range(1, _FINER):
        apart = taps - step / _FINER
        weights = np.sinc(apart) * np.i0(_KAISER * np.sqrt(1.0 - (apart / _SIDE) ** 2)) / np.i0(_KAISER)
        fine[:, step::_FINER] = sum(
            weight * coarse[:, _SIDE + tap : _SIDE + tap + points - 1]
            for tap, weight in zip(taps, weights, strict=True)
        )
    return fine


def _with_phase(columns: Field) -> Complex:
    """What real coordinates [S, r] stand for."""
    half = len(columns) // 2
    upper = (columns[:half] + 1j * columns[len(columns) - half :]) / np.sqrt(2.0)
    return np.concatenate([upper, columns[half : len(columns) - half], upper[::-1].conj()])
