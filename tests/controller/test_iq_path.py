"""IQ in the daemon: estimated beside the loop, shed and told where that is too slow, and never in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from controller import iq_estimator, iq_told
from controller.config import Config, config_from
from controller.daemon import Daemon
from controller.iq_estimator import IqEstimator
from controller.iq_path import IqPath
from controller.iq_told import IqLog
from controller.live_receiver import LiveReceiver
from ingest.clock import MonotonicClock
from ingest.iq_queue import IqQueue
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb_receiver import RESEARCH_S
from ingest.sources import Source, ZmqSource
from tests.controller.test_daemon import daemon
from tests.ingest.nr.signals import Ssb, block, capture
from tests.ingest.test_zmq_stream import Sender, cell_pieces, iq_fault

RATE_HZ, CENTER_HZ, RASTER_HZ = 15.36e6, 3502.8e6, 3501.12e6
LENGTH = 15_360
PATIENCE_S = 60.0


@pytest.fixture
def config() -> Config:
    return config_from({}, where="test")


def pieces(rng: np.random.Generator, count: int = 60, source: str = "radio") -> list[IqBlock]:
    """A cell's SSB every 20 ms in blocks of a millisecond, each stamped when its last sample was there."""
    ssbs = [Ssb(500, 2.3e-3 + 20e-3 * n, RASTER_HZ) for n in range(count // 20 + 1)]
    samples = capture(ssbs, rate_hz=RATE_HZ, center_hz=CENTER_HZ, samples=count * LENGTH, snr_db=20.0, rng=rng)
    found = []
    for n in range(count):
        part = samples[:, n * LENGTH : (n + 1) * LENGTH]
        one = block(part, rate_hz=RATE_HZ, center_hz=CENTER_HZ, first_sample=n * LENGTH, seq=n)
        found.append(msgspec.structs.replace(one, source=source, t_ns=one.t_ns + 10**6))
    return found


def wait_for(what: Callable[[], bool]) -> None:
    until_s = monotonic() + PATIENCE_S
    while not what():
        assert monotonic() < until_s
        sleep(1e-3)


def unexpected(error: Exception) -> None:
    raise AssertionError(error)


def test_frames_of_a_recording_are_those_of_the_receiver(config: Config, rng: np.random.Generator) -> None:
    blocks, frames = pieces(rng), list[ChannelFrame]()
    estimator = IqEstimator(config, live=False)
    path = IqPath(estimator, frames.extend, unexpected, sheds=False)
    for one in blocks:
        path.offer(one)
    path.end()
    receiver = NrReceiver()
    starting = [msgspec.structs.replace(one, t_ns=one.t_ns - 10**6) for one in blocks]
    expected = [frame for one in starting for frame in receiver.process(one)]
    assert [frame.t_ns for frame in frames] == [frame.t_ns for frame in expected]
    assert len(frames) == 3
    assert [cell.key for cell in estimator.receivers["radio"].cells] == [cell.key for cell in receiver.cells]


class Log:
    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def warning(self, _: str, **more: Any) -> None:
        self.told.append(more)


def slow_receiver(monkeypatch: pytest.MonkeyPatch, may_go: threading.Event) -> None:
    class Slow(NrReceiver):
        def process(self, block: IqBlock) -> Any:
            assert may_go.wait(PATIENCE_S)
            return super().process(block)

    monkeypatch.setattr(iq_estimator, "NrReceiver", Slow)


def test_what_is_too_much_is_shed_and_told(
    config: Config, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    may_go, frames = threading.Event(), list[ChannelFrame]()
    slow_receiver(monkeypatch, may_go)
    estimator = IqEstimator(config, live=False)
    path = IqPath(estimator, frames.extend, unexpected, sheds=True)
    path.queue = IqQueue(sheds=True, max_s=0.2)
    blocks = pieces(rng, 300)
    path.offer(blocks[0])
    wait_for(lambda: not path.queue._waiting)  # the first one is being estimated
    for one in blocks[1:]:
        path.offer(one)
    # Of 299 that wait, the older half goes once more than 200 do.
    assert path.queue.shed_blocks == 100
    log = Log()
    monkeypatch.setattr(iq_told, "logger", lambda: log)
    iq_log = IqLog()
    iq_log.look(path.told())
    iq_log.look(path.told())
    assert [(one["shed_ms"], one["shed_ms_in_all"]) for one in log.told] == [(100, 100)]
    may_go.set()
    path.end()
    receiver = estimator.receivers["radio"]
    assert receiver.gaps == path.queue.shed_samples == 100 * LENGTH
    assert path.queue.missing_samples == 0
    # The cell is found and followed again in what was kept.
    assert {frame.user for frame in frames} == {"pci500.ssb0"}
    assert len(frames) >= 5


def test_a_failure_is_told_and_nothing_hangs(
    config: Config, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    class Broken(NrReceiver):
        def process(self, block: IqBlock) -> Any:
            raise ArithmeticError("no root found")

    monkeypatch.setattr(iq_estimator, "NrReceiver", Broken)
    failures: list[Exception] = []
    path = IqPath(IqEstimator(config, live=False), unexpected, failures.append, sheds=False)  # type: ignore[arg-type]
    for one in pieces(rng, 300):  # more than are let wait
        path.offer(one)
    path.end()
    assert [str(error) for error in failures] == ["no root found"]


def test_radios_beyond_the_limit_are_counted(config: Config, rng: np.random.Generator) -> None:
    estimator = IqEstimator(config, live=True)
    path = IqPath(estimator, lambda _: None, unexpected, sheds=True)
    for number in range(20):
        path.offer(pieces(rng, 1, source=f"radio{number}")[0])
    path.end()
    assert (len(estimator.receivers), path.told().too_many_radios) == (16, 4)


def test_closing_does_not_wait_for_what_waits(
    config: Config, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    may_go, frames = threading.Event(), list[ChannelFrame]()
    slow_receiver(monkeypatch, may_go)
    estimator = IqEstimator(config, live=False)
    path = IqPath(estimator, frames.extend, unexpected, sheds=True)
    for one in pieces(rng, 60):
        path.offer(one)
    threading.Timer(0.05, may_go.set).start()
    path.close()
    assert path._thread is not None
    path._thread.join(PATIENCE_S)  # what is in hand is finished, which takes long where kernels are compiled first
    assert not path._thread.is_alive()
    assert len(frames) <= 1


@pytest.mark.parametrize(
    ("live", "told_s", "expected_s"), [(True, 0.0, inf), (True, 7.0, 7.0), (False, 0.0, RESEARCH_S)]
)
def test_cells_beside_a_known_one_are_searched_for_as_configured(
    live: bool, told_s: float, expected_s: float, rng: np.random.Generator
) -> None:
    told = config_from({"receiver": {"search_again_s": told_s}}, where="test")
    estimator = IqEstimator(told, live=live)
    list(estimator.receive(pieces(rng, 1)[0]))
    assert estimator.receivers["radio"].ssb._research_s == expected_s


def is_followed(run: Daemon) -> bool:
    """Whether the daemon heard the one cell more often than `iq_fault` has SSBs: all of that has come by then."""
    return any(cell["seen"] >= 8 for cell in run.iq_told().summary().get("cells", []))


@pytest.fixture(params=["here", "apart"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Source]]:
    """Opens a stream in the daemon's process, or in one of its own as `twinbeam run` does."""
    receivers: list[LiveReceiver] = []

    def open_it(uri: str) -> Source:
        if request.param == "here":
            return ZmqSource(uri, MonotonicClock())
        receivers.append(LiveReceiver(config_from({"source": {"uri": uri}}, where="test")))
        return receivers[-1]

    yield open_it
    for receiver in receivers:
        receiver.end()


@pytest.mark.parametrize("kind", ["lost", "duplicated", "reordered", "truncated", "damaged", "restarted"])
def test_faults_of_a_stream_are_counted_to_the_sample_by_the_daemon(
    kind: str, opened: Callable[[str], Source], tmp_path: Path
) -> None:
    """A sender on the real wire, at the pace of its signal; the cell is followed after the fault."""
    pieces = cell_pieces()
    messages, _, rejected, gaps = iq_fault(kind, pieces)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = Sender(context, zmq.PUSH, f"ipc://{tmp_path}/radio")
    source = opened(f"zmq+{sender.address}?socket=pull")
    run, length = daemon(source), pieces[0].samples.shape[1]

    def send() -> None:
        for message in messages:
            sender.send(message)
            sleep(2e-3)
        epoch, number = (1, 25) if kind == "restarted" else (0, 60)
        until_s = monotonic() + PATIENCE_S
        while not is_followed(run) and monotonic() < until_s:
            piece, first = pieces[number % 60], number * length
            sender.send(msgspec.structs.replace(piece, epoch=epoch, seq=number, first_sample=first))
            number += 1
            sleep(2e-3)
        source.close()

    sending = threading.Thread(target=send)
    sending.start()
    asyncio.run(run.run())
    sending.join()
    sender.close()
    context.destroy(linger=0)
    told = run.summary()
    assert {name: count for name, count in told["drops"].items() if name != "superseded"} == rejected
    assert (told.get("lost", 0), told.get("lost_samples", 0)) == (gaps, gaps * length)
    assert "shed_samples" not in told
    assert [cell["pci"] for cell in told["cells"]] == [321]
