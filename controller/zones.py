"""Zones: the places within which the twin errs alike, so that their errors are learnt together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ingest.messages import Vector

WHOLE_SITE = "site"


class ZoneMap(Protocol):
    """From a position to the name of its zone."""

    def zone_of(self, position_m: Vector | None) -> str:
        """The zone at `position_m`; users who tell no position share one."""
        ...


@dataclass(frozen=True)
class WholeSite:
    """No zones: one set of error statistics for all."""

    def zone_of(self, position_m: Vector | None) -> str:
        return WHOLE_SITE


@dataclass(frozen=True)
class GridZones:
    """Square cells of side `cell_m` on the ground."""

    cell_m: float

    def zone_of(self, position_m: Vector | None) -> str:
        if position_m is None:
            return WHOLE_SITE
        return f"{int(position_m[0] // self.cell_m)}:{int(position_m[1] // self.cell_m)}"
