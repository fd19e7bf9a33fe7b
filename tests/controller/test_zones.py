"""Zones tile the ground: every place has one, near places share it, far ones do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.zones import WHOLE_SITE, GridZones, WholeSite

METRES = st.floats(-1e5, 1e5)
PLACES = st.tuples(METRES, METRES, METRES)


@given(PLACES)
def test_the_whole_site_is_one_zone(place: tuple[float, float, float]) -> None:
    assert WholeSite().zone_of(place) == WHOLE_SITE


@pytest.mark.parametrize("zones", [WholeSite(), GridZones(20.0)])
def test_who_tells_no_position_shares_the_sites(zones: WholeSite | GridZones) -> None:
    assert zones.zone_of(None) == WHOLE_SITE


@given(PLACES, st.floats(0.5, 500.0))
def test_a_cell_holds_what_lies_within_its_square(place: tuple[float, float, float], cell_m: float) -> None:
    column, row = (int(index) for index in GridZones(cell_m).zone_of(place).split(":"))
    slack = 1e-9 * (1 + max(abs(place[0]), abs(place[1])))
    assert column * cell_m - slack <= place[0] <= (column + 1) * cell_m + slack
    assert row * cell_m - slack <= place[1] <= (row + 1) * cell_m + slack


@pytest.mark.parametrize(
    ("place", "zone"),
    [
        ((0.0, 0.0, 1.5), "0:0"),
        ((19.99, 0.0, 30.0), "0:0"),
        ((20.0, 0.0, 1.5), "1:0"),
        ((-0.01, 45.0, 1.5), "-1:2"),
        ((-20.0, -20.01, 1.5), "-1:-2"),
        ((-0.0, 0.0, 1.5), "0:0"),
    ],
)
def test_cells_are_half_open_and_no_two_meet_at_zero(place: tuple[float, float, float], zone: str) -> None:
    assert GridZones(20.0).zone_of(place) == zone
