"""`find_dmrs`: every PUSCH, PDSCH and PDCCH DMRS in IQ samples, with nothing told but rate and centre frequency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.nr.capture_grid import CaptureGrid, cut
from ingest.nr.numerology import FR1_MAX_HZ
from ingest.nr.ofdm import MAX_PRBS, PRB_SUBCARRIERS, SYMBOLS_PER_SLOT, Carrier
from ingest.nr.reference_evidence import PDCCH, block_scores, combined, extended, fit, matched, pieces, snr
from ingest.nr.reference_search import MAX_CRBS, Sequence, Sighting, first_sequence, follow, more_sequences, relatives

Channel = Literal["pusch", "pdsch", "pdcch", "pxsch"]

_CHUNK_S = 10e-3
_LN_SAME_SLOT = float(np.log(1e-4))
"""A sequence that is there on one symbol of a slot: 13 more are tested."""

_COHERENCE_SHARE = 0.6
"""A spacing whose prefixes correlate by less than this share of the best spacing's is not looked at."""

_FADE = 0.2
"""A block that has this share of the others' SNR still belongs to them: -7 dB."""

_EDGE_STEP = 0.06
"""An outermost block with less than this share of its neighbour's power is leakage: -12 dB."""

_GRIDS = {
    15e3: (25, 52, 79, 106, 133, 160, 188, 216, 242, 270),
    30e3: (11, 24, 38, 51, 65, 78, 106, 133, 162, 189, 217, 245, 273),
}
"""Transmission bandwidths in resource blocks (38.104 table 5.3.2-1)."""


@dataclass(frozen=True)
class FoundDmrs:
    """One allocation's DMRS in one slot.

    channel: "pxsch" where nothing tells PUSCH from PDSCH, whose sequences are the same. slot: of the frame. start:
    sample where the slot starts (fractional, may lie before the first one). symbols: of the slot. config_type: 1 or 2,
    0 for a PDCCH. cdm_group, ports: as far as frequency covers tell them apart (not the time covers of double symbols).
    first_prb, prbs: common resource blocks. first_reference: the block from which its sequence counts; 0 but for SIB1
    and PDCCHs of CORESET 0. crb0_hz: frequency of subcarrier 0 of common resource block 0. cfo_hz: modulo scs_hz, with
    subcarriers taken to lie at whole multiples of the spacing from center_hz. log10_false_alarm: of the whole claim,
    all hypotheses counted, against pilots' elements that hold noise or data.
    """

    channel: Channel
    scs_hz: float
    slot: int
    start: float
    symbols: tuple[int, ...]
    config_type: int
    cdm_group: int
    ports: tuple[int, ...]
    first_prb: int
    prbs: int
    n_id: int
    n_scid: int
    snr_db: float
    cfo_hz: float
    log10_false_alarm: float
    first_reference: int
    crb0_hz: float
    center_hz: float

    def carrier(self, rate_hz: float) -> Carrier:
        """A grid on which the DMRS lie as found.

        The carrier that is centred in the capture and begins at common resource block 0, if there is such a one in
        38.104; else all resource blocks that the capture's band holds.
        """
        below = (self.center_hz - self.crb0_hz) / self.scs_hz
        prbs = round(below / 6)
        if abs(below - 6 * prbs) < 0.5 and prbs in _GRIDS.get(self.scs_hz, ()):
            return Carrier(self.scs_hz, prbs, self.center_hz)
        half = rate_hz / self.scs_hz / 2
        first = max(int(np.ceil((below - half) / PRB_SUBCARRIERS)), 0)
        last = int(np.floor((below + half) / PRB_SUBCARRIERS))
        count = min(last - first, MAX_PRBS)
        carrier_hz = self.crb0_hz + (PRB_SUBCARRIERS * first + 6 * count) * self.scs_hz
        return Carrier(self.scs_hz, count, carrier_hz, first)


def find_dmrs(
    samples: npt.NDArray[np.complex64],
    rate_hz: float,
    center_hz: float,
    *,
    downlink: bool | None = None,
    spacings_hz: tuple[float, ...] | None = None,
    crbs: int = MAX_CRBS,
) -> list[FoundDmrs]:
    """The DMRS in samples [A, T], in the order of their time, then frequency.

    downlink: what the samples are, where that is known. spacings_hz: subcarrier spacings to try, all of the frequency
    range otherwise. crbs: how many common resource blocks up from point A a first sequence is looked for. Samples are
    searched in pieces of 10 ms.
    """
    if spacings_hz is None:
        spacings_hz = (15e3, 30e3, 60e3) if center_hz <= FR1_MAX_HZ else (60e3, 120e3)
    found: list[FoundDmrs] = []
    piece = round(_CHUNK_S * rate_hz)
    for first in range(0, max(samples.shape[1], 1), piece):
        part = np.ascontiguousarray(samples[:, first : first + piece], np.complex64)
        entries = _find_in_piece(part, rate_hz, center_hz, spacings_hz, crbs)
        found += [replace(entry, start=entry.start + first) for entry in entries]
    if downlink is None and any(entry.channel == "pdcch" for entry in found):
        downlink = True
    if downlink is not None:
        told: Channel = "pdsch" if downlink else "pusch"
        found = [replace(entry, channel=told) if entry.channel == "pxsch" else entry for entry in found]
    return sorted(found, key=lambda entry: (entry.start, entry.first_prb))


def _find_in_piece(
    samples: npt.NDArray[np.complex64], rate_hz: float, center_hz: float, spacings_hz: tuple[float, ...], crbs: int
) -> list[FoundDmrs]:
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < np.finfo(np.float32).tiny or not np.isfinite(peak):
        return []
    captures = [cut(samples / np.float32(peak), rate_hz, scs_hz) for scs_hz in spacings_hz]
    gridded = sorted((one for one in captures if one is not None), key=lambda one: -one.grid.coherence)
    for capture in gridded:
        if capture.grid.coherence < _COHERENCE_SHARE * gridded[0].grid.coherence:
            break
        start = first_sequence(capture, crbs, thorough=capture is gridded[0])
        if start is not None:
            return _all_entries(capture, *start, center_hz)
    return []


def _all_entries(capture: CaptureGrid, first: Sequence, doubt: float, center_hz: float) -> list[FoundDmrs]:
    """Everything in a capture of which one sequence is known, and ln of the hypotheses among which that was found."""
    capture, first = _aligned(capture, first)
    grid_bin = first.origin - _comb_offset(capture, first)
    pairs = [(first, doubt), *more_sequences(capture, first, grid_bin)]
    reference_bin = min(sequence.origin - (sequence.origin - grid_bin) % 12 for sequence, _ in pairs)
    entries: list[FoundDmrs] = []
    for sequence, hypotheses in pairs:
        for relative in relatives(sequence, grid_bin):
            for cluster in _clusters(capture, follow(capture, relative)):
                entry = _entry(capture, cluster, hypotheses, reference_bin, center_hz)
                if entry is not None:
                    entries.append(entry)
    return _without_repeats(entries)


def _aligned(capture: CaptureGrid, first: Sequence) -> tuple[CaptureGrid, Sequence]:
    """The capture cut again with the long prefixes where the sequence says they are."""
    symbol = int(capture.symbols[0])
    number = (first.first_symbol + symbol) % capture.frame_symbols
    grid = capture.grid.aligned(symbol, number)
    candidates = np.arange(3 * grid.per_half)
    distance = np.abs(grid.useful(candidates) - float(capture.grid.useful(symbol)))
    moved = int(candidates[int(np.argmin(distance))])
    again = CaptureGrid(capture.samples, grid, capture.stretch)
    return again, replace(first, first_symbol=(number - moved) % capture.frame_symbols)


def _comb_offset(capture: CaptureGrid, sequence: Sequence) -> int:
    """Which CDM group's comb the sequence lies on, in subcarriers.

    Pilots of a group alone do not tell: a comb one up with blocks one down is the same. The blocks' edges do, where
    data begin and end. If nothing speaks for either, that the capture's centre is a carrier's centre does.
    """
    layout = sequence.layout
    offsets = np.arange(layout.groups) * layout.group_step
    votes = np.where((capture.grid.fft // 2 - sequence.origin + offsets) % 6 == 0, 0.5, 0.0)
    for cluster in _clusters(capture, follow(capture, sequence)):
        power = capture.power[_slot_rows(capture, sequence, cluster[0].row)].mean(axis=0) + 1e-30
        first, stop = _joint_range(capture, cluster)
        for i, offset in enumerate(offsets):
            low = sequence.origin - int(offset) + 12 * first
            inside = np.arange(max(low, 0), min(low + 12 * (stop - first), len(power)))
            votes[i] += np.log(power[inside]).sum()
    return int(offsets[int(np.argmax(votes))])


def _number(capture: CaptureGrid, sequence: Sequence, row: int) -> int:
    """Symbols from the start of the frame of the grid's symbol 0, not taken modulo the frame."""
    return sequence.first_symbol + int(capture.symbols[row])


def _slot_rows(capture: CaptureGrid, sequence: Sequence, row: int) -> list[int]:
    """The rows of the capture that belong to the same slot as `row`."""
    slot = _number(capture, sequence, row) // SYMBOLS_PER_SLOT
    numbers = sequence.first_symbol + capture.symbols
    return [int(one) for one in np.flatnonzero(numbers // SYMBOLS_PER_SLOT == slot)]


def _clusters(capture: CaptureGrid, seen: list[Sighting]) -> list[list[Sighting]]:
    """Sightings of one sequence that belong together: same slot, mostly the same blocks."""
    clusters: list[list[Sighting]] = []
    for one in sorted(seen, key=lambda sighting: sighting.log_p):
        slot = _number(capture, one.sequence, one.row) // SYMBOLS_PER_SLOT
        for cluster in clusters:
            best = cluster[0]
            overlap = min(one.stop, best.stop) - max(one.first, best.first)
            same_slot = _number(capture, best.sequence, best.row) // SYMBOLS_PER_SLOT == slot
            if same_slot and 2 * overlap > min(one.stop - one.first, best.stop - best.first):
                cluster.append(one)
                break
        else:
            clusters.append([one])
    return clusters


def _stacked(
    capture: CaptureGrid, sequence: Sequence, rows: list[int]
) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.int64]]:
    """y conj(r) of several symbols, [S, P, A, per_prb], and the blocks' numbers [P]."""
    products = []
    for row in rows:
        value = sequence.value(int(capture.symbols[row]), capture.frame_symbols)
        product, blocks = matched(capture.spectra[row], sequence.layout, sequence.origin, value)
        products.append(product)
    return np.stack(products), blocks


def _joint_range(capture: CaptureGrid, cluster: list[Sighting]) -> tuple[int, int]:
    """Blocks [first, stop) that all symbols of a cluster together speak for."""
    best = cluster[0]
    product, blocks = _stacked(capture, best.sequence, sorted({one.row for one in cluster}))
    layout = best.sequence.layout
    seen = slice(best.first - int(blocks[0]), best.stop - int(blocks[0]))
    signal, noise = snr(product[:, seen], layout, best.slope, both_ports=best.sign < 0)
    gain = float(np.clip(1.0 + layout.per_prb * _FADE * signal / noise, 4.0, 300.0))
    first, stop = extended(block_scores(product, layout, best.slope, best.sign, gain), seen.start, seen.stop)
    parts = pieces(product, first, stop) or [(first, stop)]
    first, stop = max(parts, key=lambda part: min(part[1], seen.stop) - max(part[0], seen.start))
    power = np.asarray(np.mean(np.abs(product[:, first:stop]) ** 2, axis=(0, 2, 3), dtype=np.float64))
    start, end = 0, len(power)
    while end - start > 2 and power[start] < _EDGE_STEP * power[start + 1 : start + 3].max():
        start += 1
    while end - start > 2 and power[end - 1] < _EDGE_STEP * power[end - 3 : end - 1].max():
        end -= 1
    offset = first + int(blocks[0])
    return offset + start, offset + end


def _entry(
    capture: CaptureGrid, cluster: list[Sighting], doubt: float, reference_bin: int, center_hz: float
) -> FoundDmrs | None:
    """What is claimed of a cluster, or None where it does not stand against the hypotheses tried."""
    best = cluster[0]
    sequence, layout = best.sequence, best.sequence.layout
    first, stop = _joint_range(capture, cluster)
    rows = _slot_rows(capture, sequence, best.row)
    product, blocks = _stacked(capture, sequence, rows)
    product = product[:, first - int(blocks[0]) : stop - int(blocks[0])]
    if product.shape[1] == 0:
        return None
    fits = {sign: [fit(one, layout, (sign,)) for one in product] for sign in ((1,) if layout is PDCCH else (1, -1))}
    present = [i for i in range(len(rows)) if min(fits[sign][i].log_p for sign in fits) < _LN_SAME_SLOT]
    if not present:
        return None
    log_p = combined([min(fits[sign][i].log_p for sign in fits) for i in present]) + doubt
    if log_p > np.log(1e-6):
        return None
    signs = [sign for sign in fits if combined([fits[sign][i].log_p for i in present]) < np.log(1e-9)] or [best.sign]
    signal, noise = snr(product[present], layout, best.slope, len(signs) > 1 or signs == [-1])
    number = _number(capture, sequence, best.row)
    group = (sequence.origin - reference_bin) % 12 // layout.group_step
    reference = (sequence.origin - reference_bin) // 12
    low = sequence.origin - (sequence.origin - reference_bin) % 12 + 12 * first
    symbols = [_number(capture, sequence, rows[i]) % SYMBOLS_PER_SLOT for i in present]
    grid = capture.grid
    return FoundDmrs(
        channel="pdcch" if layout is PDCCH else "pxsch",
        scs_hz=grid.scs_hz,
        slot=number % capture.frame_symbols // SYMBOLS_PER_SLOT,
        start=_slot_start(capture, sequence, best) / capture.stretch,
        symbols=tuple(symbols),
        config_type=layout.config_type,
        cdm_group=group,
        ports=tuple(2 * group + (sign < 0) for sign in sorted(signs, reverse=True)),
        first_prb=first + reference,
        prbs=stop - first,
        n_id=sequence.n_id,
        n_scid=sequence.n_scid,
        snr_db=10.0 * float(np.log10(signal / noise)),
        cfo_hz=capture.cfo_hz(capture.symbols[rows], low, low + 12 * (stop - first)),
        log10_false_alarm=log_p / float(np.log(10.0)),
        first_reference=reference,
        crb0_hz=center_hz + (reference_bin - grid.fft // 2) * grid.scs_hz,
        center_hz=center_hz,
    )


def _slot_start(capture: CaptureGrid, sequence: Sequence, seen: Sighting) -> float:
    """Sample where the slot of a sighting starts as its signal arrives: the delay of its channel included."""
    grid = capture.grid
    symbol = int(capture.symbols[seen.row])
    number = _number(capture, sequence, seen.row) % capture.frame_symbols
    carrier = Carrier(grid.scs_hz, 24, 0.0)
    slot, within = divmod(number, SYMBOLS_PER_SLOT)
    into_s = carrier.symbol_starts_s(slot % carrier.slots_per_subframe)[within]
    return float(grid.useful(symbol) - into_s * grid.rate_hz - seen.slope * grid.fft)


def _without_repeats(entries: list[FoundDmrs]) -> list[FoundDmrs]:
    """The surest of entries that claim the same blocks of the same symbols and comb."""
    kept: list[FoundDmrs] = []
    for entry in sorted(entries, key=lambda one: one.log10_false_alarm):
        if not any(_collides(entry, better) for better in kept):
            kept.append(entry)
    return kept


def _collides(one: FoundDmrs, other: FoundDmrs) -> bool:
    overlap = min(one.first_prb + one.prbs, other.first_prb + other.prbs) - max(one.first_prb, other.first_prb)
    same_comb = one.config_type == other.config_type and one.cdm_group == other.cdm_group
    apart = abs(one.start - other.start)
    return (
        same_comb
        and one.slot == other.slot
        and apart < 1e3
        and overlap > 0
        and bool(set(one.symbols) & set(other.symbols))
    )
