"""IQ as a SigMF recording, or as raw samples with a side-car."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import IqBlock, Message
from ingest.sinks.base import Asked, NewFile, Sink, told
from ingest.sinks.samples_out import Encoder
from ingest.sources.base import Annotation
from ingest.sources.samples import SUFFIXES

_DATATYPES = {"cf32": "cf32_le", "cf64": "cf64_le", "sc16": "ci16_le", "sc8": "ci8"}
_DATE = re.compile(r"(\d{4})[-_](\d{2})[-_](\d{2})[T ](\d{2}:\d{2}:\d{2}(?:\.\d+)?)(Z|[+-]00:?00)?", re.ASCII)
_STEM = re.compile(r"\.sigmf-(meta|data)$")


class _IqSink(Sink):
    """Writes the samples of IQ blocks one after the other."""

    def __init__(self, path: Path, data_path: Path, format_name: str, asked: Asked) -> None:
        super().__init__(path)
        self._asked = asked
        self._encoder = Encoder(format_name, asked.scale, asked.source)
        self._hash = hashlib.sha512()
        self._data = NewFile(data_path, force=asked.force)

    def write(self, message: Message) -> None:
        if not isinstance(message, IqBlock):
            self.left_out[message.TOPIC] += 1
            return
        for piece in self._encoder.encode(message):
            with told(self.path):
                self._data.file.write(piece.data)
            self._hash.update(piece.data)

    def _complete(self) -> None:
        if not self._encoder.samples:
            raise InputRefused("has no samples to write", where=self._asked.source)
        self.report = self._encoder.counts() | {"sha512": self._hash.hexdigest()}

    def give_up(self) -> None:
        self._data.drop()


class SigmfSink(_IqSink):
    """A `.sigmf-data` and its `.sigmf-meta`: one capture per run without a gap, a note at every gap, sha512."""

    def __init__(self, path: Path, asked: Asked) -> None:
        meta_path = path.with_name(_STEM.sub("", path.name) + ".sigmf-meta")
        if meta_path.name == ".sigmf-meta":
            raise UsageRefused("is no recording's name", where=str(path), mend="NAME.sigmf-meta")
        self._meta = NewFile(meta_path, force=asked.force)
        try:
            super().__init__(meta_path, meta_path.with_suffix(".sigmf-data"), asked.format or "cf32", asked)
        except BaseException:
            self._meta.drop()
            raise
        self._notes: list[Annotation] = []

    def annotate(self, notes: tuple[Annotation, ...]) -> None:
        self._notes.extend(notes)

    def finish(self) -> None:
        from sigmf import validate

        self._complete()
        meta = self._metadata()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            validate.validate(meta)
        with told(self.path):
            self._meta.file.write(json.dumps(meta, indent=1).encode())
        self._data.keep()
        self._meta.keep()
        self.report["annotations"] = len(meta["annotations"])

    def give_up(self) -> None:
        self._data.drop()
        self._meta.drop()

    def _metadata(self) -> dict[str, Any]:
        from sigmf import __specification__

        first = self._encoder.first
        assert first is not None
        settings = {
            "core:datatype": _DATATYPES[self._encoder.format.name],
            "core:sample_rate": first.rate_hz,
            "core:num_channels": first.samples.shape[0],
            "core:version": __specification__,
            "core:sha512": self._hash.hexdigest(),
            "core:recorder": "twinbeam convert",
        }
        if self._asked.scale != 1.0:
            settings["core:description"] = f"samples multiplied by {self._asked.scale:g}"
        captures: list[dict[str, Any]] = [
            {"core:sample_start": run.place, "core:global_index": run.number, "core:frequency": run.center_hz}
            for run in self._encoder.runs
        ]
        if date := _rfc3339(self._asked.start):
            captures[0]["core:datetime"] = date
        return {"global": settings, "captures": captures, "annotations": self._annotations()}

    def _annotations(self) -> list[dict[str, Any]]:
        """Notes of the source at their places in this file, and one at every gap."""
        found = [
            _note(run.place, 1, "gap", f"{run.missing} samples are missing before this one")
            for run in self._encoder.runs
            if run.missing
        ]
        for note in self._notes:
            begin = self._encoder.place_of(note.first_sample)
            end = (
                self._encoder.samples if note.count is None else self._encoder.place_of(note.first_sample + note.count)
            )
            if begin < self._encoder.samples and not (note.label == "gap" and self._is_gap(begin)):
                found.append(_note(begin, end - begin, note.label, note.comment))
        return sorted(found, key=lambda note: note["core:sample_start"])

    def _is_gap(self, place: int) -> bool:
        return any(run.place == place and run.missing for run in self._encoder.runs)


def _note(place: int, count: int, label: str, comment: str) -> dict[str, Any]:
    told_of = {"core:label": label, "core:comment": comment}
    places = {"core:sample_start": place, "core:sample_count": count}
    return places | {key: text for key, text in told_of.items() if text}


def _rfc3339(start: str | None) -> str | None:
    """A time as SigMF wants it, of ISO-8601 or of OAI's writing of it; None for what is neither or not UTC."""
    found = _DATE.fullmatch(start or "")
    if found is None:
        return None
    year, month, day, time, _ = found.groups()
    return f"{year}-{month}-{day}T{time}Z"


class RawIqSink(_IqSink):
    """Headerless samples, and the side-car that says what they are."""

    def __init__(self, path: Path, asked: Asked) -> None:
        format_name = SUFFIXES[path.suffix.lower()]
        if asked.format not in (None, format_name):
            raise UsageRefused(
                f"holds {format_name}, not {asked.format}", where=str(path), mend=f"name it {path.stem}.{asked.format}"
            )
        self._car = NewFile(path.with_name(path.name + ".json"), force=asked.force)
        try:
            super().__init__(path, path, format_name, asked)
        except BaseException:
            self._car.drop()
            raise

    def finish(self) -> None:
        self._complete()
        first = self._encoder.first
        assert first is not None
        car: dict[str, Any] = {
            "rate_hz": first.rate_hz,
            "center_hz": self._encoder.only_center_hz(),
            "format": self._encoder.format.name,
            "channels": first.samples.shape[0],
        }
        if gaps := self._encoder.gaps():
            car["gaps"] = gaps
        if self._asked.start:
            car["start"] = self._asked.start
        with told(self.path):
            self._car.file.write(json.dumps(car, indent=1).encode())
        self._data.keep()
        self._car.keep()

    def give_up(self) -> None:
        self._data.drop()
        self._car.drop()
