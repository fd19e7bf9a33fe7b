"""Where messages come from. `open_source(uri)` opens any of them.

file path or `file://`: SigMF, raw IQ, Intel 5300 CSI log or journal, told apart by suffix, then by content;
`zmq+tcp://…`, `zmq+ipc://…`: a live ZeroMQ stream.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ingest.errors import InputRefused, UsageRefused
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

_MCAP_MAGIC = b"\x89MCAP0\r\n"
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
    path = Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri)
    if "://" in str(uri) and not uri.startswith("file://"):
        raise UsageRefused("unknown kind of source", where=uri, mend="a file, zmq+tcp://… or zmq+ipc://…")
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
    raise InputRefused("unknown format", where=str(path), mend=f"--format sigmf|intel5300|journal|{'|'.join(FORMATS)}")


def _kind_by_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".sigmf-meta", ".sigmf-data"):
        return "sigmf"
    if suffix == ".mcap":
        return "journal"
    return SUFFIXES.get(suffix, "")


def _kind_by_content(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith(_MCAP_MAGIC):
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
    if path.is_dir():
        raise InputRefused("is a directory", where=str(path), mend="name a file in it")
    if not path.is_file():
        raise InputRefused("no such file", where=str(path))
    if path.stat().st_size == 0:
        raise InputRefused("is empty", where=str(path), mend="give a capture with samples in it")
