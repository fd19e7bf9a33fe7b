"""How a channel moves: its carrier offset, its correlation over time, and the Doppler shift that explains that.

The state is an array, so that the kernel which goes through slots updates it.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt
from scipy.special import j0

from ingest.kernel import kernel

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]

_CFO_GAIN = 0.2
_GAIN = 0.05

CFO, HAS_CFO, WITHIN, WITHIN_POWER, BETWEEN, BETWEEN_POWER, LAG, BEFORE_S, BEFORE_POWER, HAS_BEFORE = range(10)
"""Entries of the state: tracked carrier offset [Hz]; correlation product and power over a slot and from slot to slot;
the mean lag of the latter; time and power of the slot before."""

_STEP = 1e-3
_FALLING: list[float] = (-j0(np.arange(0.0, 2.4, _STEP))).tolist()
"""-J0 at multiples of _STEP up to its first zero, where it falls all the way."""


class Motion:
    """What is known of one user's motion from pilots that span `span_s` in a slot.

    state [10] and `before` [q, A], the modes of the slot before, belong to `move`.
    """

    def __init__(self, span_s: float) -> None:
        self.state: Real = np.zeros(10)
        self.before: Complex64 = np.zeros((0, 0), np.complex64)
        self._span_s = span_s
        self._basis: object = None

    def begin(self, modes: int, antennas: int, basis: object) -> None:
        """Modes of `basis` come next; where that is another one than before, the slot before does not compare."""
        if basis is not self._basis or self.before.shape != (modes, antennas):
            self.before = np.zeros((modes, antennas), np.complex64)
            self.state[HAS_BEFORE] = 0.0
            self._basis = basis

    @property
    def doppler_within_slot_hz(self) -> float:
        """Maximum Doppler shift by the correlation over a slot's pilots alone; 0 where they do not tell."""
        return _clarke_hz(self.state[WITHIN], self.state[WITHIN_POWER], self._span_s) or 0.0

    @property
    def doppler_hz(self) -> float | None:
        """Maximum Doppler shift of a Clarke spectrum, from the longer lag over which the channel resembles itself."""
        state = self.state
        if state[WITHIN] < 0.9 * state[WITHIN_POWER]:
            return _clarke_hz(state[WITHIN], state[WITHIN_POWER], self._span_s)
        return _clarke_hz(state[BETWEEN], state[BETWEEN_POWER], state[LAG])


def _clarke_hz(product: float, power: float, lag_s: float) -> float | None:
    """Frequency f for which J0(2 pi f lag) is product / power; None where nothing is known."""
    if power <= 0.0 or lag_s <= 0.0:
        return None
    entry = min(bisect_left(_FALLING, -product / power), len(_FALLING) - 1)
    return float(_STEP * entry / (2 * np.pi * lag_s))


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
def move(modes: Complex64, times_s: Real, noise_power: float, time_s: float, state: Real, before: Complex64) -> float:
    """Follow the motion over one more slot; the carrier offset measured in it, in hertz.

    modes [q, A, L]: the tracked offset is taken out of them, in place. times_s [L]: of the symbols; time_s: of the
    slot.
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
            state[CFO] += _CFO_GAIN * left_hz
    energy = 0.0
    within = 0.0
    mean_energy = 0.0
    between = 0.0 + 0.0j
    for mode in range(count):
        for antenna in range(antennas):
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
