"""The kernels of the weak search: every c_init of a cell, weighed against what several symbols' pilots are read as."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.bit_count import ones

_FIRST_SUM = 2.0
"""What two symbols must reach, in standard deviations of chance, to have the third one looked at: with the right
sequence they reach it with a probability of 99 % where three could be told from all wrong ones at all. They must reach
it on the surer half of their equations too, or the other half is not looked at: 92 % of wrong hypotheses do not."""


@kernel
def _span(columns: npt.NDArray[np.uint64], table: npt.NDArray[np.uint64]) -> None:
    """table[:, v] = sum of the columns that v has bits for. columns [B, 2], table [2, 2^B] with table[:, 0] given."""
    for word in range(2):
        filled = 1
        for bit in range(columns.shape[0]):
            column, given, made = columns[bit, word], table[word, :filled], table[word, filled : 2 * filled]
            for v in range(filled):
                made[v] = given[v] ^ column
            filled *= 2


@kernel
def _tabulate(
    masks: npt.NDArray[np.uint32],
    x1: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    signs: npt.NDArray[np.uint8],
    low: npt.NDArray[np.uint64],
    high: npt.NDArray[np.uint64],
) -> None:
    """Contradictions of a symbol's equations as words, by c_init's lower bits into low [2, 2^11] and by its upper 14
    into high [2, 2^14]: their sum is that of both. places [2, B]: the bits whose sums are read as signs [B]."""
    columns = np.zeros((31, 2), np.uint64)
    low[:, 0] = np.uint64(0)
    high[:, 0] = np.uint64(0)
    for b in range(places.shape[1]):
        first, second = places[0, b], places[1, b]
        mask = masks[first] ^ masks[second]
        at = np.uint64(1) << np.uint64(b % 64)
        if (x1[first] ^ x1[second]) != signs[b]:
            low[b // 64, 0] |= at
        for bit in range(31):
            if (mask >> np.uint32(bit)) & np.uint32(1):
                columns[bit, b // 64] |= at
    _span(columns[:11], low)
    _span(columns[17:], high)


@kernel
def _first_look(
    lows: npt.NDArray[np.uint64],
    highs: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    low: int,
    wrong: npt.NDArray[np.int64],
) -> None:
    """Contradictions of the surer half of up to two rows' equations into `wrong`, by symbol of the frame. Shape [F]."""
    frame_symbols, odd = len(wrong), low | 1
    for s in range(min(lows.shape[0], 2)):
        word, table = lows[s, 0, low], highs[s, 0]
        wraps = frame_symbols - offsets[s]
        for symbol in range(frame_symbols):
            number = symbol - wraps if symbol >= wraps else symbol + offsets[s]
            found = ones(word ^ table[((number + 1) * odd) & 16383])
            wrong[symbol] = found if s == 0 else wrong[symbol] + found


@kernel
def _all_wrong(
    lows: npt.NDArray[np.uint64],
    highs: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    frame_symbols: int,
    symbol: int,
    low: int,
    most: int,
) -> int:
    """Contradictions of all rows' equations; a great number where the first two's alone are more than `most`."""
    total = 0
    for s in range(lows.shape[0]):
        number = symbol + offsets[s]
        if number >= frame_symbols:
            number -= frame_symbols
        at = ((number + 1) * (low | 1)) & 16383
        total += ones(lows[s, 0, low] ^ highs[s, 0, at]) + ones(lows[s, 1, low] ^ highs[s, 1, at])
        if s < 2 and total > most:
            return 1 << 30
    return total


@kernel
def weigh_all(
    masks: npt.NDArray[np.uint32],
    x1: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    signs: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    frame_symbols: int,
    identities: int,
    best: npt.NDArray[np.float64],
    which: npt.NDArray[np.int64],
) -> None:
    """Fill `best` with the greatest sums of agreements and `which` with their (start's index, symbol, low bits, 0).

    places [S, 2, B]: the bits, from the first pilot on, whose sums are read as signs [S, B], the surest first. starts:
    the first pilot's first bit by hypothesis of the block. offsets [S]: symbols from the first row on, modulo the
    frame. A sum of bits is linear in c_init, so it is the sum of one word for its 17 lower bits and one for its 14
    upper bits, from two tables.
    """
    rows, count = places.shape[0], places.shape[2]
    lows = np.zeros((rows, 2, 1 << 11), np.uint64)
    highs = np.zeros((rows, 2, 1 << 14), np.uint64)
    pair, sure = min(rows, 2), min(count, 64)
    most_sure = int(pair * (sure - _FIRST_SUM / 2.0 * np.sqrt(sure)) / 2.0)
    most = int(pair * (count - _FIRST_SUM / 2.0 * np.sqrt(count)) / 2.0)
    wrong = np.zeros(frame_symbols, np.int64)
    least, limit = 0, 1 << 29
    for index in range(len(starts)):
        for s in range(rows):
            _tabulate(masks, x1, places[s] + starts[index], signs[s], lows[s], highs[s])
        for low in range(2 * identities):
            _first_look(lows, highs, offsets, low, wrong)
            for symbol in range(frame_symbols):
                if wrong[symbol] > most_sure:
                    continue
                total = _all_wrong(lows, highs, offsets, frame_symbols, symbol, low, most)
                if total >= limit:
                    continue
                best[least] = (rows * count / 2.0 - total) / (np.sqrt(count) / 2.0)
                which[least, 0], which[least, 1], which[least, 2] = index, symbol, low
                least = int(np.argmin(best))
                limit = int(np.ceil(rows * count / 2.0 - best[least] * np.sqrt(count) / 2.0 - 1e-6))
