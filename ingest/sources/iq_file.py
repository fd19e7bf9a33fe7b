"""IQ in files, as blocks: raw files with or without a side-car, and what other containers say of their samples.

A side-car is a JSON or TOML file beside the samples, `capture.dat.json` for `capture.dat`; docs/sources.md lists its
keys. UHD's recorders write one file a channel when they are given several: `capture.00.dat, capture.01.dat, …`
for `capture.dat`. They are read as coherent antennas of one capture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ingest.buffers import Buffers
from ingest.errors import InputRefused, UsageRefused
from ingest.messages import IqBlock
from ingest.sources.base import Annotation, Source, SourceInfo
from ingest.sources.samples import FORMATS, SUFFIXES, InterleavedFile, SampleFormat, SampleReader, SideBySide
from ingest.sources.side_car import SideCar, find_side_car

__all__ = ["FORMATS", "SUFFIXES", "IqFileSource", "SampleFormat", "Segment", "open_raw_iq"]

Value = TypeVar("Value", str, float)

BLOCK_S = 20e-3
"""Length of a block: one default SSB period (38.213 clause 4.1), so that every block can hold an SSB."""
_MAX_BLOCK_BYTES = 60 << 20
"""A block of many antennas is cut shorter, so that it fits into a message."""
_POLL_S = 0.02
IDLE_S = 5.0
"""A followed file that did not grow for so long is at its end."""


@dataclass(frozen=True)
class Segment:
    """A run of samples tuned to one frequency: SigMF's `captures` entry, or a whole raw file.

    first_sample: its place in the file. lost_before: samples that the radio made and the file lacks up to there; the
    blocks' `first_sample` jumps over them, and the receiver counts the gap.
    """

    first_sample: int
    center_hz: float
    lost_before: int = 0


class IqFileSource(Source):
    """Yields an `IqBlock` for every `BLOCK_S` of what `reader` reads; blocks with NaN are rejected and counted.

    follow: the file is still being written. Blocks come as they fill up; when it has not grown for `idle_s`, what is
    left comes as a shorter block, a cut last sample is counted as `truncated_end`, and the source ends. renewed: what
    the metadata says of segments when it was written anew, else None; segments told too late begin at the next block.
    """

    def __init__(
        self,
        reader: SampleReader,
        segments: tuple[Segment, ...],
        info: SourceInfo,
        *,
        follow: bool = False,
        idle_s: float = IDLE_S,
        renewed: Callable[[], tuple[Segment, ...] | None] = lambda: None,
    ) -> None:
        super().__init__(info)
        assert info.rate_hz is not None
        self.segments = self._told = segments
        self.follow = follow
        self._renewed = renewed
        self._reader = reader
        self._rate_hz = info.rate_hz
        self._idle_s = idle_s
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[IqBlock]:
        try:
            yield from self._blocks()
        finally:
            self._reader.close()

    def _blocks(self) -> Iterator[IqBlock]:
        most = _MAX_BLOCK_BYTES // (8 * self._reader.channels)
        length = max(1, min(round(BLOCK_S * self._rate_hz), most))
        seq, buffers = 0, Buffers()
        for segment, start, count in self._places(length):
            samples = buffers.take(self._reader.channels, count)
            if not self._reader.fill(start, samples):
                self.rejected["non_finite"] += 1
                continue
            number = start + segment.lost_before
            yield IqBlock(
                source="file",
                epoch=0,
                seq=seq,
                t_ns=round(number / self._rate_hz * 1e9),
                rate_hz=self._rate_hz,
                center_hz=segment.center_hz,
                first_sample=number,
                samples=samples,
            )
            seq += 1

    def _places(self, length: int) -> Iterator[tuple[Segment, int, int]]:
        """Segment, first sample and number of samples of every block, as soon as the file has them."""
        index, start, rested = 0, self.segments[0].first_sample, False
        while not self._closed.is_set():
            whole = self._block_end(index, start + length)
            if self._reader.samples < whole and not rested:
                rested = not self._wait_for(whole)
            if self.follow:
                self._renew(index, start)
            stop = min(self._block_end(index, start + length), self._reader.samples)
            if stop > start:
                yield self.segments[index], start, stop - start
                start = stop
            elif index + 1 < len(self.segments):
                index += 1
                start = self.segments[index].first_sample
            else:
                break
        if self.follow and self._reader.partial_bytes:
            self.rejected["truncated_end"] += 1

    def _block_end(self, index: int, stop: int) -> int:
        """Where a block ends that is to end at `stop`: no later than its segment."""
        return min([stop, *(segment.first_sample for segment in self.segments[index + 1 : index + 2])])

    def _renew(self, index: int, start: int) -> None:
        """Take over what the metadata says by now of the segments that are still to come."""
        told = self._renewed()
        if told is None:
            return
        if told[: index + 1] != self._told[: index + 1]:
            raise InputRefused("its metadata changed of samples that were read already", where=self.info.where)
        later = (replace(each, first_sample=max(each.first_sample, start)) for each in told[index + 1 :])
        self._told = told
        self.segments = (*self.segments[: index + 1], *later)

    def _wait_for(self, samples: int) -> bool:
        """Until the file has so many samples, which is true then, or has not grown for `idle_s`."""
        waited_s = 0.0
        while self.follow and waited_s < self._idle_s and not self._closed.is_set():
            before = self._reader.samples
            if self._reader.refresh() >= samples:
                return True
            waited_s = 0.0 if self._reader.samples > before else waited_s + _POLL_S
            self._closed.wait(_POLL_S)
        return False

    def close(self) -> None:
        self._closed.set()


def iq_info(
    form: str, where: str, reader: SampleReader, rate_hz: float, segments: tuple[Segment, ...], **more: Any
) -> SourceInfo:
    """What is told of IQ before it is read. more: `start` and `annotations`."""
    return SourceInfo(
        format=form,
        where=where,
        antennas=reader.channels,
        rate_hz=rate_hz,
        center_hz=segments[0].center_hz,
        samples=reader.samples,
        **more,
    )


def open_raw_iq(
    path: Path,
    *,
    format_name: str | None,
    rate_hz: float | None,
    center_hz: float | None,
    follow: bool = False,
    idle_s: float = IDLE_S,
) -> Source:
    """A headerless IQ file, or the files of several channels that UHD wrote for it.

    Rate, centre frequency and, unless the suffix tells it, the format must be told by its side-car or by the caller.
    """
    files = channel_files(path) or (path,)
    car = find_side_car(path) or SideCar()
    where = str(path)
    name = _agreed("--format", format_name, car.format, where) or SUFFIXES.get(path.suffix.lower(), "")
    if name not in FORMATS:
        raise UsageRefused(
            f"unknown sample format {name or path.suffix!r}", where=where, mend=f"--format {'|'.join(FORMATS)}"
        )
    rate = _needed("--rate-hz", _agreed("--rate-hz", rate_hz, car.rate_hz, where), where)
    center = _needed("--center-hz", _agreed("--center-hz", center_hz, car.center_hz, where), where)
    check_rate_and_center(rate, center, where=where, told=rate_hz is not None or center_hz is not None)
    readers = tuple(InterleavedFile(file, FORMATS[name], car.channels, growing=follow) for file in files)
    reader = readers[0] if len(readers) == 1 else SideBySide(readers)
    if not follow and len({each.samples for each in readers}) > 1:
        raise InputRefused("its channels' files differ in length", where=where, mend="record them together")
    segments = _segments(car, center, None if follow else reader.samples, where)
    info = iq_info(f"raw-iq/{name}", where, reader, rate, segments, start=car.start, annotations=_gap_notes(segments))
    return IqFileSource(reader, segments, info, follow=follow, idle_s=idle_s)


def channel_files(path: Path) -> tuple[Path, ...]:
    """UHD's files of several channels for the name that it was given: `a.00.dat, a.01.dat, …` for `a.dat`."""
    found: list[Path] = []
    with suppress(OSError, ValueError):
        while not path.exists() and (file := path.with_suffix(f".{len(found):02d}{path.suffix}")).is_file():
            found.append(file)
    return tuple(found)


def check_rate_and_center(rate_hz: float, center_hz: float, *, where: str, told: bool = False) -> None:
    """Refuse rates and frequencies that no radio has, NaN among them. told: by the user, whose usage is refused."""
    refused = UsageRefused if told else InputRefused
    if not 1.0 <= rate_hz <= 1e10:
        raise refused(f"sample rate {rate_hz} Hz", where=where, mend="a finite rate in hertz, as 46.08e6")
    if not 0.0 <= center_hz <= 1e12:
        raise refused(f"centre frequency {center_hz} Hz", where=where, mend="a finite frequency in hertz")


def refuse_contradiction(option: str, told: float | None, stands: float | None, *, where: str) -> None:
    """What the user says of a file that says it itself must be the same, to a millionth."""
    if told is not None and (stands is None or not abs(told - stands) <= 1e-6 * abs(stands)):
        says = "does not know it" if stands is None else f"says {stands:g}"
        raise UsageRefused(f"{option} {told:g}, but the file {says}", where=where, mend=f"leave {option} out")


def _agreed(option: str, told: Value | None, stands: Value | None, where: str) -> Value | None:
    """What the user told or the side-car says; refused where they differ."""
    if told is not None and stands is not None and told != stands:
        raise UsageRefused(
            f"{option} {told}, but its side-car says {stands}", where=where, mend=f"leave {option} out, or mend it"
        )
    return stands if told is None else told


def _needed(option: str, value: float | None, where: str) -> float:
    if value is None:
        raise UsageRefused(
            f"a raw IQ file needs {option}",
            where=where,
            mend=f"add {option} 46.08e6, say, or a side-car {Path(where).name}.json",
        )
    return value


def _segments(car: SideCar, center_hz: float, samples: int | None, where: str) -> tuple[Segment, ...]:
    """The runs between the gaps that a side-car tells of."""
    segments = [Segment(0, center_hz)]
    for at, missing in car.gaps:
        if samples is not None and at >= samples:
            raise InputRefused(f"its side-car has a gap at sample {at}, it has {samples}", where=where)
        lost = segments[-1].lost_before + missing
        if at == 0:
            segments = [Segment(0, center_hz, lost)]
        else:
            segments.append(Segment(at, center_hz, lost))
    return tuple(segments)


def _gap_notes(segments: tuple[Segment, ...]) -> tuple[Annotation, ...]:
    """A note at every gap."""
    notes = []
    for before, after in pairwise(segments):
        missing = after.lost_before - before.lost_before
        notes.append(Annotation(after.first_sample + after.lost_before, 1, "gap", f"{missing} samples missing"))
    return tuple(notes)
