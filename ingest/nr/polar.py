"""The PBCH's polar code: 56 bits in 512, repeated to 864 (38.212 clauses 5.3.1, 5.4.1 and 7.1.4 to 7.1.5).

Encoding is a few lines; decoding is successive cancellation with a list of eight paths (Tal and Vardy, "List decoding
of polar codes", 2015) over log-likelihood ratios (Balatsoukas-Stimming, Bastani Parizi, Burg, 2015). The CRC picks
the path.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.crc import passes_crc24c

CODE_BITS = 512
MESSAGE_BITS = 56
RATE_MATCHED_BITS = 864
LIST_SIZE = 8
_LOG2_CODE = 9

_MOST_RELIABLE = (
    *(441, 469, 247, 367, 253, 375, 444, 470, 483, 415, 485, 473, 474, 254, 379, 431, 489, 486, 476, 439, 490, 463),
    *(381, 497, 492, 443, 382, 498, 445, 471, 500, 446, 475, 487, 504, 255, 477, 491, 478, 383, 493, 499, 502, 494),
    *(501, 447, 505, 506, 479, 508, 495, 503, 507, 509, 510, 511),
)
"""The 56 most reliable bits of a code of 512, ascending in reliability (the end of 38.212 table 5.3.1.2-1)."""

_INTERLEAVER_164 = (
    *(0, 2, 4, 7, 9, 14, 19, 20, 24, 25, 26, 28, 31, 34, 42, 45, 49, 50, 51, 53, 54, 56, 58, 59, 61, 62, 65, 66, 67),
    *(69, 70, 71, 72, 76, 77, 81, 82, 83, 87, 88, 89, 91, 93, 95, 98, 101, 104, 106, 108, 110, 111, 113, 115, 118),
    *(119, 120, 122, 123, 126, 127, 129, 132, 134, 138, 139, 140, 1, 3, 5, 8, 10, 15, 21, 27, 29, 32, 35, 43, 46, 52),
    *(55, 57, 60, 63, 68, 73, 78, 84, 90, 92, 94, 96, 99, 102, 105, 107, 109, 112, 114, 116, 121, 124, 128, 130, 133),
    *(135, 141, 6, 11, 16, 22, 30, 33, 36, 44, 47, 64, 74, 79, 85, 97, 100, 103, 117, 125, 131, 136, 142, 12, 17, 23),
    *(37, 48, 75, 80, 86, 137, 143, 13, 18, 38, 144, 39, 145, 40, 146, 41, *range(147, 164)),
)
"""38.212 table 5.3.1.1-1."""

_SUB_BLOCKS = (
    *(0, 1, 2, 4, 3, 5, 6, 7, 8, 16, 9, 17, 10, 18, 11, 19, 12, 20, 13, 21, 14, 22, 15, 23, 24, 25, 26, 28, 27, 29),
    *(30, 31),
)
"""38.212 table 5.4.1.1-1."""

_INFORMATION = np.sort(np.array(_MOST_RELIABLE))
_INTERLEAVER = np.array(_INTERLEAVER_164)
_INTERLEAVER = _INTERLEAVER[_INTERLEAVER >= 164 - MESSAGE_BITS] - (164 - MESSAGE_BITS)
_SUB_BLOCK = CODE_BITS // 32
_SENT = (np.array(_SUB_BLOCKS)[:, None] * _SUB_BLOCK + np.arange(_SUB_BLOCK)).ravel()[
    np.arange(RATE_MATCHED_BITS) % CODE_BITS
]
"""Which code bit each rate-matched bit repeats (38.212 clause 5.4.1)."""


def encode(message: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 864 bits that carry `message` [56], its CRC included."""
    code = np.zeros(CODE_BITS, np.uint8)
    code[_INFORMATION] = message[_INTERLEAVER]
    half = 1
    while half < CODE_BITS:
        pairs = code.reshape(-1, 2, half)
        pairs[:, 0] ^= pairs[:, 1]
        half *= 2
    return code[_SENT]


def decode(llr: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8] | None:
    """The message [56] behind log-likelihood ratios [864], positive for 0; None where no path passes the CRC.

    Noise passes with probability 8 x 2^-24 = 5e-7.
    """
    combined = np.zeros(CODE_BITS)
    np.add.at(combined, _SENT, llr)
    if not np.all(np.isfinite(combined)) or not np.any(combined):
        return None
    frozen = np.ones(CODE_BITS, np.bool_)
    frozen[_INFORMATION] = False
    paths, metrics = _decode_list(combined, frozen, LIST_SIZE)
    messages = np.empty((LIST_SIZE, MESSAGE_BITS), np.uint8)
    messages[:, _INTERLEAVER] = paths[np.argsort(metrics, kind="stable")][:, _INFORMATION]
    passed = np.flatnonzero(passes_crc24c(messages))
    return messages[passed[0]] if len(passed) else None


@kernel
def _decode_list(
    llr: npt.NDArray[np.float64], frozen: npt.NDArray[np.bool_], list_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Decoded bits [list_size, 512] of every surviving path and their metrics [list_size], inf where there is none.

    Level s of the decoding tree keeps 2^s ratios of the bits below the current node and the 2^s partial sums of its
    left half, both at offset 2^s. A metric grows by |ratio| at every bit decided against its ratio.
    """
    n = llr.size
    levels = _LOG2_CODE
    ratios = np.zeros((list_size, n))
    sums = np.zeros((list_size, n), np.uint8)
    bits = np.zeros((list_size, n), np.uint8)
    metrics = np.full(list_size, np.inf)
    metrics[0] = 0.0
    turned = np.zeros(n, np.uint8)
    alive = 1
    for bit in range(n):
        for path in range(alive):
            _descend(bit, levels, llr, ratios[path], sums[path])
        if frozen[bit]:
            for path in range(alive):
                metrics[path] += max(-ratios[path, 1], 0.0)
        else:
            alive = _fork(bit, alive, ratios, sums, bits, metrics)
        for path in range(alive):
            _ascend(bit, bits[path, bit], sums[path], turned)
    return bits, metrics


@kernel
def _descend(
    bit: int,
    levels: int,
    llr: npt.NDArray[np.float64],
    ratios: npt.NDArray[np.float64],
    sums: npt.NDArray[np.uint8],
) -> None:
    """Compute the ratios from the node where the way to `bit` leaves that to the bit before, down to the leaf."""
    level = levels - 1
    if bit > 0:
        level = 0
        while not (bit >> level) & 1:
            level += 1
    right = bit > 0
    while level >= 0:
        half = 1 << level
        for i in range(half):
            upper = llr[i] if level == levels - 1 else ratios[2 * half + i]
            lower = llr[half + i] if level == levels - 1 else ratios[3 * half + i]
            if right:
                ratios[half + i] = lower - upper if sums[half + i] else lower + upper
            else:
                least = min(abs(upper), abs(lower))
                ratios[half + i] = least if (upper >= 0) == (lower >= 0) else -least
        right = False
        level -= 1


@kernel
def _fork(
    bit: int,
    alive: int,
    ratios: npt.NDArray[np.float64],
    sums: npt.NDArray[np.uint8],
    bits: npt.NDArray[np.uint8],
    metrics: npt.NDArray[np.float64],
) -> int:
    """Let every path go both ways and keep the best ones; their number."""
    size = metrics.size
    grown = np.full(2 * size, np.inf)
    for path in range(alive):
        ratio = ratios[path, 1]
        grown[2 * path] = metrics[path] + max(-ratio, 0.0)
        grown[2 * path + 1] = metrics[path] + max(ratio, 0.0)
    kept = min(2 * alive, size)
    wanted = np.zeros(2 * size, np.bool_)
    for _ in range(kept):
        best = -1
        for branch in range(2 * alive):
            if not wanted[branch] and (best < 0 or grown[branch] < grown[best]):
                best = branch
        wanted[best] = True
    free = np.zeros(size, np.int64)
    frees = 0
    for path in range(size):
        if path >= alive or not (wanted[2 * path] or wanted[2 * path + 1]):
            free[frees] = path
            frees += 1
    used = 0
    for path in range(alive):
        if wanted[2 * path] and wanted[2 * path + 1]:
            other = free[used]
            used += 1
            for i in range(bits.shape[1]):  # row assignments would take numba seconds to compile
                ratios[other, i] = ratios[path, i]
                sums[other, i] = sums[path, i]
                bits[other, i] = bits[path, i]
            bits[other, bit] = 1
            metrics[other] = grown[2 * path + 1]
        if wanted[2 * path] or wanted[2 * path + 1]:
            one = not wanted[2 * path]
            bits[path, bit] = one
            metrics[path] = grown[2 * path + 1] if one else grown[2 * path]
    return kept


@kernel
def _ascend(bit: int, decided: int, sums: npt.NDArray[np.uint8], turned: npt.NDArray[np.uint8]) -> None:
    """Fold the decided bit into the partial sums up to the first node whose left half it ends."""
    turned[0] = decided
    level = 0
    while (bit >> level) & 1 and (1 << level) < turned.size // 2:
        half = 1 << level
        for i in range(half):
            turned[half + i] = turned[i]
            turned[i] ^= sums[half + i]
        level += 1
    half = 1 << level
    if half < turned.size:
        for i in range(half):
            sums[half + i] = turned[i]
