"""Time as the edges see it. The core never reads a clock: it is handed `now_ns`.

Every time in twinbeam is nanoseconds on one monotonic clock, stamped once where a message enters.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Anything that can tell the time in nanoseconds."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary origin; never decreases."""
        ...


class MonotonicClock:
    """The machine's monotonic clock, for live use."""

    def now_ns(self) -> int:
        return time.monotonic_ns()


@dataclass
class ManualClock:
    """A clock that stands still until it is set: replays and tests."""

    time_ns: int = 0

    def now_ns(self) -> int:
        return self.time_ns

    def advance_to(self, time_ns: int) -> None:
        """Move forward to `time_ns`; a time in the past leaves the clock where it is."""
        self.time_ns = max(self.time_ns, time_ns)
