"""What pilots say about the shift register they come from (38.211 clause 5.2.1), with nothing known of its state.

The pseudo-random bits are c(n) = x1(n) + x2(n). x1 is the same for all signals. x2 is a linear function over GF(2) of
31 bits: the register's state, or the c_init that it was loaded with. So each bit read off a pilot is a linear equation
for the state, and pilots are a word of a [2 M, 31] code behind noise. It is decoded by ordered statistics (Fossorier
and Lin 1995): the 31 most reliable independent equations give a state, and all errors of up to `order` of them are
tried. Every c_init is covered at once, which no search over identities does.

A pilot's phase is known only against its neighbour's. With r = (I + jQ) / sqrt(2), a product of two pilots
r2 conj(r1) = ((I1 I2 + Q1 Q2) + j (I1 Q2 - Q1 I2)) / 2 is 1, j, -1 or -j; where it is real I1 I2 and Q1 Q2 are both its
sign, else I1 Q2 and -Q1 I2 are. So each product yields two equations, of sums of two bits each, whatever the channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.bit_count import ones

STATE_BITS = 31
GOLD_OFFSET = 1600
_STATE_MASK = (1 << STATE_BITS) - 1

_LOOK_BITS = 128
"""So many of the most reliable equations, two words, say whether a state is worth a look at the others."""

_LOOK_SPREADS = 2.0
"""By how many standard deviations a state must do better than chance there: one wrong state in 40 does. The right one
does it surely where only two of the 31 most reliable equations are wrong."""


@dataclass(frozen=True)
class Decoded:
    """A register found: x2's state at the window's first bit, the window's first pilot's number in its sequence.

    wrong: equations that it contradicts, of `equations`.
    """

    first_pilot: int
    state: int
    wrong: int
    equations: int

    @property
    def c_init(self) -> int:
        return rewound(self.state, GOLD_OFFSET + 2 * self.first_pilot)


def rewound(state: int, steps: int) -> int:
    """x2's state `steps` bits before it was `state`; bit i of a state is x2(n + i)."""
    for power in range(steps.bit_length()):
        if steps >> power & 1:
            state = _applied(_rewinding(power), state)
    return state


@cache
def _rewinding(power: int) -> tuple[int, ...]:
    """What each bit of a state becomes 2^power steps before."""
    if power > 0:
        half = _rewinding(power - 1)
        return tuple(_applied(half, column) for column in half)
    columns = []
    for bit in range(STATE_BITS):
        state = 1 << bit
        # x2(n) = x2(n + 31) + x2(n + 3) + x2(n + 2) + x2(n + 1)
        before = (state >> 30 ^ state >> 2 ^ state >> 1 ^ state) & 1
        columns.append(state << 1 & _STATE_MASK | before)
    return tuple(columns)


def _applied(columns: tuple[int, ...], state: int) -> int:
    result = 0
    for bit, column in enumerate(columns):
        if state >> bit & 1:
            result ^= column
    return result


def x1_bits(length: int) -> npt.NDArray[np.uint8]:
    """x1(n + 1600) for n < length. Shape [length]."""
    return _x1_bits(1 << length.bit_length())[:length]


@cache
def _x1_bits(length: int) -> npt.NDArray[np.uint8]:
    total = GOLD_OFFSET + length
    x1 = np.zeros(total + 31, np.uint8)
    x1[0] = 1
    for start in range(0, total, 28):
        stop = min(start + 28, total)
        x1[start + 31 : stop + 31] = x1[start + 3 : stop + 3] ^ x1[start:stop]
    return x1[GOLD_OFFSET:total]


def equations(length: int) -> npt.NDArray[np.uint32]:
    """Which bits of the state sum up to bit n after it, as masks. Shape [length]."""
    return _equations(1 << max(length, STATE_BITS).bit_length())[:length]


@cache
def _equations(length: int) -> npt.NDArray[np.uint32]:
    masks = np.zeros(length, np.uint32)
    masks[:STATE_BITS] = 1 << np.arange(STATE_BITS, dtype=np.uint32)
    for n in range(STATE_BITS, length):
        masks[n] = masks[n - 28] ^ masks[n - 29] ^ masks[n - 30] ^ masks[n - 31]
    return masks


def gold_bits(c_init: int, length: int) -> npt.NDArray[np.uint8]:
    """What `sequences.gold` yields, by the equations instead of step by step: for many c_init of one length."""
    masks = equations(GOLD_OFFSET + length)[GOLD_OFFSET:]
    return _parity(masks & np.uint32(c_init)) ^ x1_bits(length)


def decode(
    products: npt.NDArray[np.complexfloating],
    lag: int,
    first_pilots: npt.NDArray[np.int64],
    *,
    order: int,
    keep: int = 4,
) -> list[Decoded]:
    """The registers that best explain products [M - lag] of pilots `lag` apart, the best of each of first_pilots.

    products: y(m + lag) conj(y(m)), the channel's rotation between the two taken out. first_pilots: the hypotheses of
    the number of the window's first pilot in its sequence. order: errors tried among the 31 equations relied on, at
    most 3. Returns the `keep` best, fewest contradictions first; none where the products leave the state open.
    """
    first, second, soft = _by_reliability(*readings(products, lag))
    masks = equations(2 * (len(products) + lag))
    rows = masks[first] ^ masks[second]
    chosen = np.empty(STATE_BITS, np.int64)
    duals = np.empty(STATE_BITS, np.uint32)
    if not _most_reliable_basis(rows, chosen, duals):
        return []
    wrong = np.empty(len(first_pilots), np.int64)
    states = np.empty(len(first_pilots), np.uint32)
    _reprocess(
        (soft < 0).astype(np.uint8),
        np.stack([first, second]),
        x1_bits(2 * int(first_pilots.max()) + int(max(first.max(), second.max())) + 1),
        2 * first_pilots,
        chosen,
        _packed(_parity(rows[None, :] & duals[:, None])),
        duals,
        order,
        wrong,
        states,
    )
    best = np.argsort(wrong, kind="stable")[:keep]
    return [Decoded(int(first_pilots[i]), int(states[i]), int(wrong[i]), len(soft)) for i in best]


def readings(
    products: npt.NDArray[np.complexfloating], lag: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Pairs of bits (counted from the window's first) and what their sum is read as: positive 0, negative 1."""
    pilots = np.arange(len(products))
    real = np.abs(products.real) >= np.abs(products.imag)
    later = 2 * (pilots + lag)
    first = np.concatenate([2 * pilots, 2 * pilots + 1])
    second = np.concatenate([np.where(real, later, later + 1), np.where(real, later + 1, later)])
    soft = np.concatenate([np.where(real, products.real, products.imag), np.where(real, products.real, -products.imag)])
    return first, second, soft.astype(np.float64)


def _by_reliability(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], soft: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Readings, the surest first."""
    order = np.argsort(-np.abs(soft), kind="stable")
    return first[order], second[order], soft[order]


def _parity(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    return np.asarray(np.bitwise_count(values) & 1, np.uint8)


def _packed(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Bits [n, B] as words [n, W] of 64, padded with zeros to at least two words."""
    padding = [(0, 0), (0, max(-bits.shape[-1] % 64, _LOOK_BITS - bits.shape[-1]))]
    return np.ascontiguousarray(np.packbits(np.pad(bits, padding), axis=-1, bitorder="little")).view(np.uint64)


@kernel
def _most_reliable_basis(
    rows: npt.NDArray[np.uint32],
    chosen: npt.NDArray[np.int64],
    duals: npt.NDArray[np.uint32],
) -> bool:
    """The first 31 independent rows, and the states that satisfy one of them each: their dual basis.

    Gauss-Jordan, with each reduced row's make-up kept. Returns False where the rows span less.
    """
    reduced = np.zeros(31, np.uint32)
    made_of = np.zeros(31, np.uint32)
    found = 0
    for index in range(len(rows)):
        row = rows[index]
        make_up = np.uint32(1) << np.uint32(found)
        for bit in range(31):
            if (row >> np.uint32(bit)) & np.uint32(1) and reduced[bit]:
                row ^= reduced[bit]
                make_up ^= made_of[bit]
        if row == 0:
            continue
        pivot = 0
        while not (row >> np.uint32(pivot)) & np.uint32(1):
            pivot += 1
        for bit in range(31):
            if (reduced[bit] >> np.uint32(pivot)) & np.uint32(1):
                reduced[bit] ^= row
                made_of[bit] ^= make_up
        reduced[pivot] = row
        made_of[pivot] = make_up
        chosen[found] = index
        found += 1
        if found == 31:
            break
    if found < 31:
        return False
    for k in range(31):
        dual = np.uint32(0)
        for bit in range(31):
            dual |= ((made_of[bit] >> np.uint32(k)) & np.uint32(1)) << np.uint32(bit)
        duals[k] = dual
    return True


@kernel
def _read_word(
    signs: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    known: npt.NDArray[np.uint8],
    at: int,
    word: npt.NDArray[np.uint64],
) -> None:
    """The equations' right sides [B], packed, for a window whose first bit is bit `at` of its sequence."""
    word[:] = np.uint64(0)
    for b in range(len(signs)):
        bit = signs[b] ^ known[at + places[0, b]] ^ known[at + places[1, b]]
        word[b // 64] |= np.uint64(bit) << np.uint64(b % 64)


@kernel
def _flipped(word: npt.NDArray[np.uint64], flips: npt.NDArray[np.uint64], row: int, out: npt.NDArray[np.uint64]) -> int:
    """`word` with the bits of a row of `flips` turned, into `out`; how many of its bits are set."""
    total = 0
    for w in range(len(word)):
        out[w] = word[w] ^ flips[row, w]
        total += ones(out[w])
    return total


@kernel
def _nearest(
    words: npt.NDArray[np.uint64],
    codewords: npt.NDArray[np.uint64],
    duals: npt.NDArray[np.uint32],
    order: int,
    most: int,
) -> tuple[int, np.uint32]:
    """The least contradictions that up to `order` errors among the bits relied on leave, and the errors' state.

    words [4, W]: in the first row what is left without an error; the others are scratch. A state that contradicts more
    than `most` of the first `_LOOK_BITS` is not looked at any further.
    """
    zero, one, two, three = words
    least = 0
    for w in range(len(zero)):
        least += ones(zero[w])
    best = np.uint32(0)
    for i in range(31):
        distance = _flipped(zero, codewords, i, one)
        if distance < least:
            least, best = distance, duals[i]
        for j in range(i if order > 1 else 0):
            a, b = one[0] ^ codewords[j, 0], one[1] ^ codewords[j, 1]
            if order < 3 and ones(a) + ones(b) > most:
                continue
            distance = _flipped(one, codewords, j, two)
            if distance < least:
                least, best = distance, duals[i] ^ duals[j]
            for k in range(j if order > 2 else 0):
                if ones(a ^ codewords[k, 0]) + ones(b ^ codewords[k, 1]) <= most:
                    distance = _flipped(two, codewords, k, three)
                    if distance < least:
                        least, best = distance, duals[i] ^ duals[j] ^ duals[k]
    return least, best


@kernel
def _reprocess(
    signs: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    known: npt.NDArray[np.uint8],
    firsts: npt.NDArray[np.int64],
    relied_on: npt.NDArray[np.int64],
    codewords: npt.NDArray[np.uint64],
    duals: npt.NDArray[np.uint32],
    order: int,
    wrong: npt.NDArray[np.int64],
    states: npt.NDArray[np.uint32],
) -> None:
    """For each of `firsts` the nearest codeword among those that differ in at most `order` of the bits relied on.

    signs [B], places [2, B]: sums of two bits each, as read, the surest first. known: x1 from the sequence's start.
    firsts: the hypotheses of the window's first bit. relied_on: the 31 of B that `codewords` [31, words] are 1 at, one
    each; duals: their states.
    """
    free = min(len(signs), _LOOK_BITS) - 31
    most = order + int(max(free - _LOOK_SPREADS * np.sqrt(free), 0.0) / 2.0)
    words = np.empty((4, codewords.shape[1]), np.uint64)
    word = words[0]
    for row in range(len(firsts)):
        _read_word(signs, places, known, firsts[row], word)
        state = np.uint32(0)
        for k in range(31):
            if (word[relied_on[k] // 64] >> np.uint64(relied_on[k] % 64)) & np.uint64(1):
                state ^= duals[k]
                _flipped(word, codewords, k, word)
        least, errors = _nearest(words, codewords, duals, order, most)
        wrong[row] = least
        states[row] = state ^ errors
