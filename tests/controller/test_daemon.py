"""The edge: the first part to end ends all, a part that fails says so, silence falls when frames cease."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from controller.assembly import warm_up
from controller.config import Config
from controller.daemon import Daemon
from controller.metrics import Metrics
from controller.pipeline import Pipeline
from controller.session import Session
from ingest.clock import MonotonicClock
from ingest.errors import InputRefused, TwinbeamError
from ingest.messages import BlockDecision, Message, StepBudget
from ingest.sources.base import Source, SourceInfo
from tests.random_channels import complex_normal, frame

PERIOD_NS = 2 * 10**7
BLOCK = {"period_s": 20e-3, "deadline_s": 15e-3}


class Recording(Source):
    """Frames of two users every 20 ms; then `after` is called, and what it raises ends the source."""

    def __init__(self, blocks: int, after: Callable[[], None] = lambda: None, period_ns: int = PERIOD_NS) -> None:
        super().__init__(SourceInfo(format="test", where="here"))
        self._blocks, self._after, self._period_ns = blocks, after, period_ns
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Message]:
        rng = np.random.default_rng(0)
        for block in range(self._blocks):
            for user in (0, 1):
                yield frame(complex_normal(rng, 1, 4), user=f"ue{user}", block=block, t_ns=block * self._period_ns)
        self._after()

    def close(self) -> None:
        self.closed.set()


def daemon(source: Source, *, blocks: int | None = None, **tables: Any) -> Daemon:
    config = Config.model_validate({**tables, "block": {**BLOCK, **tables.get("block", {})}})
    pipeline = Pipeline.build(config, None, {})
    warm_up(pipeline)
    return Daemon(config, Session(pipeline), source, MonotonicClock(), Metrics("test"), blocks=blocks)


def test_it_ends_with_its_source() -> None:
    run = daemon(Recording(20))
    asyncio.run(run.run())
    told = run.summary()
    assert 10 <= told["decisions"] <= 30
    assert told["ladder"].get("linear", 0) + told["ladder"].get("hold", 0) == told["decisions"]


def test_it_ends_after_so_many_blocks() -> None:
    source = Recording(1000)
    run = daemon(source, blocks=5)
    asyncio.run(run.run())
    assert run.summary()["decisions"] == 5
    assert source.closed.is_set()


def test_a_source_that_fails_ends_it_with_the_reason() -> None:
    def fail() -> None:
        raise InputRefused("is cut", where="capture.cf32")

    run = daemon(Recording(5, after=fail))
    with pytest.raises(InputRefused, match="is cut"):
        asyncio.run(run.run())


def test_a_watched_part_that_died_ends_it_with_the_reason() -> None:
    source = Recording(3)
    run = daemon(Recording(3, after=lambda: source.closed.wait(10) and None), blocks=10**6)

    def dead() -> None:
        source.close()
        raise TwinbeamError("the page server has died")

    run.watch = dead
    with pytest.raises(TwinbeamError, match="page server"):
        asyncio.run(run.run())


def test_a_step_that_fails_ends_it_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours is not a hang: the exception comes out, the receiver is closed."""
    source = Recording(1000)
    run = daemon(source)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("defect")

    monkeypatch.setattr(run.session, "step", broken)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run.run())
    assert source.closed.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    source = Recording(10**6)
    run = daemon(source)
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    asyncio.run(run.run())
    assert source.closed.is_set()
    assert run.summary()["decisions"] > 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are taken down again"


def test_when_frames_cease_the_design_is_held_and_then_silence_falls() -> None:
    source = Recording(5, after=lambda: time.sleep(0.8))
    run = daemon(source, block={"stale_after_s": 0.1, "hold_blocks": 10})
    seen: list[str] = []
    step = run.session.step
    run.session.step = lambda budget: (seen.append((decision := step(budget)).rung), decision)[1]  # type: ignore[method-assign]
    asyncio.run(run.run())
    order = list(dict.fromkeys(seen))
    assert order == ["linear", "hold", "silence"]
    before_silence = reversed(seen[: seen.index("silence")])
    assert 1 <= len(list(itertools.takewhile(lambda rung: rung == "hold", before_silence))) <= 11


def test_a_deadline_that_cannot_be_kept_is_told() -> None:
    run = daemon(Recording(30), block={"deadline_s": 1e-5})
    asyncio.run(run.run())
    told = run.summary()
    assert told["missed"] > 0
    assert told["ladder"].get("silence", 0) + told["ladder"].get("hold", 0) > 0, "and there was no time to design"


def test_decisions_do_not_wait_for_a_user_that_stays_away() -> None:
    """One of two users leaves after ten blocks: the other is decided for in every block all the same."""

    class Leaving(Recording):
        def __iter__(self) -> Iterator[Message]:
            for message in super().__iter__():
                if message.user != "ue1" or message.block < 10:  # type: ignore[attr-defined]
                    yield message

    run = daemon(Leaving(60), block={"stale_after_s": 0.05})
    asyncio.run(run.run())
    told = run.summary()
    assert told["ladder"].get("linear", 0) >= 25, "of 60 blocks, on a machine that may be busy"


def test_it_can_be_stopped_at_any_moment() -> None:
    """Signals that meet news: none may be lost, however often frames come."""
    for attempt in range(40):
        source = Recording(10**6, period_ns=2 * 10**5)
        run = daemon(source)
        threading.Timer(0.02 + 1e-4 * attempt, os.kill, (os.getpid(), signal.SIGTERM)).start()
        asyncio.run(asyncio.wait_for(run.run(), 30))
        assert source.closed.is_set()


def test_after_a_pause_blocks_carry_the_sender_s_numbers_again() -> None:
    """Blocks without frames are counted on; what is heard after them is decided under its own number."""

    class Pausing(Recording):
        def __iter__(self) -> Iterator[Message]:
            for message in super().__iter__():
                if not 10 <= message.block < 16:  # type: ignore[attr-defined]
                    yield msgspec.structs.replace(message, block=message.block % 20)  # type: ignore[attr-defined, call-arg]

    run = daemon(Pausing(30), block={"stale_after_s": 0.5})
    designed: list[tuple[int, int]] = []
    step = run.session.step

    def noted(budget: StepBudget) -> BlockDecision:
        waiting = {one.block for one in run.session.mailbox._channels.values()}
        if waiting:
            designed.append((budget.block, max(waiting)))
        return step(budget)

    run.session.step = noted  # type: ignore[method-assign]
    asyncio.run(run.run())
    assert len(designed) > 10
    assert all(block == measured for block, measured in designed)
    assert designed[-1][0] < 10, "a sender that begins anew is followed"
