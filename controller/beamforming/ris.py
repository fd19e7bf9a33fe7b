"""RIS phases by conjugate alignment: every element turns what it reflects into phase with the rest."""

from __future__ import annotations

import numpy as np

from controller.covariance import Complex, Real
from ingest.kernel import kernel


@kernel
def align_phases(cascades: Complex, weights: Real, theta: Complex, sweeps: int) -> Real:
    """Coordinate ascent on sum_k weights_k |h_k|^2, h_k = cascades[k, 0] + sum_m theta_m cascades[k, m + 1].

    cascades [K, M+1, N]; theta [M] is changed in place and stays on the unit circle. For one element the objective is
    const + 2 Re(theta_m a_m), a_m = sum_k weights_k cascade_km . rest_k^*, which theta_m = conj(a_m) / |a_m|
    maximises. So it never falls. Returns the objective after every sweep, the start included. Shape [sweeps + 1].
    """
    users, rows, antennas = cascades.shape
    channels = cascades[:, 0, :].copy()
    for k in range(users):
        for m in range(rows - 1):
            for n in range(antennas):
                channels[k, n] += theta[m] * cascades[k, m + 1, n]
    objective = np.zeros(sweeps + 1)
    for sweep in range(sweeps + 1):
        for k in range(users):
            for n in range(antennas):
                objective[sweep] += weights[k] * (channels[k, n].real ** 2 + channels[k, n].imag ** 2)
        if sweep == sweeps:
            break
        for m in range(rows - 1):
            slope = 0j
            for k in range(users):
                for n in range(antennas):
                    own = cascades[k, m + 1, n]
                    slope += weights[k] * own * np.conj(channels[k, n] - theta[m] * own)
            size = abs(slope)
            if size > 0.0:
                change = np.conj(slope) / size - theta[m]
                theta[m] += change
                for k in range(users):
                    for n in range(antennas):
                        channels[k, n] += change * cascades[k, m + 1, n]
    return objective


def conjugate_phases(cascades: Complex, start: Complex, sweeps: int) -> Complex:
    """RIS states [M] that raise the users' channel powers, each in proportion to how weak it is.

    cascades [K, M+1, N]: the beliefs' means. The weights 1 / |h_k|^2 make it ascend sum_k log |h_k|^2, so that a user
    in the shadow counts as much as one in sight. start [M]: where to begin, of unit modulus; it is returned where the
    means know of no path over the RIS. The states are of complex64 precision: what is emitted is what was designed
    for.
    """
    theta = np.ascontiguousarray(start, np.complex128).copy()
    if not np.any(cascades[:, 1:]):
        return theta
    for _ in range(sweeps):
        channels = cascades[:, 0] + np.tensordot(cascades[:, 1:], theta, axes=(1, 0))
        power = np.sum(np.abs(channels) ** 2, axis=1)
        floor = 1e-6 * float(np.max(np.sum(np.abs(cascades) ** 2, axis=(1, 2))))
        align_phases(np.ascontiguousarray(cascades), 1.0 / np.maximum(power, floor), theta, 1)
    return np.asarray((theta / np.abs(theta)).astype(np.complex64), np.complex128)
