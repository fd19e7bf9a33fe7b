"""GeoJSON and PLY files of a few boxes, and sites that stand in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.site import Site

BLOCK: dict[str, Any] = {
    "name": "block",
    "scene": "block.geojson",
    "material_preset": "MC3",
    "carrier_hz": 3.5e9,
    "geo": {"coordinates": "metres"},
    "bs": {"position_m": [-8.0, 0.0, 5.0], "yaw_deg": 45.0, "pattern": "iso"},
    "users": {"corner_m": [5.0, -3.0], "size_m": [6.0, 6.0], "spacing_m": 3.0},
    "twin": {"max_depth": 1, "samples": 20000},
}


def block(**changes: Any) -> Site:
    """A site in metres, with whole tables replaced."""
    return Site.model_validate({**BLOCK, **changes})


def ring(*points: tuple[float, float]) -> list[list[float]]:
    """A closed GeoJSON ring."""
    return [list(point) for point in (*points, points[0])]


def box_ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    """A rectangle's closed ring."""
    return ring((west, south), (east, south), (east, north), (west, north))


def feature(*rings: list[list[float]], **properties: Any) -> dict[str, Any]:
    """A polygon with properties; `:` in a key is written `__`."""
    named = {key.replace("__", ":"): value for key, value in properties.items()}
    return {"type": "Feature", "properties": named, "geometry": {"type": "Polygon", "coordinates": list(rings)}}


def geojson(folder: Path, *features: dict[str, Any], **members: Any) -> Path:
    """`block.geojson` with these features."""
    path = folder / "block.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    return path


def box(low: Sequence[float], high: Sequence[float]) -> tuple[npt.NDArray[np.float64], list[list[int]]]:
    """Corners and the twelve outward triangles of an upright box."""
    corners = np.array([[(low, high)[b >> axis & 1][axis] for axis in range(3)] for b in range(8)], np.float64)
    quads = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]
    return corners, [[quad[0], *pair] for quad in quads for pair in (quad[1:3], quad[2:4])]


def ply(path: Path, *parts: tuple[npt.NDArray[np.float64], list[list[int]]]) -> Path:
    """An ASCII PLY file of parts (vertices, faces), written here and not by the code under test."""
    vertices = np.concatenate([part[0] for part in parts])
    before = np.cumsum([0, *(len(part[0]) for part in parts)])
    faces = [[int(n + start) for n in face] for (_, own), start in zip(parts, before, strict=False) for face in own]
    header = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    rows = [" ".join(f"{x:g}" for x in vertex) for vertex in vertices]
    path.write_text("\n".join([*header, *rows, *(f"3 {a} {b} {c}" for a, b, c in faces)]) + "\n")
    return path
