"""The deadline ladder: what can still be done in the time that is left.

robust -> linear (regularised ZF on the mean) -> hold (the last feasible design, until it expires) -> silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Rung = Literal["robust", "linear", "hold", "silence"]
RUNGS: tuple[Rung, ...] = ("robust", "linear", "hold", "silence")
DESIGNING: tuple[Rung, ...] = ("robust", "linear")


def from_rung(allowed: Rung) -> tuple[Rung, ...]:
    """The rungs to try, the best allowed one first."""
    return RUNGS[RUNGS.index(allowed) :]


@dataclass
class CostEstimate:
    """What each designing rung costs: a running upper quantile of its measured times.

    It rises by the share `rise` of what a step took longer, and sinks by the share `fall` of what it took less: about
    the rise / (rise + fall) quantile, which one outlier hardly moves. A rung that was not affordable sinks too, so
    that it is tried again after a few blocks.
    """

    rise: float = 0.2
    fall: float = 0.05
    costs_s: dict[Rung, float] = field(default_factory=dict)

    def observe(self, rung: Rung, seconds: float) -> None:
        """A step on `rung` took `seconds`; of more than twice what was expected, twice counts."""
        before = self.costs_s.get(rung, seconds)
        counted = min(seconds, 2.0 * before)
        self.costs_s[rung] = before + (self.rise if counted > before else self.fall) * (counted - before)

    def affordable(self, seconds_left: float, available: Mapping[Rung, bool]) -> Rung:
        """The best available rung that probably ends within `seconds_left`; hold where none does."""
        for rung in DESIGNING:
            if not available.get(rung, False):
                continue
            cost = self.costs_s.get(rung, 0.0)
            if cost <= seconds_left:
                return rung
            self.costs_s[rung] = cost * (1.0 - self.fall)
        return "hold"
