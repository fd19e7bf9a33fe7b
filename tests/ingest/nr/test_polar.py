"""The polar code against the standard written down literally, against Sionna's, and in noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.nr import polar
from ingest.nr.crc import crc24c, passes_crc24c
from tests.ingest.nr import broadcast

Bits = npt.NDArray[np.uint8]


def message(rng: np.random.Generator) -> Bits:
    payload = rng.integers(0, 2, 32).astype(np.uint8)
    return np.concatenate([payload, crc24c(payload)])


@given(number=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_crc_is_the_remainder(number: int) -> None:
    bits = broadcast.bits_of(number, 32)
    parity = crc24c(np.array(bits, np.uint8))
    assert parity.tolist() == broadcast.crc24c(bits)
    whole = np.concatenate([np.array(bits, np.uint8), parity])
    assert passes_crc24c(whole)
    for place in range(0, 56, 5):
        wrong = whole.copy()
        wrong[place] ^= 1
        assert not passes_crc24c(wrong)


def test_encoding_is_that_of_the_standard(rng: np.random.Generator) -> None:
    for _ in range(5):
        sent = message(rng)
        assert polar.encode(sent).tolist() == broadcast.polar(sent.tolist())


def test_encoding_is_that_of_sionna(rng: np.random.Generator) -> None:
    """An implementation and a reliability table of others, which attach the CRC by themselves; to 576 bits, no more."""
    torch = pytest.importorskip("torch")
    encoding = pytest.importorskip("sionna.phy.fec.polar")
    encoder = encoding.Polar5GEncoder(32, 576, channel_type="downlink")
    for _ in range(5):
        sent = message(rng)
        coded = encoder(torch.tensor(sent[None, :32], dtype=torch.float32)).numpy()[0].astype(int)
        assert polar.encode(sent)[:576].tolist() == coded.tolist()


def test_the_table_in_the_tests_is_a_permutation_ordered_as_ours() -> None:
    assert sorted(broadcast.RELIABILITY_512) == list(range(512))
    assert tuple(broadcast.RELIABILITY_512[-56:]) == polar._MOST_RELIABLE


@pytest.mark.kernel
def test_what_is_sent_is_decoded(rng: np.random.Generator) -> None:
    for _ in range(5):
        sent = message(rng)
        found = polar.decode(4.0 * (1.0 - 2.0 * polar.encode(sent)))
        assert found is not None
        np.testing.assert_array_equal(found, sent)


def blocks_right(snr_db: float, count: int, rng: np.random.Generator) -> int:
    right = 0
    for _ in range(count):
        sent = message(rng)
        seen = 1.0 - 2.0 * polar.encode(sent) + rng.normal(size=864) * 10 ** (-snr_db / 20)
        found = polar.decode(2 * seen * 10 ** (snr_db / 10))
        right += found is not None
        assert found is None or np.array_equal(found, sent)
    return right


@pytest.mark.kernel
def test_decoding_in_noise(rng: np.random.Generator) -> None:
    """Of 864 repeated bits: nearly all at -8 dB, none at -14 dB, where 56 bits are beyond capacity's half."""
    assert blocks_right(-8.0, 60, rng) >= 56
    assert blocks_right(-16.0, 20, rng) == 0


@pytest.mark.kernel
def test_a_list_of_eight_beats_a_list_of_one(rng: np.random.Generator) -> None:
    """At -10 dB the list finds what successive cancellation alone loses, and hardly ever the other way round."""
    frozen = np.ones(512, np.bool_)
    frozen[polar._INFORMATION] = False
    wins = losses = 0
    for _ in range(60):
        sent = message(rng)
        llr = 1.0 - 2.0 * polar.encode(sent) + rng.normal(size=864) * 10**0.5
        combined = np.zeros(512)
        np.add.at(combined, polar._SENT, llr)
        one, _ = polar._decode_list(combined, frozen, 1)
        alone = bool(np.array_equal(one[0, polar._INFORMATION], sent[polar._INTERLEAVER]))
        together = polar.decode(llr) is not None
        wins += together and not alone
        losses += alone and not together
    assert wins > 5
    assert losses < wins / 3


def slow_cancellation(llr: npt.NDArray[np.float64], frozen: npt.NDArray[np.bool_]) -> tuple[list[int], Bits]:
    """Successive cancellation by recursion: decided bits, and the code word they make."""
    if len(llr) == 1:
        bit = 0 if frozen[0] or llr[0] >= 0 else 1
        return [bit], np.array([bit], np.uint8)
    half = len(llr) // 2
    upper, lower = llr[:half], llr[half:]
    signs = np.where((upper >= 0) == (lower >= 0), 1.0, -1.0)
    left, left_code = slow_cancellation(signs * np.minimum(np.abs(upper), np.abs(lower)), frozen[:half])
    right, right_code = slow_cancellation(lower + (1.0 - 2.0 * left_code) * upper, frozen[half:])
    return left + right, np.concatenate([left_code ^ right_code, right_code])


@pytest.mark.kernel
def test_a_list_of_one_is_successive_cancellation(rng: np.random.Generator) -> None:
    frozen = np.ones(512, np.bool_)
    frozen[polar._INFORMATION] = False
    for _ in range(10):
        llr = rng.normal(size=512)
        bits, _ = polar._decode_list(llr, frozen, 1)
        assert bits[0].tolist() == slow_cancellation(llr, frozen)[0]


@pytest.mark.kernel
def test_noise_is_refused(rng: np.random.Generator) -> None:
    """8 x 2^-24 = 5e-7 of noise would pass."""
    assert all(polar.decode(rng.normal(size=864)) is None for _ in range(300))


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf, 0.0])
def test_ratios_that_are_none(damage: float) -> None:
    assert polar.decode(np.full(864, damage)) is None
