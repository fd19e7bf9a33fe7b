"""The cyclic redundancy check that proves a decoded PBCH (38.212 clause 5.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CRC24C_BITS = 24
_CRC24C_POWERS = (24, 23, 21, 20, 17, 15, 13, 12, 8, 4, 2, 1, 0)
_CRC24C = np.isin(np.arange(24, -1, -1), _CRC24C_POWERS).astype(np.uint8)
"""Coefficients of g_CRC24C(D), the highest power first."""


def crc24c(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 24 parity bits of `bits` [A]: their remainder modulo g_CRC24C, the highest power first."""
    divided = np.concatenate([bits, np.zeros(CRC24C_BITS, np.uint8)]).astype(np.uint8)
    for place in range(len(bits)):
        if divided[place]:
            divided[place : place + CRC24C_BITS + 1] ^= _CRC24C
    return divided[len(bits) :]


def passes_crc24c(bits: npt.NDArray[np.uint8]) -> bool:
    """Whether the last 24 of `bits` are the parity bits of those before."""
    return bool(np.array_equal(crc24c(bits[:-CRC24C_BITS]), bits[-CRC24C_BITS:]))
