"""DMRS found blind: in recorded slots whose parameters are known, in synthetic ones, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.nr.find_dmrs import FoundDmrs, find_dmrs
from ingest.nr.ofdm import Carrier
from tests.ingest.nr.transmitter import Allocation, Radio, transmit

CENTER_HZ = 3.5e9
RECORDED_RATE_HZ, RECORDED_CENTER_HZ = 46.08e6, 3427.5e6
RECORDED_CRB0_HZ = RECORDED_CENTER_HZ - 53 * 12 * 30e3
"""106 blocks about the centre."""

RADIO = Radio(rate_hz=15.36e6, prbs=38, taps=((0.0, 1.0), (4.0, 0.5j)))
USER = Allocation(prbs=(10, 12), n_id=40_000)


def found_in(radio: Radio, users: list[Allocation], rng: np.random.Generator) -> list[FoundDmrs]:
    return find_dmrs(transmit(radio, users, rng), radio.rate_hz, CENTER_HZ)


def assert_found(one: FoundDmrs, radio: Radio, user: Allocation) -> None:
    """Whole numbers exactly, the slot's start and the offset as well as a few resource blocks and echoes allow."""
    assert (one.slot, one.symbols) == (user.slot, user.symbols)
    assert (one.config_type, one.cdm_group) == (user.config_type, user.cdm_group)
    assert one.ports == tuple(2 * user.cdm_group + port for port in user.ports)
    assert (one.n_id, one.n_scid) == (user.n_id, user.n_scid)
    assert (one.first_prb, one.prbs) == (radio.first_crb + user.prbs[0], user.prbs[1])
    assert (one.channel, one.scs_hz, one.first_reference) == ("pxsch", radio.scs_hz, 0)
    below = 12 * radio.first_crb + 6 * radio.prbs
    assert one.crb0_hz == pytest.approx(CENTER_HZ + radio.carrier_off_hz - below * radio.scs_hz, abs=1.0)
    slot_s = 15e3 / radio.scs_hz * 1e-3
    assert one.start == pytest.approx((user.slot - radio.first_slot) * slot_s * radio.rate_hz - radio.early, abs=4.0)
    assert one.cfo_hz == pytest.approx(radio.cfo_hz, abs=0.012 * radio.scs_hz)
    assert one.log10_false_alarm < -6


def recorded(data: Path, name: str) -> list[FoundDmrs]:
    samples = np.fromfile(data / "nr-iq" / "srsran-n78-40MHz" / name, "<c8")[None]
    return find_dmrs(samples, RECORDED_RATE_HZ, RECORDED_CENTER_HZ)


@pytest.mark.data
@pytest.mark.parametrize(
    ("number", "prbs", "snr_db", "tolerance_db"),
    [(12066, 24, 20.0, 3.3)] + [(number, 6, 32.0, 3.0) for number in (12106, 12146, 12266, 12306, 12386)],
)
def test_recorded_uplink(number: int, prbs: int, snr_db: float, tolerance_db: float, data: Path) -> None:
    (one,) = recorded(data, f"pusch_{number}.cf32")
    assert (one.scs_hz, one.slot, one.symbols) == (30e3, 7, (2, 7, 11))
    assert (one.config_type, one.cdm_group, one.ports) == (1, 0, (0,))
    assert (one.n_id, one.n_scid, one.first_prb, one.prbs) == (1, 0, 3, prbs)
    assert one.snr_db == pytest.approx(snr_db, abs=tolerance_db)
    # The recording starts 768 samples into the subframe that slot 6 begins.
    assert one.start == pytest.approx(0.5e-3 * RECORDED_RATE_HZ - 768, abs=6.0)
    assert one.crb0_hz == RECORDED_CRB0_HZ
    assert abs(one.cfo_hz) < 300.0
    assert one.log10_false_alarm < -30
    assert one.carrier(RECORDED_RATE_HZ) == Carrier(30e3, 106, RECORDED_CENTER_HZ)


@pytest.mark.data
def test_recorded_downlink_with_system_information(data: Path) -> None:
    """SIB1's PDSCH; the PDCCH that schedules it lies in the same slot's first symbols, and is all else there may be."""
    entries = recorded(data, "sib.cf32")
    (one,) = (entry for entry in entries if entry.channel != "pdcch")
    for other in entries:
        if other is not one:
            assert (other.slot, other.n_id, other.crb0_hz) == (1, 1, RECORDED_CRB0_HZ)
            assert set(other.symbols) <= {0, 1}
            assert other.start == pytest.approx(one.start, abs=6.0)
    assert (one.slot, one.symbols, one.config_type, one.cdm_group) == (1, (2, 7, 11), 1, 0)
    assert (one.n_id, one.n_scid, one.first_prb, one.prbs) == (1, 0, 0, 10)
    assert one.crb0_hz == RECORDED_CRB0_HZ
    assert one.snr_db > 30
    # Its frame starts where the synchronisation signals say, 12 samples before the recording.
    assert one.start == pytest.approx(0.5e-3 * RECORDED_RATE_HZ - 12, abs=6.0)


@pytest.mark.parametrize(("n_id", "n_scid"), [(0, 0), (1, 1), (1007, 0), (54_321, 1), (65_535, 0), (65_535, 1)])
def test_any_identity(n_id: int, n_scid: int, rng: np.random.Generator) -> None:
    user = replace(USER, n_id=n_id, n_scid=n_scid)
    (one,) = found_in(RADIO, [user], rng)
    assert_found(one, RADIO, user)
    assert one.snr_db == pytest.approx(RADIO.snr_db, abs=2.5)


@pytest.mark.parametrize(
    "radio",
    [
        replace(RADIO, early=1),
        replace(RADIO, early=3333),
        replace(RADIO, early=7000, cfo_hz=-9_000.0),
        replace(RADIO, cfo_hz=4_321.0),
        replace(RADIO, taps=((0.0, 1.0),)),
        replace(RADIO, taps=((0.0, 1.0), (9.0, 0.9j))),
        replace(RADIO, first_crb=137),
        replace(RADIO, prbs=24, carrier_off_hz=31 * 30e3),
        replace(RADIO, antennas=2, snr_db=10.0),
        replace(RADIO, snr_db=35.0),
        replace(RADIO, first_slot=18),
    ],
    ids=lambda radio: f"early {radio.early} cfo {radio.cfo_hz:.0f} taps {len(radio.taps)} snr {radio.snr_db:.0f}",
)
def test_any_start_offset_channel_and_place(radio: Radio, rng: np.random.Generator) -> None:
    user = replace(USER, slot=radio.first_slot + 1)
    (one,) = found_in(radio, [user], rng)
    assert_found(one, radio, user)
    assert one.snr_db == pytest.approx(radio.snr_db, abs=3.0)


@pytest.mark.parametrize(
    "user",
    [
        replace(USER, cdm_group=1),
        replace(USER, config_type=2, prbs=(10, 16)),
        replace(USER, config_type=2, prbs=(10, 16), cdm_group=1),
        replace(USER, config_type=2, prbs=(10, 16), cdm_group=2),
        replace(USER, ports=(1,)),
        replace(USER, ports=(0, 1)),
        replace(USER, with_data=True),
        replace(USER, data=3),
        replace(USER, symbols=(3,)),
        replace(USER, symbols=(2, 11), prbs=(0, 38)),
    ],
    ids=lambda user: f"type {user.config_type} group {user.cdm_group} ports {user.ports} symbols {len(user.symbols)}",
)
def test_any_allocation(user: Allocation, rng: np.random.Generator) -> None:
    (one,) = found_in(RADIO, [user], rng)
    assert_found(one, RADIO, user)


def test_15_khz(rng: np.random.Generator) -> None:
    radio = Radio(scs_hz=15e3, prbs=25, rate_hz=7.68e6, first_slot=4, early=500, taps=RADIO.taps)
    user = replace(USER, prbs=(4, 12), slot=5)
    (one,) = found_in(radio, [user], rng)
    assert_found(one, radio, user)


def test_two_users_of_different_identity(rng: np.random.Generator) -> None:
    users = [replace(USER, prbs=(20, 12), n_id=123, slot=6, symbols=(3,)), replace(USER, prbs=(2, 12))]
    entries = found_in(RADIO, users, rng)
    assert len(entries) == 2
    for one, user in zip(entries, users, strict=True):
        assert_found(one, RADIO, user)


def test_two_users_on_the_two_combs(rng: np.random.Generator) -> None:
    users = [replace(USER, data=0), replace(USER, cdm_group=1)]
    entries = sorted(found_in(RADIO, users, rng), key=lambda one: one.cdm_group)
    assert len(entries) == 2
    for one, user in zip(entries, users, strict=True):
        assert_found(one, RADIO, user)


def test_what_comes_later_is_found_later(rng: np.random.Generator) -> None:
    samples = transmit(RADIO, [USER], rng)
    lead = rng.normal(size=(2, 1, 1234)) * np.sqrt(10 ** (-RADIO.snr_db / 10) / 2)
    later = np.concatenate([(lead[0] + 1j * lead[1]).astype(np.complex64), samples], axis=1)
    (before,) = find_dmrs(samples, RADIO.rate_hz, CENTER_HZ)
    (after,) = find_dmrs(later, RADIO.rate_hz, CENTER_HZ)
    assert after.start - before.start == pytest.approx(1234, abs=1.0)
    assert (after.slot, after.symbols, after.n_id) == (before.slot, before.symbols, before.n_id)


def test_who_knows_the_link_is_told_the_channel(rng: np.random.Generator) -> None:
    samples = transmit(RADIO, [USER], rng)
    for downlink, channel in ((True, "pdsch"), (False, "pusch")):
        (one,) = find_dmrs(samples, RADIO.rate_hz, CENTER_HZ, downlink=downlink, spacings_hz=(30e3,))
        assert one.channel == channel


def test_a_low_common_block_is_found_in_few_tries(rng: np.random.Generator) -> None:
    (one,) = find_dmrs(transmit(RADIO, [USER], rng), RADIO.rate_hz, CENTER_HZ, spacings_hz=(30e3,), crbs=12)
    assert_found(one, RADIO, USER)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scale_does_not_matter(scale: float, rng: np.random.Generator) -> None:
    samples = transmit(RADIO, [USER], rng) * np.float32(scale)
    (one,) = find_dmrs(samples, RADIO.rate_hz, CENTER_HZ, spacings_hz=(30e3,))
    assert_found(one, RADIO, USER)


@pytest.mark.parametrize(
    ("radio", "first_crb", "prbs"),
    [(RADIO, 0, 38), (replace(RADIO, first_crb=137), 135, 42)],
)
def test_the_carrier_has_the_blocks_where_they_are(
    radio: Radio, first_crb: int, prbs: int, rng: np.random.Generator
) -> None:
    (one,) = found_in(radio, [USER], rng)
    carrier = one.carrier(radio.rate_hz)
    assert carrier == Carrier(30e3, prbs, one.crb0_hz + (12 * first_crb + 6 * prbs) * 30e3, first_crb)


def noise(seed: int, *shape: int) -> npt.NDArray[np.complex64]:
    parts = np.random.default_rng(seed).normal(size=(2, *shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


@pytest.mark.parametrize("seed", range(8))
def test_none_in_noise(seed: int) -> None:
    assert find_dmrs(noise(seed, 1 + seed % 2, 15_360), 15.36e6, CENTER_HZ) == []


@pytest.mark.parametrize("order", [1, 3])
def test_none_in_data_alone(order: int, rng: np.random.Generator) -> None:
    radio = replace(RADIO, rate_hz=7.68e6, prbs=20)
    users = [Allocation(slot=slot, prbs=(0, 20), symbols=(), data=order) for slot in (6, 7)]
    assert found_in(radio, users, rng) == []


@pytest.mark.parametrize("step", [2, 3])
def test_none_in_combs_that_carry_no_sequence(step: int, rng: np.random.Generator) -> None:
    """QPSK of equal power on every second or third subcarrier of one symbol, as pilots lie, but random."""
    radio = replace(RADIO, rate_hz=7.68e6, prbs=20, taps=((0.0, 1.0),))
    fft, prefix = 256, 18
    samples = transmit(radio, [Allocation(prbs=(2, 16), symbols=(2,), data=1)], rng)
    bins = np.zeros(fft, np.complex128)
    bins[np.arange(-96, 96, step) % fft] = np.exp(1j * np.pi / 4 * (2 * rng.integers(4, size=192 // step) + 1))
    useful = np.fft.ifft(bins) * np.sqrt(fft)
    begin = 3840 + 1 + 3 * prefix + 2 * fft
    samples[0, begin - prefix : begin + fft] = np.concatenate([useful[-prefix:], useful])
    assert find_dmrs(samples, radio.rate_hz, CENTER_HZ) == []


@pytest.mark.parametrize("samples", [0, 1, 2, 63, 255, 256, 511, 512, 513, 547, 548, 1096, 3000])
def test_none_in_very_short_inputs_and_in_silence(samples: int) -> None:
    for antennas in (1, 2):
        assert find_dmrs(noise(samples, antennas, samples), 7.68e6, CENTER_HZ) == []
        assert find_dmrs(np.zeros((antennas, samples), np.complex64), 7.68e6, CENTER_HZ) == []


@pytest.mark.parametrize("what", ["tone", "constant", "impulse", "nan", "inf", "no antenna", "denormal", "extreme"])
def test_none_in_oddities(what: str) -> None:
    samples = noise(3, 1, 6000)
    match what:
        case "tone":
            samples = np.exp(0.3j * np.arange(6000))[None].astype(np.complex64)
        case "constant":
            samples = np.ones((1, 6000), np.complex64)
        case "impulse":
            samples = np.zeros((1, 6000), np.complex64)
            samples[0, 3000] = 1.0
        case "nan":
            samples[0, 5] = np.nan
        case "inf":
            samples[0, 5] = np.inf
        case "no antenna":
            samples = samples[:0]
        case "denormal":
            samples = np.full((1, 6000), 1e-44, np.complex64)
        case "extreme":
            samples = samples * np.float32(3e37)
    assert find_dmrs(samples, 7.68e6, CENTER_HZ) == []


@given(
    seed=st.integers(0, 2**32 - 1),
    antennas=st.integers(1, 3),
    samples=st.integers(0, 3000),
    rate_hz=st.sampled_from([1e3, 1e5, 215e3, 1e6, 1.92e6, 5e6, 7.68e6, 61.44e6]) | st.floats(1e4, 3e7),
    center_hz=st.sampled_from([0.0, 3.5e9, 28e9]),
    exponent=st.integers(-45, 37),
)
@settings(max_examples=60, deadline=None)
def test_nothing_is_raised(
    seed: int, antennas: int, samples: int, rate_hz: float, center_hz: float, exponent: int
) -> None:
    scaled = (noise(seed, antennas, samples).astype(np.complex128) * 10.0**exponent).astype(np.complex64)
    assert find_dmrs(scaled, rate_hz, center_hz) == []


@given(start=st.integers(0, 7000), length=st.integers(0, 6000))
@settings(max_examples=12, deadline=None)
def test_any_cut_of_a_slot_tells_nothing_false(start: int, length: int) -> None:
    samples = transmit(RADIO, [USER], np.random.default_rng(5))[:, start : start + length]
    for one in find_dmrs(samples, RADIO.rate_hz, CENTER_HZ, spacings_hz=(30e3,)):
        assert (one.slot, one.n_id, one.n_scid) == (USER.slot, USER.n_id, USER.n_scid)
        assert set(one.symbols) <= set(USER.symbols)
        assert one.start == pytest.approx(7680 - start, abs=4.0)
