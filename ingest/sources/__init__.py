"""Where messages come from. `open_source(uri)` opens any of them.

file path or `file://`: SigMF, raw IQ, Intel 5300 CSI log or journal, told apart by suffix, then by content;
`zmq+tcp://…`, `zmq+ipc://…`: a live ZeroMQ stream.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from ingest.errors import InputRefused, UsageRefused
from ingest.mcap_file import MAGIC
from ingest.sources.base import Source, SourceInfo
from ingest.sources.csi_log import IntelCsiSource
from ingest.sources.iq_file import FORMATS, SUFFIXES, IqFileSource, open_raw_iq
from ingest.sources.journal import JournalSource
from ingest.sources.sigmf import open_sigmf
from ingest.sources.zmq_stream import ZmqSource

__all__ = [
    "IntelCsiSource",
    "IqFileSource",
    "JournalSource",
    "Source",
    "SourceInfo",
    "ZmqSource",
    "open_source",
]

_KINDS = ("sigmf", "intel5300", "journal", *FORMATS)
_FORMAT_OPTION = f"--format {'|'.join(_KINDS)}"
_SIGMF_BUNDLES = {".sigmf": "a SigMF archive", ".sigmf-collection": "a SigMF collection"}
_SIGMF_MEND = "unpack it, as with tar, and name one recording's .sigmf-meta"
_INTEL_CODES = (0xBB, 0xC1)
"""Record codes of the Linux 802.11n CSI Tool: a beamforming report, a received packet."""


def open_source(
    uri: str, *, format_name: str | None = None, rate_hz: float | None = None, center_hz: float | None = None
) -> Source:
    """The source that `uri` names.

    format_name: `sigmf`, `intel5300`, `journal` or a raw sample format, where the suffix does not tell. rate_hz and
    center_hz belong to raw IQ files, which do not hold them. Raises `UsageRefused` or `InputRefused`.
    """
    if uri.startswith("zmq+"):
        return ZmqSource(uri)
    if format_name not in (None, *_KINDS):
        raise UsageRefused(f"unknown format '{format_name}'", where=uri, mend=_FORMAT_OPTION)
    path = _path(uri)
    kind = format_name or _kind_by_suffix(path)
    if kind == "sigmf":
        return open_sigmf(path)
    _check_file(path)
    kind = kind or _kind_by_content(path)
    if kind == "journal":
        return JournalSource(path)
    if kind == "intel5300":
        return IntelCsiSource(path)
    if kind in FORMATS:
        return open_raw_iq(path, format_name=kind, rate_hz=rate_hz, center_hz=center_hz)
    raise InputRefused("unknown format", where=str(path), mend=_FORMAT_OPTION)


def _path(uri: str) -> Path:
    """The file that a path or a `file://` URI names."""
    if uri.startswith("file://"):
        return Path(unquote("/" + uri.removeprefix("file://").removeprefix("localhost").lstrip("/")))
    if "://" in uri:
        raise UsageRefused("unknown kind of source", where=uri, mend="a file, zmq+tcp://… or zmq+ipc://…")
    return Path(uri)


def _kind_by_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".sigmf-meta", ".sigmf-data"):
        return "sigmf"
    if suffix == ".mcap":
        return "journal"
    return SUFFIXES.get(suffix, "")


def _kind_by_content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    if head.startswith(MAGIC):
        return "journal"
    return "intel5300" if _looks_like_intel_log(head) else ""


def _looks_like_intel_log(head: bytes) -> bool:
    """Whether `head` is a row of records: big-endian length, code byte, payload."""
    offset = 0
    for _ in range(4):
        if offset + 3 > len(head):
            break
        length = int.from_bytes(head[offset : offset + 2])
        if head[offset + 2] not in _INTEL_CODES or length < 2:
            return False
        offset += 2 + length
    return offset > 0


def _check_file(path: Path) -> None:
    """Refuse what is no file with bytes in it."""
    if os.path.isdir(path):
        raise InputRefused("is a directory", where=str(path), mend="name a file in it")
    if not os.path.exists(path):
        raise InputRefused("no such file", where=str(path))
    if not os.path.isfile(path):
        raise InputRefused("is not a regular file", where=str(path), mend="store the samples in a file first")
    if os.path.getsize(path) == 0:
        raise InputRefused("is empty", where=str(path), mend="give a capture with samples in it")
    if path.suffix.lower() in _SIGMF_BUNDLES:
        raise InputRefused(f"is {_SIGMF_BUNDLES[path.suffix.lower()]}", where=str(path), mend=_SIGMF_MEND)
