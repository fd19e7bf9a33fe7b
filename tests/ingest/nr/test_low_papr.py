"""Low-PAPR sequences: those of 38.211 clause 5.2.2, value by value, and what they are used for."""

from __future__ import annotations

import cmath
from fractions import Fraction
from math import floor, pi

import numpy as np
import pytest

from ingest.nr.low_papr import cyclic_shift, hop, low_papr
from ingest.nr.low_papr_tables import PHASES
from tests.ingest.nr.signals import slow_gold

LONG = [36, 48, 60, 72, 96, 144, 270, 636, 816, 1632, 3264]
PRIMES = {36: 31, 48: 47, 60: 59, 72: 71, 96: 89, 144: 139, 270: 269, 636: 631, 816: 811, 1632: 1627, 3264: 3259}


def literal(u: int, v: int, length: int) -> list[complex]:
    """Clause 5.2.2.1 as it is written, with exact fractions where it rounds down."""
    n_zc = PRIMES[length]
    q_bar = Fraction(n_zc * (u + 1), 31)
    q = floor(q_bar + Fraction(1, 2)) + v * (-1) ** floor(2 * q_bar)
    return [cmath.exp(-1j * pi * ((q * (n % n_zc) * (n % n_zc + 1)) % (2 * n_zc)) / n_zc) for n in range(length)]


@pytest.mark.parametrize("length", LONG)
def test_long_sequences(length: int) -> None:
    for u in range(30):
        for v in (0, 1) if length >= 72 else (0,):
            np.testing.assert_allclose(low_papr(u, v, length), literal(u, v, length), atol=1e-12)


@pytest.mark.parametrize("length", LONG)
def test_a_long_sequence_has_no_autocorrelation_over_its_prime_length(length: int) -> None:
    prime = PRIMES[length]
    for u in (0, 7, 29):
        spectrum = np.fft.fft(low_papr(u, 0, length)[:prime])
        np.testing.assert_allclose(np.abs(spectrum), np.sqrt(prime), rtol=1e-9)


def test_length_30() -> None:
    for u in range(30):
        expected = [cmath.exp(-1j * pi * (u + 1) * (n + 1) * (n + 2) / 31) for n in range(30)]
        np.testing.assert_allclose(low_papr(u, 0, 30), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "u", "row"),
    [
        (6, 0, "-3 -1 3 3 -1 -3"),
        (6, 29, "1 1 -3 1 -1 -1"),
        (12, 0, "-3 1 -3 -3 -3 3 -3 -1 1 1 1 -3"),
        (12, 29, "-3 3 -3 3 -3 -3 3 -1 -1 1 3 -3"),
        (18, 0, "-1 3 -1 -3 3 1 -3 -1 3 -3 -1 -1 1 1 1 -1 -1 -1"),
        (18, 29, "-3 3 1 -1 -1 -1 -1 1 -1 3 3 -3 -1 1 3 -1 3 -1"),
        # An often copied implementation has 3 as this row's first value: 38.211 has -3.
        (24, 18, "-3 1 -3 1 -3 -3 1 -3 1 -3 -3 -3 -3 -3 1 -3 -3 1 1 -3 1 1 -3 -3"),
        (24, 29, "3 -3 -1 1 3 -1 -1 -3 -1 3 -1 -3 -1 -3 3 -1 3 1 1 -3 3 -3 -3 -3"),
    ],
)
def test_rows_of_the_tables(length: int, u: int, row: str) -> None:
    expected = [cmath.exp(1j * int(phi) * pi / 4) for phi in row.split()]
    np.testing.assert_allclose(low_papr(u, 0, length), expected, atol=1e-12)


@pytest.mark.parametrize("length", [6, 12, 18, 24])
def test_the_tables_are_sound(length: int) -> None:
    """30 different sequences that a design for low peaks and cross-correlation would have."""
    table = PHASES[length]
    assert table.shape == (30, length)
    assert set(np.unique(table)) == {-3, -1, 1, 3}
    sequences = np.array([low_papr(u, 0, length) for u in range(30)])
    correlation = np.abs(sequences @ sequences.conj().T) / length
    np.fill_diagonal(correlation, 0.0)
    assert correlation.max() < 0.95
    waves = np.fft.ifft(sequences, 16 * length, axis=1)
    powers = np.abs(waves) ** 2
    papr_db = 10 * np.log10(powers.max(axis=1) / powers.mean(axis=1))
    # Random QPSK of these lengths has 5 to 8 dB.
    assert papr_db.max() < 4.5


@pytest.mark.parametrize(
    ("u", "v", "length"), [(30, 0, 36), (-1, 0, 36), (0, 2, 144), (0, 1, 66), (0, 0, 32), (0, 0, 0)]
)
def test_what_does_not_exist(u: int, v: int, length: int) -> None:
    with pytest.raises(ValueError, match="low-PAPR sequence"):
        low_papr(u, v, length)


@pytest.mark.parametrize("shifts", [6, 8, 12])
def test_cyclic_shifts_are_orthogonal(shifts: int) -> None:
    codes = np.array([cyclic_shift(shift, shifts, 144) for shift in range(shifts)])
    np.testing.assert_allclose(codes @ codes.conj().T, 144 * np.eye(shifts), atol=1e-9)
    np.testing.assert_allclose(codes[1], np.exp(2j * np.pi * np.arange(144) / shifts), atol=1e-9)


@pytest.mark.parametrize(("slot", "symbol"), [(0, 0), (0, 13), (7, 2), (19, 11), (159, 13)])
@pytest.mark.parametrize("c_init", [0, 1, 33, 1023, 65535])
def test_hopping(slot: int, symbol: int, c_init: int) -> None:
    index = 14 * slot + symbol
    c = slow_gold(c_init, 8 * index + 8)
    assert hop("group", slot, symbol, 144, c_init) == (sum(int(c[8 * index + m]) << m for m in range(8)) % 30, 0)
    assert hop("sequence", slot, symbol, 72, c_init) == (0, int(c[index]))
    assert hop("sequence", slot, symbol, 66, c_init) == (0, 0)
    assert hop("neither", slot, symbol, 144, c_init) == (0, 0)
