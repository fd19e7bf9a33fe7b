"""The channel on DMRS that were found: the SNR that was sent, and why a recording's symbols differ in theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.find_dmrs import FoundDmrs, find_dmrs
from ingest.nr.found_channel import FoundChannel, estimate_found, found_pilots, symbol_snrs_db
from ingest.nr.ofdm import OfdmDemodulator
from tests.ingest.nr.transmitter import Allocation, Radio, transmit

CENTER_HZ = 3.5e9
RECORDED_RATE_HZ, RECORDED_CENTER_HZ = 46.08e6, 3427.5e6
USER = Allocation(prbs=(10, 24), n_id=40_000, symbols=(2, 7, 11))


def recorded(data: Path, number: int) -> tuple[npt.NDArray[np.complex64], FoundDmrs, FoundChannel]:
    samples = np.fromfile(data / "nr-iq" / "srsran-n78-40MHz" / f"pusch_{number}.cf32", "<c8")[None]
    (found,) = find_dmrs(samples, RECORDED_RATE_HZ, RECORDED_CENTER_HZ)
    channel = estimate_found(samples, RECORDED_RATE_HZ, RECORDED_CENTER_HZ, found)
    assert channel is not None
    return samples, found, channel


@pytest.mark.parametrize("snr_db", [5.0, 15.0, 25.0])
def test_every_symbol_has_the_snr_that_was_sent(snr_db: float, rng: np.random.Generator) -> None:
    radio = Radio(rate_hz=15.36e6, prbs=38, taps=((0.0, 1.0),), snr_db=snr_db, antennas=2)
    samples = transmit(radio, [USER], rng)
    (found,) = find_dmrs(samples, radio.rate_hz, CENTER_HZ)
    channel = estimate_found(samples, radio.rate_hz, CENTER_HZ, found)
    assert channel is not None
    assert channel.symbols == USER.symbols
    assert channel.symbol_snr_db == pytest.approx([snr_db] * 3, abs=1.0)
    assert float(channel.estimate.snr_db[0]) == pytest.approx(snr_db, abs=0.7)


def test_a_noisy_symbol_is_told_from_quiet_ones(rng: np.random.Generator) -> None:
    pilots = 60
    subspace = np.linalg.qr(np.exp(-2j * np.pi * np.outer(np.arange(pilots), np.arange(4)) / pilots))[0]
    received = np.ones((3, 2, pilots)) @ np.eye(pilots) + 0j
    parts = rng.normal(size=(2, *received.shape)) * np.sqrt(np.array([0.1, 0.001]) / 2)[:, None]
    told = symbol_snrs_db(received + parts[0] + 1j * parts[1], subspace)
    assert told == pytest.approx([10.0, 30.0], abs=1.2)


@pytest.mark.data
@pytest.mark.parametrize(
    ("number", "known_db"),
    [(12066, 20.0)] + [(number, 32.0) for number in (12106, 12146, 12266, 12306, 12386)],
)
def test_recorded_uplinks_by_the_symbol_that_is_known(number: int, known_db: float, data: Path) -> None:
    """What is known of the SNR was measured on symbol 7: "about 20 dB" and "31 to 33 dB"."""
    _, _, channel = recorded(data, number)
    snr_db = dict(zip(channel.symbols, channel.symbol_snr_db, strict=True))
    assert list(snr_db) == [2, 7, 11]
    assert snr_db[7] == pytest.approx(known_db, abs=1.5)
    assert float(channel.estimate.snr_db[0]) == pytest.approx(np.mean(list(snr_db.values())), abs=1.0)


@pytest.mark.data
def test_the_phone_at_its_limit_distorts_its_pilots(data: Path) -> None:
    """Why symbols 2 and 11 of the loud recording are 4 dB worse than symbol 7.

    Their error lies on the pilots' own comb alone: 20 to 26 dB more than on the empty one between. So it repeats within
    the symbol as the pilots do and is made of them; a memoryless power series of the sent waveform, spread over the
    band by three terms each, explains nine tenths of it. It is worse where the sent symbol peaks higher.
    """
    samples, found, channel = recorded(data, 12066)
    carrier = found.carrier(RECORDED_RATE_HZ)
    demodulator = OfdmDemodulator(carrier, RECORDED_RATE_HZ, RECORDED_CENTER_HZ)
    pilots = found_pilots(found, carrier)
    both = np.arange(pilots.subcarriers[0], pilots.subcarriers[-1] + 2)
    cfo_hz = found.cfo_hz + channel.estimate.cfo_hz
    symbols = found.symbols
    grid = demodulator.symbols(samples, found.start, found.slot % 2, symbols, cfo_hz=cfo_hz, subcarriers=both)[0]
    across = np.linspace(-1, 1, len(pilots.subcarriers))
    smooth = np.polynomial.legendre.legvander(across, 8)
    peaks_db = []
    for row, sent in enumerate(pilots.values):
        received = grid[row, ::2] * sent.conj()
        bins = np.zeros(4096, np.complex128)
        bins[pilots.subcarriers] = sent
        wave = np.fft.ifft(bins) * 4096 / np.sqrt(len(sent))
        peaks_db.append(10 * np.log10(np.abs(wave).max() ** 2))
        odd = [np.fft.fft(wave * np.abs(wave) ** order)[pilots.subcarriers] * sent.conj() for order in (2, 4, 6)]
        series = [one / 4096 * across**power for one in odd for power in range(3)]
        plain, explained = unexplained(received, smooth), unexplained(received, np.column_stack([smooth, *series]))
        empty = float(np.mean(np.abs(grid[row, 1::2]) ** 2))
        assert plain > 10**1.8 * empty
        assert explained < 0.2 * plain
    assert np.argsort(peaks_db)[0] == np.argmax(channel.symbol_snr_db) == symbols.index(7)


def unexplained(values: npt.NDArray[np.complexfloating], columns: npt.NDArray[np.inexact]) -> float:
    """Mean power of what least squares over `columns` leaves of `values`."""
    rest = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return float(np.sum(np.abs(rest) ** 2) / (len(values) - columns.shape[1]))


def test_symbols_outside_of_the_samples_are_left_out(rng: np.random.Generator) -> None:
    radio = Radio(rate_hz=15.36e6, prbs=38, taps=((0.0, 1.0),), snr_db=20.0)
    samples = transmit(radio, [USER], rng)
    (found,) = find_dmrs(samples, radio.rate_hz, CENTER_HZ)
    cut = round(found.start + 9 * 0.5e-3 / 14 * radio.rate_hz)
    channel = estimate_found(samples[:, :cut], radio.rate_hz, CENTER_HZ, found)
    assert channel is not None
    assert channel.symbols == (2, 7)
    assert len(channel.symbol_snr_db) == 2
    assert estimate_found(samples[:, :10], radio.rate_hz, CENTER_HZ, replace(found)) is None
