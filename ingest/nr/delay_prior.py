"""The delay-domain prior of a channel: how much power arrives at which delay, learnt from what is received.

A channel that arrives within a window of delays lies in a subspace of few dimensions over the pilots. There its prior
covariance is A diag(p) A^H for powers p on a grid of delays, as for any channel of uncorrelated scattering; p is fitted
to the running covariance of the observations by the fixed point of its likelihood. Several ports on the same pilots are
told apart by their covers: each has its own stretch of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import zherk

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_OVERSAMPLING = 2.0
"""Grid points per inverse pilot bandwidth. With one, a path between two points costs 10 dB and more at 20 dB SNR."""

_SUBSPACE_TOLERANCE = 1e-6
"""Share of the strongest direction's power below which a direction of the subspace is left out."""

_MAX_SUBSPACE_SHARE = 0.75
"""Of the pilots' dimensions; the rest tells the noise."""

_MEMORY = 96
"""Observations that the running covariance reaches back."""

_SETTLED = 3e-3
_DOUBTED = 4
_FLOOR = 1e-7
_NEGLIGIBLE = 1e-3
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

    `subspace` [S, r] spans what the window lets through, orthonormal. `powers` [G, D]: prior power at `delays_s` [D].
    `observations`: how many were learnt from. Raises ValueError where ports cannot be told apart by these pilots.
    """

    def __init__(self, tones_hz: Real, covers: Complex, window: DelayWindow) -> None:
        self.window = window
        self.ports = len(covers)
        self._pilots = len(tones_hz)
        span_hz = float(np.ptp(tones_hz)) + float(np.diff(tones_hz).min(initial=np.inf) if len(tones_hz) > 1 else 0.0)
        points = max(int(np.ceil(window.length_s * span_hz * _OVERSAMPLING)) + 1, 4)
        self.delays_s = np.linspace(window.earliest_s, window.latest_s, points)
        fourier = np.exp(-2j * np.pi * tones_hz[:, None] * self.delays_s)
        steering = np.concatenate([cover[:, None] * fourier for cover in covers], axis=1)
        left, singular, _ = np.linalg.svd(steering, full_matrices=False)
        share = singular**2 / singular[0] ** 2
        rank = min(int(np.count_nonzero(share > _SUBSPACE_TOLERANCE)), max(int(_MAX_SUBSPACE_SHARE * len(tones_hz)), 1))
        if rank < self.ports:
            raise ValueError(f"{self.ports} ports cannot be told apart by {len(tones_hz)} pilots")
        self.subspace: Complex = np.ascontiguousarray(left[:, :rank])
        self._steering: Complex = self.subspace.conj().T @ steering
        self._lower: Complex = np.zeros((rank, rank), np.complex128, "F")
        self._covariance: Complex = self._lower
        self._powers: Real | None = None
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
        columns = np.asfortranarray(projected, np.complex128)
        self._lower = zherk(weight / columns.shape[1], columns, 1.0 - weight, self._lower, lower=1, overwrite_c=1)
        self._noise = (1.0 - weight) * self._noise + weight * noise_power
        self.observations += 1

    def doubt(self) -> None:
        """Let what comes next weigh more: the channel is not what it was."""
        self.observations = min(self.observations, _DOUBTED)

    def fit(self, rounds: int) -> None:
        """Fit the powers to what was observed, by `rounds` rounds over the delays that matter and one over all.

        At a maximum of the likelihood a_i^H C^-1 S C^-1 a_i = a_i^H C^-1 a_i wherever p_i > 0; the powers are
        multiplied by the ratio of the two sides, as in covariance fitting (Stoica et al., SPICE and its LIKES variant).
        """
        self._covariance = np.tril(self._lower) + np.tril(self._lower, -1).conj().T
        if self._powers is None:
            energy = float(np.trace(self._covariance).real) - self._noise * len(self._covariance)
            energy = max(energy, 1e-3 * self._noise * len(self._covariance))
            self._powers = np.full(self._steering.shape[1], energy / float(np.sum(np.abs(self._steering) ** 2)))
        self._improve(np.arange(len(self._powers)))
        for _ in range(rounds):
            change = self._improve(self._active(_NEGLIGIBLE * self._noise))
            if change < _SETTLED:
                break

    def _active(self, floor: float) -> npt.NDArray[np.int64]:
        """The delays whose power over all pilots exceeds `floor`."""
        powers = self.powers.ravel()
        return np.flatnonzero(powers > max(floor / self._pilots, 1e-9 * float(powers.max())))

    def _improve(self, active: npt.NDArray[np.int64]) -> float:
        """One round of the fixed point over the delays `active`; by what share of the power it changed them."""
        assert self._powers is not None
        steering = self._steering[:, active]
        covariance = (steering * self._powers[active]) @ steering.conj().T
        covariance[np.diag_indices_from(covariance)] += max(self._noise, 1e-12 * float(self._powers.sum()))
        whitened = np.linalg.solve(covariance, steering)
        found = np.sum(whitened.conj() * (self._covariance @ whitened), axis=0).real
        expected = np.sum(steering.conj() * whitened, axis=0).real
        before = self._powers[active]
        powers = np.maximum(
            before * np.maximum(found, 0.0) / np.maximum(expected, 1e-300), _FLOOR * float(self._powers.mean())
        )
        self._powers[active] = powers
        return float(np.sum(np.abs(powers - before)) / np.sum(powers))

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
        fourier = np.exp(-2j * np.pi * tones_hz[:, None] * self.delays_s)
        points = len(self.delays_s)
        steering = self._steering[:, port * points : (port + 1) * points]
        return np.asarray((fourier * self.powers[port]) @ steering.conj().T)

    def moments_s(self, port: int) -> tuple[float, float]:
        """Mean delay and RMS delay spread of a port by its powers."""
        powers = self.powers[port]
        total = float(powers.sum())
        mean_s = float(powers @ self.delays_s) / total
        return mean_s, float(np.sqrt(max(powers @ (self.delays_s - mean_s) ** 2 / total, 0.0)))
