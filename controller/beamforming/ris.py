"""RIS states by conjugate alignment: every element turns what it reflects into phase with the rest.

A panel with a few measured states takes those that are nearest to aligned phases, and betters them element by element.
"""

from __future__ import annotations

import numpy as np

from controller.covariance import Complex, Real
from ingest.kernel import kernel

_TURNS = 4
"""Common turns of aligned phases that are tried before states are taken for them."""

_GAIN = 1e-12
"""Less is no gain but rounding."""

_HALVINGS = 8
"""How often a turn that lowers the objective is halved before the element is left as it is."""


@kernel
def _log_ratio(before: Real, reach: Real, slope: Complex, theta: complex) -> float:
    """sum_k log(p_k / before_k) with p_k = reach_k + 2 Re(theta slope_k)."""
    total = 0.0
    for k in range(before.shape[0]):
        total += np.log((reach[k] + 2.0 * (theta * slope[k]).real) / before[k])
    return total


@kernel
def align_phases(cascades: Complex, floor: float, theta: Complex, sweeps: int) -> Real:
    """Coordinate ascent on sum_k log(floor + |h_k|^2), h_k = cascades[k, 0] + sum_m theta_m cascades[k, m + 1].

    cascades [K, M+1, N]; theta [M] is changed in place and stays on the unit circle; floor > 0. As a function of one
    element floor + |h_k|^2 = p_k = reach_k + 2 Re(theta_m slope_k), slope_k = cascade_km . rest_k^*. The element turns
    towards conj(a) / |a|, a = sum_k slope_k / p_k, where its first-order term is greatest; for one user that is the
    maximum, for more it may be too far, so the turn is halved until the objective does not fall. Returns the objective
    after every sweep, the start included. Shape [sweeps + 1].
    """
    users, rows, antennas = cascades.shape
    channels = cascades[:, 0, :].copy()
    for k in range(users):
        for m in range(rows - 1):
            for n in range(antennas):
                channels[k, n] += theta[m] * cascades[k, m + 1, n]
    powers, reach = np.zeros(users), np.zeros(users)
    slope = np.zeros(users, np.complex128)
    objective = np.zeros(sweeps + 1)
    for sweep in range(sweeps + 1):
        for k in range(users):
            powers[k] = floor
            for n in range(antennas):
                powers[k] += channels[k, n].real ** 2 + channels[k, n].imag ** 2
        objective[sweep] = np.sum(np.log(powers))
        if sweep == sweeps:
            break
        for m in range(rows - 1):
            ahead = 0j
            for k in range(users):
                reach[k], slope[k] = floor, 0.0
                for n in range(antennas):
                    own = cascades[k, m + 1, n]
                    rest = channels[k, n] - theta[m] * own
                    reach[k] += own.real**2 + own.imag**2 + rest.real**2 + rest.imag**2
                    slope[k] += own * np.conj(rest)
                powers[k] = reach[k] + 2.0 * (theta[m] * slope[k]).real
                ahead += slope[k] / powers[k]
            if not abs(ahead) > 0.0:
                continue
            turn = np.angle(np.conj(ahead) / theta[m])
            for _ in range(_HALVINGS):
                turned = theta[m] * np.exp(1j * turn)
                if _log_ratio(powers, reach, slope, turned) >= 0.0:
                    change = turned / abs(turned) - theta[m]
                    theta[m] += change
                    for k in range(users):
                        for n in range(antennas):
                            channels[k, n] += change * cascades[k, m + 1, n]
                    break
                turn *= 0.5
    return objective


@kernel
def choose_states(cascades: Complex, floor: float, states: Complex, theta: Complex, sweeps: int) -> float:
    """Coordinate ascent on `align_phases`' objective over states [Q], any complex numbers; returns it.

    theta [M] holds states, and is changed in place. An element with own channel c_km goes from state t to s:
    p_k = floor + |h_k + (s - t) c_km|^2.
    """
    users, rows, antennas = cascades.shape
    channels = cascades[:, 0, :].copy()
    for k in range(users):
        for m in range(rows - 1):
            for n in range(antennas):
                channels[k, n] += theta[m] * cascades[k, m + 1, n]
    objective = 0.0
    for k in range(users):
        power = floor
        for n in range(antennas):
            power += channels[k, n].real ** 2 + channels[k, n].imag ** 2
        objective += np.log(power)
    for _ in range(sweeps):
        changed = False
        for m in range(rows - 1):
            best, most = theta[m], objective
            for q in range(states.shape[0]):
                total = 0.0
                for k in range(users):
                    power = floor
                    for n in range(antennas):
                        value = channels[k, n] + (states[q] - theta[m]) * cascades[k, m + 1, n]
                        power += value.real**2 + value.imag**2
                    total += np.log(power)
                if total > most + _GAIN:
                    best, most = states[q], total
            if most > objective:
                for k in range(users):
                    for n in range(antennas):
                        channels[k, n] += (best - theta[m]) * cascades[k, m + 1, n]
                theta[m], objective, changed = best, most, True
        if not changed:
            break
    return objective


def conjugate_phases(cascades: Complex, start: Complex, sweeps: int) -> Complex:
    """RIS states [M] that raise the users' channel powers, each in proportion to how weak it is.

    cascades [K, M+1, N]: the beliefs' means. What is raised is sum_k log |h_k|^2, so that a user in the shadow counts
    as much as one in sight, down to 60 dB below the strongest. start [M]: where to begin, of unit modulus; it is
    returned where the means know of no path over the RIS. The states are of complex64 precision: what is emitted is
    what was designed for.
    """
    theta = np.ascontiguousarray(start, np.complex128).copy()
    if not np.any(cascades[:, 1:]):
        return theta
    floor = 1e-6 * float(np.max(np.sum(np.abs(cascades) ** 2, axis=(1, 2))))
    align_phases(np.ascontiguousarray(cascades), floor, theta, sweeps)
    return np.asarray((theta / np.abs(theta)).astype(np.complex64), np.complex128)


def nearest_states(cascades: Complex, start: Complex, sweeps: int, states: Complex) -> Complex:
    """As `conjugate_phases` for a panel that has states [Q] only; start [M] holds some of them, and is never worse.

    All aligned phases may be turned alike without a loss where no path leads past the RIS, and never are at their best
    where they are nearest to few states: so several turns are tried, and each is bettered state by state.
    """
    aligned = conjugate_phases(cascades, start / np.abs(start), sweeps)
    if not np.any(cascades[:, 1:]):
        return start
    means = np.ascontiguousarray(cascades)
    floor = 1e-6 * float(np.max(np.sum(np.abs(means) ** 2, axis=(1, 2))))
    best = np.ascontiguousarray(start, np.complex128).copy()
    most = choose_states(means, floor, states, best, sweeps)
    for turn in np.exp(2j * np.pi * np.arange(_TURNS) / _TURNS):
        tried = states[np.argmin(np.abs(np.angle(aligned[:, None] * turn / states)), axis=1)]
        objective = choose_states(means, floor, states, tried, sweeps)
        if objective > most:
            best, most = tried, objective
    return best
