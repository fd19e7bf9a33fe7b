"""Buildings come back from point clouds, the better the more points there are."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.spatial import KDTree

from ingest.errors import UsageRefused
from sim.fidelity.buildings import find_buildings
from sim.fidelity.geometry import apply_geometry
from sim.fidelity.knobs import GeometrySettings, ReconstructionSettings
from sim.fidelity.reconstruction import point_cloud, rebuild
from sim.fidelity.similarity import reconstruction_scores
from sim.meshes import Mesh
from tests.sim.fidelity.houses import box, ground, signed_volume_m3, town

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("open3d") is None, reason="open3d is not installed (extra `geometry`)"
)

SMALL = {"octree_depth": 6}
HOUSE = box((100.0, -50.0, 0.0), (10.0, 8.0, 6.0))
AREA_M2, VOLUME_M3 = 2 * (80 + 60 + 48), 480.0


def test_points_are_as_dense_as_asked_for_and_keep_their_distance() -> None:
    points = point_cloud(HOUSE, 4.0, seed=1)
    assert len(points) == round(4.0 * AREA_M2)
    low, high = HOUSE.vertices_m.min(axis=0), HOUSE.vertices_m.max(axis=0)
    on = np.isclose(points, low, atol=1e-3) | np.isclose(points, high, atol=1e-3)
    assert on.any(axis=1).all()
    nearest = KDTree(points).query(points, k=2)[0][:, 1]
    # Of points thrown at random a tenth would be nearer than 0.18 times 1 / sqrt(density).
    assert np.quantile(nearest, 0.1) > 0.5 / np.sqrt(4.0)


def test_a_house_comes_back_with_as_many_faces() -> None:
    made = rebuild(HOUSE, ReconstructionSettings(density_m2=10.0, **SMALL), seed=1)
    assert 8 <= len(made.faces) <= 12
    assert signed_volume_m3(made.welded()) == pytest.approx(VOLUME_M3, rel=0.03)
    np.testing.assert_allclose(made.vertices_m.min(axis=0), HOUSE.vertices_m.min(axis=0), atol=0.5)
    np.testing.assert_allclose(made.vertices_m.max(axis=0), HOUSE.vertices_m.max(axis=0), atol=0.5)


def test_more_faces_may_be_kept() -> None:
    made = rebuild(HOUSE, ReconstructionSettings(density_m2=10.0, face_ratio=10.0, **SMALL), seed=1)
    assert 100 <= len(made.faces) <= 120
    assert signed_volume_m3(made.welded()) == pytest.approx(VOLUME_M3, rel=0.02)


def test_triangles_wound_anyhow_make_no_difference_to_what_is_outside() -> None:
    faces = HOUSE.faces.copy()
    faces[::2] = faces[::2, ::-1]
    muddled = Mesh("box", HOUSE.vertices_m, faces)
    made = rebuild(muddled, ReconstructionSettings(density_m2=10.0, **SMALL), seed=1)
    assert signed_volume_m3(made.welded()) == pytest.approx(VOLUME_M3, rel=0.03)


def test_the_same_seed_gives_the_same_triangles() -> None:
    settings = ReconstructionSettings(density_m2=2.0, **SMALL)
    first, again, other = (rebuild(HOUSE, settings, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.vertices_m, again.vertices_m)
    np.testing.assert_array_equal(first.faces, again.faces)
    assert first.vertices_m.shape != other.vertices_m.shape or np.abs(first.vertices_m - other.vertices_m).max() > 1e-6


def test_what_was_never_measured_is_not_made_up() -> None:
    """A house without a floor: reconstruction would close it by a bulge far below the ground."""
    settings = ReconstructionSettings(density_m2=10.0, face_ratio=20.0, **SMALL)
    made = rebuild(box((0, 0, 0), (10.0, 8.0, 6.0), floor=False), settings, seed=1)
    middles = made.vertices_m[made.faces].mean(axis=1)
    inner = np.all(np.abs(middles - [5.0, 4.0, 0.0]) < [3.0, 2.0, 1.5], axis=1)
    assert not inner.any()
    assert made.vertices_m[:, 2].min() > -1.5
    roof = made.vertices_m[made.vertices_m[:, 2] > 5.5]
    np.testing.assert_allclose(np.ptp(roof[:, :2], axis=0), [10.0, 8.0], atol=0.8)


def test_walls_stay_walls_and_roofs_roofs() -> None:
    meshes = town([(0.0, 0.0, 0.0), (30.0, 5.0, 0.0)])
    settings = GeometrySettings(reconstruction=ReconstructionSettings(density_m2=10.0, face_ratio=10.0, **SMALL))
    walls, roofs, floor = apply_geometry(meshes, settings)
    assert [mesh.name for mesh in (walls, roofs, floor)] == ["walls", "roofs", "ground"]
    np.testing.assert_array_equal(floor.vertices_m, ground().vertices_m)
    assert (roofs.vertices_m[roofs.faces].mean(axis=1)[:, 2] > 4.5).all()
    assert (walls.vertices_m[walls.faces].mean(axis=1)[:, 2] < 6.0).all()
    assert find_buildings([walls, roofs, floor]).buildings == 2


def test_a_rebuilt_house_is_moved_too() -> None:
    meshes = town([(0.0, 0.0, 0.0)])
    knobs = {"reconstruction": ReconstructionSettings(density_m2=5.0, **SMALL)}
    stayed = apply_geometry(meshes, GeometrySettings(**knobs))[1]
    moved = apply_geometry(meshes, GeometrySettings(shift_m=(16.0, 0.0, 0.0), **knobs))[1]
    np.testing.assert_allclose(
        moved.vertices_m - stayed.vertices_m, np.tile([16.0, 0.0, 0.0], (len(moved.vertices_m), 1)), atol=0.02
    )


def test_the_score_rises_with_the_density() -> None:
    """P5's fig. 12."""
    meshes = town([(0.0, 0.0, 0.0)], size=(20.0, 15.0, 12.0))

    def score(density_m2: float) -> float:
        knobs = ReconstructionSettings(density_m2=density_m2, **SMALL)
        found = reconstruction_scores(meshes, GeometrySettings(reconstruction=knobs), threshold_m=0.3)
        return found[0].f1

    scores = [score(density_m2) for density_m2 in (0.03, 0.3, 3.0)]
    assert scores[0] + 5 < scores[1] < scores[2]
    assert scores[2] > 90
    assert reconstruction_scores(meshes, GeometrySettings()) == []


def test_too_many_points_are_refused_in_one_line() -> None:
    with pytest.raises(UsageRefused, match="density_m2 of") as refusal:
        rebuild(box((0, 0, 0), (1000, 1000, 100)), ReconstructionSettings(density_m2=10.0), seed=1)
    assert "\n" not in str(refusal.value)


def test_triangles_without_area_do_no_harm() -> None:
    """Of them alone, open3d's sampling would end the process."""
    settings = ReconstructionSettings(density_m2=2.0, **SMALL)
    nothing = Mesh("sliver", np.zeros((3, 3)), np.array([[0, 1, 2]]))
    assert len(rebuild(nothing, settings, seed=1).faces) == 0
    seam = Mesh("box", HOUSE.vertices_m, np.concatenate([HOUSE.faces, [[0, 0, 1]]]))
    assert signed_volume_m3(rebuild(seam, settings, seed=1).welded()) == pytest.approx(VOLUME_M3, rel=0.1)
    slivers = Mesh("walls", np.tile([50.0, 50.0, 3.0], (3, 1)), np.array([[0, 1, 2]]))
    knobs = GeometrySettings(reconstruction=settings)
    after = apply_geometry([*town([(0.0, 0.0, 0.0)]), slivers], knobs)
    assert len(after[3].faces) == 0


@pytest.mark.parametrize("size", [(0.3, 0.3, 0.3), (30.0, 0.05, 10.0), (0.05, 0.05, 50.0)])
def test_small_thin_and_narrow_things_come_out_finite(size: tuple[float, float, float]) -> None:
    made = rebuild(box((5e4, -5e4, 0.0), size), ReconstructionSettings(density_m2=0.5, octree_depth=5), seed=1)
    assert np.isfinite(made.vertices_m).all()
    assert made.faces.max(initial=0) < max(len(made.vertices_m), 1)
