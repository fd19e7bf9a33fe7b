"""Walks keep to the grid at their speed; positioning errors have the strength and the memory that was asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.mobility import PositionError, Walk

Real = npt.NDArray[np.float64]

SPACING_M = 2.0


def grid() -> Real:
    """A block of houses with streets around: a square without its middle."""
    points = [(SPACING_M * x, SPACING_M * y, 1.5) for x in range(6) for y in range(6) if not (1 < x < 4 and 1 < y < 4)]
    return np.array(points)


def walk(seed: int, speed_m_s: float = 1.4, grid_m: Real | None = None) -> Walk:
    return Walk(grid() if grid_m is None else grid_m, 1.5 * SPACING_M, speed_m_s, np.random.default_rng(seed))


def off_segments_m(position_m: Real, grid_m: Real) -> float:
    """Distance to the nearest segment between two neighbouring grid points."""
    distances = []
    for i, one in enumerate(grid_m):
        for other in grid_m[i + 1 :]:
            way = other - one
            length_m = np.linalg.norm(way)
            if length_m <= 1.5 * SPACING_M:
                along = np.clip((position_m - one) @ way / length_m**2, 0, 1)
                distances.append(float(np.linalg.norm(position_m - one - along * way)))
    return min(distances)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 30.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_walks_stay_on_segments_and_keep_their_speed(seed: int, speed_m_s: float, steps_s: list[float]) -> None:
    walker = walk(seed, speed_m_s)
    assert np.array_equal(walker.velocity_m_s, np.zeros(3))
    for seconds in steps_s:
        before = walker.position_m.copy()
        walker.advance(seconds)
        assert off_segments_m(walker.position_m, grid()) < 1e-9
        assert np.linalg.norm(walker.position_m - before) <= speed_m_s * seconds + 1e-9
        assert np.linalg.norm(walker.velocity_m_s) == pytest.approx(speed_m_s)


def test_the_way_is_as_long_as_speed_times_time() -> None:
    """In steps too short to turn twice in one, the way walked adds up but for what corners cut off."""
    walker, way_m, seconds = walk(3), 0.0, 1e-3
    for _ in range(20_000):
        before = walker.position_m.copy()
        walker.advance(seconds)
        way_m += float(np.linalg.norm(walker.position_m - before))
    assert way_m == pytest.approx(1.4 * 20.0, rel=1e-3)


@pytest.mark.parametrize("seconds", [10.0, 5000.0])
def test_one_long_step_is_many_short_ones(seconds: float) -> None:
    long, short = walk(7), walk(7)
    long.advance(seconds)
    for _ in range(1000):
        short.advance(seconds / 1000)
    np.testing.assert_allclose(long.position_m, short.position_m, atol=1e-6)


def test_velocity_is_where_the_next_moment_leads() -> None:
    walker = walk(11)
    straight = 0
    for _ in range(300):
        walker.advance(0.037)
        expected = walker.position_m + 1e-4 * walker.velocity_m_s
        walker.advance(1e-4)
        straight += bool(np.allclose(walker.position_m, expected, atol=1e-9))
    assert straight > 295  # but for steps that turn a corner


def test_a_walk_is_a_function_of_its_seed() -> None:
    places = []
    for seed in (1, 1, 2):
        walker = walk(seed)
        for _ in range(200):
            walker.advance(0.1)
        places.append(walker.position_m)
    assert np.array_equal(places[0], places[1])
    assert not np.array_equal(places[0], places[2])


def test_walks_reach_the_whole_grid() -> None:
    walker, visited = walk(5, speed_m_s=20.0), set()
    for _ in range(3000):
        walker.advance(0.05)
        visited.add(int(np.argmin(np.linalg.norm(grid() - walker.position_m, axis=1))))
    assert len(visited) == len(grid())


def test_walkers_mostly_go_straight_on() -> None:
    walker, turns, steps = walk(9, speed_m_s=SPACING_M), 0, 400
    for _ in range(steps):
        before = walker.velocity_m_s
        walker.advance(1.0)
        turns += bool(before @ walker.velocity_m_s < 0.5 * SPACING_M**2)
    assert turns < 0.6 * steps


@pytest.mark.parametrize("points", [[(1.0, 2.0, 1.5)], [(0.0, 0.0, 1.5), (50.0, 0.0, 1.5)]])
def test_who_has_nowhere_to_go_stands_still(points: list[tuple[float, float, float]]) -> None:
    walker = walk(1, grid_m=np.array(points))
    start = walker.position_m.copy()
    walker.advance(100.0)
    assert np.array_equal(walker.position_m, start)
    assert np.array_equal(walker.velocity_m_s, np.zeros(3))


def test_a_doubled_grid_point_is_one_place() -> None:
    walker = walk(1, grid_m=np.array([(0.0, 0.0, 1.5), (0.0, 0.0, 1.5), (2.0, 0.0, 1.5)]))
    for _ in range(50):
        walker.advance(0.7)
        assert off_segments_m(walker.position_m, np.array([(0.0, 0.0, 1.5), (2.0, 0.0, 1.5)])) < 1e-12


def error_track(seconds: float, steps: int, sigma_m: float = 0.5, correlation_s: float = 2.0, seed: int = 3) -> Real:
    error = PositionError(sigma_m, correlation_s, np.random.default_rng(seed))
    track = [error.error_m.copy()]
    for _ in range(steps):
        error.advance(seconds)
        track.append(error.error_m.copy())
    return np.array(track)


def test_errors_have_their_strength() -> None:
    """Steps of five correlation times: independent samples, chi-square at 5 sigma."""
    track = error_track(10.0, 5000)
    count = track.size
    assert abs(np.mean(track**2) / 0.25 - 1) < 5 * np.sqrt(2 / count)
    assert abs(np.mean(track)) < 5 * 0.5 / np.sqrt(count)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 4.0])
def test_errors_are_correlated_as_long_as_said(seconds: float) -> None:
    """What is new in a step is white and exp(-2 t / T) short of the whole variance."""
    track = error_track(seconds, 20_000)
    keep = np.exp(-seconds / 2.0)
    news = track[1:] - keep * track[:-1]
    count = news.size
    assert abs(np.mean(news**2) / (0.25 * (1 - keep**2)) - 1) < 5 * np.sqrt(2 / count)
    assert abs(np.mean(news * track[:-1])) < 5 * np.sqrt(np.mean(news**2) * 0.25 / count)
    assert abs(np.mean(news[1:] * news[:-1])) < 5 * np.mean(news**2) / np.sqrt(count)


def test_no_error_is_none() -> None:
    assert np.array_equal(error_track(0.3, 10, sigma_m=0.0), np.zeros((11, 3)))
    held = error_track(0.0, 5)
    assert np.array_equal(held, np.repeat(held[:1], 6, axis=0))
