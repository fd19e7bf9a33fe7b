"""What lies inside of walls is found, and sites that cannot work are refused in one line before anything is traced."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ingest.errors import InputRefused, UsageRefused
from sim.meshes import Mesh, joined
from sim.site import BaseStation
from sim.site_checks import check_site, closed_bodies, containing, refuse_inside, refuse_open
from tests.sim.blocks import block, box

RIS: dict[str, Any] = {"position_m": [10.0, 18.0, 5.0], "yaw_deg": -135.0}


def mesh(low: tuple[float, float, float], high: tuple[float, float, float], name: str = "house") -> Mesh:
    vertices_m, faces = box(low, high)
    return Mesh(name, vertices_m, np.array(faces, np.int64))


def without(whole: Mesh, *faces: int) -> Mesh:
    return Mesh(whole.name, whole.vertices_m, np.delete(whole.faces, faces, axis=0))


def refused(bodies: list[Mesh], **changes: Any) -> str:
    with pytest.raises(UsageRefused) as refusal:
        check_site(block(**changes), bodies)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert refusal.value.mend
    return str(refusal.value)


def test_a_box_holds_what_is_in_it(rng: np.random.Generator) -> None:
    points = rng.uniform(-1, 6, (2000, 3))
    inside = np.all((points > [0, 1, 2]) & (points < [3, 5, 4]), axis=1)
    assert 50 < np.count_nonzero(inside) < 500
    assert np.array_equal(containing([mesh((0, 1, 2), (3, 5, 4))], points) == 0, inside)


def test_an_outline_with_a_courtyard_holds_what_shapely_says(rng: np.random.Generator) -> None:
    shapely = pytest.importorskip("shapely", reason="shapely is not installed (extra `twin`)")
    pytest.importorskip("trimesh", reason="trimesh is not installed (extra `twin`)")
    from sim.footprints import extruded
    from sim.geojson import Footprint

    shell = [(0, 0), (10, 2), (20, 0), (18, 9), (20, 20), (11, 15), (0, 20), (3, 10)]
    outline = shapely.Polygon(shell, [[(6, 6), (8, 12), (13, 11), (12, 5)]])
    bodies = [solid.mesh for solid in extruded([Footprint("a", outline, 1.0, 6.0, "itu_brick", "itu_wood")])]
    points = rng.uniform((-2, -2, 0), (22, 22, 7), (4000, 3))
    inside = shapely.contains_xy(outline, points[:, 0], points[:, 1]) & (points[:, 2] > 1) & (points[:, 2] < 6)
    assert np.array_equal(containing(bodies, points) == 0, inside)


def test_the_first_body_that_holds_a_point_is_told() -> None:
    bodies = [mesh((0, 0, 0), (2, 2, 2)), mesh((5, 0, 0), (7, 2, 2))]
    points = np.array([[1.0, 1.0, 1.0], [6.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    assert containing(bodies, points).tolist() == [0, 1, -1]
    assert containing([], points).tolist() == [-1, -1, -1]
    assert containing(bodies, np.zeros((0, 3))).shape == (0,)


def test_a_ray_along_an_edge_does_not_decide_alone() -> None:
    """Points right below the corners and edges of a finely cut roof: one of three rays may graze, not two."""
    house = mesh((0, 0, 0), (4, 4, 4))
    grid = np.stack(np.meshgrid(np.arange(0.5, 4, 0.5), np.arange(0.5, 4, 0.5), [0.5, 2.0]), axis=-1).reshape(-1, 3)
    assert (containing([house], grid) == 0).all()


def test_walls_and_roof_of_two_shapes_are_one_body() -> None:
    whole = mesh((0, 0, 0), (4, 4, 4))
    upper = whole.normals()[:, 2] > 0.5
    walls, roof = without(whole, *np.nonzero(upper)[0]), without(whole, *np.nonzero(~upper)[0])
    (body,) = closed_bodies([walls, roof])
    assert containing([body], np.array([[2.0, 2.0, 1.0]]))[0] == 0
    assert closed_bodies([roof]) == []
    assert closed_bodies([]) == []


def test_a_house_without_a_floor_has_an_inside_and_one_without_a_wall_has_none() -> None:
    whole = mesh((0, 0, 0), (4, 4, 4))
    normals = whole.normals()
    floorless = without(whole, *np.nonzero(normals[:, 2] < -0.5)[0])
    (body,) = closed_bodies([floorless])
    points = np.array([[2.0, 2.0, 1.0], [2.0, 2.0, 5.0], [5.0, 2.0, 1.0]])
    assert containing([body], points).tolist() == [0, -1, -1]
    assert closed_bodies([without(whole, *np.nonzero(normals[:, 0] > 0.5)[0])]) == []


def test_bodies_of_one_mesh_are_told_apart() -> None:
    both = joined([mesh((0, 0, 0), (2, 2, 2)), mesh((5, 0, 0), (7, 2, 2))], "town").welded()
    assert len(both.parts()) == 2
    assert len(closed_bodies([both])) == 2
    assert both.parts()[0].vertices_m.shape == (8, 3)


def test_an_open_mesh_is_told_with_its_open_edges() -> None:
    whole = mesh((0, 0, 0), (4, 4, 4)).welded()
    refuse_open(whole, "house")
    for faces, edges in (((0,), 3), ((0, 1), 4), ((0, 4), 6)):
        with pytest.raises(InputRefused, match=rf"^house: the mesh is not watertight: {edges} open edges") as refusal:
            refuse_open(without(whole, *faces), "house")
        assert refusal.value.exit_code == 3


def test_two_solids_that_share_an_edge_are_closed() -> None:
    touching = joined([mesh((0, 0, 0), (2, 2, 2)), mesh((2, 2, 0), (4, 4, 2))], "pair").welded()
    refuse_open(touching, "pair")
    assert len(touching.vertices_m) == 14


def test_a_good_site_passes() -> None:
    check_site(block(ris=RIS), [mesh((-5, 30, 0), (5, 40, 9))])
    check_site(block(), [])


def test_arrays_inside_of_walls_are_refused() -> None:
    line = refused([mesh((-10, -2, 0), (-6, 2, 9), "Town hall")])
    assert "the base station at (-8, 0, 5) is inside of Town hall" in line
    line = refused([mesh((9, 17, 0), (11, 19, 9), "Mill")], ris=RIS)
    assert "the RIS at (10, 18, 5) is inside of Mill" in line


def test_a_user_area_indoors_is_refused_and_one_half_outdoors_is_not() -> None:
    hall = mesh((0, -10, 0), (20, 10, 9))
    line = refused([hall])
    assert "all 9 points of the user area are inside of buildings" in line
    check_site(block(users={"corner_m": [5.0, 7.0], "size_m": [6.0, 6.0], "spacing_m": 3.0}), [hall])
    halves = [mesh((0, -10, 0), (8, 10, 9)), mesh((8, -10, 0), (20, 10, 9))]
    assert "all 9 points" in refused([*halves])


def test_a_user_inside_of_a_wall_is_refused() -> None:
    shed = mesh((30, 30, 0), (34, 34, 3), "shed")
    users = {"corner_m": [5.0, -3.0], "size_m": [6.0, 6.0], "spacing_m": 3.0}
    check_site(block(users=users | {"places_m": [[29.0, 30.0]]}), [shed])
    line = refused([shed], users=users | {"places_m": [[29.0, 30.0], [31.0, 32.0]]})
    assert "places_m: user 2 at (31, 32, 1.5) is inside of shed" in line
    with pytest.raises(UsageRefused, match="track: user 1 at"):
        refuse_inside(np.array([[32.0, 32.0, 1.0]]), [shed], where="track")
    refuse_inside(np.array([[32.0, 32.0, 3.5]]), [shed], where="track")


@pytest.mark.parametrize(
    ("bs", "told"),
    [
        ({"yaw_deg": 180.0}, "135° off the base station's boresight, which sees 90°"),
        ({"yaw_deg": 45.0, "field_of_view_deg": 60.0, "position_m": [10.0, 0.0, 5.0]}, "45° off .* sees 30°"),
        ({"yaw_deg": 180.0, "pattern": "iso", "field_of_view_deg": 200.0}, "135° off .* sees 100°"),
        ({"position_m": RIS["position_m"]}, "stand in one place"),
    ],
)
def test_a_ris_out_of_view_is_refused(bs: dict[str, Any], told: str) -> None:
    line = refused([], ris=RIS, bs={"position_m": [-8.0, 0.0, 5.0], "pattern": "tr38901", **bs})
    assert re.search(told, line), line


def test_an_array_that_sees_all_around_may_have_the_ris_anywhere() -> None:
    for pattern in ("iso", "dipole", "hw_dipole"):
        check_site(block(ris=RIS, bs={"position_m": [-8.0, 0.0, 5.0], "pattern": pattern, "yaw_deg": 180.0}), [])


def test_a_base_station_behind_the_ris_is_refused() -> None:
    line = refused([], ris=RIS | {"yaw_deg": 0.0})
    assert "the base station is behind the RIS's back, by 18.0 m" in line
    check_site(block(ris=RIS | {"yaw_deg": 180.0}), [])


def test_a_field_of_view_is_a_cone_about_boresight() -> None:
    station = BaseStation(position_m=(0.0, 0.0, 0.0), yaw_deg=90.0, field_of_view_deg=90.0)
    angles = np.radians([0.0, 44.0, 46.0, -44.0, 170.0])
    flat = np.stack([-np.sin(angles), np.cos(angles), np.zeros(5)], axis=1)
    upwards = np.stack([np.zeros(5), np.cos(angles), np.sin(angles)], axis=1)
    for directions in (flat, upwards):
        assert station.sees(directions).tolist() == [True, True, False, True, False]
    assert BaseStation(position_m=(0.0, 0.0, 0.0)).sees(flat).all()
