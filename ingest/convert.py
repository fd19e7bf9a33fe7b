"""From any recording to another: `twinbeam convert A B`. IQ stays IQ, channels stay channels; what is lost is told.

Messages stream from source to sink; whatever the length, memory stays constant (a `.mat` is the exception).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.numerology import SSB_SUBCARRIERS
from ingest.sinks import Asked, Sink, sink_for
from ingest.sources import IqFileSource, LiveSource, Source
from ingest.sources.base import Annotation
from ingest.sources.samples import FORMATS

Progress = Callable[[float], None]
_MAX_CELL_NOTES = 100_000
_SSB_SCS_HZ = 15e3
_SSB_SYMBOLS = 4 * 15 / 14
"""Length of an SSB in reciprocal subcarrier spacings: four symbols with cyclic prefixes (38.211 clause 7.4.3.1)."""


def convert(
    source: Source,
    target: Path,
    *,
    sample_format: str | None = None,
    scale: float = 1.0,
    force: bool = False,
    find_cells: bool = False,
    progress: Progress = lambda seconds: None,
) -> dict[str, Any]:
    """Write what `source` holds to `target`, by its suffix, and report what was written, left out and missing.

    sample_format: of IQ; without one whole numbers stay what they are and everything else becomes cf32. scale: what
    samples are multiplied by. find_cells: look for NR cells on the way, and note them where the target can hold notes.
    Raises `UsageRefused`, `InputRefused`, or `TwinbeamError` where the disk fails; then nothing is left behind.
    """
    if isinstance(source, LiveSource):
        raise UsageRefused("a stream has no end to convert", where=source.info.where, mend="record it to a file first")
    iq = isinstance(source, IqFileSource)
    if not 0 < scale <= 1e30:
        raise UsageRefused(f"scale {scale}", where=str(target), mend="a positive number")
    if find_cells and not iq:
        raise UsageRefused("holds no IQ to find cells in", where=source.info.where, mend="leave --find-cells out")
    if sample_format not in (None, *FORMATS):
        raise UsageRefused(f"unknown sample format '{sample_format}'", mend=f"one of {', '.join(FORMATS)}")
    named = sample_format or (_natural(source, target) if iq else None)
    asked = Asked(named, scale, force, source.info.start, source.info.where)
    sink = sink_for(target, asked, iq=iq)
    try:
        notes = _pour(source, sink, find_cells, progress)
        sink.annotate((*source.info.annotations, *notes))
        sink.finish()
    except BaseException:
        sink.give_up()
        raise
    told = {
        "from": source.info.where,
        "from_format": source.info.format,
        "to": str(sink.path),
        **sink.report,
        "rejected": dict(source.rejected),
        "left_out": dict(sink.left_out),
    }
    return told | {"cells": sorted({note.label for note in notes})} if find_cells else told


def _natural(source: Source, target: Path) -> str | None:
    """Whole numbers of 16 or 8 bits stay so in SigMF; a raw file's format is in its name, arrays are complex64."""
    name = source.info.format.rpartition("/")[2]
    return name if name in ("sc16", "sc8") and target.suffix.lower().startswith(".sigmf") else None


def _pour(source: Source, sink: Sink, find_cells: bool, progress: Progress) -> tuple[Annotation, ...]:
    """All messages, from the first on; the cells that were found in them."""
    messages = iter(source)
    first = next(messages, None)
    if first is None:
        counted = ", ".join(f"{count} {reason}" for reason, count in source.rejected.items()) or "nothing"
        raise InputRefused(f"has nothing to convert: {counted} rejected", where=source.info.where)
    notes: list[Annotation] = []
    search = _CellNotes() if find_cells else None
    for message in chain([first], messages):
        sink.write(message)
        if isinstance(message, IqBlock):
            progress((message.first_sample + message.samples.shape[1]) / message.rate_hz)
            if search is not None and len(notes) < _MAX_CELL_NOTES:
                notes += search.notes(message)
    return tuple(notes)


class _CellNotes:
    """Notes at the SSBs that the receiver finds."""

    def __init__(self) -> None:
        from ingest.nr.receiver import NrReceiver

        self._receiver = NrReceiver()

    def notes(self, block: IqBlock) -> list[Annotation]:
        return [self._note(frame, block.rate_hz) for frame in self._receiver.process(block)]

    @staticmethod
    def _note(frame: ChannelFrame, rate_hz: float) -> Annotation:
        comment = f"SSB, SNR {frame.snr_db:.1f} dB"
        if frame.cfo_hz is not None:
            comment += f", CFO {frame.cfo_hz:.0f} Hz"
        scs_hz = 1.0 / (SSB_SUBCARRIERS * frame.tap_s) if frame.tap_s else _SSB_SCS_HZ
        length = round(_SSB_SYMBOLS / scs_hz * rate_hz)
        return Annotation(round(frame.t_ns * 1e-9 * rate_hz), length, frame.user, comment)
