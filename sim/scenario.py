"""A scenario file: who walks where in a simulated world, what comes in the way, and when the world changes.

All times are seconds since the testbed began, all places the site's coordinates.
"""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ingest.errors import InputRefused, UsageRefused
from ingest.settings_file import read_toml, validated
from sim.site import site_path, sites_folder
from sim.tracks import Track, read_points, walked

Real = npt.NDArray[np.float64]
Metres = Annotated[float, Field(ge=-1e6, le=1e6)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Size = Annotated[float, Field(gt=0, le=1e3)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_. -]{1,64}$")]

_MOST_POINTS = 1_000_000
AnyWay = TypeVar("AnyWay", bound="Way")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Way(_Table):
    """How something moves: a recorded track from a file or in place, or waypoints at one speed.

    file: CSV of t_s, x_m, y_m and perhaps z_m, relative to the scenario. points: the same rows. waypoints_m: places
    (x, y) or (x, y, z), walked at speed_m_s. after: what follows the last place.
    """

    file: str | None = None
    points: Annotated[tuple[tuple[float, ...], ...], Field(max_length=_MOST_POINTS)] = ()
    waypoints_m: Annotated[tuple[tuple[Metres, ...], ...], Field(max_length=_MOST_POINTS)] = ()
    speed_m_s: Annotated[float, Field(gt=0, le=1e3)] | None = None
    after: Literal["stay", "back"] = "stay"

    @model_validator(mode="after")
    def _one_way(self) -> Way:
        given = [name for name in ("file", "points", "waypoints_m") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} both say where it is; leave one out")
        if self.waypoints_m:
            if self.speed_m_s is None:
                raise ValueError("waypoints_m need a speed_m_s")
            _check_rows(self.waypoints_m, 2, "waypoints_m")
            if len(self.waypoints_m) < 2 or any(one == other for one, other in pairwise(self.waypoints_m)):
                raise ValueError("waypoints_m need two places at least, none of them twice in a row")
        if self.points:
            _check_points(self.points)
        return self

    @property
    def leads_somewhere(self) -> bool:
        return bool(self.file or self.points or self.waypoints_m)

    def track(self, height_m: float) -> Track:
        """The way as a track; height_m where it says no height. Only of a way that leads somewhere, read by now."""
        goes_back = self.after == "back"
        if self.waypoints_m:
            return walked(_lifted(self.waypoints_m, height_m), self.speed_m_s or 1.0, goes_back=goes_back)
        rows = np.array(self.points, np.float64)
        return Track(rows[:, 0], _lifted(rows[:, 1:], height_m), goes_back)


class UserTrack(Way):
    """How one user moves. Without places: a random walk along the site's grid, at speed_m_s or the testbed's."""

    @model_validator(mode="after")
    def _not_two_speeds(self) -> UserTrack:
        if self.speed_m_s is not None and (self.file or self.points):
            raise ValueError("a recorded track has its own speed; leave speed_m_s out")
        if self.after == "back" and not self.leads_somewhere:
            raise ValueError("a random walk has no end to go back from; leave after out")
        return self


class Blocker(Way):
    """A screen of width_m and height_m that comes and goes, turned to every path, its middle at position_m or on a way.

    Without z it stands on the ground. It is there from from_s until before to_s, and again every every_s; the times of
    its way count from when it comes.
    """

    name: Name = "blocker"
    position_m: tuple[Metres, Metres] | tuple[Metres, Metres, Metres] | None = None
    width_m: Size
    height_m: Size
    from_s: Seconds = 0.0
    to_s: Seconds | None = None
    every_s: Annotated[float, Field(gt=0, le=1e9)] | None = None

    @model_validator(mode="after")
    def _somewhere_sometimes(self) -> Blocker:
        if (self.position_m is None) == (not self.leads_somewhere):
            raise ValueError("needs a position_m, or a way by file, points or waypoints_m, and not both")
        if self.to_s is not None and self.to_s <= self.from_s:
            raise ValueError(f"goes at to_s = {self.to_s:g} before it comes at from_s = {self.from_s:g}")
        if self.every_s is not None and (self.to_s is None or self.every_s < self.to_s - self.from_s):
            raise ValueError("comes again by every_s before it has gone; give a to_s less than every_s after from_s")
        return self

    def since_s(self, time_s: float) -> float | None:
        """For how long it has been there; None where it is not."""
        since_s = time_s - self.from_s
        if self.every_s is not None and since_s >= 0:
            since_s = math.fmod(since_s, self.every_s)
        gone = self.to_s is not None and since_s >= self.to_s - self.from_s
        return None if since_s < 0 or gone else since_s


class Change(_Table):
    """At at_s the world becomes that of another site: its world.h5. site: as `twin build` takes it, or a world bundle.

    blend_s: how long channels of both are added, one fading out as the other comes in; 0 is a hard switch.
    """

    at_s: Seconds
    site: Annotated[str, Field(min_length=1, max_length=1000)]
    blend_s: Seconds = 0.0


class Scenario(_Table):
    """A whole scenario file. site: what it plays at. tracks: of ue0, ue1, … in this order; others walk at random."""

    site: str | None = None
    tracks: Annotated[tuple[UserTrack, ...], Field(max_length=64)] = ()
    blockers: Annotated[tuple[Blocker, ...], Field(max_length=64)] = ()
    changes: Annotated[tuple[Change, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _one_after_another(self) -> Scenario:
        for one, other in pairwise(self.changes):
            if other.at_s <= one.at_s or other.at_s < one.at_s + one.blend_s:
                raise ValueError(f"the change at {other.at_s:g} s comes before that at {one.at_s:g} s is over")
        return self


def load_scenario(path: Path) -> Scenario:
    """The scenario file at `path`, with the tracks that it names read, and its paths made whole.

    `UsageRefused` names the first thing wrong with it; `InputRefused` where a track's file is.
    """
    told = validated(Scenario, read_toml(path), str(path))
    folder = path.parent
    return told.model_copy(
        update={
            "site": None if told.site is None else _twin(folder, told.site),
            "tracks": tuple(_with_points(one, folder) for one in told.tracks),
            "blockers": tuple(_with_points(one, folder) for one in told.blockers),
            "changes": tuple(one.model_copy(update={"site": str(_world_file(folder, one))}) for one in told.changes),
        }
    )


def scenario_path(name_or_path: str) -> Path:
    """The scenario file that a user means: a path, or the name of one that we ship, `quad/street`."""
    if os.path.isfile(name_or_path):
        return Path(name_or_path)
    shipped = sites_folder() / (name_or_path.removesuffix(".toml") + ".toml")
    if os.path.isfile(shipped) and shipped.name != "site.toml":
        return shipped
    files = sorted(sites_folder().glob("*/*.toml"))
    known = ", ".join(str(file.relative_to(sites_folder()))[:-5] for file in files if file.name != "site.toml")
    raise UsageRefused("no such scenario", where=name_or_path, mend=f"a path to a TOML file, or one of: {known}")


def _beside(folder: Path, name: str) -> str:
    """A path relative to the scenario, where there is something; else as it is told, which may be a shipped site."""
    there = os.path.join(folder, name)
    return os.path.abspath(there) if os.path.exists(there) else name


def _twin(folder: Path, name: str) -> str:
    """The site as `demo --site` takes it: a shipped one by its name, others by their bundle."""
    found = _beside(folder, name)
    return found if found == name or found.endswith(".h5") else str(site_path(found).with_name("twin.h5"))


def _world_file(folder: Path, change: Change) -> Path:
    name = _beside(folder, change.site)
    return Path(name) if name.endswith(".h5") else site_path(name).with_name("world.h5")


def _with_points(way: AnyWay, folder: Path) -> AnyWay:
    """The way with the points that its file holds."""
    if way.file is None:
        return way
    path = folder / way.file
    points = tuple(read_points(path))
    try:
        _check_points(points)
    except ValueError as error:
        raise InputRefused(str(error), where=str(path)) from None
    return way.model_copy(update={"points": points, "file": None})


def _check_points(points: tuple[tuple[float, ...], ...]) -> None:
    _check_rows(points, 3, "points")
    if not points or any(other[0] <= one[0] for one, other in pairwise(points)):
        raise ValueError("points need ascending times, and one at least")
    if points[0][0] < 0 or max(abs(cell) for row in points for cell in row) > 1e9:
        raise ValueError("points begin before 0 s or lie too far away")


def _check_rows(rows: tuple[tuple[float, ...], ...], least: int, what: str) -> None:
    if any(len(row) not in (least, least + 1) or len(row) != len(rows[0]) for row in rows):
        names = ("t_s", "x", "y", "z")[-least - 1 :]
        raise ValueError(f"{what} are rows of {', '.join(names[:-1])} and, in all of them or none, {names[-1]}")


def _lifted(places_m: npt.ArrayLike, height_m: float) -> Real:
    """Places [T, 3] of ones without height."""
    places = np.asarray(places_m, np.float64)
    return places if places.shape[1] == 3 else np.column_stack([places, np.full(len(places), height_m)])
