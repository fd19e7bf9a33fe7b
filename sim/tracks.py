"""Tracks: where something is at which time. Recorded ones come from a file, others are walked at constant speed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused

Real = npt.NDArray[np.float64]

HEADER = ("t_s", "x_m", "y_m", "z_m")
"""Columns of a recorded track; the last may be missing."""

_MAX_BYTES = 64 << 20


class Mover(Protocol):
    """What moves: position_m, velocity_m_s [3], and `advance` by so many seconds."""

    position_m: Real
    velocity_m_s: Real

    def advance(self, seconds: float) -> None:
        """Move on for `seconds`."""


@dataclass(frozen=True, eq=False)
class Track:
    """Places [T, 3] at ascending times [T], straight lines in between. Before the first and after the last it rests.

    goes_back: after its last place it goes back to the first in the same time, and again, without end.
    """

    times_s: Real
    places_m: Real
    goes_back: bool = False

    def at(self, time_s: float) -> tuple[Real, Real]:
        """Position and velocity [3] at a time; at a corner the velocity is that behind it."""
        first, last = float(self.times_s[0]), float(self.times_s[-1])
        backwards = False
        if self.goes_back and time_s >= first and last > first:
            phase_s = math.fmod(time_s - first, 2 * (last - first))
            backwards = phase_s >= last - first
            time_s = 2 * last - first - phase_s if backwards else first + phase_s
        if not first <= time_s <= last or (time_s == last and not backwards):
            return self.places_m[0 if time_s < first else -1].copy(), np.zeros(3)
        # On the way back the leg behind a corner is the one that comes before it in the list.
        begun = self.times_s < time_s if backwards else self.times_s <= time_s
        leg = int(np.clip(np.count_nonzero(begun) - 1, 0, len(self.times_s) - 2))
        way_m = self.places_m[leg + 1] - self.places_m[leg]
        lasting_s = self.times_s[leg + 1] - self.times_s[leg]
        position_m = self.places_m[leg] + way_m * ((time_s - self.times_s[leg]) / lasting_s)
        return position_m, way_m / (-lasting_s if backwards else lasting_s)

    def sampled_m(self, step_m: float) -> Real:
        """Places along the track, `step_m` apart at most. Shape [S, 3]."""
        shares = [
            np.linspace(one, other, max(math.ceil(float(np.linalg.norm(other - one)) / step_m), 1), endpoint=False)
            for one, other in zip(self.places_m[:-1], self.places_m[1:], strict=True)
        ]
        return np.concatenate([*shares, self.places_m[-1:]])


@dataclass
class OnTrack:
    """A `Mover` on a track, from time 0 on."""

    track: Track
    position_m: Real = field(init=False)
    velocity_m_s: Real = field(init=False)
    _time_s: float = 0.0

    def __post_init__(self) -> None:
        self.position_m, self.velocity_m_s = self.track.at(0.0)

    def advance(self, seconds: float) -> None:
        """Go on for `seconds`."""
        self._time_s += seconds
        self.position_m, self.velocity_m_s = self.track.at(self._time_s)


def walked(waypoints_m: Real, speed_m_s: float, *, goes_back: bool = False) -> Track:
    """The track from waypoint to waypoint [W, 3] at one speed > 0. Waypoints that follow each other are apart."""
    lengths_m = np.linalg.norm(np.diff(waypoints_m, axis=0), axis=1)
    return Track(np.concatenate([[0.0], np.cumsum(lengths_m)]) / speed_m_s, waypoints_m, goes_back)


def read_points(path: Path) -> list[tuple[float, ...]]:
    """Rows (t_s, x_m, y_m) or (t_s, x_m, y_m, z_m) of a CSV file; `InputRefused` names the line that is wrong."""
    where, mend = str(path), f"CSV with the header {','.join(HEADER[:3])} or {','.join(HEADER)}"
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES + 1).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise InputRefused(f"cannot be read: {reason}", where=where, mend=mend) from None
    names = tuple(name.strip() for name in lines[0].split(",")) if lines else ()
    if names not in (HEADER[:3], HEADER):
        raise InputRefused(f"begins with {','.join(names)[:60]!r}", where=where, mend=mend)
    if sum(map(len, lines)) > _MAX_BYTES - len(lines):
        raise InputRefused(f"is longer than {_MAX_BYTES >> 20} MiB", where=where, mend="leave rows out")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            row = tuple(float(cell) for cell in line.split(","))
        except ValueError:
            row = ()
        if len(row) != len(names) or not all(map(math.isfinite, row)):
            raise InputRefused(f"line {number} is not {len(names)} numbers", where=where, mend=mend)
        rows.append(row)
    return rows
