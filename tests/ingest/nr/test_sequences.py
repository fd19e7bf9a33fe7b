"""The reference sequences are those of 38.211, value by value, and have the properties that detection relies on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.nr.sequences import PCI_COUNT, gold, pbch_dmrs, pbch_dmrs_subcarriers, pss, qpsk, sss
from tests.ingest.nr.signals import slow_gold, slow_pbch_dmrs, slow_pss, slow_sss


@pytest.mark.parametrize("n_id_2", [0, 1, 2])
def test_pss(n_id_2: int) -> None:
    np.testing.assert_array_equal(pss(n_id_2), slow_pss(n_id_2))


def test_sss_of_every_cell() -> None:
    assert PCI_COUNT == 1008
    for pci in range(PCI_COUNT):
        np.testing.assert_array_equal(sss(pci), slow_sss(pci))


@given(c_init=st.integers(0, 2**31 - 1), length=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_gold(c_init: int, length: int) -> None:
    np.testing.assert_array_equal(gold(c_init, length), slow_gold(c_init, length))


@given(c_init=st.integers(0, 2**31 - 1), start=st.integers(0, 300), length=st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_gold_from_the_middle(c_init: int, start: int, length: int) -> None:
    np.testing.assert_array_equal(gold(c_init, length, start), slow_gold(c_init, start + length)[start:])


def test_gold_of_the_longest_kind() -> None:
    """Longer than what is kept at first: 9000 bits, of which the slow way checks the end."""
    np.testing.assert_array_equal(gold(0x5A5A5A5, 9000)[-50:], slow_gold(0x5A5A5A5, 9000)[-50:])


@pytest.mark.parametrize("index_bar", range(8))
@pytest.mark.parametrize("pci", [0, 1, 2, 3, 500, 1007])
def test_pbch_dmrs(pci: int, index_bar: int) -> None:
    np.testing.assert_allclose(pbch_dmrs(pci, index_bar), slow_pbch_dmrs(pci, index_bar), atol=1e-15)


@pytest.mark.parametrize("pci", [0, 1, 2, 3, 1007])
def test_places_of_the_pbch_dmrs(pci: int) -> None:
    """Table 7.4.3.1-1: 0+v, 4+v … 236+v on symbols 1 and 3; to 44+v and from 192+v on symbol 2."""
    v = pci % 4
    outer = [4 * n + v for n in range(60)]
    middle = [4 * n + v for n in range(12)] + [192 + 4 * n + v for n in range(12)]
    first, second, third = pbch_dmrs_subcarriers(pci)
    assert (first.tolist(), second.tolist(), third.tolist()) == (outer, middle, outer)


def test_qpsk() -> None:
    np.testing.assert_allclose(
        qpsk(np.array([0, 0, 0, 1, 1, 0, 1, 1], np.int8)) * np.sqrt(2), [1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j]
    )


@pytest.mark.parametrize("one", [0, 1, 2])
@pytest.mark.parametrize("other", [0, 1, 2])
def test_pss_correlates_at_one_shift_only(one: int, other: int) -> None:
    """Maximum length sequences: 127 where they coincide, -1 anywhere else; the three are shifts of each other by 43."""
    correlation = [int(np.dot(pss(one), np.roll(pss(other), shift))) for shift in range(127)]
    assert sorted(correlation) == [-1] * 126 + [127]
    assert correlation.index(127) == 43 * (other - one) % 127


def test_no_two_cells_look_alike() -> None:
    """Gold sequences of degree 7: any two correlate to -17, -1 or 15 of 127."""
    sequences = np.array([sss(pci) for pci in range(PCI_COUNT)])
    correlation = (sequences @ sequences.T).astype(int)
    others = correlation[~np.eye(PCI_COUNT, dtype=bool)]
    assert set(others) <= {-17, -1, 15}
    assert set(np.diag(correlation)) == {127}


def test_dmrs_of_indices_and_neighbours_are_nearly_orthogonal() -> None:
    """Of 144 values of unit modulus, random ones would correlate to 12 on average and rarely to 48."""
    for pci in (0, 17, 500, 1006):
        sequences = [pbch_dmrs(near, index) for near in (pci, pci + 1) for index in range(8)]
        correlation = np.abs(np.conj(sequences) @ np.transpose(sequences))
        np.testing.assert_allclose(np.diag(correlation), 144)
        assert np.max(correlation - np.diag(np.diag(correlation))) < 48


def test_gold_bits_are_balanced_and_white() -> None:
    signs = 1.0 - 2.0 * gold(12345, 20_000)
    spectrum = np.abs(np.fft.rfft(signs)) ** 2 / len(signs)
    assert abs(signs.mean()) < 5 / np.sqrt(len(signs))
    assert spectrum.max() < 25  # exponential with mean 1: 10^4 exp(-25) is nothing
