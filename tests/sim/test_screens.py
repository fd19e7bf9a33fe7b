"""Screens attenuate as TR 38.901's model B says, and only those paths whose straight ends they stand on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from sim.paths import PathTable
from sim.screens import longest_leg, passed, shade
from tests.sim.hand_made import line_of_sight

pytestmark = pytest.mark.kernel

Real = npt.NDArray[np.float64]

WAVELENGTH_M = 299_792_458.0 / 3.5e9
TX_M, RX_M = np.array([0.0, 0.0, 10.0]), np.array([40.0, 5.0, 1.5])
BY_SIONNA = [  # screen, dB of the line of sight, dB with the source at infinity: BlockageModelB of Sionna 2.2
    ((38.0, 4.6, 1.0, 4.8, 1.4), 1.814025773709578, 1.835784173300693),
    ((30.0, 4.0, 1.6, 4.8, 3.2), 1.9580448213812487, 2.070802859959659),
    ((39.0, 5.1, 0.85, 0.3, 1.7), 1.0594658036987352, 1.058488663139316),
    ((20.0, 3.5, 4.0, 2.5, 12.0), 7.13459212376833, 5.766196949243975),
    ((41.0, 5.0, 1.5, 2.0, 2.0), 0.0, 0.0),
]


def unit(vector: Real) -> Real:
    return np.asarray(vector / np.linalg.norm(vector))


def loss_db(screen: tuple[float, ...], source_m: float | None = None) -> float:
    """Of the path from TX_M to RX_M."""
    way_m = float(np.linalg.norm(TX_M - RX_M)) if source_m is None else source_m
    return -20 * math.log10(passed(RX_M, unit(TX_M - RX_M), way_m, way_m, np.array(screen), WAVELENGTH_M))


@pytest.mark.parametrize(("screen", "los_db", "far_db"), BY_SIONNA)
def test_losses_are_those_of_sionna(screen: tuple[float, ...], los_db: float, far_db: float) -> None:
    assert loss_db(screen) == pytest.approx(los_db, abs=1e-6)
    assert loss_db(screen, 1e7) == pytest.approx(far_db, abs=1e-4)


def test_losses_are_those_of_the_formula(rng: np.random.Generator) -> None:
    """The four edges as points of two plans, one from above and one from the side, and the ways between them."""
    for _ in range(50):
        ahead_m, aside_m, above_m = rng.uniform(0.5, 29.5), rng.normal(), rng.normal()
        width_m, height_m = rng.uniform(0.2, 4.0, 2)
        factors = []
        for off_m, size_m in ((aside_m, width_m), (above_m, height_m)):
            total = 0.0
            for edge in (off_m - size_m / 2, off_m + size_m / 2):
                other = 2 * off_m - edge
                way_m = math.dist((0, 0), (ahead_m, edge)) + math.dist((ahead_m, edge), (30.0, 0.0))
                beside = edge * other > 0 and abs(edge) < abs(other)
                size = math.atan(math.pi / 2 * math.sqrt(math.pi / WAVELENGTH_M * (way_m - 30.0))) / math.pi
                total += -size if beside else size
            factors.append(total)
        screen = np.array([ahead_m, aside_m, above_m, width_m, height_m])
        found = passed(np.zeros(3), np.array([1.0, 0.0, 0.0]), 30.0, 30.0, screen, WAVELENGTH_M)
        assert found == pytest.approx(1 - factors[0] * factors[1], abs=1e-9)
        assert 0.0 <= found <= 1.0


def test_a_person_hides_little_and_a_wall_everything() -> None:
    assert 0 < loss_db((39.0, 5.0 - 1 / 8, 0.85, 0.3, 1.7)) < 6
    assert loss_db((20.0, 2.5, 5.0, 200.0, 200.0)) > 35
    assert loss_db((20.0, 40.0, 1.0, 2.0, 2.0)) < 0.05


# ---- where paths are straight -------------------------------------------------------------------------------------


def bounced(walls: list[tuple[Real, float]]) -> tuple[PathTable, list[Real]]:
    """A path from TX_M over mirrors n . x = d to RX_M, by images, and the places where it is reflected."""
    images = [TX_M]
    for normal, offset in walls:
        images.append(images[-1] - 2 * (images[-1] @ normal - offset) * normal)
    towards, places = RX_M, []
    for (normal, offset), image in zip(reversed(walls), reversed(images[1:]), strict=True):
        share = (offset - towards @ normal) / ((image - towards) @ normal)
        towards = towards + share * (image - towards)
        places.append(towards)
    places.reverse()
    mirror = np.eye(3)
    for normal, _ in reversed(walls):  # from the receiver's side to the transmitter's
        mirror = (np.eye(3) - 2 * np.outer(normal, normal)) @ mirror
    arrival, length_m = unit(images[-1] - RX_M), float(np.linalg.norm(images[-1] - RX_M))
    table = line_of_sight(TX_M, RX_M[None], WAVELENGTH_M)
    return (
        PathTable(
            offsets=table.offsets,
            gain=table.gain,
            length_m=np.array([length_m]),
            departure=-(mirror @ arrival)[None],
            arrival=arrival[None],
            kind=np.ones(1, np.uint8),
            reach_m=np.array([length_m]),
            mirror=mirror[None],
        ),
        places,
    )


def shaded(table: PathTable, screen: tuple[float, ...], moved_m: tuple[float, float, float] = (0, 0, 0)) -> float:
    left, step_m = np.empty(table.paths), np.array(moved_m, np.float64)
    shade(table.columns, 0, step_m, TX_M, RX_M + step_m, np.array([screen]), WAVELENGTH_M, left)
    return float(left[0])


WALL, OTHER = (np.array([0.0, 1.0, 0.0]), 12.0), (np.array([0.0, 1.0, 0.0]), -9.0)


def test_the_legs_of_one_reflection_are_found_exactly_and_of_more_never_too_short(rng: np.random.Generator) -> None:
    table, (place,) = bounced([WALL])
    np.testing.assert_allclose(table.departure[0], unit(place - TX_M), atol=1e-12)
    for here, there, direction in ((RX_M, TX_M, table.arrival[0]), (TX_M, RX_M, table.departure[0])):
        found = longest_leg(float(table.length_m[0]), there - here, direction)
        assert found == pytest.approx(float(np.linalg.norm(place - here)), rel=1e-9)
    table, places = bounced([OTHER, WALL])
    assert longest_leg(float(table.length_m[0]), TX_M - RX_M, table.arrival[0]) >= np.linalg.norm(places[-1] - RX_M)


def test_a_reflection_is_shaded_before_and_behind_its_wall_and_not_in_the_mirror() -> None:
    table, (place,) = bounced([WALL])
    near_user, near_bs = (0.7 * RX_M + 0.3 * place), (0.6 * TX_M + 0.4 * place)
    image = near_bs * np.array([1, -1, 1]) + np.array([0, 24.0, 0])
    for middle in (near_user, near_bs):
        assert shaded(table, (*middle, 3.0, 3.0)) < 0.5
    assert shaded(table, (*image, 3.0, 3.0)) > 0.95, "it stands behind the wall"
    one_end = passed(RX_M, table.arrival[0], float(table.length_m[0]), 1e9, np.array([*near_user, 3, 3]), WAVELENGTH_M)
    assert shaded(table, (*near_user, 3.0, 3.0)) == pytest.approx(one_end, rel=1e-9)


def test_a_line_of_sight_is_shaded_once_and_moves_with_its_user() -> None:
    table = line_of_sight(TX_M, RX_M[None], WAVELENGTH_M)
    middle = 0.5 * (TX_M + RX_M)
    assert shaded(table, (*middle, 2.0, 2.0)) == pytest.approx(10 ** (-loss_db((*middle, 2.0, 2.0)) / 20), rel=1e-12)
    moved = RX_M + np.array([0.0, 12.0, 0.0])
    assert shaded(table, (*middle, 2.0, 2.0), (0.0, 12.0, 0.0)) > 0.98
    assert shaded(table, (*(0.5 * (TX_M + moved)), 2.0, 2.0), (0.0, 12.0, 0.0)) < 0.5
    walled = PathTable(**(vars(table) | {"kind": np.array([4], np.uint8)}))  # straight through a wall
    assert shaded(walled, (*middle, 2.0, 2.0)) == shaded(table, (*middle, 2.0, 2.0))
