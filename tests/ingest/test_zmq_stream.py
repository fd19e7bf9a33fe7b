"""A live stream over real sockets: good messages pass and are stamped, everything else is counted by its reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from ingest import wire
from ingest.clock import ManualClock
from ingest.errors import UsageRefused
from ingest.messages import BlockDecision, FeedbackFrame, IqBlock, Message, OutcomeFrame, no_array
from ingest.nr.receiver import NrReceiver
from ingest.sources import ZmqSource
from ingest.topics import MAX_MESSAGE_BYTES, TOPICS
from tests.ingest.nr.signals import Ssb, block, capture
from tests.ingest.test_wire import same
from tests.random_channels import budget, complex_normal, frame

NOW_NS = 123_456_789
PATIENCE_S = 30.0
INBOUND = sum(topic.inbound for topic in TOPICS.values())


class Sender:
    """A peer of a `ZmqSource`, on a raw socket that sends whatever it is told to."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> None:
        self.socket = context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1e3))
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
        self.socket.bind(address)
        last = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(last, bytes)
        self.address = last.rstrip(b"\0").decode()

    def await_subscriber(self) -> list[bytes]:
        """The prefixes that the first subscriber asks for."""
        return [self.socket.recv() for _ in range(INBOUND)]

    def send(self, *messages: Message | Sequence[wire.Frame]) -> None:
        for message in messages:
            self.socket.send_multipart(wire.encode(message) if isinstance(message, Message) else list(message))

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/out" if request.param == "ipc" else "tcp://127.0.0.1:0"


@contextmanager
def pushed(context: zmq.Context[zmq.Socket[bytes]], address: str) -> Iterator[tuple[Sender, ZmqSource]]:
    """A PUSH socket and a source that pulls from it."""
    sender = Sender(context, zmq.PUSH, address)
    source = ZmqSource(f"zmq+{sender.address}?socket=pull", ManualClock(NOW_NS))
    try:
        yield sender, source
    finally:
        source.close()
        sender.close()


def end() -> Message:
    return msgspec.structs.replace(frame(np.ones((1, 1))), source="end")


def until_end(source: ZmqSource) -> list[Message]:
    """What the source yields before a message of the sender `end`; fails where that does not come."""
    guard = threading.Timer(PATIENCE_S, source.close)
    guard.start()
    got = []
    for message in source:
        if message.source == "end":
            break
        got.append(message)
    else:
        pytest.fail("the last message did not arrive")
    guard.cancel()
    return got


def one_of_each(rng: np.random.Generator) -> list[Message]:
    """A message of every inbound type."""
    common = {"source": "ue", "epoch": 3, "seq": 4, "t_ns": 5}
    return [
        IqBlock(**common, rate_hz=1e6, center_hz=1e9, first_sample=7, samples=complex_normal(rng, 2, 50).astype("c8")),
        frame(complex_normal(rng, 2, 4), t_ns=5, pattern=np.ones(3)),
        FeedbackFrame(
            **common,
            user="ue0",
            block=1,
            codec="csinet",
            codeword=rng.random(32).astype("f4"),
            powers_dbm=rng.random(4).astype("f4"),
            ris_pattern=no_array(0),
        ),
        OutcomeFrame(
            **common,
            user="ue0",
            block=1,
            decision_seq=2,
            received_power_dbm=-80.0,
            sinr_db=10.0,
            rate_bps_hz=3.0,
            ack=True,
        ),
    ]


def decision() -> BlockDecision:
    return BlockDecision(
        source="x",
        epoch=0,
        seq=0,
        t_ns=0,
        block=0,
        rung="hold",
        users=(),
        validity=(),
        designed_block=0,
        power=0.0,
        precoder=no_array(4, 0),
        theta=no_array(0),
        sinr_db=no_array(0, dtype="f4"),
        sinr_low_db=no_array(0, dtype="f4"),
        sinr_high_db=no_array(0, dtype="f4"),
        promised_outage=no_array(0, dtype="f4"),
        rate_target_bps_hz=no_array(0, dtype="f4"),
        residual_db=no_array(0, dtype="f4"),
    )


def restamped(messages: Sequence[Message]) -> list[Message]:
    return [msgspec.structs.replace(message, t_ns=NOW_NS) for message in messages]


def test_messages_pass_and_are_stamped(
    context: zmq.Context[zmq.Socket[bytes]], address: str, rng: np.random.Generator
) -> None:
    sent = one_of_each(rng)
    assert {type(message) for message in sent} == {topic.message for topic in TOPICS.values() if topic.inbound}
    with pushed(context, address) as (sender, source):
        sender.send(*sent, end())
        got = until_end(source)
    assert len(got) == len(sent)
    assert all(same(*pair) for pair in zip(got, restamped(sent), strict=True))
    assert (dict(source.rejected), source.gaps) == ({}, 0)
    assert source.info.where == sender.address


def test_a_subscriber_asks_for_inbound_topics_alone(
    context: zmq.Context[zmq.Socket[bytes]], address: str, rng: np.random.Generator
) -> None:
    sent = one_of_each(rng)
    sender = Sender(context, zmq.XPUB, address)
    source = ZmqSource(f"zmq+{sender.address}", ManualClock(NOW_NS))
    asked = sender.await_subscriber()
    assert sorted(asked) == sorted(b"\1" + topic.prefix for topic in TOPICS.values() if topic.inbound)
    sender.send(decision(), *sent, budget(0), end())
    got = until_end(source)
    sender.close()
    assert all(same(*pair) for pair in zip(got, restamped(sent), strict=True))
    assert not source.rejected


def test_the_source_may_be_the_one_that_listens(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, rng: np.random.Generator
) -> None:
    source = ZmqSource(f"zmq+ipc://{tmp_path}/in?bind=1&socket=pull", ManualClock(NOW_NS))
    with context.socket(zmq.PUSH) as socket:
        socket.connect(f"ipc://{tmp_path}/in")
        for message in [*one_of_each(rng), end()]:
            socket.send_multipart(wire.encode(message))
        assert len(until_end(source)) == INBOUND


def frames_of(message: Message) -> list[bytes]:
    return [bytes(part) for part in wire.encode(message)]


def with_header(message: Message, change: Callable[[dict[str, Any]], object]) -> list[bytes]:
    parts = frames_of(message)
    header = json.loads(parts[1])
    change(header)
    parts[1] = json.dumps(header).encode()
    return parts


def with_number(value: complex) -> list[bytes]:
    channel = np.ones((1, 4), np.complex64)
    channel[0, 1] = value
    return frames_of(frame(channel))


def damaged() -> list[tuple[str, list[bytes]]]:
    """(reason, multipart message) of every kind of damage."""
    good = frame(np.ones((1, 4)))
    parts = frames_of(good)
    return [
        ("topic", [b"channels", *parts[1:]]),
        ("topic", [b"", *parts[1:]]),
        ("topic", [b"\xff" * 1000, *parts[1:]]),
        ("topic", frames_of(decision())),
        ("topic", frames_of(budget(0))),
        ("frames", [b"channel"]),
        ("frames", parts[:-1]),
        ("frames", [*parts, b""]),
        ("frames", [*parts, *[b"x"] * 3000]),
        ("header", [parts[0], b"not JSON", *parts[2:]]),
        ("header", [parts[0], b"", *parts[2:]]),
        ("header", [parts[0], b"[" * 60_000, *parts[2:]]),
        ("header", with_header(good, lambda header: header.update(user="two words"))),
        ("header", with_header(good, lambda header: header.update(seq=-1))),
        ("schema", with_header(good, lambda header: header.update(schema="twinbeam.ChannelFrame/99"))),
        ("size", [parts[0], bytes(wire.MAX_HEADER_BYTES + 1), *parts[2:]]),
        ("size", [*parts[:2], bytes(TOPICS["channel"].max_bytes), *parts[3:]]),
        ("dtype", with_header(good, lambda header: header["arrays"][0].update(dtype="<c16"))),
        ("dtype", with_header(good, lambda header: header["arrays"][0].update(dtype="O"))),
        ("shape", with_header(good, lambda header: header["arrays"][0].update(shape=[1, 4, 2]))),
        ("shape", with_header(good, lambda header: header["arrays"][0].update(shape=[-1, -4, 1]))),
        ("shape", [*parts[:2], parts[2][:-1], *parts[3:]]),
        ("non_finite", with_number(complex(np.nan, 0))),
        ("non_finite", with_number(complex(0, np.inf))),
        ("inconsistent", frames_of(frame(np.ones((0, 4))))),
    ]


def test_damage_is_counted_by_its_reason(context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
    sent = [frame(np.ones((1, 4)), seq=n) for n in range(len(damaged()))]
    with pushed(context, address) as (sender, source):
        for message, (_, parts) in zip(sent, damaged(), strict=True):
            sender.send(message, parts)
        sender.send(end())
        got = until_end(source)
    assert all(same(*pair) for pair in zip(got, restamped(sent), strict=True))
    reasons = [reason for reason, _ in damaged()]
    assert set(reasons) == set(wire.REASONS)
    assert dict(source.rejected) == {reason: reasons.count(reason) for reason in reasons}
    assert source.gaps == 0


@pytest.mark.parametrize(
    ("pattern", "passed", "rejected", "gaps", "restarts"),
    [
        ([(0, 0), (0, 1), (0, 2)], [0, 1, 2], {}, 0, 0),
        ([(0, 0), (0, 0), (0, 1)], [0, 2], {"duplicate": 1}, 0, 0),
        ([(0, 0), (0, 5), (0, 6)], [0, 1, 2], {}, 4, 0),
        ([(0, 0), (0, 3), (0, 1), (0, 2), (0, 4)], [0, 1, 4], {"reordered": 2}, 2, 0),
        ([(1, 7), (2, 0), (1, 8), (2, 1)], [0, 1, 3], {"old_epoch": 1}, 0, 1),
        ([(1, 0), (2, 5), (3, 0), (3, 2)], [0, 1, 2, 3], {}, 1, 2),
    ],
)
def test_what_the_numbers_say(
    pattern: list[tuple[int, int]],
    passed: list[int],
    rejected: dict[str, int],
    gaps: int,
    restarts: int,
    context: zmq.Context[zmq.Socket[bytes]],
    tmp_path: Path,
) -> None:
    sent = [
        msgspec.structs.replace(frame(np.ones((1, 1)), block=n), epoch=epoch, seq=seq)
        for n, (epoch, seq) in enumerate(pattern)
    ]
    with pushed(context, f"ipc://{tmp_path}/out") as (sender, source):
        sender.send(*sent, end())
        got = until_end(source)
    assert [message.block for message in got if hasattr(message, "block")] == passed
    assert (dict(source.rejected), source.gaps, source.sequence.restarts) == (rejected, gaps, restarts)


def test_a_sender_that_comes_back_is_heard_again(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    with pushed(context, f"ipc://{tmp_path}/out") as (sender, source):
        sender.send(frame(np.ones((1, 1)), seq=41))
        messages = iter(source)
        assert next(messages).seq == 41
        sender.close()
        again = Sender(context, zmq.PUSH, sender.address)
        again.send(msgspec.structs.replace(frame(np.ones((1, 1)), seq=0), epoch=1))
        assert next(messages).seq == 0
        again.close()
    assert list(messages) == []
    assert (source.sequence.restarts, source.gaps, dict(source.rejected)) == (1, 0, {})


@contextmanager
def sending_in_the_background(sender: Sender, first: Sequence[wire.Frame]) -> Iterator[None]:
    """Once somebody listens, sends `first` and then good frames, as a radio does, whoever listens."""
    stop = threading.Event()

    def send() -> None:
        if sender.socket.type == zmq.XPUB:
            sender.await_subscriber()
        sender.send(first)
        seq = 0
        while not stop.wait(0.01):
            with suppress(zmq.Again):
                sender.socket.send_multipart(wire.encode(frame(np.ones((1, 1)), seq=seq)), zmq.NOBLOCK)
            seq += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("socket", "kind"), [("pull", zmq.PUSH), ("sub", zmq.XPUB)])
@pytest.mark.parametrize("bind", [False, True])
def test_a_frame_beyond_the_limit_does_not_end_the_stream(
    socket: str, kind: int, bind: bool, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    """libzmq hangs up on such a sender, and where it connected itself, it does not call again."""
    address = f"ipc://{tmp_path}/out"
    source = ZmqSource(f"zmq+{address}?socket={socket}&bind={int(bind)}", ManualClock(NOW_NS))
    sender = Sender(context, kind, f"ipc://{tmp_path}/unused" if bind else address)
    if bind:
        sender.socket.connect(address)
    guard = threading.Timer(PATIENCE_S, source.close)
    guard.start()
    with sending_in_the_background(sender, [b"iq", b"{}", bytes(MAX_MESSAGE_BYTES + 1)]):
        first = next(iter(source), None)
    guard.cancel()
    source.close()
    sender.close()
    assert first is not None
    assert first.TOPIC == "channel"
    assert dict(source.rejected) == ({} if bind else {"hung_up": 1})


PIECE_S, IQ_RATE_HZ = 2e-3, 15.36e6


def cell_pieces() -> list[IqBlock]:
    """120 ms of a cell with an SSB in every 20 ms, in pieces of 2 ms; the SSBs are in pieces 0, 10, 20, …."""
    ssbs = [Ssb(pci=321, start_s=0.5e-3 + 0.02 * n, raster_hz=3499.68e6) for n in range(6)]
    length = round(PIECE_S * IQ_RATE_HZ)
    radio = {"rate_hz": IQ_RATE_HZ, "center_hz": 3500e6}
    samples = capture(ssbs, **radio, samples=60 * length, snr_db=20.0, rng=np.random.default_rng(4))
    pieces = np.split(samples, 60, axis=1)
    return [block(piece, **radio, first_sample=n * length, seq=n) for n, piece in enumerate(pieces)]


def iq_fault(kind: str, pieces: list[IqBlock]) -> tuple[list[Sequence[wire.Frame]], list[int], dict[str, int], int]:
    """(messages, pieces whose SSB is heard, `rejected`, `gaps`) of a deterministic fault."""
    sent = [[bytes(part) for part in wire.encode(piece)] for piece in pieces]
    heard = [0, 10, 20, 30, 40, 50]
    match kind:
        case "lost":
            return [*sent[:19], *sent[23:]], [0, 10, 30, 40, 50], {}, 4
        case "duplicated":
            return [*sent[:21], sent[20], sent[20], *sent[21:]], heard, {"duplicate": 2}, 0
        case "reordered":
            return [*sent[:20], sent[21], sent[20], *sent[22:]], [0, 10, 30, 40, 50], {"reordered": 1}, 1
        case "truncated":
            cut = [*sent[20][:2], sent[20][2][:-8]]
            return [*sent[:20], cut, sent[21][:2], *sent[22:]], [0, 10, 30, 40, 50], {"shape": 1, "frames": 1}, 2
        case "damaged":
            bad = np.full(len(sent[20][2]) // 8, np.nan, "<c8").tobytes()
            return [*sent[:20], [*sent[20][:2], bad], *sent[21:]], [0, 10, 30, 40, 50], {"non_finite": 1}, 1
        case "restarted":
            again = [msgspec.structs.replace(piece, epoch=1) for piece in pieces]
            late = wire.encode(pieces[31])
            return [*sent[:31], *map(wire.encode, again[:25]), late], [0, 10, 20, 30, 0, 10, 20], {"old_epoch": 1}, 0
    raise AssertionError(kind)


@pytest.mark.parametrize("sixteen_bits", [False, True])
@pytest.mark.parametrize("kind", ["lost", "duplicated", "reordered", "truncated", "damaged", "restarted"])
def test_estimates_resume_on_the_next_good_block(
    kind: str, sixteen_bits: bool, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    pieces = cell_pieces()
    if sixteen_bits and kind != "damaged":
        peak = max(float(np.abs(piece.samples).max()) for piece in pieces)
        pieces = [
            msgspec.structs.replace(piece, samples=piece.samples / np.float32(peak), full_scale=32768.0)
            for piece in pieces
        ]
    messages, expected, rejected, gaps = iq_fault(kind, pieces)
    receiver, heard = NrReceiver(), []
    with pushed(context, f"ipc://{tmp_path}/out") as (sender, source):
        sender.send(*messages, end())
        for message in until_end(source):
            assert isinstance(message, IqBlock)
            heard += [(found, message) for found in receiver.process(message)]
    lengths = round(PIECE_S * IQ_RATE_HZ)
    starts_s = [(f.t_ns - m.t_ns) * 1e-9 + m.first_sample / IQ_RATE_HZ for f, m in heard]
    assert [round((start_s - 0.5e-3) / PIECE_S) for start_s in starts_s] == expected
    assert all(abs(found.snr_db - 20.0) < 3.0 for found, _ in heard)
    assert (dict(source.rejected), source.gaps) == (rejected, gaps)
    assert receiver.gaps == gaps * lengths


def test_close_from_elsewhere_ends_the_reading(context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
    sender = Sender(context, zmq.PUSH, address)
    source = ZmqSource(f"zmq+{sender.address}?socket=pull")
    got: list[Message] = []
    arrived = threading.Event()

    def read() -> None:
        for message in source:
            got.append(message)
            arrived.set()

    thread = threading.Thread(target=read)
    thread.start()
    sender.send(frame(np.ones((1, 1))))
    assert arrived.wait(PATIENCE_S)
    source.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert len(got) == 1
    assert got[0].t_ns > 0
    assert list(source) == []
    source.close()
    sender.close()


def test_a_source_is_read_once(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    with pushed(context, f"ipc://{tmp_path}/out") as (sender, source):
        sender.send(frame(np.ones((1, 1))))
        messages = iter(source)
        next(messages)
        assert list(source) == []
        messages.close()
        assert list(source) == []


def test_an_unread_source_gives_its_place_back(tmp_path: Path) -> None:
    uri = f"zmq+ipc://{tmp_path}/in?bind=1"
    for _ in range(3):
        source = ZmqSource(uri)
        with pytest.raises(UsageRefused, match="another program listens there"):
            ZmqSource(uri)
        source.close()
        source.close()


def test_a_place_that_cannot_be_had(tmp_path: Path) -> None:
    for uri in ("zmq+tcp://0.0.0.0:1?bind=1", "zmq+ipc:///nowhere/at/all/in?bind=1"):
        with pytest.raises(UsageRefused):
            ZmqSource(uri)
