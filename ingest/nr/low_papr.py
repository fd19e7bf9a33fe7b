"""NR's low-PAPR sequences of type 1 (38.211 clause 5.2.2) and how they hop.

SRS are made of them, and the DMRS of a PUSCH with transform precoding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.nr.low_papr_tables import PHASES
from ingest.nr.ofdm import SYMBOLS_PER_SLOT
from ingest.nr.sequences import gold

GROUPS = 30
Hopping = Literal["neither", "group", "sequence"]
HOPPINGS: tuple[Hopping, ...] = ("neither", "group", "sequence")

_SECOND_SEQUENCE_FROM = 72
"""6 N_sc^RB: groups have two sequences from this length on."""


@lru_cache(maxsize=1024)
def low_papr(u: int, v: int, length: int) -> npt.NDArray[np.complex128]:
    """Base sequence r_u,v of group u and number v (38.211 clauses 5.2.2.1 and 5.2.2.2). Shape [length], read-only.

    Raises ValueError where there is no such sequence: lengths are 6, 12, 18, 24, 30, or 36 and more.
    """
    if not 0 <= u < GROUPS or v not in (0, 1):
        raise ValueError(f"there is no low-PAPR sequence of group {u} and number {v}")
    if v == 1 and length < _SECOND_SEQUENCE_FROM:
        raise ValueError(f"groups have one low-PAPR sequence of length {length}, not two")
    if length in PHASES:
        sequence = np.asarray(np.exp(0.25j * np.pi * PHASES[length][u]), np.complex128)
    elif length == 30:
        n = np.arange(30)
        sequence = np.asarray(np.exp(-1j * np.pi * (u + 1) * (n + 1) * (n + 2) / 31))
    elif length >= 36:
        sequence = _zadoff_chu(u, v, length)
    else:
        raise ValueError(f"there are no low-PAPR sequences of length {length}")
    sequence.flags.writeable = False
    return sequence


def _zadoff_chu(u: int, v: int, length: int) -> npt.NDArray[np.complex128]:
    """A Zadoff-Chu sequence of the largest prime length below `length`, continued cyclically."""
    prime = _largest_prime_below(length)
    # q = floor(q_bar + 1/2) + v (-1)^floor(2 q_bar), q_bar = prime (u + 1) / 31, in whole numbers.
    twice = 2 * prime * (u + 1) // 31
    root = (twice + 1) // 2 + v * (-1) ** twice
    m = np.arange(length) % prime
    # The phase has period 2 prime in q m (m + 1): reduced before it becomes a float.
    turns = root * m * (m + 1) % (2 * prime)
    return np.asarray(np.exp(-1j * np.pi * turns / prime))


def _largest_prime_below(limit: int) -> int:
    candidate = limit - 1
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate


def cyclic_shift(shift: int, shifts: int, length: int) -> npt.NDArray[np.complex128]:
    """exp(j alpha n) for alpha = 2 pi shift / shifts. Shape [length]."""
    return np.asarray(np.exp(2j * np.pi * (shift * np.arange(length) % shifts) / shifts))


def hop(hopping: Hopping, slot_in_frame: int, symbol: int, length: int, c_init: int) -> tuple[int, int]:
    """(f_gh, v) of a symbol of the slot: what group hopping adds to u, and the sequence number.

    c_init: of the signal (38.211 clauses 6.4.1.1.1.2 and 6.4.1.4.2); counts symbols from the frame's start.
    """
    index = SYMBOLS_PER_SLOT * slot_in_frame + symbol
    if hopping == "group":
        bits = gold(c_init, 8, 8 * index)
        return int(np.packbits(bits, bitorder="little")[0]) % GROUPS, 0
    if hopping == "sequence" and length >= _SECOND_SEQUENCE_FROM:
        return 0, int(gold(c_init, 1, index)[0])
    return 0, 0
