"""Calibration gives back what was changed, keeps away from what it cannot know, and refuses what makes things worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame, no_array
from sim.calibration.calibrating import STAGES, Calibration, Choices, calibrate
from sim.calibration.correction import FILE, Correction, load_correction, save_correction
from sim.calibration.deepmimo_twin import moved
from sim.calibration.fitted_site import fitted_site
from sim.calibration.links import MeasuredLinks, Phase, divided_by_place, links_of, relative_residuals
from sim.calibration.report import in_numbers, zones
from sim.calibration.scatterer_fit import Residuals
from sim.calibration.scatterer_search import find_scatterers
from sim.calibration.scatterers import Scatterer, Scatterers, point_table
from sim.calibration.search_kernel import explained
from sim.calibration.walls import WallGains
from sim.site import Site
from tests.sim.calibration.mirrors import PLACES_M, SITE, TONES_HZ, channels, noisy, street, street_model

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]


def turned_site(yaw_deg: float, place_m: tuple[float, float, float] = (0.0, 0.0, 8.0)) -> Site:
    return SITE.model_copy(update={"bs": SITE.bs.model_copy(update={"yaw_deg": yaw_deg, "position_m": place_m})})


def measured(true: Complex, seed: int = 3) -> MeasuredLinks:
    cfr, noise = noisy(np.random.default_rng(seed), true)
    return MeasuredLinks(PLACES_M, cfr, TONES_HZ, noise)


def calibrated(links: MeasuredLinks, **choices: object) -> Calibration:
    model = street_model(SITE, street())
    told = msgspec.convert({"scatterers": 0, **choices}, Choices)
    return calibrate(model, links, told, lambda state: moved(model, state, fitted_site(SITE, state)))


@pytest.mark.parametrize("phase", ["free", "told"])
def test_a_turned_array_is_found(phase: Phase) -> None:
    true = channels(turned_site(2.0), street())
    turns = np.exp(2j * np.pi * np.random.default_rng(5).random(len(true))) if phase == "free" else np.ones(len(true))
    found = calibrated(measured(true * turns[:, None, None]), phase=phase)
    assert found.accepted
    assert np.degrees(found.physical.pose.yaw_rad) == pytest.approx(2.0, abs=0.02)
    held = found.division.held_out
    gained_db = 10 * np.log10(np.median(found.residuals[STAGES[0]][held]) / np.median(found.after[held]))
    assert gained_db > 20.0


def test_outliers_do_not_lead_the_fit() -> None:
    true = channels(turned_site(2.0), street())
    wrong = np.arange(len(true)) % 7 == 0
    true[wrong] = true[np.roll(np.flatnonzero(wrong), 1)]  # as if these users stood elsewhere than they say
    found = calibrated(measured(true))
    assert np.degrees(found.physical.pose.yaw_rad) == pytest.approx(2.0, abs=0.05)


def test_walls_get_the_gains_that_they_have() -> None:
    found = calibrated(measured(channels(SITE, street((1.0, -0.4, 0.6 * 0.5)))))
    walls = found.correction.walls
    wall, array = (int(np.argmin(np.linalg.norm(walls.sources_m - at, axis=1))) for at in ([0, 24, 8], [0, 0, 8]))
    # Only the ratio is told where phases are free; its phase is not tested, as a centimetre of the array's is a radian.
    assert abs(walls.gain[wall] / walls.gain[array]) == pytest.approx(0.5, abs=0.03)
    assert np.median(found.after[found.division.held_out]) < 10**-2.5


def test_frames_of_another_place_are_refused() -> None:
    rng = np.random.default_rng(8)
    other = street(places_m=PLACES_M[rng.permutation(len(PLACES_M))])
    found = calibrated(measured(channels(turned_site(70.0), other)))
    before, after = (np.median(found.residuals[stage][found.division.held_out]) for stage in (STAGES[0], STAGES[-1]))
    assert found.accepted == (after < before)
    assert after > 0.5  # nothing that it did can explain them
    report = in_numbers(SITE, measured(channels(SITE, street())), found, 20.0)
    assert {zone["trust"] for zone in report["zones"]} <= {"no", "not judged"}


def test_zones_are_judged_by_what_was_not_fitted() -> None:
    links = measured(channels(turned_site(2.0), street()))
    found = calibrated(links)
    for zone in zones(links, found, 20.0):
        low = np.array(zone["corner_m"])
        here = np.all((PLACES_M[:, :2] >= low) & (PLACES_M[:, :2] < low + 20.0), axis=1)
        judging = here & ~found.division.fitted
        assert (zone["links"], zone["judged_by"]) == (here.sum(), judging.sum())
        if judging.any():
            pooled = np.sum(found.after[judging] * links.power[judging]) / np.sum(links.power[judging])
            assert zone["after_db"]["pooled"] == pytest.approx(10 * np.log10(pooled), abs=0.01)
            assert zone["trust"] == "yes"


def test_division_is_by_squares() -> None:
    parts = divided_by_place(PLACES_M, square_m=8.0, seed=4)
    assert np.all(parts.fitted.astype(int) + parts.validating + parts.held_out == 1)
    squares = np.floor(PLACES_M[:, :2] / 8.0)
    for square in np.unique(squares, axis=0):
        assert (
            len(
                {
                    (a, b)
                    for a, b in zip(
                        parts.fitted[np.all(squares == square, axis=1)],
                        parts.held_out[np.all(squares == square, axis=1)],
                        strict=True,
                    )
                }
            )
            == 1
        )
    with pytest.raises(InputRefused, match="squares"):
        divided_by_place(PLACES_M, square_m=1000.0, seed=1)


@pytest.mark.kernel
def test_explained_energy_is_the_sum_over_patches() -> None:
    rng = np.random.default_rng(2)
    antennas, links, bins, step_m, wave = 3, 5, 40, 2.0, 7.0
    candidates_m, receivers_m = rng.uniform(0, 30, (4, 3)), rng.uniform(0, 30, (links, 3))
    responses = np.exp(2j * np.pi * rng.random((4, antennas)))
    before_m = rng.uniform(5, 20, 4)
    profiles = rng.normal(size=(links, bins, antennas)) + 1j * rng.normal(size=(links, bins, antennas))
    patches = np.array([0, 0, 1, 2, 2])
    out = np.empty(4)
    weights = rng.uniform(0.5, 2.0, links)
    explained(responses, before_m, candidates_m, receivers_m, profiles, step_m, patches, weights, wave, out)
    for p in range(4):
        expected = 0.0
        for patch in range(3):
            unit, held = [], []
            for k in np.flatnonzero(patches == patch):
                after_m = np.linalg.norm(candidates_m[p] - receivers_m[k])
                way_m = before_m[p] + after_m
                unit.append(np.sqrt(weights[k]) / after_m * responses[p] * np.exp(-1j * wave * way_m))
                held.append(np.sqrt(weights[k]) * profiles[k, round(way_m / step_m)])
            # What the best gain of the patch takes out, but for the common number of antennas and tones.
            model, data = np.concatenate(unit), np.concatenate(held)
            expected += antennas * abs(np.vdot(model, data)) ** 2 / np.vdot(model, model).real
        assert out[p] == pytest.approx(expected, rel=1e-9)


def test_scatterers_are_found_where_they_are() -> None:
    rng = np.random.default_rng(6)
    x, y = np.meshgrid(np.arange(20.0, 60.0, 4.0), np.arange(-8.0, 9.0, 4.0))
    places_m = np.column_stack([x.reshape(-1), y.reshape(-1), np.full(x.size, 1.5)])
    array_m, wavelength_m = np.array(SITE.bs.position_m), SITE.wavelength_m
    arrays = street_model(SITE, street()).arrays(street_model(SITE, street()).start.pose)
    points = [Scatterer(np.array(place_m), 2.0 * np.exp(1j * turn), (places_m[:, 0] > edge_m) * 1.0)
              for place_m, turn, edge_m in (((34.0, 6.5, 3.0), 0.3, 0.0), ((52.0, -7.0, 2.0), 2.0, 36.0))]  # fmt: skip

    def field(of_m: Real, index: int, visible: Real) -> Complex:
        table = point_table(points[index], array_m, of_m, wavelength_m)
        phases, tones = arrays.per_path(table, TONES_HZ)
        return np.asarray(phases[:, :, None] * (visible[:, None] * tones)[:, None, :])

    true = field(places_m, 0, points[0].visible) + field(places_m, 1, points[1].visible)
    cfr, _ = noisy(rng, true + 1e-3 * np.abs(true).mean(), 25.0)
    links = Residuals(places_m, cfr, TONES_HZ)
    validating = np.arange(len(places_m)) % 4 == 0
    found = find_scatterers(links.chosen(~validating), links.chosen(validating), arrays, array_m, most=4)
    for point in points:
        nearest = min(found.points, key=lambda one: float(np.linalg.norm(one.position_m - point.position_m)))
        assert np.linalg.norm(nearest.position_m - point.position_m) < 0.05
        assert abs(nearest.gain - point.gain) < 0.2 * abs(point.gain)
    between_m = np.array([[30.0, 2.0, 1.5], [46.0, -2.0, 1.5]])
    table = found.table(array_m, between_m, wavelength_m)
    phases, tones = arrays.per_path(table, TONES_HZ)
    told = np.stack([phases[table.rows(k)].T @ tones[table.rows(k)] for k in range(2)])
    expected = field(between_m, 0, np.ones(2)) + field(between_m, 1, np.array([0.0, 1.0]))
    assert np.sum(np.abs(told - expected) ** 2) < 0.1 * np.sum(np.abs(expected) ** 2)


def some_correction() -> Correction:
    seen = np.array([1.0, 0.0, 1.0])
    points = (
        Scatterer(np.array([30.0, 1.0, 2.0]), 0.3 - 0.1j, seen),
        Scatterer(np.array([40.0, -2.0, 3.0]), 0.2j, 1 - seen),
    )
    walls = WallGains(np.array([[0.0, 24.0, 8.0]]), np.array([0.5 + 0.1j]))
    return Correction(walls, Scatterers(points, PLACES_M[:3]), np.array(SITE.bs.position_m), SITE.wavelength_m)


def test_a_correction_survives_its_file(tmp_path: Path) -> None:
    correction = some_correction()
    save_correction(correction, SITE, tmp_path)
    again = load_correction(SITE, tmp_path)
    assert again is not None
    table, mended, reread = street(), correction.applied(street(), PLACES_M), again.applied(street(), PLACES_M)
    np.testing.assert_array_equal(mended.gain, reread.gain)
    np.testing.assert_array_equal(mended.offsets, reread.offsets)
    assert mended.paths > table.paths
    rows = mended.rows(0)
    np.testing.assert_allclose(
        np.sort(np.abs(mended.gain[rows]))[-3:], np.sort(np.abs(table.gain[table.rows(0)] * [1, 1, abs(0.5 + 0.1j)]))
    )
    with pytest.raises(InputRefused, match="another state"):
        load_correction(turned_site(1.0), tmp_path)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(InputRefused, match="no correction"):
        load_correction(SITE, tmp_path)
    assert load_correction(SITE, tmp_path / "elsewhere") is None


def frame(**changes: object) -> ChannelFrame:
    cfr = np.ones((1, 8, 4), np.complex64)
    plain = ChannelFrame(
        source="test", epoch=0, seq=0, t_ns=0, user="u", block=0, domain="effective", noise_power=1e-3, snr_db=30.0,
        carrier_hz=3.5e9, position_m=(1.0, 2.0, 1.5), cfr=cfr, tones_hz=np.arange(4) * 1e6,
        ris_patterns=no_array(1, 0), beams=no_array(0, 8), cir=no_array(8, 0),
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def test_only_direct_channels_at_known_places_are_taken() -> None:
    good = [frame(position_m=(float(index), 0.0, 1.5)) for index in range(20)]
    over_ris = frame(ris_patterns=np.ones((1, 4), np.complex64))
    links = links_of([*good, frame(position_m=None), over_ris], 8, 3.5e9, "here")
    assert links.count == 20
    assert links.cfr.shape == (20, 8, 4)
    with pytest.raises(InputRefused, match=r"2 links.*1 seen over a RIS"):
        links_of([*good[:2], over_ris], 8, 3.5e9, "here")
    with pytest.raises(InputRefused, match="8 antennas"):
        links_of(good, 16, 3.5e9, "here")
    with pytest.raises(InputRefused, match="carrier"):
        links_of(good, 8, 28e9, "here")
    with pytest.raises(InputRefused, match="zero or not finite"):
        links_of([*good, frame(cfr=np.zeros((1, 8, 4), np.complex64))], 8, 3.5e9, "here")


def test_free_phases_leave_what_remains_the_same() -> None:
    true = channels(SITE, street())
    links = replace(measured(true), cfr=true * np.exp(1j * np.arange(len(true)))[:, None, None])
    assert np.max(relative_residuals(links, true, "free")) < 1e-12
    assert np.max(relative_residuals(links, true, "told")) > 1.0
