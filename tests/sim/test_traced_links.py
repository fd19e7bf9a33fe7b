"""How paths move with their receivers, from the places where they meet walls and edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import TwinbeamError
from sim.traced_links import Chains, motion

Real = npt.NDArray[np.float64]

SOURCE = np.array([0.0, 0.0, 10.0])
RECEIVER = np.array([30.0, 4.0, 1.5])


def chain(*steps: tuple[int, tuple[float, float, float]], depth: int = 3) -> Chains:
    """One path over the given (kind, place), padded with NaN as nobody should read."""
    kinds, places = np.zeros((1, depth), np.uint8), np.full((1, depth, 3), np.nan)
    for index, (kind, place) in enumerate(steps):
        kinds[0, index], places[0, index] = kind, place
    return Chains(kinds, places, SOURCE, RECEIVER[None])


def length_m(chains: Chains) -> Real:
    points = [SOURCE, *chains.vertices_m[0][chains.kinds[0] > 0], RECEIVER]
    return np.array([np.linalg.norm(np.diff(points, axis=0), axis=1).sum()])


def ends(chains: Chains) -> tuple[Real, Real]:
    """Departure and arrival."""
    points = [SOURCE, *chains.vertices_m[0][chains.kinds[0] > 0], RECEIVER]
    away, back = points[1] - points[0], points[-2] - points[-1]
    return away / np.linalg.norm(away), back / np.linalg.norm(back)


@pytest.mark.parametrize(
    "steps", [[], [(1, (12.0, 30.0, 6.0))], [(1, (12.0, 30.0, 6.0)), (1, (20.0, -9.0, 3.0)), (1, (28.0, 2.0, 0.0))]]
)
def test_a_mirrored_path_reaches_back_to_its_source(steps: list[tuple[int, tuple[float, float, float]]]) -> None:
    chains = chain(*steps)
    reach_m, mirror = motion(chains, length_m(chains))
    departure, arrival = ends(chains)
    assert reach_m == pytest.approx(length_m(chains))
    np.testing.assert_allclose(mirror[0] @ mirror[0].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(mirror[0]) == pytest.approx((-1.0) ** len(steps))
    np.testing.assert_allclose(-mirror[0] @ arrival, departure, atol=1e-12)


@pytest.mark.parametrize("kind", [2, 8])
def test_a_scattered_path_reaches_back_to_the_last_such_place(kind: int) -> None:
    chains = chain((1, (12.0, 30.0, 6.0)), (kind, (20.0, -9.0, 3.0)), (1, (28.0, 2.0, 0.0)))
    reach_m, mirror = motion(chains, length_m(chains))
    after = np.linalg.norm([8.0, 11.0, -3.0]) + np.linalg.norm(RECEIVER - [28.0, 2.0, 0.0])
    assert reach_m[0] == pytest.approx(after)
    assert not mirror.any()


def test_waves_go_straight_through_walls() -> None:
    """What is passed through changes neither direction nor image."""
    share = 0.4 * SOURCE + 0.6 * RECEIVER
    chains = chain((4, (share[0], share[1], share[2])))
    reach_m, mirror = motion(chains, length_m(chains))
    assert reach_m == pytest.approx(length_m(chains))
    np.testing.assert_allclose(mirror[0], np.eye(3), atol=1e-12)


def test_a_path_without_a_place_is_told() -> None:
    with pytest.raises(TwinbeamError, match="without places"):
        motion(chain((1, (np.nan, 0.0, 0.0))), np.array([10.0]))


def test_no_paths_have_no_motion() -> None:
    none = Chains(np.zeros((0, 3), np.uint8), np.zeros((0, 3, 3)), SOURCE, np.zeros((0, 3)))
    reach_m, mirror = motion(none, np.zeros(0))
    assert (reach_m.shape, mirror.shape) == ((0,), (0, 3, 3))
