"""How simulated users move: walks along the outdoor grid, and what they believe of their own position."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

Real = npt.NDArray[np.float64]


@dataclass
class Walk:
    """A walk from grid point to neighbouring grid point at constant speed, mostly straight on.

    grid_m [P, 3], reach_m: how far a neighbour may be. The walk is a function of `rng` alone.
    """

    grid_m: Real
    reach_m: float
    speed_m_s: float
    rng: np.random.Generator
    position_m: Real = field(init=False)
    velocity_m_s: Real = field(init=False)

    def __post_init__(self) -> None:
        self._neighbours = KDTree(self.grid_m)
        self._here = self._starting_point()
        self.position_m = self.grid_m[self._here].copy()
        self.velocity_m_s = np.zeros(3)
        self._heading = self._unit(self.rng.normal(size=3))
        self._target = self._next_target()

    def _starting_point(self) -> int:
        """A grid point that has neighbours to walk to."""
        for _ in range(1000):
            point = int(self.rng.integers(len(self.grid_m)))
            if len(self._neighbours.query_ball_point(self.grid_m[point], self.reach_m)) > 2:
                return point
        return 0

    def advance(self, seconds: float) -> None:
        """Walk on for `seconds`; who has nowhere to go stands still."""
        if self._target == self._here:
            return
        left_m = self.speed_m_s * seconds
        while True:
            to_target = self.grid_m[self._target] - self.position_m
            distance_m = float(np.linalg.norm(to_target))
            if not distance_m <= left_m:
                self.position_m = self.position_m + self._heading * left_m
                break
            self.position_m = self.grid_m[self._target].copy()
            left_m -= distance_m
            self._here = self._target
            self._target = self._next_target()
        self.velocity_m_s = self._heading * self.speed_m_s

    def _next_target(self) -> int:
        """Head for a neighbour of the grid point, straight on more likely than round a corner than back."""
        here = self.grid_m[self._here]
        around = np.array(self._neighbours.query_ball_point(here, self.reach_m), np.intp)
        directions = self.grid_m[around] - here
        distances_m = np.linalg.norm(directions, axis=1)
        elsewhere = distances_m > 0
        if not elsewhere.any():
            return self._here
        around, directions = around[elsewhere], directions[elsewhere] / distances_m[elsewhere, None]
        weights = np.exp(4.0 * (directions @ self._heading))
        chosen = int(self.rng.choice(len(around), p=weights / weights.sum()))
        self._heading = directions[chosen]
        return int(around[chosen])

    @staticmethod
    def _unit(vector: Real) -> Real:
        return np.asarray(vector / np.linalg.norm(vector))


@dataclass
class PositionError:
    """Error of a positioning service: Gauss-Markov per axis, `sigma_m` strong, `correlation_s` long."""

    sigma_m: float
    correlation_s: float
    rng: np.random.Generator
    error_m: Real = field(init=False)

    def __post_init__(self) -> None:
        self.error_m = self.sigma_m * self.rng.normal(size=3)

    def advance(self, seconds: float) -> None:
        """Let the error drift for `seconds`."""
        keep = float(np.exp(-seconds / self.correlation_s))
        self.error_m = keep * self.error_m + np.sqrt(1 - keep**2) * self.sigma_m * self.rng.normal(size=3)
