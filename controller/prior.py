"""Where a belief's prior mean comes from: traces of the users, the twin of a site bundle, or nowhere."""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np

from controller.covariance import Complex, Real
from controller.twin_frames import trace_of
from ingest.messages import TwinFrame, Vector
from sim.channels import SiteChannels
from sim.tracker import PathTracker


class Prior(Protocol):
    """What is expected of a channel before it is measured. A channel is [rows, antennas], rows = M + 1."""

    rows: int
    antennas: int
    ris_states: Complex
    """States [Q] of a RIS element; none where it takes any phase."""

    def mean(self, user: str, position_m: Vector | None) -> Complex:
        """The expected channel [rows, antennas] of a user at a position."""
        ...

    def error_variances(self, mean: Complex, noise_power: float) -> Real:
        """Variances [rows, antennas] of the error of `mean` before anything was learnt of it."""
        ...


class ZeroPrior:
    """A site without a twin: zero mean, and an error as large as the first channels seen."""

    def __init__(self, rows: int, antennas: int, entry_power: float) -> None:
        self.rows = rows
        self.antennas = antennas
        self.ris_states: Complex = np.zeros(0, np.complex128)
        self._entry_power = entry_power

    def mean(self, user: str, position_m: Vector | None) -> Complex:
        return np.zeros((self.rows, self.antennas), np.complex128)

    def error_variances(self, mean: Complex, noise_power: float) -> Real:
        # An effective channel adds up the rows, so that each carries its share.
        return np.full((self.rows, self.antennas), max(self._entry_power, noise_power) / self.rows)


class TwinPrior:
    """The twin's channel at the user's position; a user that tells none gets a zero mean.

    Where the user was traced lately (`after`), that trace is carried along to where it is now; else the bundle's
    nearest grid point. relative_error: error power over channel power that is assumed until it is learnt. traced_ns:
    when the newest trace was asked for, None before there was one.
    """

    def __init__(self, channels: SiteChannels, relative_error: float) -> None:
        self.channels = channels
        self.rows = channels.elements + 1
        self.antennas = channels.antennas
        ris = channels.bundle.site.ris
        self.ris_states: Complex = np.zeros(0, np.complex128) if ris is None else ris.coefficients
        self._relative_error = relative_error
        self._spacing_m = channels.bundle.site.users.spacing_m
        self._typical = self._typical_power()
        self._tracker = PathTracker(channels.arrays)
        self.traced_ns: int | None = None

    def after(self, frame: TwinFrame) -> TwinPrior:
        """The prior that knows of one more trace; this one stays as it is."""
        later = copy.copy(self)
        later._tracker = self._tracker.followed_by(trace_of(frame))
        later.traced_ns = frame.asked_ns
        return later

    def mean(self, user: str, position_m: Vector | None) -> Complex:
        if position_m is None:
            return np.zeros((self.rows, self.antennas), np.complex128)
        if self._follows(user, position_m):
            return np.asarray(self._tracker.cascades((user,), np.array([position_m]))[0])
        return self.channels.cascade(position_m)

    def _follows(self, user: str, position_m: Vector) -> bool:
        """Whether a trace of the user tells more of the position than the grid: not from beyond the next grid point."""
        away_m = self._tracker.away_m(user, position_m)
        return away_m <= self._spacing_m or away_m < self.channels.nearest(position_m)[1]

    def error_variances(self, mean: Complex, noise_power: float) -> Real:
        power = np.empty((self.rows, self.antennas))
        power[0] = max(float(np.mean(np.abs(mean[0]) ** 2)), self._typical[0])
        power[1:] = max(float(np.mean(np.abs(mean[1:]) ** 2)), self._typical[1]) if self.rows > 1 else 0.0
        return self._relative_error * np.maximum(power, 1e-3 * noise_power / self.rows)

    def _typical_power(self) -> tuple[float, float]:
        """Lower quartile of an entry's power over the grid points with paths, of direct and of cascade rows."""
        grid = self.channels.bundle.positions_m
        chosen = grid[:: max(1, len(grid) // 64)]
        direct, cascade = [], []
        for position in chosen:
            mean = self.channels.cascade(position)
            direct.append(float(np.mean(np.abs(mean[0]) ** 2)))
            cascade.append(float(np.mean(np.abs(mean[1:]) ** 2)) if self.rows > 1 else 0.0)
        return _lower_quartile_of_positive(direct), _lower_quartile_of_positive(cascade)


def _lower_quartile_of_positive(values: list[float]) -> float:
    positive = [value for value in values if value > 0]
    return float(np.quantile(positive, 0.25)) if positive else 0.0
