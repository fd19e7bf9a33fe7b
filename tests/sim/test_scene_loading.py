"""What a site's scene says is what Sionna RT traces: walls where they stand, of what they are made, and no more."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from sim.llvm import ENVIRONMENT, choose_libllvm
from sim.scene_loading import load_scene, own_scene, scene_meshes
from sim.site import SPEED_OF_LIGHT_M_S, Site, load_site, site_path
from sim.site_checks import closed_bodies, containing
from tests.sim.blocks import block, box, box_ring, feature, geojson, ply
from tests.sim.canyon import canyon

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.skipif(importlib.util.find_spec("shapely") is None, reason="shapely is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

WALL = feature(box_ring(-20, 10, 20, 14), height=20)
"""A long house whose southern wall is the plane y = 10."""

BS_M, USER_M = np.array([-8.0, 0.0, 5.0]), np.array([7.0, 3.0, 5.0])
PERMITTIVITY = {"itu_brick": (3.91, 0.0238, 0.16), "itu_concrete": (5.24, 0.0462, 0.7822)}
"""Of ITU-R P.2040-4, table 3: a (b is 0), c and d of permittivity a and conductivity c f^d, f in GHz."""


@pytest.fixture(scope="module")
def rt() -> Any:
    choose_libllvm()
    import sionna.rt

    return sionna.rt


def loaded(rt: Any, folder: Path, *features: dict[str, Any], **changes: Any) -> Any:
    geojson(folder, *features)
    return load_scene(rt, block(**changes), folder, world=False)


def struck(scene: Any, origin: Sequence[float], direction: Sequence[float]) -> tuple[str, float] | None:
    """Material and distance of what a ray meets first."""
    import mitsuba as mi

    hit = scene.mi_scene.ray_intersect(mi.Ray3f(mi.Point3f(*origin), mi.Vector3f(*direction)))
    distance_m = float(np.array(hit.t)[0])
    return (hit.shape[0].bsdf().id(), distance_m) if np.isfinite(distance_m) else None


def slab(material: str, cosine: float, carrier_hz: float) -> tuple[complex, complex]:
    """TE and TM reflection coefficients of a wall 0.1 m thick: ITU-R P.2040-4, eq. 37, 43 and 44."""
    a, c, d = PERMITTIVITY[material]
    conductivity = c * (carrier_hz / 1e9) ** d
    eta = a - 1j * conductivity / (8.8541878128e-12 * 2 * np.pi * carrier_hz)
    root = np.sqrt(eta - (1 - cosine**2))
    phase = np.exp(-2j * (2 * np.pi * 0.1 * carrier_hz / SPEED_OF_LIGHT_M_S) * root)
    single = (cosine - root) / (cosine + root), (eta * cosine - root) / (eta * cosine + root)
    te, tm = (r * (1 - phase) / (1 - r**2 * phase) for r in single)
    return complex(te), complex(tm)


def solved(rt: Any, scene: Any, depth: int = 1) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.complex128]]:
    """Lengths and gains of the paths between isotropic antennas, vertically polarised, at `BS_M` and `USER_M`."""
    scene.tx_array = scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    scene.add(rt.Transmitter("tx", BS_M.tolist()))
    scene.add(rt.Receiver("rx", USER_M.tolist()))
    paths = rt.PathSolver(deterministic=True)(scene, max_depth=depth, samples_per_src=20_000, refraction=False)
    valid = np.array(paths.valid)[0, 0]
    gain = np.array(paths.a[0], np.float64) + 1j * np.array(paths.a[1], np.float64)
    length_m = np.array(paths.tau, np.float64)[0, 0] * SPEED_OF_LIGHT_M_S
    return length_m[valid], gain[0, 0, 0, 0][valid]


def test_paths_past_a_box_are_those_of_the_image_method(rt: Any, tmp_path: Path) -> None:
    """Line of sight, wall (TE: the antennas stand upright) and ground (TM), each in length and complex gain."""
    site = block()
    length_m, gain = solved(rt, loaded(rt, tmp_path, WALL))
    order = np.argsort(length_m)
    in_wall, in_ground = USER_M * [1, -1, 1] + [0, 20, 0], USER_M * [1, 1, -1]
    direct_m, ground_m, wall_m = (np.linalg.norm(end - BS_M) for end in (USER_M, in_ground, in_wall))
    np.testing.assert_allclose(length_m[order], [direct_m, ground_m, wall_m], rtol=1e-5)
    te, _ = slab("itu_brick", (in_wall - BS_M)[1] / wall_m, site.carrier_hz)
    _, tm = slab("itu_concrete", 10.0 / ground_m, site.carrier_hz)
    # Isotropic antennas have one amplitude all around; the field of a vertical one points to zenith's end, and the
    # plane of incidence on the ground holds it, so no cosine enters.
    spread = SPEED_OF_LIGHT_M_S / site.carrier_hz / (4 * np.pi)
    np.testing.assert_allclose(gain[order[0]], spread / direct_m, rtol=1e-4)
    np.testing.assert_allclose(gain[order[2]], spread / wall_m * te, rtol=2e-3)
    np.testing.assert_allclose(gain[order[1]], spread / ground_m * tm, rtol=2e-3)


def test_a_box_between_them_hides_the_user(rt: Any, tmp_path: Path) -> None:
    scene = loaded(rt, tmp_path, WALL, feature(box_ring(-1, -4, 1, 4), height=30))
    length_m, _ = solved(rt, scene)
    assert np.linalg.norm(USER_M - BS_M) < length_m.min(), "no line of sight"
    np.testing.assert_allclose(length_m, np.linalg.norm(USER_M * [1, -1, 1] + [0, 20, 0] - BS_M), rtol=1e-5)


def test_every_face_is_of_its_material(rt: Any, tmp_path: Path) -> None:
    shop = feature(box_ring(30, 0, 36, 6), height=4, building__material="glass", roof__material="concrete")
    scene = loaded(rt, tmp_path, WALL, shop, material_preset="MC1", surfaces={"ground": "itu_asphalt_concrete"})
    down, south, north, east = (0, 0, -1), (0, -1, 0), (0, 1, 0), (1, 0, 0)
    assert struck(scene, (0, 0, 5), north) == ("itu_marble", pytest.approx(10))
    assert struck(scene, (0, 30, 5), south) == ("itu_marble", pytest.approx(16))
    assert struck(scene, (0, 12, 50), down) == ("itu_metal", pytest.approx(30))
    assert struck(scene, (0, -5, 50), down) == ("itu_asphalt_concrete", pytest.approx(50))
    assert struck(scene, (25, 3, 2), east) == ("itu_glass", pytest.approx(5))
    assert struck(scene, (33, 3, 9), down) == ("itu_concrete", pytest.approx(5))
    assert struck(scene, (0, 0, 5), (0, 0, 1)) is None


def test_the_ground_reaches_beyond_everything_by_its_margin(rt: Any, tmp_path: Path) -> None:
    geo = {"coordinates": "metres", "ground_margin_m": 12.0}
    scene = loaded(rt, tmp_path, WALL, geo=geo)
    box_m = scene.mi_scene.bbox()
    np.testing.assert_allclose(np.array(box_m.min).ravel()[:2], [-32, -15], atol=1e-4)
    np.testing.assert_allclose(np.array(box_m.max).ravel()[:2], [32, 26], atol=1e-4)


@pytest.mark.parametrize(("roof", "bent"), [("itu_concrete", [(0.0, 14.0, 8.0)]), ("itu_metal", [])])
def test_a_roofs_edge_bends_waves_where_roof_and_walls_are_of_one_material(
    rt: Any, tmp_path: Path, roof: str, bent: list[tuple[float, float, float]]
) -> None:
    """Sionna RT sees an edge only between triangles of one shape: so such houses are one shape."""
    surfaces = {"wall": "itu_concrete", "roof": roof, "ground": "itu_brick"}
    scene = loaded(rt, tmp_path, feature(box_ring(-200, 10, 200, 14), height=8), surfaces=surfaces)
    scene.tx_array = scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    scene.add(rt.Transmitter("tx", [0.0, 0.0, 12.0]))
    scene.add(rt.Receiver("rx", [0.0, 20.0, 2.0]))
    paths = rt.PathSolver(deterministic=True)(
        scene, max_depth=1, samples_per_src=100_000, refraction=False, diffraction=True
    )
    vertices = np.array(paths.vertices).reshape(-1, 3)
    np.testing.assert_allclose(vertices, np.reshape(bent, (-1, 3)), atol=1e-3)


def test_overrides_and_scattering_apply(rt: Any, tmp_path: Path) -> None:
    geojson(tmp_path, WALL)
    site = block(
        materials={"itu_brick": {"relative_permittivity": 4.5, "conductivity_s_m": 0.02}},
        world_materials={"itu_brick": {"relative_permittivity": 6.0}},
        world={"scattering": 0.25},
    )
    for world, permittivity, conductivity_s_m, scattering in (
        (False, 4.5, 0.02, 0.0),
        (True, 6.0, 0.0238 * 3.5**0.16, 0.25),
    ):
        materials = load_scene(rt, site, tmp_path, world=world).radio_materials
        assert float(materials["itu_brick"].relative_permittivity[0]) == pytest.approx(permittivity)
        assert float(materials["itu_brick"].conductivity[0]) == pytest.approx(conductivity_s_m, rel=1e-4)
        assert float(materials["itu_concrete"].scattering_coefficient[0]) == pytest.approx(scattering)
    rough = site.twin.model_copy(update={"scattering": 0.5})
    other = load_scene(rt, site, tmp_path, world=False, settings=rough)
    assert float(other.radio_materials["itu_wood"].scattering_coefficient[0]) == 0.5


def test_nothing_is_left_beside_the_site(rt: Any, tmp_path: Path) -> None:
    loaded(rt, tmp_path, WALL)
    assert [path.name for path in tmp_path.iterdir()] == ["block.geojson"]


def test_a_ply_mesh_is_of_the_walls_material_over_a_ground(rt: Any, tmp_path: Path) -> None:
    ply(tmp_path / "house.ply", box((-20, 10, 2), (20, 14, 20)))
    scene = load_scene(rt, block(scene="house.ply"), tmp_path, world=False)
    assert struck(scene, (0, 0, 5), (0, 1, 0)) == ("itu_brick", pytest.approx(10))
    assert struck(scene, (0, 12, 50), (0, 0, -1)) == ("itu_brick", pytest.approx(30)), "one mesh, one material"
    assert struck(scene, (0, 0, 5), (0, 0, -1)) == ("itu_concrete", pytest.approx(3)), "under the lowest point"


def test_flat_parts_of_a_ply_mesh_are_its_ground(rt: Any, tmp_path: Path) -> None:
    square = (np.array([[-90.0, -90, 0], [90, -90, 0], [90, 90, 0], [-90, 90, 0]]), [[0, 1, 2], [0, 2, 3]])
    ply(tmp_path / "house.ply", box((-20, 10, 1), (20, 14, 20)), square)
    scene = load_scene(rt, block(scene="house.ply"), tmp_path, world=False)
    assert struck(scene, (0, 0, 5), (0, 0, -1)) == ("itu_concrete", pytest.approx(5))
    assert struck(scene, (100, 0, 5), (0, 0, -1)) is None


def test_an_open_ply_mesh_is_refused(rt: Any, tmp_path: Path) -> None:
    vertices, faces = box((0, 50, 0), (4, 54, 4))
    ply(tmp_path / "house.ply", box((-20, 10, 0), (20, 14, 20)), (vertices, faces[:-2]))
    with pytest.raises(InputRefused, match=r"house.ply: object 2 of 2: .* not watertight: 4 open edges"):
        load_scene(rt, block(scene="house.ply"), tmp_path, world=False)


@pytest.mark.parametrize(
    "text", ["", "ply\n", "no mesh", "ply\nformat ascii 1.0\nelement vertex 3\nend_header\n1 2 3\n", "\0" * 500]
)
def test_files_that_are_no_ply_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "house.ply").write_text(text)
    with pytest.raises(InputRefused, match="is not a PLY mesh") as refusal:
        own_scene(block(scene="house.ply"), tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_ply_mesh_with_nan_is_refused(tmp_path: Path) -> None:
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    vertices[3, 1] = np.nan
    ply(tmp_path / "house.ply", (vertices, faces))
    with pytest.raises(InputRefused, match="finite triangles"):
        own_scene(block(scene="house.ply"), tmp_path)


MITSUBA = """<scene version="2.1.0">
<bsdf type="itu-radio-material" id="brick"><string name="type" value="brick"/></bsdf>
<shape type="ply" id="house"><string name="filename" value="house.ply"/>{material}</shape></scene>"""
BRICK = '<ref id="brick" name="bsdf"/>'


def test_an_own_mitsuba_scene_may_be_open(rt: Any, tmp_path: Path) -> None:
    vertices, faces = box((-20, 10, 0), (20, 14, 20))
    ply(tmp_path / "house.ply", (vertices, faces[2:]))
    (tmp_path / "own.xml").write_text(MITSUBA.format(material=BRICK))
    scene = load_scene(rt, block(scene="own.xml"), tmp_path, world=False)
    assert struck(scene, (0, 0, 5), (0, 1, 0)) == ("brick", pytest.approx(10))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot load it"),
        ("<scene>", "cannot load it"),
        (MITSUBA.format(material='<ref id="none" name="bsdf"/>'), "cannot load it"),
        (MITSUBA.format(material=""), "cannot load it"),
        (MITSUBA.format(material=BRICK).replace("house.ply", "none.ply"), "cannot load it"),
    ],
)
def test_a_mitsuba_scene_that_does_not_load_is_refused(rt: Any, tmp_path: Path, text: str, told: str) -> None:
    ply(tmp_path / "house.ply", box((-20, 10, 0), (20, 14, 20)))
    (tmp_path / "own.xml").write_text(text)
    with pytest.raises(InputRefused, match=told) as refusal:
        load_scene(rt, block(scene="own.xml"), tmp_path, world=False)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"scene": "none.xml"}, UsageRefused, "no such scene file"),
        ({"scene": "none.ply"}, UsageRefused, "no such scene file"),
        ({"scene": "none.geojson"}, UsageRefused, "no such scene file"),
        ({"scene": "mnuich"}, UsageRefused, "no bundled scene 'mnuich'"),
        ({"scene": "load_scene"}, UsageRefused, "no bundled scene"),
        ({"materials": {"itu_granite": {}}}, UsageRefused, "the scene has itu_brick, itu_concrete, itu_wood"),
        ({"carrier_hz": 60e9}, UsageRefused, "ITU material 'brick' are not defined for this frequency 6e\\+10 Hz"),
        (
            {"bs": {"position_m": [0.0, 12.0, 5.0]}},
            UsageRefused,
            r"base station at \(0, 12, 5\) is inside of building 1",
        ),
        ({"users": {"corner_m": [-5.0, 11.0], "size_m": [9.0, 2.0]}}, UsageRefused, "are inside of buildings"),
    ],
)
def test_bad_sites_are_refused_in_a_line(
    rt: Any, tmp_path: Path, changes: dict[str, Any], error: type[TwinbeamError], told: str
) -> None:
    with pytest.raises(error, match=told) as refusal:
        loaded(rt, tmp_path, WALL, **changes)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_unknown_surfaces_are_refused_with_the_known_ones() -> None:
    for surfaces in ({"wall": "itu_granite"}, {"tags": {"cob": "mud"}}):
        with pytest.raises(ValueError, match=r"no material '.*'; there are itu_asphalt_concrete, itu_brick"):
            block(surfaces=surfaces)


def test_indoors_of_a_bundled_scene_is_what_lies_under_its_roofs(rt: Any) -> None:
    """The canyon's houses are boxes: whether something is above a point near the ground tells the same."""
    import mitsuba as mi

    scene = load_scene(rt, canyon(), Path(), world=False)
    bodies = closed_bodies(scene_meshes(scene))
    assert len(bodies) == 6
    spots = np.random.default_rng(1).uniform((-80, -50, 1), (80, 50, 2), (3000, 3))
    up = mi.Ray3f(mi.Point3f(spots.T.astype(np.float32)), mi.Vector3f(0, 0, 1))
    covered = np.isfinite(np.array(scene.mi_scene.ray_intersect(up).t))
    assert 500 < np.count_nonzero(covered) < 2500
    assert np.array_equal(containing(bodies, spots) >= 0, covered)


def test_a_base_station_in_a_house_of_a_bundled_scene_is_refused(rt: Any) -> None:
    with pytest.raises(UsageRefused, match=r"base station at .* is inside of a building"):
        load_scene(rt, canyon(bs={"position_m": [0.0, -20.0, 10.0]}, ris=None), Path(), world=False)


def test_the_quad_stands_as_drawn(rt: Any) -> None:
    path = site_path("quad")
    site: Site = load_site(path)
    own = own_scene(site, path.parent)
    assert own is not None
    assert own.notes == {
        "buildings": 8,
        "origin": [-30.0, 40.0],
        "repaired": 0,
        "passed_over": 0,
        "unknown_materials": [],
    }
    scene = load_scene(rt, site, path.parent, world=False)
    assert struck(scene, (-11, 0, 50), (0, 0, -1)) == ("itu_concrete", pytest.approx(50)), "the courtyard"
    assert struck(scene, (10, 0, 50), (0, 0, -1)) == ("itu_metal", pytest.approx(35)), "the block's roof"
    assert struck(scene, (2, -47, 1), (0, 0, 1)) == ("itu_glass", pytest.approx(3.5)), "the bridge"
    outdoors = containing(own.bodies, site.users.grid_m()) < 0
    assert 140 <= np.count_nonzero(outdoors) <= 170
    assert (site.bs.elements, site.ris.elements if site.ris else 0) == (8, 64)


def test_a_libllvm_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "/nowhere/libLLVM.so")
    with pytest.raises(TwinbeamError, match="names no file") as refusal:
        choose_libllvm()
    assert refusal.value.exit_code == 1
