"""SS/PBCH blocks of one stream: searches for cells, then follows every block of the cells found.

A full search runs over all raster positions until a cell is found, and again every `research_s` of signal. Where a
cell was just found, its raster position is searched for a little longer, for the other blocks of its burst; then each
block is measured at its expected time alone. Live streams are searched in a thread beside them (`ssb_sweep`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ingest.nr.numerology import FR1_MAX_HZ, SSB_SAMPLES, ssb_sample_rate_hz
from ingest.nr.pbch import Mib
from ingest.nr.polar import RATE_MATCHED_BITS, decode
from ingest.nr.raster import candidates_hz
from ingest.nr.ssb import SsbMeasurement
from ingest.nr.ssb_patterns import Case, FrameTiming, case_of, decide_case, frame_timing
from ingest.nr.ssb_sweep import PIECE_S, Found, Place, SideSweep, places_of, sweep, sweep_places, unit_of
from ingest.nr.ssb_tracking import SsbTracker, supports
from ingest.nr.stretch import Stretch

RESEARCH_S = 30.0
SETTLE_S = 0.04
"""Two of the periods that a terminal assumes of SSBs (38.213 clause 4.1)."""

_STALE_S = 0.25
"""What was found so long ago is sought once more at its place: two free clocks are then a microsecond apart."""
_SEARCH_REST = 10.0
"""Searches beside the stream rest so many times as long as they take, once a cell is followed."""
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
    """Finds and follows the SS/PBCH blocks of one stream. research_s: signal between full searches.

    aside: search beside the stream, which goes on meanwhile; what is found then depends on how fast the machine is.
    """

    def __init__(self, research_s: float = RESEARCH_S, *, aside: bool = False) -> None:
        self._research_s = research_s
        self._aside = SideSweep() if aside else None
        self._sought: list[Place] | None = None
        self._sweeps = 0
        self._cells: dict[Key, Cell] = {}
        self._trackers: dict[Key, SsbTracker] = {}
        self._settled_s: dict[Place, float] = {}
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
        self._sought = None
        if self._aside is not None:
            self._aside.restart()

    def jump(self, *, burst_ended: bool = False) -> None:
        """Samples are missing, or time went back. burst_ended: the radio left them out, as nothing was to be heard."""
        self._reported_s.clear()
        if burst_ended and self._aside is not None:
            self._aside.pause()

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
        searched = self._search(stretch) if self._aside is None else self._search_aside(self._aside, stretch)
        for time_s, one in sorted(searched, key=_time):
            if self._is_new(one, time_s):
                new.append((time_s, one))
        return [(time_s, self._remember(one, time_s)) for time_s, one in sorted(new, key=_time)]

    def _is_search_due(self, start_s: float, research_s: float) -> bool:
        """Whether to search everywhere: nothing is followed here, or the last search was long ago."""
        if start_s - self._searched_s >= research_s:
            return True
        return not self._trackers and not self._untracked()

    def _unsettled(self, start_s: float) -> list[Place]:
        """Where a cell was just found, and the other blocks of its burst are still to be heard."""
        return [place for place, until_s in self._settled_s.items() if start_s < until_s]

    def _untracked(self) -> list[Place]:
        """Where cells must be searched for in every block, the rate being no multiple of the spacing."""
        rate_hz, center_hz = self._tuned
        places = dict.fromkeys((key[1], key[0]) for key in self._cells if not supports(rate_hz, key[1]))
        return [place for place in places if place[1] in candidates_hz(center_hz, rate_hz, place[0])]

    def _search(self, stretch: Stretch) -> list[Found]:
        """What is at all raster positions, or at those where more is to be expected than what is followed."""
        rate_hz, center_hz = self._tuned
        start_s = stretch.first_sample / rate_hz
        if self._is_search_due(start_s, self._research_s):
            self._searched_s = start_s
            return sweep(stretch, rate_hz, center_hz)
        places = self._unsettled(start_s)
        places += [place for place in self._untracked() if place not in places]
        return list(sweep_places(stretch, rate_hz, center_hz, places))

    def _search_aside(self, aside: SideSweep, stretch: Stretch) -> list[Found]:
        """What the search beside the stream found, once it has; the next one is begun when it is due."""
        rate_hz, center_hz = self._tuned
        start_s = stretch.first_sample / rate_hz
        found = aside.found() or []
        news = [(time_s, one) for time_s, one in found if key_of(one) not in self._trackers]
        partly = any(len(one.ls) < stretch.antennas for _, one in news)
        stale = any(start_s - time_s > _STALE_S for time_s, _ in news)
        if self._sought is None and (partly or stale):
            # A search of everything takes seconds, after which nobody knows where the next block starts.
            self._sought = list(dict.fromkeys((one.scs_hz, one.ssb_center_hz) for _, one in news))
            found = []
        elif found:
            self._sought = None
        if aside.idle and not found:
            if self._sought is not None:
                aside.begin(rate_hz, center_hz, SETTLE_S, self._sought)
            elif places := self._untracked():
                aside.begin(rate_hz, center_hz, PIECE_S, places)
            else:
                self._begin_aside(aside, start_s, stretch.antennas)
        aside.hear(stretch)
        return [(time_s, one) for time_s, one in found if len(one.ls) == stretch.antennas]

    def _begin_aside(self, aside: SideSweep, start_s: float, antennas: int) -> None:
        """Search everywhere; once a cell is followed, at one place after the other, by one antenna after the other."""
        rate_hz, center_hz = self._tuned
        places: list[Place] | None = None
        rest_s = _SEARCH_REST * aside.took_s
        if self._trackers:
            everywhere = places_of(rate_hz, center_hz)
            places = [everywhere[self._sweeps % len(everywhere)]]
            rest_s = max(rest_s, self._research_s / len(everywhere))
        if self._is_search_due(start_s, rest_s):
            self._searched_s = start_s
            antenna = self._sweeps % antennas if places else self._next_antenna(antennas)
            self._sweeps += bool(places)
            aside.begin(rate_hz, center_hz, PIECE_S, places, antenna=antenna, at_once=bool(places))

    def _next_antenna(self, antennas: int) -> int | None:
        """Each antenna in turn, then all together: that hears more, and takes several times as long as all of them."""
        turn = self._sweeps % (antennas + 1)
        self._sweeps += 1
        return None if antennas == 1 or turn == antennas else turn

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
            tracker = SsbTracker(found, time_s, *self._tuned, case=case, unit=unit_of(found.ls))
            self._trackers[key] = tracker
            place = found.scs_hz, found.ssb_center_hz
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


def _time(item: Found) -> float:
    return item[0]
