"""Addresses: what is written is what is opened, and only this machine is listened to unless it is told otherwise."""

from __future__ import annotations

import errno
import socket as unix
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.endpoints import Endpoint, check_endpoint, is_loopback, open_socket, parse_endpoint, socket_type
from ingest.errors import UsageRefused


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def told(action: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(UsageRefused) as refusal:
        action(*arguments, **options)
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("zmq+tcp://127.0.0.1:5555", Endpoint("tcp://127.0.0.1:5555", bind=False)),
        ("tcp://127.0.0.1:5555", Endpoint("tcp://127.0.0.1:5555", bind=False)),
        ("zmq+tcp://localhost:1?bind=1", Endpoint("tcp://localhost:1", bind=True)),
        ("zmq+tcp://127.8.9.1:1?bind=1", Endpoint("tcp://127.8.9.1:1", bind=True)),
        ("zmq+tcp://[::1]:65535?bind=1", Endpoint("tcp://[::1]:65535", bind=True)),
        ("zmq+tcp://host.example:80?socket=pull", Endpoint("tcp://host.example:80", bind=False, socket="pull")),
        ("zmq+tcp://0.0.0.0:80?bind=1&remote=1", Endpoint("tcp://0.0.0.0:80", bind=True, remote=True)),
        ("zmq+tcp://*:80?bind=1&remote=1", Endpoint("tcp://*:80", bind=True, remote=True)),
        ("zmq+ipc:///run/twinbeam/in?bind=1", Endpoint("ipc:///run/twinbeam/in", bind=True)),
        ("zmq+ipc://@abstract", Endpoint("ipc://@abstract", bind=False)),
        ("zmq+ipc://relative/in?bind=0&socket=sub", Endpoint("ipc://relative/in", bind=False)),
    ],
)
def test_addresses_as_written(uri: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(uri) == endpoint


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("zmq+tcp://127.0.0.1", "needs a host and a port"),
        ("zmq+tcp://127.0.0.1:", "needs a host and a port"),
        ("zmq+tcp://:5555", "needs a host and a port"),
        ("zmq+tcp://127.0.0.1:port", "needs a host and a port"),
        ("zmq+tcp://127.0.0.1:65536", "needs a host and a port"),
        ("zmq+tcp://127.0.0.1:-1", "needs a host and a port"),
        ("zmq+tcp://127.0.0.1:5555/path", "needs a host and a port"),
        ("zmq+tcp://me@127.0.0.1:5555", "needs a host and a port"),
        ("zmq+tcp://0.0.0.0:1;127.0.0.1:5555", "needs a host and a port"),
        ("zmq+tcp://[::1:5555", "is not an address"),
        ("zmq+tcp://\u2100:5555", "is not an address"),
        ("zmq+tcp://127.0.0.1:5555#here", "'#'"),
        ("zmq+ipc:///run/in#2", "'#'"),
        ("zmq+ipc://", "needs a path"),
        ("zmq+udp://127.0.0.1:5555", "unknown transport 'udp'"),
        ("zmq+inproc://name", "unknown transport 'inproc'"),
        ("zmq+", "names no transport"),
        ("zmq+tcp", "names no transport"),
        ("zmq+tcp://127.0.0.1:5555?sokket=pull", "unknown option 'sokket'"),
        ("zmq+tcp://127.0.0.1:5555?socket=rep", "unknown socket 'rep'"),
        ("zmq+tcp://127.0.0.1:5555?socket=", "unknown socket ''"),
        ("zmq+tcp://127.0.0.1:5555?bind=yes", "bind=yes"),
        ("zmq+tcp://127.0.0.1:5555?bind", "bind="),
        ("zmq+tcp://127.0.0.1:5555?remote=2", "remote=2"),
        ("zmq+tcp://0.0.0.0:5555?bind=1", "would listen to other hosts"),
        ("zmq+tcp://*:5555?bind=1", "would listen to other hosts"),
        ("zmq+tcp://eth0:5555?bind=1", "would listen to other hosts"),
        ("zmq+tcp://192.168.0.1:5555?bind=1&remote=0", "would listen to other hosts"),
        ("zmq+tcp://[::]:5555?bind=1", "would listen to other hosts"),
    ],
)
def test_what_is_no_address(uri: str, words: str) -> None:
    line = told(parse_endpoint, uri)
    assert words in line
    assert line.startswith((uri, uri.removeprefix("zmq+").partition("?")[0]))


def test_the_address_in_the_configuration_is_checked_alike() -> None:
    check_endpoint(Endpoint("tcp://127.0.0.1:5555", bind=True))
    assert "other hosts" in told(check_endpoint, Endpoint("tcp://0.0.0.0:5555", bind=True))
    assert "host and a port" in told(check_endpoint, Endpoint("tcp://127.0.0.1:5555?bind=1", bind=True))
    assert "not an address" in told(check_endpoint, Endpoint("tcp://[::1", bind=True))


@given(st.text(max_size=40) | st.from_regex(r"(zmq\+)?(tcp|ipc)://[\[\]a-z0-9.:@/?#&=*;-]{0,20}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        assert parse_endpoint(text).address.startswith(("tcp://", "ipc://"))
    except UsageRefused as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("*", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_receiving_types() -> None:
    assert socket_type(Endpoint("tcp://x:1", bind=False)) == zmq.SUB
    assert socket_type(Endpoint("tcp://x:1", bind=False, socket="pull")) == zmq.PULL


def bound(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    return open_socket(context, zmq.PULL, Endpoint(address, bind=True))


def address_of(socket: zmq.Socket[bytes]) -> str:
    """Where `socket` was bound, a port in place of 0."""
    address = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(address, bytes)
    return address.rstrip(b"\0").decode()


def test_sockets_are_bounded(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    with bound(context, f"ipc://{tmp_path}/in") as socket:
        assert 0 < socket.getsockopt(zmq.MAXMSGSIZE) <= 64 << 20
        assert 0 < socket.getsockopt(zmq.RCVHWM) <= 1000
        assert socket.getsockopt(zmq.LINGER) == 0
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) > 0


def machine_has(family: unix.AddressFamily, host: str) -> bool:
    with unix.socket(family) as probe:
        return probe.connect_ex((host, 9)) in (0, errno.ECONNREFUSED)


@pytest.mark.parametrize(("family", "host"), [(unix.AF_INET, "127.0.0.1"), (unix.AF_INET6, "::1")])
def test_both_loopbacks_can_be_listened_at(
    family: unix.AddressFamily, host: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    shown = f"[{host}]" if ":" in host else host
    if not machine_has(family, host):
        assert told(bound, context, f"tcp://{shown}:0").startswith(f"tcp://{shown}:0: ")
        return
    with bound(context, f"tcp://{shown}:0") as socket:
        address = address_of(socket)
        assert address.startswith(f"tcp://{shown}:")
        with open_socket(context, zmq.PUSH, Endpoint(address, bind=False)) as sender:
            sender.send(b"heard")
            assert socket.recv() == b"heard"


def test_a_port_in_use(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with bound(context, "tcp://127.0.0.1:0") as first:
        endpoint = address_of(first)
        line = told(bound, context, endpoint)
        assert line == f"{endpoint}: Address already in use (stop the other program or choose another port)"


def test_a_path_in_use(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    """libzmq by itself would take the path away from the program that listens there."""
    address = f"ipc://{tmp_path}/in"
    with bound(context, address) as first:
        assert told(bound, context, address).startswith(f"{address}: another program listens there")
        with open_socket(context, zmq.PUSH, Endpoint(address, bind=False)) as sender:
            sender.send(b"still heard")
            assert first.recv() == b"still heard"


def test_a_path_left_behind_is_taken_over(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "in"))
        dead.listen()
    assert (tmp_path / "in").is_socket()
    bound(context, f"ipc://{tmp_path}/in").close()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_file_is_not_deleted(kind: str, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    """libzmq by itself deletes whatever lies at a path that it binds."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    address = f"ipc://{tmp_path}/{kind}"
    assert told(bound, context, address).startswith(f"{address}: is a file, not a socket")
    assert (tmp_path / "file").read_text() == (tmp_path / "link").read_text() == "precious"
    assert (tmp_path / "folder").is_dir()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ipc:///nowhere/at/all/in", "No such file or directory"),
        ("ipc:///tmp/" + "x" * 200, "File name too long"),
        ("tcp://192.0.2.1:5555", "Cannot assign requested address"),
    ],
)
def test_places_that_cannot_be_listened_at(address: str, words: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    assert told(bound, context, address) == f"{address}: {words}"
