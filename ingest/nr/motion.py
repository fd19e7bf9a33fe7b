"""How a channel moves: its carrier offset, its correlation over time, and the Doppler shift that explains that.

Every delay moves in its own way: a line of sight turns by one Doppler shift, what is scattered by a spectrum of them.
So the correlation over a slot is kept for each mode of the prior too. The state is an array, so that the kernel which
goes through slots updates it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import j0

from ingest.kernel import kernel

Complex64 = npt.NDArray[np.complex64]
Complex128 = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_LEAST_CFO_GAIN, _MOST_CFO_GAIN = 0.03, 0.2
"""Of the tracked carrier offset. Fading turns a slot's channel by up to the Doppler shift: followed at the higher gain
for good, that cost a tenth of a decibel at 350 Hz. The gain rises where the offset keeps to one side of the tracked."""

_GAIN = 0.05

_MODE_SLOTS = 1024
"""Slots that the modes' correlations reach back."""

CFO, HAS_CFO, WITHIN, WITHIN_POWER, BETWEEN, BETWEEN_POWER, LAG, BEFORE_S, BEFORE_POWER, HAS_BEFORE = range(10)
SLOTS, CFO_OFF, CFO_SQUARE = range(10, 13)
"""Entries of the state: tracked carrier offset [Hz]; correlation product and power over a slot and from slot to slot;
the mean lag of the latter; time and power of the slot before; slots that the modes' correlations are of; mean and mean
square of what slots' offsets are off the tracked one."""

_STEP = 1e-3
_FALLING = -j0(np.arange(0.0, 2.4, _STEP))
"""-J0 at multiples of _STEP up to its first zero, where it falls all the way."""

_SPREAD, _LEAST_SPREAD = 4.0, 1e-3
"""Variance of the modes' correlations about that of all of them, in shares of what the latter lacks to one, and at
least. A line of sight keeps all of them near one; what is scattered then differs by several times that."""

_LINE_SHARE = 0.5
"""A line that explains less of a mode may as well be chance."""

_RESEMBLES = 0.3
"""Below this correlation over a slot a mode's phase from its first to its last symbol may have gone round."""


@dataclass(frozen=True, eq=False)
class ModeMotion:
    """Doppler spectra of modes [q]: line_share of the power at line_hz, the rest by Clarke of maximum doppler_hz about
    scatter_hz."""

    scatter_hz: Real
    doppler_hz: Real
    line_hz: Real
    line_share: Real

    def correlation(self, apart_s: Real) -> Complex128:
        """Of each mode at times that are apart_s [...] apart. Shape [q, ...]."""
        scattered = j0(2 * np.pi * np.multiply.outer(self.doppler_hz, apart_s))
        turns, lines = (
            np.exp(2j * np.pi * np.multiply.outer(each_hz, apart_s)) for each_hz in (self.scatter_hz, self.line_hz)
        )
        share = self.line_share.reshape(-1, *(1,) * apart_s.ndim)
        return np.asarray((1.0 - share) * scattered * turns + share * lines)


class Motion:
    """What is known of one user's motion from pilots that span `span_s` in a slot.

    state [13], `before` [q, A], the modes of the slot before, and products [q], powers [q] belong to `move`.
    """

    def __init__(self, span_s: float) -> None:
        self.state: Real = np.zeros(13)
        self.before: Complex64 = np.zeros((0, 0), np.complex64)
        self.products: Complex128 = np.zeros(0, np.complex128)
        self.powers: Real = np.zeros(0)
        self._span_s = span_s
        self._basis: Complex64 = np.zeros((0, 0), np.complex64)

    def begin(self, antennas: int, basis: Complex64) -> None:
        """Modes of `basis` [q, S] come next; where that is another one than before, the slot before does not compare.

        What the modes' correlations were goes over to the new modes by how much of the old ones they hold.
        """
        modes = len(basis)
        if basis is not self._basis:
            shares = np.abs(basis @ self._basis.conj().T) ** 2 if self._basis.size else np.zeros((modes, 0))
            self.products = shares @ self.products
            self.powers = shares @ self.powers
            self._basis = basis
            self.before = self.before[:0]
        if self.before.shape != (modes, antennas):
            self.before = np.zeros((modes, antennas), np.complex64)
            self.state[HAS_BEFORE] = 0.0

    @property
    def cfo_hz(self) -> float:
        """The tracked carrier offset."""
        return float(self.state[CFO])

    @property
    def lag_s(self) -> float:
        """Mean time from slot to slot."""
        return float(self.state[LAG])

    def modes(self, antennas: int, noise_power: float) -> ModeMotion:
        """How the modes move, on top of the tracked carrier offset.

        A mode's correlation over the slot is what was measured of it and what holds for most, by the variances of both.
        It tells the middle and the width of one spectrum; where it takes a strong line beside what is scattered in most
        modes to explain it, the line's share and shift.
        """
        count = len(self.products)
        if self.state[WITHIN_POWER] <= 0.0 or self._span_s <= 0.0:
            return ModeMotion(*np.zeros((4, count)))
        overall = float(np.clip(self.state[WITHIN] / self.state[WITHIN_POWER], 0.0, 1.0))
        if overall < _RESEMBLES:
            doppler_hz = np.full(count, clarke_hz(overall, self._span_s))
            return ModeMotion(np.zeros(count), doppler_hz, *np.zeros((2, count)))
        powers = np.maximum(self.powers, 1e-3 * noise_power)
        measured = self.products / powers
        noise = noise_power / powers
        lacking = 1.0 - overall**2
        chance = (lacking + 2.0 * noise + noise**2) / (max(self.state[SLOTS], 1.0) * antennas)
        spread = _SPREAD * lacking + _LEAST_SPREAD
        weights = spread / (spread + chance)
        scattered = complex(_median(measured.real, weights), _median(measured.imag, weights))
        scattered /= max(abs(scattered), 1.0)
        correlation = scattered + weights * (measured - scattered)
        correlation /= np.maximum(np.abs(correlation), 1.0)
        # share k of a line: |correlation - (1 - k) scattered| = k
        off = correlation - scattered
        along = (off * np.conj(scattered)).real
        lacking = max(1.0 - abs(scattered) ** 2, 1e-12)
        share = np.clip((along + np.sqrt(along**2 + lacking * np.abs(off) ** 2)) / lacking, 0.0, 1.0)
        line = np.angle(correlation - (1.0 - share) * scattered)
        is_line = share > _LINE_SHARE
        others = np.where(is_line, scattered, correlation)
        return ModeMotion(
            np.angle(others) / (2 * np.pi * self._span_s),
            clarke_hz(np.abs(others), self._span_s),
            line / (2 * np.pi * self._span_s),
            np.where(is_line, share, 0.0),
        )

    @property
    def doppler_hz(self) -> float | None:
        """Maximum Doppler shift of a Clarke spectrum, from the longer lag over which the channel resembles itself."""
        state = self.state
        product, power, lag_s = state[WITHIN], state[WITHIN_POWER], self._span_s
        if not product < 0.9 * power:
            product, power, lag_s = state[BETWEEN], state[BETWEEN_POWER], state[LAG]
        return float(clarke_hz(product / power, lag_s)) if power > 0.0 and lag_s > 0.0 else None


def _median(values: Real, weights: Real) -> float:
    """Weighted median."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(reached, 0.5 * reached[-1])]])


def clarke_hz(correlation: float | Real, lag_s: float) -> Real:
    """Frequencies f for which J0(2 pi f lag_s) is `correlation`."""
    entry = np.minimum(np.searchsorted(_FALLING, -np.asarray(correlation)), len(_FALLING) - 1)
    return np.asarray(_STEP * entry / (2 * np.pi * lag_s))


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
def move(
    modes: Complex64,
    times_s: Real,
    noise_power: float,
    time_s: float,
    state: Real,
    before: Complex64,
    products: Complex128,
    powers: Real,
) -> float:
    """Follow the motion over one more slot; the carrier offset measured in it, in hertz.

    modes [q, A, L]: the tracked offset is taken out of them, in place. times_s [L]: of the symbols; time_s: of the
    slot. products, powers [q]: each mode's last symbol times the conjugate of its first, and the power of both, as
    means over slots and antennas.
    """
    count, antennas, symbols = modes.shape
    measured_hz = 0.0
    if symbols > 1:
        left_hz = turn(modes, times_s, state[CFO])
        measured_hz = state[CFO] + left_hz
        if state[HAS_CFO] == 0.0:
            turn(modes, times_s, left_hz)
            state[CFO] = measured_hz
            state[HAS_CFO] = 1.0
        else:
            state[CFO_OFF] += _GAIN * (left_hz - state[CFO_OFF])
            state[CFO_SQUARE] += _GAIN * (left_hz * left_hz - state[CFO_SQUARE])
            gain = state[CFO_OFF] ** 2 / max(state[CFO_SQUARE], 1e-12)
            gain = min(max(gain, 1.0 / (state[SLOTS] + 1.0), _LEAST_CFO_GAIN), _MOST_CFO_GAIN)
            state[CFO] += gain * left_hz
    state[SLOTS] = min(state[SLOTS] + 1.0, _MODE_SLOTS)
    mode_gain = 1.0 / state[SLOTS]
    energy = 0.0
    within = mean_energy = 0.0
    between = 0.0 + 0.0j
    for mode in range(count):
        product = 0.0 + 0.0j
        outer = 0.0
        for antenna in range(antennas):
            mean = modes[mode, antenna, 0] * np.float32(0.0)
            for symbol in range(symbols):
                value = modes[mode, antenna, symbol]
                mean += value
                energy += value.real * value.real + value.imag * value.imag
            first = modes[mode, antenna, 0]
            last = modes[mode, antenna, symbols - 1]
            product += np.conj(first) * last
            outer += 0.5 * (first.real**2 + first.imag**2 + last.real**2 + last.imag**2)
            mean /= np.float32(symbols)
            mean_energy += mean.real * mean.real + mean.imag * mean.imag
            between += np.conj(before[mode, antenna]) * mean
            before[mode, antenna] = mean
        within += product.real
        products[mode] += mode_gain * (product / antennas - products[mode])
        powers[mode] += mode_gain * (outer / antennas - noise_power - powers[mode])
    noise_energy = noise_power * count * antennas
    if symbols > 1:
        gain = _GAIN if state[WITHIN_POWER] > 0.0 else 1.0
        state[WITHIN] += gain * (within - state[WITHIN])
        state[WITHIN_POWER] += gain * (energy / symbols - noise_energy - state[WITHIN_POWER])
    power = mean_energy - noise_energy / symbols
    if state[HAS_BEFORE] > 0.0:
        gain = _GAIN if state[BETWEEN_POWER] > 0.0 else 1.0
        state[LAG] += gain * (time_s - state[BEFORE_S] - state[LAG])
        state[BETWEEN] += gain * (np.abs(between) - state[BETWEEN])
        state[BETWEEN_POWER] += gain * (np.sqrt(max(state[BEFORE_POWER] * power, 0.0)) - state[BETWEEN_POWER])
    state[HAS_BEFORE] = 1.0
    state[BEFORE_S] = time_s
    state[BEFORE_POWER] = power
    return measured_hz
