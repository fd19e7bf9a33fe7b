"""CSI reference signals as pilots (38.211 clause 7.4.1.5): NZP-CSI-RS and the tracking signals made of them (TRS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingest.nr.ofdm import MAX_PRBS, PRB_SUBCARRIERS, SYMBOLS_PER_SLOT, Carrier
from ingest.nr.pilots import PilotGroup
from ingest.nr.sequences import gold, qpsk
from ingest.nr.signal_config import (
    SLOTS_KEPT,
    kept_group,
    require,
    require_inside,
    require_one_of,
    require_range,
    require_slot,
)

_PERIODS = (4, 5, 8, 10, 16, 20, 32, 40, 64, 80, 160, 320, 640)
"""In slots (38.331, CSI-ResourcePeriodicityAndOffset)."""

_FRAMES = 1024
_TRS_DISTANCE = 4
"""Symbols between the two of a TRS in a slot (38.214 clause 5.1.6.1.1)."""

_COVERS_TD = {
    1: np.array([[1]]),
    2: np.array([[1, 1], [1, -1]]),
    4: np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]),
}
"""w_t by length, in the order of the index pairs of tables 7.4.1.5.3-2 to -5; w_f alternates faster."""


class _Row(NamedTuple):
    """A row of table 7.4.1.5.3-1.

    fd, td: a CDM group's size in frequency and time. k_count: number of k_i. times: (which l_i, symbols later) in the
    order of CDM groups. shifts: added to k_i: further CDM groups, but in row 1 further places of the only one. halves:
    whether density 0.5 is possible.
    """

    fd: int
    td: int
    k_count: int
    times: tuple[tuple[int, int], ...] = ((0, 0),)
    shifts: tuple[int, ...] = (0,)
    halves: bool = False


_NEXT = ((0, 0), (0, 1))
_TWO = ((0, 0), (1, 0))
_TWO_NEXT = ((0, 0), (0, 1), (1, 0), (1, 1))
_ROWS = {
    1: _Row(1, 1, 1, shifts=(0, 4, 8)),
    2: _Row(1, 1, 1, halves=True),
    3: _Row(2, 1, 1, halves=True),
    4: _Row(2, 1, 1, shifts=(0, 2)),
    5: _Row(2, 1, 1, _NEXT),
    6: _Row(2, 1, 4),
    7: _Row(2, 1, 2, _NEXT),
    8: _Row(2, 2, 2),
    9: _Row(2, 1, 6),
    10: _Row(2, 2, 3),
    11: _Row(2, 1, 4, _NEXT, halves=True),
    12: _Row(2, 2, 4, halves=True),
    13: _Row(2, 1, 3, _TWO_NEXT, halves=True),
    14: _Row(2, 2, 3, _TWO, halves=True),
    15: _Row(2, 4, 3, halves=True),
    16: _Row(2, 1, 4, _TWO_NEXT, halves=True),
    17: _Row(2, 2, 4, _TWO, halves=True),
    18: _Row(2, 4, 4, halves=True),
}
_BITMAPS = {1: (4, 1), 2: (12, 1), 4: (3, 4)}
"""Length of the bitmap, and what a bit's number is multiplied by, for the rows that differ from (6, 2)."""


@dataclass(frozen=True, kw_only=True)
class CsiRs:
    """An NZP-CSI-RS resource.

    row: of table 7.4.1.5.3-1, which says ports and CDM type. frequency_bits: frequencyDomainAllocation, the highest bit
    first: 4 in row 1, 12 in row 2, 3 in row 4, else 6. l_0, l_1: firstOFDMSymbolInTimeDomain and ...2 (rows 13, 14, 16
    and 17 only). density: 0.5, 1 or 3; with 0.5 on even common resource blocks, or those with odd_blocks. first_crb,
    crb_count: the common resource blocks; by default those of the carrier. n_id: scramblingID. Without period_slots it
    is sent in every slot asked for.
    """

    row: int = 1
    frequency_bits: str = "0001"
    l_0: int = 4
    l_1: int | None = None
    density: float = 3.0
    odd_blocks: bool = False
    first_crb: int | None = None
    crb_count: int = 0
    n_id: int = 0
    period_slots: int | None = None
    offset_slots: int = 0

    def __post_init__(self) -> None:
        require_one_of("row", self.row, tuple(_ROWS))
        row = _ROWS[self.row]
        length, _ = self._bitmap
        require(
            len(self.frequency_bits) == length and set(self.frequency_bits) <= {"0", "1"},
            f"frequency_bits is {self.frequency_bits!r}, row {self.row} takes {length} bits",
        )
        require(
            self.frequency_bits.count("1") == row.k_count,
            f"frequency_bits is {self.frequency_bits!r}, row {self.row} takes {row.k_count} set bits",
        )
        densities = (3.0,) if self.row == 1 else (0.5, 1.0) if row.halves else (1.0,)
        require_one_of("density", self.density, densities)
        require_range("l_0", self.l_0, 0, SYMBOLS_PER_SLOT - 1)
        require((self.l_1 is not None) == any(which for which, _ in row.times), "l_1 is for rows 13, 14, 16 and 17")
        if self.l_1 is not None:
            require_range("l_1", self.l_1, 2, 12)
            require(abs(self.l_1 - self.l_0) >= 2, "l_0 and l_1 must be two symbols apart")
        require(
            max(self.symbols) < SYMBOLS_PER_SLOT, f"row {self.row} from symbol {max(self._firsts)} on leaves the slot"
        )
        require_range("first_crb", self.first_crb or 0, 0, 2199)
        require_range("crb_count", self.crb_count, 0, MAX_PRBS + 1)
        require_range("n_id", self.n_id, 0, 1023)
        if self.period_slots is not None:
            require_one_of("period_slots", self.period_slots, _PERIODS)
        require_range("offset_slots", self.offset_slots, 0, (self.period_slots or 1) - 1)

    @property
    def port_count(self) -> int:
        row = _ROWS[self.row]
        separate = 1 if self.row == 1 else len(row.shifts)
        return row.fd * row.td * row.k_count * len(row.times) * separate

    @property
    def symbols(self) -> tuple[int, ...]:
        """Every symbol that the resource lies on."""
        row = _ROWS[self.row]
        return tuple(sorted({first + late for first in self._firsts for late in range(row.td)}))

    @property
    def _bitmap(self) -> tuple[int, int]:
        return _BITMAPS.get(self.row, (6, 2))

    @property
    def _firsts(self) -> list[int]:
        """l-bar of each of the row's times."""
        return [(self.l_1 or 0 if which else self.l_0) + late for which, late in _ROWS[self.row].times]

    @property
    def _k(self) -> list[int]:
        """k_0, k_1, ...: what the bits that are set stand for, the lowest first."""
        _, factor = self._bitmap
        return [factor * bit for bit, value in enumerate(reversed(self.frequency_bits)) if value == "1"]

    def pilots(self, carrier: Carrier, slot_in_frame: int, frame: int = 0) -> tuple[PilotGroup, ...]:
        """The CSI-RS of a slot, none in slots where it is not sent: a group per CDM group.

        frame: system frame number, needed for periods above a frame. Ports count from 3000; values have unit magnitude.
        Groups are kept and shared. Raises ValueError where the resource does not lie in the carrier.
        """
        require_slot(carrier, slot_in_frame)
        if not _is_sent(carrier, slot_in_frame, frame, self.period_slots, self.offset_slots):
            return ()
        return _csi_rs(self, carrier, slot_in_frame)

    def _blocks(self, carrier: Carrier) -> npt.NDArray[np.int64]:
        """The common resource blocks that carry it."""
        first = carrier.first_crb if self.first_crb is None else self.first_crb
        end = first + self.crb_count if self.crb_count else carrier.first_crb + carrier.prbs
        blocks = np.arange(first, end)
        if self.density == 0.5:
            blocks = blocks[blocks % 2 == self.odd_blocks]
        require(len(blocks) > 0, "the resource has no resource block in the carrier")
        return blocks


def _is_sent(carrier: Carrier, slot: int, frame: int, period_slots: int | None, offset_slots: int) -> bool:
    require_range("frame", frame, 0, _FRAMES - 1)
    return period_slots is None or (carrier.slots_per_frame * frame + slot - offset_slots) % period_slots == 0


@lru_cache(maxsize=SLOTS_KEPT)
def _csi_rs(config: CsiRs, carrier: Carrier, slot: int) -> tuple[PilotGroup, ...]:
    row = _ROWS[config.row]
    k = config._k
    if config.row == 1:
        places = [([k[0] + shift for shift in row.shifts], config.l_0)]
    else:
        places = [([low + shift], first) for first in config._firsts for low in k for shift in row.shifts]
    return tuple(_cdm_group(config, carrier, slot, j, lows, first) for j, (lows, first) in enumerate(places))


def _cdm_group(
    config: CsiRs, carrier: Carrier, slot: int, j: int, lows: Sequence[int], first_symbol: int
) -> PilotGroup:
    """CDM group j: w_f(k') w_t(l') r(m') with m' = floor(n alpha) + k' + floor(k-bar rho / 12).

    lows: k-bar of its places. n counts common resource blocks from CRB 0.
    """
    row = _ROWS[config.row]
    blocks = config._blocks(carrier)
    alpha = config.density if config.port_count == 1 else 2 * config.density
    in_block = [(low, k_prime) for low in lows for k_prime in range(row.fd)]
    index_in_block = np.array([k_prime + int(low * config.density) // PRB_SUBCARRIERS for low, k_prime in in_block])
    indices = ((blocks * alpha).astype(np.int64)[:, None] + index_in_block).ravel()
    offsets = np.array([low + k_prime for low, k_prime in in_block])
    subcarriers = ((blocks[:, None] - carrier.first_crb) * PRB_SUBCARRIERS + offsets).ravel()
    require_inside(carrier, subcarriers)
    symbols = range(first_symbol, first_symbol + row.td)
    base = np.stack([_sequence(config.n_id, slot, symbol, indices) for symbol in symbols])
    k_primes = np.tile([k_prime for _, k_prime in in_block], len(blocks))
    covers_fd = (-1) ** np.outer(np.arange(row.fd), k_primes)
    covers = _COVERS_TD[row.td][:, None, :, None] * covers_fd[None, :, None, :]
    size = row.fd * row.td
    return kept_group(range(j * size, (j + 1) * size), symbols, subcarriers, covers.reshape(size, row.td, -1) * base)


def _sequence(n_id: int, slot: int, symbol: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.complex128]:
    """r(m) of clause 7.4.1.5.2 at `indices`, which ascend."""
    c_init = (2**10 * (SYMBOLS_PER_SLOT * slot + symbol + 1) * (2 * n_id + 1) + n_id) % 2**31
    first, last = int(indices.min()), int(indices.max())
    return qpsk(gold(c_init, 2 * (last - first + 1), 2 * first))[indices - first]


@dataclass(frozen=True, kw_only=True)
class TrackingRs:
    """A tracking reference signal (38.214 clause 5.1.6.1.1): row 1 on two symbols of one or two slots in a row.

    l_0: the first of the symbols, the other comes four later. slot_count: 1 or 2, the first at offset_slots. The rest
    as for `CsiRs`.
    """

    frequency_bits: str = "0001"
    l_0: int = 4
    first_crb: int | None = None
    crb_count: int = 0
    n_id: int = 0
    slot_count: int = 2
    period_slots: int | None = None
    offset_slots: int = 0

    def __post_init__(self) -> None:
        require_one_of("slot_count", self.slot_count, (1, 2))
        require_range("l_0", self.l_0, 0, SYMBOLS_PER_SLOT - 1 - _TRS_DISTANCE)
        if self.period_slots is not None:
            require_one_of("period_slots", self.period_slots, _PERIODS)
        require_range("offset_slots", self.offset_slots, 0, (self.period_slots or 1) - 1)
        self._on(self.l_0)

    def _on(self, symbol: int) -> CsiRs:
        return CsiRs(
            frequency_bits=self.frequency_bits,
            l_0=symbol,
            first_crb=self.first_crb,
            crb_count=self.crb_count,
            n_id=self.n_id,
        )

    def pilots(self, carrier: Carrier, slot_in_frame: int, frame: int = 0) -> tuple[PilotGroup, ...]:
        """The TRS of a slot as one group of one port on two symbols; none where it is not sent. As `CsiRs.pilots`."""
        require_slot(carrier, slot_in_frame)
        late_slots = range(self.slot_count)
        if not any(
            _is_sent(carrier, slot_in_frame, frame, self.period_slots, self.offset_slots + late) for late in late_slots
        ):
            return ()
        return _trs(self, carrier, slot_in_frame)


@lru_cache(maxsize=SLOTS_KEPT)
def _trs(config: TrackingRs, carrier: Carrier, slot: int) -> tuple[PilotGroup, ...]:
    symbols = (config.l_0, config.l_0 + _TRS_DISTANCE)
    parts = [config._on(symbol).pilots(carrier, slot)[0] for symbol in symbols]
    values = np.concatenate([part.values for part in parts], axis=1)
    return (kept_group((0,), symbols, parts[0].subcarriers, values),)
