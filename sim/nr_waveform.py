"""NR signals as a sender emits them: resource grids of SSBs and shared channels, and their OFDM waveform.

The way back of `ingest.nr`: what is modulated here for a slot, its `OfdmDemodulator` takes apart again. What the
standard says of a sender's phase is in it: a carrier starts anew at every symbol (38.211 clause 5.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.nr import pbch
from ingest.nr.ofdm import PRB_SUBCARRIERS, SYMBOLS_PER_SLOT, Carrier
from ingest.nr.sequences import pbch_dmrs, pbch_dmrs_subcarriers, pss, sss
from ingest.nr.slot_plan import Reference
from ingest.nr.ssb_grid import SYNC
from ingest.nr.ssb_patterns import Case, first_symbols

Complex = npt.NDArray[np.complexfloating]

SSB_PRBS = 20
SSB_SYMBOLS = 4


class OfdmModulator:
    """Makes samples at rate_hz, for a receiver tuned to center_hz, of slots of `carrier`.

    Unit power of every resource element gives each element unit power after an orthonormal transform: noise of power P
    per sample is noise of power P per element. rate_hz must be a whole multiple of the subcarrier spacing and the
    carrier lie in the sampled band; raises ValueError otherwise.
    """

    def __init__(self, carrier: Carrier, rate_hz: float, center_hz: float) -> None:
        self.carrier = carrier
        self.rate_hz = rate_hz
        self.center_hz = center_hz
        self._fft = round(rate_hz / carrier.scs_hz)
        if abs(self._fft * carrier.scs_hz - rate_hz) > 1e-6 * carrier.scs_hz:
            raise ValueError(f"{rate_hz} Hz is no whole multiple of the subcarrier spacing {carrier.scs_hz} Hz")
        shift_scs = (carrier.carrier_hz - center_hz) / carrier.scs_hz
        self._left_hz = (shift_scs - round(shift_scs)) * carrier.scs_hz
        self._bins = np.arange(carrier.subcarriers) - carrier.subcarriers // 2 + round(shift_scs)
        if self._bins[0] < -(self._fft // 2) or self._bins[-1] >= (self._fft + 1) // 2:
            raise ValueError("the carrier reaches beyond the sampled band")

    def slot(
        self, slot_in_frame: int, grid: Complex, symbols: range = range(SYMBOLS_PER_SLOT)
    ) -> tuple[int, npt.NDArray[np.complex64]]:
        """First sample after the frame's start, and samples [P, T], of `symbols` of grid [P, 14, carrier.subcarriers].

        Single precision in, single precision throughout.
        """
        subframe, slot = divmod(slot_in_frame, self.carrier.slots_per_subframe)
        start_s = subframe * 1e-3 + self.carrier.slot_start_s(slot)
        useful_s = start_s + self.carrier.symbol_starts_s(slot)
        prefixes_s = start_s + self.carrier.prefix_starts_s(slot)
        ends_s = np.append(prefixes_s[1:], useful_s[-1] + 1 / self.carrier.scs_hz)
        first = begin = self._first_at(float(prefixes_s[symbols[0]]))
        parts = []
        for symbol in symbols:
            end = self._first_at(float(ends_s[symbol]))
            parts.append(self._symbol(grid[:, symbol], float(useful_s[symbol]), begin, end))
            begin = end
        return first, np.concatenate(parts, axis=1)

    def _first_at(self, time_s: float) -> int:
        return int(np.ceil(round(time_s * self.rate_hz, 6)))

    def _symbol(self, elements: Complex, useful_s: float, begin: int, end: int) -> npt.NDArray[np.complex64]:
        """Samples begin to end of the symbol whose useful part starts at `useful_s`, cyclic prefix included."""
        late = np.ceil(round(useful_s * self.rate_hz, 6)) - useful_s * self.rate_hz
        bins = np.zeros((len(elements), self._fft), np.result_type(elements, np.complex64))
        bins[:, self._bins % self._fft] = elements
        if late:
            bins[:, self._bins % self._fft] *= np.exp(2j * np.pi * self._bins * late / self._fft)
        useful = scipy.fft.ifft(bins, axis=1, norm="ortho")
        first = self._first_at(useful_s)
        samples = useful[:, np.arange(begin - first, end - first) % self._fft]
        after = np.arange(begin, end) / self.rate_hz - useful_s
        turn = np.exp(2j * np.pi * (self._left_hz * after - np.mod(self.center_hz * useful_s, 1.0)))
        return np.asarray(samples * turn.astype(samples.dtype), np.complex64)


def ssb_elements(
    pci: int, index: int, l_max: int, message: npt.NDArray[np.uint8], half_frame: int = 0
) -> npt.NDArray[np.complex128]:
    """An SS/PBCH block that says `message` [56], see `pbch.message`. Shape [4, 240] (38.211 clause 7.4.3.1)."""
    index_bar = index + 4 * half_frame if l_max == 4 else index % 8
    found = np.zeros((SSB_SYMBOLS, SSB_PRBS * PRB_SUBCARRIERS), np.complex128)
    found[0, SYNC], found[2, SYNC] = pss(pci % 3), sss(pci)
    combs = pbch_dmrs_subcarriers(pci)
    for symbol, comb, values in zip((1, 2, 3), combs, np.split(pbch_dmrs(pci, index_bar), [60, 84]), strict=True):
        found[symbol, comb] = values
    found[pbch.data_places(pci % 4)] = pbch.elements(message, pci, index, l_max)
    return found


def ssb_slot(
    case: Case, l_max: int, index: int, elements: npt.NDArray[np.complex128], scs_hz: float, half_frame: int = 0
) -> tuple[int, npt.NDArray[np.complex128]]:
    """Slot in the frame and grid [1, 14, 240] of an SSB on a carrier of its 20 PRBs (38.213 clause 4.1)."""
    slot, symbol = divmod(first_symbols(case, l_max)[index], SYMBOLS_PER_SLOT)
    grid = np.zeros((1, SYMBOLS_PER_SLOT, SSB_PRBS * PRB_SUBCARRIERS), np.complex128)
    grid[0, symbol : symbol + SSB_SYMBOLS] = elements
    return slot + half_frame * 5 * round(scs_hz / 15e3), grid


def shared_channel(
    carrier: Carrier,
    slot_in_frame: int,
    signal: Reference,
    rng: np.random.Generator,
    *,
    bits: int = 4,
    symbols: Sequence[int] = range(SYMBOLS_PER_SLOT),
) -> npt.NDArray[np.complex128]:
    """Each port's grid [P, 14, carrier.subcarriers] of a PUSCH or PDSCH: its DMRS, and random QAM on other `symbols`.

    Symbols with DMRS carry no data. bits: of a QAM symbol, 2, 4, 6 or 8. Elements have unit power.
    """
    groups = signal.pilots(carrier, slot_in_frame, 0)
    ports = sorted({port for group in groups for port in group.ports})
    grid = np.zeros((len(ports), SYMBOLS_PER_SLOT, carrier.subcarriers), np.complex128)
    if not groups:
        return grid
    occupied = np.unique(np.concatenate([group.subcarriers // PRB_SUBCARRIERS for group in groups]))
    columns = (occupied[:, None] * PRB_SUBCARRIERS + np.arange(PRB_SUBCARRIERS)).ravel()
    pilots = {symbol for group in groups for symbol in group.symbols}
    data = [symbol for symbol in symbols if symbol not in pilots]
    levels = np.arange(-(2 ** (bits // 2)) + 1, 2 ** (bits // 2), 2) / np.sqrt((2**bits - 1) * 2 / 3)
    parts = rng.choice(levels, (2, len(ports), len(data), len(columns)))
    grid[:, np.array(data, np.int64)[:, None], columns] = parts[0] + 1j * parts[1]
    for group in groups:
        rows = np.array([ports.index(port) for port in group.ports])
        grid[rows[:, None, None], np.array(group.symbols)[:, None], group.subcarriers] = group.values
    return grid
