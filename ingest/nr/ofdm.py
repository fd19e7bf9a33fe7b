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

SYMBOLS_PER_SLOT = 14
"""With the normal cyclic prefix, the only one handled (the extended one exists at 60 kHz alone)."""

PRB_SUBCARRIERS = 12
MAX_PRBS = 275
_TC_PER_FFT = 2048
"""38.211 counts cyclic prefixes for a transform of 2048: 144 samples each, 16 x 2^mu more each half subframe."""

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

    @property
    def slots_per_subframe(self) -> int:
        """2^mu."""
        return round(self.scs_hz / 15e3)

    @property
    def slots_per_frame(self) -> int:
        return 10 * self.slots_per_subframe

    @property
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


class OfdmDemodulator:
    """Takes OFDM symbols of `carrier` out of samples at `rate_hz` tuned to `center_hz`.

    rate_hz must be a whole multiple of the subcarrier spacing. Entries are scaled so that noise of power P per sample
    has power P per resource element. Raises ValueError for other rates.
    """

    def __init__(self, carrier: Carrier, rate_hz: float, center_hz: float) -> None:
        self.carrier = carrier
        self.rate_hz = rate_hz
        self.fft = round(rate_hz / carrier.scs_hz)
        if abs(self.fft * carrier.scs_hz - rate_hz) > 1e-6 * carrier.scs_hz:
            raise ValueError(f"{rate_hz} Hz is no whole multiple of the subcarrier spacing {carrier.scs_hz} Hz")
        shift_scs = (carrier.carrier_hz - center_hz) / carrier.scs_hz
        self._whole_scs = round(shift_scs)
        self.residual_hz = (shift_scs - self._whole_scs) * carrier.scs_hz
        """What is left between the grid and the transform's bins; mixed off in time together with the CFO."""
        bins = np.arange(carrier.subcarriers) - carrier.subcarriers // 2 + self._whole_scs
        inside = (bins >= -(self.fft // 2)) & (bins < (self.fft + 1) // 2)
        if not inside.all():
            lost = int(np.count_nonzero(~inside))
            raise ValueError(f"{lost} subcarriers of the carrier lie outside of the sampled band")
        self._bins = bins % self.fft
        self._backoff = int(_CP_SHARE * 144 * self.fft / _TC_PER_FFT)

    def window_starts(self, slot_start: float, slot_in_subframe: int, symbols: Sequence[int]) -> npt.NDArray[np.int64]:
        """First sample of the transform's window of each of `symbols`; slot_start in samples, may be fractional."""
        useful = slot_start + self.carrier.symbol_starts_s(slot_in_subframe)[list(symbols)] * self.rate_hz
        return np.floor(useful).astype(np.int64) - self._backoff

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

        subcarriers [S] picks some; all of the carrier's otherwise. cfo_hz: carrier offset to take out, its phase
        counted from the slot's start. Raises ValueError where a window leaves the samples.
        """
        useful = slot_start + self.carrier.symbol_starts_s(slot_in_subframe)[list(symbols)] * self.rate_hz
        starts = np.floor(useful).astype(np.int64) - self._backoff
        if starts.min() < 0 or starts.max() + self.fft > samples.shape[1]:
            raise ValueError("a symbol lies outside of the samples")
        windows = np.stack([samples[:, start : start + self.fft] for start in starts], axis=1)
        offset_hz = cfo_hz + self.residual_hz
        if offset_hz != 0.0:
            time = starts[:, None] - slot_start + np.arange(self.fft)
            windows *= np.exp(-2j * np.pi * offset_hz / self.rate_hz * time).astype(np.complex64)
        spectrum = scipy.fft.fft(windows, axis=-1, overwrite_x=True)
        wanted = slice(None) if subcarriers is None else subcarriers
        grid = spectrum[..., self._bins[wanted]]
        grid *= self._ramps(useful - starts, slot_in_subframe, symbols, wanted)
        return np.asarray(grid, np.complex64)

    def _ramps(
        self,
        early: npt.NDArray[np.float64],
        slot_in_subframe: int,
        symbols: Sequence[int],
        wanted: slice | npt.NDArray[np.int64],
    ) -> npt.NDArray[np.complex64]:
        """What undoes the windows' starts and the transmitter's upconversion. Shape [len(symbols), S].

        The window starts `early` samples before the useful part: a ramp over the bins. The transmitter's carrier starts
        anew at every symbol, the receiver's runs through (38.211 clause 5.4): a turn per symbol.
        """
        bins = np.where(self._bins >= (self.fft + 1) // 2, self._bins - self.fft, self._bins)[wanted]
        turns = early[:, None] * bins / self.fft
        starts_s = self.carrier.symbol_starts_s(slot_in_subframe)[list(symbols)]
        turns = turns + np.mod(self.carrier.carrier_hz * starts_s, 1.0)[:, None]
        return np.asarray(np.exp(2j * np.pi * turns) / np.sqrt(self.fft), np.complex64)
