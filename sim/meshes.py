"""Triangle meshes: are they closed, what do they hold inside, how are they written down and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ingest.errors import InputRefused, UsageRefused

Real = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mesh:
    """Triangles of one name. vertices_m [V, 3], faces [F, 3]: their corners, counter-clockwise from outside."""

    name: str
    vertices_m: Real
    faces: Integers

    def welded(self) -> Mesh:
        """The same triangles with corners at the same place made one, without those that have no area left."""
        places, index = np.unique(self.vertices_m, axis=0, return_inverse=True)
        faces = index.reshape(-1)[self.faces]
        a, b, c = faces.T
        return Mesh(self.name, places, faces[(a != b) & (b != c) & (c != a)])

    def parts(self) -> list[Mesh]:
        """What hangs together in a welded mesh, one by one."""
        count = len(self.vertices_m)
        ends = np.concatenate([self.faces[:, :2], self.faces[:, 1:]])
        linked = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
        _, label = connected_components(linked, directed=False)
        of_face = label[self.faces[:, 0]] if len(self.faces) else np.zeros(0, np.int32)
        order = np.argsort(of_face, kind="stable")
        found = np.split(self.faces[order], np.nonzero(np.diff(of_face[order]))[0] + 1) if len(order) else []
        return [Mesh(self.name, self.vertices_m, faces).used() for faces in found]

    def used(self) -> Mesh:
        """Without vertices that no triangle has."""
        kept, index = np.unique(self.faces, return_inverse=True)
        return Mesh(self.name, self.vertices_m[kept], index.reshape(-1, 3).astype(np.int64))

    def open_edges(self) -> Integers:
        """Edges [E, 2] of a welded mesh where an odd number of triangles meets: none, and it has an inside."""
        edges = np.sort(self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        found, count = np.unique(edges, axis=0, return_counts=True)
        return np.asarray(found[count % 2 == 1], np.int64)

    def normals(self) -> Real:
        """Unit normals [F, 3]; zero for triangles without area."""
        a, b, c = (self.vertices_m[self.faces[:, corner]] for corner in range(3))
        normal = np.cross(b - a, c - a)
        return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300))


def joined(meshes: Sequence[Mesh], name: str) -> Mesh:
    """All triangles in one mesh."""
    before = np.cumsum([0, *(len(mesh.vertices_m) for mesh in meshes)])
    return Mesh(
        name,
        np.concatenate([np.zeros((0, 3)), *(mesh.vertices_m for mesh in meshes)]),
        np.concatenate([np.zeros((0, 3), np.int64), *(m.faces + n for m, n in zip(meshes, before, strict=False))]),
    )


def write_ply(mesh: Mesh, path: Path) -> None:
    """As binary PLY, in single precision."""
    import trimesh

    whole = trimesh.Trimesh(mesh.vertices_m.astype(np.float32), mesh.faces, process=False)
    with path.open("wb") as file:
        whole.export(file, file_type="ply", vertex_normal=False)


def read_ply(path: Path) -> Mesh:
    """The triangles of a PLY file; `InputRefused` where it holds none or nonsense."""
    import trimesh

    if not path.is_file():
        raise UsageRefused("no such scene file", where=str(path), mend="a PLY file, relative to the site file")
    try:
        with path.open("rb") as file:
            loaded: Any = trimesh.load_mesh(file, file_type="ply", process=False)
        vertices_m, faces = np.asarray(loaded.vertices, np.float64), np.asarray(loaded.faces, np.int64)
        usable = vertices_m.ndim == faces.ndim == 2 and vertices_m.shape[1] == faces.shape[1] == 3 and len(faces) > 0
        usable = usable and bool(np.isfinite(vertices_m).all())
        usable = usable and faces.min() >= 0 and faces.max() < len(vertices_m)
    except Exception as error:  # whatever trimesh stumbles over in a strange file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefused(f"is not a PLY mesh: {reason}", where=str(path), mend="triangles, z up, in metres") from None
    if not usable:
        raise InputRefused("is not a PLY mesh of finite triangles", where=str(path), mend="triangles, z up, in metres")
    return Mesh(path.stem, vertices_m, faces)
