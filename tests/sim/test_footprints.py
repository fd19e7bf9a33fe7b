"""Footprints become closed solids that fill what they should, no place twice; what is no building is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("shapely", reason="shapely is not installed (extra `twin`)")
pytest.importorskip("trimesh", reason="trimesh is not installed (extra `twin`)")

import shapely

from ingest.errors import InputRefused, UsageRefused
from sim.footprints import FOUNDATION_M, Building, apart, extruded
from sim.geojson import Footprint, Footprints, Plane, read_footprints
from sim.materials import ITU_MATERIALS, PRESETS, TAG_MATERIALS
from sim.meshes import Mesh
from sim.site import Site
from tests.sim.blocks import block, box_ring, feature, geojson, ring


def read(folder: Path, *features: dict[str, Any], site: Site | None = None) -> Footprints:
    return read_footprints(geojson(folder, *features), site or block())


def volume_m3(mesh: Mesh) -> float:
    """By the divergence theorem; positive where faces look outwards."""
    a, b, c = (mesh.vertices_m[mesh.faces[:, corner]] for corner in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def area_m2(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices_m[mesh.faces[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def surfaces(building: Building) -> dict[str, Mesh]:
    return dict(building.surfaces())


def test_a_box_has_its_volume_and_its_surfaces_their_areas(tmp_path: Path) -> None:
    found = read(tmp_path, feature(box_ring(1, 2, 13, 7), height=9))
    (building,) = extruded(found.buildings)
    assert len(building.mesh.open_edges()) == 0
    assert volume_m3(building.mesh) == pytest.approx(12 * 5 * (9 + FOUNDATION_M))
    walls, roof = surfaces(building)["itu_brick"], surfaces(building)["itu_wood"]
    assert area_m2(roof) == pytest.approx(60)
    assert area_m2(walls) == pytest.approx(60 + 34 * (9 + FOUNDATION_M))
    assert set(roof.vertices_m[:, 2]) == {9.0}
    np.testing.assert_allclose(building.mesh.vertices_m.min(axis=0), [1, 2, -FOUNDATION_M])
    np.testing.assert_allclose(building.mesh.vertices_m.max(axis=0), [13, 7, 9])


def test_a_courtyard_stays_open(tmp_path: Path) -> None:
    found = read(tmp_path, feature(box_ring(0, 0, 20, 20), box_ring(5, 5, 15, 12), height=10))
    (building,) = extruded(found.buildings)
    assert len(building.mesh.open_edges()) == 0
    assert volume_m3(building.mesh) == pytest.approx((400 - 70) * (10 + FOUNDATION_M))
    walls, roof = surfaces(building)["itu_brick"], surfaces(building)["itu_wood"]
    assert area_m2(roof) == pytest.approx(330)
    assert area_m2(walls) == pytest.approx(330 + (80 + 34) * (10 + FOUNDATION_M))
    inner = np.abs(walls.normals()[:, 2]) < 0.5
    middles = walls.vertices_m[walls.faces].mean(axis=1)
    to_yard = inner & (np.abs(middles[:, 0] - 10) < 5.1) & (np.abs(middles[:, 1] - 8.5) < 3.6)
    towards = np.einsum("fi,fi->f", walls.normals(), np.array([10, 8.5, 0]) - middles)
    assert np.count_nonzero(to_yard) == 8
    assert (towards[to_yard] > 0).all(), "walls of a courtyard look into it"


@pytest.mark.parametrize("hole", [((5, 0), (8, 4), (2, 4)), ((0, 0), (4, 1), (1, 4))], ids=["edge", "corner"])
def test_a_courtyard_that_touches_the_wall_leaves_a_closed_solid(tmp_path: Path, hole: Any) -> None:
    found = read(tmp_path, feature(box_ring(0, 0, 10, 10), ring(*hole), height=5))
    solids = extruded(found.buildings)
    assert all(len(solid.mesh.open_edges()) == 0 for solid in solids)
    expected = (100 - shapely.Polygon(hole).area) * (5 + FOUNDATION_M)
    assert sum(volume_m3(solid.mesh) for solid in solids) == pytest.approx(expected)


def test_a_raised_part_has_nothing_below(tmp_path: Path) -> None:
    (bridge,) = extruded(read(tmp_path, feature(box_ring(0, 0, 4, 3), min_height="4.5 m", height="8")).buildings)
    assert volume_m3(bridge.mesh) == pytest.approx(12 * 3.5)
    assert bridge.mesh.vertices_m[:, 2].min() == 4.5


def test_parts_of_one_building_are_solids_each(tmp_path: Path) -> None:
    both = {"type": "MultiPolygon", "coordinates": [[box_ring(0, 0, 4, 4)], [box_ring(10, 0, 12, 2)]]}
    found = read(tmp_path, {"type": "Feature", "properties": {"height": 5}, "geometry": both})
    solids = extruded(found.buildings)
    assert sorted(volume_m3(solid.mesh) for solid in solids) == pytest.approx([4 * 5.1, 16 * 5.1])
    assert [solid.mesh.name for solid in solids] == ["building 1, part 1", "building 1, part 2"]
    assert found.repaired == 0


def test_an_outline_that_crosses_itself_is_repaired(tmp_path: Path) -> None:
    found = read(tmp_path, feature(ring((0, 0), (10, 10), (10, 0), (0, 10)), height=4))
    assert found.repaired == 1
    solids = extruded(found.buildings)
    assert sum(volume_m3(solid.mesh) for solid in solids) == pytest.approx(50 * 4.1)
    assert all(len(solid.mesh.open_edges()) == 0 for solid in solids)


def box_of(name: str, place: tuple[float, float, float, float], low_m: float, high_m: float) -> Footprint:
    return Footprint(name, shapely.box(*place), low_m, high_m, "itu_brick", "itu_wood")


def test_the_taller_of_two_keeps_the_place() -> None:
    low, tall = box_of("low", (0, 0, 10, 10), 0, 5), box_of("tall", (6, 0, 16, 10), 0, 12)
    pieces = {piece.name: piece for piece in apart([low, tall])}
    assert pieces["tall"].outline.area == pytest.approx(100)
    assert pieces["low"].outline.area == pytest.approx(60)
    assert apart([low, low])[0].outline.area == pytest.approx(100)
    assert len(apart([low, low])) == 1, "a building that is there twice is one"


def test_what_is_stacked_or_only_touches_is_left_whole() -> None:
    ground, on_top = box_of("a", (0, 0, 4, 4), 0, 5), box_of("b", (1, 1, 3, 3), 5, 9)
    beside = box_of("c", (4, 0, 8, 4), 0, 5)
    assert sorted(piece.name for piece in apart([ground, on_top, beside])) == ["a", "b", "c"]
    assert [piece.outline.area for piece in apart([ground, on_top, beside])] == pytest.approx([16, 4, 16])


def test_a_box_in_a_raised_one_is_cut_in_height() -> None:
    """A ground floor that reaches into an upper one from below: 0 to 6 m under 4 to 9 m."""
    floor, upper = box_of("floor", (0, 0, 10, 4), 0, 6), box_of("upper", (6, 0, 20, 4), 4, 9)
    pieces = apart([floor, upper])
    found = sorted((piece.name, piece.low_m, piece.high_m, round(piece.outline.area, 6)) for piece in pieces)
    assert found == [("floor", 0, 4, 16.0), ("floor", 0, 6, 24.0), ("upper", 4, 9, 56.0)]


def test_random_buildings_fill_what_they_cover_once(rng: np.random.Generator) -> None:
    """Against areas of unions, slice by slice; and every mesh is closed."""
    for _ in range(40):
        footprints = []
        for index in range(int(rng.integers(2, 6))):
            angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 10))))
            radius = rng.uniform(4, 15, len(angle))
            points = rng.uniform(-12, 12, 2) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            outline = shapely.set_precision(shapely.make_valid(shapely.Polygon(points)), 1e-3)
            low_m, thickness_m = rng.choice([0.5, 3.0, 5.0]), rng.choice([2.0, 4.0, 6.0])
            parts = [part for part in shapely.get_parts(outline) if part.geom_type == "Polygon" and part.area > 1]
            shape = shapely.MultiPolygon(parts)
            footprints.append(Footprint(str(index), shape, low_m, low_m + thickness_m, "itu_brick", "itu_wood"))
        solids = extruded(footprints)
        assert all(len(solid.mesh.open_edges()) == 0 for solid in solids)
        assert all(volume_m3(solid.mesh) > 0 for solid in solids)
        heights = sorted({z for one in footprints for z in (one.low_m, one.high_m)})
        expected = 0.0
        for low_m, high_m in itertools.pairwise(heights):
            present = [one.outline for one in footprints if one.low_m <= low_m and one.high_m >= high_m]
            expected += (high_m - low_m) * shapely.unary_union(present).area
        assert sum(volume_m3(solid.mesh) for solid in solids) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("properties", "expected_m"),
    [
        ({"height": 12}, 12.0),
        ({"height": "12.5"}, 12.5),
        ({"height": "12,5 m"}, 12.5),
        ({"height": "40'"}, 12.192),
        ({"height": "40'6\""}, 12.3444),
        ({"height": "40 ft"}, 12.192),
        ({"height": 7, "building:levels": 9}, 7.0),
        ({"building:levels": "4"}, 12.0),
        ({"height": None, "building:levels": 2.5}, 7.5),
        ({"height": ""}, 10.0),
        ({}, 10.0),
    ],
)
def test_heights_are_read_as_they_are_written(tmp_path: Path, properties: Any, expected_m: float) -> None:
    one = feature(box_ring(0, 0, 5, 5))
    one["properties"] = properties
    assert read(tmp_path, one).buildings[0].high_m == pytest.approx(expected_m)


def test_the_site_file_says_storeys_and_defaults(tmp_path: Path) -> None:
    site = block(geo={"coordinates": "metres", "default_height_m": 6.0, "storey_m": 3.5})
    tagged = {"building:levels": 4, "building:min_level": 1}
    one = feature(box_ring(0, 0, 5, 5)) | {"properties": tagged}
    found = read(tmp_path, one, feature(box_ring(9, 0, 12, 5)), site=site)
    assert [(house.low_m, house.high_m) for house in found.buildings] == [(3.5, 14.0), (0.0, 6.0)]


BAD_PROPERTIES = [
    ({"height": "tall"}, "height is 'tall'"),
    ({"height": -3}, "from 0 to -3 m"),
    ({"height": 0}, "from 0 to 0 m"),
    ({"height": True}, "height is 'True'"),
    ({"height": 1e5}, "from 0 to 100000 m"),
    ({"height": 10**400}, "height is"),
    ({"height": float("nan")}, "height is 'nan'"),
    ({"height": [3]}, "height is '[3]'"),
    ({"building:levels": "3;4"}, "building:levels is '3;4'"),
    ({"height": 4, "min_height": 5}, "from 5 to 4 m"),
    ({"height": 4, "min_height": -1}, "from -1 to 4 m"),
]


@pytest.mark.parametrize(("properties", "told"), BAD_PROPERTIES)
def test_heights_that_are_none_are_refused(tmp_path: Path, properties: Any, told: str) -> None:
    one = feature(box_ring(0, 0, 5, 5)) | {"properties": {"name": "Guild hall", **properties}, "id": "way/1"}
    with pytest.raises(InputRefused) as refusal:
        read(tmp_path, feature(box_ring(9, 0, 12, 5)), one)
    assert told in str(refusal.value)
    assert "building 2 (Guild hall)" in str(refusal.value)
    assert "\n" not in str(refusal.value)


BAD_OUTLINES = [
    ([[[0, 0], [5, 0], [0, 0]]], "fewer than three points"),
    ([[[0, 0], [5, 0], [5, 0], [0, 0], [0, 0]]], "fewer than three points"),
    ([[[0, 0], [5, 0], [10, 0], [0, 0]]], "covers 0 m²"),
    ([[[0, 0], [0.01, 0], [0, 0.01], [0, 0]]], "no building"),
    ([[[0, 0], [5, "x"], [5, 5], [0, 0]]], "no list of positions"),
    ([[[0], [5], [5], [0]]], "no list of positions"),
    ([[0, 5, 5, 0]], "no list of positions"),
    ([[[0, 0], [5, None], [5, 5], [0, 0]]], "not finite"),
    ([[[0, 0], [5, 1e999], [5, 5], [0, 0]]], "not finite"),
    ([[[0, 0], [5, 0], [5, 5e5], [0, 0]]], "500 km from the origin"),
    ([], "without rings"),
    (None, "without rings"),
    ([5], "no list of positions"),
    ({"a": 1}, "without rings"),
]


@pytest.mark.parametrize(("coordinates", "told"), BAD_OUTLINES)
def test_outlines_that_are_none_are_refused(tmp_path: Path, coordinates: Any, told: str) -> None:
    one = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": coordinates}}
    with pytest.raises(InputRefused) as refusal:
        read(tmp_path, one)
    assert told in str(refusal.value)
    assert "building 1" in str(refusal.value)


BAD_FILES = [
    ("", "is not JSON"),
    ("[1, 2]", "no object"),
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('{"type": "FeatureCollection"}', "no list of features"),
    ('{"type": "FeatureCollection", "features": [1]}', "no list of features"),
    ('{"type": "FeatureCollection", "features": [{"geometry": [1]}]}', "feature 1 is no GeoJSON feature"),
    ('{"type": "FeatureCollection", "features": []}', "no building outline"),
    ('{"type": "Point", "coordinates": [1, 2]}', "no building outline"),
]


@pytest.mark.parametrize(("text", "told"), BAD_FILES)
def test_files_that_are_no_geojson_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "block.geojson"
    path.write_text(text)
    with pytest.raises(InputRefused) as refusal:
        read_footprints(path, block())
    assert told in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=25,
)
POINT = st.tuples(st.floats(-50, 50), st.floats(-50, 50)).map(list)
KEYS = ("name", "height", "min_height", "building", "building:levels", "building:material", "roof:material")


@given(
    coordinates=st.lists(st.lists(POINT, max_size=7), max_size=3) | st.lists(st.lists(POINT | JSON)) | JSON,
    properties=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2) | JSON,
    kind=st.sampled_from(["Polygon", "MultiPolygon"]),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_becomes_solids_or_a_line(
    tmp_path: Path, coordinates: Any, properties: Any, kind: str
) -> None:
    one = {"type": "Feature", "properties": properties, "geometry": {"type": kind, "coordinates": coordinates}}
    try:
        found = read(tmp_path, feature(box_ring(100, 100, 110, 110)), one)
    except InputRefused as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017
        return
    solids = extruded(found.buildings)
    assert all(len(solid.mesh.open_edges()) == 0 and volume_m3(solid.mesh) > 0 for solid in solids)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageRefused, match="no such scene file"):
        read_footprints(tmp_path / "none.geojson", block())
    with pytest.raises(UsageRefused, match="cannot be read"):
        read_footprints(tmp_path, block())


def test_only_buildings_are_taken_from_a_map(tmp_path: Path) -> None:
    park = feature(box_ring(50, 0, 90, 90), leisure="park")
    gone = feature(box_ring(20, 0, 25, 5), building="no")
    street = {
        "type": "Feature",
        "properties": None,
        "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]},
    }
    found = read(tmp_path, park, feature(box_ring(0, 0, 5, 5), building="yes"), gone, street, {"type": "Feature"})
    assert [house.name for house in found.buildings] == ["building 2"]
    assert found.passed_over == 4


def test_a_bare_geometry_and_a_lone_feature_are_files_as_well(tmp_path: Path) -> None:
    path = tmp_path / "block.geojson"
    alone = feature(box_ring(0, 0, 5, 5), height=3)
    for document in (alone, alone["geometry"]):
        path.write_text(json.dumps(document))
        assert read_footprints(path, block()).buildings[0].outline.area == pytest.approx(25)


def test_materials_come_by_tag_and_else_by_preset(tmp_path: Path) -> None:
    features = [
        feature(box_ring(0, 0, 5, 5)),
        feature(box_ring(9, 0, 12, 5), building__material="brick", roof__material="roof_tiles"),
        feature(box_ring(19, 0, 22, 5), building__material="Itu_Glass", roof__material="soap"),
        feature(box_ring(29, 0, 32, 5), building__material="cob"),
    ]
    site = block(material_preset="MC1", surfaces={"roof": "itu_plywood", "tags": {"cob": "itu_very_dry_ground"}})
    found = read(tmp_path, *features, site=site)
    assert [(house.wall, house.roof) for house in found.buildings] == [
        ("itu_marble", "itu_plywood"),
        ("itu_brick", "itu_brick"),
        ("itu_glass", "itu_plywood"),
        ("itu_very_dry_ground", "itu_plywood"),
    ]
    assert found.unknown_materials == ("roof:material=soap",)
    assert len(extruded(found.buildings)[1].surfaces()) == 1, "one material, one shape"


def test_presets_are_those_of_the_paper() -> None:
    assert [(one.ground, one.wall, one.roof) for one in PRESETS.values()] == [
        ("itu_concrete", "itu_marble", "itu_metal"),
        ("itu_concrete", "itu_marble", "itu_wood"),
        ("itu_concrete", "itu_brick", "itu_wood"),
    ]
    assert {block(material_preset=name).surface_materials() for name in PRESETS} == set(PRESETS.values())
    assert set(TAG_MATERIALS.values()) <= ITU_MATERIALS


def meridian_m(south_deg: float, north_deg: float) -> float:
    """Length of a meridian's arc on WGS 84, summed up along the ellipse x = a cos(b), z = c sin(b)."""
    a, c = 6_378_137.0, 6_378_137.0 * (1 - 1 / 298.257223563)
    reduced = np.arctan(c / a * np.tan(np.radians(np.linspace(south_deg, north_deg, 20_001))))
    return float(np.hypot(a * np.diff(np.cos(reduced)), c * np.diff(np.sin(reduced))).sum())


@pytest.mark.parametrize("latitude", [-33.9, 0.0, 48.1374, 69.6])
def test_the_plane_has_the_earths_distances(latitude: float) -> None:
    plane = Plane((11.5755, latitude))
    east, north = plane.metres(np.array([[11.5755, latitude + 0.005], [11.5855, latitude]])).T
    assert north[0] == pytest.approx(meridian_m(latitude, latitude + 0.005), rel=1e-6)
    assert east[0] == pytest.approx(0, abs=1e-9)
    circle_m = 6_378_137.0 * np.cos(np.arctan((1 - 1 / 298.257223563) * np.tan(np.radians(latitude))))
    assert east[1] == pytest.approx(circle_m * np.radians(0.01), rel=1e-6)
    assert abs(north[1]) < 0.15, "a parallel bends away from the plane by half a decimetre in half a kilometre"


def test_the_plane_crosses_the_date_line() -> None:
    east, north = Plane((179.999, 10.0)).metres(np.array([[-179.999, 10.0]]))[0]
    assert east == pytest.approx(6_378_137.0 * np.cos(np.radians(10)) * np.radians(0.002), rel=1e-3)
    assert abs(north) < 0.01


def test_without_an_origin_the_centroid_is_it(tmp_path: Path) -> None:
    around = [[11.57, 48.13], [11.572, 48.13], [11.572, 48.131], [11.57, 48.131], [11.57, 48.13]]
    found = read(tmp_path, feature(around, height=5), site=block(geo={}))
    assert found.origin == pytest.approx((11.571, 48.1305), abs=2e-6)
    west, south, east, north = found.buildings[0].outline.bounds
    assert (west + east, south + north) == pytest.approx((0, 0), abs=0.5)
    assert north - south == pytest.approx(meridian_m(48.13, 48.131), abs=0.02)
    stated = read(tmp_path, feature(around, height=5), site=block(geo={"origin": found.origin}))
    assert stated.buildings[0].outline.equals(found.buildings[0].outline), "the origin it tells is the one it used"


def test_metres_are_counted_from_the_origin(tmp_path: Path) -> None:
    site = block(geo={"coordinates": "metres", "origin": [4_468_000.0, 5_333_000.0]})
    corner = (4_468_010.0, 5_333_020.0)
    found = read(tmp_path, feature(box_ring(*corner, corner[0] + 5, corner[1] + 6)), site=site)
    assert found.buildings[0].outline.bounds == (10, 20, 15, 26)


def test_metres_for_degrees_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"\(500, 0\) is no longitude and latitude .*coordinates = \"metres\""):
        read(tmp_path, feature(box_ring(0, 0, 500, 20)), site=block(geo={}))
    with pytest.raises(InputRefused, match="km from the origin"):
        read(tmp_path, feature(box_ring(48.1, 11.5, 48.2, 11.6)), site=block(geo={"origin": [11.5, 48.1]}))
    with pytest.raises(UsageRefused, match="no longitude and latitude"):
        read(tmp_path, feature(box_ring(0, 0, 0.001, 0.001)), site=block(geo={"origin": [500.0, 0.0]}))


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326", "urn:ogc:def:crs:EPSG::4326"])
def test_a_crs_has_to_be_longitude_and_latitude(tmp_path: Path, name: str) -> None:
    crs = {"type": "name", "properties": {"name": name}}
    path = geojson(tmp_path, feature(box_ring(0, 0, 0.0001, 0.0001)), crs=crs)
    assert len(read_footprints(path, block(geo={})).buildings) == 1
    path = geojson(tmp_path, feature(box_ring(0, 0, 0.0001, 0.0001)), crs={"properties": {"name": "EPSG:31468"}})
    with pytest.raises(InputRefused, match="31468"):
        read_footprints(path, block(geo={}))
