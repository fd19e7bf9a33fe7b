"""Houses made by hand: boxes whose walls and roofs are in meshes of their own, as Sionna RT merges them by material."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.meshes import Mesh, joined

Real = npt.NDArray[np.float64]

_WALLS = [[0, 1, 5], [0, 5, 4], [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7]]
_ROOF = [[4, 5, 6], [4, 6, 7]]
_FLOOR = [[0, 2, 1], [0, 3, 2]]


def corners_m(low: tuple[float, float, float], size: tuple[float, float, float]) -> Real:
    """The lower four corners of a box counter-clockwise, then the upper four. Shape [8, 3]."""
    x, y = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    unit = np.concatenate([np.stack([x, y, np.full(4, height)], axis=1) for height in (0, 1)])
    return np.array(low) + unit * np.array(size)


def box(low: tuple[float, float, float], size: tuple[float, float, float], *, floor: bool = True) -> Mesh:
    """A box, wound to the outside."""
    faces = np.array(_WALLS + _ROOF + (_FLOOR if floor else []))
    return Mesh("box", corners_m(low, size), faces)


def ground(half_m: float = 100.0) -> Mesh:
    """A square of ground at height 0."""
    x, y = half_m * np.array([-1.0, 1.0, 1.0, -1.0]), half_m * np.array([-1.0, -1.0, 1.0, 1.0])
    return Mesh("ground", np.stack([x, y, np.zeros(4)], axis=1), np.array([[0, 1, 2], [0, 2, 3]]))


def town(places: list[tuple[float, float, float]], size: tuple[float, float, float] = (10.0, 8.0, 6.0)) -> list[Mesh]:
    """Houses without floors: all walls in one mesh, all roofs in another, and the ground."""
    walls = [Mesh("", corners_m(place, size), np.array(_WALLS)).used() for place in places]
    roofs = [Mesh("", corners_m(place, size), np.array(_ROOF)).used() for place in places]
    return [joined(walls, "walls"), joined(roofs, "roofs"), ground()]


def signed_volume_m3(mesh: Mesh) -> float:
    """Of a closed mesh: positive where its triangles are wound to the outside."""
    a, b, c = (mesh.vertices_m[mesh.faces[:, corner]] for corner in range(3))
    return float(np.sum(a * np.cross(b, c)) / 6)
