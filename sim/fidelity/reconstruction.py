"""Buildings rebuilt from point clouds, as a survey by laser scanner would have them (paper P5, sections IV-B, VI-A).

Poisson-disk points on the surface, normals estimated from neighbouring points, screened Poisson reconstruction (Kazhdan
and Hoppe, 2013), quadric edge-collapse decimation (Garland and Heckbert, 1997), all by open3d (extra `geometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError, UsageRefused
from sim.fidelity.buildings import GROUND, Labels
from sim.fidelity.knobs import ReconstructionSettings
from sim.meshes import Mesh, joined

Real = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_FEWEST_POINTS = 20
"""A building gets no fewer points, however small it is: of less, no closed surface is made."""

_MOST_POINTS = 2_000_000
"""Of one building."""

_BESIDE_M = 0.05
"""How far beside a point it is asked whether that is inside."""

_GAP = 3.0
"""Rebuilt surface further from all points than this many of their spacings closes a hole that was never measured."""


def rebuilt(meshes: Sequence[Mesh], labels: Labels, settings: ReconstructionSettings, seed: int) -> list[Mesh]:
    """The meshes with every building rebuilt; ground stays, and every triangle keeps to the mesh it is nearest to.

    The same settings and seed give the same triangles. Raises `TwinbeamError` without open3d, `UsageRefused` where
    there would be too many points.
    """
    seeds = np.random.SeedSequence(seed).generate_state(labels.buildings)
    kept = [mesh_part(mesh, label, GROUND) for mesh, label in zip(meshes, labels.faces, strict=True)]
    pieces = [[ground] for ground in kept]
    for building in range(labels.buildings):
        original, owner = building_mesh(meshes, labels, building)
        made = rebuild(original, settings, int(seeds[building]))
        if len(made.faces) == 0:
            continue
        nearest = owner[nearest_faces(original, made.vertices_m[made.faces].mean(axis=1))]
        for index in np.unique(nearest):
            pieces[index].append(Mesh(made.name, made.vertices_m, made.faces[nearest == index]).used())
    return [joined(parts, mesh.name) for parts, mesh in zip(pieces, meshes, strict=True)]


def mesh_part(mesh: Mesh, label: Integers, wanted: int) -> Mesh:
    """The triangles of a mesh that have a label."""
    return Mesh(mesh.name, mesh.vertices_m, mesh.faces[label == wanted]).used()


def building_mesh(meshes: Sequence[Mesh], labels: Labels, building: int) -> tuple[Mesh, Integers]:
    """One building in one mesh, and for each of its triangles the number of the mesh that it comes from."""
    parts = [mesh_part(mesh, label, building) for mesh, label in zip(meshes, labels.faces, strict=True)]
    owner = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
    return joined(parts, f"building {building}"), owner


def rebuild(original: Mesh, settings: ReconstructionSettings, seed: int) -> Mesh:
    """One building from a point cloud of its surface. Where nothing comes of it, no triangle is left."""
    o3d = _import_open3d()
    solid = face_areas_m2(original) > 0  # what has no area cannot be sampled: open3d would end the process
    if not solid.any():
        return Mesh(original.name, np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    middle = original.vertices_m.mean(axis=0)  # open3d rounds to single precision in places
    placed = Mesh(original.name, original.vertices_m - middle, original.faces[solid])
    points = point_cloud(placed, settings.density_m2, seed)
    normals = _normals(placed, points, settings.neighbours)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    # One thread: with more, sums are rounded in another order each time.
    surface, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        cloud, depth=settings.octree_depth, n_threads=1
    )
    surface.remove_triangles_by_mask(_unmeasured(surface, points))
    surface.remove_unreferenced_vertices()
    faces = max(round(settings.face_ratio * len(original.faces)), 4)
    if len(surface.triangles) > faces:
        surface = surface.simplify_quadric_decimation(faces)
    vertices_m = np.asarray(surface.vertices, np.float64) + middle
    return Mesh(original.name, vertices_m, np.asarray(surface.triangles, np.int64))


def point_cloud(mesh: Mesh, density_m2: float, seed: int) -> Real:
    """Poisson-disk points on a mesh, `density_m2` of them on a square metre. Shape [points, 3]."""
    o3d = _import_open3d()
    area_m2 = float(face_areas_m2(mesh).sum())
    wanted = density_m2 * area_m2
    if wanted > _MOST_POINTS:
        mend = f"density_m2 of {_MOST_POINTS / area_m2:.3g} or less"
        raise UsageRefused(f"{wanted:.0f} points on {mesh.name}", where="geometry.reconstruction", mend=mend)
    o3d.utility.random.seed(seed % 2**31)
    surface = _triangle_mesh(mesh)
    return np.array(surface.sample_points_poisson_disk(max(round(wanted), _FEWEST_POINTS)).points, np.float64)


def face_areas_m2(mesh: Mesh) -> Real:
    """Area of each triangle. Shape [F]."""
    a, b, c = (mesh.vertices_m[mesh.faces[:, corner]] for corner in range(3))
    return np.asarray(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)


def nearest_faces(mesh: Mesh, points_m: Real) -> Integers:
    """The triangle of `mesh` next to each point [P, 3]. Shape [P]."""
    o3d = _import_open3d()
    middle = mesh.vertices_m.mean(axis=0)
    scene = _ray_scene(Mesh(mesh.name, mesh.vertices_m - middle, mesh.faces))
    found = scene.compute_closest_points(o3d.core.Tensor((points_m - middle).astype(np.float32)), nthreads=1)
    return np.asarray(found["primitive_ids"].numpy(), np.int64)


def _normals(mesh: Mesh, points: Real, neighbours: int) -> Real:
    """Normals of points on a mesh, each from its neighbours, towards the outside, whence a scanner sees them.

    Outside is where a ray to the sky passes an even number of surfaces: that needs neither a floor nor triangles that
    are all wound alike. Where both sides are alike, the triangle's winding decides.
    """
    o3d = _import_open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(min(neighbours, len(points))))
    normals = np.array(cloud.normals, np.float64)
    scene = _ray_scene(mesh)
    before, behind = (_inside(scene, points + side * _BESIDE_M * normals) for side in (1.0, -1.0))
    wound = np.sum(mesh.normals()[nearest_faces(mesh, points)] * normals, axis=1)
    return np.where(((before == behind) & (wound < 0)) | (before & ~behind), -1.0, 1.0)[:, None] * normals


def _inside(scene: Any, points: Real) -> npt.NDArray[np.bool_]:
    """Which points have an odd number of surfaces above them."""
    o3d = _import_open3d()
    rays = np.concatenate([points, np.tile([0.0, 0.0, 1.0], (len(points), 1))], axis=1).astype(np.float32)
    return np.asarray(scene.count_intersections(o3d.core.Tensor(rays), nthreads=1).numpy() % 2 == 1)


def _unmeasured(surface: Any, points: Real) -> npt.NDArray[np.bool_]:
    """Triangles that no point is near to: Poisson reconstruction closes every hole, as under walls without a floor."""
    from scipy.spatial import KDTree

    tree = KDTree(points)
    spacing_m = np.median(tree.query(points, k=2)[0][:, 1])
    middles = np.asarray(surface.vertices)[np.asarray(surface.triangles)].mean(axis=1)
    return np.asarray(tree.query(middles)[0] > _GAP * spacing_m)


def _triangle_mesh(mesh: Mesh) -> Any:
    o3d = _import_open3d()
    return o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )


def _ray_scene(mesh: Mesh) -> Any:
    o3d = _import_open3d()
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices_m.astype(np.float32)), o3d.core.Tensor(mesh.faces.astype(np.uint32))
    )
    return scene


def _import_open3d() -> Any:
    try:
        import open3d
    except (ImportError, OSError) as error:  # OSError: a system library that it loads is missing
        mend = "pip install 'twinbeam[geometry]'"
        raise TwinbeamError(f"rebuilding buildings needs open3d: {error}", mend=mend) from None
    return open3d
