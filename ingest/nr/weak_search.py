"""The search for a first sequence that is too weak to be decoded from one symbol: identities, one after the other.

Several symbols of an allocation are read together, so all hypotheses must be such that they say something of every
symbol: c_init = 2^17 (14 n_s + l + 1)(2 N_ID + 1) + 2 N_ID + n_SCID, with every symbol of a frame, every N_ID that a
cell identity may be, and every common resource block. That is some 10^8 hypotheses; the edges of the allocation, taken
from the power of all its symbols, fix where blocks begin, and combs that are empty but for the pilots give the symbols
away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ingest.nr import lfsr
from ingest.nr.capture_grid import CaptureGrid
from ingest.nr.occupancy import MAX_BINS, noise_floor, runs, smoothed
from ingest.nr.reference_evidence import TYPE_1, TYPE_2, Layout
from ingest.nr.sequences import PCI_COUNT
from ingest.nr.weighing import weigh_all

_SYMBOLS_READ = 3
_BITS = 128
"""Equations used per symbol, the most reliable ones: more of less worth only take time."""

_ABOVE_FLOOR = 1.3
"""Power over the floor, averaged over 14 symbols and 24 bins: noise is 5 standard deviations below."""

_MAX_BURSTS = 2
_MIN_CONTRAST = 6.0
"""Of the three likeliest symbols together. Data alone reaches it in one slot of a hundred."""

_CLEAR = 0.6
"""Products of neighbouring pilots that lie as close as this to four phases (1: exactly) hardly ever name a wrong bit.
Their one symbol would have told its sequence if it held one: what is strong is not looked for among the weak."""

_MAX_GAP = 60
"""Bins that may be in a fade without an allocation's being taken for two."""


@dataclass(frozen=True)
class Weak:
    """A hypothesis that stands out. score: sum of standard deviations over the symbols read."""

    layout: Layout
    origin: int
    first_symbol: int
    n_id: int
    n_scid: int
    score: float


@dataclass(frozen=True)
class Burst:
    """Rows [start, stop) of a capture with bins [low, high) occupied, which are whole blocks."""

    start: int
    stop: int
    low: int
    high: int


def weak_sequences(
    capture: CaptureGrid, crbs: int, *, keep: int = 12
) -> Iterator[tuple[Burst, list[int], list[Weak], float]]:
    """For each burst and way of lying in it: the rows read, the best hypotheses, and how many there were."""
    for burst in bursts(capture):
        for layout, comb in _combs(capture, burst):
            rows = _likeliest_rows(capture, burst, layout, comb)
            if not rows:
                continue
            found, tried = _search(capture, burst, layout, comb, rows, crbs, keep)
            yield burst, rows, found, tried


def bursts(capture: CaptureGrid) -> list[Burst]:
    """Where the power averaged over a slot's worth of symbols rises above the floor, the most power first.

    Each comes with the two likeliest places of block borders.
    """
    power = capture.power
    length = min(14, len(power))
    total = np.concatenate([np.zeros((1, power.shape[1])), np.cumsum(power, axis=0)])
    mean = (total[length:] - total[:-length]) / length
    floor = noise_floor(mean)
    smooth = smoothed(mean)
    excess = np.maximum(smooth - _ABOVE_FLOOR * floor, 0.0).sum(axis=1)
    starts: list[int] = []
    for start in np.argsort(-excess).tolist():
        if excess[start] > 0.0 and len(starts) < _MAX_BURSTS and all(abs(start - one) >= length for one in starts):
            starts.append(start)
    found: list[Burst] = []
    for start in starts:
        for low, high in runs(_closed(smooth[start] > _ABOVE_FLOOR * floor)):
            for edge_low, edge_high in _block_edges(mean[start], low, high, floor):
                found.append(Burst(start, start + length, edge_low, min(edge_high, edge_low + MAX_BINS)))
    return found


def _closed(above: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """With the gaps filled that are shorter than `_MAX_GAP`."""
    filled = above.copy()
    places = np.flatnonzero(above)
    for before, after in pairwise(places.tolist()):
        if after - before <= _MAX_GAP:
            filled[before:after] = True
    return filled


def _block_edges(mean: npt.NDArray[np.float64], low: int, high: int, floor: float) -> list[tuple[int, int]]:
    """The two likeliest [low, high) near the given ones that are whole blocks, by the step of exponential powers."""
    inside = max(float(np.median(mean[low:high])), 1.2 * floor)
    gain = mean / floor - mean / inside - np.log(inside / floor)
    total = np.concatenate([[0.0], np.cumsum(gain)])
    options = []
    for start in range(max(low - 18, 0), low + 19):
        for blocks in range(max((high - low) // 12 - 3, 3), (high - low) // 12 + 4):
            stop = start + 12 * blocks
            if stop <= len(mean):
                options.append((float(total[stop] - total[start]), start, stop))
    options.sort(reverse=True)
    best: dict[int, tuple[int, int]] = {}
    for _, start, stop in options:
        best.setdefault(start % 12, (start, stop))
    return list(best.values())[:2]


def _combs(capture: CaptureGrid, burst: Burst) -> list[tuple[Layout, int]]:
    """Layouts and combs by how much their best symbols stand out of what should be empty, the best two."""
    scored = []
    for layout in (TYPE_1, TYPE_2):
        for group in range(layout.groups):
            contrast = np.sort(_contrasts(capture, burst, layout, group * layout.group_step))[-_SYMBOLS_READ:]
            scored.append((float(contrast.sum()), layout, group * layout.group_step))
    scored.sort(key=lambda item: -item[0])
    return [(layout, comb) for _, layout, comb in scored[:2]]


def _contrasts(capture: CaptureGrid, burst: Burst, layout: Layout, comb: int) -> npt.NDArray[np.float64]:
    """ln of pilots' power over the power between them, in its standard deviations if there is no difference."""
    levels = capture.power[burst.start : burst.stop, burst.low : burst.high]
    folded = levels.reshape(len(levels), -1, layout.period)
    on = (comb + np.arange(layout.in_period)) % layout.period
    off = np.setdiff1d(np.arange(layout.period), on)
    ratio = np.log((folded[:, :, on].mean(axis=(1, 2)) + 1e-30) / (folded[:, :, off].mean(axis=(1, 2)) + 1e-30))
    spread = np.sqrt(1.0 / (folded.shape[1] * len(on)) + 1.0 / (folded.shape[1] * len(off)))
    return np.asarray(ratio / spread)


def _likeliest_rows(capture: CaptureGrid, burst: Burst, layout: Layout, comb: int) -> list[int]:
    """The symbols that stand out, without those that would have told their sequence by themselves."""
    contrast = _contrasts(capture, burst, layout, comb)
    order = np.argsort(-contrast)[:_SYMBOLS_READ]
    if contrast[order].sum() < _MIN_CONTRAST:
        return []
    bins = _pilot_bins(burst, layout, comb)
    rows = [burst.start + int(i) for i in order if contrast[i] > 1.5]
    return [row for row in rows if _clearness(_products(capture, row, layout, bins)) < _CLEAR]


def _pilot_bins(burst: Burst, layout: Layout, comb: int) -> npt.NDArray[np.int64]:
    blocks = (burst.high - burst.low) // 12
    return burst.low + comb + layout.subcarriers(np.arange(blocks * layout.per_prb))


def _products(capture: CaptureGrid, row: int, layout: Layout, bins: npt.NDArray[np.int64]) -> npt.NDArray[np.complex64]:
    """Each pilot over the conjugate of the one `lag` before, summed over antennas."""
    elements = capture.spectra[row][:, bins]
    return np.asarray(np.sum(elements[:, layout.lag :] * np.conj(elements[:, : -layout.lag]), axis=0), np.complex64)


def _clearness(products: npt.NDArray[np.complex64]) -> float:
    """How close the products lie to four phases a quarter turn apart: 1 exactly, 0 anywhere."""
    magnitudes = np.abs(products).astype(np.float64)
    turned = np.sum(magnitudes * np.exp(4j * np.angle(products)))
    return float(np.abs(turned) / max(float(magnitudes.sum()), 1e-300))


def _search(
    capture: CaptureGrid, burst: Burst, layout: Layout, comb: int, rows: list[int], crbs: int, keep: int
) -> tuple[list[Weak], float]:
    """The hypotheses whose bits agree best with what the pilots of `rows` are read as."""
    blocks = (burst.high - burst.low) // 12
    bins = _pilot_bins(burst, layout, comb)
    read = [lfsr.readings(_products(capture, row, layout, bins), layout.lag) for row in rows]
    chosen = [np.argsort(-np.abs(soft), kind="stable")[:_BITS] for _, _, soft in read]
    places = [np.stack([first[at], second[at]]) for (first, second, _), at in zip(read, chosen, strict=True)]
    signs = [soft[at] < 0 for (_, _, soft), at in zip(read, chosen, strict=True)]
    starts = np.arange(max(crbs - blocks + 1, 1))
    step = 2 * layout.per_prb
    offsets = np.asarray((capture.symbols[rows] - capture.symbols[rows[0]]) % capture.frame_symbols, np.int64)
    length = 2 * (crbs + 1) * layout.per_prb + step
    best = np.full(keep, -1e9)
    which = np.zeros((keep, 4), np.int64)
    weigh_all(
        lfsr.equations(lfsr.GOLD_OFFSET + length)[lfsr.GOLD_OFFSET :],
        lfsr.x1_bits(length),
        np.ascontiguousarray(np.stack(places), np.int64),
        np.ascontiguousarray(np.stack(signs), np.uint8),
        starts * step,
        offsets,
        capture.frame_symbols,
        PCI_COUNT,
        best,
        which,
    )
    symbol = int(capture.symbols[rows[0]])
    found = [
        Weak(
            layout,
            burst.low + comb - 12 * int(start),
            (int(in_frame) - symbol) % capture.frame_symbols,
            int(low) // 2,
            int(low) % 2,
            float(score),
        )
        for score, (start, in_frame, low, _) in zip(best, which, strict=True)
        if score > 0.0
    ]
    return sorted(found, key=lambda one: -one.score), float(len(starts) * capture.frame_symbols * 2 * PCI_COUNT)
