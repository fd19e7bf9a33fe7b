"""Which triangles of a scene are ground and which are which building's; buildings moved from their places.

Sionna RT makes one shape of all that is of one material, so names say little: a building is what hangs together, walls
and roof, whatever they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ingest.errors import UsageRefused
from sim.fidelity.knobs import GeometrySettings
from sim.meshes import Mesh

Real = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

GROUND = -1
"""Label of what is no building."""

_SAME_M = 1e-3
"""Corners no further apart are one."""

_FLAT_M = 0.5
"""What is no higher, and at the bottom of the scene, is ground."""

_WIDE = 0.5
"""Where no flat ground covers more of the scene's rectangle, what does is hilly ground."""


@dataclass(frozen=True)
class Labels:
    """The building of every triangle. faces: one array [F] per mesh, `GROUND` for none. buildings: how many."""

    faces: tuple[Integers, ...]
    buildings: int


def find_buildings(meshes: Sequence[Mesh], fixed: Sequence[str] = ()) -> Labels:
    """Buildings in order of their first triangles. fixed: names of meshes that are none.

    Raises `UsageRefused` where there is no building, as where walls hang together with the ground.
    """
    movable = [index for index, mesh in enumerate(meshes) if mesh.name not in fixed]
    for name in set(fixed) - {mesh.name for mesh in meshes}:
        mend = "there are " + ", ".join(sorted(mesh.name for mesh in meshes)[:20])
        raise UsageRefused(f"no object '{name}' in the scene", where="geometry.fixed", mend=mend)
    part = _parts([meshes[index] for index in movable])
    corners = [meshes[index].vertices_m[meshes[index].faces] for index in movable]
    low, high = _boxes(np.concatenate([np.zeros((0, 3, 3)), *corners]), np.concatenate([np.zeros(0, np.int64), *part]))
    ground = _is_ground(low, high, meshes)
    label = np.where(ground, GROUND, np.cumsum(~ground) - 1)
    faces = [np.full(len(mesh.faces), GROUND, np.int64) for mesh in meshes]
    for index, of_face in zip(movable, part, strict=True):
        faces[index] = label[of_face]
    count = int(np.count_nonzero(~ground))
    if count == 0:
        raise UsageRefused(
            "no building to be found",
            where="the scene",
            mend="buildings must be bodies of their own, not of the ground",
        )
    return Labels(tuple(faces), count)


def _parts(meshes: Sequence[Mesh]) -> list[Integers]:
    """Number of the part that each triangle hangs together with, across meshes, in order of first appearance."""
    if not meshes:
        return []
    places = np.round(np.concatenate([mesh.vertices_m for mesh in meshes]) / _SAME_M).astype(np.int64)
    _, place = np.unique(places, axis=0, return_inverse=True)
    starts = np.cumsum([0, *(len(mesh.vertices_m) for mesh in meshes)])
    faces = [place.reshape(-1)[mesh.faces + start] for mesh, start in zip(meshes, starts, strict=False)]
    ends = np.concatenate([found[:, [0, 1, 1, 2]].reshape(-1, 2) for found in faces])
    size = int(place.max(initial=-1)) + 1
    linked = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(size, size))
    _, component = connected_components(linked, directed=False)
    of_face = np.concatenate([component[found[:, 0]] for found in faces])
    _, first, inverse = np.unique(of_face, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return list(np.split(order[inverse], np.cumsum([len(found) for found in faces])[:-1]))


def _boxes(corners: Real, part: Integers) -> tuple[Real, Real]:
    """Lowest and highest coordinates of each part. corners [F, 3, 3]; two arrays [parts, 3]."""
    count = int(part.max(initial=-1)) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, part, corners.min(axis=1))
    np.maximum.at(high, part, corners.max(axis=1))
    return low, high


def _is_ground(low: Real, high: Real, meshes: Sequence[Mesh]) -> npt.NDArray[np.bool_]:
    """Which of the parts with these boxes are ground."""
    everything = np.concatenate([mesh.vertices_m for mesh in meshes])
    bottom, size = everything.min(axis=0), np.ptp(everything, axis=0)
    flat = high[:, 2] - bottom[2] <= _FLAT_M
    wide = np.prod((high - low)[:, :2], axis=1) > _WIDE * np.prod(size[:2])
    if np.any(flat & wide) or len(low) < 2:
        return np.asarray(flat)
    return np.asarray(flat | wide)


def shifts_m(settings: GeometrySettings, buildings: int, rng: np.random.Generator) -> Real:
    """How far each building is moved. Shape [buildings, 3]."""
    moved = np.tile(np.array(settings.shift_m, np.float64), (buildings, 1))
    moved[:, :2] += settings.shift_sigma_m * rng.normal(size=(buildings, 2))
    angle = rng.uniform(0, 2 * np.pi, buildings)
    moved[:, :2] += settings.shift_length_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return moved


def shifted(meshes: Sequence[Mesh], labels: Labels, moved_m: Real) -> list[Mesh]:
    """The meshes with each building moved by its row of moved_m [buildings, 3]."""
    found = []
    for mesh, label in zip(meshes, labels.faces, strict=True):
        vertices_m = mesh.vertices_m.copy()
        built = label != GROUND
        # A corner belongs to the building of any of its triangles: all of them hang together.
        owner = np.full(len(vertices_m), GROUND, np.int64)
        owner[mesh.faces[built]] = label[built, None]
        vertices_m[owner != GROUND] += moved_m[owner[owner != GROUND]]
        found.append(Mesh(mesh.name, vertices_m, mesh.faces))
    return found
