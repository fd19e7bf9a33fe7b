"""Paths become channels by the equations that every textbook has: each kernel, and all of them together.

The oracles sum over single paths and elements, with element positions and plain exponentials.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bundle import PathTable, SiteBundle, load_bundle
from sim.channels import SiteChannels, carry_paths, nearest_point, steer_panel, sum_panel, tone_gains
from sim.site import Panel, Ris, sites_folder
from tests.random_channels import complex_normal, unit_phases
from tests.sim.hand_made import (
    BS,
    RIS,
    SPEED_OF_LIGHT_M_S,
    free_space_bundle,
    line_of_sight,
    random_bundle,
    random_directions,
)

pytestmark = pytest.mark.kernel

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

PANELS = (
    Panel(position_m=(0, 0, 0), yaw_deg=33.0, pitch_deg=-12.0, rows=3, columns=4, spacing_wavelengths=0.7),
    Panel(position_m=(0, 0, 0), yaw_deg=-150.0, rows=1, columns=5),
    Panel(position_m=(0, 0, 0), pitch_deg=90.0, rows=4, columns=1),
    Panel(position_m=(0, 0, 0)),
)


# ---- the plain equations ----------------------------------------------------------------------------------------


def response(panel: Panel, direction: Real) -> Complex:
    """exp(j k r_e . u) over the elements, from their positions."""
    wavelength_m = 0.31
    wave = 2 * np.pi / wavelength_m
    return np.array([np.exp(1j * wave * (r @ direction)) for r in panel.element_positions_m(wavelength_m)])


def pattern(panel: Panel | None, direction: Real) -> float:
    """Amplitude of a RIS element towards `direction`, 1 for other panels: sqrt of gamma cos^(gamma / 2 - 1)."""
    if not isinstance(panel, Ris):
        return 1.0
    cosine = float(panel.rotation()[:, 0] @ direction)
    if cosine <= 0:
        return 0.0
    gamma = 4 * np.pi * panel.spacing_wavelengths**2
    return float(np.sqrt(gamma * cosine ** (gamma / 2 - 1)) * 10 ** (panel.efficiency_db / 40))


def moved(table: PathTable, link: int, step_m: Real) -> list[tuple[complex, float, Real]]:
    """(gain, length, departure) of a link's paths after the receiver moved: distance to the standing mirror image."""
    paths = []
    for row in range(table.offsets[link], table.offsets[link + 1]):
        image_m = table.arrival[row] * table.length_m[row]  # seen from where the receiver was
        length_m = float(np.linalg.norm(image_m - step_m))
        gain = table.gain[row] * table.length_m[row] / length_m
        departure = (step_m - image_m) / length_m if table.kind[row] == 0 else table.departure[row]
        paths.append((gain, length_m, departure))
    return paths


def turned(gain: complex, length_m: float, frequency_hz: float) -> complex:
    return complex(gain * np.exp(-2j * np.pi * frequency_hz * length_m / SPEED_OF_LIGHT_M_S))


def nearest(bundle: SiteBundle, position_m: Real) -> int:
    return int(np.argmin(np.linalg.norm(bundle.positions_m - position_m, axis=1)))


def plain_direct(bundle: SiteBundle, position_m: Real, offset_hz: float) -> Complex:
    link = nearest(bundle, position_m)
    paths = moved(bundle.bs_user, link, position_m - bundle.positions_m[link])
    out = np.zeros(bundle.site.bs.elements, np.complex128)
    for gain, length_m, departure in paths:
        out += turned(gain, length_m, bundle.site.carrier_hz + offset_hz) * response(bundle.site.bs, departure)
    return out


def plain_cascade(bundle: SiteBundle, position_m: Real, offset_hz: float) -> Complex:
    """Rows m + 1 by a sum over all pairs of a first and a second hop; each pair has the delay of both."""
    site = bundle.site
    rows = np.zeros(((site.ris.elements if site.ris else 0) + 1, site.bs.elements), np.complex128)
    rows[0] = plain_direct(bundle, position_m, offset_hz)
    if site.ris is None:
        return rows
    link, hop = nearest(bundle, position_m), bundle.bs_ris
    for gain, length_m, departure in moved(bundle.ris_user, link, position_m - bundle.positions_m[link]):
        leaving = pattern(site.ris, departure) * response(site.ris, departure)
        for row in range(hop.paths):
            entering = pattern(site.ris, hop.arrival[row]) * response(site.ris, hop.arrival[row])
            both = turned(gain * hop.gain[row], length_m + hop.length_m[row], site.carrier_hz + offset_hz)
            rows[1:] += both * np.outer(leaving * entering, response(site.bs, hop.departure[row]))
    return rows


# ---- kernels ----------------------------------------------------------------------------------------------------


def carried(
    gain: Complex, length_m: Real, departure: Real, arrival: Real, kind: npt.NDArray[np.uint8], step_m: Real
) -> tuple[Complex, Real, Real]:
    out = np.empty(len(gain), np.complex128), np.empty(len(gain)), np.empty((len(gain), 3))
    carry_paths(gain, length_m, departure, arrival, kind, step_m, *out)
    return out


def test_a_line_of_sight_path_is_carried_exactly(rng: np.random.Generator) -> None:
    source, receiver, step = rng.normal(size=(3, 3)) * 20
    way = receiver - source
    length = np.linalg.norm(way)
    gain, length_m, departure = carried(
        np.array([0.3j / length]),
        np.array([length]),
        way[None] / length,
        -way[None] / length,
        np.zeros(1, np.uint8),
        step,
    )
    new = receiver + step - source
    assert length_m[0] == pytest.approx(np.linalg.norm(new))
    np.testing.assert_allclose(departure[0], new / np.linalg.norm(new), atol=1e-12)
    assert gain[0] == pytest.approx(0.3j / np.linalg.norm(new))


def test_a_wall_reflection_is_carried_exactly(rng: np.random.Generator) -> None:
    """Image method: a wall at x = 0 mirrors the source; the path comes straight from there, wherever one stands."""
    source, receiver, step = np.array([4.0, 1.0, 9.0]), np.array([7.0, 30.0, 1.5]), np.array([0.4, -0.7, 0.1])
    image = source * [-1.0, 1.0, 1.0]
    before, after = image - receiver, image - (receiver + step)
    length, new_length = np.linalg.norm(before), np.linalg.norm(after)
    departure = random_directions(rng, 1)
    gain, length_m, leaves = carried(
        np.array([-0.2 / length + 0j]), np.array([length]), departure, before[None] / length, np.ones(1, np.uint8), step
    )
    # The way over the wall is as long as the straight line from the image.
    share = source[0] / (source[0] + receiver[0] + step[0])
    wall_point = source + share * ((receiver + step) * [-1.0, 1.0, 1.0] - source)
    assert wall_point[0] == pytest.approx(0.0)
    over_the_wall = np.linalg.norm(wall_point - source) + np.linalg.norm(receiver + step - wall_point)
    assert over_the_wall == pytest.approx(new_length)
    assert length_m[0] == pytest.approx(over_the_wall)
    assert gain[0] == pytest.approx(-0.2 / over_the_wall)
    assert np.array_equal(leaves, departure)


def test_nobody_stands_inside_the_source() -> None:
    """On top of the source the length stays positive, and all numbers finite."""
    gain, length_m, departure = carried(
        np.ones(1, np.complex128),
        np.array([2.0]),
        np.array([[-1.0, 0, 0]]),
        np.array([[1.0, 0, 0]]),
        np.zeros(1, np.uint8),
        np.array([2.0, 0, 0]),
    )
    assert length_m[0] > 0
    assert np.isfinite(gain).all()
    assert np.isfinite(departure).all()


@pytest.mark.parametrize("panel", PANELS)
def test_panels_respond_by_element_position(panel: Panel, rng: np.random.Generator) -> None:
    directions, coefficient = random_directions(rng, 4), complex_normal(rng, 4)
    _, left, up = panel.rotation().T.copy()
    step_rad = 2 * np.pi * panel.spacing_wavelengths
    steered, summed = np.empty((4, panel.elements), np.complex128), np.empty(panel.elements, np.complex128)
    steer_panel(directions, up, left, panel.rows, panel.columns, step_rad, steered)
    sum_panel(coefficient, directions, up, left, panel.rows, panel.columns, step_rad, summed)
    expected = np.stack([response(panel, direction) for direction in directions])
    np.testing.assert_allclose(steered, expected, atol=1e-11)
    np.testing.assert_allclose(summed, coefficient @ expected, atol=1e-11)


def test_a_large_panel_stays_exact(rng: np.random.Generator) -> None:
    """The geometric series of phases loses nothing over 256 columns."""
    panel = Panel(position_m=(0, 0, 0), yaw_deg=10.0, rows=2, columns=256)
    direction = random_directions(rng, 1)
    _, left, up = panel.rotation().T.copy()
    steered = np.empty((1, panel.elements), np.complex128)
    steer_panel(direction, up, left, 2, 256, np.pi, steered)
    np.testing.assert_allclose(steered[0], response(panel, direction[0]), atol=1e-10)


def test_no_paths_sum_to_silence() -> None:
    out = np.full(6, np.nan, np.complex128)
    sum_panel(np.zeros(0, np.complex128), np.zeros((0, 3)), np.zeros(3), np.zeros(3), 2, 3, np.pi, out)
    assert np.array_equal(out, np.zeros(6))


def test_tones_turn_with_the_delay(rng: np.random.Generator) -> None:
    gain, length_m = complex_normal(rng, 5), rng.uniform(1.0, 400.0, 5)
    tones_hz = np.array([-10e6, 0.0, 3.3e6])
    out = np.empty((5, 3), np.complex128)
    tone_gains(gain, length_m, 28e9, tones_hz, out)
    for path in range(5):
        for tone in range(3):
            expected = turned(gain[path], length_m[path], 28e9 + tones_hz[tone])
            assert abs(out[path, tone] - expected) < 1e-8 * abs(expected)


def test_the_nearest_point_is_the_nearest(rng: np.random.Generator) -> None:
    points = rng.normal(size=(50, 3))
    for position in rng.normal(size=(20, 3)) * 2:
        assert nearest_point(points, position) == np.argmin(np.linalg.norm(points - position, axis=1))
    assert nearest_point(np.zeros((3, 3)), np.ones(3)) == 0


# ---- channels ---------------------------------------------------------------------------------------------------


def positions(bundle: SiteBundle, rng: np.random.Generator) -> list[Real]:
    """A grid point, and places between grid points."""
    grid = bundle.positions_m
    return [grid[3], *(grid[rng.integers(len(grid), size=2)] + rng.uniform(-0.9, 0.9, (2, 3)))]


@pytest.mark.parametrize("ris", [True, False])
def test_the_cascade_is_the_sum_over_all_pairs_of_paths(ris: bool, rng: np.random.Generator) -> None:
    bundle = random_bundle(rng, ris=ris)
    channels = SiteChannels(bundle)
    assert (channels.antennas, channels.elements) == (6, 4 if ris else 0)
    for position in positions(bundle, rng):
        expected = plain_cascade(bundle, position, 0.0)
        size = np.abs(expected).max() + 1e-12
        np.testing.assert_allclose(channels.cascade(position), expected, atol=1e-9 * size)
        np.testing.assert_allclose(channels.direct(position), expected[0], atol=1e-9 * size)
        hop = np.asarray(channels.ris(position))[:, None] * channels.bs_ris
        np.testing.assert_allclose(hop, expected[1:], atol=1e-9 * size)


@pytest.mark.parametrize("ris", [True, False])
def test_every_tone_adds_the_delays_of_both_hops(ris: bool, rng: np.random.Generator) -> None:
    bundle = random_bundle(rng, ris=ris)
    channels = SiteChannels(bundle)
    tones_hz = np.array([-40e6, -1e3, 0.0, 25e6])
    theta = unit_phases(rng, channels.elements)
    for position in positions(bundle, rng):
        found = channels.effective_cfr(position, theta, tones_hz)
        direct = channels.direct_cfr(position, tones_hz)
        assert found.shape == direct.shape == (6, 4)
        for tone, offset_hz in enumerate(tones_hz):
            cascade = plain_cascade(bundle, position, offset_hz)
            size = np.abs(cascade).sum() + 1e-12
            np.testing.assert_allclose(direct[:, tone], cascade[0], atol=1e-9 * size)
            np.testing.assert_allclose(found[:, tone], np.append(1.0, theta) @ cascade, atol=1e-9 * size)


def test_at_the_carrier_the_effective_channel_is_theta_ext_times_the_cascade(rng: np.random.Generator) -> None:
    channels = SiteChannels(random_bundle(rng))
    for position in positions(channels.bundle, rng):
        theta = unit_phases(rng, 4)
        cascade = channels.cascade(position)
        found = channels.effective_cfr(position, theta, np.zeros(1))[:, 0]
        np.testing.assert_allclose(found, np.append(1.0, theta) @ cascade, atol=1e-12 * np.abs(cascade).sum())


def test_the_effective_channel_is_affine_in_theta(rng: np.random.Generator) -> None:
    channels = SiteChannels(random_bundle(rng))
    position, tones_hz = channels.bundle.positions_m[5], np.array([-1e6, 2e6])
    one, other = complex_normal(rng, 4), complex_normal(rng, 4)
    direct = channels.direct_cfr(position, tones_hz)

    def over_ris(theta: Complex) -> Complex:
        return channels.effective_cfr(position, theta, tones_hz) - direct

    size = np.abs(over_ris(one)).max()
    np.testing.assert_allclose(
        over_ris(2 * one - 3j * other), 2 * over_ris(one) - 3j * over_ris(other), atol=1e-9 * size
    )


def test_channels_are_linear_in_the_gains(rng: np.random.Generator) -> None:
    bundle = random_bundle(rng)
    louder = replace(
        bundle,
        bs_user=replace(bundle.bs_user, gain=2j * bundle.bs_user.gain),
        bs_ris=replace(bundle.bs_ris, gain=3 * bundle.bs_ris.gain),
        ris_user=replace(bundle.ris_user, gain=-1j * bundle.ris_user.gain),
    )
    position = bundle.positions_m[2]
    before, after = SiteChannels(bundle).cascade(position), SiteChannels(louder).cascade(position)
    np.testing.assert_allclose(after[0], 2j * before[0], rtol=1e-12)
    np.testing.assert_allclose(after[1:], -3j * before[1:], rtol=1e-12)


@given(st.tuples(st.floats(10, 18), st.floats(-8, -2), st.just(1.5)))
@settings(max_examples=25, deadline=None)
def test_free_space_is_friis_everywhere(position: tuple[float, float, float]) -> None:
    """One antenna, any place near the grid: |h| = lambda / (4 pi d), and its phase is -2 pi d / lambda."""
    bundle = free_space_bundle()
    site = bundle.site.model_copy(update={"bs": BS.model_copy(update={"rows": 1, "columns": 1})})
    channels = SiteChannels(replace(bundle, site=site))
    distance_m = np.linalg.norm(np.array(position) - np.array(BS.position_m))
    wavelength_m = SPEED_OF_LIGHT_M_S / 3.5e9
    expected = wavelength_m / (4 * np.pi * distance_m) * np.exp(-2j * np.pi * distance_m / wavelength_m)
    assert channels.direct(position)[0] == pytest.approx(expected, rel=1e-9)


def test_free_space_over_the_ris_is_the_two_hop_product() -> None:
    """Element m passes lambda^2 G(in) G(out) / (16 pi^2 d1 d2) exp(-jk (d1 + d2)), its phases by its position."""
    bundle = free_space_bundle()
    site = bundle.site.model_copy(update={"bs": BS.model_copy(update={"rows": 1, "columns": 1})})
    assert site.ris is not None
    channels = SiteChannels(replace(bundle, site=site))
    position = bundle.positions_m[7]
    wavelength_m = SPEED_OF_LIGHT_M_S / 3.5e9
    to_bs = np.array(BS.position_m) - np.array(RIS.position_m)
    to_user = position - np.array(RIS.position_m)
    first_m, second_m = np.linalg.norm(to_bs), np.linalg.norm(to_user)
    amplitude = (wavelength_m / (4 * np.pi)) ** 2 / (first_m * second_m)
    amplitude *= pattern(site.ris, to_bs / first_m) * pattern(site.ris, to_user / second_m)
    assert amplitude > 0
    for m, place in enumerate(site.ris.element_positions_m(wavelength_m)):
        # Far field: the way over an element is shorter by its position along both directions.
        way_m = first_m + second_m - place @ (to_bs / first_m + to_user / second_m)
        expected = amplitude * np.exp(-2j * np.pi * way_m / wavelength_m)
        assert channels.cascade(position)[1 + m, 0] == pytest.approx(expected, rel=1e-9)


def test_the_way_back_has_the_same_phase() -> None:
    """Reciprocity: single antennas that swap places hear each other alike."""
    wavelength_m = SPEED_OF_LIGHT_M_S / 3.5e9
    one, other = np.array([0.0, 0.0, 10.0]), np.array([14.0, -4.0, 1.5])
    found = []
    for here, there in ((one, other), (other, one)):
        bundle = free_space_bundle(ris=False)
        bs = BS.model_copy(update={"rows": 1, "columns": 1, "position_m": tuple(here)})
        moved_bundle = replace(
            bundle,
            site=bundle.site.model_copy(update={"bs": bs}),
            positions_m=there[None],
            bs_user=line_of_sight(here, there[None], wavelength_m),
        )
        found.append(SiteChannels(moved_bundle).direct(there)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_a_ris_that_looks_away_passes_nothing() -> None:
    channels = SiteChannels(free_space_bundle(facing=False))
    cascade = channels.cascade(channels.bundle.positions_m[0])
    assert np.abs(cascade[0]).min() > 0
    assert np.array_equal(cascade[1:], np.zeros((4, 6)))


def test_in_phase_elements_add_up() -> None:
    """theta that turns every element's path into phase with the direct one gives the sum of the moduli."""
    bundle = free_space_bundle()
    site = bundle.site.model_copy(update={"bs": BS.model_copy(update={"rows": 1, "columns": 1})})
    channels = SiteChannels(replace(bundle, site=site))
    position = bundle.positions_m[4]
    cascade = channels.cascade(position)[:, 0]
    theta = np.exp(1j * (np.angle(cascade[0]) - np.angle(cascade[1:])))
    effective = channels.effective_cfr(position, theta, np.zeros(1))[0, 0]
    assert abs(effective) == pytest.approx(np.abs(cascade).sum(), rel=1e-12)


def test_nearest_tells_how_far(rng: np.random.Generator) -> None:
    channels = SiteChannels(random_bundle(rng))
    index, distance_m = channels.nearest(channels.bundle.positions_m[6] + [0.3, 0.0, 0.4])
    assert index == 6
    assert distance_m == pytest.approx(0.5)


def test_array_response_is_the_base_stations(rng: np.random.Generator) -> None:
    channels = SiteChannels(random_bundle(rng))
    directions = random_directions(rng, 3)
    expected = np.stack([response(BS, direction) for direction in directions])
    np.testing.assert_allclose(channels.array_response(directions), expected, atol=1e-12)


def test_munich_between_grid_points_is_continuous() -> None:
    """A millimetre further every path turns by no more than a millimetre's phase."""
    bundle = load_bundle(sites_folder() / "munich" / "twin.h5")
    channels = SiteChannels(bundle)
    table = bundle.bs_user
    in_sight = next(link for link in range(table.links) if 0 in table.kind[table.rows(link)])
    position = bundle.positions_m[in_sight] + np.array([0.3, 0.2, 0.0])
    change = channels.direct(position + np.array([1e-3, 0.0, 0.0])) - channels.direct(position)
    turn_rad = 2 * np.pi * 1e-3 / bundle.site.wavelength_m
    assert 0 < np.abs(change).max() < 1.1 * turn_rad * np.abs(table.gain[table.rows(in_sight)]).sum()
