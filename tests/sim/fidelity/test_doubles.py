"""A reflection that was found twice counts once; what merely looks like it counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.fidelity.doubles import without_doubles
from sim.paths import COLUMNS, DIFFUSE, SPECULAR, PathTable, merged
from tests.sim.hand_made import random_table


def reflected(counts: list[int]) -> PathTable:
    """Paths of one reflection each."""
    table = random_table(np.random.default_rng(2), counts)
    return replace(table, kind=np.full(table.paths, SPECULAR, np.uint8))


def assert_same(left: PathTable, right: PathTable) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_a_table_without_doubles_stays() -> None:
    table = reflected([4, 0, 6, 1])
    assert_same(without_doubles(table), table)


def test_paths_found_again_are_dropped_link_by_link() -> None:
    table = reflected([4, 0, 6, 1])
    again = replace(table, length_m=table.length_m + 1e-3)
    assert_same(without_doubles(merged(table, merged(again, again))), table)


def test_other_lengths_directions_and_kinds_are_other_paths() -> None:
    table = reflected([4, 0, 6, 1])
    turned = np.roll(table.arrival, 1, axis=0)
    for other in (
        replace(table, length_m=table.length_m + 0.01),
        replace(table, arrival=turned),
        replace(table, departure=turned),
        replace(table, kind=np.full(table.paths, SPECULAR | 4, np.uint8)),
    ):
        assert without_doubles(merged(table, other)).paths == 2 * table.paths


def test_diffuse_paths_are_samples_and_stay() -> None:
    table = replace(reflected([3, 2]), kind=np.full(5, SPECULAR | DIFFUSE, np.uint8))
    assert without_doubles(merged(table, table)).paths == 10
