"""Where users stand depends on the seed and a sample's number alone, and is outdoors, spread as asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import UsageRefused
from sim.datasets.positions import PositionDraw
from sim.datasets.spec import Positions
from sim.site import UserArea

Real = npt.NDArray[np.float64]
AREA = UserArea(corner_m=(-10.0, 20.0), size_m=(40.0, 30.0), spacing_m=5.0, height_m=1.5)
GROUND_M = 0.25


def is_outdoors(points_m: Real) -> npt.NDArray[np.bool_]:
    """All but a house of 20 m x 10 m."""
    inside = (points_m[:, 0] > 0) & (points_m[:, 0] < 20) & (points_m[:, 1] > 30) & (points_m[:, 1] < 40)
    return ~inside


def around_a_house(points_m: Real) -> Real:
    return np.array([[x, y, z + GROUND_M] for x, y, z in points_m[is_outdoors(points_m)]]).reshape(-1, 3)


def nowhere(points_m: Real) -> Real:
    return np.zeros((0, 3))


def draw(kind: str, seed: int = 1, **settings: float) -> PositionDraw:
    return PositionDraw(Positions.model_validate({"draw": kind, **settings}), AREA, seed, around_a_house)


@pytest.mark.parametrize("kind", ["grid", "uniform", "tracks"])
def test_a_sample_depends_on_seed_and_number_alone(kind: str) -> None:
    whole = draw(kind, track_samples=20).of(range(200))
    assert whole.shape == (200, 3)
    for start, stop in ((64, 128), (0, 1), (199, 200), (37, 90)):
        np.testing.assert_array_equal(draw(kind, track_samples=20).of(range(start, stop)), whole[start:stop])
    assert not np.array_equal(draw(kind, seed=2, track_samples=20).of(range(200)), whole)


@pytest.mark.parametrize("kind", ["grid", "uniform", "tracks"])
def test_users_stand_outdoors_in_the_area_on_its_ground(kind: str) -> None:
    found = draw(kind, track_samples=20).of(range(500))
    assert np.all(is_outdoors(found))
    assert np.all((found[:, 0] >= -10) & (found[:, 0] <= 30) & (found[:, 1] >= 20) & (found[:, 1] <= 50))
    np.testing.assert_allclose(found[:, 2], 1.5 + GROUND_M)


def test_grid_points_are_drawn_alike() -> None:
    points = around_a_house(AREA.grid_m())
    found = draw("grid").of(range(6000))
    counts = np.array([np.count_nonzero(np.all(found == point, axis=1)) for point in points])
    assert counts.sum() == 6000
    expected = 6000 / len(points)
    assert np.sum((counts - expected) ** 2 / expected) < len(points) + 5 * np.sqrt(2 * len(points))


def test_uniform_positions_fill_what_is_outdoors() -> None:
    """Quarters of the area hold as many users as they have room outdoors."""
    found = draw("uniform").of(range(8000))
    room = np.array([[300 - 50, 300 - 50], [300 - 50, 300 - 50]]) / 1000
    counts, _, _ = np.histogram2d(found[:, 0], found[:, 1], bins=[[-10, 10, 30], [20, 35, 50]])
    np.testing.assert_allclose(counts / 8000, room, atol=5 * np.sqrt(0.25 * 0.75 / 8000))
    assert len(np.unique(found[:, :2], axis=0)) == 8000


def test_tracks_are_straight_and_evenly_paced() -> None:
    found = draw("tracks", track_samples=25, step_m=0.4).of(range(250)).reshape(10, 25, 3)
    steps = np.diff(found[:, :, :2], axis=1)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=2), 0.4)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-9)
    assert len(np.unique(np.round(steps[:, 0], 6), axis=0)) == 10


def test_no_room_is_told() -> None:
    for kind, told in (("grid", "no outdoor point"), ("uniform", "hardly any"), ("tracks", "no straight track")):
        with pytest.raises(UsageRefused, match=told):
            PositionDraw(Positions.model_validate({"draw": kind}), AREA, 1, nowhere).of(range(3))
    with pytest.raises(UsageRefused, match=r"no straight track of 252 m"):
        draw("tracks", step_m=4.0).of(range(3))
