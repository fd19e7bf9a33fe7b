"""DMRS of PUSCH and PDSCH as pilots (38.211 clauses 6.4.1.1 and 7.4.1.1), normal cyclic prefix.

Not here: low-PAPR sequences of type 2 (pi/2-BPSK), DMRS of type 1 and 2 enhanced in release 18, and a PDSCH of type B
whose DMRS give way to a CORESET.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingest.nr.dmrs_positions import Channel, Mapping, hop_positions, positions
from ingest.nr.low_papr import GROUPS, HOPPINGS, Hopping, hop, low_papr
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

_OFFSETS = {1: np.array([0, 2, 4, 6, 8, 10]), 2: np.array([0, 1, 6, 7])}
"""Subcarriers of CDM group 0 in a PRB by configuration type: 4n + 2k' and 6n + k' of clause 6.4.1.1.3."""

_CDM_GROUPS = {1: 2, 2: 3}
_GROUP_SHIFT = {1: 1, 2: 2}
"""Delta of a CDM group is the group's number times this (tables 6.4.1.1.3-1 and -2)."""


class _Hop(NamedTuple):
    """Part of the allocation that stays on its PRBs. symbols: first symbol of each DMRS position, in the slot."""

    symbols: tuple[int, ...]
    prbs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _SharedChannelDmrs(ABC):
    """What DMRS of both channels are told.

    prbs: the occupied PRBs of the carrier's grid; where empty, prb_count of them from first_prb on (0: all above it).
    slots: slots of the frame that the channel is sent in; empty: all. config_type: 1 or 2. length: 1 or 2 symbols per
    position. ports: relative to 0 (PUSCH) or 1000 (PDSCH). n_id: N_ID^0 and N_ID^1. groups_without_data: if given, DMRS
    are scaled as 38.214 tables 4.1-1 and 6.2.2-1 say; of unit magnitude otherwise. release16: `dmrs-Uplink` or
    `dmrs-Downlink`: sequences differ between CDM groups.
    """

    first_prb: int = 0
    prb_count: int = 0
    prbs: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    mapping: Mapping = "A"
    start_symbol: int = 0
    symbol_count: int = 14
    config_type: int = 1
    length: int = 1
    additional_positions: int = 0
    type_a_position: int = 2
    ports: tuple[int, ...] = (0,)
    n_id: tuple[int, int] = (0, 0)
    n_scid: int = 0
    groups_without_data: int | None = None
    release16: bool = False

    def __post_init__(self) -> None:
        require_one_of("mapping", self.mapping, ("A", "B"))
        require_one_of("config_type", self.config_type, (1, 2))
        require_one_of("length", self.length, (1, 2))
        require_one_of("type_a_position", self.type_a_position, (2, 3))
        require_one_of("n_scid", self.n_scid, (0, 1))
        require_range("additional_positions", self.additional_positions, 0, 3)
        require_range("start_symbol", self.start_symbol, 0, SYMBOLS_PER_SLOT - 1)
        require_range("symbol_count", self.symbol_count, 1, SYMBOLS_PER_SLOT - self.start_symbol)
        require(len(self.n_id) == 2, "n_id takes two identities, N_ID^0 and N_ID^1")
        for identity in self.n_id:
            require_range("n_id", identity, 0, 2**16 - 1)
        require(all(slot >= 0 for slot in self.slots), "slots must be numbered from 0")
        require(
            self.mapping == "B" or self.additional_positions < 3 or self.type_a_position == 2,
            "three additional positions need type_a_position 2",
        )
        self._require_prbs()
        self._require_ports()
        for first, last in self._spans:
            require(
                self.start_symbol <= first and last < self.start_symbol + self.symbol_count,
                f"DMRS on symbols {first} to {last} do not fit in the allocation",
            )

    def _require_prbs(self) -> None:
        require_range("first_prb", self.first_prb, 0, MAX_PRBS - 1)
        require_range("prb_count", self.prb_count, 0, MAX_PRBS)
        require(
            not (self.prbs and (self.first_prb or self.prb_count)), "prbs and first_prb or prb_count exclude another"
        )
        ascending = all(low < high for low, high in zip(self.prbs, self.prbs[1:], strict=False))
        require(ascending and (not self.prbs or self.prbs[0] >= 0), "prbs must be ascending, from 0")

    def _require_ports(self) -> None:
        groups = _CDM_GROUPS[self.config_type]
        limit = 2 * groups * self.length
        require(len(self.ports) > 0, "ports must name at least one port")
        require(len(set(self.ports)) == len(self.ports), "ports must differ")
        require(
            all(0 <= port < limit for port in self.ports),
            f"type {self.config_type} with {self.length} symbols has ports 0 to {limit - 1}, not {self.ports}",
        )
        if self.groups_without_data is not None:
            highest = max(self._cdm_group(port) for port in self.ports)
            require_range("groups_without_data", self.groups_without_data, highest + 1, groups)

    @property
    def _spans(self) -> list[tuple[int, int]]:
        """First and last symbol of each position."""
        return [(first, first + self.length - 1) for part in self._hops(MAX_PRBS) for first in part.symbols]

    def _cdm_group(self, port: int) -> int:
        return port // 2 % _CDM_GROUPS[self.config_type]

    def _positions(self, channel: Channel) -> tuple[int, ...]:
        """First symbols of all DMRS positions, in the slot."""
        if self.mapping == "A":
            duration, l_0, reference = self.start_symbol + self.symbol_count, self.type_a_position, 0
        else:
            duration, l_0, reference = self.symbol_count, 0, self.start_symbol
        places = positions(channel, self.mapping, self.length, duration, self.additional_positions, l_0)
        return tuple(place + reference for place in places)

    def _prbs(self, carrier_prbs: int) -> tuple[int, ...]:
        if self.prbs:
            return self.prbs
        end = self.first_prb + self.prb_count if self.prb_count else carrier_prbs
        return tuple(range(self.first_prb, end))

    @abstractmethod
    def _hops(self, carrier_prbs: int) -> tuple[_Hop, ...]:
        """The allocation's parts, one but for hopping within the slot."""

    @abstractmethod
    def _sequence(
        self, carrier: Carrier, slot: int, symbol: int, first_symbol: int, cdm_group: int, prbs: tuple[int, ...]
    ) -> npt.NDArray[np.complex128]:
        """r on the resource elements of one CDM group and symbol, ascending. first_symbol: of the position."""

    def _pseudo_random(
        self, slot: int, symbol: int, cdm_group: int, crbs: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.complex128]:
        """r of clauses 6.4.1.1.1.1 and 7.4.1.1.1 on `crbs`, counted from where the sequence begins."""
        scid, group = self.n_scid, 0
        if self.release16:
            scid, group = (1 - self.n_scid if cdm_group == 1 else self.n_scid), cdm_group
        n_id = self.n_id[scid]
        c_init = (2**17 * (SYMBOLS_PER_SLOT * slot + symbol + 1) * (2 * n_id + 1) + 2**17 * (group // 2)) % 2**31
        c_init = (c_init + 2 * n_id + scid) % 2**31
        per_prb = len(_OFFSETS[self.config_type])
        first, last = int(crbs[0]), int(crbs[-1])
        bits = gold(c_init, 2 * per_prb * (last - first + 1), 2 * per_prb * first)
        return np.asarray(qpsk(bits).reshape(-1, per_prb)[crbs - first].ravel())

    def pilots(self, carrier: Carrier, slot_in_frame: int, frame: int = 0) -> tuple[PilotGroup, ...]:
        """The DMRS of a slot: a group per CDM group (and hop), none in slots where the channel is not sent.

        They are the same in every frame. Groups are kept and shared. Raises ValueError where the
        allocation does not lie in the carrier.
        """
        return _pilots(self, carrier, slot_in_frame)

    @property
    def _amplitude(self) -> float:
        return float(np.sqrt(self.groups_without_data or 1))


@lru_cache(maxsize=SLOTS_KEPT)
def _pilots(config: _SharedChannelDmrs, carrier: Carrier, slot: int) -> tuple[PilotGroup, ...]:
    require_slot(carrier, slot)
    if config.slots and slot not in config.slots:
        return ()
    by_group: dict[int, list[int]] = {}
    for port in config.ports:
        by_group.setdefault(config._cdm_group(port), []).append(port)
    return tuple(
        _group(config, carrier, slot, part, cdm_group, by_group[cdm_group])
        for part in config._hops(carrier.prbs)
        for cdm_group in sorted(by_group)
    )


def _group(
    config: _SharedChannelDmrs, carrier: Carrier, slot: int, part: _Hop, cdm_group: int, ports: Sequence[int]
) -> PilotGroup:
    """The pilots of one CDM group in one hop: a~ = w_f(k') w_t(l') r(2n + k')."""
    require(len(part.prbs) > 0, f"no PRB of the carrier's {carrier.prbs} is occupied")
    offsets = _OFFSETS[config.config_type] + cdm_group * _GROUP_SHIFT[config.config_type]
    subcarriers = (np.array(part.prbs)[:, None] * PRB_SUBCARRIERS + offsets).ravel()
    require_inside(carrier, subcarriers)
    symbols = [(first, late) for first in part.symbols for late in range(config.length)]
    base = np.stack(
        [config._sequence(carrier, slot, first + late, first, cdm_group, part.prbs) for first, late in symbols]
    )
    in_pair = np.arange(len(subcarriers)) % 2
    in_span = np.array([late for _, late in symbols])
    odd = np.array(ports) % 2
    upper = np.array(ports) // (2 * _CDM_GROUPS[config.config_type])
    signs = 1.0 - 2.0 * (odd[:, None, None] * in_pair ^ upper[:, None, None] * in_span[:, None])
    return kept_group(ports, [first + late for first, late in symbols], subcarriers, config._amplitude * signs * base)


@dataclass(frozen=True, kw_only=True)
class PuschDmrs(_SharedChannelDmrs):
    """DMRS of a PUSCH (38.211 clause 6.4.1.1).

    With transform_precoding they are low-PAPR sequences of identity n_id_rs that hop as `hopping` says, counted from
    the lowest occupied PRB. second_hop_first_prb: lowest PRB of the second half where the PUSCH hops within the slot.
    """

    transform_precoding: bool = False
    n_id_rs: int = 0
    hopping: Hopping = "neither"
    second_hop_first_prb: int | None = None

    def __post_init__(self) -> None:
        require_one_of("hopping", self.hopping, HOPPINGS)
        require_range("n_id_rs", self.n_id_rs, 0, 1007)
        require(self.mapping == "B" or self.start_symbol == 0, "a PUSCH of mapping type A starts at symbol 0")
        contiguous = not self.prbs or self.prbs[-1] - self.prbs[0] + 1 == len(self.prbs)
        if self.transform_precoding:
            require(self.config_type == 1, "transform precoding goes with DMRS of config_type 1")
            require(contiguous, "transform precoding needs contiguous PRBs")
        if self.second_hop_first_prb is not None:
            require(self.length == 1, "a PUSCH that hops within the slot has DMRS of length 1")
            require(self.symbol_count > 1, "a PUSCH that hops within the slot has at least two symbols")
            require_range("second_hop_first_prb", self.second_hop_first_prb, 0, MAX_PRBS - 1)
            require(contiguous, "a PUSCH that hops within the slot has contiguous PRBs")
        super().__post_init__()

    def _hops(self, carrier_prbs: int) -> tuple[_Hop, ...]:
        prbs = self._prbs(carrier_prbs)
        if self.second_hop_first_prb is None:
            return (_Hop(self._positions("PUSCH"), prbs),)
        half = self.symbol_count // 2
        l_0 = self.type_a_position if self.mapping == "A" else 0
        parts = []
        for index, (start, duration) in enumerate([(0, half), (half, self.symbol_count - half)]):
            places = hop_positions(self.mapping, index, duration, self.additional_positions, l_0)
            moved = tuple(range(self.second_hop_first_prb, self.second_hop_first_prb + len(prbs))) if index else prbs
            parts.append(_Hop(tuple(self.start_symbol + start + place for place in places), moved))
        return tuple(parts)

    def _sequence(
        self, carrier: Carrier, slot: int, symbol: int, first_symbol: int, cdm_group: int, prbs: tuple[int, ...]
    ) -> npt.NDArray[np.complex128]:
        if not self.transform_precoding:
            return self._pseudo_random(slot, symbol, cdm_group, np.array(prbs) + carrier.first_crb)
        length = len(prbs) * len(_OFFSETS[1])
        c_init = self.n_id_rs // GROUPS if self.hopping == "group" else self.n_id_rs
        f_gh, v = hop(self.hopping, slot, first_symbol, length, c_init)
        return low_papr((f_gh + self.n_id_rs) % GROUPS, v, length)


@dataclass(frozen=True, kw_only=True)
class PdschDmrs(_SharedChannelDmrs):
    """DMRS of a PDSCH (38.211 clause 7.4.1.1).

    reference_crb: the common resource block that the sequence counts from: 0, but the lowest one of CORESET 0 for a
    PDSCH that carries SIB1. late_l_1: l_1 = 12, where the positions keep clear of LTE's CRS (clause 7.4.1.1.2).
    """

    reference_crb: int = 0
    late_l_1: bool = False

    def __post_init__(self) -> None:
        require(self.reference_crb >= 0, "reference_crb must be a common resource block, from 0")
        require(
            not self.late_l_1
            or (self.mapping, self.length, self.additional_positions, self.type_a_position) == ("A", 1, 1, 3),
            "late_l_1 goes with mapping type A, length 1, one additional position and type_a_position 3",
        )
        super().__post_init__()

    def _hops(self, carrier_prbs: int) -> tuple[_Hop, ...]:
        places = self._positions("PDSCH")
        if self.late_l_1:
            places = tuple(12 if place == 11 else place for place in places)
        return (_Hop(places, self._prbs(carrier_prbs)),)

    def _sequence(
        self, carrier: Carrier, slot: int, symbol: int, first_symbol: int, cdm_group: int, prbs: tuple[int, ...]
    ) -> npt.NDArray[np.complex128]:
        crbs = np.array(prbs) + carrier.first_crb - self.reference_crb
        require(int(crbs[0]) >= 0, f"PRB {prbs[0]} lies below the sequence's reference_crb {self.reference_crb}")
        return self._pseudo_random(slot, symbol, cdm_group, crbs)
