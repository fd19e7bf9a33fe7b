"""How alike an original and a rebuilt building are: the F1-score of paper P5, eq. 12-14."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from sim.fidelity.buildings import find_buildings
from sim.fidelity.knobs import GeometrySettings
from sim.fidelity.reconstruction import building_mesh, face_areas_m2, rebuild
from sim.meshes import Mesh

Real = npt.NDArray[np.float64]

_MOST_POINTS = 1_000_000
"""In one sample of a building."""


@dataclass(frozen=True)
class Similarity:
    """Precision, recall and their harmonic mean, in per cent, at a distance threshold."""

    precision: float
    recall: float
    f1: float
    threshold_m: float


def similarity(original_m: Real, rebuilt_m: Real, threshold_m: float) -> Similarity:
    """P5's eq. 12-14 for two point clouds [P, 3] and [Q, 3].

    P5 calls precision what part of the original's points has a rebuilt one nearer than the threshold, and recall what
    part of the rebuilt ones has an original one; others name them the other way round. F1 is the same.
    """
    if len(original_m) == 0 or len(rebuilt_m) == 0:
        return Similarity(0.0, 0.0, 0.0, threshold_m)
    precision = 100.0 * float(np.mean(KDTree(rebuilt_m).query(original_m)[0] < threshold_m))
    recall = 100.0 * float(np.mean(KDTree(original_m).query(rebuilt_m)[0] < threshold_m))
    both = precision + recall
    return Similarity(precision, recall, 2 * precision * recall / both if both else 0.0, threshold_m)


def mesh_similarity(
    original: Mesh, made: Mesh, rng: np.random.Generator, *, threshold_m: float | None = None, points: int = 10_000
) -> Similarity:
    """The F1-score of two meshes by `points` uniform points on each, or more where the threshold asks for them.

    threshold_m: None takes P5's (footnote 2): the original is sampled twice, and the threshold is the largest distance
    from a point of one sample to the nearest of the other. A mesh without triangles is like nothing.
    """
    if threshold_m is not None:
        # Of points this dense one in 10^4 has no neighbour within the threshold on the same surface: exp(-pi t^2 n).
        dense = 3.0 / threshold_m**2 * float(face_areas_m2(original).sum())
        points = int(min(max(points, dense), _MOST_POINTS))
    first = surface_points_m(original, points, rng)
    if threshold_m is None:
        threshold_m = float(KDTree(surface_points_m(original, points, rng)).query(first)[0].max())
    return similarity(first, surface_points_m(made, points, rng), threshold_m)


def surface_points_m(mesh: Mesh, points: int, rng: np.random.Generator) -> Real:
    """Points that lie uniformly on the mesh, [points, 3]; none where it has no area."""
    area_m2 = face_areas_m2(mesh)
    if not area_m2.sum() > 0:
        return np.zeros((0, 3))
    face = rng.choice(len(area_m2), points, p=area_m2 / area_m2.sum())
    # The square root makes up for triangles getting narrower towards their first corner.
    root, along = np.sqrt(rng.random(points)), rng.random(points)
    weights = np.stack([1 - root, root * (1 - along), root * along], axis=1)
    return np.asarray(np.einsum("pc,pcx->px", weights, mesh.vertices_m[mesh.faces[face]]))


def reconstruction_scores(
    meshes: list[Mesh], settings: GeometrySettings, *, threshold_m: float | None = None, points: int = 10_000
) -> list[Similarity]:
    """The score of every building that `apply_geometry` rebuilds with these settings, before it is moved.

    P5's fig. 12 shows their mean. Without `reconstruction` there is nothing to score: an empty list.
    """
    if settings.reconstruction is None:
        return []
    labels = find_buildings(meshes, settings.fixed)
    rng = np.random.default_rng(settings.seed)
    seeds = np.random.SeedSequence(settings.seed).generate_state(labels.buildings)
    scores = []
    for building, seed in enumerate(seeds):
        original, _ = building_mesh(meshes, labels, building)
        made = rebuild(original, settings.reconstruction, int(seed))
        scores.append(mesh_similarity(original, made, rng, threshold_m=threshold_m, points=points))
    return scores
