"""Too much comes in: memory stays bounded, whole blocks go, every one is counted, and nothing else suffers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from ingest import wire
from ingest.messages import ChannelFrame, IqBlock, Message
from ingest.nr.receiver import NrReceiver
from ingest.sources import Source, SourceInfo, ZmqSource
from ingest.sources.shedding import SheddingSource
from tests.ingest.nr.signals import Ssb, capture
from tests.ingest.nr.signals import block as block_of
from tests.ingest.stream_peers import PATIENCE_S, bound
from tests.random_channels import frame

RATE_HZ = 1e6


class Script(Source):
    """A source that follows a script: messages, and callables that are called in between."""

    def __init__(self, *steps: Message | Callable[[], object]) -> None:
        super().__init__(SourceInfo("script", "here"))
        self.steps = steps
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Message]:
        for step in self.steps:
            if isinstance(step, Message):
                yield step
            else:
                step()

    def close(self) -> None:
        self.closed.set()


def iq(number: int, samples: int = 1000, rate_hz: float = RATE_HZ) -> IqBlock:
    return block_of(
        np.zeros((2, samples), np.complex64), rate_hz=rate_hz, center_hz=1e9, first_sample=number * samples, seq=number
    )


def taken_late(*messages: Message, **limits: float) -> tuple[SheddingSource, list[Message]]:
    """What comes of `messages` for a reader who takes the first one and then sleeps until all have come."""
    all_came, first_taken = threading.Event(), threading.Event()
    first, *others = messages
    script = Script(first, lambda: first_taken.wait(PATIENCE_S), *others, all_came.set)
    source = SheddingSource(script, **limits)  # type: ignore[arg-type]
    got = []
    for message in source:
        got.append(message)
        first_taken.set()
        assert all_came.wait(PATIENCE_S)
    assert script.closed.is_set()
    return source, got


def numbers(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages if isinstance(message, IqBlock)]


def test_who_keeps_up_gets_everything() -> None:
    messages = [iq(n) for n in range(50)]
    source, got = taken_late(*messages, max_s=0.05)
    assert got == messages
    assert (dict(source.rejected), source.shed_samples) == ({}, 0)


@pytest.mark.parametrize(
    ("limits", "blocks", "kept"),
    [
        # after the first block, 1 ms each: at more than 4 ms (5 waiting), the older 2 go; 4 come and the next 2 go
        ({"max_s": 0.0045}, 6, [0, 3, 4, 5]),
        ({"max_s": 0.0045}, 7, [0, 3, 4, 5, 6]),
        ({"max_s": 0.0045}, 8, [0, 5, 6, 7]),
        ({"max_s": 0.0045}, 101, [0, 97, 98, 99, 100]),
        ({"max_bytes": 4 * 16_000}, 6, [0, 3, 4, 5]),
        ({"max_bytes": 100}, 4, [0, 3]),
    ],
)
def test_the_older_half_of_what_waits_is_shed(limits: dict[str, float], blocks: int, kept: list[int]) -> None:
    source, got = taken_late(*[iq(n) for n in range(blocks)], **limits)
    assert numbers(got) == kept
    assert dict(source.rejected) == {"shed": blocks - len(kept)}
    assert source.shed_samples == 1000 * (blocks - len(kept))


def test_a_block_larger_than_all_limits_is_still_taken() -> None:
    source, got = taken_late(iq(0), iq(1, samples=100_000), max_s=0.001, max_bytes=10)
    assert numbers(got) == [0, 1]
    assert not source.rejected


def test_other_messages_do_not_go_for_iq_and_keep_their_place() -> None:
    frames = [frame(np.ones((1, 4)), block=n) for n in range(3)]
    source, got = taken_late(iq(0), frames[0], iq(1), iq(2), frames[1], iq(3), iq(4), frames[2], iq(5), max_s=0.0035)
    assert dict(source.rejected) == {"shed": 2}
    kept = [message.block if isinstance(message, ChannelFrame) else f"iq{message.seq}" for message in got]
    assert kept == ["iq0", 0, 1, "iq3", "iq4", 2, "iq5"]


def test_other_messages_are_bounded_too() -> None:
    frames = [frame(np.ones((1, 4)), block=n) for n in range(12)]
    source, got = taken_late(*frames, max_messages=5)
    assert [message.block for message in got if isinstance(message, ChannelFrame)] == [0, 7, 8, 9, 10, 11]
    assert dict(source.rejected) == {"overrun": 6}


def test_a_failure_is_told_after_what_came_before_it() -> None:
    def fail() -> None:
        raise RuntimeError("the radio burns")

    messages = iter(SheddingSource(Script(iq(0), iq(1), fail, iq(2))))
    assert [next(messages).seq, next(messages).seq] == [0, 1]
    with pytest.raises(RuntimeError, match="the radio burns"):
        next(messages)


def test_it_is_read_once_and_not_after_it_was_closed() -> None:
    source = SheddingSource(Script(iq(0)))
    assert len(list(source)) == 1
    assert list(source) == []
    unread = SheddingSource(Script(iq(0)))
    unread.close()
    assert list(unread) == []


def test_a_reader_who_leaves_ends_the_receiving_thread(tmp_path: Path) -> None:
    inner = ZmqSource(f"zmq+ipc://{tmp_path}/in?bind=1&socket=pull")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.connect(f"ipc://{tmp_path}/in")
    sender.send_multipart(wire.encode(iq(0)))
    messages = iter(SheddingSource(inner))
    assert next(messages).seq == 0
    messages.close()  # type: ignore[attr-defined]
    assert list(inner) == []
    assert not any(thread.name == "receive" for thread in threading.enumerate())
    context.destroy(linger=0)


def test_a_sender_at_twice_the_rate_that_can_be_estimated(tmp_path: Path) -> None:
    """Half of the stream goes; what is estimated of the other half is right, and every block is accounted for."""
    rate_hz, raster_hz, length = 15.36e6, 3499.68e6, 15_360
    rng = np.random.default_rng(8)
    ssb = Ssb(pci=40, start_s=2.2e-3, raster_hz=raster_hz)
    period = capture([ssb], rate_hz=rate_hz, center_hz=3500e6, samples=20 * length, snr_db=20.0, rng=rng)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender, address = bound(context, zmq.PUSH, f"ipc://{tmp_path}/radio")
    inner = ZmqSource(f"zmq+{address}?socket=pull")
    source = SheddingSource(inner, max_s=0.05)
    messages = iter(source)
    receiver, frames, taken = NrReceiver(), [], 0
    for n in range(400):
        piece = period[:, n % 20 * length : (n % 20 + 1) * length]
        sent = block_of(piece, rate_hz=rate_hz, center_hz=3500e6, first_sample=n * length, seq=n)
        sender.send_multipart(wire.encode(sent))
        if n % 2:  # one of two is all that this reader manages
            message = next(messages)
            assert isinstance(message, IqBlock)
            taken += 1
            frames += list(receiver.process(message))
            last = message
    sender.send_multipart(wire.encode(msgspec.structs.replace(frame(np.ones((1, 1))), source="end")))
    for message in messages:
        if not isinstance(message, IqBlock):
            break
        taken += 1
        frames += list(receiver.process(message))
        last = message
    messages.close()  # type: ignore[attr-defined]
    context.destroy(linger=0)
    assert taken + source.rejected["shed"] == 400
    assert 140 <= source.rejected["shed"] <= 200
    assert source.shed_samples == source.rejected["shed"] * length
    assert receiver.gaps == source.shed_samples
    assert source.gaps == 0
    assert last.first_sample == 399 * length
    assert {message.user for message in frames} == {"pci40.ssb0"}
    assert len(frames) > 5
    assert all(abs(message.snr_db - 20.0) < 3.0 for message in frames)
