"""What no trace could mend is refused beforehand: open meshes, things inside of walls, arrays that look away.

What lies inside is decided by rays: one that leaves a closed body crosses its surface an odd number of times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, UsageRefused
from sim.meshes import Integers, Mesh, Real, joined
from sim.site import Site

_RAYS = np.array([[0.0123, 0.0077, 1.0], [-0.0191, 0.0113, 1.0], [0.0059, -0.0231, 1.0]])
"""Upwards, since buildings may stand on the ground without a floor; askew and three, since a ray may graze an edge."""

_AT_ONCE = 2_000_000
"""Pairs of points and triangles that are looked at in one go."""

_LEVEL_M = 0.01
_BEHIND_DEG = 90.0


def check_site(site: Site, bodies: Sequence[Mesh]) -> None:
    """`UsageRefused` where arrays or users stand inside of `bodies`, or base station and RIS look past each other.

    bodies: closed meshes, or ones that are open below where they stand on the ground.
    """
    _refuse_looking_away(site)
    arrays = [("base station", "[bs]", site.bs), ("RIS", "[ris]", site.ris)]
    for what, table, mount in arrays:
        if mount is None:
            continue
        inside = containing(bodies, np.array([mount.position_m]))[0]
        if inside >= 0:
            text = f"the {what} at {_told(mount.position_m)} is inside of {bodies[inside].name}"
            raise UsageRefused(text, where=f"{site.name} {table}", mend="move position_m out of the wall")
    refuse_inside(site.users.named_places_m(), bodies, where=f"{site.name} [users] places_m")
    grid_m = site.users.grid_m()
    if np.all(containing(bodies, grid_m) >= 0):
        text = f"all {len(grid_m)} points of the user area are inside of buildings"
        raise UsageRefused(text, where=f"{site.name} [users]", mend="move or enlarge it")


def refuse_inside(positions_m: Real, bodies: Sequence[Mesh], *, where: str) -> None:
    """`UsageRefused` where one of the users' positions [P, 3] is inside of a body."""
    inside = containing(bodies, positions_m)
    if np.any(inside >= 0):
        first = int(np.argmax(inside >= 0))
        name = bodies[inside[first]].name
        text = f"user {first + 1} at {_told(positions_m[first])} is inside of {name}"
        raise UsageRefused(text, where=where, mend="move it outdoors")


def refuse_open(mesh: Mesh, where: str) -> None:
    """`InputRefused` where a welded mesh has no inside, with the number of its open edges."""
    edges = mesh.open_edges()
    if len(edges):
        place = _told(mesh.vertices_m[edges[0]].mean(axis=0))
        text = f"the mesh is not watertight: {len(edges)} open edges, one at {place}"
        raise InputRefused(text, where=where, mend="close it; walls that are sheets go into a Mitsuba XML scene")


def closed_bodies(meshes: Sequence[Mesh]) -> list[Mesh]:
    """What of a scene's meshes has an inside, whatever they are called: walls and roof may be two shapes.

    Open meshes are left out, but for those that are open only where they are lowest: houses without a floor.
    """
    parts = joined(meshes, "a building").welded().parts() if meshes else []
    return [part for part in parts if _has_inside(part)]


def _has_inside(part: Mesh) -> bool:
    heights_m = part.vertices_m[:, 2]
    if np.ptp(heights_m) <= _LEVEL_M:
        return False
    return bool(np.all(heights_m[part.open_edges()] <= heights_m.min() + _LEVEL_M))


def containing(bodies: Sequence[Mesh], points_m: Real) -> Integers:
    """Index of the first body that holds each point [P, 3], -1 where none does. Shape [P]."""
    found = np.full(len(points_m), -1, np.int64)
    for index, body in enumerate(bodies):
        low, high = body.vertices_m.min(axis=0), body.vertices_m.max(axis=0)
        near = np.nonzero((found < 0) & np.all((points_m >= low) & (points_m <= high), axis=1))[0]
        if len(near):
            votes = sum((crossings(body, points_m[near], ray) % 2 for ray in _RAYS), np.zeros(len(near), np.int64))
            found[near[votes * 2 > len(_RAYS)]] = index
    return found


def crossings(mesh: Mesh, points_m: Real, ray: npt.NDArray[np.float64]) -> Integers:
    """How many triangles a ray from each point [P, 3] meets. Shape [P].

    The test of Möller and Trumbore ("Fast, minimum storage ray/triangle intersection", 1997).
    """
    corner = mesh.vertices_m[mesh.faces[:, 0]]
    first, second = (mesh.vertices_m[mesh.faces[:, index]] - corner for index in (1, 2))
    p = np.cross(ray, second)
    determinant = np.einsum("fi,fi->f", first, p)
    crossed = np.abs(determinant) > 1e-12
    corner, first, second, p, scale = (a[crossed] for a in (corner, first, second, p, determinant))
    count = np.zeros(len(points_m), np.int64)
    step = max(1, _AT_ONCE // max(len(corner), 1))
    for start in range(0, len(points_m), step):
        t = points_m[start : start + step, None] - corner
        q = np.cross(t, first)
        u, v = np.einsum("pfi,fi->pf", t, p) / scale, (q @ ray) / scale
        along = np.einsum("pfi,fi->pf", q, second) / scale
        count[start : start + step] = np.sum((u >= 0) & (v >= 0) & (u + v <= 1) & (along > 0), axis=1)
    return count


def _refuse_looking_away(site: Site) -> None:
    """The RIS has to be in view of the base station, and the base station in front of the RIS."""
    if site.ris is None:
        return
    way = np.subtract(site.ris.position_m, site.bs.position_m)
    distance_m = float(np.linalg.norm(way))
    if distance_m == 0:
        raise UsageRefused("base station and RIS stand in one place", where=site.name, mend="move [ris] position_m")
    off_deg = float(np.degrees(np.arccos(np.clip(way @ site.bs.rotation()[:, 0] / distance_m, -1, 1))))
    directed = site.bs.pattern == "tr38901"
    limit_deg = min(site.bs.field_of_view_deg / 2, _BEHIND_DEG if directed else 180.0)
    if off_deg > limit_deg:
        text = f"the RIS is {off_deg:.0f}° off the base station's boresight, which sees {limit_deg:.0f}° to each side"
        raise UsageRefused(text, where=site.name, mend="turn [bs] yaw_deg, or move the RIS")
    behind_m = float(way @ site.ris.rotation()[:, 0])
    if behind_m >= 0:
        text = f"the base station is behind the RIS's back, by {behind_m:.1f} m"
        raise UsageRefused(text, where=site.name, mend="turn [ris] yaw_deg, or move the RIS")


def _told(place: Sequence[float] | npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{x:g}" for x in np.round(place, 2)) + ")"
