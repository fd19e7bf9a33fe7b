"""What delays look like over pilots: columns of a channel's covariance, in coordinates that make little work.

Here is only what works on such columns, not on what is received.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpstrf, zpstrf

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Field = npt.NDArray[np.inexact[Any]]

SIDE = 6
_KAISER = 9.0
"""Columns of the fine grid are interpolated from so many of the coarse one to either side, to -80 dB."""

_ODD = 1e-6
"""Columns of magnitude one that are off by no more are taken for the conjugates of each other."""

_AT_ONCE = 16
"""Tones whose turns are told by products from each other."""


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


def turning(tones_hz: Real, delays_s: Real) -> Complex:
    """exp(-2 pi j f t) at tones f [O] and delays t [D], shape [O, D]; by products where tones are even."""
    count = len(tones_hz)
    if count < 3 or not np.allclose(np.diff(tones_hz, 2), 0.0):
        return np.asarray(np.exp(-2j * np.pi * tones_hz[:, None] * delays_s))
    step_hz = float(tones_hz[-1] - tones_hz[0]) / (count - 1)
    far_hz = tones_hz[0] + step_hz * np.arange(0, count, _AT_ONCE)
    near = np.exp(-2j * np.pi * step_hz * np.arange(_AT_ONCE)[:, None] * delays_s)
    far = np.exp(-2j * np.pi * far_hz[:, None] * delays_s)
    return np.asarray((far[:, None] * near).reshape(-1, len(delays_s))[:count])


def directions(columns: Field, tolerance: float) -> tuple[Real, Field]:
    """Squared singular values [k] of columns [S, D], ascending, and left singular vectors [S, k].

    Those above `tolerance` of the greatest, by the eigenvalues of the smaller Gram matrix: accurate enough, faster, and
    where the singular values fall to nothing LAPACK's divide and conquer was seen to fail.
    """
    is_wide = len(columns) <= columns.shape[1]
    strengths, vectors = np.linalg.eigh(columns @ columns.conj().T if is_wide else columns.conj().T @ columns)
    kept = strengths > tolerance * strengths[-1]
    strengths, vectors = strengths[kept], vectors[:, kept]
    return strengths, vectors if is_wide else columns @ (vectors / np.sqrt(strengths))


def without_phase(columns: Complex) -> tuple[Field, Complex]:
    """Columns [G, S, D] in real coordinates, and the turns [G] that made them real; as they are, where none does.

    Phases of a delay over pilots that lie evenly about their middle are odd about it, and so they are with the usual
    covers: but for a turn of each port's own a column equals its conjugate upside down. Such columns are real in the
    basis of `with_phase`. Their covariance is a quarter of the work, and known twice as well: the conjugate of what
    was received, upside down, is an observation of its own (forward-backward averaging).
    """
    half = columns.shape[1] // 2
    upper, middle = columns[:, :half], columns[:, half : columns.shape[1] - half]
    below = columns[:, columns.shape[1] - half :][:, ::-1].conj()
    likeness = 2.0 * np.einsum("gsd,gsd->g", upper.conj(), below) + np.sum(middle.conj() ** 2, axis=(1, 2))
    turns = np.exp(0.5j * np.angle(likeness))
    upper, middle = upper * turns[:, None, None], middle * turns[:, None, None]
    off = upper - below * turns.conj()[:, None, None]
    if max(_largest(off), 2.0 * _largest(middle.imag)) > _ODD:
        return columns, np.ones(len(columns), np.complex128)
    upper *= np.sqrt(2.0)
    return np.concatenate([upper.real, middle.real, upper.imag], axis=1), turns


def _largest(values: Field) -> float:
    """Of real and imaginary parts, in magnitude."""
    return float(np.abs(np.ascontiguousarray(values).view(np.float64)).max(initial=0.0))


def with_phase(columns: Field) -> npt.NDArray[np.complexfloating]:
    """What real coordinates [S, r] stand for."""
    half = len(columns) // 2
    upper = (columns[:half] + 1j * columns[len(columns) - half :]) * columns.dtype.type(np.sqrt(0.5))
    return np.concatenate([upper, columns[half : len(columns) - half], upper[::-1].conj()])


def between(coarse: Field, finer: int, fine: Field) -> None:
    """Into rows fine [D, r] on a grid `finer` times finer than that of `coarse` [points + 2 SIDE, r], from row SIDE on.

    By a sinc under a Kaiser window: the coarse grid takes twice the samples that the band needs, so a few do.
    """
    points = len(coarse) - 2 * SIDE
    taps = np.arange(1 - SIDE, SIDE + 1)
    apart = taps - np.arange(1, finer)[:, None] / finer
    weights = np.sinc(apart) * np.i0(_KAISER * np.sqrt(1.0 - (apart / SIDE) ** 2)) / np.i0(_KAISER)
    cells = fine[:-1].reshape(points - 1, finer, -1)
    cells[:, 0] = coarse[SIDE : points + SIDE - 1]
    fine[-1] = coarse[points + SIDE - 1]
    for cell in range(points - 1):
        np.matmul(weights, coarse[cell + 1 : cell + 1 + len(taps)], out=cells[cell, 1:])


def low_rank(roots: Field, tolerance: float) -> Field:
    """L [r, k] with L L^H = roots^H roots but for at most `tolerance` in each diagonal entry; one column at least.

    By Cholesky with pivoting, which ends where nothing is left: a twentieth of what the eigenvalues cost.
    """
    covariance = roots.conj().T @ roots
    factor = dpstrf if np.isrealobj(covariance) else zpstrf
    lower, order, rank, _ = factor(covariance, tol=tolerance, lower=1)
    found = np.empty((len(covariance), max(rank, 1)), covariance.dtype)
    found[order - 1] = np.tril(lower)[:, : max(rank, 1)]
    return found
