"""NR's resource grid and how it lies in a sampled stream (38.211 clauses 4.3, 4.4, 5.3.1 and 5.4).

A `Carrier` is the grid; an `OfdmDemodulator` takes single OFDM symbols of it out of IQ samples, and transforms no more
than those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.kernel import kernel

SYMBOLS_PER_SLOT = 14
"""With the normal cyclic prefix, the only one handled (the extended one exists at 60 kHz alone)."""

PRB_SUBCARRIERS = 12
MAX_PRBS = 275
_TC_PER_FFT = 2048
"""38.211 counts cyclic prefixes for a transform of 2048: 144 samples each, 16 x 2^mu more each half subframe."""

_MAX_WEIGHTS = 64
_CP_SHARE = 0.5
"""The transform's window starts this share of a cyclic prefix early: timing may err that much either way."""


@dataclass(frozen=True)
class Carrier:
    """A carrier's resource grid.

    prbs: N_grid^size. carrier_hz: the frequency of subcarrier 6 x prbs, the one that 38.104 clause 5.4.2.2 maps to the
    RF reference frequency. first_crb: N_grid^start, the common resource block of PRB 0 (`offsetToCarrier`), from which
    sequences count. Subcarriers are numbered from 0, the lowest one of PRB 0.
    """

    scs_hz: float
    prbs: int
    carrier_hz: float
    first_crb: int = 0

    @property
    def subcarriers(self) -> int:
        return self.prbs * PRB_SUBCARRIERS

    @cached_property
    def slots_per_subframe(self) -> int:
        """2^mu."""
        return round(self.scs_hz / 15e3)

    @cached_property
    def slots_per_frame(self) -> int:
        return 10 * self.slots_per_subframe

    @cached_property
    def slot_s(self) -> float:
        """Mean length of a slot; the first of each half subframe is longer by 16 kappa Tc."""
        return 1e-3 / self.slots_per_subframe

    def tones_hz(self, subcarriers: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Offsets of `subcarriers` from carrier_hz."""
        return (np.asarray(subcarriers, np.float64) - PRB_SUBCARRIERS * self.prbs / 2) * self.scs_hz

    def symbol_starts_s(self, slot_in_subframe: int) -> npt.NDArray[np.float64]:
        """Where the useful part of each symbol starts, after the slot's start in seconds. Shape [14]."""
        begins, useful = self._symbol_times
        first = slot_in_subframe * SYMBOLS_PER_SLOT
        return np.asarray(useful[first : first + SYMBOLS_PER_SLOT] - begins[first])

    def prefix_starts_s(self, slot_in_subframe: int) -> npt.NDArray[np.float64]:
        """Where the cyclic prefix of each symbol starts, after the slot's start in seconds. Shape [14]."""
        begins, _ = self._symbol_times
        first = slot_in_subframe * SYMBOLS_PER_SLOT
        return np.asarray(begins[first : first + SYMBOLS_PER_SLOT] - begins[first])

    def slot_start_s(self, slot_in_subframe: int) -> float:
        """Where the slot starts in its subframe, in seconds."""
        return float(self._symbol_times[0][slot_in_subframe * SYMBOLS_PER_SLOT])

    @property
    def cp_s(self) -> float:
        """The usual cyclic prefix, 144 kappa 2^-mu Tc."""
        return 144.0 / _TC_PER_FFT / self.scs_hz

    @cached_property
    def _symbol_times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Start of each symbol's cyclic prefix and of its useful part in the subframe, in seconds."""
        symbols = SYMBOLS_PER_SLOT * self.slots_per_subframe
        prefixes = np.full(symbols, 144)
        prefixes[:: symbols // 2] += 16 * self.slots_per_subframe
        lengths = prefixes + _TC_PER_FFT
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        unit_s = 1.0 / (_TC_PER_FFT * self.scs_hz)
        return begins * unit_s, (begins + prefixes) * unit_s


@kernel
def _fold(
    samples: npt.NDArray[np.complex64],
    starts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.complex64],
    windows: npt.NDArray[np.complex64],
) -> None:
    """windows [A, L, R, n] = sum over parts p of samples [A, T] from start + p n on, times weights [R, parts, n]."""
    residues, parts, length = weights.shape
    for antenna in range(samples.shape[0]):
        for window in range(len(starts)):
            for residue in range(residues):
                folded = windows[antenna, window, residue]
                for part in range(parts):
                    first = starts[window] + part * length
                    source = samples[antenna, first : first + length]
                    weight = weights[residue, part]
                    plain = weight[0] == 1.0 and weight[1] == 1.0  # of an exponential: so are all
                    if part == 0 and plain:
                        folded[:] = source
                    elif part == 0:
                        for index in range(length):
                            folded[index] = source[index] * weight[index]
                    elif plain:
                        for index in range(length):
                            folded[index] += source[index]
                    else:
                        for index in range(length):
                            folded[index] += source[index] * weight[index]


class OfdmDemodulator:
    """Takes OFDM symbols of `carrier` out of samples at `rate_hz` tuned to `center_hz`.

    rate_hz must be a whole multiple of the subcarrier spacing. cfo_hz: offset of the sender's carrier to take out in
    time, needed where it is more than a few per cent of the spacing. Resource elements are scaled so that noise of
    power P per sample has power P per element. Raises ValueError for other rates, and for a carrier wider than what was
    sampled.

    Windows of `fft` samples are cut out (`windows`) and transformed (`transform`); `coefficients` turn the bins that
    `bins` names into resource elements. `symbols` does all of it for symbols here and there.
    """

    def __init__(self, carrier: Carrier, rate_hz: float, center_hz: float, cfo_hz: float = 0.0) -> None:
        self.carrier = carrier
        self.rate_hz = rate_hz
        self.fft = round(rate_hz / carrier.scs_hz)
        if abs(self.fft * carrier.scs_hz - rate_hz) > 1e-6 * carrier.scs_hz:
            raise ValueError(f"{rate_hz} Hz is no whole multiple of the subcarrier spacing {carrier.scs_hz} Hz")
        shift_scs = (carrier.carrier_hz - center_hz) / carrier.scs_hz
        whole_scs = round(shift_scs)
        grid_hz = (shift_scs - whole_scs) * carrier.scs_hz
        self._mixed_hz = grid_hz + cfo_hz
        # Subcarrier k lies in bin k + whole_scs and turns there with the transform; this much is left of the carrier.
        self._reference_hz = carrier.carrier_hz - whole_scs * carrier.scs_hz
        bins = np.arange(carrier.subcarriers) - carrier.subcarriers // 2 + whole_scs
        lost = int(np.count_nonzero((bins < -(self.fft // 2)) | (bins >= (self.fft + 1) // 2)))
        if lost:
            raise ValueError(f"{lost} subcarriers of the carrier lie outside of the sampled band")
        self._signed_bins = bins
        self._weights: dict[tuple[float, tuple[int, ...] | None], npt.NDArray[np.complex64]] = {}
        self._backoff = int(_CP_SHARE * 144 * self.fft / _TC_PER_FFT)

    def bins(self, subcarriers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where `subcarriers` lie in the transform."""
        return np.asarray(self._signed_bins[subcarriers] % self.fft)

    def windows(self, slot_in_frame: int, symbols: Sequence[int]) -> npt.NDArray[np.int64]:
        """First samples of the symbols' windows after the frame's first sample. Shape [len(symbols)]."""
        return self._window_starts(self._slot_start(slot_in_frame), slot_in_frame, symbols)

    def transform(
        self,
        samples: npt.NDArray[np.complex64],
        starts: npt.NDArray[np.int64],
        cfo_hz: float = 0.0,
        residues: tuple[int, ...] | None = None,
    ) -> npt.NDArray[np.complex64]:
        """Transforms [A, L, bins] of the windows of samples [A, T] that start at `starts` [L].

        cfo_hz is taken out beside the demodulator's own. residues: where only bins of these remainders modulo two are
        wanted, windows are folded and transformed at half the length: bin 2m + residues[r] is then at r * fft / 2 + m.
        Raises ValueError where a window leaves the samples.
        """
        if starts.min() < 0 or starts.max() + self.fft > samples.shape[1]:
            raise ValueError("a symbol lies outside of the samples")
        weights = self._fold_weights(self._mixed_hz + cfo_hz, residues)
        windows = np.empty((samples.shape[0], len(starts), *weights.shape[::2]), np.complex64)
        _fold(samples, starts, weights, windows)
        spectrum = scipy.fft.fft(windows, axis=-1, overwrite_x=True)
        return np.asarray(spectrum.reshape(samples.shape[0], len(starts), -1))

    def _fold_weights(self, mixed_hz: float, residues: tuple[int, ...] | None) -> npt.NDArray[np.complex64]:
        """What the halves (or the whole) of a window are weighted with before they are added. Shape [R, parts, n]."""
        key = (mixed_hz, residues)
        if key not in self._weights:
            time = np.arange(self.fft)
            mixing = np.exp(-2j * np.pi * mixed_hz / self.rate_hz * time)
            if residues is None:
                weights = mixing[None, None]
            else:
                lines = np.exp(-2j * np.pi * np.outer(residues, time) / self.fft) * mixing
                weights = lines.reshape(len(residues), 2, self.fft // 2)
            if len(self._weights) > _MAX_WEIGHTS:
                self._weights.clear()
            self._weights[key] = np.ascontiguousarray(weights, np.complex64)
        return self._weights[key]

    def coefficients(
        self, slot_in_frame: int, symbols: Sequence[int], subcarriers: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.complex64]:
        """What turns the bins of `subcarriers` in the windows of `symbols` into resource elements. Shape [L, S]."""
        start = self._slot_start(slot_in_frame)
        return self._coefficients(start, slot_in_frame, symbols, subcarriers, self._mixed_hz)

    def symbols(
        self,
        samples: npt.NDArray[np.complex64],
        slot_start: float,
        slot_in_subframe: int,
        symbols: Sequence[int],
        *,
        cfo_hz: float = 0.0,
        subcarriers: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.complex64]:
        """Resource elements [A, len(symbols), S] of samples [A, T], where a slot starts at sample `slot_start`.

        slot_start may be fractional. subcarriers [S] picks some; all of the carrier's otherwise. cfo_hz: offset to take
        out beside the demodulator's own; phases are counted from the slot's start. Raises ValueError where a window
        leaves the samples.
        """
        if subcarriers is None:
            subcarriers = np.arange(self.carrier.subcarriers)
        starts = self._window_starts(slot_start, slot_in_subframe, symbols)
        spectrum = self.transform(samples, starts, cfo_hz)
        mixed_hz = self._mixed_hz + cfo_hz
        coefficients = self._coefficients(slot_start, slot_in_subframe, symbols, subcarriers, mixed_hz)
        return np.asarray(spectrum[..., self.bins(subcarriers)] * coefficients)

    def _slot_start(self, slot_in_frame: int) -> float:
        """The slot's start after the frame's, in samples."""
        subframe, slot = divmod(slot_in_frame, self.carrier.slots_per_subframe)
        return (subframe * 1e-3 + self.carrier.slot_start_s(slot)) * self.rate_hz

    def _useful(self, slot: int, symbols: Sequence[int]) -> npt.NDArray[np.float64]:
        """Where the symbols' useful parts start after the slot's start, in samples."""
        starts_s = self.carrier.symbol_starts_s(slot % self.carrier.slots_per_subframe)
        return starts_s[list(symbols)] * self.rate_hz

    def _window_starts(self, slot_start: float, slot: int, symbols: Sequence[int]) -> npt.NDArray[np.int64]:
        useful = np.round(slot_start + self._useful(slot, symbols), 6)  # 1e-6 samples are rounding, no time
        return np.floor(useful).astype(np.int64) - self._backoff

    def _coefficients(
        self,
        slot_start: float,
        slot: int,
        symbols: Sequence[int],
        subcarriers: npt.NDArray[np.int64],
        mixed_hz: float,
    ) -> npt.NDArray[np.complex64]:
        """Ramps over the bins, for windows that start before the useful part, and a turn per symbol.

        The sender's carrier starts anew at every symbol, the receiver's runs through (38.211 clause 5.4). What was
        mixed off started anew at every window.
        """
        useful = self._useful(slot, symbols)
        starts = self._window_starts(slot_start, slot, symbols) - slot_start
        turns = (useful - starts)[:, None] * self._signed_bins[subcarriers] / self.fft
        upconversion = np.mod(self._reference_hz / self.rate_hz * useful, 1.0)
        mixing = -mixed_hz / self.rate_hz * starts
        return np.asarray(
            np.exp(2j * np.pi * (turns + (upconversion + mixing)[:, None])) / np.sqrt(self.fft), np.complex64
        )
