"""Where the users of a data set stand: a function of the seed and a sample's number, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ingest.errors import UsageRefused
from sim.datasets.spec import Positions
from sim.site import UserArea

Real = npt.NDArray[np.float64]
Outdoor = Callable[[Real], Real]
"""Of points [P, 3] those that are outdoors, in order, lifted by the ground's height; x and y stay."""

_TRIES = 32
"""Places drawn at once for a sample that has none yet."""

_ROUNDS = 64
_SINGLE, _TRACK = 0, 1
"""Streams of random numbers, so that a track and a sample of one number have nothing in common."""


class PositionDraw:
    """Draws positions in `area`. outdoor: tells where the sky is; it must judge each point by itself."""

    def __init__(self, positions: Positions, area: UserArea, seed: int, outdoor: Outdoor) -> None:
        self._positions, self._area, self._seed, self._outdoor = positions, area, seed, outdoor
        self._low = np.array(area.corner_m)
        self._high = self._low + area.size_m
        self._grid = outdoor(area.grid_m()) if positions.draw == "grid" else np.zeros((0, 3))
        if positions.draw == "grid" and len(self._grid) == 0:
            raise UsageRefused("no outdoor point in the user area", where="[users]", mend="move or enlarge it")
        self._track = lru_cache(maxsize=8)(self._drawn_track)

    def of(self, samples: range) -> Real:
        """Positions [n, 3] of a range of samples; `UsageRefused` where there is no room for them."""
        if self._positions.draw == "grid":
            return np.array([self._grid[self._rng(_SINGLE, i).integers(len(self._grid))] for i in samples])
        if self._positions.draw == "uniform":
            return self._anywhere(samples)
        length = self._positions.track_samples
        return np.array([self._track(i // length)[i % length] for i in samples])

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, stream, number])

    def _anywhere(self, samples: range) -> Real:
        """Each sample takes the first outdoor place of its own endless list."""
        rngs = [self._rng(_SINGLE, i) for i in samples]
        found = np.full((len(samples), 3), np.nan)
        wanting = list(range(len(samples)))
        for _ in range(_ROUNDS):
            places = np.array([rngs[i].uniform(self._low, self._high, (_TRIES, 2)) for i in wanting])
            lifted, outside = self._judged(places.reshape(-1, 2))
            lifted, outside = lifted.reshape(len(wanting), _TRIES, 3), outside.reshape(len(wanting), _TRIES)
            first = np.argmax(outside, axis=1)
            for row, sample in enumerate(wanting):
                if outside[row, first[row]]:
                    found[sample] = lifted[row, first[row]]
            wanting = [sample for row, sample in enumerate(wanting) if not outside[row, first[row]]]
            if not wanting:
                return found
        raise UsageRefused("hardly any of the user area is outdoors", where="[users]", mend="move or enlarge it")

    def _drawn_track(self, track: int) -> Real:
        """The points [track_samples, 3] of a straight track."""
        rng = self._rng(_TRACK, track)
        along_m = self._positions.step_m * np.arange(self._positions.track_samples)
        for _ in range(_ROUNDS):
            start = rng.uniform(self._low, self._high, (_TRIES, 1, 2))
            heading = rng.uniform(0.0, 2 * np.pi, (_TRIES, 1))
            ways = np.stack([along_m * np.cos(heading), along_m * np.sin(heading)], axis=2)
            tracks = start + ways
            tracks = tracks[np.all((tracks >= self._low) & (tracks <= self._high), axis=(1, 2))]
            if len(tracks) == 0:
                continue
            lifted, outside = self._judged(tracks.reshape(-1, 2))
            whole = np.all(outside.reshape(len(tracks), -1), axis=1)
            if np.any(whole):
                return np.asarray(lifted.reshape(len(tracks), -1, 3)[np.argmax(whole)])
        raise UsageRefused(
            f"found no straight track of {along_m[-1]:g} m outdoors in the user area",
            where="[positions]",
            mend="a smaller track_samples or step_m",
        )

    def _judged(self, places_m: Real) -> tuple[Real, npt.NDArray[np.bool_]]:
        """Places [P, 2] lifted to where users are [P, 3], and which are outdoors [P]."""
        points = np.column_stack([places_m, np.full(len(places_m), self._area.height_m)])
        kept = {(x, y): z for x, y, z in self._outdoor(points).tolist()}
        heights = [kept.get((x, y), np.nan) for x, y, _ in points.tolist()]
        points[:, 2] = heights
        return points, np.isfinite(points[:, 2])
