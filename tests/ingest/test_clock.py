"""Time never goes back, on either clock."""

from __future__ import annotations

from ingest.clock import ManualClock, MonotonicClock


def test_the_machines_clock_never_goes_back() -> None:
    clock = MonotonicClock()
    times = [clock.now_ns() for _ in range(1000)]
    assert times == sorted(times)
    assert all(isinstance(time_ns, int) for time_ns in times)


def test_a_manual_clock_stands_still_until_it_is_moved_forward() -> None:
    clock = ManualClock(5)
    seen = [clock.now_ns()]
    for time_ns in (7, 6, 7, 9):
        clock.advance_to(time_ns)
        seen.append(clock.now_ns())
    assert seen == [5, 7, 7, 7, 9]
