"""Addresses of live streams as users write them: `zmq+tcp://…`, `gnuradio+tcp://…`, `srsran+tcp://…`.

Parsing needs no socket: a configuration is checked with the functions that open its source later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ingest.endpoints import ENDPOINT_OPTIONS, Endpoint, check_endpoint, endpoint_of, flag_of, parse_endpoint, split_uri
from ingest.errors import UsageRefused

STREAMS = ("zmq+", "gnuradio+", "srsran+")
STREAM_FORMATS = ("cf32", "cf64", "sc16", "sc8")
MAX_ANTENNAS = 64
MAX_RATE_HZ, MAX_CENTER_HZ = 1e10, 1e12
_IQ_OPTIONS = ("rate_hz", "center_hz", "block_ms")


@dataclass(frozen=True)
class IqSettings:
    """What a stream of bare samples does not say of itself. block_s: length of the blocks made of it."""

    rate_hz: float
    center_hz: float
    block_s: float


@dataclass(frozen=True)
class GnuRadioStream:
    """A gr-zeromq sink. key: the frame in front of each message, "" for none. tags: whether it passes tags."""

    endpoint: Endpoint
    iq: IqSettings
    format_name: str = "cf32"
    antennas: int = 1
    tags: bool = False
    key: str = ""


@dataclass(frozen=True)
class SrsranStream:
    """The transmitters of an srsRAN ZeroMQ radio, one address a channel."""

    addresses: tuple[str, ...]
    iq: IqSettings


def is_stream(uri: str) -> bool:
    """Whether `uri` names a live stream."""
    return uri.startswith(STREAMS)


def check_stream(uri: str, rate_hz: float | None = None, center_hz: float | None = None) -> None:
    """Raise the `UsageRefused` that opening the stream `uri` would raise, as far as its text tells."""
    if uri.startswith("gnuradio+"):
        parse_gnuradio(uri, rate_hz, center_hz)
    elif uri.startswith("srsran+"):
        parse_srsran(uri, rate_hz, center_hz)
    else:
        parse_endpoint(uri)


def parse_gnuradio(uri: str, rate_hz: float | None = None, center_hz: float | None = None) -> GnuRadioStream:
    """`gnuradio+tcp://host:port?rate_hz=…&center_hz=…`, further options `socket bind remote format antennas tags key
    block_ms`; rate_hz and center_hz hold where the URI leaves them out. Raises `UsageRefused`."""
    known = (*ENDPOINT_OPTIONS, *_IQ_OPTIONS, "format", "antennas", "tags", "key")
    address, options = split_uri(uri, "gnuradio+", known)
    format_name = options.get("format", "cf32")
    if format_name not in STREAM_FORMATS:
        raise UsageRefused(f"unknown format '{format_name}'", where=uri, mend=f"format={'|'.join(STREAM_FORMATS)}")
    endpoint = endpoint_of(address, options, uri)
    key = options.get("key", "")
    if key and endpoint.socket != "sub":
        raise UsageRefused("a key belongs to socket=sub", where=uri, mend="a push sink sends none")
    return GnuRadioStream(
        endpoint=endpoint,
        iq=_iq_settings(options, uri, rate_hz, center_hz),
        format_name=format_name,
        antennas=_count(options, "antennas", 1, uri),
        tags=flag_of(options, "tags", uri),
        key=key,
    )


def parse_srsran(uri: str, rate_hz: float | None = None, center_hz: float | None = None) -> SrsranStream:
    """`srsran+tcp://host:port?rate_hz=…&center_hz=…`; `port1=…`, `port2=…` are further channels on the same host.

    rate_hz and center_hz hold where the URI leaves them out. Raises `UsageRefused`.
    """
    ports = tuple(f"port{channel}" for channel in range(1, MAX_ANTENNAS))
    address, options = split_uri(uri, "srsran+", (*_IQ_OPTIONS, *ports))
    further = [name for name in ports if name in options]
    if further != list(ports[: len(further)]):
        raise UsageRefused("channels are missing between", where=uri, mend="port1, port2, … without gaps")
    check_endpoint(Endpoint(address, bind=False))
    addresses = [address]
    for name in further:
        host = address.rpartition(":")[0]
        if not address.startswith("tcp://"):
            raise UsageRefused(f"{name} belongs to tcp", where=uri, mend="one channel over ipc")
        addresses.append(f"{host}:{options[name]}")
        check_endpoint(Endpoint(addresses[-1], bind=False))
    if len(set(addresses)) != len(addresses):
        raise UsageRefused("two channels have the same port", where=uri, mend="a port a channel")
    return SrsranStream(tuple(addresses), _iq_settings(options, uri, rate_hz, center_hz))


def _iq_settings(options: Mapping[str, str], uri: str, rate_hz: float | None, center_hz: float | None) -> IqSettings:
    rate = _number(options, "rate_hz", uri, rate_hz)
    center = _number(options, "center_hz", uri, center_hz)
    block_ms = _number(options, "block_ms", uri, 10.0)
    if not 1.0 <= rate <= MAX_RATE_HZ:
        raise UsageRefused(f"rate_hz={rate}", where=uri, mend="a finite rate in hertz, as 46.08e6")
    if not 0.0 <= center <= MAX_CENTER_HZ:
        raise UsageRefused(f"center_hz={center}", where=uri, mend="a finite frequency in hertz")
    if not 0.1 <= block_ms <= 1000.0:
        raise UsageRefused(f"block_ms={block_ms}", where=uri, mend="between 0.1 and 1000")
    return IqSettings(rate, center, block_ms * 1e-3)


def _number(options: Mapping[str, str], name: str, uri: str, otherwise: float | None) -> float:
    text = options.get(name)
    if text is None:
        if otherwise is None:
            raise UsageRefused(f"needs {name}", where=uri, mend=f"…&{name}=…: samples alone do not tell")
        return otherwise
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageRefused(f"{name}={text}", where=uri, mend="a finite number")
    return number


def _count(options: Mapping[str, str], name: str, otherwise: int, uri: str) -> int:
    text = options.get(name, str(otherwise))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_ANTENNAS):
        raise UsageRefused(f"{name}={text}", where=uri, mend=f"1 to {MAX_ANTENNAS}")
    return int(text)
