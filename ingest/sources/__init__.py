"""Where messages come from. `open_source(uri)` opens any of them.

file path or `file://`: SigMF, raw IQ, CSI logs, channel data sets, arrays or a journal, told apart by suffix, then by
content (docs/sources.md);
`zmq+tcp://…`, `zmq+ipc://…`, `gnuradio+tcp://…`, `srsran+tcp://…`: live streams.
"""

from __future__ import annotations

from urllib.parse import unquote

from ingest.errors import UsageRefused
from ingest.sources.base import Source, SourceInfo
from ingest.sources.csi_log import IntelCsiSource
from ingest.sources.files import open_file
from ingest.sources.iq_file import IDLE_S, IqFileSource
from ingest.sources.journal import JournalSource
from ingest.sources.live import LiveSource
from ingest.sources.sigmf import Asked
from ingest.sources.streams import open_stream
from ingest.sources.zmq_stream import ZmqSource
from ingest.stream_uri import STREAMS, is_stream

__all__ = [
    "IntelCsiSource",
    "IqFileSource",
    "JournalSource",
    "LiveSource",
    "Source",
    "SourceInfo",
    "ZmqSource",
    "open_source",
]


def open_source(
    uri: str,
    *,
    format_name: str | None = None,
    rate_hz: float | None = None,
    center_hz: float | None = None,
    follow: bool = False,
    idle_s: float = IDLE_S,
) -> Source:
    """The source that `uri` names; options of a file stand behind a `?`.

    format_name: one of `files.KINDS`, where neither suffix nor contents tell. rate_hz and center_hz belong to IQ whose
    file does not hold them; one that does must not be contradicted. follow: read a raw or SigMF file while it is
    written, until it has not grown for `idle_s`. Raises `UsageRefused` or `InputRefused`.
    """
    if is_stream(uri):
        return open_stream(uri, rate_hz=rate_hz, center_hz=center_hz)
    asked = Asked(rate_hz, center_hz, follow, idle_s)
    return open_file(_name(uri), format_name, asked)


def _name(uri: str) -> str:
    """The file that a path or a `file://` URI names, with its options."""
    if uri.startswith("file://"):
        return unquote("/" + uri.removeprefix("file://").removeprefix("localhost").lstrip("/"))
    if "://" in uri:
        mend = f"a file, or {', '.join(STREAMS)} before tcp:// or ipc://"
        raise UsageRefused("unknown kind of source", where=uri, mend=mend)
    return uri
