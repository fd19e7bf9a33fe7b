"""The channel on DMRS that were found: what was found, as a reference signal, put through the usual estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.nr.delay_columns import DelayWindow
from ingest.nr.estimation import PortEstimator
from ingest.nr.find_dmrs import FoundDmrs
from ingest.nr.ofdm import PRB_SUBCARRIERS, Carrier, OfdmDemodulator
from ingest.nr.sequences import gold, qpsk
from ingest.nr.slot_estimate import Refusal, SlotEstimate

_PILOTS_PER_PRB = {0: 3, 1: 6, 2: 4}
_SUBCARRIERS = {0: (1, 5, 9), 1: (0, 2, 4, 6, 8, 10), 2: (0, 1, 6, 7)}
"""Within a PRB, of CDM group 0, by configuration type (38.211 tables 6.4.1.1.3-1 and -2); 0: PDCCH (7.4.1.3.2)."""

_EARLIEST_CP, _LATEST_CP = -0.3, 1.0
"""The slot's start that was found includes the channel's mean delay."""


@dataclass(frozen=True)
class FoundPilots:
    """Pilots of one port as they were found. subcarriers [S] of the carrier; values [L, S]."""

    subcarriers: npt.NDArray[np.int64]
    values: npt.NDArray[np.complex64]


@dataclass(frozen=True)
class FoundChannel:
    """What one slot's DMRS told. symbol_snr_db: of each of `symbols` by itself, per resource element.

    They differ where what is no channel is not white noise: a sender near its limit distorts each symbol by that
    symbol's own peaks, and `estimate.snr_db` is over all of them.
    """

    estimate: SlotEstimate
    symbols: tuple[int, ...]
    symbol_snr_db: tuple[float, ...]


def estimate_found(
    samples: npt.NDArray[np.complex64], rate_hz: float, center_hz: float, found: FoundDmrs
) -> FoundChannel | None:
    """The channel that one slot's DMRS show in samples [A, T]; None where its symbols are cut or do not hold it."""
    carrier = found.carrier(rate_hz)
    try:
        demodulator = OfdmDemodulator(carrier, rate_hz, center_hz)
    except ValueError:
        return None
    slot = found.slot % carrier.slots_per_subframe
    pilots = found_pilots(found, carrier)
    starts = found.start + carrier.symbol_starts_s(slot)[list(found.symbols)] * rate_hz
    whole = [
        index
        for index, start in enumerate(starts)
        if start >= demodulator.fft // 16 and start + demodulator.fft <= samples.shape[1]
    ]
    if not whole or found.ports != (2 * found.cdm_group,):
        return None
    symbols = [found.symbols[index] for index in whole]
    grid = demodulator.symbols(samples, found.start, slot, symbols, cfo_hz=found.cfo_hz, subcarriers=pilots.subcarriers)
    received = grid * pilots.values[whole].conj()
    tones_hz = carrier.tones_hz(pilots.subcarriers)
    window = DelayWindow(_EARLIEST_CP * carrier.cp_s, _LATEST_CP * carrier.cp_s)
    covers = np.ones((1, len(tones_hz)), np.complex128)
    times_s = carrier.symbol_starts_s(slot)[symbols]
    estimator = PortEstimator(tones_hz, covers, times_s, tones_hz, window)
    told = estimator.estimate(np.ascontiguousarray(received[None], np.complex64), np.zeros(1))[0]
    if isinstance(told, Refusal):
        return None
    return FoundChannel(told, tuple(symbols), symbol_snrs_db(received, estimator.prior.subspace))


def symbol_snrs_db(
    received: npt.NDArray[np.complexfloating], subspace: npt.NDArray[np.complexfloating]
) -> tuple[float, ...]:
    """SNR per resource element of each symbol of received [A, L, S], a channel over that lies in subspace [S, r].

    Of white noise the S - r other dimensions hold their share; what is left of the energy is the channel's.
    """
    pilots, rank = subspace.shape
    energy = np.sum(np.abs(received) ** 2, axis=(0, 2), dtype=np.float64)
    inside = np.sum(np.abs(received @ subspace.conj()) ** 2, axis=(0, 2), dtype=np.float64)
    noise = np.maximum(energy - inside, 1e-9 * energy) * pilots / max(pilots - rank, 1)
    signal = np.maximum(energy - noise, 1e-9 * noise)
    return tuple(float(one) for one in 10 * np.log10(signal / noise))


def found_pilots(found: FoundDmrs, carrier: Carrier) -> FoundPilots:
    """The elements and values of the port with the plain cover."""
    per_prb = _PILOTS_PER_PRB[found.config_type]
    shift = found.cdm_group * (2 if found.config_type == 2 else 1)
    blocks = np.arange(found.first_prb, found.first_prb + found.prbs)
    within = np.array(_SUBCARRIERS[found.config_type]) + shift
    subcarriers = ((blocks - carrier.first_crb)[:, None] * PRB_SUBCARRIERS + within).ravel()
    first = (found.first_prb - found.first_reference) * per_prb
    count = found.prbs * per_prb
    values = np.empty((len(found.symbols), count), np.complex64)
    for row, symbol in enumerate(found.symbols):
        number = 14 * found.slot + symbol + 1
        c_init = (2**17 * number * (2 * found.n_id + 1) + 2 * found.n_id + found.n_scid) % 2**31
        values[row] = qpsk(gold(c_init, 2 * (first + count)))[first:]
    return FoundPilots(subcarriers, values)
