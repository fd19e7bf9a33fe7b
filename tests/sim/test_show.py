"""A site's picture shows every position with its power, arrays that look where they do, and the controller's zones."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `twin`)")
pytest.importorskip("trimesh", reason="trimesh is not installed (extra `twin`)")
pytest.importorskip("shapely", reason="shapely is not installed (extra `twin`)")

from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Wedge

from controller.zones import GridZones
from ingest.errors import TwinbeamError, UsageRefused
from sim import show
from sim.bundle import save_bundle
from sim.fidelity.knobs import Tree
from sim.llvm import ENVIRONMENT
from sim.meshes import Mesh
from sim.paths import strongest
from sim.plan import draw_plan, draw_trees
from sim.show import coverage_of, show_site
from sim.site import SPEED_OF_LIGHT_M_S, Site
from tests.sim.blocks import BLOCK, block, box, box_ring, feature, geojson
from tests.sim.hand_made import free_space_bundle, line_of_sight
from tests.sim.test_build import written
from twinbeam import app

RIS: dict[str, Any] = {"position_m": [12.0, 8.0, 5.0], "yaw_deg": -150.0, "rows": 2, "columns": 2}


def mesh(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    vertices_m, faces = box(low, high)
    return Mesh("house", vertices_m, np.array(faces, np.int64))


def drawn(site: Site, meshes: list[Mesh], users_m: Any, values_db: Any, zone_m: float = 20.0) -> Any:
    axes = Figure().add_subplot()
    draw_plan(axes, site, meshes, users_m, values_db, zone_m, "a plan")
    return axes


def of_kind(axes: Any, kind: type) -> list[Any]:
    return [one for one in axes.collections + axes.patches if isinstance(one, kind)]


def test_positions_are_coloured_by_their_power_and_dark_ones_marked(rng: np.random.Generator) -> None:
    site = block(ris=RIS)
    users_m = site.users.grid_m()
    values_db = rng.uniform(-110, -60, len(users_m))
    values_db[2] = np.nan
    dark, lit = of_kind(drawn(site, [], users_m, values_db), PathCollection)
    assert dark.get_offsets().tolist() == [users_m[2, :2].tolist()]
    np.testing.assert_array_equal(lit.get_offsets(), np.delete(users_m[:, :2], 2, axis=0))
    np.testing.assert_array_equal(lit.get_array(), np.delete(values_db, 2))
    assert lit.get_clim()[1] == np.nanmax(values_db)


def test_all_that_stands_somewhere_is_in_view() -> None:
    site = block(ris=RIS)
    axes = drawn(site, [], site.users.grid_m(), None)
    places = np.array([site.bs.position_m[:2], RIS["position_m"][:2], *site.users.grid_m()[:, :2]])
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    assert (west < places[:, 0]).all()
    assert (places[:, 0] < east).all()
    assert (south < places[:, 1]).all()
    assert (places[:, 1] < north).all()
    assert axes.get_aspect() == 1


@pytest.mark.parametrize("cell_m", [3.0, 7.5, 20.0])
def test_zones_are_those_of_the_controller(cell_m: float) -> None:
    site = block(users={"corner_m": [-9.0, -5.0], "size_m": [30.0, 12.0], "spacing_m": 1.5})
    users_m = site.users.grid_m()
    (cells,) = of_kind(drawn(site, [], users_m, None, cell_m), PolyCollection)
    zones = GridZones(cell_m)
    corners = [path.vertices[:4] for path in cells.get_paths()]
    assert {zones.zone_of(tuple(place)) for place in users_m} == {
        zones.zone_of((float(x), float(y), 0.0)) for x, y in (corner.mean(axis=0) for corner in corners)
    }
    assert all(np.ptp(corner, axis=0) == pytest.approx(cell_m) for corner in corners)
    assert not of_kind(drawn(site, [], users_m, None, 0.0), PolyCollection)


def test_roofs_and_walls_are_where_the_buildings_are() -> None:
    site = block()
    ground = Mesh("ground", np.array([[-99.0, -99, 0], [99, -99, 0], [0, 99, 0]]), np.array([[0, 1, 2]]))
    houses = [ground, mesh((-4, 1, 0), (-1, 3, 9)), mesh((500, 500, 0), (510, 510, 4))]
    axes = drawn(site, houses, site.users.grid_m(), None, 0.0)
    (roofs,), (walls,) = of_kind(axes, PolyCollection), of_kind(axes, LineCollection)
    outline = np.concatenate([path.vertices for path in roofs.get_paths()])
    assert outline.min(axis=0).tolist() == [-4, 1]
    assert outline.max(axis=0).tolist() == [-1, 3], "neither the ground nor what is far away"
    assert set(roofs.get_array()) == {9.0}
    segments = {tuple(sorted(map(tuple, np.round(segment, 6)))) for segment in walls.get_segments()}
    corners = [(-4.0, 1.0), (-1.0, 1.0), (-1.0, 3.0), (-4.0, 3.0)]
    assert segments == {tuple(sorted((corners[i], corners[(i + 1) % 4]))) for i in range(4)}


def test_trees_stand_where_they_do() -> None:
    box, crown = (
        Tree.model_validate({"middle_m": [3.0, 4.0, 5.0], "size_m": [6.0, 2.0, 9.0], "shape": shape, "yaw_deg": 90.0})
        for shape in ("box", "ellipsoid")
    )
    axes = Figure().add_subplot()
    draw_trees(axes, (box, crown))
    for patch in axes.patches:
        corners = patch.get_patch_transform().transform_path(patch.get_path()).get_extents()
        np.testing.assert_allclose([corners.min, corners.max], [[2.0, 1.0], [4.0, 7.0]], atol=1e-6)
    assert [patch.get_label() for patch in axes.patches].count("trees") == 1


def test_arrays_look_where_they_do() -> None:
    site = block(ris=RIS, bs=BLOCK["bs"] | {"yaw_deg": 30.0, "field_of_view_deg": 100.0})
    axes = drawn(site, [], site.users.grid_m(), None, 0.0)
    (wedge,) = of_kind(axes, Wedge)
    assert (wedge.theta1, wedge.theta2) == (-20.0, 80.0)
    assert wedge.center == (-8.0, 0.0)
    arrows = {tuple(text.xyann): np.subtract(text.xy, text.xyann) for text in axes.texts if text.arrow_patch}
    for mount in (site.bs, site.ris):
        assert mount is not None
        arrow = arrows[mount.position_m[:2]]
        np.testing.assert_allclose(arrow / np.linalg.norm(arrow), mount.rotation()[:2, 0], atol=1e-9)
    panel = next(line for line in axes.lines if "RIS" in line.get_label())
    along = np.ptp(panel.get_xydata(), axis=0)
    assert np.dot(np.diff(panel.get_xydata(), axis=0)[0], site.ris.rotation()[:2, 0] if site.ris else 0) == (
        pytest.approx(0, abs=1e-9)
    )
    assert along.any()
    assert not of_kind(drawn(block(), [], site.users.grid_m(), None, 0.0), Wedge), "isotropic: all around"


def test_coverage_in_free_space_is_friis() -> None:
    bundle = free_space_bundle()
    site = bundle.site
    coverage = coverage_of(bundle)
    distance_m = np.linalg.norm(bundle.positions_m - site.bs.position_m, axis=1)
    loss_db = 20 * np.log10(SPEED_OF_LIGHT_M_S / site.carrier_hz / (4 * np.pi * distance_m))
    np.testing.assert_allclose(coverage.direct_db, loss_db, atol=1e-5)
    assert site.ris is not None
    assert coverage.ris_db is not None
    wavelength_m = SPEED_OF_LIGHT_M_S / site.carrier_hz
    middle = np.array(site.ris.position_m)
    boresight = site.ris.rotation()[:, 0]
    hop = np.array(site.bs.position_m) - middle
    ways = bundle.positions_m - middle
    cosines = [hop @ boresight / np.linalg.norm(hop), ways @ boresight / np.linalg.norm(ways, axis=1)]
    gamma = 4 * np.pi * site.ris.spacing_wavelengths**2
    pattern_db = sum(10 * np.log10(gamma * np.maximum(cosine, 1e-9) ** (gamma / 2 - 1)) for cosine in cosines)
    hops_db = sum(
        20 * np.log10(wavelength_m / (4 * np.pi * length))
        for length in (np.linalg.norm(hop), np.linalg.norm(ways, axis=1))
    )
    expected_db = hops_db + pattern_db + site.ris.efficiency_db + 20 * np.log10(site.ris.elements)
    seen = cosines[1] > 0.05
    assert np.count_nonzero(seen) >= len(seen) // 2
    np.testing.assert_allclose(coverage.ris_db[seen], expected_db[seen], atol=0.1)


def test_a_position_without_paths_has_no_coverage() -> None:
    bundle = free_space_bundle(ris=False)
    silent = replace(bundle, bs_user=strongest(bundle.bs_user, 0, -50.0))
    coverage = coverage_of(silent)
    assert np.isnan(coverage.direct_db).all()
    assert coverage.ris_db is None


def site_with_bundle(folder: Path) -> Path:
    """A site file in `folder` with a GeoJSON scene, and a bundle of free space beside it."""
    geojson(folder, feature(box_ring(-20, 10, 20, 14), height=20))
    path = written(folder, BLOCK)
    site = block()
    users_m = site.users.grid_m()
    wavelength_m = SPEED_OF_LIGHT_M_S / site.carrier_hz
    table = line_of_sight(np.array(site.bs.position_m), users_m, wavelength_m)
    empty = replace(free_space_bundle(ris=False), site=site, positions_m=users_m, bs_user=table)
    none = strongest(table, 0, -50.0)
    save_bundle(replace(empty, ris_user=none), folder / "twin.h5")
    return path


@pytest.fixture
def without_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "/nowhere/libLLVM.so")


@pytest.mark.usefixtures("without_tracer")
def test_a_site_is_drawn_with_its_bundle(tmp_path: Path) -> None:
    path = site_with_bundle(tmp_path)
    target = tmp_path / "plan.png"
    result = show_site(str(path), out=target, zone_m=5.0)
    assert json.loads(json.dumps(result)) == result
    assert (result["site"], result["png"], result["positions"]) == ("block", str(target), 9)
    distance_m = np.linalg.norm(block().users.grid_m() - block().bs.position_m, axis=1)
    expected_db = 20 * np.log10(SPEED_OF_LIGHT_M_S / 3.5e9 / (4 * np.pi * distance_m))
    assert result["coverage_db"]["median"] == pytest.approx(np.median(expected_db), abs=0.01)
    assert result["coverage_db"]["p10"] == pytest.approx(np.percentile(expected_db, 10), abs=0.01)
    assert "ris_coverage_db" not in result
    assert (result["bundle"], result["bundle_is_of_this_site"], result["unreached"]) == (
        str(tmp_path / "twin.h5"),
        True,
        0,
    )
    assert (result["buildings"], result["bodies"], result["zones"]) == (1, 1, 4)
    assert "names no file" in result["not_rendered"]
    assert "problem" not in result
    picture = imread(target)
    assert picture.shape[0] > 500
    assert len(np.unique((picture[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 20


@pytest.mark.usefixtures("without_tracer")
def test_what_is_wrong_with_a_site_is_drawn_and_told(tmp_path: Path) -> None:
    geojson(tmp_path, feature(box_ring(-20, 10, 20, 14), height=20))
    path = written(tmp_path, BLOCK | {"bs": {"position_m": [0.0, 12.0, 5.0]}})
    result = show_site(str(path), out=tmp_path / "plan.png", zone_m=0.0)
    assert "is inside of building 1" in result["problem"]
    assert (tmp_path / "plan.png").stat().st_size > 1000
    assert not {"coverage_db", "bundle", "zones", "unreached"} & result.keys()


@pytest.mark.usefixtures("without_tracer")
def test_a_bundled_scene_without_the_tracer_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, BLOCK | {"scene": "munich"})
    with pytest.raises(TwinbeamError, match=r"needs Sionna RT: .* names no file"):
        show_site(str(path), out=tmp_path / "plan.png")
    geojson(tmp_path, feature(box_ring(-20, 10, 20, 14), height=20))
    path = written(tmp_path, BLOCK)
    with pytest.raises(UsageRefused, match="no such folder"):
        show_site(str(path), out=tmp_path / "none" / "plan.png")
    with pytest.raises(UsageRefused, match="cannot be written"):
        show_site(str(path), out=tmp_path)


@pytest.mark.usefixtures("without_tracer")
def test_the_command_draws_and_reports(tmp_path: Path) -> None:
    path = site_with_bundle(tmp_path)
    target = tmp_path / "plan.png"
    ended = CliRunner().invoke(app, ["twin", "show", str(path), "--out", str(target), "--zone-m", "5", "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout.splitlines()[-1])["positions"] == 9
    assert target.is_file()
    ended = CliRunner().invoke(app, ["twin", "show", str(tmp_path / "none.toml"), "--out", str(target)])
    assert ended.exit_code == 2


@pytest.mark.tracer
@pytest.mark.xdist_group("tracer")
@pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)")
def test_the_scene_is_rendered_beside_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "_RENDER_PIXELS", (96, 64))
    monkeypatch.setattr(show, "_RENDER_SAMPLES", 4)
    path = site_with_bundle(tmp_path)
    bare, whole = tmp_path / "bare.png", tmp_path / "whole.png"
    result = show_site(str(path), out=whole)
    assert "not_rendered" not in result
    monkeypatch.setenv(ENVIRONMENT, "/nowhere/libLLVM.so")
    show_site(str(path), out=bare)
    assert imread(whole).shape != imread(bare).shape, "a panel more"
    (tmp_path / "twin.h5").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(show, "_RENDER_PIXELS", (96, 64))
    monkeypatch.setattr(show, "_RENDER_SAMPLES", 4)
    canyon = {"scene": "simple_street_canyon", "users": {"corner_m": [0.0, -6.0], "size_m": [12.0, 12.0]}}
    knobs = {"geometry.shift_m": [0.0, -10.0, 0.0], "hardware.field_of_view_deg": 100.0}
    moved = written(tmp_path, BLOCK | canyon | {"twin": knobs})
    assert "inside of" in show_site(str(moved), out=whole)["problem"], "houses are drawn where the twin has them"
    result = show_site(str(written(tmp_path, BLOCK | canyon)), out=whole)
    assert result["bodies"] == 6
    assert result["positions"] == 49
