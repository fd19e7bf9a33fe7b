"""Where in a frame an SS/PBCH block lies: patterns A to E (38.213 clause 4.1), and the frame timing that follows.

None of the patterns puts a block on a symbol with the longer cyclic prefix that begins every half subframe, but the
longer prefixes before a block count in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.nr.numerology import FR1_MAX_HZ, is_unpaired_30_khz
from ingest.nr.ssb import SsbMeasurement

Case = Literal["A", "B", "C", "D", "E"]

FRAME_S = 10e-3
HALF_FRAME_S = 5e-3
SFN_COUNT = 1024
_SYMBOLS_PER_SLOT = 14

_SPACINGS_HZ: dict[Case, float] = {"A": 15e3, "B": 30e3, "C": 30e3, "D": 120e3, "E": 240e3}
_FIRST: dict[Case, tuple[int, ...]] = {
    "A": (2, 8),
    "B": (4, 8, 16, 20),
    "C": (2, 8),
    "D": (4, 8, 16, 20),
    "E": (8, 12, 16, 20, 32, 36, 40, 44),
}
_PERIODS: dict[Case, int] = {"A": 14, "B": 28, "C": 14, "D": 28, "E": 56}
_WIDE_STEPS: dict[Case, tuple[int, ...]] = {
    "D": (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18),
    "E": (0, 1, 2, 3, 5, 6, 7, 8),
}


@dataclass(frozen=True)
class FrameTiming:
    """Where the frame of a block lies. frame_start_s: its start, in the time of the stream; sfn: its number, if known.

    slot, symbol: of the block's first symbol, the slot counted in the frame, both in the block's own spacing.
    """

    case: Case
    frame_start_s: float
    half_frame: int
    slot: int
    symbol: int
    sfn: int | None

    def frame_at(self, time_s: float) -> tuple[int | None, float]:
        """Number and start of the frame that `time_s` lies in, of a clock that runs as the cell's."""
        frames = int(np.floor((time_s - self.frame_start_s) / FRAME_S))
        number = None if self.sfn is None else (self.sfn + frames) % SFN_COUNT
        return number, self.frame_start_s + frames * FRAME_S


@cache
def first_symbols(case: Case, l_max: int) -> tuple[int, ...]:
    """First symbol of each SSB index, counted from the half frame's start in the block's spacing."""
    steps: Sequence[int] = _WIDE_STEPS.get(case, range(l_max // len(_FIRST[case])))
    found = tuple(first + _PERIODS[case] * step for step in steps for first in _FIRST[case])
    if len(found) != l_max:
        raise ValueError(f"pattern {case} has no {l_max} blocks")
    return found


def symbol_start_s(symbol: int, scs_hz: float) -> float:
    """Where a symbol's cyclic prefix starts after its half frame's start (38.211 clause 5.3.1)."""
    per_half_subframe = 7 * round(scs_hz / 15e3)
    longer = -(-symbol // per_half_subframe)
    return symbol * (2048 + 144) / (2048 * scs_hz) + longer * 16 / 30.72e6


def ssb_start_s(case: Case, l_max: int, index: int) -> float:
    """Where an SSB starts after its half frame's start."""
    return symbol_start_s(first_symbols(case, l_max)[index], _SPACINGS_HZ[case])


def case_of(scs_hz: float, raster_hz: float) -> Case:
    """The pattern by 38.104 table 5.4.3.3-1; at 30 kHz B in the FDD bands up to 3 GHz (n5, n66 and their like), else C.

    Raises ValueError for a spacing that no SSB has.
    """
    if scs_hz == 30e3:
        return "C" if raster_hz > 3e9 or is_unpaired_30_khz(raster_hz) else "B"
    cases: dict[float, Case] = {15e3: "A", 120e3: "D", 240e3: "E"}
    if scs_hz not in cases or (scs_hz >= 120e3) != (raster_hz > FR1_MAX_HZ):
        raise ValueError(f"no SSB has {scs_hz} Hz at {raster_hz} Hz")
    return cases[scs_hz]


def decide_case(expected: Case, l_max: int, seen: Sequence[tuple[float, int]]) -> Case:
    """`expected`, or the other of B and C if the starts [s] and indices of the blocks `seen` speak for that alone.

    Times may be whole half frames apart. One index tells nothing.
    """
    if expected not in ("B", "C") or len({index for _, index in seen}) < 2:
        return expected
    misfits = {case: _misfit_s(case, l_max, seen) for case in ("B", "C")}
    tolerance_s = 0.5 * (2048 + 144) / (2048 * 30e3)
    other: Case = "B" if expected == "C" else "C"
    return other if misfits[expected] > tolerance_s >= misfits[other] else expected


def _misfit_s(case: Case, l_max: int, seen: Sequence[tuple[float, int]]) -> float:
    """How far the half frames' starts that the blocks imply are from each other, modulo half frames."""
    starts: npt.NDArray[np.float64] = np.array([time_s - ssb_start_s(case, l_max, index) for time_s, index in seen])
    apart = np.mod(starts - starts[0] + HALF_FRAME_S / 2, HALF_FRAME_S) - HALF_FRAME_S / 2
    return float(np.max(np.abs(apart)))


def frame_timing(found: SsbMeasurement, time_s: float, case: Case | None = None) -> FrameTiming | None:
    """The frame of a block whose first cyclic prefix starts at `time_s`; None where half frame or index are unknown."""
    if found.half_frame is None or (found.l_max == 64 and found.mib is None):
        return None
    case = case or case_of(found.scs_hz, found.ssb_center_hz)
    symbols = first_symbols(case, found.l_max)
    half_frame_s = time_s - symbol_start_s(symbols[found.ssb_index], found.scs_hz)
    slot, symbol = divmod(symbols[found.ssb_index], _SYMBOLS_PER_SLOT)
    slots_per_half_frame = round(5 * found.scs_hz / 15e3)
    return FrameTiming(
        case=case,
        frame_start_s=half_frame_s - found.half_frame * HALF_FRAME_S,
        half_frame=found.half_frame,
        slot=slot + found.half_frame * slots_per_half_frame,
        symbol=symbol,
        sfn=None if found.mib is None else found.mib.sfn,
    )
