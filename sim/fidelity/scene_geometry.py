"""Geometry and building materials of a scene that Sionna RT has loaded, made as unfaithful as the knobs say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.fidelity.buildings import GROUND, find_buildings
from sim.fidelity.geometry import apply_geometry
from sim.fidelity.knobs import GeometrySettings
from sim.materials import THICKNESS_M
from sim.meshes import Mesh


def apply_to_scene(rt: Any, scene: Any, settings: GeometrySettings, rng: np.random.Generator | None = None) -> None:
    """Move and rebuild a loaded scene's buildings, materials kept. rt: the `sionna.rt` module.

    Objects of which no triangle is left are taken out. Raises what `apply_geometry` raises.
    """
    before = read_meshes(scene)
    write_meshes(rt, scene, before, apply_geometry(before, settings, rng))


def read_meshes(scene: Any) -> list[Mesh]:
    """The triangles of every object of a loaded scene, by name."""
    return [
        Mesh(
            name,
            np.array(thing.mi_mesh.vertex_positions_buffer(), np.float64).reshape(-1, 3),
            np.array(thing.mi_mesh.faces_buffer(), np.int64).reshape(-1, 3),
        )
        for name, thing in scene.objects.items()
    ]


def write_meshes(rt: Any, scene: Any, before: Sequence[Mesh], after: Sequence[Mesh]) -> None:
    """Give the scene's objects other triangles. before, after: of the same objects; only what differs is replaced."""
    removed, added = [], []
    for old, new in zip(before, after, strict=True):
        if new.faces is old.faces and new.vertices_m is old.vertices_m:
            continue
        thing = scene.objects[old.name]
        removed.append(thing)
        if len(new.faces):
            added.append(rt.SceneObject(mi_mesh=_mitsuba_mesh(new, thing), radio_material=thing.radio_material))
    if removed:
        scene.edit(add=added, remove=removed)  # once: each edit builds the whole scene anew


def set_building_material(rt: Any, scene: Any, name: str, fixed: Sequence[str] = ()) -> None:
    """Make everything but the ground of one ITU material, `itu_` and its name.

    Objects that hold ground beside buildings, as Sionna RT merges all of one material, are split: their ground stays.
    Raises what `find_buildings` raises.
    """
    before = read_meshes(scene)
    labels = find_buildings(before, fixed)
    frequency_hz = scene.frequency
    known = scene.radio_materials
    word = "twinbeam-" + name
    material = known.get(word) or rt.ITURadioMaterial(word, name.removeprefix("itu_"), thickness=THICKNESS_M)
    removed, added = [], []
    for mesh, label in zip(before, labels.faces, strict=True):
        built = label != GROUND
        thing = scene.objects[mesh.name]
        if built.all():
            thing.radio_material = material
        elif built.any():
            removed.append(thing)
            for chosen, kind, suffix in ((~built, thing.radio_material, "-ground"), (built, material, "-buildings")):
                part = Mesh(mesh.name + suffix, mesh.vertices_m, mesh.faces[chosen]).used()
                added.append(rt.SceneObject(mi_mesh=_mitsuba_mesh(part, thing), radio_material=kind))
    if removed:
        scene.edit(add=added, remove=removed)
    scene.frequency = frequency_hz


def _mitsuba_mesh(mesh: Mesh, like: Any) -> Any:
    """The triangles as a Mitsuba mesh with the name of `mesh`, wound as the object `like` is read.

    Vertex normals are left out: Sionna RT reflects by those of triangles.
    """
    import mitsuba as mi

    properties = mi.Properties()
    properties["face_normals"] = True
    properties["flip_normals"] = like.mi_mesh.has_flipped_normals()
    properties.set_id(mesh.name)
    made = mi.Mesh(mesh.name, vertex_count=len(mesh.vertices_m), face_count=len(mesh.faces), props=properties)
    parameters = mi.traverse(made)
    parameters["vertex_positions"] = mi.Float(mesh.vertices_m.astype(np.float32).ravel())
    parameters["faces"] = mi.UInt32(mesh.faces.astype(np.uint32).ravel())
    parameters.update()
    return made
