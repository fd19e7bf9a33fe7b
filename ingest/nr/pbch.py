"""The PBCH: from a block's resource elements to the master information block, proved by its CRC.

Channel from SSS and DMRS by LMMSE, maximum-ratio combining, descrambling, polar decoding, payload (38.211 clause
7.3.3, 38.212 clause 7.1, 38.331 clause 6.2.2). L_max is the number of SSBs a half frame may have: it decides what is
scrambled how, and a wrong one fails the CRC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ingest.nr import polar
from ingest.nr.crc import crc24c
from ingest.nr.numerology import SSB_SUBCARRIERS
from ingest.nr.sequences import gold, qpsk
from ingest.nr.ssb_grid import channel

PAYLOAD_BITS = 32

_PLACES = np.array(
    [
        *(16, 23, 18, 17, 8, 30, 10, 6, 24, 7),  # frame number
        *(0, 5, 3, 2),  # half frame, SSB
        *(1, 4, 9, 11, 12, 13, 14, 15, 19, 20, 21, 22, 25, 26, 27, 28, 29, 31),
    ]
)
"""G(j) of 38.212 table 7.1.1-1: ten bits of the frame number, the half frame, three of the SSB, then the others."""
_SFN, _HALF_FRAME, _SSB_BITS, _OTHER = slice(0, 10), 10, slice(11, 14), slice(14, 32)


@dataclass(frozen=True)
class Mib:
    """What a PBCH says (38.331 `MIB`, 38.212 clause 7.1.1).

    sfn: frame number 0 to 1023 of the frame that the block lies in; half_frame 0 or 1 in it. scs_common_hz: of SIB1's
    PDCCH and PDSCH. k_ssb: subcarriers from common resource block grid to the block's subcarrier 0 (with its fifth bit
    where L_max < 64). dmrs_type_a_position: symbol 2 or 3. ssb_index_high: bits 3 to 5 of the SSB index where L_max =
    64, else None. message [56]: the decoded bits, CRC included.
    """

    sfn: int
    half_frame: int
    scs_common_hz: float
    k_ssb: int
    dmrs_type_a_position: int
    pdcch_config_sib1: int
    cell_barred: bool
    intra_freq_reselection: bool
    ssb_index_high: int | None
    message: npt.NDArray[np.uint8]


@cache
def data_places(shift: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Symbols and subcarriers of the PBCH's 432 data elements in the order of their mapping; shift = PCI mod 4."""
    symbols, subcarriers = [], []
    for symbol in (1, 2, 3):
        for subcarrier in range(SSB_SUBCARRIERS):
            outside = symbol != 2 or not 48 <= subcarrier < 192
            if outside and subcarrier % 4 != shift:
                symbols.append(symbol)
                subcarriers.append(subcarrier)
    return np.array(symbols), np.array(subcarriers)


def soft_bits(
    grid: npt.NDArray[np.complexfloating],
    pci: int,
    index_bar: int,
    noise_power: float,
    snr_db: float,
    *,
    short: bool = False,
) -> npt.NDArray[np.float64]:
    """Log-likelihood ratios [864] of the scrambled bits, positive for 0. grid [A, 4, 240] with noise_power an element.

    Antennas are combined by maximum ratio; what the channel estimate may err counts as noise. short: see `channel`.
    """
    estimate, error = channel(grid, pci, index_bar, snr_db, short=short)
    power = float(np.mean(np.abs(estimate) ** 2))
    symbols, places = data_places(pci % 4)
    combined = np.sum(grid[:, symbols, places] * estimate[:, places].conj(), axis=0)
    combined = combined * (2 * np.sqrt(2) / max(noise_power + error * power, 1e-30))
    return np.stack([combined.real, combined.imag], axis=1).ravel().astype(np.float64)


def decode(soft: npt.NDArray[np.float64], pci: int, ssb_index: int, l_max: int) -> Mib | None:
    """The MIB behind `soft_bits`; None where the CRC fails. ssb_index: its three lowest bits do."""
    message = polar.decode(soft * (1.0 - 2.0 * _scrambling(pci, ssb_index, l_max)))
    return None if message is None else _read(message, pci, l_max)


def elements(message: npt.NDArray[np.uint8], pci: int, ssb_index: int, l_max: int) -> npt.NDArray[np.complex128]:
    """What the block's data elements carry for `message` [56]. Shape [432], in the order of `data_places`."""
    return qpsk((polar.encode(message) ^ _scrambling(pci, ssb_index, l_max)).astype(np.int8))


def _scrambling(pci: int, ssb_index: int, l_max: int) -> npt.NDArray[np.uint8]:
    """38.211 clause 7.3.3.1: the block's part of one long sequence. Shape [864]."""
    part = ssb_index % (4 if l_max == 4 else 8)
    bits = polar.RATE_MATCHED_BITS
    return gold(pci, (part + 1) * bits)[part * bits :].astype(np.uint8)


def _payload_scrambling(message: npt.NDArray[np.uint8], pci: int, l_max: int) -> npt.NDArray[np.uint8]:
    """38.212 clause 7.1.2. Shape [32]; zero at the bits that must be read before the frame number is known."""
    third, second = message[_PLACES[7]], message[_PLACES[8]]
    open_bits = [_PLACES[7], _PLACES[8], _PLACES[_HALF_FRAME]]
    if l_max == 64:
        open_bits += list(_PLACES[_SSB_BITS])
    length = PAYLOAD_BITS - len(open_bits)
    part = 2 * int(third) + int(second)
    scrambled = np.ones(PAYLOAD_BITS, np.bool_)
    scrambled[open_bits] = False
    found = np.zeros(PAYLOAD_BITS, np.uint8)
    found[scrambled] = gold(pci, (part + 1) * length)[part * length :]
    return found


def _number(bits: npt.NDArray[np.uint8]) -> int:
    return int("".join(map(str, bits.tolist())), 2)


def _read(message: npt.NDArray[np.uint8], pci: int, l_max: int) -> Mib:
    payload = message[:PAYLOAD_BITS] ^ _payload_scrambling(message, pci, l_max)
    other, extra = payload[_PLACES[_OTHER]], payload[_PLACES[_SSB_BITS]]
    # `other`: choice (0), spacing (1), offset (2-5), Type A position (6), SIB1's PDCCH (7-14), barred, reselection.
    wide = l_max == 64
    return Mib(
        sfn=_number(payload[_PLACES[_SFN]]),
        half_frame=int(payload[_PLACES[_HALF_FRAME]]),
        scs_common_hz=(60e3 if wide else 15e3) * (2 if other[1] else 1),
        k_ssb=_number(other[2:6]) + (0 if wide else 16 * int(extra[0])),
        dmrs_type_a_position=3 if other[6] else 2,
        pdcch_config_sib1=_number(other[7:15]),
        cell_barred=not other[15],
        intra_freq_reselection=not other[16],
        ssb_index_high=_number(extra) if wide else None,
        message=message,
    )


def with_crc(payload: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A scrambled payload [32] as the message [56] that is encoded."""
    return np.concatenate([payload, crc24c(payload)])


def message(
    pci: int,
    l_max: int,
    *,
    sfn: int,
    half_frame: int = 0,
    scs_common_hz: float = 30e3,
    k_ssb: int = 0,
    dmrs_type_a_position: int = 2,
    pdcch_config_sib1: int = 0,
    cell_barred: bool = False,
    intra_freq_reselection: bool = True,
    ssb_index_high: int = 0,
) -> npt.NDArray[np.uint8]:
    """The bits [56] that a cell encodes to say this, as `Mib` names it; `elements` puts them on resource elements."""
    wide = l_max == 64
    payload = np.zeros(PAYLOAD_BITS, np.uint8)
    payload[_PLACES[_SFN]] = _bits(sfn, 10)
    payload[_PLACES[_HALF_FRAME]] = half_frame
    payload[_PLACES[_SSB_BITS]] = _bits(ssb_index_high if wide else k_ssb // 16 << 2, 3)
    other = [0, scs_common_hz in (30e3, 120e3), *_bits(k_ssb % 16, 4), dmrs_type_a_position == 3]
    other += [*_bits(pdcch_config_sib1, 8), not cell_barred, not intra_freq_reselection, 0]
    payload[_PLACES[_OTHER]] = other
    return with_crc(payload ^ _payload_scrambling(payload, pci, l_max))


def _bits(number: int, count: int) -> list[int]:
    """The most significant first."""
    return [number >> (count - 1 - place) & 1 for place in range(count)]
