"""Where OFDM symbols lie in samples of which nothing is known: spacing, symbol timing and fractional frequency offset.

Only the cyclic prefix is used (van de Beek et al. 1997), folded over the half subframe after which NR's pattern of
prefixes repeats (38.211 clause 5.3.1). Which symbol of the half subframe is which follows from the prefixes only
weakly, from the one that is longer; whoever reads a sequence in a symbol tells it by `TimeGrid.aligned`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.nr.ofdm import Carrier

HALF_SUBFRAME_S = 0.5e-3
_BLOCK_HZ = 360e3
"""Resolution in frequency of the look for what is occupied."""

_FLOOR_SHARE = 0.1
_LINE_RATIO = 20.0
"""Over the median of its neighbourhood an OFDM signal's power in a bin exceeds this with probability 1e-6."""


@dataclass(frozen=True)
class TimeGrid:
    """Symbols in samples: a half subframe starts at sample `start` (0 <= start < its length, fractional).

    coherence: what the prefixes correlate with, 0 to 1. cfo_hz: the frequency offset modulo scs_hz, in +-scs_hz / 2.
    Symbols are counted from the first one of the half subframe before `start`.
    """

    scs_hz: float
    rate_hz: float
    start: float
    cfo_hz: float
    coherence: float

    @property
    def fft(self) -> int:
        return round(self.rate_hz / self.scs_hz)

    @property
    def per_half(self) -> int:
        """Symbols of a half subframe."""
        return round(7 * self.scs_hz / 15e3)

    def useful(self, symbols: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """First sample of the useful part of each of `symbols`, fractional."""
        halves, within = np.divmod(np.asarray(symbols), self.per_half)
        useful_s = _half_subframe_s(self.scs_hz)
        return np.asarray(self.start + ((halves - 1) * HALF_SUBFRAME_S + useful_s[within]) * self.rate_hz, np.float64)

    def symbols_inside(self, samples: int) -> npt.NDArray[np.int64]:
        """The symbols whose transform windows lie within [0, samples)."""
        halves = int(np.ceil(samples / (HALF_SUBFRAME_S * self.rate_hz))) + 2
        symbols = np.arange(halves * self.per_half)
        first = self.window_starts(symbols)
        return symbols[(first >= 0) & (first + self.fft <= samples)]

    def window_starts(self, symbols: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Where the transforms start: half a prefix before the useful parts."""
        early = 72 * self.fft // 2048
        return np.asarray(np.floor(self.useful(symbols)).astype(np.int64) - early)

    def aligned(self, symbol: int, symbol_in_frame: int) -> TimeGrid:
        """This grid with the longer prefixes where they are if `symbol` is the frame's symbol `symbol_in_frame`."""
        useful_s = _half_subframe_s(self.scs_hz)
        half = HALF_SUBFRAME_S * self.rate_hz
        start = float(self.useful(symbol)) - useful_s[symbol_in_frame % self.per_half] * self.rate_hz
        return TimeGrid(self.scs_hz, self.rate_hz, start % half, self.cfo_hz, self.coherence)

    def spectrum(self, samples: npt.NDArray[np.complex64], symbols: npt.NDArray[np.int64]) -> npt.NDArray[np.complex64]:
        """Transforms [len(symbols), A, fft] of samples [A, T], frequencies ascending, timing and offset taken out."""
        starts = self.window_starts(symbols)
        found = np.empty((len(symbols), samples.shape[0], self.fft), np.complex64)
        bins = np.arange(self.fft) - self.fft // 2
        mixer = np.exp(-2j * np.pi * self.cfo_hz / self.rate_hz * np.arange(self.fft)).astype(np.complex64)
        early = self.useful(symbols) - starts
        for row, first in enumerate(starts):
            spectrum = scipy.fft.fft(samples[:, first : first + self.fft] * mixer, axis=1)
            ramp = np.exp(2j * np.pi * early[row] / self.fft * bins) / np.sqrt(self.fft)
            found[row] = np.fft.fftshift(spectrum, axes=1) * ramp
        return found


def find_time_grid(samples: npt.NDArray[np.complex64], rate_hz: float, scs_hz: float) -> TimeGrid | None:
    """The best grid of spacing `scs_hz` in samples [A, T], or None where they hold no whole symbol or no signal.

    rate_hz must be a whole multiple of scs_hz.
    """
    fft = round(rate_hz / scs_hz)
    prefix = 144 * fft // 2048
    if prefix == 0 or samples.shape[1] < 2 * (fft + prefix):
        return None
    filtered = _occupied_only(samples, rate_hz)
    products = np.sum(filtered[:, :-fft] * np.conj(filtered[:, fft:]), axis=0)
    power = np.sum(np.abs(filtered) ** 2, axis=0)
    energy = (power[:-fft] + power[fft:]) / 2
    sums = _moving_sum(products, prefix)
    energies = _moving_sum(energy, prefix)
    half = HALF_SUBFRAME_S * rate_hz
    length = round(half)
    folded = np.zeros(length, np.complex128)
    weight = np.zeros(length)
    useful_s = _half_subframe_s(scs_hz)
    halves = int(np.ceil(samples.shape[1] / half)) + 1
    last = np.round(useful_s * rate_hz).astype(int) - prefix
    for index in range(-1, halves):
        for offset in last:
            _add_from(folded, sums, round(index * half) + offset)
            _add_from(weight, energies, round(index * half) + offset)
    if weight.max() <= 0.0:
        return None
    likelihood = np.abs(folded) ** 2 / np.maximum(weight, 1e-6 * weight.max())
    best = int(np.argmax(likelihood))
    cfo_hz = -float(np.angle(folded[best])) / (2 * np.pi) * scs_hz
    coherence = float(np.abs(folded[best]) / max(weight[best], 1e-30))
    return TimeGrid(scs_hz, rate_hz, float(best), cfo_hz, coherence)


def _half_subframe_s(scs_hz: float) -> npt.NDArray[np.float64]:
    """Starts of the useful parts of a half subframe's symbols, in seconds."""
    carrier = Carrier(scs_hz, 24, 0.0)
    symbols = range(round(7 * scs_hz / 15e3))
    return np.array([carrier.slot_start_s(i // 14) + carrier.symbol_starts_s(i // 14)[i % 14] for i in symbols])


def _add_from(total: npt.NDArray[Any], values: npt.NDArray[Any], first: int) -> None:
    """total[t] += values[first + t] where there is such a value."""
    low = max(0, -first)
    high = min(len(total), len(values) - first)
    if low < high:
        total[low:high] += values[first + low : first + high]


def _moving_sum(values: npt.NDArray[np.inexact], length: int) -> npt.NDArray[np.inexact]:
    """Sum of `length` values from each one on. Shape [len(values) - length + 1]."""
    total = np.concatenate([np.zeros(1, values.dtype), values]).astype(np.result_type(values, np.float64)).cumsum()
    return np.asarray(total[length:] - total[:-length])


def _occupied_only(samples: npt.NDArray[np.complex64], rate_hz: float) -> npt.NDArray[np.complex64]:
    """The samples filtered by how far each frequency rises above the noise at its best time.

    A few resource blocks at 0 dB drown in the noise of a wide capture; what is nowhere occupied is taken out first.
    """
    points = 2 * max(round(rate_hz / _BLOCK_HZ / 2), 4)
    blocks = samples.shape[1] // points
    cut = samples[:, : blocks * points].reshape(samples.shape[0], blocks, points)
    power = np.asarray(np.sum(np.abs(scipy.fft.fft(cut, axis=2)) ** 2, axis=0, dtype=np.float64))
    group = max(min(12, blocks // 4), 1)
    smooth = np.asarray(power[: blocks // group * group].reshape(-1, group, points).mean(axis=1))
    smooth = (smooth + np.roll(smooth, 1, axis=1) + np.roll(smooth, -1, axis=1)) / 3
    floor = float(np.quantile(smooth, _FLOOR_SHARE))
    # The greatest of so many averages of noise lies well above its mean; the gain counts what exceeds that.
    best = np.quantile(smooth, 0.9, axis=0)
    gain = np.maximum(1.0 - 1.75 * floor / np.maximum(best, 1e-30), 0.0)
    if not gain.any():
        return samples
    length = samples.shape[1]
    order = np.argsort(np.fft.fftfreq(points))
    grid = np.fft.fftfreq(points)[order] * points
    # Whitened, so that one strong user or a leaking carrier does not speak for all.
    whitened = (gain / np.sqrt(np.maximum(best, 1e-30)))[order]
    weights = np.interp(np.fft.fftfreq(length) * points, grid, whitened, period=points).astype(np.float32)
    spectrum = scipy.fft.fft(samples, axis=1) * weights
    return np.asarray(scipy.fft.ifft(_without_lines(spectrum), axis=1), np.complex64)


def _without_lines(spectrum: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """The spectrum [A, L] without what stands out of its neighbourhood as no OFDM signal does: leaking carriers."""
    power = np.abs(spectrum) ** 2
    group = max(spectrum.shape[1] // 512, 8)
    blocks = spectrum.shape[1] // group
    middle = np.median(power[:, : blocks * group].reshape(-1, blocks, group), axis=2)
    middle = np.maximum(np.maximum(np.roll(middle, 1, axis=1), np.roll(middle, -1, axis=1)), middle)
    limit = np.repeat(_LINE_RATIO * middle, group, axis=1)
    limit = np.pad(limit, ((0, 0), (0, spectrum.shape[1] - limit.shape[1])), mode="edge")
    return np.asarray(np.where(power > limit, np.complex64(0), spectrum), np.complex64)
