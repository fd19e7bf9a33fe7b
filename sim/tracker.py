"""Channels of moving users between traces: the newest traces of each are carried along and blended.

A trace takes tens of milliseconds and holds where it was made. In between, paths keep their virtual sources
(`sim.synthesis`), which is exact for the phase of what walls mirror; what that leaves is paths that begin or end on the
way, and gains that change. Where a user stands between two traced places (one may be ahead of it), both are carried to
it and weigh by how near they are, so that a path that only one of them has fades in or out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.channels import SiteArrays
from sim.paths import PathTable
from sim.synthesis import stack_cascades

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_TRACES = 2
"""So many traces are kept."""

_NEAREST_M = 1e-6


@dataclass(frozen=True)
class Trace:
    """Paths of some users from one trace: link k of both tables ends at positions_m[k], where users[k] is or will be.

    t_ns: when it was asked for.
    """

    t_ns: int
    users: tuple[str, ...]
    positions_m: Real
    bs_user: PathTable
    ris_user: PathTable

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.positions_m) == self.bs_user.links == self.ris_user.links:
            raise ValueError("users, positions and links differ in number")


class PathTracker:
    """Follows users from trace to trace. errors_db: of each user, how far its last fresh trace was from the prediction.

    That is the power of the difference over the power of the fresh trace, of the whole cascade at its place; NaN where
    no path reaches it. Who was not known before has none.
    """

    def __init__(self, arrays: SiteArrays) -> None:
        self.arrays = arrays
        self.errors_db: dict[str, float] = {}
        self._traces: list[Trace] = []
        self._users: tuple[str, ...] | None = None
        self._places: list[_Places] = []

    def knows(self, user: str) -> bool:
        """Whether any trace that is kept holds the user."""
        return any(user in trace.users for trace in self._traces)

    def away_m(self, user: str, position_m: npt.ArrayLike) -> float:
        """How far a position is from the nearest place that the user was traced at; infinite where it never was."""
        places = [trace.positions_m[trace.users.index(user)] for trace in self._traces if user in trace.users]
        return min((float(np.linalg.norm(place - np.asarray(position_m))) for place in places), default=np.inf)

    def followed_by(self, trace: Trace) -> PathTracker:
        """One that goes on with a fresh trace, judging nothing by it; this one stays as it is."""
        later = copy.copy(self)
        later._keep(trace)
        return later

    def take(self, trace: Trace) -> None:
        """Go on with a fresh trace; what was predicted for its places is judged by it first."""
        known = [index for index, user in enumerate(trace.users) if self.knows(user)]
        if known:
            users, places_m = tuple(trace.users[index] for index in known), trace.positions_m[known]
            predicted = self.cascades(users, places_m)
            links = np.array(known, np.int64)
            fresh = self.arrays.cascades(trace.bs_user, trace.ris_user, links, np.zeros((len(known), 3)))
            for user, error_db in zip(users, relative_error_db(predicted, fresh), strict=True):
                self.errors_db[user] = float(error_db)
        self._keep(trace)

    def _keep(self, trace: Trace) -> None:
        if not trace.users:
            return
        self._traces = [*self._traces, trace][-_TRACES:]
        self._users = None
        self.errors_db = {user: error for user, error in self.errors_db.items() if self.knows(user)}

    def cascades(self, users: Sequence[str], positions_m: Real) -> Complex:
        """[h ; diag(g) H_br] [K, M+1, N] at the carrier of users at positions_m [K, 3].

        Raises KeyError for a user that no trace holds.
        """
        arrays, places = self.arrays, self._places_of(tuple(users))
        positions_m = np.asarray(positions_m, np.float64)
        steps_m = [positions_m - place.positions_m for place in places]
        nearness = [
            place.holds / np.maximum(np.sqrt((step**2).sum(axis=1)), _NEAREST_M)
            for place, step in zip(places, steps_m, strict=True)
        ]
        total = np.sum(nearness, axis=0)
        direct = np.zeros((len(users), arrays.antennas), np.complex128)
        over_ris = np.zeros((len(users), arrays.elements), np.complex128)
        for place, step_m, weight in zip(places, steps_m, nearness, strict=True):
            share = weight / total
            arrays.add_direct(place.trace.bs_user, place.links, step_m, share, direct)
            arrays.add_over_ris(place.trace.ris_user, place.links, step_m, share, over_ris)
        out = np.empty((len(users), arrays.elements + 1, arrays.antennas), np.complex128)
        stack_cascades(direct, over_ris, arrays.bs_ris, out)
        return out

    def _places_of(self, users: tuple[str, ...]) -> list[_Places]:
        """Where users stand in the traces; worked out when they or the traces have changed."""
        if users != self._users:
            self._places = [_Places.of(trace, users) for trace in self._traces]
            self._users = users
            missing = [user for user in users if not self.knows(user)]
            if missing:
                self._users = None
                raise KeyError(f"no trace of {missing[0]}")
        return self._places


@dataclass(frozen=True)
class _Places:
    """Users in a trace. holds [K]: 1 where it has them, else 0; links [K] and positions_m [K, 3] of those it has."""

    trace: Trace
    holds: Real
    links: npt.NDArray[np.int64]
    positions_m: Real

    @classmethod
    def of(cls, trace: Trace, users: tuple[str, ...]) -> _Places:
        holds = np.array([user in trace.users for user in users], np.float64)
        # who is not in it takes another's link, at a weight of zero
        links = np.array([trace.users.index(user) if user in trace.users else 0 for user in users], np.int64)
        return cls(trace, holds, links, trace.positions_m[links])


def relative_error_db(found: Complex, true: Complex) -> Real:
    """Power of found - true over that of true, for each of the first axis; NaN where true is silent."""
    axes = tuple(range(1, true.ndim))
    power = np.sum(np.abs(true) ** 2, axis=axes)
    error = np.sum(np.abs(found - true) ** 2, axis=axes)
    with np.errstate(divide="ignore"):
        told = 10 * np.log10(np.where(power > 0, error, np.nan) / np.where(power > 0, power, 1.0))
    return np.asarray(told)
