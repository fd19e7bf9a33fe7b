"""A block that is found is measured as well as its noise allows, and what only begins like a block is none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.band import WidebandSpectrum
from ingest.nr.cell_search import find_pss
from ingest.nr.ssb import SsbMeasurement, measure_ssb
from tests.ingest.nr.signals import CP_SHARE, SYNC, Complex, Ssb, capture, noise

RASTERS_HZ = {15e3: 1842.05e6, 30e3: 3512.64e6}
OFF_CENTER_HZ = 1.17e6
RE_AMPLITUDE = 16.0
"""A subcarrier of amplitude 1 sums to 256 over a symbol's samples; the measurement divides by the root of 256."""
SETTINGS = [(rate_hz, scs_hz) for rate_hz in (15.36e6, 30.72e6, 46.08e6) for scs_hz in (15e3, 30e3)]


@dataclass(frozen=True)
class Trial:
    """One block as sent and as measured. band_rate_hz: the rate of the measurement's samples."""

    sent: Ssb
    got: SsbMeasurement
    band_rate_hz: float

    @property
    def expected(self) -> Complex:
        """The channel on the DMRS comb [antennas, 60], counted from where the receiver says that the block starts."""
        comb = np.arange(self.sent.pci % 4, 240, 4)
        early_s = self.sent.start_s - self.got.first_sample / self.band_rate_hz
        late = np.exp(-2j * np.pi * (comb - 120) * self.sent.scs_hz * early_s)
        return RE_AMPLITUDE * np.multiply.outer(np.array(self.sent.gain), self.sent.response(comb) * late)

    @property
    def aligned(self) -> Complex:
        """What was measured, turned to the phase of what was expected: the absolute phase means nothing."""
        turned = np.vdot(self.got.ls, self.expected)
        return np.asarray(self.got.ls * turned / abs(turned))


def measure(samples: npt.NDArray, sent: Ssb, rate_hz: float, center_hz: float) -> SsbMeasurement | None:
    band = WidebandSpectrum(samples, rate_hz, center_hz, sent.scs_hz).band(sent.raster_hz)
    found = find_pss(band)
    return measure_ssb(band, found[0], sent.raster_hz) if found else None


def random_ssb(rng: np.random.Generator, scs_hz: float) -> Ssb:
    """Any cell, index, frequency offset and start between samples, over a two-tap channel of unit mean power."""
    echo = rng.uniform(0.1, 0.5)
    return Ssb(
        pci=int(rng.integers(1008)),
        start_s=rng.uniform(0, 1.5e-4),
        raster_hz=RASTERS_HZ[scs_hz],
        scs_hz=scs_hz,
        index_bar=int(rng.integers(8)),
        cfo_hz=rng.uniform(-1.2, 1.2) * scs_hz,
        taps=(
            (0.0, np.sqrt(1 - echo**2) * np.exp(2j * np.pi * rng.random())),
            (rng.uniform(1, 4) / 256 / scs_hz, echo * np.exp(2j * np.pi * rng.random())),
        ),
    )


def trials(rate_hz: float, scs_hz: float, snr_db: float | None, count: int, seed: int = 1) -> list[Trial]:
    rng = np.random.default_rng([seed, int(rate_hz), int(scs_hz)])
    done = []
    for _ in range(count):
        sent = random_ssb(rng, scs_hz)
        center_hz = sent.raster_hz - OFF_CENTER_HZ
        samples = int(rate_hz * (1.7e-4 + sent.duration_s))
        seen = capture([sent], rate_hz=rate_hz, center_hz=center_hz, samples=samples, snr_db=snr_db, rng=rng)
        got = measure(seen, sent, rate_hz, center_hz)
        assert got is not None, sent
        done.append(Trial(sent, got, 256 * scs_hz))
    return done


def check_identity(trial: Trial) -> None:
    sent, got = trial.sent, trial.got
    assert got.pci == sent.pci
    if sent.scs_hz == 15e3:  # n3: four SSBs in each half frame
        assert (got.ssb_index, got.half_frame) == (sent.index_bar % 4, sent.index_bar // 4)
    else:  # n78: eight, and the DMRS does not tell the half frame
        assert (got.ssb_index, got.half_frame) == (sent.index_bar, None)
    assert abs(got.first_sample - sent.start_s * trial.band_rate_hz) <= 4.5  # the echoes reach four samples
    assert (got.scs_hz, got.ssb_center_hz) == (sent.scs_hz, sent.raster_hz)
    comb = np.arange(sent.pci % 4, 240, 4)
    np.testing.assert_array_equal(got.tones_hz, (comb - 120) * sent.scs_hz)


def cfo_deviation_hz(snr_db: float, scs_hz: float) -> float:
    """Of the phase between channels two symbols apart, 127 tones of PSS and SSS and 60 of the DMRS."""
    snr = 10 ** (snr_db / 10)
    phase = np.sqrt((1 / snr + 1 / (2 * snr**2)) / 187)
    return float(phase / (2 * np.pi) * scs_hz / (2 * (1 + CP_SHARE)))


@pytest.mark.parametrize(("rate_hz", "scs_hz"), SETTINGS)
def test_everything_about_a_block_in_noise(rate_hz: float, scs_hz: float) -> None:
    snr_db, count = 12.0, 8
    done = trials(rate_hz, scs_hz, snr_db, count)
    for trial in done:
        check_identity(trial)
        fading_db = 10 * np.log10(np.mean(np.abs(trial.expected / RE_AMPLITUDE) ** 2))
        assert abs(trial.got.snr_db - snr_db - fading_db) < 2.5  # 60 tones tell the noise to 0.6 dB
    deviation_hz = cfo_deviation_hz(snr_db, scs_hz)
    errors_hz = np.array([trial.got.cfo_hz - trial.sent.cfo_hz for trial in done])
    assert np.abs(errors_hz).max() < 5 * deviation_hz
    assert np.sqrt(np.mean(errors_hz**2)) < 2 * deviation_hz


@pytest.mark.parametrize("snr_db", [3.0, 10.0, 20.0])
@pytest.mark.parametrize("scs_hz", [15e3, 30e3])
def test_snr_and_noise_power_are_true_on_average(scs_hz: float, snr_db: float) -> None:
    done = trials(15.36e6, scs_hz, snr_db, 25, seed=2)
    true_db = [10 * np.log10(np.mean(np.abs(trial.expected / RE_AMPLITUDE) ** 2)) + snr_db for trial in done]
    measured_db = [trial.got.snr_db for trial in done]
    assert np.mean(np.subtract(measured_db, true_db)) == pytest.approx(0.0, abs=0.4)
    assert np.std(np.subtract(measured_db, true_db)) < 1.0
    # In the measurement's unit a resource element of amplitude 1 has 16; two symbols averaged leave half the noise.
    expected = RE_AMPLITUDE**2 * 10 ** (-snr_db / 10) / 2
    assert np.mean([trial.got.noise_power for trial in done]) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("snr_db", [3.0, 10.0, 20.0])
@pytest.mark.parametrize("scs_hz", [15e3, 30e3])
def test_the_channel_is_as_good_as_least_squares_can_be(scs_hz: float, snr_db: float) -> None:
    """Two symbols averaged leave half the noise: NMSE = 1 / (2 SNR), and a phase that is free takes 1/120 of it."""
    done = trials(15.36e6, scs_hz, snr_db, 25, seed=3)
    error = sum(np.linalg.norm(trial.aligned - trial.expected) ** 2 for trial in done)
    power = sum(np.linalg.norm(trial.expected) ** 2 for trial in done)
    assert error / power == pytest.approx(0.5 * 10 ** (-snr_db / 10), rel=0.15)


@pytest.mark.parametrize(("rate_hz", "scs_hz"), SETTINGS)
def test_without_noise_only_the_neighbouring_symbols_are_left(rate_hz: float, scs_hz: float) -> None:
    for trial in trials(rate_hz, scs_hz, None, 4, seed=4):
        check_identity(trial)
        assert trial.got.snr_db > 30
        assert abs(trial.got.cfo_hz - trial.sent.cfo_hz) < 2e-4 * scs_hz
        assert np.linalg.norm(trial.aligned - trial.expected) < 0.03 * np.linalg.norm(trial.expected)
        assert trial.got.sss_correlation > 0.95
        assert trial.got.dmrs_correlation > 0.99


def test_antennas_keep_their_amplitudes_and_phases(rng: np.random.Generator) -> None:
    gains = (1.0, -0.5j, 0.8 + 0.6j, 2.0)
    sent = replace(random_ssb(rng, 30e3), gain=gains)
    seen = capture([sent], rate_hz=15.36e6, center_hz=sent.raster_hz, samples=6000, snr_db=25.0, rng=rng)
    got = measure(seen, sent, 15.36e6, sent.raster_hz)
    assert got is not None
    trial = Trial(sent, got, 7.68e6)
    check_identity(trial)
    error = np.linalg.norm(trial.aligned - trial.expected, axis=1) / np.linalg.norm(trial.expected)
    assert error.max() < 0.05
    ratios = [np.vdot(got.ls[0], got.ls[k]) / np.vdot(got.ls[0], got.ls[0]) for k in range(4)]
    np.testing.assert_allclose(ratios, gains, atol=0.03)


@pytest.mark.parametrize("index_bar", range(8))
@pytest.mark.parametrize("scs_hz", [15e3, 30e3])
def test_every_index(index_bar: int, scs_hz: float, rng: np.random.Generator) -> None:
    sent = replace(random_ssb(rng, scs_hz), index_bar=index_bar, pci=1007)
    seen = capture([sent], rate_hz=15.36e6, center_hz=sent.raster_hz, samples=8000, snr_db=10.0, rng=rng)
    got = measure(seen, sent, 15.36e6, sent.raster_hz)
    assert got is not None
    check_identity(Trial(sent, got, 256 * scs_hz))


def only(sent: Ssb, keep: list[tuple[int, range]]) -> npt.NDArray[np.complex64]:
    """The block with everything but some resource elements taken out, at 7.68 MS/s on its raster frequency."""

    class Part(Ssb):
        def _grid(self) -> Complex:
            whole = super()._grid()
            part = np.zeros_like(whole)
            for symbol, subcarriers in keep:
                part[symbol, subcarriers] = whole[symbol, subcarriers]
            return part

    part = Part(**{name: getattr(sent, name) for name in sent.__dataclass_fields__})
    return capture([part], rate_hz=7.68e6, center_hz=sent.raster_hz, samples=3000)


ALL = [(symbol, range(240)) for symbol in range(4)]
PBCH = [(1, range(240)), (2, range(48)), (2, range(192, 240)), (3, range(240))]


@pytest.mark.parametrize(
    ("name", "keep", "is_block"),
    [
        ("all", ALL, True),
        ("PSS alone", [(0, SYNC)], False),
        ("no SSS", [(0, SYNC), *PBCH], False),
        ("no PBCH", [(0, SYNC), (2, SYNC)], False),
        ("one PBCH symbol", [(0, SYNC), (1, range(240)), (2, SYNC)], False),
        ("no PSS", [(2, SYNC), *PBCH], False),
    ],
)
def test_what_only_begins_like_a_block(
    name: str, keep: list[tuple[int, range]], is_block: bool, rng: np.random.Generator
) -> None:
    sent = Ssb(pci=77, start_s=800 / 7.68e6, raster_hz=3512.64e6, index_bar=3)
    seen = only(sent, keep) + (0.5 * noise(rng, 1, 3000)).astype(np.complex64)
    got = measure(seen, sent, 7.68e6, sent.raster_hz)
    assert (got is not None) == is_block
    if got is not None:
        check_identity(Trial(sent, got, 7.68e6))


@pytest.mark.parametrize("first_sample", [0, 17, 18, 3000 - 1096 + 18, 3000 - 1096 + 19, 2999])
def test_a_place_where_no_block_fits(first_sample: int, rng: np.random.Generator) -> None:
    """A detection at the very edges, and one of silence, are answered with None."""
    sent = Ssb(pci=77, start_s=800 / 7.68e6, raster_hz=3512.64e6)
    for samples in (only(sent, ALL), np.zeros((1, 3000), np.complex64), noise(rng, 1, 3000).astype(np.complex64)):
        band = WidebandSpectrum(samples, 7.68e6, sent.raster_hz, 30e3).band(sent.raster_hz)
        (detection, *_) = find_pss(WidebandSpectrum(only(sent, ALL), 7.68e6, sent.raster_hz, 30e3).band(sent.raster_hz))
        assert measure_ssb(band, replace(detection, first_sample=first_sample), sent.raster_hz) is None


def test_another_level_scales_the_channel_alone(rng: np.random.Generator) -> None:
    sent = Ssb(pci=77, start_s=800 / 7.68e6, raster_hz=3512.64e6)
    got = measure(only(sent, ALL), sent, 7.68e6, sent.raster_hz)
    assert got is not None
    greater = got.times(3.0)
    np.testing.assert_allclose(greater.ls, 3 * got.ls, rtol=1e-6)
    assert greater.noise_power == pytest.approx(9 * got.noise_power)
    assert replace(greater, ls=got.ls, noise_power=got.noise_power) == got


def test_chance_passes_neither_check_often(rng: np.random.Generator) -> None:
    """Pure noise offered as a block that begins with a PSS, a strong one or a weak one: none in 400 passes."""
    sent = Ssb(pci=77, start_s=800 / 7.68e6, raster_hz=3512.64e6)
    (detection, *_) = find_pss(WidebandSpectrum(only(sent, ALL), 7.68e6, sent.raster_hz, 30e3).band(sent.raster_hz))
    for trial in range(400):
        seen = noise(rng, 1, 3000).astype(np.complex64)
        band = WidebandSpectrum(seen, 7.68e6, sent.raster_hz, 30e3).band(sent.raster_hz)
        claimed = replace(detection, metric=(0.9, 0.4, 0.25)[trial % 3])
        assert measure_ssb(band, claimed, sent.raster_hz) is None
