"""What came of the IQ so far: for the run's summary, for metrics, and for the log."""

from __future__ import annotations

from time import monotonic
from typing import Any

import msgspec

from controller.log import logger

_TELL_S = 10.0


class Heard(msgspec.Struct, frozen=True):
    """In the fields of CLI-JSON: cells; by radio its reference signals and the phases between its antennas."""

    cells: list[dict[str, Any]] = []
    references: dict[str, dict[str, Any]] = {}
    antenna_phases: dict[str, dict[str, Any]] = {}


class IqTold(msgspec.Struct, frozen=True):
    """Counts of `IqQueue`; radios: how many were heard, too_many_radios: blocks of those beyond the limit."""

    heard: Heard = Heard()
    radios: int = 0
    too_many_radios: int = 0
    missing_samples: int = 0
    shed_samples: int = 0
    shed_blocks: int = 0
    shed_s: float = 0.0

    def summary(self) -> dict[str, Any]:
        """In the fields of CLI-JSON; nothing where no IQ came."""
        if not self.radios:
            return {}
        counts = {"lost_samples": self.missing_samples, "shed_samples": self.shed_samples}
        found: dict[str, Any] = {name: count for name, count in counts.items() if count}
        found["cells"] = self.heard.cells
        by_radio = {"references": self.heard.references, "antenna_phases": self.heard.antenna_phases}
        return found | {name: told for name, told in by_radio.items() if told}


class IqLog:
    """Logs what is new: IQ that was shed, every few seconds at most, and antennas whose phases drift or jump."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[bool, float]] = {}
        self._shed: tuple[float, float] = (-_TELL_S, 0.0)

    def look(self, told: IqTold) -> None:
        for radio, phases in told.heard.antenna_phases.items():
            jumps = phases.get("jumps", [])
            state = ("rates_hz" in phases, jumps[-1]["time_s"] if jumps else -1.0)
            if state != self._phases.get(radio, (False, -1.0)):
                self._phases[radio] = state
                logger().warning("the phases between antennas", radio=radio, **phases)
        now_s, shed_s = monotonic(), told.shed_s
        told_s, told_shed_s = self._shed
        if shed_s > told_shed_s and now_s - told_s >= _TELL_S:
            logger().warning(
                "estimation cannot keep up with the IQ that comes in: whole blocks are shed",
                shed_ms=round((shed_s - told_shed_s) * 1e3),
                shed_ms_in_all=round(shed_s * 1e3),
                mend="fewer antennas, a lower rate, fewer signals, or sc16 on the wire",
            )
            self._shed = now_s, shed_s
