"""How late the messages of a replay come that is to keep a given speed, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from controller.report import TimeTally

_LATE_S = 1.0
"""A replay that ends so late, and by more than a period, did not keep its speed."""


@dataclass
class Lateness:
    """Collects how late messages go out. speed: recorded seconds per second that are asked for.

    A period is what lies between a message and the one before: an IQ block's length, a channel frame's interval.
    Messages of one moment share the period before them.
    """

    speed: float
    tally: TimeTally = field(default_factory=TimeTally)
    late: int = 0
    _recorded_ns: int = 0
    _period_s: float = 0.0
    _late_s: float = 0.0

    def add(self, late_ns: int, recorded_ns: int) -> None:
        """Count a message `late_ns` late whose time is `recorded_ns` after the first one's."""
        if recorded_ns > self._recorded_ns:
            self._period_s = (recorded_ns - self._recorded_ns) * 1e-9 / self.speed
            self._recorded_ns = recorded_ns
        self._late_s = late_ns * 1e-9
        self.tally.add(self._late_s)
        self.late += self._period_s > 0.0 and self._late_s > self._period_s

    @property
    def real_time_factor(self) -> float:
        """Recorded seconds per second, from the first message to the last."""
        recorded_s = self._recorded_ns * 1e-9
        return recorded_s / (recorded_s / self.speed + self._late_s) if recorded_s > 0 else self.speed

    @property
    def fell_behind(self) -> str:
        """How far the replay is behind, in words; nothing where it keeps up.

        It does not where its last message is late by more than a period and either most were or it is by a second.
        """
        mostly = 2 * self.late > self.tally.count
        if not self._late_s > self._period_s > 0.0 or not (mostly or self._late_s > _LATE_S):
            return ""
        asked = "" if self.speed == 1.0 else f", {self.speed:g} asked for"
        return f"{self._late_s:.3g} s late at the end, at {self.real_time_factor:.2g} of real time{asked}"

    def summary(self) -> dict[str, Any]:
        """The fields of CLI-JSON."""
        return {
            "late_ms": self.tally.summary_ms(50, 99),
            "late_messages": self.late,
            "kept_up": not self.fell_behind,
        }
