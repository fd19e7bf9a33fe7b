"""From building footprints to solids: every building a closed mesh, no place filled twice.

Where two buildings overlap, the taller one keeps the place and the other is cut, so that no two walls or roofs lie in
one plane and reflect a wave twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from trimesh.creation import extrude_triangulation

from sim.geojson import GRID_M, MIN_AREA_M2, Footprint
from sim.meshes import Mesh
from sim.site_checks import refuse_open

FOUNDATION_M = 0.1
"""How deep buildings reach below the ground. Edges of a floor at its height would bend waves that no real one bends."""

_ROOF_COSINE = 0.5


@dataclass(frozen=True)
class Building:
    """A closed mesh and which of its triangles are roof. wall, roof: material names."""

    mesh: Mesh
    roof_faces: Any
    wall: str
    roof: str

    def surfaces(self) -> list[tuple[str, Mesh]]:
        """Material and mesh of each shape: walls with the floor, and the roof; one where both are of one material.

        One, since Sionna RT bends waves only about edges between triangles of one shape.
        """
        if self.wall == self.roof:
            return [(self.wall, self.mesh)]
        walls = Mesh(f"{self.mesh.name} walls", self.mesh.vertices_m, self.mesh.faces[~self.roof_faces])
        roof = Mesh(f"{self.mesh.name} roof", self.mesh.vertices_m, self.mesh.faces[self.roof_faces])
        return [(self.wall, walls.used()), (self.roof, roof.used())]


def extruded(footprints: Sequence[Footprint]) -> list[Building]:
    """The buildings as closed meshes, one for every simple outline that is left of each."""
    buildings = []
    for piece in apart(footprints):
        outlines = _polygons(piece.outline)
        for index, outline in enumerate(outlines):
            name = piece.name if len(outlines) == 1 else f"{piece.name}, part {index + 1}"
            buildings.append(_extrude(replace(piece, outline=outline, name=name)))
    return buildings


def apart(footprints: Sequence[Footprint]) -> list[Footprint]:
    """Pieces that fill the same space as the footprints together, none of it twice.

    The taller goes first; of each other piece, what lies in a place and at heights that are taken is left out.
    """
    order = sorted(range(len(footprints)), key=lambda index: (-footprints[index].high_m, index))
    tree = shapely.STRtree([footprint.outline for footprint in footprints])
    placed: dict[int, list[Footprint]] = {}
    for index in order:
        neighbours = [int(other) for other in tree.query(footprints[index].outline) if int(other) in placed]
        pieces = [footprints[index]]
        for other in sorted(neighbours):
            for taken in placed[other]:
                pieces = [left for piece in pieces for left in _without(piece, taken)]
        placed[index] = pieces
    return [piece for index in range(len(footprints)) for piece in placed[index]]


def _without(piece: Footprint, taken: Footprint) -> list[Footprint]:
    """What is left of `piece` outside of `taken`."""
    if piece.high_m <= taken.low_m or piece.low_m >= taken.high_m:
        return [piece]
    shared = _area_of(shapely.intersection(piece.outline, taken.outline, grid_size=GRID_M))
    if shared.area < MIN_AREA_M2:
        return [piece]
    beside = _area_of(shapely.difference(piece.outline, taken.outline, grid_size=GRID_M))
    below, above = (piece.low_m, min(piece.high_m, taken.low_m)), (max(piece.low_m, taken.high_m), piece.high_m)
    left = [(beside, piece.low_m, piece.high_m), (shared, *below), (shared, *above)]
    return [
        replace(piece, outline=outline, low_m=low_m, high_m=high_m)
        for outline, low_m, high_m in left
        if outline.area >= MIN_AREA_M2 and high_m > low_m
    ]


def _area_of(shape: Any) -> Any:
    """The polygons of what an overlay leaves; lines and points, where outlines only touch, are dropped."""
    return shapely.MultiPolygon(_polygons(shape))


def _polygons(shape: Any) -> list[Any]:
    parts = shapely.get_parts(shape, return_index=False)
    return [part for part in parts if part.geom_type == "Polygon" and part.area >= MIN_AREA_M2]


def _extrude(piece: Footprint) -> Building:
    """One polygon between its heights, triangulated and checked to be closed."""
    triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(shapely.orient_polygons(piece.outline)))
    corners = np.array([triangle.exterior.coords[:3] for triangle in triangles])
    points, index = np.unique(corners.reshape(-1, 2), axis=0, return_inverse=True)
    bottom_m = piece.low_m if piece.low_m > 0 else -FOUNDATION_M
    solid = extrude_triangulation(points, index.reshape(-1, 3), height=piece.high_m - bottom_m)
    vertices_m = np.asarray(solid.vertices) + np.array([0.0, 0.0, bottom_m])
    mesh = Mesh(piece.name, vertices_m, np.asarray(solid.faces, np.int64)).welded()
    refuse_open(mesh, piece.name)
    return Building(mesh, mesh.normals()[:, 2] > _ROOF_COSINE, piece.wall, piece.roof)
