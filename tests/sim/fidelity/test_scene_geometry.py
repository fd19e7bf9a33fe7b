"""A wall moved in a loaded scene changes what Sionna RT traces by what the image method says."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sim.fidelity.knobs import GeometrySettings, ReconstructionSettings
from sim.fidelity.scene_geometry import apply_to_scene, read_meshes, set_building_material, write_meshes
from sim.llvm import choose_libllvm
from sim.meshes import Mesh, joined
from sim.site import SPEED_OF_LIGHT_M_S

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

Real = npt.NDArray[np.float64]

TRANSMITTER_M, RECEIVER_M = np.array([-5.0, 1.0, 6.0]), np.array([8.0, -1.0, 3.0])
SOUTH_M, NORTH_M, GROUND_M = -8.6133347, 9.5715637, -0.030794144
"""Walls of the two houses opposite each other, and the ground, as in the scene's meshes."""


def canyon() -> tuple[Any, Any]:
    """`sionna.rt` and a street between two rows of houses."""
    choose_libllvm()
    import sionna.rt as rt

    scene = rt.load_scene(rt.scene.simple_street_canyon)
    scene.frequency = 3.5e9
    return rt, scene


def traced(rt: Any, scene: Any) -> tuple[Real, npt.NDArray[np.complex128]]:
    """Lengths and gains of the line of sight and the paths with one reflection, shortest first."""
    scene.tx_array = scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    scene.add(rt.Transmitter("tx", [float(x) for x in TRANSMITTER_M]))
    scene.add(rt.Receiver("rx", [float(x) for x in RECEIVER_M]))
    paths = rt.PathSolver(deterministic=True)(scene, max_depth=1, samples_per_src=100_000, refraction=False, seed=1)
    valid = np.array(paths.valid).ravel().astype(bool)
    gain, delay_s = paths.cir(normalize_delays=False, out_type="numpy")
    lengths_m = delay_s.ravel()[valid].astype(np.float64) * SPEED_OF_LIGHT_M_S
    order = np.argsort(lengths_m)
    for name in ("tx", "rx"):
        scene.remove(name)
    return lengths_m[order], gain.ravel()[valid][order]


def images_m(*, north_m: float, south_m: float) -> Real:
    """Lengths by the image method: line of sight, ground and both walls."""
    images = [TRANSMITTER_M]
    for axis, place_m in ((2, GROUND_M), (1, north_m), (1, south_m)):
        image = TRANSMITTER_M.copy()
        image[axis] = 2 * place_m - image[axis]
        images.append(image)
    return np.sort(np.linalg.norm(np.array(images) - RECEIVER_M, axis=1))


def test_a_moved_wall_moves_its_reflection_by_the_image_method() -> None:
    rt, scene = canyon()
    before_m, _ = traced(rt, scene)
    np.testing.assert_allclose(before_m, images_m(north_m=NORTH_M, south_m=SOUTH_M), atol=2e-3)
    materials = {name: thing.radio_material.name for name, thing in scene.objects.items()}
    apply_to_scene(rt, scene, GeometrySettings(shift_m=(0.0, 1.0, 0.0)))
    after_m, _ = traced(rt, scene)
    np.testing.assert_allclose(after_m, images_m(north_m=NORTH_M + 1, south_m=SOUTH_M + 1), atol=2e-3)
    assert np.abs(after_m - before_m).max() > 1.0
    assert {name: thing.radio_material.name for name, thing in scene.objects.items()} == materials


def test_nothing_is_touched_where_no_knob_is_turned_and_the_ground_never() -> None:
    rt, scene = canyon()
    shapes = {name: thing.mi_mesh for name, thing in scene.objects.items()}
    apply_to_scene(rt, scene, GeometrySettings())
    assert all(scene.objects[name].mi_mesh is shape for name, shape in shapes.items())
    floor = {mesh.name: mesh for mesh in read_meshes(scene)}["floor"].vertices_m
    apply_to_scene(rt, scene, GeometrySettings(shift_sigma_m=3.0))
    np.testing.assert_array_equal({mesh.name: mesh for mesh in read_meshes(scene)}["floor"].vertices_m, floor)


def test_buildings_go_their_own_ways_though_one_shape_holds_two() -> None:
    """Sionna RT made one shape of the two houses of marble, and one of the two of glass."""
    rt, scene = canyon()
    before = read_meshes(scene)
    assert sum(len(mesh.vertices_m) == 16 for mesh in before) == 2
    apply_to_scene(rt, scene, GeometrySettings(shift_length_m=4.0))
    after = {mesh.name: mesh for mesh in read_meshes(scene)}
    for mesh in before:
        moved = after[mesh.name].vertices_m - mesh.vertices_m
        ways = np.unique(np.round(moved, 3), axis=0)
        assert len(ways) == {4: 1, 8: 1, 16: 2}[len(moved)]
        np.testing.assert_allclose(np.linalg.norm(ways, axis=1), 0.0 if mesh.name == "floor" else 4.0, atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("open3d") is None, reason="open3d is not installed (extra `geometry`)")
def test_rebuilt_walls_reflect_at_about_their_place() -> None:
    rt, scene = canyon()
    before_m, _ = traced(rt, scene)
    settings = ReconstructionSettings(density_m2=1.0, octree_depth=7)
    apply_to_scene(rt, scene, GeometrySettings(reconstruction=settings))
    assert {thing.radio_material.name for thing in scene.objects.values()} >= {"marble", "wood", "concrete"}
    after_m, _ = traced(rt, scene)
    np.testing.assert_allclose(after_m[:2], before_m[:2], atol=1e-3)  # line of sight and ground
    assert len(after_m) == len(before_m)
    np.testing.assert_allclose(after_m, before_m, atol=0.5)
    assert np.abs(after_m - before_m).max() > 1e-4


def test_all_buildings_may_be_of_one_material() -> None:
    """Of metal, walls reflect all: what they send is as strong as free space over its length. The ground stays."""
    rt, scene = canyon()
    ground = scene.objects["floor"].radio_material.name
    before_m, before = traced(rt, scene)
    set_building_material(rt, scene, "itu_metal")
    assert scene.objects["floor"].radio_material.name == ground
    others = [thing.radio_material for key, thing in scene.objects.items() if key != "floor"]
    assert {material.itu_type for material in others} == {"metal"}
    after_m, after = traced(rt, scene)
    np.testing.assert_allclose(after_m, before_m, atol=1e-5)
    np.testing.assert_allclose(np.abs(after[:2]), np.abs(before[:2]), rtol=1e-5)
    free_space = SPEED_OF_LIGHT_M_S / 3.5e9 / (4 * np.pi * after_m[2:])
    np.testing.assert_allclose(np.abs(after[2:]), free_space, rtol=0.02)
    assert (np.abs(before[2:]) < 0.9 * free_space).all()


def test_ground_of_the_same_shape_as_buildings_keeps_its_material() -> None:
    """Sionna RT merges what is of one material: floor and a house of concrete are one shape, which is split."""
    rt, scene = canyon()
    floor, house = (scene.objects[name] for name in ("floor", "building_2"))
    meshes = {mesh.name: mesh for mesh in read_meshes(scene)}
    both = joined([meshes["floor"], meshes["building_2"]], "floor")
    empty = Mesh("building_2", np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    write_meshes(rt, scene, [meshes["floor"], meshes["building_2"]], [both, empty])
    assert "building_2" not in scene.objects
    set_building_material(rt, scene, "itu_metal")
    assert scene.objects["floor-ground"].radio_material.name == floor.radio_material.name
    assert scene.objects["floor-buildings"].radio_material.itu_type == "metal"
    after = {mesh.name: mesh for mesh in read_meshes(scene)}
    np.testing.assert_allclose(
        np.ptp(after["floor-buildings"].vertices_m, axis=0), np.ptp(meshes["building_2"].vertices_m, axis=0)
    )
    assert len(after["floor-ground"].faces) == 2
    assert house.scene is None
