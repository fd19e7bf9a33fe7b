"""Hardware knobs against closed forms: what textbooks say of mismatch, phase noise, amplifiers and converters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import erfc

from ingest.errors import UsageRefused
from sim.fidelity.amplifier import am_am, am_pm_rad, amplified, error_vector_magnitude
from sim.fidelity.array_errors import element_errors
from sim.fidelity.converter import best_full_scale, gaussian_distortion, quantised
from sim.fidelity.hardware import Hardware
from sim.fidelity.knobs import AmplifierSettings, HardwareSettings
from sim.fidelity.phase_noise import PhaseNoise
from sim.site import BaseStation
from tests.sim.hand_made import random_directions

Complex = npt.NDArray[np.complex128]

MAX_1960 = {1: (1.596, 0.3634), 2: (0.9957, 0.1188), 3: (0.5860, 0.03744), 4: (0.3352, 0.01154), 5: (0.1881, 0.003495)}
"""Bits to step and mean square error of the best uniform quantiser of a unit Gaussian (J. Max, 1960, table II)."""


def gaussian(rng: np.random.Generator, *shape: int) -> Complex:
    """Circular, of unit power."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


def test_half_of_all_directions_lie_in_front() -> None:
    array = BaseStation(position_m=(0.0, 0.0, 10.0), yaw_deg=30.0, pitch_deg=10.0, field_of_view_deg=180.0)
    directions = random_directions(np.random.default_rng(0), 2000)
    np.testing.assert_array_equal(array.sees(directions), directions @ array.rotation()[:, 0] >= 0)
    assert array.model_copy(update={"field_of_view_deg": 360.0}).sees(directions).all()
    # A cone of half angle a covers (1 - cos a) / 2 of the sphere.
    narrow = array.model_copy(update={"field_of_view_deg": 140.0})
    assert narrow.sees(directions).mean() == pytest.approx((1 - np.cos(np.radians(70))) / 2, abs=0.03)


def test_mismatch_has_its_spread_and_costs_a_beam_what_ruze_says() -> None:
    settings = HardwareSettings(mismatch_gain_db=0.5, mismatch_phase_deg=0.0)
    gains = element_errors(settings, 100_000, np.random.default_rng(0))
    assert np.std(20 * np.log10(np.abs(gains))) == pytest.approx(0.5, rel=0.01)
    assert np.abs(np.angle(gains)).max() == 0.0
    rng = np.random.default_rng(1)
    phases = HardwareSettings(mismatch_phase_deg=40.0)
    power = np.mean([abs(element_errors(phases, 16, rng).mean()) ** 2 for _ in range(20_000)])
    spread = np.exp(-(np.radians(40.0) ** 2))
    assert power == pytest.approx(spread + (1 - spread) / 16, rel=0.01)


def test_elements_keep_their_errors() -> None:
    settings = HardwareSettings(mismatch_gain_db=1.0, mismatch_phase_deg=10.0, seed=4)
    np.testing.assert_array_equal(element_errors(settings, 8), element_errors(settings, 8))
    np.testing.assert_array_equal(element_errors(HardwareSettings(), 4), np.ones(4))


def test_phases_of_an_oscillator_forget_at_the_rate_of_its_linewidth() -> None:
    noise = PhaseNoise(100.0, 20_000, np.random.default_rng(0))
    for step in range(1, 5):
        noise.advance(1e-3)
        coherence = np.mean(np.exp(1j * noise.phase_rad))
        assert coherence.real == pytest.approx(np.exp(-np.pi * 100.0 * step * 1e-3), abs=0.015)
        assert abs(coherence.imag) < 0.015


def test_the_line_of_an_oscillator_is_a_lorentzian() -> None:
    """Averaged periodograms against B / (2 pi) / (f^2 + (B / 2)^2)."""
    rate_hz, width_hz, samples = 1e6, 20e3, 4096
    phases = PhaseNoise(width_hz, 400, np.random.default_rng(0)).over(samples, rate_hz)
    spectrum = np.mean(np.abs(np.fft.fft(np.exp(1j * phases), axis=1)) ** 2, axis=0) / (samples * rate_hz)
    offset_hz = np.fft.fftfreq(samples, 1 / rate_hz)
    for low_hz, high_hz in ((0.0, 5e3), (8e3, 12e3), (30e3, 40e3), (90e3, 110e3)):
        band = (np.abs(offset_hz) >= low_hz) & (np.abs(offset_hz) <= high_hz)
        line = width_hz / (2 * np.pi) / (offset_hz[band] ** 2 + (width_hz / 2) ** 2)
        assert spectrum[band].sum() == pytest.approx(line.sum(), rel=0.06)


def test_phase_noise_goes_on_where_it_was() -> None:
    whole = PhaseNoise(1e3, 1, np.random.default_rng(0)).over(100, 1e6)
    parts = PhaseNoise(1e3, 1, np.random.default_rng(0))
    np.testing.assert_allclose(np.concatenate([parts.over(30, 1e6), parts.over(70, 1e6)], axis=1), whole, atol=1e-12)
    np.testing.assert_array_equal(parts.phase_rad, parts.over(0, 1e6).sum() + parts.phase_rad)
    with pytest.raises(UsageRefused):
        PhaseNoise(-1.0, 1, np.random.default_rng(0))
    with pytest.raises(UsageRefused):
        PhaseNoise(float("nan"), 1, np.random.default_rng(0))


@pytest.mark.parametrize("smoothness", [0.5, 1.1, 2.0, 3.0])
def test_am_am_is_rapp_s(smoothness: float) -> None:
    level = np.array([0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 10.0])
    expected = level / (1 + level ** (2 * smoothness)) ** (1 / (2 * smoothness))
    np.testing.assert_allclose(am_am(level, smoothness), expected, rtol=1e-12)


def test_am_am_of_great_smoothness_is_a_limiter() -> None:
    level = np.array([0.2, 0.9, 1.5, 40.0])
    np.testing.assert_allclose(am_am(level, 1000.0), np.minimum(level, 1.0), rtol=1e-3)


def test_am_pm_is_half_at_the_knee_and_follows_its_power_below() -> None:
    settings = AmplifierSettings(am_pm_deg=-20.0, am_pm_knee=0.7, am_pm_order=4.0)
    assert np.degrees(am_pm_rad(0.7, settings)) == pytest.approx(-10.0)
    assert np.degrees(am_pm_rad(100.0, settings)) == pytest.approx(-20.0, rel=1e-6)
    assert np.degrees(am_pm_rad(0.07, settings)) == pytest.approx(-20.0 * 1e-4, rel=1e-3)
    out = amplified(np.array([1.0 + 0j]), settings.model_copy(update={"backoff_db": 0.0}), rms=1.0)
    assert np.angle(out[0]) == pytest.approx(float(am_pm_rad(1.0, settings)))


@pytest.mark.parametrize("backoff_db", [0.0, 4.0, 8.0])
def test_a_limiter_distorts_gaussian_signals_as_bussgang_says(backoff_db: float) -> None:
    """Gain 1 - exp(-v²) + sqrt(pi) v erfc(v) / 2 and output power 1 - exp(-v²), v² the back-off of a soft limiter."""
    x = gaussian(np.random.default_rng(0), 200_000)
    y = amplified(x, AmplifierSettings(backoff_db=backoff_db, smoothness=1000.0), rms=1.0)
    v = 10 ** (backoff_db / 20)
    gain = 1 - np.exp(-(v**2)) + np.sqrt(np.pi) * v * erfc(v) / 2
    power = 1 - np.exp(-(v**2))
    assert np.vdot(x, y) / np.vdot(x, x) == pytest.approx(gain, rel=5e-3)
    assert np.mean(np.abs(y) ** 2) == pytest.approx(power, rel=1e-2)
    assert error_vector_magnitude(x, y) == pytest.approx(np.sqrt(power / gain**2 - 1), rel=2e-2)


def test_an_amplifier_far_from_saturation_changes_nothing() -> None:
    x = gaussian(np.random.default_rng(0), 3, 100)
    np.testing.assert_allclose(amplified(x, AmplifierSettings(backoff_db=80.0)), x, rtol=1e-6)
    np.testing.assert_array_equal(amplified(np.zeros(4), AmplifierSettings()), np.zeros(4))
    assert amplified(np.zeros((2, 0)), AmplifierSettings()).shape == (2, 0)


def test_rows_are_backed_off_alike() -> None:
    """A precoder's strong antenna saturates first: all amplifiers are of the same size."""
    x = np.stack([np.full(50, 0.1 + 0j), np.full(50, 2.0 + 0j)])
    y = amplified(x, AmplifierSettings(backoff_db=0.0, smoothness=3.0))
    assert abs(y[0, 0]) / 0.1 > 0.99 > abs(y[1, 0]) / 2.0


def test_error_vectors_do_not_count_gain_and_phase() -> None:
    rng = np.random.default_rng(0)
    x = gaussian(rng, 50_000)
    noise = gaussian(rng, 50_000)
    assert error_vector_magnitude(x, 3j * (x + 0.1 * noise)) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("bits", sorted(MAX_1960))
def test_the_best_quantiser_is_that_of_max_s_table(bits: int) -> None:
    step, error = MAX_1960[bits]
    scale = best_full_scale(bits)
    assert 2 * scale / 2**bits == pytest.approx(step, rel=1e-3)
    assert gaussian_distortion(bits, scale) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("bits", [1, 3, 6])
@pytest.mark.parametrize("loading_db", [None, 6.0, 12.0])
def test_samples_are_quantised_with_the_error_of_the_closed_form(bits: int, loading_db: float | None) -> None:
    x = 1e-5 * gaussian(np.random.default_rng(0), 400_000)
    y = quantised(x, bits, loading_db=loading_db)
    scale = best_full_scale(bits) if loading_db is None else 10 ** (loading_db / 20)
    measured = np.mean(np.abs(x - y) ** 2) / np.mean(np.abs(x) ** 2)
    assert measured == pytest.approx(gaussian_distortion(bits, scale), rel=0.02)
    assert len(np.unique(np.round(y.real / np.abs(y.real).min()))) <= 2**bits


def test_every_bit_has_its_levels_and_clips() -> None:
    y = quantised(np.array([-9.0, -0.6, -0.1, 0.1, 0.6, 9.0]) * (1 + 1j), 2, loading_db=0.0, rms=np.sqrt(2))
    np.testing.assert_allclose(y.real, [-0.75, -0.75, -0.25, 0.25, 0.75, 0.75])
    np.testing.assert_allclose(y.imag, y.real)
    np.testing.assert_array_equal(quantised(np.zeros(3), 4), np.zeros(3))


def test_full_scale_grows_slowly_and_distortion_falls_to_the_last_bit() -> None:
    scales = [best_full_scale(bits) for bits in range(1, 17)]
    assert all(low < high < low + 0.6 for low, high in pairwise(scales))
    errors = [gaussian_distortion(bits, scale) for bits, scale in zip(range(1, 17), scales, strict=True)]
    gains_db = -10 * np.diff(np.log10(errors))
    assert np.all((gains_db > 4.5) & (gains_db < 6.03))


def test_a_device_without_knobs_is_transparent() -> None:
    x = gaussian(np.random.default_rng(0), 4, 32)
    device = Hardware(HardwareSettings(), 4)
    device.advance(1.0)
    for out in (device.transmitted(x, 1e6), device.received(x, 1e6), device.channel(x.T).T):
        np.testing.assert_array_equal(out, x)


def test_a_device_drifts_as_one_or_each_element_by_itself() -> None:
    h = np.ones((3, 4), np.complex128)
    together = Hardware(HardwareSettings(linewidth_hz=100.0), 4)
    together.advance(1e-3)
    drift = together.channel(h)
    np.testing.assert_allclose(drift, drift[0, 0])
    assert abs(np.angle(drift[0, 0])) > 0
    alone = Hardware(HardwareSettings(linewidth_hz=100.0, own_oscillators=True), 4)
    alone.advance(1e-3)
    assert len(np.unique(np.round(np.angle(alone.channel(h)[0]), 9))) == 4


def test_a_device_does_its_parts_in_their_order() -> None:
    """Phase noise, amplifier, then mismatch on the way out; mismatch, phase noise, converter on the way in."""
    settings = HardwareSettings(
        mismatch_gain_db=1.0,
        mismatch_phase_deg=20.0,
        linewidth_hz=1e4,
        amplifier=AmplifierSettings(backoff_db=3.0, am_pm_deg=15.0),
        adc_bits=4,
    )
    x = gaussian(np.random.default_rng(0), 3, 200)
    rng = np.random.default_rng(settings.seed)
    errors = element_errors(settings, 3, rng)
    phasor = np.exp(1j * PhaseNoise(1e4, 1, rng).over(200, 1e6))
    assert settings.amplifier is not None
    out = Hardware(settings, 3).transmitted(x, 1e6)
    np.testing.assert_allclose(out, errors[:, None] * amplified(x * phasor, settings.amplifier), atol=1e-12)
    received = Hardware(settings, 3).received(x, 1e6)
    for row, found in zip(x * errors[:, None] * phasor, received, strict=True):
        np.testing.assert_allclose(found, quantised(row, 4), atol=1e-12)


def test_coarser_hardware_is_further_from_the_truth() -> None:
    x = gaussian(np.random.default_rng(0), 2, 20_000)
    by_bits = [
        error_vector_magnitude(x, Hardware(HardwareSettings(adc_bits=bits), 2).received(x, 1e6)) for bits in (8, 5, 2)
    ]
    assert by_bits == sorted(by_bits)
    by_line = [
        error_vector_magnitude(x, Hardware(HardwareSettings(linewidth_hz=width), 2).transmitted(x, 1e6))
        for width in (0.1, 1.0, 10.0)
    ]
    assert by_line == sorted(by_line)
