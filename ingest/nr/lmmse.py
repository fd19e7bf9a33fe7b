"""The LMMSE filter of a learnt prior, and the kernels that apply it to one slot.

The prior covariance in the pilots' subspace is V diag(v) V^H. Pilots are brought into these modes (one product), each
mode is weighted over the slot's symbols by itself, and the modes make the channel on the output tones (another one).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import j0

from ingest.kernel import kernel
from ingest.nr.delay_prior import DelayPrior

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]

MODE_FLOOR = 0.1
"""Modes with less power than this share of the noise are left out: they would be set to nearly zero. Leaving out power
v instead of weighting it costs v^2 / (v + n), less than a hundredth of the noise n for each."""

STRONG = 0.5
"""Modes whose prior power exceeds this share of the noise decide whether the slot is what it should be."""


@dataclass(frozen=True, eq=False)
class LmmseFilter:
    """One prior's filter for G ports from S pilots on each of L symbols to O output tones.

    analysis [q, S]: pilots to modes. variances [q]: prior power of each mode, ascending. synthesis [G * O, q]: modes to
    output tones. shape_power [G, q]: mean squared gain of each mode to an output tone. left_out [G]: power that no mode
    carries. noise_power: what the filter was cut at. total: of the variances. strong: how many of the last modes stand
    out of the noise. delay_s, delay_spread_s [G]: mean and RMS.
    """

    analysis: Complex64
    variances: Real
    synthesis: Complex64
    shape_power: Real
    left_out: Real
    noise_power: float
    total: float
    strong: int
    delay_s: Real
    delay_spread_s: Real


def build_filter(prior: DelayPrior, outputs_hz: Real, noise_power: float) -> LmmseFilter:
    """The filter of what `prior` has learnt so far, for tones outputs_hz [O] at this noise power."""
    variances, vectors = prior.modes(MODE_FLOOR * noise_power)
    synthesis = (
        np.stack([prior.cross_covariance(port, outputs_hz) @ vectors for port in range(prior.ports)]) / variances
    )
    shape_power = np.mean(np.abs(synthesis) ** 2, axis=1)
    moments = np.array([prior.moments_s(port) for port in range(prior.ports)])
    return LmmseFilter(
        analysis=np.ascontiguousarray((prior.subspace @ vectors).conj().T, np.complex64),
        variances=variances,
        synthesis=np.ascontiguousarray(synthesis.reshape(-1, len(variances)), np.complex64),
        shape_power=shape_power,
        left_out=np.maximum(prior.powers.sum(axis=1) - shape_power @ variances, 0.0),
        noise_power=noise_power,
        total=float(variances.sum()),
        strong=max(int(np.count_nonzero(variances > STRONG * noise_power)), 1),
        delay_s=moments[:, 0],
        delay_spread_s=moments[:, 1],
    )


@dataclass(frozen=True, eq=False)
class SymbolCorrelation:
    """How the channel on a slot's pilot symbols belongs together, by a Clarke spectrum.

    eigenvalues [L], eigenvectors [L, L] of the symbols' correlation matrix; middle [L]: correlation of the slot's
    middle with the symbols, in the eigenvectors' coordinates.
    """

    eigenvalues: Real
    eigenvectors: Real
    middle: Real


def symbol_correlation(times_s: Real, doppler_hz: float) -> SymbolCorrelation:
    """times_s [L]: when the symbols were, counted from the middle. doppler_hz: maximum Doppler shift."""
    eigenvalues, eigenvectors = np.linalg.eigh(j0(2 * np.pi * doppler_hz * (times_s[:, None] - times_s)))
    middle = eigenvectors.T @ j0(2 * np.pi * doppler_hz * times_s)
    return SymbolCorrelation(np.maximum(eigenvalues, 0.0), np.ascontiguousarray(eigenvectors), middle)


@kernel
def _energy(values: Complex64) -> np.float64:
    """Sum of squared magnitudes of values [n]."""
    total = np.float32(0.0)
    for index in range(len(values)):
        total += values[index].real * values[index].real + values[index].imag * values[index].imag
    return np.float64(total)


@kernel
def energies(rows: Complex64, modes: Complex64, strong: int) -> tuple[np.float64, np.float64, np.float64]:
    """Energy of pilots rows [n, S], of modes [q, n] and of the last `strong` of these."""
    energy = np.float64(0.0)
    for row in range(rows.shape[0]):
        energy += _energy(rows[row])
    inside = np.float64(0.0)
    judged = np.float64(0.0)
    first_strong = modes.shape[0] - strong
    for mode in range(modes.shape[0]):
        part = _energy(modes[mode])
        inside += part
        if mode >= first_strong:
            judged += part
    return energy, inside, judged


@kernel
def turn(modes: Complex64, times_s: Real, cfo_hz: float) -> float:
    """Take cfo_hz out of modes [q, A, L] in place; the offset that is left, in hertz.

    Neighbouring symbols tell it by the phase between them; longer steps weigh more.
    """
    symbols = modes.shape[2]
    rotation = np.exp(-2j * np.pi * cfo_hz * times_s).astype(np.complex64)
    turned = np.zeros(symbols, np.complex128)
    for mode in range(modes.shape[0]):
        for antenna in range(modes.shape[1]):
            before = modes[mode, antenna, 0] * rotation[0]
            modes[mode, antenna, 0] = before
            for symbol in range(1, symbols):
                value = modes[mode, antenna, symbol] * rotation[symbol]
                modes[mode, antenna, symbol] = value
                turned[symbol] += np.conj(before) * value
                before = value
    product = 0.0
    weight = 1e-300
    for symbol in range(1, symbols):
        apart_s = times_s[symbol] - times_s[symbol - 1]
        size = np.abs(turned[symbol])
        product += size * apart_s * np.angle(turned[symbol])
        weight += size * apart_s * apart_s
    return product / weight / (2.0 * np.pi)


@kernel
def weigh(
    modes: Complex64,
    variances: Real,
    noise_power: float,
    eigenvalues: Real,
    eigenvectors: Real,
    middle: Real,
) -> tuple[Complex64, Real]:
    """Modes [q, A] in the slot's middle from modes [q, A, L], and the prior variance [q] that remains of each.

    Mode i has prior variance v_i and correlation R = E diag(d) E^T over the symbols, so its weights are
    v_i r^T (v_i R + n I)^-1 = r^T E diag(v_i / (v_i d + n)) E^T.
    """
    count, antennas, symbols = modes.shape
    found = np.zeros((count, antennas), np.complex64)
    remaining = np.empty(count)
    for mode in range(count):
        variance = variances[mode]
        explained = 0.0
        for symbol in range(symbols):
            weight = 0.0
            for eigen in range(symbols):
                gain = variance / (variance * eigenvalues[eigen] + noise_power)
                weight += gain * middle[eigen] * eigenvectors[symbol, eigen]
            for antenna in range(antennas):
                found[mode, antenna] += np.float32(weight) * modes[mode, antenna, symbol]
        for eigen in range(symbols):
            explained += middle[eigen] ** 2 * variance / (variance * eigenvalues[eigen] + noise_power)
        remaining[mode] = max(variance * (1.0 - explained), 0.0)
    return found, remaining


@kernel
def correlate(modes: Complex64, before: Complex64) -> tuple[float, float, float, complex]:
    """What modes [q, A, L] say of motion, with the last slot's symbol means `before` [q, A], which they replace.

    Energy of all symbols; real part of the first symbol's product with the last; energy of the means; product of the
    means with those before.
    """
    energy = 0.0
    within = 0.0
    mean_energy = 0.0
    between = 0.0 + 0.0j
    symbols = modes.shape[2]
    for mode in range(modes.shape[0]):
        for antenna in range(modes.shape[1]):
            mean = modes[mode, antenna, 0] * np.float32(0.0)
            for symbol in range(symbols):
                value = modes[mode, antenna, symbol]
                mean += value
                energy += value.real * value.real + value.imag * value.imag
            first = modes[mode, antenna, 0]
            last = modes[mode, antenna, symbols - 1]
            within += first.real * last.real + first.imag * last.imag
            mean /= np.float32(symbols)
            mean_energy += mean.real * mean.real + mean.imag * mean.imag
            between += np.conj(before[mode, antenna]) * mean
            before[mode, antenna] = mean
    return energy, within, mean_energy, between


@kernel
def line_powers(cfr: Complex64, ports: int) -> Real:
    """Mean squared magnitude per port of cfr [G * O, A]. Shape [G]."""
    powers = np.zeros(ports)
    per_port = cfr.shape[0] // ports
    for row in range(cfr.shape[0]):
        powers[row // per_port] += _energy(cfr[row])
    powers /= per_port * cfr.shape[1]
    return powers
