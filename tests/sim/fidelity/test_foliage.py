"""Metres of trees on a path are what stepping along it counts, and cost what the models say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from sim.fidelity.foliage import crossed, loss_db, path_amplitudes
from sim.fidelity.knobs import FoliageSettings, Tree

Real = npt.NDArray[np.float64]


def stepped_m(path: Real, tree: Tree, steps: int = 20_000) -> float:
    """Metres of one path [V, 3] in a tree, by asking of many points on it whether they are inside."""
    total = 0.0
    yaw = np.radians(tree.yaw_deg)
    axes = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    for start, end in pairwise(path):
        share = (np.arange(steps) + 0.5)[:, None] / steps
        own = (start + share * (end - start) - tree.middle_m) @ axes.T / (np.array(tree.size_m) / 2)
        inside = (own**2).sum(axis=1) <= 1 if tree.shape == "ellipsoid" else (np.abs(own) <= 1).all(axis=1)
        total += inside.mean() * np.linalg.norm(end - start)
    return float(total)


@pytest.mark.parametrize("shape", ["box", "ellipsoid"])
def test_what_is_crossed_is_what_stepping_counts(shape: str) -> None:
    rng = np.random.default_rng(4)
    tree = Tree(middle_m=(1.0, -2.0, 5.0), size_m=(6.0, 3.0, 8.0), shape=shape, yaw_deg=35.0)
    paths = rng.normal(size=(40, 4, 3)) * 5 + [1.0, -2.0, 5.0]
    expected = [stepped_m(path, tree) for path in paths]
    assert np.count_nonzero(expected) >= 15
    np.testing.assert_allclose(crossed(paths, tree), expected, atol=5e-3)


@pytest.mark.parametrize("shape", ["box", "ellipsoid"])
def test_a_way_through_the_middle_crosses_all_of_it(shape: str) -> None:
    tree = Tree(middle_m=(0.0, 0.0, 5.0), size_m=(6.0, 4.0, 8.0), shape=shape)
    paths = np.array(
        [
            [[-50.0, 0.0, 5.0], [50.0, 0.0, 5.0], [50.0, 0.0, 5.0]],  # along x, last corner repeated
            [[0.0, 0.0, -9.0], [0.0, 0.0, 40.0], [0.0, 0.0, 40.0]],  # along z
            [[0.0, -1.0, 5.0], [0.0, 1.0, 5.0], [0.0, -1.0, 5.0]],  # there and back inside
            [[-50.0, 0.0, 9.5], [50.0, 0.0, 9.5], [50.0, 0.0, 9.5]],  # above
            [[-50.0, 0.0, 5.0], [-4.0, 0.0, 5.0], [-4.0, 0.0, 5.0]],  # ends before it
        ]
    )
    np.testing.assert_allclose(crossed(paths, tree), [6.0, 8.0, 4.0, 0.0, 0.0], atol=1e-12)


def test_a_chord_of_a_ball_beside_its_middle() -> None:
    tree = Tree(middle_m=(0.0, 0.0, 0.0), size_m=(10.0, 10.0, 10.0))
    path = np.array([[[-20.0, 3.0, 0.0], [20.0, 3.0, 0.0]]])
    np.testing.assert_allclose(crossed(path, tree), [8.0])  # 2 sqrt(5² - 3²)


def test_weissberger_costs_what_the_formula_says() -> None:
    """0.45 * 2^0.284 * 10 and so on, by hand; no more beyond 400 m."""
    weissberger = FoliageSettings(model="weissberger")
    assert loss_db(10.0, weissberger, 2e9) == pytest.approx(5.479, abs=1e-3)
    assert loss_db(50.0, weissberger, 2.4e9) == pytest.approx(17.02, abs=0.01)
    assert loss_db(100.0, weissberger, 0.9e9) == pytest.approx(19.36, abs=0.01)
    assert loss_db(900.0, weissberger, 1e9) == pytest.approx(1.33 * 400**0.588)
    assert abs(loss_db(14.001, weissberger, 1e9) - loss_db(14.0, weissberger, 1e9)) < 0.03


def test_p833_starts_at_its_rate_and_ends_at_its_limit() -> None:
    settings = FoliageSettings(model="p833", attenuation_db_m=0.5, limit_db=20.0)
    assert loss_db(0.01, settings, 3.5e9) == pytest.approx(0.005, rel=1e-3)
    assert loss_db(40.0, settings, 3.5e9) == pytest.approx(20 * (1 - np.exp(-1)))
    assert loss_db(1e5, settings, 3.5e9) == pytest.approx(20.0)


def test_the_paper_s_decibel_a_metre_weakens_paths_through_all_trees_together() -> None:
    trees = tuple(Tree(middle_m=(x, 0.0, 0.0), size_m=(4.0, 4.0, 4.0), shape="box") for x in (0.0, 20.0))
    paths = np.array([[[-10.0, 0.0, 0.0], [30.0, 0.0, 0.0]], [[-10.0, 9.0, 0.0], [30.0, 9.0, 0.0]]])
    amplitude = path_amplitudes(paths, FoliageSettings(trees=trees), 3.5e9)
    np.testing.assert_allclose(20 * np.log10(amplitude), [-8.0, 0.0], atol=1e-12)
    assert path_amplitudes(np.zeros((0, 2, 3)), FoliageSettings(trees=trees), 3.5e9).shape == (0,)
