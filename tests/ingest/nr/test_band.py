"""A band cut out of a capture keeps what is in it, amplitude, phase and frequency, and nothing of what is not."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr.band import Band, WidebandSpectrum
from tests.ingest.nr.signals import Complex, Ssb, capture, noise

CENTER_HZ = 3.5e9
RATES_HZ = [15.36e6, 30.72e6, 46.08e6, 20e6, 61.44e6, 33.333333e6, 12_345_678.0]
ODD_RATE_HZ = 8_000_001.0
"""Taken for 8 MS/s: resampling is by ratios of integers below 20 000, here true to 1.3e-7."""


def pulse(
    times_s: np.ndarray, frequency_hz: float, amplitude: complex, middle_s: float = 4e-4, width_s: float = 3e-5
) -> Complex:
    """A tone under a Gaussian, narrow in time and in frequency."""
    envelope = np.exp(-(((times_s - middle_s) / width_s) ** 2))
    return np.asarray(amplitude * envelope * np.exp(2j * np.pi * frequency_hz * times_s))


def cut(samples: Complex, rate_hz: float, scs_hz: float, center_hz: float) -> Band:
    return WidebandSpectrum(np.atleast_2d(samples).astype(np.complex64), rate_hz, CENTER_HZ, scs_hz).band(center_hz)


@pytest.mark.parametrize("scs_hz", [15e3, 30e3])
@pytest.mark.parametrize("rate_hz", [*RATES_HZ, ODD_RATE_HZ])
@pytest.mark.parametrize("offset_hz", [0.0, 1.234567e6, -1.4e6])
def test_a_pulse_keeps_amplitude_phase_and_frequency(rate_hz: float, scs_hz: float, offset_hz: float) -> None:
    times_s = np.arange(int(rate_hz * 8e-4)) / rate_hz
    inside_hz = offset_hz + 0.3 * scs_hz * 256
    band = cut(pulse(times_s, inside_hz, 2 - 1j), rate_hz, scs_hz, CENTER_HZ + offset_hz)
    assert band.rate_hz == 256 * scs_hz
    band_times_s = np.arange(band.valid_samples) / band.rate_hz
    expected = pulse(band_times_s, inside_hz + CENTER_HZ - band.center_hz, 2 - 1j)
    np.testing.assert_allclose(
        band.samples[0, : band.valid_samples], expected, atol=2e-3 if rate_hz == ODD_RATE_HZ else 2e-4
    )


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_true_centre_is_told(rate_hz: float) -> None:
    wanted_hz = CENTER_HZ + 987_654.3
    band = cut(np.ones(int(rate_hz * 5e-4)), rate_hz, 30e3, wanted_hz)
    assert abs(band.center_hz - wanted_hz) <= rate_hz / band.spectrum.shape[1]
    assert abs(band.valid_samples / band.rate_hz - 5e-4) < 2 / band.rate_hz
    assert band.samples.shape[1] >= band.valid_samples


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_part_is_what_lies_there_of_all(rate_hz: float, rng: np.random.Generator) -> None:
    """Also where the transform goes round, and where a part is longer than what is transformed at once."""
    parts = cut(noise(rng, 2, int(rate_hz * 1.7e-3)), rate_hz, 30e3, CENTER_HZ + 0.4e6)
    whole = Band(parts.spectrum, parts.rate_hz, parts.center_hz, parts.valid_samples).samples
    length = whole.shape[1]
    for first, count in ((0, 300), (length // 32 - 5, 100), (length - 200, 200), (17, length // 2)):
        np.testing.assert_allclose(parts.part(first, count), whole[:, first : first + count], atol=1e-5)


@pytest.mark.parametrize("distance_hz", [-8e6, -4.1e6, 4.1e6, 8e6])
def test_what_lies_outside_does_not_come_in(distance_hz: float) -> None:
    """A pulse 0.26 MHz beyond the edge and 60 dB stronger: nothing of it folds into the band."""
    times_s = np.arange(int(30.72e6 * 8e-4)) / 30.72e6
    wanted, strong = pulse(times_s, 1e5, 1.0), pulse(times_s, distance_hz, 1e3)
    alone = cut(wanted, 30.72e6, 30e3, CENTER_HZ)
    together = cut(wanted + strong, 30.72e6, 30e3, CENTER_HZ)
    np.testing.assert_allclose(together.samples, alone.samples, atol=2e-3)


def test_a_band_over_the_edge_is_empty_there() -> None:
    """A capture of 7.2 MS/s is narrower than the 7.68 MS/s at which its only 30 kHz band is handled."""
    times_s = np.arange(int(7.2e6 * 8e-4)) / 7.2e6
    band = cut(pulse(times_s, 3.2e6, 1.0), 7.2e6, 30e3, CENTER_HZ)
    band_times_s = np.arange(band.valid_samples) / band.rate_hz
    np.testing.assert_allclose(band.samples[0, : band.valid_samples], pulse(band_times_s, 3.2e6, 1.0), atol=2e-4)
    bins_hz = np.fft.fftfreq(band.spectrum.shape[1], 1 / band.rate_hz)
    assert np.count_nonzero(np.abs(bins_hz) > 3.62e6) > 0
    assert not band.spectrum[0, np.abs(bins_hz) > 3.62e6].any()


def test_chains_stay_apart(rng: np.random.Generator) -> None:
    samples = noise(rng, 3, 4000)
    together = cut(samples, 15.36e6, 15e3, CENTER_HZ + 2e6).samples
    for chain in range(3):
        np.testing.assert_allclose(together[chain], cut(samples[chain], 15.36e6, 15e3, CENTER_HZ + 2e6).samples[0])


@pytest.mark.parametrize("rate_hz", [15.36e6, 46.08e6, 33.333333e6])
def test_noise_keeps_its_density(rate_hz: float, rng: np.random.Generator) -> None:
    """White noise of unit power leaves the share of the band in the capture."""
    band = cut(noise(rng, 1, int(rate_hz * 5e-3)), rate_hz, 15e3, CENTER_HZ + 1e6)
    power = np.mean(np.abs(band.samples[0, : band.valid_samples]) ** 2)
    assert power == pytest.approx(band.rate_hz / rate_hz, rel=0.05)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_an_ssb_as_if_received_narrowband(rate_hz: float) -> None:
    """Cut out of any capture, a block looks as a narrow receiver on its raster frequency would have seen it."""
    ssb = Ssb(pci=123, start_s=2.1e-4, raster_hz=3500.16e6, cfo_hz=777.0)
    samples = int(rate_hz * 5e-4)
    seen = capture([ssb], rate_hz=rate_hz, center_hz=CENTER_HZ, samples=samples)
    band = cut(seen[0], rate_hz, 30e3, ssb.raster_hz)
    expected = capture([ssb], rate_hz=band.rate_hz, center_hz=band.center_hz, samples=band.valid_samples)
    error = np.linalg.norm(band.samples[0, : band.valid_samples] - expected[0]) / np.linalg.norm(expected)
    assert error < 0.05  # the block's hard edges reach beyond the band
