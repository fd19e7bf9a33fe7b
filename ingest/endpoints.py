"""ZeroMQ endpoints as users write them: `tcp://127.0.0.1:5555`, `ipc:///run/twinbeam/in`. Loopback unless told."""

from __future__ import annotations

import ipaddress
import os
import socket as unix
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, urlsplit

import zmq

from ingest.errors import UsageRefused
from ingest.topics import MAX_MESSAGE_BYTES

ENDPOINT_OPTIONS = ("socket", "bind", "remote")
_SOCKETS = {"sub": zmq.SUB, "pull": zmq.PULL}
_HIGH_WATER_MARK = 256


@dataclass(frozen=True)
class Endpoint:
    """Where a socket meets its peer, and which side waits for the other. `remote`: other hosts may be the peer."""

    address: str
    bind: bool
    socket: str = "sub"
    remote: bool = False


def parse_endpoint(uri: str) -> Endpoint:
    """`zmq+tcp://host:port?socket=pull&bind=1` as an `Endpoint`; `UsageRefused` says what is wrong with it."""
    address, options = split_uri(uri, "zmq+", ENDPOINT_OPTIONS)
    return endpoint_of(address, options, uri)


def split_uri(uri: str, prefix: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """The ZeroMQ address in `uri`, and what follows its `?` as names and values; options not in `known` are refused."""
    parts = _split(uri.removeprefix(prefix), uri)
    if not parts.scheme:
        raise UsageRefused("names no transport", where=uri, mend="tcp://127.0.0.1:5555, say")
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = set(options) - set(known)
    if unknown:
        raise UsageRefused(f"unknown option '{min(unknown)}'", where=uri, mend=f"known: {', '.join(known)}")
    return f"{parts.scheme}://{parts.netloc}{parts.path}", options


def endpoint_of(address: str, options: Mapping[str, str], uri: str) -> Endpoint:
    """`address` with the options `socket`, `bind` and `remote`, checked."""
    kind = options.get("socket", "sub")
    if kind not in _SOCKETS:
        raise UsageRefused(f"unknown socket '{kind}'", where=uri, mend="socket=sub or socket=pull")
    endpoint = Endpoint(
        address=address,
        bind=flag_of(options, "bind", uri),
        socket=kind,
        remote=flag_of(options, "remote", uri),
    )
    check_endpoint(endpoint)
    return endpoint


def _split(address: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UsageRefused(f"is not an address: {error}", where=where, mend="tcp://127.0.0.1:5555, say") from None
    if parts.fragment:
        raise UsageRefused("'#' has no meaning in an address", where=where, mend="leave out what follows it")
    return parts


def flag_of(options: Mapping[str, str], name: str, uri: str) -> bool:
    """Whether the option `name` is 1; left out, it is 0."""
    value = options.get(name, "0")
    if value not in ("0", "1"):
        raise UsageRefused(f"{name}={value}", where=uri, mend=f"{name}=0 or {name}=1")
    return value == "1"


def check_endpoint(endpoint: Endpoint) -> None:
    """Refuse transports we do not speak, missing ports, and binding to other hosts without `remote`."""
    parts = _split(endpoint.address, endpoint.address)
    if not endpoint.address.isprintable():  # zero bytes, and what came from bytes that were no UTF-8
        raise UsageRefused("has characters that no address has", where=endpoint.address, mend="type it anew")
    if parts.scheme == "ipc":
        if not (parts.netloc + parts.path):
            raise UsageRefused("ipc needs a path", where=endpoint.address, mend="ipc:///run/twinbeam/in, say")
        return
    if parts.scheme != "tcp":
        raise UsageRefused(f"unknown transport '{parts.scheme}'", where=endpoint.address, mend="tcp:// or ipc://")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None or parts.path or parts.query or parts.username is not None:
        raise UsageRefused(
            "needs a host and a port, nothing else", where=endpoint.address, mend="tcp://127.0.0.1:5555, say"
        )
    if endpoint.bind and not endpoint.remote and not is_loopback(parts.hostname):
        raise UsageRefused(
            "would listen to other hosts",
            where=endpoint.address,
            mend="use 127.0.0.1, or say remote if it is meant",
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: Endpoint, *, welcome: bytes = b""
) -> zmq.Socket[bytes]:
    """A bounded socket of ZeroMQ type `kind` at `endpoint`; `UsageRefused` where it cannot be had (port in use).

    welcome: what an XPUB socket sends a new subscriber of that topic.
    """
    if endpoint.bind and endpoint.address.startswith("ipc://"):
        _check_ipc_path(endpoint.address)
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint.address))
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
    socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
    if welcome:
        socket.setsockopt(zmq.XPUB_WELCOME_MSG, welcome)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    try:
        if endpoint.bind:
            socket.bind(endpoint.address)
        else:
            socket.connect(endpoint.address)
    except zmq.ZMQError as error:
        socket.close()
        mend = "stop the other program or choose another port" if error.errno == zmq.EADDRINUSE else ""
        raise UsageRefused(os.strerror(error.errno or 0), where=endpoint.address, mend=mend) from None
    return socket


def _check_ipc_path(address: str) -> None:
    """Refuse to bind where something lies: libzmq would delete it, be it a capture or the socket of another program."""
    path = address.removeprefix("ipc://")
    if path.startswith("@"):
        return
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageRefused("is a file, not a socket", where=address, mend="choose a path where nothing lies")
        with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
            probe.connect(path)
    except OSError:
        return  # nothing there, or what a program that has ended left behind
    raise UsageRefused("another program listens there", where=address, mend="stop it or choose another path")


def socket_type(endpoint: Endpoint) -> int:
    """The ZeroMQ type that receives at `endpoint`."""
    return int(_SOCKETS[endpoint.socket])
