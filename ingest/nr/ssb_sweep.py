"""Searches a stretch of samples for SS/PBCH blocks at many raster positions: at once, or beside the stream.

At once is what a recording wants: nothing is missed, and every run finds the same. A live stream cannot wait for it:
there a thread of its own searches a copy of some milliseconds, while the stream goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
import numpy.typing as npt

from ingest.nr.band import WidebandSpectrum
from ingest.nr.numerology import FR1_MAX_HZ, SSB_CP, SSB_SAMPLES, ssb_sample_rate_hz, ssb_spacings_hz
from ingest.nr.raster import candidates_hz
from ingest.nr.ssb import SsbMeasurement
from ingest.nr.ssb_search import search_band
from ingest.nr.stretch import Stretch

PIECE_S = 0.02
"""The longest stretch that is searched at once; it bounds the memory of a search. An SSB is in it at the period that
terminals assume (38.213 clause 4.1)."""

_MAX_LEVEL, _SILENCE = 1e6, 1e-30

Place = tuple[float, float]
"""Subcarrier spacing and raster position, in Hz."""

Found = tuple[float, SsbMeasurement]
"""Start in the stream's time, and what was measured."""


def spacings_hz(center_hz: float) -> tuple[float, ...]:
    """Above 3 GHz the bands of FR1 have 30 kHz alone (38.104 table 5.4.3.3-1): it goes first."""
    spacings = ssb_spacings_hz(center_hz)
    return spacings[::-1] if is_upper(center_hz) else spacings


def is_upper(center_hz: float) -> bool:
    return 3e9 < center_hz <= FR1_MAX_HZ


def overlap_samples(rate_hz: float, center_hz: float) -> int:
    """Samples of the longest SSB and two cyclic prefixes: a block's end that the next one must begin with.

    Wherever a block ends, an SSB is whole in it or in the next.
    """
    slowest_hz = ssb_sample_rate_hz(min(ssb_spacings_hz(center_hz)))
    return int(np.ceil((SSB_SAMPLES + 2 * SSB_CP) * rate_hz / slowest_hz))


def places_of(rate_hz: float, center_hz: float) -> list[Place]:
    """All places that an SSB may lie at in the band, of a band's usual spacing where it has one."""
    spacings = spacings_hz(center_hz)[: 1 if is_upper(center_hz) else None]
    return [(scs_hz, raster_hz) for scs_hz in spacings for raster_hz in candidates_hz(center_hz, rate_hz, scs_hz)]


def sweep(stretch: Stretch, rate_hz: float, center_hz: float) -> list[Found]:
    """What is at all raster positions."""
    found: list[Found] = []
    for scs_hz in spacings_hz(center_hz):
        places = [(scs_hz, raster_hz) for raster_hz in candidates_hz(center_hz, rate_hz, scs_hz)]
        found += sweep_places(stretch, rate_hz, center_hz, places)
        if found and is_upper(center_hz):
            break
    return found


def sweep_places(stretch: Stretch, rate_hz: float, center_hz: float, places: Sequence[Place]) -> Iterator[Found]:
    """What is at `places`."""
    for scs_hz in dict.fromkeys(scs_hz for scs_hz, _ in places):
        positions = [raster_hz for spacing_hz, raster_hz in places if spacing_hz == scs_hz]
        yield from _sweep_positions(stretch, rate_hz, center_hz, scs_hz, positions)


def _sweep_positions(
    stretch: Stretch, rate_hz: float, center_hz: float, scs_hz: float, positions: Sequence[float]
) -> Iterator[Found]:
    overlap = overlap_samples(rate_hz, center_hz)
    piece = max(round(PIECE_S * rate_hz), 2 * overlap)
    firsts = range(stretch.first_sample, max(stretch.end - overlap, stretch.first_sample + 1), piece)
    for first in firsts:
        samples = stretch.take(first, min(first + piece + overlap, stretch.end))
        unit = unit_of(samples)
        if unit != 1.0:
            parts = np.ascontiguousarray(samples).view(np.float32) / np.float32(unit)
            samples = parts.view(np.complex64)
        spectrum = WidebandSpectrum(samples, rate_hz, center_hz, scs_hz)
        for raster_hz in positions:
            band = spectrum.band(raster_hz)
            for one in search_band(band, raster_hz, hypotheses=len(positions) * len(firsts)):
                yield first / rate_hz + one.first_sample / band.rate_hz, one.times(unit)


def unit_of(samples: npt.NDArray[np.complex64]) -> float:
    """What to divide samples by where they are so great or small that their squares leave single precision; else 1."""
    peak = max(
        float(samples.real.max()), -float(samples.real.min()), float(samples.imag.max()), -float(samples.imag.min())
    )
    return peak if peak > _MAX_LEVEL or _SILENCE < peak < 1 / _MAX_LEVEL else 1.0


@dataclass(frozen=True)
class _Task:
    """A search to come or under way. places: None for all. needed: samples to be collected for it. antenna: None for
    all of them together. at_once: not in a thread."""

    rate_hz: float
    center_hz: float
    places: tuple[Place, ...] | None
    needed: int
    antenna: int | None
    at_once: bool


class SideSweep:
    """Sweeps of a stream beside it, in a thread: `begin` one, let it `hear` the stream, ask for what it `found`.

    took_s: how long the last one took. A failure of the search is raised by `found`.
    """

    def __init__(self) -> None:
        self.took_s = 0.0
        self._task: _Task | None = None
        self._collected: list[npt.NDArray[np.complex64]] = []
        self._first = self._end = 0
        self._thread: threading.Thread | None = None
        self._result: list[Found] | Exception | None = None
        self._discard = False

    @property
    def idle(self) -> bool:
        return self._task is None and self._thread is None and self._result is None

    def begin(
        self,
        rate_hz: float,
        center_hz: float,
        seconds: float,
        places: Sequence[Place] | None = None,
        *,
        antenna: int | None = None,
        at_once: bool = False,
    ) -> None:
        """Search the coming `seconds` of the stream at `places`, None for all; in what one antenna hears, or all.

        at_once: when they have been heard, the stream waits. For what takes little that is better than a thread: two
        threads that each do many small things wait for Python's lock most of the time.
        """
        needed = round(seconds * rate_hz) + overlap_samples(rate_hz, center_hz)
        self._task = _Task(rate_hz, center_hz, None if places is None else tuple(places), needed, antenna, at_once)
        self._collected.clear()

    def restart(self) -> None:
        """Another stream begins: nothing of the old one counts any more."""
        self._task = None
        self._collected.clear()
        if self._thread is None:
            self._result = None
        self._discard = self._thread is not None

    def hear(self, stretch: Stretch) -> None:
        """Collect what is new in `stretch`; what comes after a gap begins anew."""
        if self._task is None:
            return
        new_from = self._end if self._collected and self._end >= stretch.first_sample else stretch.first_sample
        if new_from != self._end or not self._collected:
            self._collected.clear()
            self._first = new_from
        heard = stretch.take(new_from, stretch.end)
        rows = slice(None) if self._task.antenna is None else slice(self._task.antenna, self._task.antenna + 1)
        self._collected.append(heard[rows].copy())
        self._end = stretch.end
        if self._end - self._first >= self._task.needed:
            self._search_collected(self._task)

    def pause(self) -> None:
        """A burst has ended: what was collected of it is all that there is, and searched if an SSB may be in it."""
        task = self._task
        if task is None or not self._collected:
            return
        if self._end - self._first >= overlap_samples(task.rate_hz, task.center_hz):
            self._search_collected(task)

    def _search_collected(self, task: _Task) -> None:
        samples = np.concatenate(self._collected, axis=1)
        stretch = Stretch(samples[:, :0], samples, self._first)
        self._task = None
        self._collected.clear()
        if task.at_once:
            self._search(task, stretch)
            return
        self._thread = threading.Thread(target=self._search, args=(task, stretch), name="search", daemon=True)
        self._thread.start()

    def found(self) -> list[Found] | None:
        """What a search that has ended found, once; None where none has ended."""
        if self._result is None:
            return None
        if self._thread is not None:
            self._thread.join()
        result, self._result, self._thread = self._result, None, None
        discard, self._discard = self._discard, False
        if isinstance(result, Exception):
            raise result
        return None if discard else result

    def close(self) -> None:
        """Wait for the search under way, a moment at most."""
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _search(self, task: _Task, stretch: Stretch) -> None:
        begun_s = monotonic()
        try:
            if task.places is None:
                result = sweep(stretch, task.rate_hz, task.center_hz)
            else:
                result = list(sweep_places(stretch, task.rate_hz, task.center_hz, task.places))
        except Exception as error:
            self._result = error
        else:
            self.took_s = monotonic() - begun_s
            self._result = result
