"""Trees on the way: how many metres of them a path crosses, and what that costs.

Attenuation only: what trees scatter, and what their edges bend, is left out, as in paper P5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.fidelity.knobs import FoliageSettings, Tree

Real = npt.NDArray[np.float64]

_WEISSBERGER_NEAR_M, _WEISSBERGER_FAR_M = 14.0, 400.0


def path_amplitudes(points_m: npt.ArrayLike, settings: FoliageSettings, carrier_hz: float) -> Real:
    """Factor [L] on the gain of paths whose corners are points_m [L, V, 3], transmitter and receiver included.

    Paths of fewer corners repeat the last one. The metres of all trees on a path count together.
    """
    points = np.asarray(points_m, np.float64)
    crossed_m = np.zeros(len(points))
    for tree in settings.trees:
        crossed_m += crossed(points, tree)
    return np.asarray(10 ** (-loss_db(crossed_m, settings, carrier_hz) / 20))


def loss_db(crossed_m: npt.ArrayLike, settings: FoliageSettings, carrier_hz: float) -> Real:
    """What a way of crossed_m metres through foliage costs; shape kept.

    `linear`: alpha d, as paper P5 has it. `p833`: A_m (1 - exp(-gamma d / A_m)), Recommendation ITU-R P.833-10 (2021),
    eq. 1, with alpha for the specific attenuation gamma and limit_db for A_m. `weissberger`: 0.45 f^0.284 d up to 14 m
    and 1.33 f^0.284 d^0.588 from there to 400 m, f in GHz from 0.23 to 95 (M. A. Weissberger, ESD-TR-81-101, 1982);
    beyond 400 m it stays what it is there.
    """
    depth = np.asarray(crossed_m, np.float64)
    if settings.model == "linear":
        return settings.attenuation_db_m * depth
    if settings.model == "p833":
        return np.asarray(-settings.limit_db * np.expm1(-settings.attenuation_db_m * depth / settings.limit_db))
    spread = np.minimum(depth, _WEISSBERGER_FAR_M)
    loss = np.where(depth <= _WEISSBERGER_NEAR_M, 0.45 * depth, 1.33 * spread**0.588)
    return np.asarray((carrier_hz / 1e9) ** 0.284 * loss)


def crossed(points_m: Real, tree: Tree) -> Real:
    """Metres of paths [L, V, 3] that lie in a tree. Shape [L]."""
    yaw = np.radians(tree.yaw_deg)
    turn = np.array([[np.cos(yaw), np.sin(yaw), 0.0], [-np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    # In the tree's own measure it is the cube, or the ball, of half width 1.
    own = (points_m - tree.middle_m) @ turn.T / (np.array(tree.size_m) / 2)
    start, way = own[:, :-1], np.diff(own, axis=1)
    inside = _share_of_ball(start, way) if tree.shape == "ellipsoid" else _share_of_cube(start, way)
    return np.asarray(np.sum(inside * np.linalg.norm(np.diff(points_m, axis=1), axis=2), axis=1))


def _share_of_ball(start: Real, way: Real) -> Real:
    """What part of each leg start + t way, 0 <= t <= 1, lies in the unit ball. [..., 3] -> [...]."""
    square = np.sum(way**2, axis=-1)
    middle = -np.sum(start * way, axis=-1) / np.maximum(square, 1e-300)
    distance = np.sum((start + middle[..., None] * way) ** 2, axis=-1)
    half = np.sqrt(np.maximum(1 - distance, 0.0) / np.maximum(square, 1e-300))
    share = np.clip(middle + half, 0.0, 1.0) - np.clip(middle - half, 0.0, 1.0)
    return np.asarray(np.where(square > 0, share, 0.0))


def _share_of_cube(start: Real, way: Real) -> Real:
    """What part of each leg start + t way, 0 <= t <= 1, lies within -1 and 1 on every axis. [..., 3] -> [...]."""
    moving = way != 0
    step = np.where(moving, way, 1.0)
    ends = np.stack([(-1 - start) / step, (1 - start) / step])
    within = np.abs(start) <= 1
    enter = np.where(moving, ends.min(axis=0), np.where(within, -np.inf, np.inf)).max(axis=-1)
    leave = np.where(moving, ends.max(axis=0), np.where(within, np.inf, -np.inf)).min(axis=-1)
    return np.asarray(np.maximum(np.minimum(leave, 1.0) - np.maximum(enter, 0.0), 0.0))
