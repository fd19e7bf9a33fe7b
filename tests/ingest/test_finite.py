"""Numbers that are none, wherever they are."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.finite import all_finite


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 777, -1])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_number_that_is_none_is_seen_wherever_it_is(poison: float, place: int, kind: type[np.floating]) -> None:
    numbers = np.ones(4099, kind)
    assert all_finite(numbers)
    numbers[place] = poison
    assert not all_finite(numbers)


def test_numbers_whose_squares_run_over_are_numbers() -> None:
    assert all_finite(np.full(1000, 3e38, np.float32))
    assert not all_finite(np.r_[np.full(1000, 3e38), np.nan].astype(np.float32))
