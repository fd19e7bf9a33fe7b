"""Configured reference signals from IQ to frames: over a known channel, across blocks and gaps, and on recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ingest.errors import UsageRefused
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.dmrs import PuschDmrs
from ingest.nr.ofdm import Carrier
from ingest.nr.receiver import NrReceiver
from ingest.nr.references import ReferenceSettings, signals_from
from ingest.nr.slot_plan import Reference
from ingest.sources import open_source
from tests.ingest.nr.test_ofdm import transmit

RATE_HZ = 7.68e6
CARRIER = Carrier(30e3, 16, 3.5e9)
SLOTS = 20
DELAY_S, ECHO = 2 / RATE_HZ, 0.5j


def ue(n_id: int, **changes: object) -> PuschDmrs:
    return PuschDmrs(**{"prb_count": 12, "first_prb": 2, "additional_positions": 1, "n_id": (n_id, n_id), **changes})


def channel(tones_hz: np.ndarray) -> np.ndarray:
    """Two paths, the second two samples late."""
    return np.asarray(1.0 + ECHO * np.exp(-2j * np.pi * tones_hz * DELAY_S))


def frame_samples(signals: Sequence[PuschDmrs], snr_db: float, antennas: int = 1, seed: int = 1) -> np.ndarray:
    """A frame [A, T] with random data everywhere around the DMRS, over `channel`, antenna a turned by a radian each."""
    rng = np.random.default_rng(seed)
    grid = np.exp(0.5j * np.pi * (rng.integers(0, 4, (14 * SLOTS, CARRIER.subcarriers)) + 0.5))
    for slot in range(SLOTS):
        for signal in signals:
            for group in signal.pilots(CARRIER, slot):
                for row, symbol in enumerate(group.symbols):
                    grid[14 * slot + symbol, group.subcarriers] = group.values[:, row].sum(axis=0)
    grid *= channel(CARRIER.tones_hz(np.arange(CARRIER.subcarriers)))
    parts = []
    for subframe in range(10):
        part = grid[28 * subframe : 28 * subframe + 28]
        parts.append(transmit(part, 1, CARRIER.prbs, CARRIER.carrier_hz, CARRIER.carrier_hz, RATE_HZ))
    clean = np.concatenate(parts)
    turned = np.exp(1j * np.arange(antennas))[:, None] * clean
    noise = (rng.standard_normal(turned.shape) + 1j * rng.standard_normal(turned.shape)) / np.sqrt(2)
    return (turned + 10 ** (-snr_db / 20) * noise).astype(np.complex64)


def settings(signals: Sequence[tuple[str, Reference]], frame_start: int = 0) -> ReferenceSettings:
    return ReferenceSettings(CARRIER, tuple(signals), frame_start / RATE_HZ)


def blocks(samples: np.ndarray, cuts: Sequence[int], first: int = 0) -> Iterator[IqBlock]:
    edges = [0, *cuts, samples.shape[1]]
    for seq, (low, high) in enumerate(pairwise(edges)):
        yield IqBlock(
            source="radio",
            epoch=1,
            seq=seq,
            t_ns=round((first + low) / RATE_HZ * 1e9),
            rate_hz=RATE_HZ,
            center_hz=CARRIER.carrier_hz,
            first_sample=first + low,
            samples=samples[:, low:high],
        )


def received(receiver: NrReceiver, stream: Iterator[IqBlock]) -> list[ChannelFrame]:
    return [frame for one in stream for frame in receiver.process(one)]


@pytest.mark.kernel
def test_every_slot_yields_the_channel() -> None:
    samples = frame_samples([ue(17)], snr_db=20.0, antennas=2)
    receiver = NrReceiver(settings([("ue", ue(17))]))
    frames = received(receiver, blocks(samples, []))
    assert len(frames) == SLOTS
    for frame in frames:
        truth = np.exp(1j * np.arange(2))[:, None] * channel(frame.tones_hz)
        assert frame.cfr.shape == (1, 2, 12)
        error = float(np.mean(np.abs(frame.cfr[0] - truth) ** 2))
        assert error < 10 ** (-2.0)  # better than the pilots themselves
        assert error < 10 * frame.noise_power
        assert frame.snr_db == pytest.approx(20 + 10 * np.log10(1.25), abs=1.5)
        assert frame.user == "ue.0"
    assert [frame.block for frame in frames] == list(range(SLOTS))


def test_blocks_may_end_anywhere() -> None:
    samples = frame_samples([ue(17)], snr_db=30.0)
    whole = received(NrReceiver(settings([("ue", ue(17))])), blocks(samples, []))
    for cuts in ([1], [3840, 7680], [10_000, 10_001, 50_000], list(range(700, 76_800, 700))):
        parts = received(NrReceiver(settings([("ue", ue(17))])), blocks(samples, cuts))
        assert len(parts) == len(whole)
        for one, other in zip(parts, whole, strict=True):
            np.testing.assert_allclose(one.cfr, other.cfr, atol=1e-4)
            assert one.block == other.block


def test_a_gap_costs_the_slots_it_touches() -> None:
    samples = frame_samples([ue(17)], snr_db=30.0)
    receiver = NrReceiver(settings([("ue", ue(17))]))
    stream = [*blocks(samples[:, :20_000], []), *blocks(samples[:, 25_000:], [], first=25_000)]
    frames = received(receiver, iter(stream))
    slot = 3840
    lost = {20_000 // slot, 25_000 // slot}
    assert {frame.block for frame in frames} == set(range(SLOTS)) - lost
    assert receiver.gaps == 5_000


@pytest.mark.parametrize("start", [-1000, 777, 40_000])
def test_frames_start_where_they_are_said_to(start: int) -> None:
    samples = np.roll(frame_samples([ue(17)], snr_db=30.0), start, axis=1)
    frames = received(NrReceiver(settings([("ue", ue(17))], start)), blocks(samples, []))
    assert len(frames) >= SLOTS - 2
    for frame in frames:
        assert np.mean(np.abs(frame.cfr[0, 0] - channel(frame.tones_hz)) ** 2) < 1e-2


def test_two_users_are_told_apart_by_comb_and_by_cover() -> None:
    signals = [ue(17, ports=(0, 1)), ue(17, ports=(2,))]
    samples = frame_samples(signals, snr_db=30.0)
    frames = received(NrReceiver(settings([("a", signals[0]), ("b", signals[1])])), blocks(samples, []))
    assert {frame.user for frame in frames} == {"a.0", "a.1", "b.2"}
    for frame in frames:
        assert np.mean(np.abs(frame.cfr[0, 0] - channel(frame.tones_hz)) ** 2) < 2e-2


@pytest.mark.parametrize("wrong", [ue(18), ue(17, n_scid=1), ue(17, ports=(2,))])
def test_a_wrong_hypothesis_yields_nothing(wrong: PuschDmrs) -> None:
    samples = frame_samples([ue(17)], snr_db=30.0)
    receiver = NrReceiver(settings([("ue", wrong)]))
    assert received(receiver, blocks(samples, [])) == []
    assert receiver.references is not None
    assert sum(receiver.references.refused.values()) == SLOTS


def test_a_wrong_slot_number_yields_nothing() -> None:
    samples = frame_samples([ue(17)], snr_db=30.0)
    assert received(NrReceiver(settings([("ue", ue(17))], 3840)), blocks(samples, [])) == []


def test_noise_and_silence_yield_nothing() -> None:
    rng = np.random.default_rng(3)
    noise = (rng.standard_normal((1, 76_800)) + 1j * rng.standard_normal((1, 76_800))).astype(np.complex64)
    for samples in (noise, np.zeros_like(noise)):
        assert received(NrReceiver(settings([("ue", ue(17))])), blocks(samples, [])) == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "ue", "kind": "pusch", "prb_cuont": 3}, "did you mean prb_count"),
        ({"name": "ue", "kind": "push"}, "unknown kind"),
        ({"kind": "pusch"}, "needs a name"),
        ({"name": "ue", "kind": "pusch", "config_type": 3}, "config_type is 3"),
        ({"name": "ue", "kind": "pusch", "first_prb": 10, "prb_count": 10}, "carrier has 0 to 15"),
        ({"name": "ue", "kind": "pusch", "first_prb": "x"}, "Expected `int`"),
    ],
)
def test_wrong_tables_are_told_in_one_line(table: dict[str, object], said: str) -> None:
    with pytest.raises(UsageRefused, match=said):
        signals_from([table], CARRIER, where="[receiver] references")


@pytest.mark.data
def test_a_recorded_uplink_as_configured(data: Path) -> None:
    """A phone's PUSCH: slot 7 of a frame that starts before the file, 6 PRBs on symbols 2, 7 and 11."""
    carrier = Carrier(30e3, 106, 3427.5e6)
    signal = PuschDmrs(first_prb=3, prb_count=6, additional_positions=2, n_id=(1, 1), slots=(7,))
    start_s = (-768 - 6 * 23_040) / 46.08e6
    receiver = NrReceiver(ReferenceSettings(carrier, (("phone", signal),), start_s))
    path = data / "nr-iq" / "srsran-n78-40MHz" / "pusch_12106.cf32"
    source = open_source(str(path), rate_hz=46.08e6, center_hz=3427.5e6)
    frames = [frame for one in source if isinstance(one, IqBlock) for frame in receiver.process(one)]
    assert len(frames) == 1
    assert frames[0].snr_db == pytest.approx(32.0, abs=2.0)
    assert frames[0].cfr.shape == (1, 1, 6)


def test_frames_are_stamped_by_their_slots() -> None:
    frames = received(NrReceiver(settings([("ue", ue(17))])), blocks(frame_samples([ue(17)], 20.0), [30_000]))
    assert np.diff([frame.t_ns for frame in frames]) == pytest.approx(0.5e6, abs=1e3)


def test_antennas_on_two_clocks_are_told_by_a_user() -> None:
    """The second antenna's clock is 400 Hz off: between looks 2 ms apart nearly a whole turn, which symbols resolve."""
    samples, receiver, said = (
        frame_samples([ue(17)], snr_db=20.0, antennas=2),
        NrReceiver(settings([("ue", ue(17))])),
        [],
    )
    for n in range(85):
        first = n * samples.shape[1]
        turned = samples.copy()
        turned[1] *= np.exp(2j * np.pi * 400.0 / RATE_HZ * (first + np.arange(samples.shape[1])))
        said += [frame.phases for frame in received(receiver, blocks(turned, [], first))]
    assert said[0] == "uncalibrated"
    assert said[-1] == "drifting"
    summary = receiver.antennas.summary()
    assert summary is not None
    assert summary["rates_hz"] == pytest.approx([0.0, 400.0], abs=1.0)


def test_antennas_on_one_clock_are_not_called_drifting() -> None:
    samples, receiver = frame_samples([ue(17)], snr_db=20.0, antennas=2), NrReceiver(settings([("ue", ue(17))]))
    for n in range(50):
        for frame in received(receiver, blocks(samples, [], n * samples.shape[1])):
            assert frame.phases == "uncalibrated"
    assert receiver.antennas.summary() == {"phases": "uncalibrated", "told_by": 1}
