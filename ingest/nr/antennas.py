"""What several antennas hear together: those that hear anything, made alike and independent, and what they span."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MOST_ANTENNAS = 32
"""Antennas that are searched: what they span must be little of 127 dimensions."""


def heard(samples: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """The antennas that hear anything, `_MOST_ANTENNAS` at most; one where none does."""
    if len(samples) == 1:
        return samples
    power = np.sum(np.abs(samples) ** 2, axis=1)
    heard = samples[power > 1e-12 * power.max()][:_MOST_ANTENNAS]
    return heard if len(heard) else samples[:1]


def whitened(
    windows: npt.NDArray[np.complex64], starts: npt.NDArray[np.int64], length: int
) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float32]]:
    """Segments [A, S, N] whose antennas are alike and independent, and energies of `length` from `starts` on [S, P].

    Each segment by its own covariance: traffic comes and goes, and each time arrives from elsewhere.
    """
    antennas = len(windows)
    parts = np.ascontiguousarray(windows.transpose(1, 0, 2))
    covariance = (parts @ parts.conj().transpose(0, 2, 1)).astype(np.complex128)
    level = np.trace(covariance, axis1=1, axis2=2).real / antennas
    floor = 1e-6 * level + 1e-12 * max(float(level.max()), 1e-30)
    covariance += floor[:, None, None] * np.eye(antennas)
    white = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.complex64) @ parts
    total = np.zeros((len(white), white.shape[2] + 1))
    np.cumsum(np.sum(white.real**2 + white.imag**2, axis=1, dtype=np.float64), axis=1, out=total[:, 1:])
    energy = total[:, starts + length] - total[:, starts] + 1e-9
    return np.ascontiguousarray(white.transpose(1, 0, 2)), energy.astype(np.float32)


def spanned_part(windows: npt.NDArray[np.complex64], waveform: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
    """The part of PSSs, waveform [N] or [P, N], that lies in what the antennas' windows [A, P, N] span. Shape [P]."""
    parts = np.moveaxis(windows, 0, 1).astype(np.complex128)
    parts /= np.maximum(np.linalg.norm(parts, axis=2, keepdims=True), 1e-30)
    covariance = parts @ parts.conj().transpose(0, 2, 1) + 1e-6 * np.eye(len(windows))
    outputs = parts @ waveform[..., None]
    return np.asarray(np.sum(outputs.conj() * np.linalg.solve(covariance, outputs), axis=(1, 2)).real)


def whitening(received: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """What makes antennas `received` [A, N] alike and independent. Shape [rank, A]; the unit where A is too great."""
    antennas = len(received)
    if 4 * antennas > received.shape[1]:
        return np.eye(antennas, dtype=np.complex128)
    values, vectors = np.linalg.eigh(received @ received.conj().T)
    kept = values > 1e-9 * max(float(values[-1]), 1e-300)
    kept[-1] = True
    return np.asarray(vectors[:, kept].conj().T / np.sqrt(np.maximum(values[kept], 1e-300))[:, None])
