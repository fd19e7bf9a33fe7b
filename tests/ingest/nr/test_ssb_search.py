"""Every block that is there is found, weak and covered ones too, and nothing that is not."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.nr import cell_search, pbch, polar, pss_filters, pss_lanes, ssb
from ingest.nr.band import WidebandSpectrum
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb import SsbMeasurement, reconstruct
from ingest.nr.ssb_identity import EXPECTED_FALSE, IDENTITIES, gamma_threshold
from ingest.nr.ssb_patterns import ssb_start_s
from ingest.nr.ssb_receiver import warm_up
from ingest.nr.ssb_search import PSS_CANDIDATES, search_band
from ingest.nr.stretch import Stretch
from tests.ingest.nr.broadcast import Broadcast
from tests.ingest.nr.signals import Ssb, block, capture, noise

RATE_HZ, RASTER_HZ = 7.68e6, 3512.64e6


def search(samples: npt.NDArray[np.complex64], hypotheses: int = 1) -> list[SsbMeasurement]:
    band = WidebandSpectrum(samples, RATE_HZ, RASTER_HZ, 30e3).band(RASTER_HZ)
    return search_band(band, RASTER_HZ, hypotheses=hypotheses)


def one(pci: int, sample: float, **more: object) -> Ssb:
    said = Broadcast(sfn=pci % 1024)
    echo = {"taps": ((0.0, 0.9), (3 / RATE_HZ, 0.43j)), "said": said}
    return Ssb(pci=pci, start_s=sample / RATE_HZ, raster_hz=RASTER_HZ, **{**echo, **more})


def heard(ssbs: list[Ssb], snr_db: float, rng: np.random.Generator, samples: int = 7680) -> npt.NDArray[np.complex64]:
    return capture(ssbs, rate_hz=RATE_HZ, center_hz=RASTER_HZ, samples=samples, snr_db=snr_db, rng=rng)


@pytest.mark.kernel
def test_six_decibels_below_the_noise(rng: np.random.Generator) -> None:
    """As one of 27 raster positions of 10 ms, at any offset: most are found, all of them proved, none wrong."""
    found = 0
    for trial in range(25):
        sent = one(
            40 * trial + trial % 3,
            rng.uniform(0, 6000),
            index_bar=int(rng.integers(8)),
            cfo_hz=rng.uniform(-1.2, 1.2) * 30e3,
        )
        got = search(heard([sent], -6.0, rng), hypotheses=270)
        assert all((cell.pci, cell.ssb_index, cell.mib is not None) == (sent.pci, sent.index_bar, True) for cell in got)
        found += len(got)
    assert found >= 19


@pytest.mark.parametrize("weaker_db", [0.0, pytest.param(6.0, marks=pytest.mark.kernel), 12.0, 18.0])
def test_a_synchronous_cell_below_a_stronger_one(weaker_db: float, rng: np.random.Generator) -> None:
    for trial in range(4):
        start = rng.uniform(500, 5000)
        strong = one(300, start, cfo_hz=300.0)
        weak = one(301 + trial, start + rng.uniform(-2, 3), gain=(10 ** (-weaker_db / 20),), index_bar=trial)
        if (strong.pci - weak.pci) % 3 == 0 and weaker_db < 3:
            continue  # the same PSS as strongly: neither can be told from the other's echo
        got = search(heard([strong, weak], 28.0, rng))
        assert {cell.pci for cell in got} == {strong.pci, weak.pci}, (trial, weaker_db)
        assert all(cell.mib is not None for cell in got)


@pytest.mark.kernel
def test_three_layers(rng: np.random.Generator) -> None:
    cells = [one(pci, 2000.0 + n, gain=(10 ** (-n * 8 / 20),), index_bar=2) for n, pci in enumerate((300, 304, 309))]
    assert {cell.pci for cell in search(heard(cells, 30.0, rng))} == {300, 304, 309}


@pytest.mark.kernel
def test_a_whole_burst(rng: np.random.Generator) -> None:
    """All eight indices of a half frame, two of them side by side, and each once."""
    burst = [one(17, 100.3 + ssb_start_s("C", 8, index) * RATE_HZ, index_bar=index) for index in range(8)]
    got = search(heard(burst, 5.0, rng, 20_000))
    assert sorted(cell.ssb_index for cell in got) == list(range(8))


@pytest.mark.kernel
def test_a_block_taken_out_leaves_little(rng: np.random.Generator) -> None:
    sent = one(123, 2000.4, cfo_hz=9000.0, index_bar=3)
    seen = heard([sent], 25.0, rng)
    band = WidebandSpectrum(seen, RATE_HZ, RASTER_HZ, 30e3).band(RASTER_HZ)
    (found,) = search_band(band, RASTER_HZ)
    added = reconstruct(band, found)
    assert added is not None
    here = slice(found.first_sample + 10, found.first_sample + 1096 - 10)
    before = band.samples[0, here]
    left_db = 10 * np.log10(np.mean(np.abs(before - added[0, 10:-10]) ** 2) / np.mean(np.abs(before) ** 2))
    assert left_db < -17.0  # the echo's ends, where one symbol reaches into the next, are not taken out


@pytest.mark.kernel
def test_a_carrier_leak_and_impulses_are_no_cell(rng: np.random.Generator) -> None:
    """Strong things that do not look like noise: what agrees on a few resource elements only is no block."""
    times = np.arange(20_000)
    for trial in range(12):
        samples = noise(rng, 1, 20_000)
        samples += 30 * np.exp(2j * np.pi * rng.uniform(-0.2, 0.2) * times) * np.exp(-times / rng.uniform(2e3, 2e4))
        samples[0, rng.integers(0, 20_000, 5)] += 100
        assert search(samples.astype(np.complex64)) == [], trial


@pytest.mark.kernel
def test_noise_is_no_cell_though_hundreds_of_pss_are_looked_at(rng: np.random.Generator) -> None:
    for _ in range(15):
        assert search(noise(rng, 1, 12_000).astype(np.complex64)) == []


def test_the_threshold_of_two_together(rng: np.random.Generator) -> None:
    """The sum of two exponentials exceeds it as often as it says, by trying."""
    sums = rng.exponential(size=(200_000, 2)).sum(axis=1)
    for expected in (10.0, 100.0, 1000.0):
        level = gamma_threshold(200_000, expected)
        assert np.count_nonzero(sums > level) == pytest.approx(expected, abs=5 * np.sqrt(expected))
    trials = IDENTITIES * 1e7
    level = gamma_threshold(trials, EXPECTED_FALSE)
    assert trials * np.exp(-level) * (1 + level) == pytest.approx(EXPECTED_FALSE)


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    antennas=st.integers(1, 3),
    exponent=st.sampled_from([-38, -20, 0, 5, 19, 38]),
    rate_hz=st.sampled_from([7.2e6, 7.68e6, 9e6, 15.36e6]),
    raw=st.booleans(),
)
@example(seed=1, sizes=[3000], antennas=1, exponent=-38, rate_hz=7.68e6, raw=False)
@settings(max_examples=8 if numba.config.DISABLE_JIT else 40, deadline=None)
@pytest.mark.kernel
def test_no_samples_raise(seed: int, sizes: list[int], antennas: int, exponent: int, rate_hz: float, raw: bool) -> None:
    """Any finite numbers, as noise or as bytes of anything, in blocks of any size."""
    rng = np.random.default_rng(seed)
    receiver, first = NrReceiver(), 0
    for size in sizes:
        if raw:
            samples = np.frombuffer(rng.bytes(8 * antennas * size), "<c8").reshape(antennas, size)
            samples = np.nan_to_num(samples, nan=0.0, posinf=1e38, neginf=-1e38)
        else:
            samples = (noise(rng, antennas, size) / 4 * 10.0**exponent).astype(np.complex64)
        list(receiver.process(block(samples, rate_hz=rate_hz, center_hz=RASTER_HZ, first_sample=first)))
        first += size


@pytest.mark.kernel
def test_after_warming_up_nothing_is_left_to_compile(rng: np.random.Generator) -> None:
    """The kernels have the signatures that a search and a PBCH call them with."""
    kernels = [cell_search._matched, cell_search._window_energy, polar._decode_list]
    kernels += [pss_lanes._pack, pss_lanes._order_limits, pss_filters._peaks]
    if not all(hasattr(kernel, "signatures") for kernel in kernels):
        pytest.skip("kernels run as plain Python")
    warm_up()
    before = [len(kernel.signatures) for kernel in kernels]
    assert min(before) > 0
    assert search(heard([one(5, 2000.0)], 10.0, rng))[0].mib is not None
    assert [len(kernel.signatures) for kernel in kernels] == before


@given(tail=st.integers(0, 30), size=st.integers(1, 30), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_stretch_is_its_parts_joined(tail: int, size: int, data: st.DataObject) -> None:
    whole = np.arange(2 * (tail + size), dtype=np.float32).reshape(2, -1).astype(np.complex64)
    stretch = Stretch(whole[:, :tail], whole[:, tail:], 100)
    start = data.draw(st.integers(100, stretch.end))
    stop = data.draw(st.integers(start, stretch.end))
    np.testing.assert_array_equal(stretch.take(start, stop), whole[:, start - 100 : stop - 100])
    np.testing.assert_array_equal(stretch.whole, whole)
    np.testing.assert_array_equal(stretch.last(7), whole[:, -7:])
    for wrong in ((99, 101), (100, stretch.end + 1), (stop + 1, stop)):
        with pytest.raises(ValueError, match="are not in"):
            stretch.take(*wrong)


def traffic(rng: np.random.Generator, samples: int) -> npt.NDArray[np.complex128]:
    """Noise of a receiver, 30 dB stronger while a base station sends: half of every 4000 samples. [1, samples]."""
    return noise(rng, 1, samples) * np.where(np.arange(samples) % 4000 < 2000, 30.0, 1.0)


@pytest.mark.parametrize("antennas", [1, 2, 4])
@pytest.mark.parametrize(
    "others", ["nothing", pytest.param("equal noise", marks=pytest.mark.kernel), "weak noise", "the same"]
)
def test_further_antennas_bring_no_further_readings(
    antennas: int, others: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSSs looked at and PBCHs read stay those that noise of one antenna yields, whatever the other antennas hear."""
    looked, read = [], []
    identify, decode = ssb.identify, pbch.decode
    monkeypatch.setattr(ssb, "identify", lambda *given: looked.append(0) or identify(*given))
    monkeypatch.setattr(pbch, "decode", lambda *given: read.append(0) or decode(*given))
    sent, size = one(300, 10_400.0), 60_000
    first = heard([sent], 10.0, rng, size) + traffic(rng, size)
    more = {
        "nothing": np.zeros((3, size)),
        "equal noise": noise(rng, 3, size) * np.sqrt(np.mean(np.abs(first) ** 2)),
        "weak noise": noise(rng, 3, size) / 100,
        "the same": first * np.exp(2j * np.pi * rng.random((3, 1))) + noise(rng, 3, size) / 30,
    }[others]
    got = search(np.concatenate([first, more[: antennas - 1]]).astype(np.complex64))
    if others != "equal noise":  # as strong as the traffic, 17 dB above the cell
        assert [cell.pci for cell in got if cell.mib is not None] == [300]
    assert len(looked) < 3 * PSS_CANDIDATES
    assert len(read) < 12 * EXPECTED_FALSE
