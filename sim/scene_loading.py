"""Loads a site's scene into Sionna RT: one that comes with it, a Mitsuba XML file, a PLY mesh or GeoJSON footprints.

Footprints and PLY meshes are written as shapes of one material each, with a ground under them, into a temporary folder
from which Sionna RT reads them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from sim.fidelity.settings import FidelitySettings
from sim.materials import THICKNESS_M
from sim.meshes import Mesh, joined, read_ply, write_ply
from sim.site import Site
from sim.trace_settings import Material, TraceSettings

_FLAT_M = 0.01
"""What is no thicker is a sheet of ground, not a body."""

Surface = tuple[str, Mesh]
"""A material's name, and the triangles made of it."""


@dataclass(frozen=True)
class OwnScene:
    """A scene that we build. surfaces: all that waves meet. bodies: closed meshes by name. notes: what was read."""

    surfaces: list[Surface]
    bodies: list[Mesh]
    notes: dict[str, Any]


def load_scene(
    rt: Any, site: Site, folder: Path, *, world: bool, settings: TraceSettings | None = None, check: bool = True
) -> Any:
    """The site's scene in Sionna RT, ready to trace: buildings, materials, their overrides, carrier and scattering.

    rt: the `sionna.rt` module. folder: where the scene's relative path starts from. world: with the site's
    `world_materials` on top of its `materials`, and the knobs of its `[world]`. settings: instead of the site's own.
    check: refuse what stands in walls or looks away. Raises `UsageRefused` or `InputRefused` where the scene, or what
    stands in it, cannot serve.
    """
    from sim.fidelity.scene_geometry import apply_to_scene
    from sim.site_checks import check_site, closed_bodies

    knobs = FidelitySettings.of(settings or (site.world if world else site.twin))
    own = own_scene(site, folder)
    with TemporaryDirectory(prefix="twinbeam-scene-") as cache:
        file = _scene_file(rt, site, folder) if own is None else write_scene(own.surfaces, Path(cache))
        scene = _opened(rt, file, site)
    apply_to_scene(rt, scene, knobs.geometry)
    _apply_materials(rt, scene, site, world, knobs)
    if check:
        as_drawn = own is not None and not knobs.geometry.changes
        bodies = own.bodies if own is not None and as_drawn else closed_bodies(scene_meshes(scene))
        check_site(site.seen_with(knobs), bodies)
    return scene


def own_scene(site: Site, folder: Path) -> OwnScene | None:
    """What a GeoJSON or PLY scene holds; None for scenes that Sionna RT reads itself."""
    path = folder / site.scene
    if site.scene.endswith((".geojson", ".json")):
        return _of_footprints(path, site)
    if site.scene.endswith(".ply"):
        return _of_ply(path, site)
    return None


def _of_footprints(path: Path, site: Site) -> OwnScene:
    try:
        from sim.footprints import extruded
        from sim.geojson import read_footprints
    except ImportError as error:
        raise TwinbeamError(f"footprints need {error.name}", mend="pip install 'twinbeam[twin]'") from None
    found = read_footprints(path, site)
    buildings = extruded(found.buildings)
    bodies = [building.mesh for building in buildings]
    surfaces = [surface for building in buildings for surface in building.surfaces()]
    notes = {
        "buildings": len(found.buildings),
        "origin": list(found.origin),
        "repaired": found.repaired,
        "passed_over": found.passed_over,
        "unknown_materials": list(found.unknown_materials),
    }
    ground = ground_under(bodies, site, height_m=0.0)
    return OwnScene([*surfaces, (site.surface_materials().ground, ground)], bodies, notes)


def _of_ply(path: Path, site: Site) -> OwnScene:
    """One mesh, one material: that of walls. Flat parts are ground, and where there is none, it is laid under."""
    try:
        mesh = read_ply(path).welded()
    except ImportError as error:
        raise TwinbeamError(f"PLY meshes need {error.name}", mend="pip install 'twinbeam[twin]'") from None
    from sim.site_checks import refuse_open

    parts = mesh.parts()
    flat = [part for part in parts if np.ptp(part.vertices_m[:, 2]) <= _FLAT_M]
    bodies = [part for part in parts if np.ptp(part.vertices_m[:, 2]) > _FLAT_M]
    for index, body in enumerate(bodies):
        refuse_open(body, f"{path}: object {index + 1} of {len(bodies)}")
    rule = site.surface_materials()
    surfaces = [(rule.wall, joined(bodies, "mesh"))] if bodies else []
    if flat:
        surfaces.append((rule.ground, joined(flat, "ground")))
    else:
        lowest_m = float(mesh.vertices_m[:, 2].min())
        surfaces.append((rule.ground, ground_under(bodies, site, height_m=lowest_m)))
    return OwnScene(surfaces, bodies, {"bodies": len(bodies), "triangles": len(mesh.faces)})


def ground_under(meshes: Sequence[Mesh], site: Site, *, height_m: float) -> Mesh:
    """A level rectangle under meshes, arrays and users, `[geo] ground_margin_m` wider than they on every side."""
    places = [mesh.vertices_m[:, :2] for mesh in meshes]
    places += [np.array([mount.position_m[:2]]) for mount in (site.bs, site.ris) if mount is not None]
    corner = np.array(site.users.corner_m)
    places += [np.array([corner, corner + site.users.size_m]), site.users.named_places_m()[:, :2]]
    margin_m = site.geo.ground_margin_m
    low, high = np.min(np.concatenate(places), axis=0) - margin_m, np.max(np.concatenate(places), axis=0) + margin_m
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    return Mesh("ground", np.array([(x, y, height_m) for x, y in corners]), np.array([[0, 1, 2], [0, 2, 3]]))


def write_scene(surfaces: Sequence[Surface], folder: Path) -> Path:
    """Each surface as a PLY file, and the Mitsuba XML file that names them, which is returned."""
    root = ET.Element("scene", version="2.1.0")
    for name in sorted({material for material, _ in surfaces}):
        material = ET.SubElement(root, "bsdf", type="itu-radio-material", id=name)
        ET.SubElement(material, "string", name="type", value=name.removeprefix("itu_"))
        ET.SubElement(material, "float", name="thickness", value=str(THICKNESS_M))
    for index, (name, mesh) in enumerate(surfaces):
        file = folder / f"{index}.ply"
        write_ply(mesh, file)
        word = re.sub(r"[^A-Za-z0-9_-]+", "_", mesh.name).strip("_")
        shape = ET.SubElement(root, "shape", type="ply", id=f"{index}-{word}")
        ET.SubElement(shape, "string", name="filename", value=file.name)
        ET.SubElement(shape, "boolean", name="face_normals", value="true")
        ET.SubElement(shape, "ref", id=name, name="bsdf")
    target = folder / "scene.xml"
    ET.indent(root)
    ET.ElementTree(root).write(target, encoding="utf-8")
    return target


def scene_meshes(scene: Any) -> list[Mesh]:
    """The triangles of every shape of a loaded scene; Sionna RT makes one shape of those of one material."""
    meshes = []
    for name, thing in scene.objects.items():
        vertices_m = np.array(thing.mi_mesh.vertex_positions_buffer(), np.float64).reshape(-1, 3)
        faces = np.array(thing.mi_mesh.faces_buffer(), np.int64).reshape(-1, 3)
        meshes.append(Mesh(name, vertices_m, faces))
    return meshes


def _scene_file(rt: Any, site: Site, folder: Path) -> Path:
    """A scene bundled with Sionna RT by its name, or a Mitsuba XML file by its path."""
    if site.scene.endswith(".xml"):
        path = folder / site.scene
        if not path.is_file():
            raise UsageRefused("no such scene file", where=str(path), mend="a Mitsuba XML file")
        return path
    bundled = getattr(rt.scene, site.scene, None)
    if not isinstance(bundled, str):
        mend = "munich, etoile, … or a file: .geojson, .ply, .xml"
        raise UsageRefused(f"no bundled scene '{site.scene}'", where=site.name, mend=mend)
    return Path(bundled)


def _opened(rt: Any, file: Path, site: Site) -> Any:
    """The scene at the site's carrier."""
    try:
        scene = rt.load_scene(str(file))
    except Exception as error:  # XML, plug-in and mesh errors each have types of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputRefused(
            f"Sionna RT cannot load it: {reason[:200]}", where=site.scene, mend="a Mitsuba scene"
        ) from None
    try:
        scene.frequency = site.carrier_hz
    except ValueError as error:
        mend = "[surfaces], material_preset, or the scene's file"
        raise UsageRefused(f"{error} {site.carrier_hz:g} Hz", where=site.scene, mend=mend) from None
    return scene


def _apply_materials(rt: Any, scene: Any, site: Site, world: bool, knobs: FidelitySettings) -> None:
    """One material for all buildings, the site's overrides of materials, the knobs' on top of them, and rough walls."""
    drawn = dict(scene.radio_materials)
    if knobs.building_material is not None:  # first: to set the carrier for it takes overrides back
        _build_of(rt, scene, site, knobs.building_material, knobs.geometry.fixed)
    _override(drawn, {**site.materials, **(site.world_materials if world else {})}, site.name)
    used = {thing.radio_material.name: thing.radio_material for thing in scene.objects.values()}
    _override(used, knobs.materials, f"{site.name} [{'world' if world else 'twin'}.materials]")
    if knobs.scattering:
        for material in scene.radio_materials.values():
            material.scattering_coefficient = knobs.scattering


def _build_of(rt: Any, scene: Any, site: Site, material: str, fixed: Sequence[str]) -> None:
    from sim.fidelity.scene_geometry import set_building_material

    try:
        set_building_material(rt, scene, material, fixed)
    except ValueError as error:
        where = f"{site.name} building_material"
        raise UsageRefused(f"{error} {site.carrier_hz:g} Hz", where=where, mend="another material") from None


def _override(known: Mapping[str, Any], overrides: Mapping[str, Material], where: str) -> None:
    """Give materials other permittivities and conductivities; `UsageRefused` for those that are not known."""
    for name, material in overrides.items():
        if name not in known:
            mend = "the scene has " + ", ".join(sorted(known))
            raise UsageRefused(f"no material '{name}' in the scene", where=where, mend=mend)
        if material.relative_permittivity is not None:
            known[name].relative_permittivity = material.relative_permittivity
        if material.conductivity_s_m is not None:
            known[name].conductivity = material.conductivity_s_m
