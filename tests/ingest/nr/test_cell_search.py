"""The detector finds any PSS within its offsets, weak ones too, and none where none is, whatever else is there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.band import WidebandSpectrum
from ingest.nr.cell_search import FALSE_ALARM, PssDetection, find_pss, pss_symbol, threshold
from ingest.nr.numerology import SSB_CP
from tests.ingest.nr.signals import Complex, Ssb, capture, noise, slow_pss

SCS_HZ = 30e3
RATE_HZ = 7.68e6
RASTER_HZ = 3512.64e6
MILLISECOND = 7680


def search(samples: npt.NDArray[np.complexfloating], rate_hz: float = RATE_HZ) -> list[PssDetection]:
    spectrum = WidebandSpectrum(samples.astype(np.complex64), rate_hz, RASTER_HZ, SCS_HZ)
    return find_pss(spectrum.band(RASTER_HZ))


def one(pci: int, sample: float = 2000.0, **more: object) -> Ssb:
    return Ssb(pci=pci, start_s=sample / RATE_HZ, raster_hz=RASTER_HZ, scs_hz=SCS_HZ, **more)


def heard(ssbs: list[Ssb], snr_db: float, rng: np.random.Generator, samples: int = MILLISECOND) -> npt.NDArray:
    return capture(ssbs, rate_hz=RATE_HZ, center_hz=RASTER_HZ, samples=samples, snr_db=snr_db, rng=rng)


def is_of(found: PssDetection, ssb: Ssb) -> bool:
    """Right sequence, right place to a sample or two."""
    start = ssb.start_s * RATE_HZ + SSB_CP
    return found.n_id_2 == ssb.pci % 3 and abs(found.first_sample - start) <= 2


@pytest.mark.parametrize("pci", [0, 1, 2, 1005, 1006, 1007])
@pytest.mark.parametrize("offset_scs", [-1.25, -1.0, -0.74, -0.25, 0.0, 0.1, 0.5, 0.75, 1.25])
def test_any_sequence_at_any_offset(pci: int, offset_scs: float, rng: np.random.Generator) -> None:
    ssb = one(pci, 2000.4, cfo_hz=offset_scs * SCS_HZ)
    best = search(heard([ssb], 10.0, rng))[0]
    assert is_of(best, ssb)
    assert abs(best.offset_scs - offset_scs) <= 0.27


def test_three_decibels_below_the_noise(rng: np.random.Generator) -> None:
    """Offsets of a quarter subcarrier, between the ones tried, and places between the samples: the worst of cases."""
    for trial in range(30):
        ssb = one(trial, rng.uniform(0, 6500), cfo_hz=rng.choice([-0.75, -0.25, 0.25, 0.75]) * SCS_HZ)
        found = search(heard([ssb], -3.0, rng))
        assert found, f"trial {trial}"
        assert is_of(found[0], ssb)


def test_several_antennas_hear_more_than_one(rng: np.random.Generator) -> None:
    phases = np.exp(2j * np.pi * rng.random(8))
    for trial in range(10):
        ssb = one(trial, rng.uniform(0, 6500), gain=tuple(phases))
        found = search(heard([ssb], -5.0, rng))
        assert found, f"trial {trial}"
        assert is_of(found[0], ssb)


def test_noise_is_no_cell(rng: np.random.Generator) -> None:
    """At a false alarm in 10 000 captures, one in 150 would be 60 times too many."""
    for _ in range(150):
        assert search(noise(rng, 1, 4000)) == []


def ofdm(rng: np.random.Generator, subcarriers: npt.NDArray[np.integer], samples: int) -> Complex:
    """Random QPSK on some subcarriers of the band, symbol after symbol, as a PDSCH."""
    symbols = []
    for _ in range(samples // 274 + 1):
        bins = np.zeros(256, np.complex128)
        bins[subcarriers] = (
            rng.choice([1, -1], len(subcarriers)) + 1j * rng.choice([1, -1], len(subcarriers))
        ) / 2**0.5
        useful = np.fft.ifft(bins) * 256
        symbols.append(np.concatenate([useful[-18:], useful]))
    return np.concatenate(symbols)[None, :samples]


def wanderer(rng: np.random.Generator, samples: int) -> Complex:
    """Noise of a slow random walk: all its power in a few subcarriers."""
    return np.cumsum(noise(rng, 1, samples), axis=1)


def test_other_signals_are_no_cell(rng: np.random.Generator) -> None:
    times = np.arange(MILLISECOND)
    impulse = np.zeros((1, MILLISECOND), np.complex128)
    impulse[0, 3000] = 1.0
    step = np.zeros((1, MILLISECOND), np.complex128)
    step[0, 3000:] = noise(rng, 1, MILLISECOND - 3000)[0]
    signals = {
        "silence": np.zeros((1, MILLISECOND)),
        "direct current": np.ones((1, MILLISECOND)),
        "tone": np.exp(2j * np.pi * 0.037 * times)[None],
        "chirp": np.exp(1e-5j * times**2)[None],
        "impulse": impulse,
        "switched on": step,
        "coloured noise": wanderer(rng, MILLISECOND),
        "data": ofdm(rng, np.arange(-120, 120), MILLISECOND),
        "data where the PSS would lie": ofdm(rng, np.arange(-64, 63), MILLISECOND),
    }
    for name, signal in signals.items():
        assert search(signal) == [], name


def test_a_strong_neighbour_does_not_hide_a_cell(rng: np.random.Generator) -> None:
    """Data 30 dB stronger on the subcarriers beside the PSS, which are the PBCH's or another channel's."""
    for trial in range(10):
        ssb = one(trial, rng.uniform(0, 6500))
        strong = 10**1.5 * ofdm(rng, np.r_[-120:-70, 70:120], MILLISECOND)
        found = search(heard([ssb], 5.0, rng) + strong)
        assert found, f"trial {trial}"
        assert is_of(found[0], ssb)


def test_the_level_does_not_matter(rng: np.random.Generator) -> None:
    samples = heard([one(7)], 0.0, rng)
    reference = search(samples)[0]
    for level in (1e-12, 1e-6, 1e6, 1e12):
        (found,) = search(samples * np.complex64(level))
        assert (found.n_id_2, found.first_sample, found.offset_scs) == (1, reference.first_sample, 0.0)
        assert found.metric == pytest.approx(reference.metric, rel=1e-3)


def test_two_cells_at_the_same_instant(rng: np.random.Generator) -> None:
    """Cells of a TDD network are synchronous, and their SSBs lie on the same raster position."""
    for weaker_db in (0.0, 3.0):
        both = [one(300), one(301, gain=(10 ** (-weaker_db / 20),))]
        found = search(heard(both, 15.0, rng))
        assert sorted(detection.n_id_2 for detection in found) == [0, 1]
        assert all(is_of(detection, both[detection.n_id_2]) for detection in found)


def test_an_echo_is_no_second_cell(rng: np.random.Generator) -> None:
    ssb = one(5, taps=((0.0, 1.0), (12 / RATE_HZ, 0.8j)))
    (found,) = search(heard([ssb], 20.0, rng))
    assert is_of(found, ssb)


def test_cells_one_after_the_other(rng: np.random.Generator) -> None:
    ssbs = [one(0, 100.0), one(0, 100.0 + 1096), one(1, 3000.0), one(2, 5500.0)]
    found = search(heard(ssbs, 15.0, rng))
    found.sort(key=lambda detection: detection.first_sample)
    assert len(found) == len(ssbs)
    assert all(is_of(*pair) for pair in zip(found, ssbs, strict=True))


@pytest.mark.parametrize(("samples", "count"), [(2000 + 1096, 1), (2000 + 1095, 0), (1000, 0), (10, 0)])
def test_only_blocks_that_end_in_the_capture(samples: int, count: int, rng: np.random.Generator) -> None:
    assert len([one for one in search(heard([one(4)], 25.0, rng, samples)) if one.first_sample >= 2018]) == count


def test_the_threshold_is_that_of_noise(rng: np.random.Generator) -> None:
    """P(metric > t) = (1 - t)^126 for a vector of 127 values, by trying, and the threshold solves it."""
    vectors = noise(rng, 20_000, 127)
    metric = np.abs(vectors @ np.array(slow_pss(0))) ** 2 / 127 / np.sum(np.abs(vectors) ** 2, axis=1)
    for t in (0.005, 0.02, 0.04):
        expected = (1 - t) ** 126
        assert np.mean(metric > t) == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000))
    for trials in (1, 1000, 10**7):
        assert trials * (1 - threshold(trials)) ** 126 == pytest.approx(FALSE_ALARM)


@pytest.mark.parametrize("n_id_2", [0, 1, 2])
def test_the_symbol_in_time(n_id_2: int) -> None:
    """The sum over subcarriers 56 to 182 of the block, subcarrier 120 being the centre, written out."""
    times = np.arange(256)
    expected = sum(d * np.exp(2j * np.pi * (56 + n - 120) * times / 256) for n, d in enumerate(slow_pss(n_id_2)))
    np.testing.assert_allclose(pss_symbol(n_id_2), expected / np.linalg.norm(expected), atol=1e-12)


def test_a_wideband_capture_with_cells_elsewhere(rng: np.random.Generator) -> None:
    """A cell ten times stronger on another raster position is neither found here nor in the way."""
    here = Ssb(pci=31, start_s=2e-4, raster_hz=RASTER_HZ)
    there = Ssb(pci=32, start_s=2.1e-4, raster_hz=RASTER_HZ + 8 * 1.44e6, gain=(10.0,))
    samples = capture([here, there], rate_hz=46.08e6, center_hz=RASTER_HZ, samples=46_080, snr_db=10.0, rng=rng)
    (found,) = search(samples, 46.08e6)
    assert is_of(found, here)


@pytest.mark.parametrize("antennas", [2, 4, 8])
def test_noise_of_any_covariance_yields_what_the_threshold_says(antennas: int, rng: np.random.Generator) -> None:
    """Antennas 20 dB apart that hear much the same: hardly more PSSs than of one antenna."""
    mixing = noise(rng, antennas, antennas) * np.logspace(0, 1, antennas)
    counts = []
    for samples in (noise(rng, 1, 50_000), mixing @ noise(rng, antennas, 50_000)):
        spectrum = WidebandSpectrum(samples.astype(np.complex64), RATE_HZ, RASTER_HZ, SCS_HZ)
        counts.append(len(find_pss(spectrum.band(RASTER_HZ), expected_false=40.0)))
    assert 3 <= counts[1] <= 100, counts
