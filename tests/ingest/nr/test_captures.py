"""Recorded cells: identity, index, SNR and frequency offset as others have decoded them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ingest.messages import ChannelFrame
from ingest.nr.receiver import NrReceiver
from ingest.sources import open_source
from tests.ingest.nr.signals import block

pytestmark = pytest.mark.data


@dataclass(frozen=True)
class Recording:
    name: str
    rate_hz: float
    center_hz: float
    ssb_hz: float
    user: str

    def samples(self, data: Path) -> npt.NDArray[np.complex64]:
        return np.fromfile(data / "nr-iq" / self.name, "<c8")[None]


N3 = Recording("n3_pci500_15.36Msps_1842.5MHz.cf32", 15.36e6, 1842.5e6, 1842.05e6, "pci500.ssb0")
N78 = Recording("n78_x300_46.08Msps_3502.8MHz.cf32", 46.08e6, 3502.8e6, 3512.64e6, "pci500.ssb0")
SIB = Recording("srsran-n78-40MHz/sib.cf32", 46.08e6, 3427.5e6, 3413.28e6, "pci1.ssb0")
ALL = [N3, N78, SIB]


def received(samples: npt.NDArray[np.complex64], recording: Recording, *, blocks: int = 1) -> list[ChannelFrame]:
    receiver = NrReceiver()
    borders = np.linspace(0, samples.shape[1], blocks + 1).astype(int)
    return [
        frame
        for start, end in pairwise(borders)
        for frame in receiver.process(
            block(
                samples[:, start:end],
                rate_hz=recording.rate_hz,
                center_hz=recording.center_hz,
                first_sample=int(start),
            )
        )
    ]


@pytest.fixture(scope="module")
def alone(data: Path) -> dict[str, ChannelFrame]:
    """The one frame of each recording."""
    found = {}
    for recording in ALL:
        (found[recording.name],) = received(recording.samples(data), recording)
    return found


@pytest.mark.parametrize("recording", ALL, ids=lambda recording: recording.name)
def test_the_cell_is_found_without_being_told_where(recording: Recording, alone: dict[str, ChannelFrame]) -> None:
    frame = alone[recording.name]
    assert frame.user == recording.user
    assert frame.carrier_hz == recording.ssb_hz
    assert frame.cfr.shape == (1, 1, 60)


@dataclass(frozen=True)
class Told:
    """What a cell's PBCH says and where its frame lies."""

    sfn: int
    pattern: str
    frame_start_s: float
    scs_common_hz: float
    k_ssb: int
    pdcch_config_sib1: int
    cell_barred: bool


TOLD = {
    # k_SSB 31 and no SIB1: a carrier for terminals that an LTE cell controls.
    N78.name: Told(978, "C", 7.76484e-3 - 71.875e-6, 15e3, 31, 0, True),
    N3.name: Told(784, "A", 0.143229e-3 - 143.229e-6, 15e3, 6, 96, False),
    SIB.name: Told(512, "C", 71.615e-6 - 71.875e-6, 30e3, 12, 48, False),
}


@pytest.mark.kernel
@pytest.mark.parametrize("recording", ALL, ids=lambda recording: recording.name)
def test_the_cell_is_proved_and_tells_its_frame(recording: Recording, data: Path) -> None:
    receiver = NrReceiver()
    one = block(recording.samples(data), rate_hz=recording.rate_hz, center_hz=recording.center_hz)
    assert len(list(receiver.process(one))) == 1
    (cell,) = receiver.cells
    mib, timing, told = cell.mib, cell.timing, TOLD[recording.name]
    assert mib is not None
    assert timing is not None
    assert (mib.sfn, mib.half_frame, mib.dmrs_type_a_position) == (told.sfn, 0, 2)
    assert (mib.scs_common_hz, mib.k_ssb, mib.pdcch_config_sib1) == (
        told.scs_common_hz,
        told.k_ssb,
        told.pdcch_config_sib1,
    )
    assert mib.cell_barred == told.cell_barred
    assert (timing.case, timing.sfn, timing.slot, timing.symbol) == (told.pattern, told.sfn, 0, 2)
    assert timing.frame_start_s == pytest.approx(told.frame_start_s, abs=2e-7)


def test_the_golden_vector_is_clean(alone: dict[str, ChannelFrame]) -> None:
    frame = alone[N3.name]
    assert frame.cfo_hz == pytest.approx(0.0, abs=3.0)
    assert frame.snr_db > 40


def test_the_live_cell(alone: dict[str, ChannelFrame]) -> None:
    """Decoded independently: CFO about 266 Hz, DMRS-SNR about 28 dB.

    A block of 143 µs tells no more: between its symbols the oscillators' phases wander by 0.03 rad, some 100 Hz.
    """
    frame = alone[N78.name]
    assert frame.snr_db == pytest.approx(28.0, abs=2.0)
    assert frame.cfo_hz == pytest.approx(266.0, abs=200.0)


def test_the_cell_with_system_information(alone: dict[str, ChannelFrame]) -> None:
    frame = alone[SIB.name]
    assert frame.snr_db > 30
    assert frame.cfo_hz == pytest.approx(0.0, abs=30.0)


@pytest.mark.parametrize("shift_hz", [1000.0, -3300.0, 14_000.0])
@pytest.mark.parametrize("recording", ALL, ids=lambda recording: recording.name)
def test_a_known_rotation_shifts_the_offset_by_as_much(
    recording: Recording, shift_hz: float, data: Path, alone: dict[str, ChannelFrame]
) -> None:
    samples = recording.samples(data)
    times_s = np.arange(samples.shape[1]) / recording.rate_hz
    turned = (samples * np.exp(2j * np.pi * shift_hz * times_s)).astype(np.complex64)
    (frame,) = received(turned, recording)
    before = alone[recording.name]
    assert frame.user == before.user
    assert frame.cfo_hz is not None
    assert before.cfo_hz is not None
    assert frame.cfo_hz - before.cfo_hz == pytest.approx(shift_hz, abs=3.0)
    assert frame.snr_db == pytest.approx(before.snr_db, abs=2.0)
    channels = frame.cfr.ravel(), before.cfr.ravel()
    assert abs(np.vdot(*channels)) / np.linalg.norm(channels[0]) / np.linalg.norm(channels[1]) > 0.999


@pytest.mark.parametrize("blocks", [2, 3, 7])
def test_in_blocks_it_is_the_same_cell(blocks: int, data: Path, alone: dict[str, ChannelFrame]) -> None:
    (frame,) = received(N3.samples(data), N3, blocks=blocks)
    before = alone[N3.name]
    assert frame.user == before.user
    assert frame.t_ns == pytest.approx(before.t_ns, abs=1e9 / N3.rate_hz * 4)
    assert frame.cfo_hz == pytest.approx(before.cfo_hz, abs=3.0)


def test_noise_on_top_is_measured(data: Path, rng: np.random.Generator) -> None:
    """The golden vector with noise for 10 dB on its SSB's resource elements."""
    samples = N3.samples(data)
    (clean,) = received(samples, N3)
    # An entry of cfr is a resource element in a unit in which white noise of power p per sample has p 256 15e3 / rate.
    element_power = float(np.mean(np.abs(clean.cfr) ** 2))
    power = element_power / 10 * N3.rate_hz / (256 * 15e3)
    parts = rng.normal(size=(2, *samples.shape)) * np.sqrt(power / 2)
    (noisy,) = received((samples + parts[0] + 1j * parts[1]).astype(np.complex64), N3)
    assert noisy.user == clean.user
    assert noisy.snr_db == pytest.approx(10.0, abs=2.0)
    assert noisy.noise_power == pytest.approx(element_power / 10 / 2, rel=0.5)
    error = np.linalg.norm(noisy.cfr - clean.cfr) ** 2 / np.linalg.norm(clean.cfr) ** 2
    assert error < 0.1  # 0.05 by theory, timing and phase being the same


def test_an_uplink_is_no_cell(data: Path) -> None:
    for path in sorted((data / "nr-iq" / "srsran-n78-40MHz").glob("pusch_*.cf32"))[:3]:
        samples = np.fromfile(path, "<c8")[None]
        assert received(samples, Recording(path.name, 46.08e6, 3427.5e6, 0.0, "")) == []


def test_through_the_source_as_a_replay_does(data: Path) -> None:
    source = open_source(str(data / "nr-iq" / N78.name), rate_hz=N78.rate_hz, center_hz=N78.center_hz)
    receiver = NrReceiver()
    frames = [frame for message in source for frame in receiver.process(message)]
    assert [frame.user for frame in frames] == [N78.user]
    (cell,) = receiver.cells
    assert cell.measurement.sss_correlation > 0.99
    assert cell.time_s == pytest.approx(7.7648e-3, abs=1e-5)
