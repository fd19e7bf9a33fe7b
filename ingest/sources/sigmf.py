"""SigMF: recordings, collections of recordings that were made together, and archives of them.

The schema is checked by the `sigmf` package. What it lets pass is checked here: NaN rates, data files outside the
recording's folder, data that is shorter than its metadata says, checksums, channels that do not belong together. An
archive is read where it lies: nothing of it is unpacked.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from ingest.errors import InputRefused
from ingest.sources.base import Annotation, Source
from ingest.sources.iq_file import (
    IDLE_S,
    IqFileSource,
    Segment,
    check_rate_and_center,
    iq_info,
    refuse_contradiction,
)
from ingest.sources.oai import OaiGridSource, is_frequency_domain
from ingest.sources.samples import FORMATS, InterleavedFile, SampleFormat, SampleReader, SideBySide
from ingest.sources.sigmf_files import Recording, find_recording, read_archive, read_collection

DATATYPES: dict[str, SampleFormat] = {
    "cf32_le": FORMATS["cf32"],
    "cf64_le": FORMATS["cf64"],
    "ci16_le": FORMATS["sc16"],
    "ci8": FORMATS["sc8"],
    "ci32_le": SampleFormat("ci32", "<i4", 2.0**31),
    "cf32_be": SampleFormat("cf32_be", ">f4", 1.0),
    "cf64_be": SampleFormat("cf64_be", ">f8", 1.0),
    "ci16_be": SampleFormat("ci16_be", ">i2", 32768.0),
    "ci32_be": SampleFormat("ci32_be", ">i4", 2.0**31),
}
_FIXED = (
    "core:datatype",
    "core:sample_rate",
    "core:num_channels",
    "core:offset",
    "core:trailing_bytes",
    "core:dataset",
)
"""What metadata may not say anew while its samples are read."""

_POLL_S = 0.05
_MAX_LOST_S = 1e9
_MAX_NOTES = 100_000


@dataclass(frozen=True)
class Asked:
    """What the caller says of the recording, and how it is to be read."""

    rate_hz: float | None = None
    center_hz: float | None = None
    follow: bool = False
    idle_s: float = IDLE_S


def open_sigmf(path: Path, asked: Asked = Asked(), *, recording: str | None = None) -> Source:
    """What `path` names: a recording by its metadata file, its data file or their common stem, or an archive
    (`.sigmf`) or collection (`.sigmf-collection`).

    recording: the name of one recording of several. A collection of IQ recordings that agree in rate, frequency,
    start, gaps and length is one source of coherent antennas. Raises `InputRefused`, or `UsageRefused` where the
    caller contradicts the metadata.
    """
    suffix = path.suffix.lower()
    if suffix == ".sigmf-collection":
        recordings = read_collection(path)
    elif suffix == ".sigmf":
        recordings = read_archive(path)
    else:
        recordings = (_begun(path, asked) if asked.follow else find_recording(path),)
    if recording is not None:
        named = tuple(each for each in recordings if each.name == recording)
        if not named:
            names = ", ".join(each.name for each in recordings[:8])
            raise InputRefused(f"has no recording '{recording}'", where=str(path), mend=f"it has {names}")
        recordings = named
    channels = tuple(each for each in recordings if is_frequency_domain(each))
    if channels:
        return OaiGridSource(path, channels)
    return _open_together(path, recordings, asked)


def _begun(path: Path, asked: Asked) -> Recording:
    """The recording that is being made, once its metadata is whole: as long as a followed file may rest."""
    give_up = monotonic() + asked.idle_s
    while True:
        try:
            return find_recording(path)
        except InputRefused:
            if monotonic() >= give_up:
                raise
            sleep(_POLL_S)


class _Metadata:
    """Follows the metadata of a recording that is being made."""

    def __init__(self, recording: Recording, asked: Asked) -> None:
        self._recording = recording
        self._asked = asked
        self._seen = self._mark()

    def _mark(self) -> tuple[int, int]:
        with suppress(OSError):
            found = os.stat(self._recording.where)
            return found.st_mtime_ns, found.st_size
        return 0, 0

    def segments(self) -> tuple[Segment, ...] | None:
        """What it says of the samples if it was written anew, and is whole; None if not."""
        mark = self._mark()
        if mark == self._seen:
            return None
        try:
            renewed = find_recording(Path(self._recording.where))
        except InputRefused:
            return None  # half-written
        self._seen = mark
        began, now = ([each.settings.get(name) for name in _FIXED] for each in (self._recording, renewed))
        added = renewed.captures[len(self._recording.captures) :]
        if began != now or any(capture.get("core:header_bytes") for capture in added):
            raise InputRefused("its metadata changed while it was read", where=renewed.where)
        return _timing(renewed, self._asked)[1]


def _open_together(path: Path, recordings: tuple[Recording, ...], asked: Asked) -> Source:
    """IQ recordings as the antennas of one receiver."""
    first = recordings[0]
    rate_hz, segments = _timing(first, asked)
    for other in recordings[1:]:
        if difference := _difference(first, other, _timing(other, asked) == (rate_hz, segments)):
            raise InputRefused(
                f"'{first.name}' and '{other.name}' are not coherent: {difference}",
                where=str(path),
                mend=f"read one of them: {path.name}?recording={first.name}",
            )
    readers: list[SampleReader] = []
    for each in recordings:
        readers.append(_reader(each, asked.follow))
        if not asked.follow:
            _check_length(each, readers[-1].samples)
    if not asked.follow and len({reader.samples for reader in readers}) > 1:
        raise InputRefused("its recordings differ in length", where=str(path), mend="one of them was cut")
    reader = readers[0] if len(readers) == 1 else SideBySide(tuple(readers))
    form = DATATYPES[first.settings["core:datatype"]].name
    where = str(path) if len(recordings) > 1 or first.region else str(first.data)
    start, notes = first.captures[0].get("core:datetime"), _annotations(first, segments)
    info = iq_info(f"sigmf/{form}", where, reader, rate_hz, segments, start=start, annotations=notes)
    if not asked.follow or len(recordings) > 1 or first.region:
        return IqFileSource(reader, segments, info, follow=asked.follow, idle_s=asked.idle_s)
    renewed = _Metadata(first, asked).segments
    return IqFileSource(reader, segments, info, follow=True, idle_s=asked.idle_s, renewed=renewed)


def _difference(one: Recording, other: Recording, same_timing: bool) -> str:
    """Why two recordings are not the antennas of one receiver; nothing where they may be."""
    if one.settings["core:datatype"] != other.settings["core:datatype"]:
        return "their datatypes differ"
    if not same_timing:
        return "their rates, frequencies or gaps differ"
    times = [[capture.get("core:datetime") for capture in each.captures] for each in (one, other)]
    return "they begin at different times" if times[0] != times[1] else ""


def _reader(recording: Recording, follow: bool) -> InterleavedFile:
    settings = recording.settings
    datatype = settings["core:datatype"]
    if datatype not in DATATYPES:
        raise InputRefused(
            f"datatype {datatype!r} is not read", where=recording.where, mend=f"one of {', '.join(DATATYPES)}"
        )
    offset = int(settings.get("core:offset", 0))
    places = [(int(each["core:sample_start"]), int(each.get("core:header_bytes", 0))) for each in recording.captures]
    if not follow:
        _check_sha512(recording, settings.get("core:sha512"))
    return InterleavedFile(
        recording.data,
        DATATYPES[datatype],
        int(settings.get("core:num_channels", 1)),
        headers=tuple((start - offset, size) for start, size in places if size),
        trailing_bytes=int(settings.get("core:trailing_bytes", 0)),
        region=recording.region,
        growing=follow,
    )


def _timing(recording: Recording, asked: Asked) -> tuple[float, tuple[Segment, ...]]:
    """Rate and captures, their places counted from the start of the data file."""
    where = recording.where
    stands = recording.settings.get("core:sample_rate")
    if stands is not None:
        refuse_contradiction("--rate-hz", asked.rate_hz, float(stands), where=where)
    rate_hz = asked.rate_hz if stands is None else float(stands)
    if rate_hz is None:
        raise InputRefused("has no core:sample_rate", where=where, mend="add the rate in hertz, or tell --rate-hz")
    offset = int(recording.settings.get("core:offset", 0))
    segments: list[Segment] = []
    for capture in recording.captures:
        center_hz = capture.get("core:frequency")
        if center_hz is not None:
            refuse_contradiction("--center-hz", asked.center_hz, float(center_hz), where=where)
        center_hz = asked.center_hz if center_hz is None else float(center_hz)
        if center_hz is None:
            raise InputRefused("a capture has no core:frequency", where=where, mend="add it in hertz, or --center-hz")
        check_rate_and_center(rate_hz, center_hz, where=where, told=stands is None)
        segments.append(_segment(capture, offset, center_hz, rate_hz, segments, where))
    return rate_hz, tuple(segments)


def _segment(
    capture: dict[str, Any], offset: int, center_hz: float, rate_hz: float, before: list[Segment], where: str
) -> Segment:
    start = int(capture["core:sample_start"])
    lost = int(capture["core:global_index"]) - (start - offset) if "core:global_index" in capture else 0
    if start < offset or lost < (before[-1].lost_before if before else 0):
        raise InputRefused(f"the capture at sample {start} overlaps what comes before it", where=where)
    if lost > _MAX_LOST_S * rate_hz:
        raise InputRefused(f"the capture at sample {start} has an absurd core:global_index", where=where)
    return Segment(start - offset, center_hz, lost)


def _annotations(recording: Recording, segments: tuple[Segment, ...]) -> tuple[Annotation, ...]:
    """What the recording says of its samples, their places counted as its blocks count them."""
    offset = int(recording.settings.get("core:offset", 0))
    starts = [segment.first_sample for segment in segments]
    notes = []
    for note in recording.meta["annotations"][:_MAX_NOTES]:
        place = int(note["core:sample_start"]) - offset
        lost = segments[max(bisect_right(starts, place) - 1, 0)].lost_before
        count = int(note["core:sample_count"]) if "core:sample_count" in note else None
        label, comment = str(note.get("core:label", "")), str(note.get("core:comment", ""))
        notes.append(Annotation(max(place + lost, 0), count, label, comment))
    return tuple(notes)


def _check_sha512(recording: Recording, expected: str | None) -> None:
    if expected is None:
        return
    actual = hashlib.sha512()
    for piece in recording.pieces():
        actual.update(piece)
    if actual.hexdigest() != expected.lower():
        raise InputRefused(
            f"sha512 is {actual.hexdigest()[:12]}…, the metadata says {expected[:12]}…",
            where=str(recording.data),
            mend="the data was changed or cut; copy it again",
        )


def _check_length(recording: Recording, samples: int) -> None:
    """Refuse data that ends before what captures and annotations speak of: it was truncated."""
    meta = recording.meta
    samples += int(recording.settings.get("core:offset", 0))
    needed = [int(capture["core:sample_start"]) + 1 for capture in meta["captures"]]
    needed += [
        int(annotation["core:sample_start"]) + int(annotation.get("core:sample_count", 1))
        for annotation in meta["annotations"]
    ]
    if needed and max(needed) > samples:
        raise InputRefused(
            f"ends at sample {samples}, its metadata speaks of {max(needed)}",
            where=str(recording.data),
            mend="the data file is truncated; copy it again",
        )
