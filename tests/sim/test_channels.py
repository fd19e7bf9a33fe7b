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

from sim.bundle import SiteBundle, load_bundle
from sim.channels import SiteChannels, panel_elements
from sim.paths import Columns, PathTable
from sim.site import Panel, Ris, sites_folder
from sim.synthesis import add_steered, carry_paths, nearest_point, stack_cascades, steer, sum_links, tone_gains
from tests.random_channels import complex_normal, unit_phases
from tests.sim.hand_made import (
    BS,
    RIS,
    SPEED_OF_LIGHT_M_S,
    free_space_bundle,
    line_of_sight,
    random_bundle,
    random_directions,
    random_table,
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
        image_m = table.arrival[row] * table.reach_m[row]  # seen from where the receiver was
        reach_m = float(np.linalg.norm(image_m - step_m))
        before_m = table.length_m[row] - table.reach_m[row]
        shares = np.array([table.reach_m[row] / reach_m, table.length_m[row] / (before_m + reach_m)])
        bent = table.kind[row] == 8
        gain = table.gain[row] * (np.sqrt(shares.prod()) if bent else shares[0])
        departure = table.departure[row] + table.mirror[row] @ (table.arrival[row] - (image_m - step_m) / reach_m)
        paths.append((gain, before_m + reach_m, departure / np.linalg.norm(departure)))
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
    gain: complex,
    length_m: float,
    departure: Real,
    arrival: Real,
    kind: int,
    reach_m: float,
    mirror: Real,
    step_m: Real,
) -> tuple[complex, float, Real]:
    """One path, carried."""
    out = np.empty(1, np.complex128), np.empty(1), np.empty((1, 3)), np.empty(1)
    columns = Columns(
        np.array([gain + 0j]),
        np.array([length_m]),
        departure[None],
        arrival[None],
        np.array([kind], np.uint8),
        np.array([reach_m]),
        mirror[None],
    )
    carry_paths(columns, 0, step_m, *out)
    return complex(out[0][0]), float(out[1][0]), out[2][0]


def test_a_line_of_sight_path_is_carried_exactly(rng: np.random.Generator) -> None:
    source, receiver, step = rng.normal(size=(3, 3)) * 20
    way = receiver - source
    length = float(np.linalg.norm(way))
    gain, length_m, departure = carried(0.3j / length, length, way / length, -way / length, 0, length, np.eye(3), step)
    new = receiver + step - source
    assert length_m == pytest.approx(np.linalg.norm(new))
    np.testing.assert_allclose(departure, new / np.linalg.norm(new), atol=1e-12)
    assert gain == pytest.approx(0.3j / np.linalg.norm(new))


def over_walls(source: Real, receiver: Real, walls: list[tuple[Real, float]]) -> tuple[float, Real, Real, Real]:
    """Length, departure, arrival and product of reflections of the way over walls n . x = c, by images."""
    images = [source]
    for normal, place in walls:
        images.append(images[-1] - 2 * (images[-1] @ normal - place) * normal)
    point, arrival, mirror = receiver, images[-1] - receiver, np.eye(3)
    for (normal, place), image in zip(reversed(walls), reversed(images[1:]), strict=True):
        point = point + (place - point @ normal) / ((image - point) @ normal) * (image - point)
    for normal, _ in walls:
        mirror = mirror @ (np.eye(3) - 2 * np.outer(normal, normal))
    way, length = point - source, float(np.linalg.norm(arrival))
    return length, way / np.linalg.norm(way), arrival / length, mirror


@pytest.mark.parametrize("bounces", [1, 2, 3])
def test_reflections_are_carried_exactly(bounces: int) -> None:
    """Every wall mirrors the source; length, gain and departure are those of the way over the walls from there on."""
    normals = np.array([[1.0, 0.2, 0.0], [-0.1, 1.0, 0.1], [0.0, 0.1, 1.0]])
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    walls = [(normals[0], -3.0), (normals[1], 40.0), (normals[2], 0.0)][:bounces]
    source, receiver, step = np.array([4.0, 1.0, 9.0]), np.array([7.0, 30.0, 1.5]), np.array([0.8, -0.9, 0.3])
    length, departure, arrival, mirror = over_walls(source, receiver, walls)
    gain, length_m, leaves = carried(-0.2 / length, length, departure, arrival, 1, length, mirror, step)
    new_length, new_departure, _, _ = over_walls(source, receiver + step, walls)
    assert length_m == pytest.approx(new_length, rel=1e-12)
    assert gain == pytest.approx(-0.2 / new_length)
    np.testing.assert_allclose(leaves, new_departure, atol=1e-12)


@pytest.mark.parametrize(("kind", "falls"), [(2, "1/s"), (8, "1/sqrt(s (s + s'))")])
def test_what_a_wall_scatters_or_an_edge_bends_comes_from_there(kind: int, falls: str) -> None:
    source, corner, receiver = np.array([0.0, 0.0, 10.0]), np.array([20.0, 5.0, 8.0]), np.array([24.0, 30.0, 1.5])
    step = np.array([0.5, 1.0, 0.0])
    before, after = np.linalg.norm(corner - source), np.linalg.norm(receiver - corner)
    departure, arrival = (corner - source) / before, (corner - receiver) / after
    gain, length_m, leaves = carried(
        0.01, float(before + after), departure, arrival, kind, float(after), np.zeros((3, 3)), step
    )
    new = np.linalg.norm(receiver + step - corner)
    assert length_m == pytest.approx(before + new)
    share = after / new if falls == "1/s" else np.sqrt(after * (after + before) / (new * (new + before)))
    assert gain == pytest.approx(0.01 * share)
    np.testing.assert_allclose(leaves, departure, atol=1e-15)


def test_nobody_stands_inside_the_source() -> None:
    """On top of the source the length stays positive, and all numbers finite."""
    x = np.array([1.0, 0, 0])
    gain, length_m, departure = carried(1.0, 2.0, -x, x, 0, 2.0, np.eye(3), 2.0 * x)
    assert length_m > 0
    assert np.isfinite(gain)
    assert np.isfinite(departure).all()


@pytest.mark.parametrize("panel", PANELS)
def test_panels_respond_by_element_position(panel: Panel, rng: np.random.Generator) -> None:
    directions, coefficient = random_directions(rng, 4), complex_normal(rng, 4)
    elements = panel_elements(panel)
    steered, sums = np.empty((4, panel.elements), np.complex128), np.zeros((2, panel.elements))
    steer(directions, np.zeros(4), elements, steered)
    for path in range(4):
        add_steered(coefficient[path], directions[path], 0.0, elements, np.empty((4, panel.columns)), sums)
    expected = np.stack([pattern(panel, direction) * response(panel, direction) for direction in directions])
    np.testing.assert_allclose(steered, expected, atol=1e-11)
    plain = np.stack([response(panel, direction) for direction in directions])
    np.testing.assert_allclose(sums[0] + 1j * sums[1], coefficient @ plain, atol=1e-11)


def test_a_large_panel_stays_exact(rng: np.random.Generator) -> None:
    """The geometric series of phases loses nothing over 256 columns."""
    panel = Panel(position_m=(0, 0, 0), yaw_deg=10.0, rows=2, columns=256)
    direction = random_directions(rng, 1)
    steered = np.empty((1, panel.elements), np.complex128)
    steer(direction, np.zeros(1), panel_elements(panel), steered)
    np.testing.assert_allclose(steered[0], response(panel, direction[0]), atol=1e-10)


@pytest.mark.parametrize("spacing", [0.4, 0.5, 0.8])
@pytest.mark.parametrize("efficiency_db", [0.0, -3.0])
def test_a_ris_element_radiates_what_it_is_fed(spacing: float, efficiency_db: float) -> None:
    """The mean of the power pattern over all directions is what one of two passes through the element keeps."""
    ris = Ris(position_m=(0.0, 0.0, 0.0), spacing_wavelengths=spacing, efficiency_db=efficiency_db)
    edges = np.linspace(-1.0, 1.0, 2001)
    middles = (edges[1:] + edges[:-1]) / 2
    found = amplitudes(ris, middles)
    assert np.mean(found**2) == pytest.approx(10 ** (efficiency_db / 20), rel=1e-3)


def amplitudes(ris: Ris, cosines: Real) -> Real:
    """Amplitude pattern of a single element by the cosine of the angle from boresight."""
    single = ris.model_copy(update={"rows": 1, "columns": 1})
    directions = np.stack([cosines, np.sqrt(1 - cosines**2), np.zeros(len(cosines))], axis=1)
    out = np.empty((len(cosines), 1), np.complex128)
    steer(directions, np.zeros(len(cosines)), panel_elements(single), out)
    return np.abs(out[:, 0])


def test_a_ris_element_sees_nothing_behind() -> None:
    ris = Ris(position_m=(0.0, 0.0, 0.0))
    assert np.array_equal(amplitudes(ris, np.array([-1.0, -0.2, 0.0])), np.zeros(3))
    assert amplitudes(ris, np.ones(1))[0] == pytest.approx(np.sqrt(np.pi))
    dense = Ris(position_m=(0.0, 0.0, 0.0), spacing_wavelengths=0.1)
    assert amplitudes(dense, np.array([0.0, -1.0])).max() == 0


@pytest.mark.parametrize("panel", [PANELS[0], RIS])
def test_links_add_up_their_paths_where_each_user_stands(panel: Panel, rng: np.random.Generator) -> None:
    table = random_table(rng, [3, 0, 2, 4])
    links, steps_m = np.array([2, 1, 0, 2]), rng.uniform(-1.0, 1.0, (4, 3))
    before, weights = complex_normal(rng, 4, panel.elements), rng.random(4)
    out = before.copy()
    sum_links(table.columns, table.offsets, links, steps_m, weights, 3.5e9, True, panel_elements(panel), out)
    for user, link in enumerate(links):
        expected = np.zeros(panel.elements, np.complex128)
        for gain, length_m, departure in moved(table, int(link), steps_m[user]):
            expected += turned(gain, length_m, 3.5e9) * pattern(panel, departure) * response(panel, departure)
        np.testing.assert_allclose(out[user], before[user] + weights[user] * expected, atol=1e-12)


def test_cascades_are_stacked_user_by_user(rng: np.random.Generator) -> None:
    direct, over_ris, hop = complex_normal(rng, 2, 3), complex_normal(rng, 2, 4), complex_normal(rng, 4, 3)
    out = np.empty((2, 5, 3), np.complex128)
    stack_cascades(direct, over_ris, hop, out)
    for user in range(2):
        np.testing.assert_allclose(out[user], np.vstack([direct[user], np.diag(over_ris[user]) @ hop]), rtol=1e-15)


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
    channels = SiteChannels(bundle, plane_waves=True)
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
    channels = SiteChannels(bundle, plane_waves=True)
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


def test_free_space_over_the_ris_is_the_product_of_both_ways() -> None:
    """Element m passes lambda^2 G(in) G(out) / (16 pi^2 d1 d2) exp(-jk (d1 + d2)), d from antenna n and to the user."""
    bundle = free_space_bundle()
    site = bundle.site
    assert site.ris is not None
    channels = SiteChannels(bundle)
    position = bundle.positions_m[7]
    wavelength_m = SPEED_OF_LIGHT_M_S / 3.5e9
    antennas_m = site.bs.element_positions_m(wavelength_m) + np.array(BS.position_m)
    elements_m = site.ris.element_positions_m(wavelength_m) + np.array(RIS.position_m)
    cascade = channels.cascade(position)
    for m, place in enumerate(elements_m):
        for n, antenna in enumerate(antennas_m):
            first_m, second_m = np.linalg.norm(antenna - place), np.linalg.norm(position - place)
            amplitude = (wavelength_m / (4 * np.pi)) ** 2 / (first_m * second_m)
            amplitude *= pattern(site.ris, (antenna - place) / first_m) * pattern(
                site.ris, (position - place) / second_m
            )
            assert amplitude > 0
            expected = amplitude * np.exp(-2j * np.pi * (first_m + second_m) / wavelength_m)
            assert cascade[1 + m, n] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("panel", [PANELS[0], Panel(position_m=(0, 0, 0), yaw_deg=40.0, rows=16, columns=16)])
def test_near_waves_are_bent(panel: Panel, rng: np.random.Generator) -> None:
    """Every element sees the way from itself; what is left is of third order in the panel's size over the distance."""
    wavelength_m, distance_m = 0.1, 25.0
    for direction in random_directions(rng, 8):
        out = np.empty((1, panel.elements), np.complex128)
        steer(direction[None], np.array([wavelength_m / (4 * np.pi * distance_m)]), panel_elements(panel), out)
        places_m = panel.element_positions_m(wavelength_m)
        ways_m = np.linalg.norm(distance_m * direction - places_m, axis=1)
        expected = distance_m / ways_m * np.exp(-2j * np.pi / wavelength_m * (ways_m - distance_m))
        size_m = np.linalg.norm(places_m, axis=1).max()
        third = 2 * np.pi / wavelength_m * size_m**3 / distance_m**2 + (size_m / distance_m) ** 2
        assert np.abs(out[0] - expected).max() < third
        assert np.abs(out[0] - response(panel, direction)).max() > 10 * third  # a plane wave is further off


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
