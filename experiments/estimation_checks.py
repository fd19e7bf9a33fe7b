"""Beside the errors of `bench_estimation`: what is refused, how well motion and delays are told, and the whole chain.

The keys of a row are named where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.signal

from experiments.genie import Genie
from experiments.pusch_link import CARRIER_HZ, N_ID, SCS_HZ, Case, Link
from ingest.nr.ofdm import SYMBOLS_PER_SLOT
from ingest.nr.slot_estimate import Refusal, SlotEstimate
from ingest.nr.slot_receiver import ReceivedSlot, SlotReceiver, output_tones_hz

Complex = npt.NDArray[np.complexfloating]
Real = npt.NDArray[np.float64]

_CHUNK_SEED = 1000


def _normal(rng: np.random.Generator, *shape: int) -> Complex:
    return np.asarray((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2))


def _seeded(seed: int) -> np.random.Generator:
    from sionna.phy import config

    config.seed = seed
    return np.random.default_rng(_CHUNK_SEED + seed)


def refusals(seed: int, slots: int) -> list[dict[str, Any]]:
    """How many slots are accepted under right and wrong hypotheses.

    Rows: antennas; snr_db; hypothesis: "right", "wrong slot" or "wrong identity" (19 of each in turn, for a wrong
    sequence is as wrong in every slot) or "nothing sent"; estimator: "new" (it never accepted a slot) or "taught" (by
    as many slots under the right hypothesis); accepted; tried.
    """
    return [
        row
        for antennas in (2, 8)
        for snr_db in (-5, 0, 10, 30)
        for row in _refusals(Case("TDL-A", 100.0, antennas=antennas, prbs=24, drops=10), snr_db, seed, slots)
    ]


def _refusals(case: Case, snr_db: int, seed: int, slots: int) -> Iterator[dict[str, Any]]:
    rng = _seeded(seed)
    link = Link(case)
    others = range(1, link.carrier.slots_per_frame)
    plans = {
        "right": [link.plan],
        "wrong slot": [link.planned(link.dmrs, (case.slot + other) % (len(others) + 1)) for other in others],
        "wrong identity": [link.planned(link.configured(N_ID + other), case.slot) for other in others],
        "nothing sent": [link.plan],
    }
    sent = np.concatenate([chunk.grid for chunk in link.chunks(slots)])
    times_s = np.arange(slots) * link.carrier.slot_s
    noise = np.sqrt(link.boost * 10 ** (-snr_db / 10)) * _normal(rng, *sent.shape)
    for hypothesis, tried in plans.items():
        received = noise if hypothesis == "nothing sent" else sent + noise
        for state in ("new", "taught"):
            estimators = link.estimators()
            if state == "taught":
                link.receive(estimators, sent + noise, times_s)
            accepted = 0
            for number, plan in enumerate(tried):
                part = slice(number, None, len(tried))
                found = link.receive(estimators, received[part], times_s[part] + slots * link.carrier.slot_s, plan)
                passed = sum(isinstance(each, SlotEstimate) for stream in found for each in stream)
                if passed and state == "new":
                    estimators = link.estimators()
                accepted += passed
            yield {
                "antennas": case.antennas,
                "snr_db": snr_db,
                "hypothesis": hypothesis,
                "estimator": state,
                "accepted": accepted,
                "tried": slots,
            }


def accuracy(seed: int, slots: int, few: bool) -> list[dict[str, Any]]:
    """Carrier offset, Doppler shift, delay spread and SNR as they are told, with three DMRS symbols, two antennas.

    Rows: channel, delay_spread_ns, speed_mps, snr_db; cfo_hz: true; cfo_bias_hz, cfo_std_hz: of single slots;
    doppler_hz and told_doppler_hz, told_delay_spread_ns: at the run's end; snr_bias_db.
    """
    rows = []
    speeds = ((10.0, 200.0),) if few else ((3.0, 0.0), (10.0, 200.0), (30.0, -500.0))
    for speed_mps, cfo_hz in speeds:
        for snr_db in (0, 20) if few else (-5, 0, 10, 20, 30):
            case = Case("TDL-A", 100.0, antennas=2, additional_positions=2, speed_mps=speed_mps)
            rows.append(_accuracy(case, snr_db, cfo_hz, seed, slots))
    return rows


def _accuracy(case: Case, snr_db: int, cfo_hz: float, seed: int, slots: int) -> dict[str, Any]:
    rng = _seeded(seed)
    link = Link(case)
    estimators = link.estimators()
    starts_s = link.carrier.symbol_starts_s(case.slot % link.carrier.slots_per_subframe)[list(link.symbols)]
    noise_power = 10 ** (-snr_db / 10)
    cfos_hz, snr_errors_db = [], []
    last: SlotEstimate | None = None
    for chunk in link.chunks(slots):
        times_s = (chunk.first + np.arange(len(chunk.grid))) * link.carrier.slot_s
        turned = np.exp(2j * np.pi * cfo_hz * (times_s[:, None] + starts_s))[:, None, :, None]
        grid = turned * chunk.grid + np.sqrt(link.boost * noise_power) * _normal(rng, *chunk.grid.shape)
        for index, found in enumerate(link.receive(estimators, grid, times_s)[0]):
            if isinstance(found, SlotEstimate):
                last = found
                cfos_hz.append(found.cfo_hz)
                true_db = 10 * np.log10(np.mean(np.abs(chunk.middle[index]) ** 2) / noise_power)
                snr_errors_db.append(float(found.snr_db[0]) - true_db)
    assert last is not None
    told = np.array(cfos_hz[len(cfos_hz) // 4 :])
    return {
        "channel": case.channel,
        "delay_spread_ns": case.delay_spread_ns,
        "speed_mps": case.speed_mps,
        "snr_db": snr_db,
        "cfo_hz": cfo_hz,
        "cfo_bias_hz": float(told.mean()) - cfo_hz,
        "cfo_std_hz": float(told.std()),
        "doppler_hz": case.doppler_hz,
        "told_doppler_hz": last.doppler_hz,
        "told_delay_spread_ns": 1e9 * float(last.delay_spread_s[0]),
        "snr_bias_db": float(np.mean(snr_errors_db)),
    }


# --- samples ----------------------------------------------------------------------------------------------------------

_FFT = 1024
_RATE_HZ = _FFT * SCS_HZ
_SENT_SLOTS = (3, 13)
_TIMING_SAMPLES = 9
_CFO_HZ = 120.0
_BLOCK_SAMPLES = 217_001
"""No multiple of anything, so that slots lie across blocks."""

_FIRST_TAP, _LAST_TAP = -40, 120


def chain(seed: int, frames: int) -> list[dict[str, Any]]:
    """IQ samples by Sionna's modulator and time-domain channel through `SlotReceiver`, in the middle of each PRB.

    Rows: channel, delay_spread_ns, antennas, snr_db; slots: after the first quarter; refused: of all; lmmse_nmse_db and
    genie_nmse_db; gap_db; cfo_error_hz: mean of told minus true; told_delay_ns and delay_ns: mean delay.
    """
    case = Case("TDL-B", 200.0, antennas=2, additional_positions=1, speed_mps=3.0)
    return [_chain(case, snr_db, seed, frames) for snr_db in (0, 20)]


def _chain(case: Case, snr_db: int, seed: int, frames: int) -> dict[str, Any]:
    rng = _seeded(seed)
    link = Link(case)
    noise_power = 10 ** (-snr_db / 10)
    count = frames * len(_SENT_SLOTS)
    a, tau = link.model(1, frames * link.carrier.slots_per_frame, 1.0 / link.carrier.slot_s)
    sent = [frame * link.carrier.slots_per_frame + slot for frame in range(frames) for slot in _SENT_SLOTS]
    a = a[..., sent]
    waves = {slot: _waveform(link, slot) for slot in _SENT_SLOTS}
    receiver = SlotReceiver(
        link.carrier, [("pusch", replace(link.dmrs, slots=_SENT_SLOTS))], _RATE_HZ, CARRIER_HZ, frame_start=0
    )
    taps = _taps(a, tau)
    received: list[ReceivedSlot] = []
    held = np.zeros((case.antennas, 0), np.complex64)
    done = 0
    for frame in range(frames):
        iq = _frame(link, frame, taps, waves)
        iq = iq + np.sqrt(link.boost * noise_power) * _normal(rng, *iq.shape)
        turns = np.exp(2j * np.pi * _CFO_HZ / _RATE_HZ * (frame * iq.shape[1] + np.arange(iq.shape[1])))
        held = np.concatenate([held, (iq * turns).astype(np.complex64)], axis=1)
        while held.shape[1] >= _BLOCK_SAMPLES or (frame == frames - 1 and held.shape[1]):
            block, held = held[:, :_BLOCK_SAMPLES], held[:, _BLOCK_SAMPLES:]
            received += receiver.process(block, done)
            done += block.shape[1]
    errors = _chain_errors(link, a, received, sent, noise_power)
    estimates = [each.estimate for each in received if isinstance(each.estimate, SlotEstimate)]
    late = errors[len(errors) // 4 :]
    nmse_db, genie_db = (10 * np.log10(late[:, which].sum() / late[:, 2].sum()) for which in (0, 1))
    profile = link.profile
    return {
        "channel": case.channel,
        "delay_spread_ns": case.delay_spread_ns,
        "antennas": case.antennas,
        "snr_db": snr_db,
        "slots": len(late),
        "refused": 1.0 - len(estimates) / count,
        "lmmse_nmse_db": float(nmse_db),
        "genie_nmse_db": float(genie_db),
        "gap_db": float(nmse_db - genie_db),
        "cfo_error_hz": float(np.mean([each.cfo_hz for each in estimates[len(estimates) // 4 :]])) - _CFO_HZ,
        "told_delay_ns": 1e9 * float(estimates[-1].delay_s[0]),
        "delay_ns": 1e9 * (_TIMING_SAMPLES / _RATE_HZ + float(profile.powers @ profile.delays_s)),
    }


def _waveform(link: Link, slot: int) -> Complex:
    """One of Sionna's slots as samples, turned as a carrier is that starts anew at every symbol (38.211 clause 5.4)."""
    import torch
    from sionna.phy.nr import PUSCHTransmitter
    from sionna.phy.ofdm import OFDMModulator

    grid = PUSCHTransmitter(link.pusch_config(slot))(1)[0][0, 0, 0].numpy()
    empty = (_FFT - grid.shape[1]) // 2
    bins = np.pad(grid, ((0, 0), (empty, _FFT - grid.shape[1] - empty)))
    prefixes = np.full(SYMBOLS_PER_SLOT, 144 * _FFT // 2048)
    prefixes[0] += 32 * _FFT // 2048
    wave = OFDMModulator(prefixes)(torch.tensor(bins)).numpy()
    ends = np.cumsum(prefixes + _FFT)
    for end, prefix in zip(ends, prefixes, strict=True):
        turns = np.mod(CARRIER_HZ / _RATE_HZ * (end - _FFT), 1.0)
        wave[end - _FFT - prefix : end] *= np.exp(-2j * np.pi * turns)
    return np.asarray(wave)


def _taps(a: Any, tau: Any) -> Complex:
    """Sionna's channel as a filter at the sample rate. Shape [slots, A, taps]."""
    from sionna.phy.channel import cir_to_time_channel

    return np.asarray(cir_to_time_channel(_RATE_HZ, a, tau, _FIRST_TAP, _LAST_TAP)[0, 0, :, 0, 0].numpy()).swapaxes(
        0, 1
    )


def _frame(link: Link, frame: int, taps: Complex, waves: dict[int, Complex]) -> Complex:
    """A frame of samples [A, T] as received but for noise and carrier offset."""
    length = round(10e-3 * _RATE_HZ)
    iq = np.zeros((link.case.antennas, length), complex)
    for number, slot in enumerate(_SENT_SLOTS):
        begin = slot * length // link.carrier.slots_per_frame + _TIMING_SAMPLES + _FIRST_TAP
        for antenna, response in enumerate(taps[frame * len(_SENT_SLOTS) + number]):
            heard = scipy.signal.fftconvolve(waves[slot], response)
            iq[antenna, begin : begin + len(heard)] += heard
    return iq


def _chain_errors(link: Link, a: Any, received: list[ReceivedSlot], sent: list[int], noise_power: float) -> Real:
    """Squared errors of ours and of the genie, and the channel's energy, for each slot received. Shape [n, 3]."""
    profile, carrier = link.profile, link.carrier
    delays_s = profile.delays_s + _TIMING_SAMPLES / _RATE_HZ
    stream = received[0].stream
    outputs_hz = output_tones_hz(stream, carrier)
    starts_s = carrier.symbol_starts_s(sent[0] % carrier.slots_per_subframe)[list(link.symbols)]
    genie = Genie(
        stream.tones_hz,
        np.ones((1, len(starts_s), len(stream.tones_hz))),
        starts_s,
        delays_s=delays_s,
        powers=profile.powers,
        specular=profile.specular,
        doppler_hz=0.0,  # the channel stands still within a slot
        specular_hz=0.0,
        outputs_hz=outputs_hz,
        noise_power=noise_power,
    )
    # A transform sees the phase of its window's middle; windows start half a cyclic prefix early.
    seen_s = starts_s + (0.5 * _FFT - int(0.5 * 144 * _FFT / 2048)) / _RATE_HZ
    gains = a[0, 0, :, 0, 0].numpy()  # [A, P, slots]
    fourier = np.exp(-2j * np.pi * outputs_hz[:, None] * delays_s)
    errors = []
    for each in received:
        if isinstance(each.estimate, Refusal):
            continue
        turns = np.exp(2j * np.pi * _CFO_HZ * (each.slot * carrier.slot_s + seen_s))
        truth = (fourier @ gains[:, :, sent.index(each.slot)].T).T
        ours = each.estimate.cfr[0] * np.conj(np.exp(1j * np.mean(np.unwrap(np.angle(turns)))))
        known = genie.estimate(each.estimate.ls * turns.conj()[None, :, None])[0]
        errors.append([np.sum(np.abs(found - truth) ** 2) for found in (ours, known)] + [np.sum(np.abs(truth) ** 2)])
    return np.array(errors)
