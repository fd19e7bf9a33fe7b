"""The cyclic redundancy check that proves a decoded PBCH (38.212 clause 5.1)."""

from __future__ import annotations

from functools import cache

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


def passes_crc24c(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether the last 24 of `bits` [..., A] are the parity bits of those before. Shape [...]."""
    return np.asarray(~np.any(bits @ _checks(bits.shape[-1]) & 1, axis=-1))


@cache
def _checks(length: int) -> npt.NDArray[np.uint8]:
    """Which parity checks each of `length` bits is in: all are even where parity bits are right. Shape [length, 24]."""
    message = np.array([crc24c(bit) for bit in np.eye(length - CRC24C_BITS, dtype=np.uint8)], np.uint8)
    return np.concatenate([message.reshape(-1, CRC24C_BITS), np.eye(CRC24C_BITS, dtype=np.uint8)])
