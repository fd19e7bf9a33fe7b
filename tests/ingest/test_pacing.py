"""Recorded messages go out when their time has come, on a clock that moves only while somebody waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest

from ingest.clock import ManualClock
from ingest.messages import Message
from ingest.pacing import at_their_time
from tests.random_channels import budget

MS = 1_000_000


class Sleeper(threading.Event):
    """An event whose waiters sleep on a `ManualClock`."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.waits_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits_s.append(timeout)
        if not self.is_set():
            self.clock.advance_to(self.clock.now_ns() + round(timeout * 1e9))
        return self.is_set()


def recorded(*times_ns: int) -> list[Message]:
    return [msgspec.structs.replace(budget(n), t_ns=t_ns) for n, t_ns in enumerate(times_ns)]


def played(
    messages: list[Message], *, speed: float = 1.0, restamp: bool = True, now_ns: int = 7 * MS
) -> list[tuple[int, Message]]:
    """(time at which it went out, message) of each."""
    clock = ManualClock(now_ns)
    paced = at_their_time(messages, clock, Sleeper(clock), speed=speed, restamp=restamp)
    return [(clock.now_ns(), message) for message in paced]


def test_the_recorded_pace() -> None:
    out = played(recorded(1000 * MS, 1010 * MS, 1030 * MS))
    assert [time_ns for time_ns, _ in out] == [7 * MS, 17 * MS, 37 * MS]
    assert [message.t_ns for _, message in out] == [7 * MS, 17 * MS, 37 * MS]
    assert [message.seq for _, message in out] == [0, 1, 2]


@pytest.mark.parametrize(
    ("speed", "times_ms"), [(0.5, [7, 27, 67]), (2.0, [7, 12, 22]), (10.0, [7, 8, 10]), (float("inf"), [7, 7, 7])]
)
def test_other_speeds(speed: float, times_ms: list[int]) -> None:
    out = played(recorded(1000 * MS, 1010 * MS, 1030 * MS), speed=speed)
    assert [time_ns for time_ns, _ in out] == [time * MS for time in times_ms]


def test_without_restamping_messages_stay_as_they_are() -> None:
    messages = recorded(1000 * MS, 1010 * MS)
    out = played(messages, restamp=False)
    assert all(message is original for (_, message), original in zip(out, messages, strict=True))
    assert [time_ns for time_ns, _ in out] == [7 * MS, 17 * MS]


def test_time_that_goes_back_is_no_wait() -> None:
    out = played(recorded(1000 * MS, 900 * MS, 1005 * MS))
    assert [time_ns for time_ns, _ in out] == [7 * MS, 7 * MS, 12 * MS]


def test_late_messages_go_out_at_once_and_the_rest_on_time() -> None:
    """The consumer takes 25 ms over the first message: two are late, the last one is not."""
    clock = ManualClock(0)
    sleeper = Sleeper(clock)
    out = []
    for message in at_their_time(recorded(0, 10 * MS, 20 * MS, 40 * MS), clock, sleeper):
        out.append((message.seq, clock.now_ns()))
        if message.seq == 0:
            clock.advance_to(25 * MS)
    assert out == [(0, 0), (1, 25 * MS), (2, 25 * MS), (3, 40 * MS)]
    assert sleeper.waits_s == pytest.approx([0, 0, 0, 0.015])


def test_who_asks_is_told_how_late_each_message_is() -> None:
    clock = ManualClock(3 * MS)
    late: list[tuple[int, int]] = []
    paced = at_their_time(
        recorded(50 * MS, 60 * MS, 70 * MS, 90 * MS), clock, Sleeper(clock), told=lambda *one: late.append(one)
    )
    for message in paced:
        if message.seq == 0:
            clock.advance_to(28 * MS)
    assert late == [(0, 0), (15 * MS, 10 * MS), (5 * MS, 20 * MS), (0, 40 * MS)]


def test_time_begins_with_the_first_message() -> None:
    """Opening a source may take long; that time is not made up for."""
    clock = ManualClock(0)

    def slow_source() -> Iterator[Message]:
        clock.advance_to(500 * MS)
        yield from recorded(0, 10 * MS)

    out = [clock.now_ns() for _ in at_their_time(slow_source(), clock, Sleeper(clock))]
    assert out == [500 * MS, 510 * MS]


def test_closing_ends_it_early() -> None:
    clock = ManualClock(0)
    closed = Sleeper(clock)
    paced = at_their_time(recorded(0, MS, 2 * MS), clock, closed)
    assert next(paced).seq == 0
    closed.set()
    assert list(paced) == []


def test_a_real_wait_ends_when_closed() -> None:
    """The second message is due in three hundred years; only closing ends the wait."""
    closed = threading.Event()
    paced = at_their_time(recorded(0, 2**63 - 1), ManualClock(0), closed, speed=1e-3)
    assert next(paced).seq == 0
    threading.Timer(0.05, closed.set).start()
    assert list(paced) == []


def test_nothing_to_play() -> None:
    assert played([]) == []
