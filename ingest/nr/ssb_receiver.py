"""SS/PBCH blocks of one stream: searches for cells, then follows every block of the cells found.

A full search runs over all raster positions until a cell is found, and again every `research_s` of signal. Where a
cell was just found, its raster position is searched for a little longer, for the other blocks of its burst; then each
block is measured at its expected time alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ingest.nr.band import WidebandSpectrum
from ingest.nr.numerology import FR1_MAX_HZ, SSB_CP, SSB_SAMPLES, ssb_sample_rate_hz, ssb_spacings_hz
from ingest.nr.pbch import Mib
from ingest.nr.polar import RATE_MATCHED_BITS, decode
from ingest.nr.raster import candidates_hz
from ingest.nr.ssb import SsbMeasurement
from ingest.nr.ssb_patterns import Case, FrameTiming, case_of, decide_case, frame_timing
from ingest.nr.ssb_search import search_band
from ingest.nr.ssb_tracking import SsbTracker, supports
from ingest.nr.stretch import Stretch

RESEARCH_S = 10.0
SETTLE_S = 0.04
"""Two of the periods that a terminal assumes of SSBs (38.213 clause 4.1)."""

_PIECE_S = 0.02
"""The longest stretch that is searched at once; it bounds the memory of a search."""
_MAX_LEVEL, _SILENCE = 1e6, 1e-30
_MAX_CELLS = 1000
"""Cells and trackers remembered; the weakest are forgotten first."""

Key = tuple[float, float, int, int]


@dataclass(frozen=True)
class Cell:
    """One SSB of a cell as the receiver saw it best. time_s: start of that SSB in the stream. seen: how many of it.

    mib: what its PBCH said last, None where none was decoded. timing: the frame of the last block whose frame is known.
    tracker: what follows it now, if anything does.
    """

    measurement: SsbMeasurement
    time_s: float
    seen: int = 1
    mib: Mib | None = None
    timing: FrameTiming | None = None
    tracker: SsbTracker | None = None

    @property
    def key(self) -> Key:
        """What tells cells and their beams apart: raster position, spacing, identity, SSB index."""
        return key_of(self.measurement)


def key_of(found: SsbMeasurement) -> Key:
    return found.ssb_center_hz, found.scs_hz, found.pci, found.ssb_index


class SsbReceiver:
    """Finds and follows the SS/PBCH blocks of one stream. research_s: signal between full searches."""

    def __init__(self, research_s: float = RESEARCH_S) -> None:
        self._research_s = research_s
        self._cells: dict[Key, Cell] = {}
        self._trackers: dict[Key, SsbTracker] = {}
        self._settled_s: dict[tuple[float, float], float] = {}
        self._reported_s: dict[tuple[float, float, int], float] = {}
        self._starts: dict[tuple[float, float, int], dict[int, float]] = {}
        self._searched_s = -np.inf
        self._tuned: tuple[float, float] = (0.0, 0.0)

    @property
    def cells(self) -> list[Cell]:
        """What was found, the strongest first."""
        cells = (replace(cell, tracker=self._trackers.get(key)) for key, cell in self._cells.items())
        return sorted(cells, key=lambda cell: -cell.measurement.snr_db)

    def restart(self) -> None:
        """Another stream begins: times mean nothing any more, and what was known must be found again."""
        self.jump()
        self._trackers.clear()
        self._settled_s.clear()
        self._searched_s = -np.inf

    def jump(self) -> None:
        """Samples are missing, or time went back."""
        self._reported_s.clear()

    @staticmethod
    def overlap(rate_hz: float, center_hz: float) -> int:
        """Samples of the longest SSB and two cyclic prefixes: a block's end that the next one must begin with.

        Wherever a block ends, an SSB is whole in it or in the next.
        """
        slowest_hz = ssb_sample_rate_hz(min(ssb_spacings_hz(center_hz)))
        return int(np.ceil((SSB_SAMPLES + 2 * SSB_CP) * rate_hz / slowest_hz))

    def process(self, stretch: Stretch, rate_hz: float, center_hz: float) -> list[tuple[float, SsbMeasurement]]:
        """(start in the stream's time, measurement) of the SSBs that end in `stretch`, in the order of their time."""
        self._tuned = rate_hz, center_hz
        start_s = stretch.first_sample / rate_hz
        if start_s < self._searched_s:
            self.restart()
        found: list[tuple[float, SsbMeasurement]] = []
        for key, tracker in list(self._trackers.items()):
            found += tracker.measure(stretch)
            if tracker.lost:
                del self._trackers[key]
        new = [(time_s, one) for time_s, one in sorted(found, key=_time) if self._is_new(one, time_s)]
        full = self._is_search_due(start_s)
        if full:
            self._searched_s = start_s
        for time_s, one in sorted(self._search(stretch, full), key=_time):
            if self._is_new(one, time_s):
                new.append((time_s, one))
        return [(time_s, self._remember(one, time_s)) for time_s, one in sorted(new, key=_time)]

    def _is_search_due(self, start_s: float) -> bool:
        """Whether to search everywhere: nothing is followed here, or the last search was long ago."""
        if start_s - self._searched_s >= self._research_s:
            return True
        return not self._trackers and not any(self._untracked(scs_hz) for scs_hz in self._spacings())

    def _spacings(self) -> tuple[float, ...]:
        """Above 3 GHz the bands of FR1 have 30 kHz alone (38.104 table 5.4.3.3-1): it goes first."""
        _, center_hz = self._tuned
        spacings = ssb_spacings_hz(center_hz)
        return spacings[::-1] if _is_upper(center_hz) else spacings

    def _positions(self, scs_hz: float) -> list[float]:
        rate_hz, center_hz = self._tuned
        return candidates_hz(center_hz, rate_hz, scs_hz)

    def _untracked(self, scs_hz: float) -> list[float]:
        """Positions with cells that must be searched for in every block, the rate being no multiple of the spacing."""
        if supports(self._tuned[0], scs_hz):
            return []
        known = {key[0] for key in self._cells if key[1] == scs_hz}
        return [position for position in self._positions(scs_hz) if position in known]

    def _search(self, stretch: Stretch, full: bool) -> list[tuple[float, SsbMeasurement]]:
        """What is at all raster positions, or at those where more is to be expected than what is followed."""
        start_s = stretch.first_sample / self._tuned[0]
        found: list[tuple[float, SsbMeasurement]] = []
        for scs_hz in self._spacings():
            positions = self._positions(scs_hz)
            if not full:
                positions = [one for one in positions if start_s < self._settled_s.get((one, scs_hz), -np.inf)]
                positions += [one for one in self._untracked(scs_hz) if one not in positions]
            found += self._search_positions(stretch, scs_hz, positions)
            if found and full and _is_upper(self._tuned[1]):
                break
        return found

    def _search_positions(
        self, stretch: Stretch, scs_hz: float, positions: list[float]
    ) -> Iterator[tuple[float, SsbMeasurement]]:
        if not positions:
            return
        rate_hz, center_hz = self._tuned
        overlap = self.overlap(rate_hz, center_hz)
        piece = max(round(_PIECE_S * rate_hz), 2 * overlap)
        firsts = range(stretch.first_sample, max(stretch.end - overlap, stretch.first_sample + 1), piece)
        for first in firsts:
            samples = stretch.take(first, min(first + piece + overlap, stretch.end))
            unit = _unit(samples)
            if unit != 1.0:
                parts = np.ascontiguousarray(samples).view(np.float32) / np.float32(unit)
                samples = parts.view(np.complex64)
            spectrum = WidebandSpectrum(samples, rate_hz, center_hz, scs_hz)
            for raster_hz in positions:
                band = spectrum.band(raster_hz)
                for one in search_band(band, raster_hz, hypotheses=len(positions) * len(firsts)):
                    yield first / rate_hz + one.first_sample / band.rate_hz, one.times(unit)

    def _is_new(self, found: SsbMeasurement, time_s: float) -> bool:
        """Whether this SSB was not reported yet; the end of a block is looked at twice."""
        key = (found.ssb_center_hz, found.scs_hz, found.pci)
        half_s = SSB_SAMPLES / ssb_sample_rate_hz(found.scs_hz) / 2
        if time_s < self._reported_s.get(key, -np.inf) + half_s:
            return False
        self._reported_s[key] = time_s
        return True

    def _remember(self, found: SsbMeasurement, time_s: float) -> SsbMeasurement:
        key = key_of(found)
        known = self._cells.get(key)
        tracker = self._trackers.get(key)
        case = self._case(found, time_s)
        if tracker is None and supports(self._tuned[0], found.scs_hz):
            tracker = SsbTracker(found, time_s, *self._tuned, case=case, unit=_unit(found.ls))
            self._trackers[key] = tracker
            place = found.ssb_center_hz, found.scs_hz
            self._settled_s.setdefault(place, time_s + SETTLE_S)
        timing = frame_timing(found, time_s + found.delay_s, case)
        cell = Cell(found, time_s, 1, found.mib, timing)
        if known is not None:
            best = max(known, cell, key=lambda one: one.measurement.snr_db)
            cell = replace(
                best, seen=known.seen + 1, mib=found.mib or known.mib, timing=timing or known.timing, tracker=None
            )
        self._cells[key] = cell
        if len(self._cells) > _MAX_CELLS:
            weakest = min(self._cells, key=lambda one: self._cells[one].measurement.snr_db)
            del self._cells[weakest]
            self._trackers.pop(weakest, None)
        return found

    def _case(self, found: SsbMeasurement, time_s: float) -> Case | None:
        """The pattern of the band, or the other one if the cell's indices are apart as there."""
        if found.ssb_center_hz > FR1_MAX_HZ or found.scs_hz != 30e3:
            return None
        starts = self._starts.setdefault((found.ssb_center_hz, found.scs_hz, found.pci), {})
        starts[found.ssb_index] = time_s
        expected = case_of(found.scs_hz, found.ssb_center_hz)
        return decide_case(expected, found.l_max, [(start_s, index) for index, start_s in starts.items()])


def warm_up() -> None:
    """Compile the kernels of search and PBCH, which takes seconds the first time on a machine."""
    silence = Stretch(np.zeros((1, 0), np.complex64), np.zeros((1, 8000), np.complex64), 0)
    SsbReceiver().process(silence, 7.68e6, 3512.64e6)
    decode(np.ones(RATE_MATCHED_BITS))


def _is_upper(center_hz: float) -> bool:
    return 3e9 < center_hz <= FR1_MAX_HZ


def _time(item: tuple[float, SsbMeasurement]) -> float:
    return item[0]


def _unit(samples: npt.NDArray[np.complex64]) -> float:
    """What to divide samples by where they are so great or small that their squares leave single precision; else 1."""
    peak = max(
        float(samples.real.max()), -float(samples.real.min()), float(samples.imag.max()), -float(samples.imag.min())
    )
    return peak if peak > _MAX_LEVEL or _SILENCE < peak < 1 / _MAX_LEVEL else 1.0
