"""The resource grid in a sampled stream, against a modulator written from 38.211 clauses 5.3.1 and 5.4."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr.ofdm import Carrier, OfdmDemodulator

KAPPA = 64
TC_S = 1 / (480e3 * 4096)


def prefix_s(symbol: int, mu: int) -> float:
    """N_CP Tc of symbol `symbol` of the subframe (38.211 clause 5.3.1)."""
    longer = 16 * KAPPA if symbol in (0, 7 * 2**mu) else 0
    return (144 * KAPPA * 2**-mu + longer) * TC_S


def transmit(
    grid: np.ndarray, mu: int, prbs: int, carrier_hz: float, center_hz: float, rate_hz: float, cfo_hz: float = 0.0
) -> np.ndarray:
    """A subframe of grid [14 * 2**mu, subcarriers] as a receiver at `center_hz` samples it, by the sums.

    s_l(t) = sum_k a_k exp(2 pi i (k - 6 N) df (t - t_l - N_CP Tc)), sent on a carrier whose phase is 0 where the useful
    part starts; the receiver's oscillator runs through.
    """
    scs_hz = 15e3 * 2**mu
    times = np.arange(round(1e-3 * rate_hz)) / rate_hz
    samples = np.zeros(len(times), complex)
    offsets_hz = (np.arange(prbs * 12) - 6 * prbs) * scs_hz
    begin_s = 0.0
    for symbol, values in enumerate(grid):
        useful_s = begin_s + prefix_s(symbol, mu)
        end_s = useful_s + 2048 * KAPPA * 2**-mu * TC_S
        inside = np.flatnonzero((times >= begin_s - 1e-12) & (times < end_s - 1e-12))
        after_s = times[inside] - useful_s
        baseband = np.exp(2j * np.pi * after_s[:, None] * offsets_hz) @ values
        passband = carrier_hz * after_s - center_hz * times[inside]
        samples[inside] = baseband * np.exp(2j * np.pi * np.mod(passband, 1.0))
        begin_s = end_s
    samples *= np.exp(2j * np.pi * cfo_hz * times)
    return samples / np.sqrt(rate_hz / scs_hz)


CASES = [
    (0, 6, 1.8e9, 0.0, 3.84e6),
    (1, 8, 3.5e9 + 7e3, 0.0, 7.68e6),
    (1, 8, 3.5e9, 10 * 30e3, 7.68e6),
    (1, 8, 3.5e9, -23.4e3, 7.68e6),
    (1, 7, 3.5e9 + 11.1e3, 40.6e3, 6e6),  # cyclic prefixes of no whole number of samples
    (2, 5, 3.6e9, 60e3 / 3, 7.68e6),
    (3, 4, 28e9, 120e3, 15.36e6),
]


@pytest.mark.parametrize(("mu", "prbs", "carrier_hz", "shift_hz", "rate_hz"), CASES)
def test_every_symbol_of_a_subframe_comes_back(
    mu: int, prbs: int, carrier_hz: float, shift_hz: float, rate_hz: float
) -> None:
    rng = np.random.default_rng(1)
    carrier = Carrier(15e3 * 2**mu, prbs, carrier_hz)
    shape = (14 * 2**mu, carrier.subcarriers)
    grid = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    samples = transmit(grid, mu, prbs, carrier_hz, carrier_hz - shift_hz, rate_hz).astype(np.complex64)[None]
    demodulator = OfdmDemodulator(carrier, rate_hz, carrier_hz - shift_hz)
    for slot in range(2**mu):
        start = carrier.slot_start_s(slot) * rate_hz
        symbols = range(14)
        # The modulator's carrier is counted from the subframe's start, ours from the slot's: one turn for all.
        found = demodulator.symbols(samples, start, slot, symbols)[0]
        sent = grid[slot * 14 : slot * 14 + 14]
        turn = np.vdot(sent, found) / np.vdot(sent, sent)
        assert abs(turn) == pytest.approx(1.0, abs=1e-3)
        assert np.abs(found - turn * sent).max() < 5e-3


@pytest.mark.parametrize(("mu", "prbs", "carrier_hz", "shift_hz", "rate_hz"), CASES)
def test_windows_and_coefficients_do_the_same_as_symbols(
    mu: int, prbs: int, carrier_hz: float, shift_hz: float, rate_hz: float
) -> None:
    rng = np.random.default_rng(2)
    carrier = Carrier(15e3 * 2**mu, prbs, carrier_hz)
    demodulator = OfdmDemodulator(carrier, rate_hz, carrier_hz - shift_hz, cfo_hz=321.0)
    length = round(2e-3 * rate_hz)
    samples = (rng.standard_normal((2, length)) + 1j * rng.standard_normal((2, length))).astype(np.complex64)
    slot, symbols, subcarriers = 2**mu - 1, (2, 11), np.arange(1, carrier.subcarriers, 2)
    frame_start = 100
    spectrum = demodulator.transform(samples, frame_start + demodulator.windows(slot, symbols))
    coefficients = demodulator.coefficients(slot, symbols, subcarriers)
    found = spectrum[..., demodulator.bins(subcarriers)] * coefficients
    start = frame_start + carrier.slot_start_s(slot) * rate_hz
    expected = demodulator.symbols(samples, start, slot, symbols, subcarriers=subcarriers)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("given_before", [True, False])
def test_carrier_offsets_are_taken_out(given_before: bool) -> None:
    rng = np.random.default_rng(3)
    carrier = Carrier(30e3, 8, 3.5e9)
    grid = np.exp(0.5j * np.pi * rng.integers(0, 4, (28, carrier.subcarriers)))
    samples = transmit(grid, 1, 8, 3.5e9, 3.5e9, 7.68e6, cfo_hz=4567.0).astype(np.complex64)[None]
    demodulator = OfdmDemodulator(carrier, 7.68e6, 3.5e9, cfo_hz=4567.0 if given_before else 0.0)
    found = demodulator.symbols(samples, 0.0, 0, range(14), cfo_hz=0.0 if given_before else 4567.0)[0]
    assert np.abs(found - grid[:14]).max() < 5e-3


def test_noise_keeps_its_power() -> None:
    rng = np.random.default_rng(4)
    samples = (rng.standard_normal((1, 30720)) + 1j * rng.standard_normal((1, 30720))).astype(np.complex64)
    found = OfdmDemodulator(Carrier(30e3, 51, 3.5e9), 30.72e6, 3.5e9).symbols(samples, 0.0, 0, range(14))
    assert np.mean(np.abs(found) ** 2) == pytest.approx(2.0, rel=0.05)


def test_a_slot_that_starts_late_within_the_prefix_turns_phases_along_the_tones() -> None:
    rng = np.random.default_rng(5)
    carrier = Carrier(30e3, 8, 3.5e9)
    grid = np.exp(0.5j * np.pi * rng.integers(0, 4, (28, carrier.subcarriers)))
    samples = transmit(grid, 1, 8, 3.5e9, 3.5e9, 7.68e6).astype(np.complex64)[None]
    demodulator = OfdmDemodulator(carrier, 7.68e6, 3.5e9)
    early = demodulator.symbols(samples, 5.0, 0, [3])[0, 0] / grid[3]
    slope = np.angle(np.sum(early[1:] * early[:-1].conj()))
    assert slope == pytest.approx(2 * np.pi * 5 / demodulator.fft, abs=1e-3)


def test_symbols_outside_of_the_samples_are_refused() -> None:
    demodulator = OfdmDemodulator(Carrier(30e3, 8, 3.5e9), 7.68e6, 3.5e9)
    samples = np.zeros((1, 3840), np.complex64)
    with pytest.raises(ValueError, match="outside of the samples"):
        demodulator.symbols(samples, 100.0, 0, [13])
    with pytest.raises(ValueError, match="outside of the samples"):
        demodulator.symbols(samples, -100.0, 0, [0])


def test_rates_and_bands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole multiple"):
        OfdmDemodulator(Carrier(30e3, 51, 3.5e9), 50e6, 3.5e9)
    with pytest.raises(ValueError, match="outside of the sampled band"):
        OfdmDemodulator(Carrier(30e3, 106, 3.5e9), 30.72e6, 3.5e9)
