"""The LMMSE filter of a learnt prior, and the kernels that apply it to one slot.

The prior covariance in the pilots' subspace is V diag(v) V^H. Pilots are brought into these modes (one product), each
mode is weighted over the slot's symbols by itself, and the modes make the channel on the output tones (another one).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.delay_prior import DelayPrior
from ingest.nr.impulse import impulse_response
from ingest.nr.motion import ModeMotion, move

Complex64 = npt.NDArray[np.complex64]
Complex128 = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

MODE_FLOOR = 0.1
"""Modes with less power than this share of the noise are left out: they would be set to nearly zero. Leaving out power
v instead of weighting it costs v^2 / (v + n), less than a hundredth of the noise n for each."""

STRONG = 0.5
"""Modes whose prior power exceeds this share of the noise decide whether the slot is what it should be."""


_MAX_SCALE = 4.0
"""A slot's power differs from the prior's by fading; where it differs by more than this, the prior is scaled."""


@dataclass(frozen=True, eq=False)
class LmmseFilter:
    """One prior's filter for G ports from S pilots on each of L symbols to O output tones.

    analysis [q, S]: pilots to modes. variances [q]: prior power of each, ascending. synthesis [G O + G T, q]: modes
    to output tones, then to the T taps of their impulse response. shape_power [G, q]: mean squared gain of each mode to
    an output tone. left_out [G]: power that no mode carries. noise_power: what the filter was cut at. total: of the
    variances. strong: how many of the last modes stand out of the noise. delay_s, delay_spread_s [G]: mean and RMS.
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
    """The filter of what `prior` has learnt so far, for tones outputs_hz [O] at this noise power.

    Taps are made of even tones only.
    """
    floor = MODE_FLOOR * noise_power
    variances, vectors = prior.modes(floor)
    across = [prior.cross_covariance(port, outputs_hz, vectors, floor) for port in range(prior.ports)]
    synthesis = np.stack(across) / variances
    is_even = np.allclose(np.diff(outputs_hz, 2), 0.0)
    taps = impulse_response(synthesis.swapaxes(1, 2)).swapaxes(1, 2) if is_even else synthesis[:0]
    shape_power = np.mean(np.abs(synthesis) ** 2, axis=1)
    moments = np.array([prior.moments_s(port) for port in range(prior.ports)])
    return LmmseFilter(
        analysis=np.ascontiguousarray(prior.on_pilots(vectors).conj().T),
        variances=variances,
        synthesis=np.ascontiguousarray(np.concatenate([synthesis, taps]).reshape(-1, len(variances)), np.complex64),
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
    """How each mode on a slot's pilot symbols belongs together.

    eigenvalues [q, L], eigenvectors [q, L, L] of the symbols' correlation matrices; middle [q, L]: correlation of the
    slot's middle with the symbols, in the eigenvectors' coordinates.
    """

    eigenvalues: Real
    eigenvectors: Complex64
    middle: Complex64


def symbol_correlation(times_s: Real, motion: ModeMotion) -> SymbolCorrelation:
    """times_s [L]: when the symbols were, counted from the middle. motion: of the modes."""
    eigenvalues, eigenvectors = np.linalg.eigh(motion.correlation(times_s[:, None] - times_s))
    middle = (motion.correlation(-times_s)[:, None] @ eigenvectors)[:, 0]
    return SymbolCorrelation(
        np.maximum(eigenvalues, 0.0),
        np.ascontiguousarray(eigenvectors, np.complex64),
        np.ascontiguousarray(middle, np.complex64),
    )


def symbols_to_times(
    symbols: SymbolCorrelation, times_s: Real, others_s: Real, motion: ModeMotion, snr: Real
) -> Complex64:
    """LMMSE weights [q, X, L] from a slot's symbols to other times others_s [X], for modes of `snr` [q] each."""
    across = motion.correlation(others_s[:, None] - times_s)
    gains = snr[:, None] / (snr[:, None] * symbols.eigenvalues + 1.0)
    back = symbols.eigenvectors.conj().swapaxes(1, 2)
    return np.asarray(across @ (symbols.eigenvectors * gains[:, None]) @ back, np.complex64)


_LANES = 16

CONFIDENCE, NOISE, CFO_MEASURED, ERROR_POWER = range(4)
"""Columns of what `filter_slots` tells of each slot; the error powers of the ports follow each other."""


@kernel
def filter_slots(
    rows: Complex64,
    modes: Complex64,
    antennas: int,
    least_share: float,
    strong: int,
    variances: Real,
    total: float,
    shape_power: Real,
    left_out: Real,
    eigenvalues: Real,
    eigenvectors: Complex64,
    middle: Complex64,
    symbol_times_s: Real,
    times_s: Real,
    state: Real,
    before: Complex64,
    products: Complex128,
    mode_powers: Real,
    found: Complex64,
    told: Real,
) -> int:
    """Go through slots one after the other until one fails the test; how many passed.

    rows [n, A L, S]: pilots. modes [q, n A L]: the same in modes. Of white noise the strong modes hold more than
    `least_share` of the energy only with the probability of a false alarm. state, before, products, mode_powers: of
    `motion`. Into found [q, n, A] go the modes in the slots' middles, into told [n, 3 + G] the rest.
    """
    count = modes.shape[0]
    per_slot, pilots = rows.shape[1:]
    symbols = per_slot // antennas
    slot_modes = np.empty((count, antennas, symbols), np.complex64)
    remaining = np.empty(count)
    for slot in range(len(rows)):
        energy = 0.0
        for row in range(per_slot):
            energy += line_energy(rows[slot, row])
        inside = 0.0
        judged = 0.0
        for mode in range(count):
            part = 0.0
            for row in range(per_slot):
                value = modes[mode, slot * per_slot + row]
                slot_modes[mode, row // symbols, row % symbols] = value
                part += value.real * value.real + value.imag * value.imag
            inside += part
            if mode >= count - strong:
                judged += part
        if not (energy > 0.0 and energy < np.inf and judged >= least_share * energy):
            return slot
        noise_power = max(energy - inside, 1e-9 * energy) / ((pilots - count) * per_slot)
        told[slot, CONFIDENCE] = max(0.0, 1.0 - pilots * per_slot * noise_power / energy)
        told[slot, NOISE] = noise_power
        told[slot, CFO_MEASURED] = move(
            slot_modes, symbol_times_s, noise_power, times_s[slot], state, before, products, mode_powers
        )
        power = max((inside / per_slot - count * noise_power) / total, 1e-3)
        scale = 1.0 if 1.0 / _MAX_SCALE < power < _MAX_SCALE else power
        weigh(slot_modes, variances, scale, noise_power, eigenvalues, eigenvectors, middle, found[:, slot], remaining)
        for port in range(shape_power.shape[0]):
            error_power = left_out[port]
            for mode in range(count):
                error_power += shape_power[port, mode] * remaining[mode]
            told[slot, ERROR_POWER + port] = error_power
    return len(rows)


@kernel
def line_energy(values: Complex64) -> float:
    """Sum of squared magnitudes of values [n]."""
    # So many sums side by side fill vector registers; one alone waits for each of its additions.
    sums = np.zeros(_LANES, np.float32)
    whole = len(values) // _LANES * _LANES
    for first in range(0, whole, _LANES):
        for lane in range(_LANES):
            value = values[first + lane]
            sums[lane] += value.real * value.real + value.imag * value.imag
    total = 0.0
    for lane in range(_LANES):
        total += sums[lane]
    for index in range(whole, len(values)):
        total += values[index].real * values[index].real + values[index].imag * values[index].imag
    return total


@kernel
def weigh(
    modes: Complex64,
    variances: Real,
    scale: float,
    noise_power: float,
    eigenvalues: Real,
    eigenvectors: Complex64,
    middle: Complex64,
    found: Complex64,
    remaining: Real,
) -> None:
    """Modes found [q, A] in the slot's middle from modes [q, A, L], and the prior variance [q] that remains of each.

    Mode i has prior variance v_i and correlation R = E diag(d) E^H over the symbols, so its weights are
    v_i r^T (v_i R + n I)^-1 = r^T E diag(v_i / (v_i d + n)) E^H for r^T the middle's with the symbols.
    """
    count, antennas, symbols = modes.shape
    for mode in range(count):
        variance = scale * variances[mode]
        for antenna in range(antennas):
            found[mode, antenna] = 0.0
        explained = 0.0
        for eigen in range(symbols):
            along = middle[mode, eigen]
            gain = variance / (variance * eigenvalues[mode, eigen] + noise_power)
            explained += gain * (along.real * along.real + along.imag * along.imag)
            for symbol in range(symbols):
                weight = np.float32(gain) * along * np.conj(eigenvectors[mode, symbol, eigen])
                for antenna in range(antennas):
                    found[mode, antenna] += weight * modes[mode, antenna, symbol]
        remaining[mode] = max(variance * (1.0 - explained), 0.0)


@kernel
def tell_slots(
    lines: Complex64, told: Real, cfr: Complex64, taps: Complex64, snr_db: Real, squares: Real, fourths: Real
) -> None:
    """What the lines [G O + G T, n A] of n slots come to; told [n, 3 + G] is `filter_slots`'s.

    Fills cfr [n, G, A, O], taps [n, G, A, T], snr_db [n, G] per resource element, and the means over the tones of |h|^2
    and |h|^4 into squares and fourths [n, G, A].
    """
    slots, ports, antennas, outputs = cfr.shape
    for row in range(lines.shape[0]):
        port, tone = row // outputs, row % outputs
        target = cfr if port < ports else taps
        for slot in range(slots):
            for antenna in range(antennas):
                target[slot, port % ports, antenna, tone] = lines[row, slot * antennas + antenna]
    for slot in range(slots):
        for port in range(ports):
            power = 0.0
            for antenna in range(antennas):
                square = fourth = 0.0
                for tone in range(outputs):
                    value = cfr[slot, port, antenna, tone]
                    size = float(value.real * value.real + value.imag * value.imag)
                    square += size
                    fourth += size * size
                squares[slot, port, antenna] = square / outputs
                fourths[slot, port, antenna] = fourth / outputs
                power += square / outputs / antennas
            snr_db[slot, port] = 10.0 * np.log10((power + told[slot, ERROR_POWER + port]) / told[slot, NOISE])
