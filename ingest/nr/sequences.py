"""NR's reference sequences (38.211 clause 5.2.1 and 7.4)."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

_GOLD_OFFSET = 1600
"""N_C of 38.211 clause 5.2.1."""

_GOLD_BYTES = 1024
"""Bits are kept in powers of two of at least this many bytes: enough for the DMRS of any carrier."""

PCI_COUNT = 1008


def gold(c_init: int, length: int, start: int = 0) -> npt.NDArray[np.int8]:
    """Pseudo-random bits c(n), start <= n < start + length (38.211 clause 5.2.1). Shape [length].

    x2 is linear in its 31 initial bits: it is the sum of what each set bit brings about, all of which are kept.
    """
    first_byte = start // 8
    end_byte = -(-(start + length) // 8)
    x1, x2 = _gold_parts(max(_GOLD_BYTES, 1 << (end_byte - 1).bit_length()))
    ones = [bit for bit in range(31) if c_init >> bit & 1]
    window = slice(first_byte, end_byte)
    packed = x1[window] ^ np.bitwise_xor.reduce(x2[ones, window], axis=0)
    offset = start - 8 * first_byte
    return np.unpackbits(packed, bitorder="little")[offset : offset + length].view(np.int8)


@lru_cache(maxsize=8)
def _gold_parts(size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """x1 and the x2 that follows from each single initial bit, after N_C. Packed bits [size], [31, size]."""
    total = _GOLD_OFFSET + 8 * size
    x1 = np.zeros(total + 31, np.uint8)
    x2 = np.zeros((31, total + 31), np.uint8)
    x1[0] = 1
    x2[:, :31] = np.eye(31, dtype=np.uint8)
    # 28 new values depend only on known ones, since x(n+31) reaches back to x(n+3) at most.
    for start in range(0, total, 28):
        stop = min(start + 28, total)
        step = slice(start + 31, stop + 31)
        x1[step] = x1[start + 3 : stop + 3] ^ x1[start:stop]
        x2[:, step] = (
            x2[:, start + 3 : stop + 3] ^ x2[:, start + 2 : stop + 2] ^ x2[:, start + 1 : stop + 1] ^ x2[:, start:stop]
        )
    used = slice(_GOLD_OFFSET, total)
    return np.packbits(x1[used], bitorder="little"), np.packbits(x2[:, used], axis=1, bitorder="little")


def qpsk(bits: npt.NDArray[np.int8]) -> npt.NDArray[np.complex128]:
    """r(m) = ((1 - 2 c(2m)) + j (1 - 2 c(2m+1))) / sqrt(2), the form of every DMRS. Shape [len(bits) // 2]."""
    signs = 1.0 - 2.0 * bits
    return np.asarray((signs[0::2] + 1j * signs[1::2]) / np.sqrt(2.0))


def _m_sequence(taps: tuple[int, int], seed: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """127 values of x(i+7) = x(i + taps[0]) + x(i + taps[1]) mod 2."""
    x = np.zeros(127 + 7, np.int8)
    x[:7] = seed
    for i in range(127):
        x[i + 7] = x[i + taps[0]] ^ x[i + taps[1]]
    return x[:127]


@cache
def pss(n_id_2: int) -> npt.NDArray[np.float64]:
    """Primary synchronisation sequence (38.211 clause 7.4.2.2.1). Shape [127], values +1 and -1."""
    x = _m_sequence((4, 0), (0, 1, 1, 0, 1, 1, 1))
    n = np.arange(127)
    return np.asarray(1.0 - 2.0 * x[(n + 43 * n_id_2) % 127], np.float64)


@cache
def sss(pci: int) -> npt.NDArray[np.float64]:
    """Secondary synchronisation sequence of a cell (38.211 clause 7.4.2.3.1). Shape [127], values +1 and -1."""
    n_id_1, n_id_2 = divmod(pci, 3)
    x0 = _m_sequence((4, 0), (1, 0, 0, 0, 0, 0, 0))
    x1 = _m_sequence((1, 0), (1, 0, 0, 0, 0, 0, 0))
    n = np.arange(127)
    m0 = 15 * (n_id_1 // 112) + 5 * n_id_2
    m1 = n_id_1 % 112
    return np.asarray((1.0 - 2.0 * x0[(n + m0) % 127]) * (1.0 - 2.0 * x1[(n + m1) % 127]), np.float64)


@cache
def pbch_dmrs(pci: int, index_bar: int) -> npt.NDArray[np.complex128]:
    """DMRS of the PBCH (38.211 clause 7.4.1.4.1) in the order of increasing subcarrier, then symbol. Shape [144].

    index_bar is i_SSB + 4 n_hf where at most 4 SSBs lie in a half frame, else the three lowest bits of i_SSB.
    """
    c_init = (index_bar + 1) * (pci // 4 + 1) * 2**11 + (index_bar + 1) * 2**6 + pci % 4
    return qpsk(gold(c_init, 288))


def pbch_dmrs_subcarriers(pci: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Subcarriers of the PBCH DMRS on symbols 1, 2 and 3 of the block (38.211 table 7.4.3.1-1)."""
    comb = np.arange(pci % 4, 240, 4)
    return comb, comb[(comb < 48) | (comb >= 192)], comb
