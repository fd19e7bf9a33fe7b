"""The world that a testbed plays in, as of now: traced channels, screens that shade them, worlds that come after.

Without a scenario it is the traced world and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, UsageRefused
from sim.bundle import SiteBundle, load_bundle
from sim.channels import SiteArrays, SiteChannels
from sim.paths import PathTable
from sim.scenario import Blocker, Scenario
from sim.screens import shade
from sim.site import SPEED_OF_LIGHT_M_S
from sim.synthesis import nearest_point
from sim.tracks import Track

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_NO_SCREENS = np.zeros((0, 5))
_GRID_STEPS_OFF = 1.5
"""How far from a traced position a user's track may lead, in steps of the grid."""


@dataclass(frozen=True, eq=False)
class Part:
    """A user's paths in one world, and with which share they count.

    tables: from base station and from RIS to the user, who is step_m [1, 3] from where their link links [1] ends.
    """

    share: float
    arrays: SiteArrays
    tables: tuple[PathTable, PathTable]
    links: Index
    step_m: Real


@dataclass(frozen=True, eq=False)
class Link:
    """A user's paths at one moment, of one world or of two in the course of a change. It does not change any more."""

    parts: tuple[Part, ...]

    def effective_cfr(self, theta: Complex, tones_hz: Real) -> Complex:
        """h + g diag(theta) H_br [N, S] on every tone."""
        return _total(
            part.share * part.arrays.effective_cfr(*part.tables, part.links, part.step_m, theta, tones_hz)[0]
            for part in self.parts
        )

    def cascade(self) -> Complex:
        """[h ; diag(g) H_br] [M+1, N] at the carrier."""
        return _total(
            part.share * part.arrays.cascades(*part.tables, part.links, part.step_m)[0] for part in self.parts
        )


@dataclass(frozen=True, eq=False)
class Screen:
    """A blocker, and its way where it has one."""

    blocker: Blocker
    track: Track | None

    def at(self, time_s: float) -> list[float] | None:
        """Middle x, y, z, width and height; None where it is not there."""
        since_s = self.blocker.since_s(time_s)
        if since_s is None:
            return None
        if self.track is not None:
            place = self.track.at(since_s)[0]
        else:
            place = np.array([*(self.blocker.position_m or ()), self.blocker.height_m / 2][:3])
        return [*(float(one) for one in place), self.blocker.width_m, self.blocker.height_m]


@dataclass(frozen=True, eq=False)
class Act:
    """A world from at_s on; until at_s + blend_s the one before fades out as it comes in."""

    at_s: float
    blend_s: float
    world: SiteChannels


class Stage:
    """The world as of `time_s`, which `advance` moves on. antennas, elements, carrier_hz: of all its worlds alike.

    grid_m [P, 3], spacing_m: the traced positions of the first world, on which users walk.
    """

    def __init__(self, world: SiteChannels, screens: Sequence[Screen] = (), later: Sequence[Act] = ()) -> None:
        self.time_s = 0.0
        self._acts = [Act(-1.0, 0.0, world), *later]
        self._screens = screens
        self._hops: dict[int, tuple[bytes, SiteArrays]] = {}
        self.antennas, self.elements, self.carrier_hz = world.antennas, world.elements, world.carrier_hz
        site = world.bundle.site
        self.grid_m, self.spacing_m = world.bundle.positions_m, site.users.spacing_m
        self._wavelength_m = site.wavelength_m
        self._bs_m = np.array(site.bs.position_m)
        self._ris_m = np.array(site.ris.position_m if site.ris is not None else site.bs.position_m)
        if screens:
            for table in (world.bundle.bs_user, world.bundle.bs_ris):  # compiled now, not when the first one comes
                self._shaded(table, 0, np.zeros(3), self._bs_m, self._bs_m + 1.0, np.ones((1, 5)))

    @property
    def latest_s(self) -> float:
        """When the last path of any world arrives, over the RIS or not, wherever between grid points a user is."""
        ways_m = []
        for bundle in (act.world.bundle for act in self._acts):
            tables = (bundle.bs_user, bundle.bs_ris, bundle.ris_user)
            direct_m, hop_m, second_m = (float(table.length_m.max(initial=0.0)) for table in tables)
            ways_m.append(max(direct_m, hop_m + second_m))
        return (max(ways_m) + 2 * self.spacing_m) / SPEED_OF_LIGHT_M_S

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time_s += seconds

    def screens(self) -> Real:
        """The screens that are there now: middle x, y, z, width, height. Shape [S, 5]."""
        there = [place for screen in self._screens if (place := screen.at(self.time_s)) is not None]
        return np.array(there) if there else _NO_SCREENS

    def link(self, position_m: Real) -> Link:
        """The paths of a user at a position [3], now."""
        screens = self.screens()
        return Link(tuple(self._part(index, share, position_m, screens) for index, share in self._worlds()))

    def effective_cfr(self, position_m: Real, theta: Complex, tones_hz: Real) -> Complex:
        """h + g diag(theta) H_br [N, S] of a user at a position [3], now."""
        return self.link(position_m).effective_cfr(theta, tones_hz)

    def cascade(self, position_m: Real) -> Complex:
        """[h ; diag(g) H_br] [M+1, N] of a user at a position [3], now, at the carrier."""
        return self.link(position_m).cascade()

    def _worlds(self) -> list[tuple[int, float]]:
        """Which worlds there are now, and their shares."""
        now = max(index for index, act in enumerate(self._acts) if act.at_s <= self.time_s)
        act = self._acts[now]
        share = 1.0 if now == 0 or act.blend_s == 0.0 else min((self.time_s - act.at_s) / act.blend_s, 1.0)
        return [(index, each) for index, each in ((now, share), (now - 1, 1.0 - share)) if each > 0.0]

    def _part(self, index: int, share: float, position_m: Real, screens: Real) -> Part:
        world = self._acts[index].world
        bundle = world.bundle
        nearest = nearest_point(bundle.positions_m, np.asarray(position_m, np.float64))
        step_m = np.asarray(position_m - bundle.positions_m[nearest], np.float64)
        if not len(screens):
            tables = bundle.bs_user, bundle.ris_user
            return Part(share, world.arrays, tables, np.array([nearest]), step_m[None])
        direct = self._shaded(bundle.bs_user, nearest, step_m, self._bs_m, position_m, screens)
        over_ris = self._shaded(bundle.ris_user, nearest, step_m, self._ris_m, position_m, screens)
        return Part(share, self._over_hop(index, screens), (direct, over_ris), np.zeros(1, np.int64), step_m[None])

    def _shaded(
        self, table: PathTable, link: int, step_m: Real, transmitter_m: Real, receiver_m: Real, screens: Real
    ) -> PathTable:
        """The paths of one link alone, as screens leave them."""
        one = table.link(link)
        left = np.empty(one.paths)
        shade(one.columns, 0, step_m, transmitter_m, np.asarray(receiver_m), screens, self._wavelength_m, left)
        return replace(one, gain=one.gain * left)

    def _over_hop(self, index: int, screens: Real) -> SiteArrays:
        """The arrays of a world, whose way from base station to RIS is shaded too; worked out once for all users."""
        key, (kept, arrays) = screens.tobytes(), self._hops.get(index, (b"", self._acts[index].world.arrays))
        if kept != key:
            world = self._acts[index].world
            hop = world.bundle.bs_ris
            shaded = self._shaded(hop, 0, np.zeros(3), self._bs_m, self._ris_m, screens)
            arrays = world.arrays if np.array_equal(hop.gain, shaded.gain) else world.arrays.with_hop(shaded.gain)
            self._hops[index] = (key, arrays)
        return arrays


def _total(shares: Iterable[Complex]) -> Complex:
    """The sum; of one share that share, to the last bit."""
    return functools.reduce(np.add, shares)


def open_stage(world: SiteChannels, scenario: Scenario) -> Stage:
    """The stage of a scenario; `UsageRefused` or `InputRefused` where its tracks or worlds do not fit the first."""
    stage = Stage(world, [_screen(one) for one in scenario.blockers], _later(world, scenario))
    for index, track in enumerate(user_tracks(scenario, world.bundle)):
        if track is not None:
            _check_on_grid(track, stage, f"[[tracks]] number {index + 1}, of ue{index}")
    return stage


def user_tracks(scenario: Scenario, bundle: SiteBundle) -> list[Track | None]:
    """The users' tracks at the height of the grid; None for those who walk at random."""
    height_m = float(bundle.positions_m[0, 2])
    return [one.track(height_m) if one.leads_somewhere else None for one in scenario.tracks]


def _screen(blocker: Blocker) -> Screen:
    return Screen(blocker, blocker.track(blocker.height_m / 2) if blocker.leads_somewhere else None)


def _later(world: SiteChannels, scenario: Scenario) -> list[Act]:
    """The worlds that follow, each file read once."""
    first = world.bundle.site
    read: dict[Path, SiteChannels] = {}
    later = []
    for change in scenario.changes:
        path = Path(change.site)
        where = f"[[changes]] at {change.at_s:g} s: {path}"
        if not path.is_file():
            mend = f"twinbeam twin build {path.parent.name} --world"
            raise UsageRefused("has no world to change to", where=where, mend=mend)
        if path not in read:
            read[path] = SiteChannels(load_bundle(path))
        site = read[path].bundle.site
        for name in ("carrier_hz", "bs", "ris"):
            if getattr(site, name) != getattr(first, name):
                mend = f"the scene may change, its [{name}] may not" if name != "carrier_hz" else "build it alike"
                raise UsageRefused(f"{name} is not that of {first.name}", where=where, mend=mend)
        for name in ("hardware", "position"):
            if getattr(read[path].bundle.settings, name) != getattr(world.bundle.settings, name):
                raise UsageRefused(f"[world] {name} is not that of {first.name}", where=where, mend="build it alike")
        later.append(Act(change.at_s, change.blend_s, read[path]))
    return later


def _check_on_grid(track: Track, stage: Stage, where: str) -> None:
    reach_m = _GRID_STEPS_OFF * stage.spacing_m
    for place in track.sampled_m(stage.spacing_m / 2):
        off_m = float(np.linalg.norm(place - stage.grid_m[nearest_point(stage.grid_m, place)]))
        if off_m > reach_m:
            x, y, z = (round(float(one), 2) for one in place)
            raise InputRefused(
                f"leads to ({x:g}, {y:g}, {z:g}), {off_m:.1f} m from where anything was traced",
                where=where,
                mend=f"stay within {reach_m:g} m of the site's user positions; twinbeam twin show draws them",
            )
