"""The receiver finds every block of every cell exactly once, wherever the stream is cut, torn or tuned anew."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from ingest import wire
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.impulse import impulse_response
from ingest.nr.receiver import NrReceiver
from tests.ingest.nr.signals import Ssb, block, capture, noise

RATE_HZ, WIDE_HZ = 7.68e6, 15.36e6
N3_HZ, N78_HZ = 1842.05e6, 3512.64e6
SPACINGS = [(15e3, N3_HZ), (30e3, N78_HZ)]


def ssb(pci: int, sample: float, raster_hz: float = N78_HZ, scs_hz: float = 30e3, **more: object) -> Ssb:
    return Ssb(pci=pci, start_s=sample / RATE_HZ, raster_hz=raster_hz, scs_hz=scs_hz, **more)


def stream(samples: npt.NDArray[np.complex64], center_hz: float, cuts: Iterable[int] = ()) -> list[IqBlock]:
    """The samples in blocks that end at `cuts`."""
    borders = [0, *cuts, samples.shape[1]]
    return [
        block(samples[:, start:end], rate_hz=RATE_HZ, center_hz=center_hz, first_sample=start, seq=n)
        for n, (start, end) in enumerate(pairwise(borders))
    ]


def received(receiver: NrReceiver, blocks: Iterable[IqBlock]) -> list[ChannelFrame]:
    return [frame for one in blocks for frame in receiver.process(one)]


def heard(ssbs: list[Ssb], samples: int, rng: np.random.Generator, center_hz: float = N78_HZ, snr_db: float = 15.0):
    return capture(ssbs, rate_hz=RATE_HZ, center_hz=center_hz, samples=samples, snr_db=snr_db, rng=rng)


def users(frames: list[ChannelFrame]) -> list[str]:
    return [frame.user for frame in frames]


@pytest.mark.parametrize("antennas", [1, 4])
def test_the_fields_of_a_frame(antennas: int, rng: np.random.Generator) -> None:
    sent = ssb(502, 3000.0, cfo_hz=-2500.0, index_bar=5, gain=tuple(np.exp(2j * np.pi * rng.random(antennas))))
    (one,) = stream(heard([sent], 9000, rng), N78_HZ)
    (frame,) = received(NrReceiver(), [msgspec.structs.replace(one, t_ns=10**15, first_sample=10**9, epoch=3)])
    assert (frame.source, frame.epoch, frame.seq, frame.block) == ("nr.radio", 3, 0, 0)
    assert frame.user == "pci502.ssb5"
    assert abs(frame.t_ns - 10**15 - sent.start_s * 1e9) < 2e9 / RATE_HZ
    assert (frame.domain, frame.carrier_hz) == ("effective", N78_HZ)
    assert frame.cfo_hz == pytest.approx(-2500.0, abs=100.0)
    assert frame.snr_db == pytest.approx(15.0, abs=2.5)
    assert frame.cfr.shape == (1, antennas, 60)
    assert frame.antennas == antennas
    np.testing.assert_array_equal(frame.tones_hz, (np.arange(2, 240, 4) - 120) * 30e3)
    assert frame.tap_s == pytest.approx(1 / (240 * 30e3))
    assert frame.cir.shape == (antennas, 60)
    np.testing.assert_array_equal(np.abs(frame.cir).argmax(axis=1), 30)
    # noise_power is that of an entry of cfr, the mean of two resource elements.
    assert 10 * np.log10(np.mean(np.abs(frame.cfr) ** 2) / frame.noise_power / 2) == pytest.approx(
        frame.snr_db, abs=0.2
    )
    assert isinstance(wire.decode([bytes(part) for part in wire.encode(frame)]), ChannelFrame)


def test_names_stay_within_what_the_wire_carries(rng: np.random.Generator) -> None:
    (one,) = stream(heard([ssb(1, 3000.0)], 6000, rng), N78_HZ)
    (frame,) = received(NrReceiver(), [msgspec.structs.replace(one, source="x" * 64, t_ns=0)])
    assert isinstance(wire.decode([bytes(part) for part in wire.encode(frame)]), ChannelFrame)


def test_a_block_before_time_began(rng: np.random.Generator) -> None:
    """The second block is stamped 0 although the SSB began in the first one: time on the wire is never negative."""
    first, second = stream(heard([ssb(1, 3000.0)], 6000, rng), N78_HZ, [3500])
    (frame,) = received(NrReceiver(), [first, msgspec.structs.replace(second, t_ns=0)])
    assert frame.t_ns == 0


@pytest.mark.parametrize(("scs_hz", "raster_hz"), SPACINGS)
def test_a_block_across_a_border_is_found_once(scs_hz: float, raster_hz: float, rng: np.random.Generator) -> None:
    """Cut at every sample near both ends of the SSB and at many in between and around."""
    sent = ssb(7, 3000.4, raster_hz, scs_hz)
    samples = heard([sent], 9000, rng, raster_hz)
    length = round(sent.duration_s * RATE_HZ)
    near_ends = {*range(-3, 4), *range(length - 22, length + 23)}
    for cut in sorted(near_ends | set(range(-200, 2 * length, 277))):
        frames = received(NrReceiver(), stream(samples, raster_hz, [3000 + cut]))
        assert users(frames) == ["pci7.ssb0"], f"cut {cut} samples after the start"
        assert abs(frames[0].t_ns - sent.start_s * 1e9) < 2e9 / (256 * scs_hz)


@pytest.mark.parametrize("size", [300, 1000, 1096, 1097, 2500, 4096])
def test_blocks_of_any_size(size: int, rng: np.random.Generator) -> None:
    """Blocks shorter than an SSB as well; four SSBs of a burst, two of them side by side."""
    sent = [ssb(7, 500.3 + place, index_bar=n) for n, place in enumerate((0, 1096, 3000, 7000))]
    samples = heard(sent, 10_000, rng)
    frames = received(NrReceiver(), stream(samples, N78_HZ, range(size, 10_000, size)))
    assert users(frames) == [f"pci7.ssb{n}" for n in range(4)]
    assert [frame.seq for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_allclose(
        [frame.t_ns for frame in frames], [one.start_s * 1e9 for one in sent], atol=2e9 / RATE_HZ
    )


def test_two_cells_at_once(rng: np.random.Generator) -> None:
    """On one raster position at one instant, as the cells of a TDD network; and a third one elsewhere in the band."""
    sent = [ssb(300, 2000.0), ssb(301, 2001.0), ssb(17, 2050.0, N78_HZ + 1.44e6 * 7)]
    center_hz = N78_HZ + 5e6
    samples = capture(sent, rate_hz=30.72e6, center_hz=center_hz, samples=30_720, snr_db=25.0, rng=rng)
    receiver = NrReceiver()
    frames = received(receiver, [block(samples, rate_hz=30.72e6, center_hz=center_hz)])
    assert sorted(users(frames)) == ["pci17.ssb0", "pci300.ssb0", "pci301.ssb0"]
    assert receiver.cells[0].measurement.pci == 17  # the one without a rival
    found_hz = {frame.user: frame.carrier_hz for frame in frames}
    assert found_hz["pci17.ssb0"] == N78_HZ + 1.44e6 * 7


def test_cells_of_both_spacings(rng: np.random.Generator) -> None:
    center_hz = 2600e6
    sent = [
        Ssb(pci=40, start_s=1e-4, raster_hz=2599.35e6, scs_hz=15e3),
        Ssb(pci=50, start_s=5e-4, raster_hz=2605.45e6, scs_hz=30e3, index_bar=6),
    ]
    samples = capture(sent, rate_hz=30.72e6, center_hz=center_hz, samples=30_720, snr_db=15.0, rng=rng)
    frames = received(NrReceiver(), [block(samples, rate_hz=30.72e6, center_hz=center_hz)])
    assert users(frames) == ["pci40.ssb0", "pci50.ssb6"]  # n41: 30 kHz has eight SSBs
    assert [frame.tap_s for frame in frames] == pytest.approx([1 / (240 * 15e3), 1 / (240 * 30e3)])


def test_missing_samples_are_counted_and_not_bridged(rng: np.random.Generator) -> None:
    """A hundred samples are lost in the middle of an SSB: that one is gone, the next one comes."""
    samples = heard([ssb(7, 3000.0), ssb(7, 6000.0, index_bar=1)], 9000, rng)
    before, after = stream(samples, N78_HZ, [3500])
    late = msgspec.structs.replace(after, first_sample=3600, samples=after.samples[:, 100:])
    receiver = NrReceiver()
    assert users(received(receiver, [before, late])) == ["pci7.ssb1"]
    assert receiver.gaps == 100


def test_a_stream_that_begins_again(rng: np.random.Generator) -> None:
    """The same recording played twice: everything is found twice, and going back is no gap."""
    blocks = stream(heard([ssb(7, 3000.0)], 9000, rng), N78_HZ, [3300, 6000])
    receiver = NrReceiver()
    assert users(received(receiver, [*blocks, *blocks])) == ["pci7.ssb0", "pci7.ssb0"]
    assert receiver.gaps == 0
    assert [(cell.measurement.pci, cell.seen) for cell in receiver.cells] == [(7, 2)]


def at(seconds: float, ssbs: list[Ssb], rng: np.random.Generator) -> IqBlock:
    """A short block of a wider stream, which holds several raster positions, from `seconds` on."""
    first_sample = round(seconds * WIDE_HZ)
    samples = capture(
        ssbs, rate_hz=WIDE_HZ, center_hz=N78_HZ, samples=10_000, snr_db=15.0, rng=rng, first_sample=first_sample
    )
    return block(samples, rate_hz=WIDE_HZ, center_hz=N78_HZ, first_sample=first_sample)


def test_a_stream_that_begins_again_elsewhere(rng: np.random.Generator) -> None:
    """After ten seconds a radio restarts at sample 0 and hears another cell on another raster position."""
    late = at(10.0, [Ssb(pci=7, start_s=10.0001, raster_hz=N78_HZ)], rng)
    again = at(0.0, [Ssb(pci=8, start_s=0.0001, raster_hz=N78_HZ + 1.44e6)], rng)
    receiver = NrReceiver()
    assert users(received(receiver, [late, again])) == ["pci7.ssb0", "pci8.ssb0"]


def test_tuning_elsewhere_is_a_new_search(rng: np.random.Generator) -> None:
    """As in a recording with several captures: the cells of the old frequency do not keep from finding new ones."""
    elsewhere_hz = N78_HZ + 70 * 1.44e6
    here = heard([ssb(7, 1000.0)], 5000, rng)
    there = heard([ssb(9, 1000.0, elsewhere_hz)], 5000, rng, elsewhere_hz)
    receiver = NrReceiver()
    blocks = stream(here, N78_HZ) + stream(there, elsewhere_hz) + stream(here, N78_HZ)
    assert users(received(receiver, blocks)) == ["pci7.ssb0", "pci9.ssb0", "pci7.ssb0"]
    assert {cell.measurement.pci for cell in receiver.cells} == {7, 9}
    assert receiver.gaps == 0


@pytest.mark.parametrize("change", [{"epoch": 1}, {"source": "other"}])
def test_another_sender_is_another_stream(change: dict[str, object], rng: np.random.Generator) -> None:
    """Its samples are not sewn to those of the one before, even where the numbers would fit."""
    before, after = stream(heard([ssb(7, 3000.0)], 6000, rng), N78_HZ, [3500])
    assert received(NrReceiver(), [before, msgspec.structs.replace(after, **change)]) == []


def test_a_cell_that_appears_later_is_found_within_a_second(rng: np.random.Generator) -> None:
    """While one cell is known, others are looked for as often as told: here once a second of signal."""
    receiver = NrReceiver(research_s=1.0)
    found: dict[str, list[int]] = {"pci7.ssb0": [], "pci8.ssb0": []}
    for n in range(13):  # every tenth of a second
        first = Ssb(pci=7, start_s=n / 10 + 1e-4, raster_hz=N78_HZ)
        second = Ssb(pci=8, start_s=n / 10 + 4e-4, raster_hz=N78_HZ + 1.44e6)
        for frame in receiver.process(at(n / 10, [first, second][: n + 1], rng)):
            found[frame.user].append(n)
    assert found == {"pci7.ssb0": list(range(13)), "pci8.ssb0": [10, 11, 12]}


def test_cells_are_told_the_strongest_first_and_by_their_best(rng: np.random.Generator) -> None:
    sent = [ssb(7, 1000.0, gain=(0.3,)), ssb(7, 4000.0), ssb(8, 6000.0, gain=(2.0,)), ssb(7, 8000.0, gain=(0.5,))]
    receiver = NrReceiver()
    frames = received(receiver, stream(heard(sent[1:2] + sent[:1] + sent[2:], 10_000, rng, snr_db=25.0), N78_HZ))
    assert users(frames) == ["pci7.ssb0", "pci7.ssb0", "pci8.ssb0", "pci7.ssb0"]
    assert [(cell.measurement.pci, cell.seen) for cell in receiver.cells] == [(8, 1), (7, 3)]
    assert receiver.cells[1].time_s == pytest.approx(sent[1].start_s, abs=2 / RATE_HZ)


def test_any_unit_of_samples(rng: np.random.Generator) -> None:
    samples = heard([ssb(7, 1000.0)], 5000, rng)
    (reference,) = received(NrReceiver(), stream(samples, N78_HZ))
    for level in (1e-25, 1e-9, 32768.0, 1e25):
        (frame,) = received(NrReceiver(), stream((samples * level).astype(np.complex64), N78_HZ))
        assert frame.user == reference.user
        assert frame.snr_db == pytest.approx(reference.snr_db, abs=0.01)
        np.testing.assert_allclose(frame.cfr / level, reference.cfr, rtol=1e-3, atol=1e-3)
        assert frame.noise_power == pytest.approx(reference.noise_power * level**2, rel=0.01)


@pytest.mark.parametrize(
    ("rate_hz", "center_hz"),
    [(1e6, N78_HZ), (3.84e6, N78_HZ), (7.68e6, 30e9), (122.88e6, 26e9), (15.36e6, 0.0), (1.0, 1e9)],
)
def test_captures_without_a_cell(rate_hz: float, center_hz: float, rng: np.random.Generator) -> None:
    """Too narrow for any SSB, or nothing but noise, or silence: no frame and no complaint."""
    receiver = NrReceiver()
    for n, samples in enumerate((noise(rng, 2, 3000), np.zeros((2, 3000)), noise(rng, 2, 1), noise(rng, 2, 3000))):
        one = block(samples.astype(np.complex64), rate_hz=rate_hz, center_hz=center_hz, first_sample=3000 * n)
        assert list(receiver.process(one)) == []
    assert receiver.cells == []


def test_the_impulse_response_of_a_delay() -> None:
    """A delay of n taps is a peak n taps behind the middle; amplitudes add up to the mean of the channel."""
    tones = np.arange(60)
    for delay in (-30, -7, 0, 3, 29):
        cfr = 2j * np.exp(-2j * np.pi * (tones - 30) * delay / 60)
        cir = impulse_response(cfr[None])[0]
        assert np.abs(cir).argmax() == 30 + delay
        assert cir[30 + delay] == pytest.approx(2j, abs=1e-6)
        assert np.sum(np.abs(cir) > 1e-6) == 1
