"""The shift register read off pilots, against 38.211 clause 5.2.1 stepped bit by bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.kernel import kernel
from ingest.nr import lfsr
from ingest.nr.bit_count import ones
from tests.ingest.nr import transmitter

C_INITS = st.integers(0, 2**31 - 1)


def x2_state(c_init: int, steps: int) -> int:
    """31 bits of x2 from bit `steps` on."""
    bits = [c_init >> i & 1 for i in range(31)]
    for n in range(steps):
        bits.append((bits[n + 3] + bits[n + 2] + bits[n + 1] + bits[n]) % 2)
    return sum(bit << i for i, bit in enumerate(bits[steps : steps + 31]))


def pilots(c_init: int, first: int, count: int) -> npt.NDArray[np.complex128]:
    """QPSK pilots `first` to `first + count` of the sequence (38.211 clause 6.4.1.1.1.1)."""
    bits = 1.0 - 2.0 * transmitter.gold_bits(c_init, 2 * (first + count))
    return np.asarray((bits[0::2] + 1j * bits[1::2]) / np.sqrt(2))[first:]


def products(values: npt.NDArray[np.complex128], lag: int) -> npt.NDArray[np.complex128]:
    return np.asarray(values[lag:] * np.conj(values[:-lag]))


@given(c_init=C_INITS, steps=st.integers(0, 4000))
@settings(max_examples=30, deadline=None)
def test_a_register_is_rewound(c_init: int, steps: int) -> None:
    assert lfsr.rewound(x2_state(c_init, steps), steps) == c_init


@pytest.mark.parametrize("length", [1, 30, 31, 32, 700])
def test_x1_is_the_sequence_of_an_empty_second_register(length: int) -> None:
    np.testing.assert_array_equal(lfsr.x1_bits(length), transmitter.gold_bits(0, length))


@given(c_init=C_INITS, length=st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_gold_bits(c_init: int, length: int) -> None:
    np.testing.assert_array_equal(lfsr.gold_bits(c_init, length), transmitter.gold_bits(c_init, length))


@given(state=C_INITS)
@settings(max_examples=20, deadline=None)
def test_equations_name_the_bits_of_the_state_that_sum_up(state: int) -> None:
    told = [bin(int(mask) & state).count("1") % 2 for mask in lfsr.equations(120)]
    assert told == [x2_state(state, n) & 1 for n in range(120)]


@pytest.mark.parametrize("lag", [1, 2])
def test_readings_of_clean_pilots_are_sums_of_their_bits(lag: int) -> None:
    bits = transmitter.gold_bits(987_654_321, 160)
    turned = np.exp(2.1j) * pilots(987_654_321, 0, 80)
    first, second, soft = lfsr.readings(products(turned, lag), lag)
    np.testing.assert_array_equal(soft < 0, bits[first] ^ bits[second])
    assert np.abs(soft).min() > 0.99


@pytest.mark.kernel
@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("c_init", [1, 0x7FFF_FFFF, 0x1234_5678])
def test_clean_pilots_tell_their_register(c_init: int, lag: int) -> None:
    found = lfsr.decode(products(pilots(c_init, 126, 48), lag), lag, np.array([0, 6, 126, 132]), order=1)
    assert found[0].c_init == c_init
    assert (found[0].first_pilot, found[0].wrong, found[0].equations) == (126, 0, 2 * (48 - lag))
    assert all(other.wrong > 10 for other in found[1:])


@pytest.mark.kernel
@pytest.mark.parametrize("order", [1, 2, 3])
def test_noisy_pilots_tell_it_too(order: int, rng: np.random.Generator) -> None:
    """At 8 dB, some equations being wrong."""
    count = 72
    noise = rng.normal(size=(2, count)) * np.sqrt(10**-0.8 / 2)
    heard = pilots(0x5AAA_1234, 30, count) * np.exp(1.0j) + noise[0] + 1j * noise[1]
    found = lfsr.decode(products(heard, 1), 1, np.array([24, 30]), order=order)
    assert found[0].c_init == 0x5AAA_1234
    assert 0 < found[0].wrong < found[1].wrong


@pytest.mark.kernel
def test_higher_orders_contradict_no_more(rng: np.random.Generator) -> None:
    noise = rng.normal(size=(2, 40))
    values = products(noise[0] + 1j * noise[1], 1)
    least = [lfsr.decode(values, 1, np.array([0]), order=order)[0].wrong for order in (1, 2, 3)]
    assert least == sorted(least, reverse=True)
    assert least[-1] > 0


@pytest.mark.kernel
def test_no_more_than_asked_for_and_best_first(rng: np.random.Generator) -> None:
    noise = rng.normal(size=(2, 40))
    found = lfsr.decode(products(noise[0] + 1j * noise[1], 1), 1, np.arange(0, 60, 6), order=1, keep=3)
    assert len(found) == 3
    assert [one.wrong for one in found] == sorted(one.wrong for one in found)


@pytest.mark.kernel
@pytest.mark.parametrize("count", [2, 8, 15])
def test_too_few_pilots_leave_it_open(count: int) -> None:
    assert lfsr.decode(products(pilots(77, 0, count), 1), 1, np.array([0]), order=2) == []


@kernel
def _ones_of(words: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]) -> None:
    for i in range(len(words)):
        counts[i] = ones(words[i])


@pytest.mark.kernel
def test_bits_are_counted(rng: np.random.Generator) -> None:
    words = np.concatenate([rng.integers(0, 2**64, 50, np.uint64), np.array([0, 1, 2**63, 2**64 - 1], np.uint64)])
    counts = np.zeros(len(words), np.int64)
    _ones_of(words, counts)
    assert counts.tolist() == [bin(int(word)).count("1") for word in words]
