"""Opens live streams by their address."""

from __future__ import annotations

from ingest.sources.gnuradio import GnuRadioSource
from ingest.sources.live import LiveSource
from ingest.sources.srsran import SrsranSource
from ingest.sources.zmq_stream import ZmqSource
from ingest.stream_uri import parse_gnuradio, parse_srsran


def open_stream(uri: str, *, rate_hz: float | None = None, center_hz: float | None = None) -> LiveSource:
    """The live source that `uri` names; rate_hz and center_hz hold where bare samples come and the URI does not tell.

    Raises `UsageRefused`.
    """
    if uri.startswith("gnuradio+"):
        return GnuRadioSource(parse_gnuradio(uri, rate_hz, center_hz))
    if uri.startswith("srsran+"):
        return SrsranSource(parse_srsran(uri, rate_hz, center_hz))
    return ZmqSource(uri)
