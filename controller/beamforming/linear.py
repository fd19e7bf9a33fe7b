"""Linear precoders from the mean channels: MRT, ZF, and regularised ZF, which knows the beliefs' covariance as well.

Each fills the power budget and gives every user an equal share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.covariance import Complex, Real


@dataclass(frozen=True)
class DesignProblem:
    """What a precoder is designed from, for one RIS state.

    means [K, N] and covariances [K, N, N] (E[e e^H]) of the effective channels; noise_power [K]; sinr_target [K];
    power: what |F|_F^2 may be at most.
    """

    means: Complex
    covariances: Complex
    noise_power: Real
    sinr_target: Real
    power: float


PrecoderDesign = Callable[[DesignProblem], Complex]
"""From a problem to a precoder F [N, K] with |F|_F^2 <= power. May return non-finite numbers, which are not emitted."""


def mrt(problem: DesignProblem) -> Complex:
    """Maximum-ratio transmission: every user's beam is matched to its own channel."""
    return _with_equal_power(problem.means.conj().T, problem)


def zf(problem: DesignProblem) -> Complex:
    """Zero forcing: no user hears another's beam, as far as the means tell (pseudo-inverse, so any K)."""
    scaled = problem.means / np.linalg.norm(problem.means, axis=1, keepdims=True).clip(1e-300)
    return _with_equal_power(np.linalg.pinv(scaled, rcond=1e-9), problem)


def rzf(problem: DesignProblem) -> Complex:
    """Regularised zero forcing (transmit MMSE) that counts channel uncertainty as interference to be avoided.

    f_k ~ (sum_j (h_j^H h_j + C_j^*) / noise_j + K / power I)^-1 h_k^H: C. B. Peel, B. M. Hochwald, A. L.
    Swindlehurst, "A vector-perturbation technique for near-capacity multiantenna multiuser communication, part I",
    IEEE Trans. Commun. 53, 2005, eq. 14, with E[h^H h] = h^H h + C^* in place of h^H h.
    """
    users, antennas = problem.means.shape
    weights = 1.0 / problem.noise_power
    gram = (problem.means.conj().T * weights) @ problem.means
    gram = gram + np.tensordot(weights, problem.covariances.conj(), axes=1)
    regularised = gram + users / problem.power * np.eye(antennas)
    return _with_equal_power(np.linalg.solve(regularised, problem.means.conj().T), problem)


PRECODERS: Mapping[str, PrecoderDesign] = {"mrt": mrt, "zf": zf, "rzf": rzf}


def _with_equal_power(directions: npt.NDArray[np.complexfloating], problem: DesignProblem) -> Complex:
    """Columns scaled to power / K each. A user without a mean gets the strongest direction of its covariance."""
    columns = directions.astype(np.complex128)
    norms = np.linalg.norm(columns, axis=0)
    for user in np.flatnonzero(norms <= 1e-12 * norms.max(initial=0.0)):
        _, vectors = np.linalg.eigh(problem.covariances[user].conj())
        columns[:, user] = vectors[:, -1]
    norms = np.linalg.norm(columns, axis=0)
    return np.asarray(columns * (np.sqrt(problem.power / columns.shape[1]) / norms))


def sinr(means: Complex, precoder: Complex, noise_power: Real) -> Real:
    """SINR of every user when its channel is exactly its row of means [K, N]. Shape [K]."""
    received = np.abs(means @ precoder) ** 2
    wanted = np.diag(received)
    return np.asarray(wanted / (received.sum(axis=1) - wanted + noise_power))
