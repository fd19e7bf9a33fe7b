"""The parts of the blind search for DMRS: how weak a signal may be, and how sure a claim is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr import lfsr
from ingest.nr.capture_grid import CaptureGrid, cut
from ingest.nr.find_dmrs import FoundDmrs, find_dmrs
from ingest.nr.reference_evidence import TYPE_1, TYPE_2, c_init, combined, extended, fit, identity_of, log_tail, snr
from ingest.nr.time_grid import find_time_grid
from ingest.nr.weak_search import weak_sequences
from ingest.nr.weighing import weigh_all
from tests.ingest.nr.transmitter import Allocation, Radio, gold_bits, transmit

CENTER_HZ = 3.4275e9
WIDE = Radio(prbs=106, rate_hz=46.08e6)


def trial(seed: int, prbs: int, snr_db: float) -> tuple[Radio, Allocation, npt.NDArray[np.complex64]]:
    """A slot at a random place, time and offset over two random taps, in 1 ms of noise."""
    rng = np.random.default_rng(seed)
    user = Allocation(
        prbs=(int(rng.integers(106 - prbs)), prbs),
        n_id=int(rng.integers(1008)),
        n_scid=int(rng.integers(2)),
        slot=int(rng.integers(6, 8)),
        data=2,
    )
    radio = replace(
        WIDE,
        snr_db=snr_db,
        cfo_hz=float(rng.uniform(-3000, 3000)),
        early=int(rng.integers(0, 1500)),
        first_crb=int(rng.integers(0, 100)),
        taps=((0.0, 1.0), (float(rng.uniform(0, 6)), 0.5j)),
    )
    return radio, user, transmit(radio, [user], rng)


def is_it(one: FoundDmrs, user: Allocation) -> bool:
    return (one.n_id, one.n_scid, one.slot) == (user.n_id, user.n_scid, user.slot)


def symbol_grid(samples: npt.NDArray[np.complex64], radio: Radio) -> CaptureGrid:
    found = cut(samples, radio.rate_hz, radio.scs_hz)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("prbs", "snr_db", "seeds", "least"), [(24, 0.0, 4, 3), (6, 6.0, 6, 4)], ids=["24 blocks at 0 dB", "6 at 6 dB"]
)
def test_weak_slots_are_found_more_often_than_not(prbs: int, snr_db: float, seeds: int, least: int) -> None:
    """At 0 dB a resource element is as strong as its noise; over the capture's whole band the signal lies 11 dB below
    it. What is found is what was sent."""
    hits = 0
    for seed in range(seeds):
        _, user, samples = trial(seed, prbs, snr_db)
        entries = find_dmrs(samples, WIDE.rate_hz, CENTER_HZ, spacings_hz=(30e3,))
        assert all(is_it(one, user) for one in entries)
        hits += bool(entries)
    assert hits >= least


def test_weak_hypotheses_are_ordered_with_the_right_one_first() -> None:
    """Among 1.5e8; its score stands out of the second best by more than chance differs."""
    _, user, samples = trial(3, 12, 6.0)
    _burst, rows, hypotheses, tried = next(iter(weak_sequences(symbol_grid(samples, WIDE), 275)))
    assert len(rows) == 3
    assert tried > 1e8
    assert (hypotheses[0].n_id, hypotheses[0].n_scid) == (user.n_id, user.n_scid)
    assert hypotheses[0].score > hypotheses[1].score + 3.0


@pytest.mark.kernel
def test_every_hypothesis_is_weighed_as_if_one_by_one(rng: np.random.Generator) -> None:
    """The kernel's tables against bits generated one by one, over all of a small space."""
    symbols, identities, starts, bits = 6, 3, np.array([0, 12]), 60
    offsets = np.array([0, 2])
    places = rng.integers(0, 40, (2, 2, bits))
    sequences = {
        (symbol, low, start): gold_bits(c_init(symbol % symbols, low // 2, low % 2), 60)[start:]
        for symbol in range(symbols)
        for low in range(2 * identities)
        for start in starts.tolist()
    }

    def read(symbol: int, low: int, start: int, row: int) -> npt.NDArray[np.int64]:
        sequence = sequences[(symbol + int(offsets[row])) % symbols, low, start]
        return np.asarray(sequence[places[row, 0]] ^ sequence[places[row, 1]])

    signs = np.stack([read(4, 3, 12, row) ^ (rng.random(bits) < 0.2) for row in range(2)]).astype(np.uint8)
    best, which = np.full(4, -1e9), np.zeros((4, 4), np.int64)
    masks = lfsr.equations(lfsr.GOLD_OFFSET + 60)[lfsr.GOLD_OFFSET :]
    weigh_all(masks, lfsr.x1_bits(60), places, signs, starts, offsets, symbols, identities, best, which)
    scores = {
        key: sum(bits / 2 - float(np.sum(read(*key, row) != signs[row])) for row in range(2)) / (np.sqrt(bits) / 2)
        for key in sequences
    }
    assert which[int(np.argmax(best))].tolist()[:3] == [1, 4, 3]
    assert best.max() == pytest.approx(scores[4, 3, 12])
    expected = sorted((score for score in scores.values() if score >= 2.0), reverse=True)[:4]
    assert sorted(best[best > 0], reverse=True) == pytest.approx(expected)


@pytest.mark.parametrize("scs_hz", [15e3, 30e3, 60e3])
def test_prefixes_tell_the_symbols_of_a_slot(scs_hz: float, rng: np.random.Generator) -> None:
    mu = round(np.log2(scs_hz / 15e3))
    radio = Radio(scs_hz=scs_hz, prbs=20, rate_hz=30.72e6, first_slot=0, slots=2**mu, early=700, cfo_hz=0.11 * scs_hz)
    users = [Allocation(slot=slot, prbs=(2, 15), n_id=3) for slot in range(2**mu)]
    grid = find_time_grid(transmit(radio, users, rng), radio.rate_hz, scs_hz)
    assert grid is not None
    assert grid.cfo_hz == pytest.approx(radio.cfo_hz, abs=0.01 * scs_hz)
    # The symbol is right, though perhaps not its number: every symbol's start is one of the pattern's.
    starts = grid.useful(np.arange(40))
    symbol = (2048 + 144) * radio.rate_hz / scs_hz / 2048
    first = (160 if mu == 0 else 144 + 16 * 2**mu) / 2048 * radio.rate_hz / scs_hz - radio.early
    offsets = (starts - first + symbol / 2) % symbol - symbol / 2
    assert np.abs(offsets).min() < 4.0


@pytest.mark.parametrize("symbol_in_frame", [0, 1, 105, 279])
@pytest.mark.parametrize(("n_id", "n_scid"), [(0, 0), (1, 1), (1007, 0), (65_535, 1)])
def test_a_state_is_split_into_what_it_was_made_of(symbol_in_frame: int, n_id: int, n_scid: int) -> None:
    assert identity_of(c_init(symbol_in_frame, n_id, n_scid)) == (symbol_in_frame, n_id, n_scid)


@pytest.mark.parametrize("data", ["noise", "qpsk", "uneven"])
@pytest.mark.parametrize("layout", [TYPE_1, TYPE_2], ids=["type 1", "type 2"])
def test_the_stated_false_alarm_probability_is_not_exceeded(
    data: str, layout: object, rng: np.random.Generator
) -> None:
    """Elements that know nothing of the sequence: p below 10^-k happens in no more than 10^-k of all cases."""
    chosen = TYPE_1 if layout is TYPE_1 else TYPE_2
    runs, blocks = 3000, 4
    shape = (runs, blocks, 1, chosen.per_prb)
    sequence = (rng.choice([-1, 1], shape) + 1j * rng.choice([-1, 1], shape)) / np.sqrt(2)
    if data == "qpsk":
        sent = (rng.choice([-1, 1], shape) + 1j * rng.choice([-1, 1], shape)) / np.sqrt(2)
    else:
        sent = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        sent *= 10.0 ** rng.integers(-3, 1, shape) if data == "uneven" else 1.0
    logs = np.array(
        [fit((one * mark.conj()).astype(np.complex64), chosen).log_p for one, mark in zip(sent, sequence, strict=True)]
    )
    for level in (1e-1, 1e-2):
        assert np.mean(logs < np.log(level)) <= level + 3 * np.sqrt(level / runs)


def test_tails_are_bounds(rng: np.random.Generator) -> None:
    """The share of M random phases' energy in D dimensions, drawn, against its bound."""
    of, dimensions, draws = 24, 3, 40_000
    phases = np.exp(0.5j * np.pi * rng.integers(0, 4, (draws, of)))
    basis, _ = np.linalg.qr(np.exp(2j * np.pi * np.arange(of)[:, None] * np.linspace(-0.05, 0.05, dimensions)))
    share = np.sum(np.abs(phases @ basis.conj()) ** 2, axis=1) / of
    for at in (0.2, 0.3, 0.4, 0.5):
        seen = np.mean(share > at)
        assert seen <= np.exp(log_tail(at, dimensions, of)) * 1.05 + 1e-3
    assert log_tail(1.0, 1, 36) == pytest.approx(-35 * np.log(4), rel=0.05)


def test_independent_tests_combine_to_a_probability(rng: np.random.Generator) -> None:
    ps = rng.random((5_000, 3))
    together = np.exp([combined(list(np.log(row))) for row in ps])
    assert np.mean(together < 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(together < 0.5) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_snr_of_a_selective_channel_is_not_biased(snr_db: float, rng: np.random.Generator) -> None:
    blocks = 100
    at = TYPE_1.subcarriers(np.arange(blocks * 6))
    channel = np.exp(-2j * np.pi * at * 0.006) + 0.5j * np.exp(-2j * np.pi * at * 0.017)
    noise = (rng.normal(size=(4, len(at))) + 1j * rng.normal(size=(4, len(at)))) / np.sqrt(2)
    noise *= np.sqrt(np.mean(np.abs(channel) ** 2)) * 10 ** (-snr_db / 20)
    product = (channel + noise).reshape(4, blocks, 1, 6).astype(np.complex64)
    signal, floor = snr(product, TYPE_1, -0.006, both_ports=False)
    assert 10 * np.log10(signal / floor) == pytest.approx(snr_db, abs=0.6)


def test_a_range_goes_through_a_fade_but_not_to_its_neighbour() -> None:
    scores = np.array([-3.0, 5, 5, -4, -4, 5, 6, -9, -9, 8, 8])
    assert extended(scores, 5, 7) == (1, 7)
    assert extended(np.array([-1.0, 3, -1]), 1, 2) == (1, 2)


@pytest.mark.data
def test_the_control_channel_of_a_golden_slot(data: Path) -> None:
    """PDSCH and PDCCH of PCI 500 count from CORESET 0, the lowest block that anything tells."""
    samples = np.fromfile(data / "nr-iq" / "n3_pci500_15.36Msps_1842.5MHz.cf32", "<c8")[None]
    entries = find_dmrs(samples, 15.36e6, 1842.5e6)
    assert [(one.channel, one.first_prb, one.prbs, one.symbols) for one in entries] == [
        ("pdsch", 0, 7, (2, 7, 11)),
        ("pdcch", 0, 12, (0,)),
        ("pdcch", 24, 12, (0,)),
    ]
    assert {(one.slot, one.n_id, one.scs_hz) for one in entries} == {(0, 500, 15e3)}
    assert all(one.snr_db > 40 and abs(one.start) < 2 for one in entries)
