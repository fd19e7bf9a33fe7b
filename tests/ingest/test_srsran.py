"""An srsRAN radio over ZeroMQ: the request byte for byte, answers of any length, channels in step, peers that go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zmq

from ingest.clock import ManualClock
from ingest.errors import UsageRefused
from ingest.messages import IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.sources.srsran import SrsranSource
from ingest.stream_uri import parse_srsran
from tests.ingest.nr.signals import Ssb, capture
from tests.ingest.stream_peers import PATIENCE_S, bound, joined, patience, rows, until

NOW_NS = 99

OnAir = Callable[..., "Transmitter"]


class Transmitter:
    """One channel of an srsRAN radio: REP, bound, answering every request with the next samples it has."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.socket, self.address = bound(context, zmq.REP, address)
        self.requests: list[bytes] = []

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    def answer(self, data: bytes) -> None:
        self.requests.append(self.socket.recv())
        self.socket.send(data)


@pytest.fixture
def on_air() -> Iterator[OnAir]:
    """Puts transmitters on air, and takes them off in the end."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    transmitters: list[Transmitter] = []

    def put(address: str = "tcp://127.0.0.1:0") -> Transmitter:
        transmitters.append(Transmitter(context, address))
        return transmitters[-1]

    yield put
    for transmitter in transmitters:
        transmitter.socket.close()
    context.destroy(linger=0)


def ramp(first: int, count: int) -> npt.NDArray[np.complex64]:
    return (np.arange(first, first + count) * (1 + 1j)).astype(np.complex64)


@contextmanager
def answering(transmitter: Transmitter, answers: list[bytes]) -> Iterator[None]:
    """Gives `answers` one after the other, from a thread of its own."""
    thread = threading.Thread(target=lambda: [transmitter.answer(data) for data in answers])
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def source_of(*transmitters: Transmitter, options: str = "") -> SrsranSource:
    ports = "".join(f"&port{n}={transmitter.port}" for n, transmitter in enumerate(transmitters[1:], 1))
    uri = f"srsran+{transmitters[0].address}?rate_hz=1e6&center_hz=2e9{ports}{options}"
    return SrsranSource(uri, ManualClock(NOW_NS))


def test_answers_of_any_length_are_one_stream(on_air: OnAir) -> None:
    lengths = [1, 999, 1000, 7, 0, 12_345]
    ends = np.cumsum(lengths)
    answers = [ramp(end - length, length).tobytes() for length, end in zip(lengths, ends, strict=True)]
    transmitter = on_air()
    source = source_of(transmitter, options="&block_ms=1")
    with patience(source), answering(transmitter, answers):
        blocks = until(iter(source), sum(lengths))
    assert set(transmitter.requests) == {b"\0"}
    np.testing.assert_array_equal(joined(blocks)[0], ramp(0, sum(lengths)))
    assert rows(blocks) == [(0, 0, sum(lengths))]
    assert {(block.rate_hz, block.center_hz, block.t_ns) for block in blocks} == {(1e6, 2e9, NOW_NS)}
    assert {block.samples.shape[1] for block in blocks[:-1]} == {1000}
    assert not source.rejected


def test_channels_are_read_in_step(on_air: OnAir) -> None:
    """However long the answers of each are: no sample of one is passed on before that of the other is there."""
    one, other = on_air(), on_air()
    source = source_of(one, other, options="&block_ms=0.1")
    longer = [ramp(n, 50).tobytes() for n in range(0, 500, 50)]
    shorter = [ramp(n, 20).tobytes() for n in range(0, 500, 20)]
    with patience(source), answering(one, longer), answering(other, shorter):
        blocks = until(iter(source), 500)
    np.testing.assert_array_equal(joined(blocks), np.stack([ramp(0, 500), ramp(0, 500)]))
    assert source.info.antennas == 2


def test_no_channel_is_asked_far_ahead_of_the_others(on_air: OnAir) -> None:
    one, silent = on_air(), on_air()
    source = source_of(one, silent)
    with patience(source):
        reader = threading.Thread(target=lambda: list(source))
        reader.start()
        one.answer(ramp(0, 1000).tobytes())
        one.answer(ramp(1000, 1 << 20).tobytes())
        assert silent.socket.recv() == b"\0"
        assert not one.socket.poll(200)
        silent.socket.send(ramp(0, 2000).tobytes())
        assert one.socket.poll(PATIENCE_S * 1e3)
        source.close()
        reader.join(PATIENCE_S)
    assert not reader.is_alive()


def test_a_peer_that_serves_its_channels_in_turn_is_not_waited_for_in_vain(on_air: OnAir) -> None:
    """It answers one channel only after the other has asked, with what has come meanwhile."""
    one, other = on_air(), on_air()
    source = source_of(one, other)

    def serve() -> None:
        sent = [0, 0]
        for turn in range(40):
            peer, channel = (one, other)[turn % 2], turn % 2
            count = (3 if turn < 4 else 1) * (1 + 7 * channel)
            peer.answer(ramp(sent[channel], count).tobytes())
            sent[channel] += count

    thread = threading.Thread(target=serve)
    thread.start()
    with patience(source):
        blocks = until(iter(source), 24)
        thread.join(PATIENCE_S)
    assert not thread.is_alive()
    np.testing.assert_array_equal(joined(blocks)[:, :24], np.stack([ramp(0, 24)] * 2))


@pytest.mark.parametrize("asked", [False, True])
def test_a_transmitter_that_comes_back_is_asked_again(asked: bool, on_air: OnAir) -> None:
    """Also where it took our request with it when it went: a REQ socket would wait for that answer for ever."""
    transmitter = on_air()
    source = source_of(transmitter)
    with patience(source):
        messages = iter(source)
        with answering(transmitter, [ramp(0, 500).tobytes()]):
            blocks = until(messages, 500)
        if asked:
            assert transmitter.socket.poll(PATIENCE_S * 1e3)
            assert transmitter.socket.recv() == b"\0"
        transmitter.socket.close()
        again: list[Transmitter] = []

        def come_back() -> None:
            again.append(on_air(transmitter.address))
            again[0].answer(ramp(0, 700).tobytes())

        thread = threading.Thread(target=come_back)
        thread.start()
        blocks += until(messages, 700)
        thread.join(PATIENCE_S)
    assert rows(blocks) == [(0, 0, 500), (1, 0, 700)]
    assert dict(source.rejected) == {"hung_up": 1}


def test_a_transmitter_may_come_later_than_we(on_air: OnAir, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/radio"
    source = SrsranSource(f"srsran+{address}?rate_hz=1e6&center_hz=0")
    with patience(source):
        blocks: list[IqBlock] = []
        reader = threading.Thread(target=lambda: blocks.extend(until(iter(source), 10)))
        reader.start()
        reader.join(0.2)
        on_air(address).answer(ramp(0, 10).tobytes())
        reader.join(PATIENCE_S)
    assert rows(blocks) == [(0, 0, 10)]
    assert not source.rejected


@pytest.mark.parametrize(
    ("wrong", "reason", "expected"),
    [
        (ramp(10, 10).tobytes()[:-1], "truncated", [(0, 0, 10), (1, 0, 10)]),
        (b"x", "truncated", [(0, 0, 10), (1, 0, 10)]),
        (np.full(10, np.inf, np.complex64).tobytes(), "non_finite", [(0, 0, 10), (0, 20, 10)]),
    ],
)
def test_wrong_answers_are_counted(wrong: bytes, reason: str, expected: list[Any], on_air: OnAir) -> None:
    transmitter = on_air()
    source = source_of(transmitter)
    with patience(source), answering(transmitter, [ramp(0, 10).tobytes(), wrong, ramp(20, 10).tobytes()]):
        blocks = until(iter(source), 20)
    assert rows(blocks) == expected
    np.testing.assert_array_equal(joined(blocks)[0], np.r_[ramp(0, 10), ramp(20, 10)])
    assert dict(source.rejected) == {reason: 1}


def test_an_answer_in_parts_is_no_answer(on_air: OnAir) -> None:
    transmitter = on_air()
    source = source_of(transmitter)

    def answer() -> None:
        transmitter.socket.recv()
        transmitter.socket.send_multipart([ramp(0, 10).tobytes()] * 2)
        transmitter.answer(ramp(0, 5).tobytes())

    thread = threading.Thread(target=answer)
    thread.start()
    with patience(source):
        blocks = until(iter(source), 5)
    thread.join(PATIENCE_S)
    assert rows(blocks) == [(1, 0, 5)]
    assert dict(source.rejected) == {"frames": 1}


def test_the_cell_is_found_again_after_the_base_station_restarted(on_air: OnAir) -> None:
    rate_hz, raster_hz = 15.36e6, 3499.68e6
    rng = np.random.default_rng(9)
    ssbs = [Ssb(pci=77, start_s=1e-3 + 0.02 * n, raster_hz=raster_hz) for n in range(2)]
    samples = capture(ssbs, rate_hz=rate_hz, center_hz=3500e6, samples=round(0.04 * rate_hz), snr_db=15.0, rng=rng)[0]
    answers = [part.tobytes() for part in np.split(samples, 40)]
    transmitter = on_air()
    source = SrsranSource(f"srsran+{transmitter.address}?rate_hz={rate_hz}&center_hz=3500e6")
    receiver, users = NrReceiver(), []
    with patience(source):
        messages = iter(source)
        for life in range(2):
            peer = transmitter if life == 0 else on_air(transmitter.address)
            with answering(peer, answers):
                for block in until(messages, samples.size):
                    users += [(frame.user, block.epoch) for frame in receiver.process(block)]
            peer.socket.close()
    assert users == [("pci77.ssb0", epoch) for epoch in (0, 0, 1, 1)]
    assert receiver.gaps == 0


def test_close_from_elsewhere_ends_the_reading(on_air: OnAir) -> None:
    source = source_of(on_air())
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    source.close()
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert list(source) == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("srsran+tcp://127.0.0.1:2000", "needs rate_hz"),
        ("srsran+tcp://127.0.0.1:2000?rate_hz=1e6&center_hz=1&port2=2002", "channels are missing"),
        ("srsran+tcp://127.0.0.1:2000?rate_hz=1e6&center_hz=1&port1=2000", "the same port"),
        ("srsran+tcp://127.0.0.1:2000?rate_hz=1e6&center_hz=1&port1=a", "host and a port"),
        ("srsran+ipc:///run/x?rate_hz=1e6&center_hz=1&port1=2001", "port1 belongs to tcp"),
        ("srsran+tcp://127.0.0.1:2000?rate_hz=1e6&center_hz=1&bind=1", "unknown option 'bind'"),
        ("srsran+tcp://127.0.0.1?rate_hz=1e6&center_hz=1", "host and a port"),
        ("srsran+udp://127.0.0.1:1?rate_hz=1e6&center_hz=1", "unknown transport"),
    ],
)
def test_addresses_are_checked(uri: str, words: str) -> None:
    with pytest.raises(UsageRefused, match=words):
        parse_srsran(uri)


def test_channels_of_one_radio_are_ports_of_one_host() -> None:
    stream = parse_srsran("srsran+tcp://[::1]:2000?port1=2002&port2=2004", 30.72e6, 3.5e9)
    assert stream.addresses == ("tcp://[::1]:2000", "tcp://[::1]:2002", "tcp://[::1]:2004")
