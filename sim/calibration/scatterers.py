"""Virtual scatterers: points that send on what the base station sends, for all that the twin does not know of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from sim.paths import DIFFUSE, PathTable, empty_table, joined

Real = npt.NDArray[np.float64]

_NEIGHBOURS = 4
"""Places that together say who sees a scatterer."""

_NEAREST_M = 0.1


@dataclass(frozen=True)
class Scatterer:
    """A point at position_m [3]. gain: the root of its radar cross-section times the array element's gain, in metres.

    visible [K]: 1 where the link at the place seen_from_m[k] sees it, else 0.
    """

    position_m: Real
    gain: complex
    visible: Real


@dataclass(frozen=True)
class Scatterers:
    """Virtual scatterers of one site. seen_from_m [K, 3]: places of the links that they were found by."""

    points: tuple[Scatterer, ...]
    seen_from_m: Real

    def table(self, array_m: Real, receivers_m: Real, wavelength_m: float) -> PathTable:
        """Their paths to receivers_m [K, 3] from an array at array_m [3].

        By the radar equation, lambda b / ((4 pi)^1.5 d1 d2) for ways d1 and d2. Between the places that tell who sees
        a point the nearest few say how likely that is, and its path has that share of the amplitude.
        """
        count = len(self.points)
        if not count:
            return empty_table(len(receivers_m))
        away_m, nearest = cKDTree(self.seen_from_m).query(receivers_m, k=min(_NEIGHBOURS, len(self.seen_from_m)))
        away_m, nearest = np.reshape(away_m, (len(receivers_m), -1)), np.reshape(nearest, (len(receivers_m), -1))
        weights = 1.0 / np.maximum(away_m, _NEAREST_M)
        weights /= weights.sum(axis=1, keepdims=True)
        visible = np.stack([point.visible for point in self.points], axis=1)
        shares = np.einsum("kn,knj->kj", weights, visible[nearest])
        tables = [point_table(point, array_m, receivers_m, wavelength_m) for point in self.points]
        order = np.arange(len(receivers_m) * count).reshape(count, -1).T.reshape(-1)
        offsets = np.arange(len(receivers_m) + 1) * count
        mixed = joined(tables).chosen(order, offsets.astype(np.int64))
        return replace(mixed, gain=mixed.gain * shares.reshape(-1))


NOTHING = Scatterers((), np.zeros((0, 3)))


def point_table(point: Scatterer, array_m: Real, receivers_m: Real, wavelength_m: float) -> PathTable:
    """One path over a scatterer to each of receivers_m [K, 3], whether it is seen there or not."""
    count = len(receivers_m)
    out_m, back_m = point.position_m - array_m, point.position_m - receivers_m
    before_m = max(float(np.linalg.norm(out_m)), _NEAREST_M)
    after_m = np.maximum(np.linalg.norm(back_m, axis=1), _NEAREST_M)
    return PathTable(
        offsets=np.arange(count + 1, dtype=np.int64),
        gain=point.gain * wavelength_m / ((4 * np.pi) ** 1.5 * before_m * after_m),
        length_m=before_m + after_m,
        departure=np.tile(out_m / before_m, (count, 1)),
        arrival=back_m / after_m[:, None],
        kind=np.full(count, DIFFUSE, np.uint8),
        reach_m=after_m,
        mirror=np.zeros((count, 3, 3)),
    )
