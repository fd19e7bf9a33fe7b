"""A building is what hangs together; moved, it keeps its shape, and the ground stays where it is."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import UsageRefused
from sim.fidelity.buildings import GROUND, find_buildings, shifted, shifts_m
from sim.fidelity.geometry import apply_geometry
from sim.fidelity.knobs import GeometrySettings
from sim.meshes import Mesh, joined
from tests.sim.fidelity.houses import box, ground, town

PLACES = [(0.0, 0.0, 0.0), (30.0, 0.0, 0.0), (0.0, 30.0, 0.0)]


def test_walls_and_roof_of_two_materials_are_one_building() -> None:
    labels = find_buildings(town(PLACES))
    walls, roofs, floor = labels.faces
    assert labels.buildings == 3
    np.testing.assert_array_equal(walls, np.repeat([0, 1, 2], 8))
    np.testing.assert_array_equal(roofs, np.repeat([0, 1, 2], 2))
    assert set(floor) == {GROUND}


def test_houses_that_share_a_wall_are_one_building() -> None:
    terrace = town([(0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (20.5, 0.0, 0.0)])
    assert find_buildings(terrace).buildings == 2


def test_corners_a_hair_apart_hang_together() -> None:
    meshes = town(PLACES)
    roofs = Mesh("roofs", meshes[1].vertices_m + 1e-5, meshes[1].faces)
    assert find_buildings([meshes[0], roofs, meshes[2]]).buildings == 3


def test_a_hill_is_ground_and_a_flat_roof_is_not() -> None:
    flat = ground()
    hill = Mesh("hill", flat.vertices_m + np.outer([0, 4, 9, 5], [0, 0, 1]), flat.faces)
    roof = Mesh("roof", ground(2.0).vertices_m + np.array([50.0, 50.0, 12.0]), flat.faces)
    labels = find_buildings([hill, box((0, 0, 5), (4, 4, 4)), roof])
    assert [set(faces) for faces in labels.faces] == [{GROUND}, {0}, {1}]


def test_one_building_without_ground_is_a_building_however_wide() -> None:
    assert find_buildings([box((0, 0, 0), (50, 50, 10))]).buildings == 1


def test_a_building_as_wide_as_its_ground_is_no_ground() -> None:
    labels = find_buildings([box((-5, -5, 0.0), (10, 10, 3)), ground(6.0)])
    assert labels.buildings == 1
    assert set(labels.faces[0]) == {0}


def test_fixed_objects_are_no_buildings_and_have_to_exist() -> None:
    meshes = [*town(PLACES), box((60, 60, 0), (5, 5, 5))]
    labels = find_buildings(meshes, fixed=["box"])
    assert labels.buildings == 3
    assert set(labels.faces[3]) == {GROUND}
    with pytest.raises(UsageRefused, match="no object 'bus'"):
        find_buildings(meshes, fixed=["bus"])


def test_a_scene_without_buildings_is_refused() -> None:
    with pytest.raises(UsageRefused, match="no building") as refusal:
        find_buildings([ground()])
    assert "\n" not in str(refusal.value)


def test_a_common_shift_moves_every_building_and_nothing_else() -> None:
    meshes = town(PLACES)
    moved = apply_geometry(meshes, GeometrySettings(shift_m=(1.0, -2.0, 0.5)))
    for before, after in zip(meshes, moved, strict=True):
        expected = before.vertices_m + (0.0 if before.name == "ground" else np.array([1.0, -2.0, 0.5]))
        np.testing.assert_allclose(after.vertices_m, expected, atol=1e-12)
        np.testing.assert_array_equal(after.faces, before.faces)


def test_each_building_goes_its_own_way_in_one_piece() -> None:
    """P2's 4 m: every corner of a building is moved by the same horizontal vector of that length."""
    meshes = town(PLACES)
    labels = find_buildings(meshes)
    moved = apply_geometry(meshes, GeometrySettings(shift_length_m=4.0, seed=3))
    ways = []
    for building in range(3):
        steps = [
            (after.vertices_m - before.vertices_m)[before.faces[label == building]].reshape(-1, 3)
            for before, after, label in zip(meshes, moved, labels.faces, strict=True)
        ]
        all_steps = np.concatenate(steps)
        np.testing.assert_allclose(all_steps, np.tile(all_steps[0], (len(all_steps), 1)), atol=1e-12)
        ways.append(all_steps[0])
    np.testing.assert_allclose(np.linalg.norm(ways, axis=1), 4.0)
    np.testing.assert_allclose(np.array(ways)[:, 2], 0.0, atol=1e-12)
    assert np.linalg.norm(ways[0] - ways[1]) > 0.1


def test_random_shifts_have_the_spread_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    settings = GeometrySettings(shift_sigma_m=2.0, shift_m=(5.0, 0.0, 1.0))
    moved = shifts_m(settings, 20_000, rng)
    np.testing.assert_allclose(moved.mean(axis=0), [5.0, 0.0, 1.0], atol=0.06)
    np.testing.assert_allclose(moved.std(axis=0), [2.0, 2.0, 0.0], atol=0.04)
    turned = shifts_m(GeometrySettings(shift_length_m=4.0), 20_000, rng)
    np.testing.assert_allclose(turned.mean(axis=0), 0.0, atol=0.08)


def test_seeds_decide() -> None:
    meshes = town(PLACES)
    first, again, other = (
        apply_geometry(meshes, GeometrySettings(shift_sigma_m=1.0, seed=seed))[0].vertices_m for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_with_every_knob_off_the_meshes_are_the_same_objects() -> None:
    meshes = town(PLACES)
    assert all(
        after is before for after, before in zip(apply_geometry(meshes, GeometrySettings()), meshes, strict=True)
    )


def test_corners_that_no_triangle_has_stay() -> None:
    loose = Mesh(
        "walls",
        np.concatenate([box((0, 0, 0), (1, 1, 1)).vertices_m, [[9.0, 9.0, 9.0]]]),
        box((0, 0, 0), (1, 1, 1)).faces,
    )
    meshes = [loose, ground()]
    after = shifted(meshes, find_buildings(meshes), np.array([[1.0, 0.0, 0.0]]))[0]
    np.testing.assert_array_equal(after.vertices_m[-1], [9.0, 9.0, 9.0])
    assert after.vertices_m[:-1, 0].min() == 1.0


def test_a_mesh_of_all_houses_is_told_apart() -> None:
    one = joined(town(PLACES)[:2], "everything")
    labels = find_buildings([one, ground()])
    assert labels.buildings == 3
    assert sorted(np.bincount(labels.faces[0])) == [10, 10, 10]
