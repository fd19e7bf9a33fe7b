"""More IQ comes in than can be estimated: memory stays bounded, whole blocks go, and every one is counted."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep

import msgspec
import numpy as np
import pytest
import zmq

from ingest import wire
from ingest.iq_queue import IqQueue
from ingest.messages import IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.sources import ZmqSource
from tests.ingest.nr.signals import Ssb, capture
from tests.ingest.nr.signals import block as block_of
from tests.ingest.stream_peers import PATIENCE_S, bound

RATE_HZ = 1e6


def iq(number: int, length: int = 1000, rate_hz: float = RATE_HZ, **changes: object) -> IqBlock:
    silence = np.zeros((2, length), np.complex64)
    made = block_of(silence, rate_hz=rate_hz, center_hz=1e9, first_sample=number * length, seq=number)
    return msgspec.structs.replace(made, **changes)


def left(queue: IqQueue) -> list[IqBlock]:
    """What can still be taken of an ended queue."""
    queue.end()
    found = []
    while (block := queue.take()) is not None:
        found.append(block)
    return found


def test_who_keeps_up_gets_everything() -> None:
    queue = IqQueue(sheds=True, max_s=0.0035)
    for n in range(50):
        queue.put(iq(n))
        if n % 2:
            taken = queue.take(), queue.take()
            assert [block and block.seq for block in taken] == [n - 1, n]
    assert left(queue) == []
    assert (queue.shed_blocks, queue.shed_samples, queue.missing_samples) == (0, 0, 0)


@pytest.mark.parametrize(
    ("limits", "blocks", "kept"),
    [
        # 1 ms each: at more than 4 ms (5 waiting) the older 2 go; 2 more come and the next 2 go
        ({"max_s": 0.0045}, 4, [0, 1, 2, 3]),
        ({"max_s": 0.0045}, 5, [2, 3, 4]),
        ({"max_s": 0.0045}, 6, [2, 3, 4, 5]),
        ({"max_s": 0.0045}, 7, [4, 5, 6]),
        ({"max_s": 0.0045}, 100, [96, 97, 98, 99]),
        ({"max_bytes": 4 * 16_000}, 5, [2, 3, 4]),
        ({"max_bytes": 100}, 4, [3]),
    ],
)
def test_the_older_half_of_what_waits_is_shed(limits: dict[str, float], blocks: int, kept: list[int]) -> None:
    queue = IqQueue(sheds=True, **limits)  # type: ignore[arg-type]
    for n in range(blocks):
        queue.put(iq(n))
    assert [block.seq for block in left(queue)] == kept
    gone = blocks - len(kept)
    assert (queue.shed_blocks, queue.shed_samples) == (gone, 1000 * gone)
    assert queue.shed_s == pytest.approx(gone * 1e-3)
    assert queue.missing_samples == 0


def test_a_block_larger_than_all_limits_is_still_taken() -> None:
    queue = IqQueue(sheds=True, max_s=0.001, max_bytes=10)
    queue.put(iq(0, length=100_000))
    assert [block.seq for block in left(queue)] == [0]
    assert queue.shed_blocks == 0


def test_every_radio_has_its_own_seconds() -> None:
    queue = IqQueue(sheds=True, max_s=0.0045)
    for n in range(4):
        for radio in ("a", "b", "c"):
            queue.put(iq(n, source=radio))
    assert queue.shed_blocks == 0
    assert len(left(queue)) == 12


def test_missing_samples_are_counted_for_each_radio_and_epoch() -> None:
    queue = IqQueue(sheds=True)
    for number, changes in ((0, {}), (1, {}), (4, {}), (7, {"source": "b"}), (9, {"source": "b"}), (9, {"epoch": 1})):
        queue.put(iq(number, **changes))
    assert queue.missing_samples == (2 + 1) * 1000


def test_blocks_that_wait_are_joined_where_they_go_on() -> None:
    queue = IqQueue(sheds=True)
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(2, 8000)).astype(np.complex64)
    for n in (0, 1, 2, 3, 5, 6):
        queue.put(iq(n, t_ns=10 * n, samples=samples[:, 1000 * n : 1000 * n + 1000]))
    queue.put(iq(7, source="other"))
    queue.put(iq(8, source="other", epoch=3))
    queue.put(iq(9, source="other", epoch=3, center_hz=2e9))
    queue.end()
    got = []
    while (block := queue.take(3e-3)) is not None:
        got.append(block)
    runs = [(block.source, block.seq, block.first_sample, block.samples.shape[1], block.t_ns) for block in got]
    assert runs == [
        ("radio", 0, 0, 3000, 20),
        ("radio", 3, 3000, 1000, 30),
        ("radio", 5, 5000, 2000, 60),
        ("other", 7, 7000, 1000, got[3].t_ns),
        ("other", 8, 8000, 1000, got[4].t_ns),
        ("other", 9, 9000, 1000, got[5].t_ns),
    ]
    np.testing.assert_array_equal(got[0].samples, samples[:, :3000])
    np.testing.assert_array_equal(got[2].samples, samples[:, 5000:7000])


def test_one_that_waits_loses_nothing() -> None:
    queue = IqQueue(sheds=False, max_s=0.0035)
    taken: list[int] = []

    def put() -> None:
        for n in range(200):
            queue.put(iq(n))
        queue.end()

    sender = threading.Thread(target=put)
    sender.start()
    while (block := queue.take()) is not None:
        taken.append(block.seq)
        if block.seq < 20:
            sleep(1e-3)
    sender.join(PATIENCE_S)
    assert taken == list(range(200))
    assert queue.shed_blocks == 0


def test_one_that_waits_is_bounded() -> None:
    queue = IqQueue(sheds=False, max_s=0.0035)
    sender = threading.Thread(target=lambda: [queue.put(iq(n)) for n in range(10)], daemon=True)
    sender.start()
    until_s = monotonic() + PATIENCE_S
    while len(queue._waiting) < 3 and monotonic() < until_s:
        sleep(1e-3)
    sleep(0.05)
    assert len(queue._waiting) == 3
    queue.close()
    sender.join(PATIENCE_S)
    assert not sender.is_alive()
    assert queue.take() is None


def test_one_who_waits_for_a_block_is_woken_by_the_end() -> None:
    for last_word in ("end", "close"):
        queue = IqQueue(sheds=True)
        got: list[IqBlock | None] = []
        reader = threading.Thread(target=lambda got=got, queue=queue: got.append(queue.take()))  # type: ignore[misc]
        reader.start()
        getattr(queue, last_word)()
        reader.join(PATIENCE_S)
        assert got == [None]


def test_a_sender_at_twice_the_rate_that_can_be_estimated(tmp_path: Path) -> None:
    """Half of the stream goes; what is estimated of the other half is right, and every block is accounted for."""
    rate_hz, raster_hz, length = 15.36e6, 3499.68e6, 15_360
    rng = np.random.default_rng(8)
    ssb = Ssb(pci=40, start_s=2.2e-3, raster_hz=raster_hz)
    period = capture([ssb], rate_hz=rate_hz, center_hz=3500e6, samples=20 * length, snr_db=20.0, rng=rng)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender, address = bound(context, zmq.PUSH, f"ipc://{tmp_path}/radio")
    source, queue = ZmqSource(f"zmq+{address}?socket=pull"), IqQueue(sheds=True, max_s=0.05)
    came = iter(source)
    receiver, frames, taken = NrReceiver(), [], []
    for n in range(400):
        piece = period[:, n % 20 * length : (n % 20 + 1) * length]
        sent = block_of(piece, rate_hz=rate_hz, center_hz=3500e6, first_sample=n * length, seq=n)
        sender.send_multipart(wire.encode(sent))
        message = next(came)
        assert isinstance(message, IqBlock)
        queue.put(message)
        if n % 2 and (block := queue.take()) is not None:  # one of two is all that this reader manages
            taken.append(block.first_sample)
            frames += list(receiver.process(block))
    for block in left(queue):
        taken.append(block.first_sample)
        frames += list(receiver.process(block))
    came.close()  # type: ignore[attr-defined]
    context.destroy(linger=0)
    assert len(taken) + queue.shed_blocks == 400
    assert 140 <= queue.shed_blocks <= 200
    assert queue.shed_samples == queue.shed_blocks * length
    assert receiver.gaps == queue.shed_samples == sum(b - a - length for a, b in pairwise(taken)) + taken[0]
    assert (source.gaps, queue.missing_samples) == (0, 0)
    assert taken[-1] == 399 * length
    assert {message.user for message in frames} == {"pci40.ssb0"}
    assert len(frames) > 5
    assert all(abs(message.snr_db - 20.0) < 3.0 for message in frames)
