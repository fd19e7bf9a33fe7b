"""Our sender against senders written down from the standard elsewhere in the tests, and against our receiver."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr import pbch
from ingest.nr.dmrs import PuschDmrs
from ingest.nr.ofdm import Carrier, OfdmDemodulator
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb_patterns import ssb_start_s
from sim.nr_waveform import SSB_PRBS, OfdmModulator, shared_channel, ssb_elements, ssb_slot
from tests.ingest.nr import transmitter
from tests.ingest.nr.broadcast import Broadcast
from tests.ingest.nr.signals import Ssb, block, ssb_grid


@pytest.mark.parametrize(
    ("l_max", "half_frame", "index", "pci"), [(8, 0, 3, 500), (8, 1, 7, 77), (4, 1, 2, 1007), (4, 0, 0, 0)]
)
def test_an_ssb_is_that_of_the_standard(l_max: int, half_frame: int, index: int, pci: int) -> None:
    said = Broadcast(
        sfn=709, half_frame=half_frame, k_ssb=19, position_3=True, pdcch_config_sib1=0xA5, not_barred=False, l_max=l_max
    )
    message = pbch.message(
        pci,
        l_max,
        sfn=709,
        half_frame=half_frame,
        k_ssb=19,
        dmrs_type_a_position=3,
        pdcch_config_sib1=0xA5,
        cell_barred=True,
    )
    index_bar = index + 4 * half_frame if l_max == 4 else index
    ours = ssb_elements(pci, index, l_max, message, half_frame)
    np.testing.assert_allclose(ours, ssb_grid(pci, index_bar, said), atol=1e-12)


@pytest.mark.parametrize(("scs_hz", "rate_hz"), [(15e3, 15.36e6), (30e3, 15.36e6), (30e3, 23.04e6), (60e3, 46.08e6)])
def test_symbols_lie_where_the_standard_puts_them(scs_hz: float, rate_hz: float, rng: np.random.Generator) -> None:
    """Untuned, as `transmitter` modulates: no phase but that of the subcarriers."""
    carrier = Carrier(scs_hz, 20, 0.0)
    radio = transmitter.Radio(rate_hz=rate_hz, scs_hz=scs_hz, prbs=20, slots=4, first_slot=0)
    grid = rng.normal(size=(4, 14, 240)) + 1j * rng.normal(size=(4, 14, 240))
    expected = transmitter.modulated(radio, grid)
    modulator = OfdmModulator(carrier, rate_hz, 0.0)
    end = 0
    for slot in range(4):
        first, samples = modulator.slot(slot, grid[slot : slot + 1])
        assert first == end
        end = first + samples.shape[1]
        np.testing.assert_allclose(samples[0], expected[first:end], atol=1e-5)
    assert end == len(expected)


@pytest.mark.parametrize(
    ("center_hz", "rate_hz"), [(3502.8e6, 15.36e6), (3500.0123e6, 15.36e6), (3502.8e6, 15.39e6), (3503e6, 20.01e6)]
)
def test_an_ssb_on_the_air_is_that_of_the_standard(center_hz: float, rate_hz: float) -> None:
    """Also at rates at which symbols begin between two samples, and tuned between two subcarriers."""
    raster_hz = 3501.12e6
    modulator = OfdmModulator(Carrier(30e3, SSB_PRBS, raster_hz), rate_hz, center_hz)
    message = pbch.message(500, 8, sfn=3)
    slot, grid = ssb_slot("C", 8, 1, ssb_elements(500, 1, 8, message), 30e3)
    first, samples = modulator.slot(slot, grid)
    start_s = ssb_start_s("C", 8, 1)
    ssb = Ssb(500, start_s, raster_hz, index_bar=1, said=Broadcast(sfn=3))
    times_s = np.arange(first, first + samples.shape[1]) / rate_hz
    # Written there with 144/2048 of a symbol as its prefix, also where 16 Ts longer ones come before it.
    expected = ssb.samples(times_s, center_hz)[0] / np.sqrt(round(rate_hz / 30e3))
    inside = np.abs(expected) > 0
    turn = np.vdot(expected[inside], samples[0, inside])
    np.testing.assert_allclose(samples[0, inside], expected[inside] * turn / abs(turn), atol=2e-5)
    assert np.all(samples[0, ~inside] == 0)


@pytest.mark.parametrize("center_hz", [3500e6, 3500.3e6, 3500.3071e6])
def test_a_shared_channel_comes_back_from_the_demodulator(center_hz: float, rng: np.random.Generator) -> None:
    carrier = Carrier(30e3, 24, 3500e6)
    signal = PuschDmrs(first_prb=2, prb_count=10, ports=(0, 2), n_id=(5, 5), additional_positions=1)
    rate_hz = 15.36e6
    modulator, demodulator = OfdmModulator(carrier, rate_hz, center_hz), OfdmDemodulator(carrier, rate_hz, center_hz)
    for slot in (0, 1, 7):
        grid = shared_channel(carrier, slot, signal, rng, bits=6)
        _, samples = modulator.slot(slot, grid)
        seen = demodulator.symbols(samples, 0.0, slot % 2, range(14))
        turn = np.vdot(grid, seen) / np.vdot(grid, grid)  # the carrier's phase at the slot's start
        assert abs(turn) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(seen, grid * turn, atol=1e-4)


def test_a_shared_channel_is_full_of_unit_power_and_nothing_else(rng: np.random.Generator) -> None:
    carrier = Carrier(30e3, 24, 3500e6)
    signal = PuschDmrs(first_prb=2, prb_count=10, slots=(3,), n_id=(5, 5))
    for bits in (2, 4, 6, 8):
        grid = shared_channel(carrier, 3, signal, rng, bits=bits, symbols=range(4, 14))
        data = grid[0, 4:, 24:144]
        assert np.all(data != 0)
        assert len(np.unique(np.round(data.real, 9))) == 2 ** (bits // 2)
        assert np.mean(np.abs(data) ** 2) == pytest.approx(1.0, rel=0.1)
        assert np.count_nonzero(grid) == data.size + 60
    assert not shared_channel(carrier, 2, signal, rng).any()


def test_what_is_sent_is_found(rng: np.random.Generator) -> None:
    """An SSB and its MIB, and a PUSCH in every slot, through the whole receiver."""
    rate_hz, center_hz, raster_hz = 15.36e6, 3502.8e6, 3501.12e6
    modulator = OfdmModulator(Carrier(30e3, SSB_PRBS, raster_hz), rate_hz, center_hz)
    samples = 0.05 * (rng.normal(size=(1, 460_800)) + 1j * rng.normal(size=(1, 460_800)))
    for frame in (0, 2):
        elements = ssb_elements(123, 2, 8, pbch.message(123, 8, sfn=1000 + frame, half_frame=1, k_ssb=6), 1)
        slot, grid = ssb_slot("C", 8, 2, elements, 30e3, half_frame=1)
        first, sent = modulator.slot(slot, grid)
        samples[:, frame * 153_600 + first :][:, : sent.shape[1]] += sent
    receiver = NrReceiver()
    list(receiver.process(block(samples.astype(np.complex64), rate_hz=rate_hz, center_hz=center_hz)))
    (cell,) = receiver.cells
    assert (cell.measurement.pci, cell.measurement.ssb_index) == (123, 2)
    assert cell.mib is not None
    assert (cell.mib.sfn % 2, cell.mib.half_frame, cell.mib.k_ssb, cell.mib.cell_barred) == (0, 1, 6, False)
    assert cell.timing is not None
    assert cell.timing.frame_at(1e-6) == (1000, pytest.approx(0.0, abs=1e-8))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="whole multiple"):
        OfdmModulator(Carrier(30e3, 20, 3.5e9), 15.361e6, 3.5e9)
    with pytest.raises(ValueError, match="sampled band"):
        OfdmModulator(Carrier(30e3, 51, 3.5e9), 15.36e6, 3.5e9)
