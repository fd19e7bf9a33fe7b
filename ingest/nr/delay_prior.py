"""The delay-domain prior of a channel: how much power arrives at which delay, learnt from what is received.

A channel that arrives within a window of delays lies in a subspace of few dimensions over the pilots. There its prior
covariance is A diag(p) A^H for powers p on a grid of delays, as for any channel of uncorrelated scattering; p is fitted
to the running covariance of the observations by the fixed point of its likelihood. Several ports on the same pilots are
told apart by their covers: each has its own stretch of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from ingest.nr.delay_columns import (
    SIDE,
    Complex,
    DelayWindow,
    Field,
    Real,
    between,
    directions,
    low_rank,
    turning,
    with_phase,
    without_phase,
)

_OVERSAMPLING = 2.0
_FINER = 16
"""Coarse grid points per inverse pilot bandwidth, and how many times finer delays are told where there is power.

A path between two points is taken for two paths. With the coarse grid alone the estimate lost 2 dB of what the true
delays give at 30 dB SNR and 52 PRBs (TDL-C, 200 ns), 3 dB at 106 PRBs."""

Complex64 = npt.NDArray[np.complex64]

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

_TOGETHER = 128
"""Columns that are added to the running covariance at a time, at least."""

_LARGEST_STEP = 4.0
_DOUBTED = 4
_REMAINS = 0.03
"""Share of a negligible power that each coarse delay keeps at least, so that it can come back."""

_FAINT = 0.03
"""Delays and directions with less than this share of the power that a mode must have make no difference to a filter."""

_FADED = 0.1
_FADED_CELLS = 4
"""What a delay may have lost to fading when it was seen once by one antenna: this share of the power around it, by
distance in coarse cells, up to so many. It falls with the antennas, which may fade alike, and with the square of the
observations. Without it the prior of a single slot misses what faded in that slot, and the next one is estimated up to
6 dB worse than the first (one antenna, 52 PRBs, 0 to 20 dB). A profile as wide as the delay spread that a twin tells
was tried in its place: up to 1.4 dB better at 0 dB, in the second and third slot only, and 3 dB worse at 20 dB."""

_COARSE_ROUNDS = 3
"""Of the first fit, so that delays are told finely only where there is power."""

_UNSEEN = 3e-3
"""Directions in which all delays that matter have less power than this share of the noise are left out of a fit."""

_NEGLIGIBLE = 3e-3
"""A delay whose power over all pilots is less than this share of the noise is not worth a round."""


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
        coarse_s = window.earliest_s + step_s * np.arange(-SIDE, points + SIDE, dtype=np.float64)
        fourier = turning(tones_hz - self._middle_hz, coarse_s)
        columns, self._turns = without_phase(covers[:, :, None] * fourier)
        inside = columns[:, :, SIDE : points + SIDE]
        strengths, found = directions(np.concatenate(list(inside), axis=1), _SUBSPACE_TOLERANCE)
        rank = min(len(strengths), max(int(_MAX_SUBSPACE_SHARE * len(tones_hz)), 1))
        if rank < self.ports:
            raise ValueError(f"{self.ports} ports cannot be told apart by {len(tones_hz)} pilots")
        strong = int(np.count_nonzero(strengths > _STRONG_SHARE * strengths[-1]))
        self.strong = min(max(strong, self.ports), rank)
        basis = np.ascontiguousarray(found[:, -rank:])
        self.subspace: Complex = np.asarray(with_phase(basis) if np.isrealobj(basis) else basis, np.complex128)
        self._basis: Field = basis.astype(np.float32 if np.isrealobj(basis) else np.complex64)
        # a^H of every delay: what is used at a time are some delays, so these lie together
        self._rows: Field = np.empty((self.ports * len(self.delays_s), rank), found.dtype)
        for port, rows in zip(columns, np.split(self._rows, self.ports), strict=True):
            between(port.conj().T @ basis, _FINER, rows)
        self._observed: Field = np.zeros((rank, rank), self._rows.dtype)
        self._waiting: list[tuple[float, float, Field]] = []
        self._columns_waiting = 0
        self._powers: Real | None = None
        self._step: Real = np.zeros(len(self._rows))
        self._noise = 0.0
        self._antennas = 1
        self.observations = 0

    def on_pilots(self, vectors: Field) -> Complex64:
        """Vectors [r, n] of the subspace as what they are on the pilots [S, n]."""
        found = self._basis @ vectors.astype(self._basis.dtype)
        return np.asarray(with_phase(found) if np.isrealobj(found) else found, np.complex64)

    @property
    def powers(self) -> Real:
        """Shape [G, D]; flat before anything was learnt."""
        if self._powers is None:
            return np.full((self.ports, len(self.delays_s)), 1.0 / (self.ports * len(self.delays_s)))
        return self._powers.reshape(self.ports, -1)

    def observe(self, projected: npt.NDArray[np.complexfloating], noise_power: float, antennas: int = 1) -> None:
        """Take in `projected` [r, n], pilots in the subspace with noise of `noise_power` per entry.

        antennas: how many of the n saw the channel at the same time.
        """
        self._antennas = antennas
        weight = max(1.0 / (self.observations + 1), 1.0 / _MEMORY)
        if np.isrealobj(self._observed):
            columns = np.concatenate([projected.real, projected.imag], axis=1, dtype=np.float64)
        else:
            columns = projected.astype(np.complex128)
        self._waiting.append((weight, weight / projected.shape[1], columns))
        self._noise = (1.0 - weight) * self._noise + weight * noise_power
        self.observations += 1
        self._columns_waiting += columns.shape[1]
        if self._columns_waiting >= _TOGETHER:
            self._take_in()

    def _take_in(self) -> None:
        """Add what waits to the running covariance: together, as one by one the time went into reading and writing."""
        remaining, parts = 1.0, []
        for weight, share, columns in reversed(self._waiting):
            parts.append(np.sqrt(remaining * share) * columns)
            remaining *= 1.0 - weight
        self._waiting.clear()
        if parts:
            columns = np.concatenate(parts, axis=1)
            self._observed = remaining * self._observed + columns @ columns.conj().T
            self._columns_waiting = 0

    def doubt(self) -> None:
        """Let what comes next weigh more: the channel is not what it was."""
        self.observations = min(self.observations, _DOUBTED)

    def fit(self, rounds: int) -> Iterator[None]:
        """Fit the powers to what was observed: a round over the coarse grid, `rounds` over the delays that matter.

        Yields after each, so that whoever has no time now may go on later; what is observed meanwhile counts next time.
        At a maximum of the likelihood a_i^H C^-1 S C^-1 a_i = a_i^H C^-1 a_i wherever p_i > 0; the powers are
        multiplied by the ratio of the two sides, as in covariance fitting (Stoica et al., SPICE and its LIKES variant).
        """
        self._take_in()
        observed = self._observed
        self._step = np.zeros(len(self._is_coarse))
        coarse_rounds = 1
        if self._powers is None:
            coarse_rounds = _COARSE_ROUNDS
            energy = float(np.trace(observed).real) - self._noise * len(observed)
            energy = max(energy, 1e-3 * self._noise * len(observed))
            coarse = self._rows[self._is_coarse]
            self._powers = np.where(self._is_coarse, energy / float(np.sum(np.abs(coarse) ** 2)), 0.0)
        active = np.flatnonzero(self._is_coarse | (self._powers > self._least))
        rows = self._rows[active]
        for _ in range(coarse_rounds):
            self._improve(active, rows, observed)
        self._spread()
        yield
        active = np.flatnonzero(self._powers > self._least)
        rows = self._rows[active]
        basis = np.linalg.qr(low_rank(rows * np.sqrt(self._powers[active])[:, None], _UNSEEN * self._noise))[0]
        rows = rows @ basis
        observed = basis.conj().T @ observed @ basis
        for _ in range(rounds):
            matters = self._powers[active] > self._least
            active, rows = active[matters], rows[matters]
            self._improve(active, rows, observed)
            yield
        self._gather()

    @property
    def _least(self) -> float:
        """The power of a delay that is worth a round."""
        assert self._powers is not None
        return max(_NEGLIGIBLE * self._noise / self._pilots, 1e-9 * float(self._powers.max()))

    def _gather(self) -> None:
        """Leave what is negligible at a delay to the nearest coarse one: it need not be told finely where it is."""
        powers = self.powers
        negligible = np.where(powers > self._least, 0.0, powers)
        found = powers - negligible
        found[:, ::_FINER] += self._in_cells(negligible)
        self._powers = found.ravel()
        self._allow_for_fading()

    def _allow_for_fading(self) -> None:
        """Give the coarse delays what fading may have hidden there, as long as few observations were learnt from."""
        share = _FADED / (self.observations**2 * self._antennas)
        if share < _NEGLIGIBLE * _FADED:
            return
        powers = self.powers
        near = np.exp(-np.abs(np.arange(-_FADED_CELLS, _FADED_CELLS + 1.0)))
        cells = self._in_cells(powers)
        found = powers.copy()
        for port, around in enumerate(cells):
            found[port, ::_FINER] += share * np.convolve(around, near / near.sum(), "full")[_FADED_CELLS:-_FADED_CELLS]
        self._powers = found.ravel() / (1.0 + share)

    def _in_cells(self, powers: Real) -> Real:
        """Powers [G, D] summed up around each coarse delay."""
        half = _FINER // 2
        padded = np.pad(powers, ((0, 0), (half, _FINER - half - 1)))
        return np.asarray(padded.reshape(self.ports, -1, _FINER).sum(axis=2))

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

    def _improve(self, active: npt.NDArray[np.int64], rows: Field, observed: Field) -> None:
        """One round of the fixed point over the delays `active`, whose rows [D, k] are a^H; observed [k, k]: S.

        Delays in between that have lost their power are dropped; the coarse ones are kept, as powers may come back.
        """
        assert self._powers is not None
        before = self._powers[active]
        roots = rows * np.sqrt(before)[:, None]
        covariance = roots.conj().T @ roots
        covariance[np.diag_indices_from(covariance)] += max(
            self._noise, 1e-12 * self._pilots * float(self._powers.sum())
        )
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        whitened = rows @ cho_solve(factor, np.eye(len(covariance)), check_finite=False)
        found = np.einsum("dk,dk->d", whitened @ observed, whitened.conj()).real
        expected = np.einsum("dk,dk->d", whitened, rows.conj()).real
        step = np.log(np.maximum(found, 1e-300) / np.maximum(expected, 1e-300)) + _MOMENTUM * self._step[active]
        self._step[active] = step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        powers = before * np.exp(step)
        least = _REMAINS * self._least
        powers = np.where(powers > least, powers, np.where(self._is_coarse[active], least, 0.0))
        self._powers[active] = powers

    def modes(self, floor: float) -> tuple[Real, Field]:
        """Eigenvalues above `floor` [q], ascending, and eigenvectors [r, q] of the prior covariance; one at least."""
        active = self._active(_FAINT * floor)
        root = low_rank(self._rows[active] * np.sqrt(self.powers.ravel()[active])[:, None], _FAINT * floor)
        squares, right = np.linalg.eigh(root.conj().T @ root)
        kept = squares > max(floor, 1e-12 * float(squares[-1]))
        kept[-1] = True
        variances = np.maximum(squares[kept], 1e-300)
        return variances, np.asarray(root @ right[:, kept] / np.sqrt(variances))

    def cross_covariance(self, port: int, tones_hz: Real, vectors: Field | None = None, floor: float = 0.0) -> Complex:
        """Prior covariance between the port's channel on tones_hz [O] and vectors [r, n] of the subspace, or all of it.

        Shape [O, n]. floor: as of `modes`.
        """
        powers = self.powers[port]
        active = np.flatnonzero(powers > max(_FAINT * floor / self._pilots, 1e-9 * float(powers.max())))
        fourier = turning(tones_hz - self._middle_hz, self.delays_s[active])
        rows = self._rows[port * len(self.delays_s) + active]
        seen = rows if vectors is None else rows @ vectors
        return np.asarray((fourier * (powers[active] * self._turns[port])) @ seen)

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
