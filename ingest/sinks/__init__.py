"""Where recordings go: SigMF, raw IQ with a side-car, arrays, journals. `sink_for(path)` says which.

A sink takes messages in order and is finished or given up: what it wrote appears under its name only when all of it is
on the disk. Nothing that exists is replaced unless that is asked for.
"""

from __future__ import annotations

from pathlib import Path

from ingest.errors import UsageRefused
from ingest.sinks.array_files import ChannelArraySink, IqArraySink
from ingest.sinks.base import Asked, Sink
from ingest.sinks.iq_files import RawIqSink, SigmfSink
from ingest.sinks.journal_file import JournalSink
from ingest.sources.samples import SUFFIXES

_ARRAYS = (".npz", ".h5", ".hdf5", ".mat")
_SIGMF = (".sigmf-meta", ".sigmf-data")
_MEND = f"a name ending in .sigmf-meta, {', '.join(sorted(SUFFIXES))}, {', '.join(_ARRAYS)} or .mcap"

__all__ = ["Asked", "Sink", "sink_for"]


def sink_for(path: Path, asked: Asked, *, iq: bool) -> Sink:
    """The sink that the suffix of `path` names. iq: whether IQ is to be written, else channels and their like.

    Raises `UsageRefused` for a suffix that is none, and for IQ into what holds channels and the reverse.
    """
    suffix = path.suffix.lower()
    if suffix in _ARRAYS:
        if not iq and (asked.format is not None or asked.scale != 1.0):
            raise UsageRefused("channels have no sample format or scale", where=str(path))
        return IqArraySink(path, asked) if iq else ChannelArraySink(path, asked)
    if suffix == ".mcap":
        if iq:
            raise UsageRefused("a journal holds no IQ", where=str(path), mend="convert to .sigmf-meta")
        return JournalSink(path, asked)
    if suffix not in _SIGMF and suffix not in SUFFIXES:
        raise UsageRefused("is no name that says what to write", where=str(path), mend=_MEND)
    if not iq:
        raise UsageRefused(
            "holds IQ, but the source has channels", where=str(path), mend="convert to .npz, .h5 or .mcap"
        )
    return SigmfSink(path, asked) if suffix in _SIGMF else RawIqSink(path, asked)
