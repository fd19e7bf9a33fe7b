"""The F1-score is P5's eq. 12-14 to the letter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sim.fidelity.similarity import mesh_similarity, similarity, surface_points_m
from sim.meshes import Mesh
from tests.sim.fidelity.houses import box, ground

Real = npt.NDArray[np.float64]


def by_hand(original: Real, made: Real, threshold_m: float) -> tuple[float, float, float]:
    """Eq. 12-14 by all distances."""
    distances = np.linalg.norm(original[:, None] - made[None], axis=2)
    precision = 100 * sum(bool(row.min() < threshold_m) for row in distances) / len(original)
    recall = 100 * sum(bool(column.min() < threshold_m) for column in distances.T) / len(made)
    return precision, recall, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("threshold_m", [0.1, 0.2, 0.5])
def test_the_score_is_that_of_all_distances(threshold_m: float) -> None:
    rng = np.random.default_rng(1)
    original, made = rng.random((200, 3)), rng.random((150, 3))
    found = similarity(original, made, threshold_m)
    assert (found.precision, found.recall, found.f1) == pytest.approx(by_hand(original, made, threshold_m))


def test_clouds_that_never_meet_score_nothing() -> None:
    found = similarity(np.zeros((5, 3)), np.ones((4, 3)), 0.5)
    assert (found.precision, found.recall, found.f1) == (0.0, 0.0, 0.0)
    assert similarity(np.zeros((5, 3)), np.zeros((0, 3)), 0.5).f1 == 0.0


def test_a_missing_half_lowers_precision_and_leaves_recall() -> None:
    """P5 names precision what the original's points find, so what is missing costs precision."""
    whole = ground(10.0)
    half = Mesh("half", whole.vertices_m * [0.5, 1.0, 1.0] - [5.0, 0.0, 0.0], whole.faces)
    found = mesh_similarity(whole, half, np.random.default_rng(0), threshold_m=0.5, points=100_000)
    assert found.recall > 99.9
    assert found.precision == pytest.approx(50 + 100 * 0.5 / 20, abs=1.0)  # and a margin as wide as the threshold


def test_a_lifted_copy_is_alike_beyond_its_lift_alone() -> None:
    low = ground(5.0)
    high = Mesh("high", low.vertices_m + np.array([0.0, 0.0, 0.3]), low.faces)
    rng = np.random.default_rng(0)
    assert mesh_similarity(low, high, rng, threshold_m=0.29).f1 == 0.0
    assert mesh_similarity(low, high, rng, threshold_m=0.5).f1 > 99.0


def test_the_threshold_of_the_paper_is_met_by_the_original_itself() -> None:
    house = box((0, 0, 0), (10, 8, 6))
    found = mesh_similarity(house, house, np.random.default_rng(0), points=2000)
    assert found.f1 > 99.5
    spacing_m = np.sqrt(2 * (80 + 60 + 48) / 2000)
    assert spacing_m < found.threshold_m < 5 * spacing_m


def test_points_lie_on_the_surface_evenly() -> None:
    house = box((0, 0, 0), (4.0, 2.0, 1.0))
    points = surface_points_m(house, 28_000, np.random.default_rng(0))
    on = [np.isclose(points, bound, atol=1e-12) for bound in (np.zeros(3), np.array([4.0, 2.0, 1.0]))]
    assert (on[0] | on[1]).any(axis=1).all()
    counts = np.stack([side.sum(axis=0) for side in on])  # of 28 m²: x = 0, y = 0, z = 0, and opposite
    np.testing.assert_allclose(counts, 1000.0 * np.array([[2, 4, 8], [2, 4, 8]]), rtol=0.08)
    top = points[on[1][:, 2]]
    np.testing.assert_allclose(top.mean(axis=0)[:2], [2.0, 1.0], atol=0.05)
    assert (
        len(surface_points_m(Mesh("none", np.zeros((0, 3)), np.zeros((0, 3), np.int64)), 5, np.random.default_rng()))
        == 0
    )
