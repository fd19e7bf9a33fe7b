"""Fresh or stale, by a clock that the test turns: every change is told once, and nothing swings to and fro."""

from __future__ import annotations

import pytest

from controller.staleness import Staleness

S = 10**9


def watched(seconds: float, staleness: Staleness, traces: dict[int, tuple[float, float]], **looks: object) -> list[str]:
    """What is told, looking every 0.1 s. traces: after how many tenths one comes, how old it is and what it took."""
    told = []
    for tenth in range(round(seconds * 10)):
        now_ns = tenth * S // 10
        staleness.asking(now_ns, users=bool(looks.get("users", True)))
        if tenth in traces:
            age_s, took_s = traces[tenth]
            staleness.came(now_ns - round(age_s * S), now_ns, took_s)
        if staleness.look(now_ns, dead="", starting=bool(looks.get("starting"))):
            told.append(f"{staleness.state} at {tenth}")
    return told


def test_who_is_traced_in_time_is_fresh_and_told_once() -> None:
    staleness = Staleness(1.0, 0.1)
    assert watched(5.0, staleness, {tenth: (0.1, 0.08) for tenth in range(3, 50)}) == ["fresh at 3"]
    assert (staleness.times, staleness.stale_for_s(5 * S)) == (0, 0.0)


def test_traces_that_cease_are_missed_after_the_stated_time_and_welcomed_back() -> None:
    staleness = Staleness(1.0, 0.1)
    traces = {tenth: (0.1, 0.1) for tenth in range(60) if not 20 < tenth < 50}
    assert watched(6.0, staleness, traces) == ["fresh at 0", "stale at 30", "fresh at 50"]
    assert staleness.times == 1
    assert staleness.stale_for_s(6 * S) == 2.0
    assert staleness.why == "", "of what is over nothing is said"


def test_a_tracer_that_dies_is_told_at_once() -> None:
    staleness = Staleness(1.0, 0.1)
    staleness.came(0, 0, 0.1)
    assert staleness.look(0, dead="", starting=False)
    assert staleness.look(S // 10, dead="died with code -9", starting=False)
    assert staleness.why == "the tracer is dead: died with code -9"
    assert not staleness.look(S, dead="died with code -9", starting=True), "again, and it is stale as it was"
    assert staleness.stale_for_s(S // 10 + 3 * S) == 3.0


def test_a_tracer_that_is_too_slow_is_stale_for_good() -> None:
    """Each trace is 0.9 s old when it comes and the next one 0.9 s away: not fresh in turn for a tenth of a second."""
    staleness = Staleness(1.0, 0.1)
    assert watched(20.0, staleness, {tenth: (0.9, 0.9) for tenth in range(9, 200, 9)}) == ["stale at 9"]
    assert staleness.why == "a trace takes 0.9 s"
    assert "trace_samples" in staleness.mend


def test_one_that_starts_is_waited_for_and_one_that_is_ready_is_not() -> None:
    assert watched(60.0, Staleness(1.0, 0.1), {}, starting=True) == []
    assert watched(90.0, Staleness(1.0, 0.1), {}, starting=True) == ["stale at 601"]
    assert watched(60.0, Staleness(1.0, 0.1), {}) == ["stale at 11"]


def test_without_users_nothing_is_late() -> None:
    staleness = Staleness(1.0, 0.1)
    staleness.came(0, 0, 0.05)
    assert watched(30.0, staleness, {}, users=False) == ["fresh at 0"]
    assert staleness.age_s(30 * S) == pytest.approx(30.0)
    staleness.asking(30 * S, users=True)
    assert not staleness.look(31 * S, dead="", starting=False), "who has just come has not waited yet"
    assert staleness.look(31 * S + 1, dead="", starting=False)
