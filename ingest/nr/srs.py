"""Sounding reference signals as pilots (38.211 clause 6.4.1.4), normal cyclic prefix.

Not here: positioning (its comb offsets by symbol), partial frequency sounding, eight ports, and hopping of combs and
cyclic shifts (releases 16 to 18).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ingest.nr.low_papr import GROUPS, HOPPINGS, Hopping, cyclic_shift, hop, low_papr
from ingest.nr.ofdm import PRB_SUBCARRIERS, SYMBOLS_PER_SLOT, Carrier
from ingest.nr.pilots import PilotGroup
from ingest.nr.signal_config import (
    SLOTS_KEPT,
    kept_group,
    require,
    require_inside,
    require_one_of,
    require_range,
    require_slot,
)
from ingest.nr.srs_bandwidths import BANDWIDTHS

_SHIFTS = {2: 8, 4: 12, 8: 6}
"""n_SRS^cs,max by comb (table 6.4.1.4.2-1)."""

_PERIODS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 64, 80, 160, 320, 640, 1280, 2560)
"""In slots (38.331, SRS-PeriodicityAndOffset)."""

_FRAMES = 1024


@dataclass(frozen=True, kw_only=True)
class Srs:
    """A sounding resource; names are those of 38.211 where they are not its own words.

    port_count: 1, 2 or 4. start_symbol: l_0 (13 - startPosition of 38.331). comb: K_TC. b_hop: hopping happens where it
    is below b_srs. repetition: R. n_id: n_ID^SRS. period_slots, offset_slots: T_SRS and T_offset; without a period (an
    aperiodic resource) it is sent in every slot asked for. bwp_start_crb: N_BWP^start, which the resource counts from
    unless n_shift reaches it; then from CRB 0.
    """

    c_srs: int = 0
    b_srs: int = 0
    b_hop: int = 3
    n_rrc: int = 0
    n_shift: int = 0
    bwp_start_crb: int = 0
    port_count: int = 1
    symbol_count: int = 1
    start_symbol: int = 13
    repetition: int = 1
    comb: int = 2
    comb_offset: int = 0
    cyclic_shift: int = 0
    n_id: int = 0
    hopping: Hopping = "neither"
    period_slots: int | None = None
    offset_slots: int = 0

    def __post_init__(self) -> None:
        require_range("c_srs", self.c_srs, 0, len(BANDWIDTHS) - 1)
        require_range("b_srs", self.b_srs, 0, 3)
        require_range("b_hop", self.b_hop, 0, 3)
        require_range("n_rrc", self.n_rrc, 0, 67)
        require_range("n_shift", self.n_shift, 0, 268)
        require_range("bwp_start_crb", self.bwp_start_crb, 0, 2199)
        require_one_of("port_count", self.port_count, (1, 2, 4))
        require_one_of("symbol_count", self.symbol_count, (1, 2, 4, 8, 10, 12, 14))
        require_range("start_symbol", self.start_symbol, 0, SYMBOLS_PER_SLOT - self.symbol_count)
        require(
            1 <= self.repetition <= self.symbol_count and self.symbol_count % self.repetition == 0,
            f"repetition is {self.repetition}, must divide the {self.symbol_count} symbols",
        )
        require_one_of("comb", self.comb, tuple(_SHIFTS))
        require_range("comb_offset", self.comb_offset, 0, self.comb - 1)
        require_range("cyclic_shift", self.cyclic_shift, 0, _SHIFTS[self.comb] - 1)
        require_range("n_id", self.n_id, 0, 2**16 - 1)
        require_one_of("hopping", self.hopping, HOPPINGS)
        if self.period_slots is not None:
            require_one_of("period_slots", self.period_slots, _PERIODS)
        require_range("offset_slots", self.offset_slots, 0, (self.period_slots or 1) - 1)

    @property
    def length(self) -> int:
        """M_sc,b^SRS: resource elements per symbol and port."""
        return BANDWIDTHS[self.c_srs][self.b_srs] * PRB_SUBCARRIERS // self.comb

    def pilots(self, carrier: Carrier, slot_in_frame: int, frame: int = 0) -> tuple[PilotGroup, ...]:
        """The SRS of a slot, none in slots where it is not sent: a group per comb and frequency position.

        frame: system frame number, needed for periods above a frame and for hopping. Values have unit magnitude: the
        power that the text shares between ports (1 / sqrt(N_ap)) is the channel's. Groups are kept and shared. Raises
        ValueError where the resource does not lie in the carrier.
        """
        require_slot(carrier, slot_in_frame)
        require_range("frame", frame, 0, _FRAMES - 1)
        earlier = 0
        if self.period_slots is not None:
            since = carrier.slots_per_frame * frame + slot_in_frame - self.offset_slots
            if since % self.period_slots:
                return ()
            # The frequency positions come back after so many, which keeps few slots in the cache.
            earlier = since // self.period_slots * (self.symbol_count // self.repetition) % self._hop_positions
        return _pilots(self, carrier, slot_in_frame if self.hopping != "neither" else 0, earlier)

    @property
    def _hop_positions(self) -> int:
        """Number of frequency positions that hopping goes through."""
        row = BANDWIDTHS[self.c_srs]
        return row[self.b_hop] // row[self.b_srs] if self.b_hop < self.b_srs else 1

    def _first_subcarrier(self, n_srs: int) -> int:
        """k_0 of comb offset 0 in the n_srs-th sounding, from the carrier's CRB 0 on (clause 6.4.1.4.3)."""
        row = BANDWIDTHS[self.c_srs]
        start = self.n_shift + (0 if self.bwp_start_crb <= self.n_shift else self.bwp_start_crb)
        before = 1
        for b in range(1, self.b_srs + 1):
            parts = row[b - 1] // row[b]
            position = 4 * self.n_rrc // row[b]
            if b > self.b_hop:
                position += _hop_offset(n_srs, parts, before)
                before *= parts
            start += row[b] * (position % parts)
        return start * PRB_SUBCARRIERS

    def _port_comb(self, port: int) -> int:
        """k_TC of a port: with four ports and few free shifts, the odd ones go half a comb further."""
        shifts = _SHIFTS[self.comb]
        moved = self.port_count == 4 and port % 2 == 1 and (shifts == 6 or self.cyclic_shift >= shifts // 2)
        return (self.comb_offset + (self.comb // 2 if moved else 0)) % self.comb

    def _port_shift(self, port: int) -> int:
        """n_SRS^cs,i (clause 6.4.1.4.2)."""
        shifts = _SHIFTS[self.comb]
        if self.port_count == 4 and shifts == 6:
            return (self.cyclic_shift + shifts // 2 * (port // 2)) % shifts
        return (self.cyclic_shift + shifts * port // self.port_count) % shifts


def _hop_offset(n_srs: int, parts: int, before: int) -> int:
    """F_b(n_SRS) for N_b = parts, where `before` is the product of the N_b of the hopping levels above."""
    if parts % 2:
        return parts // 2 * (n_srs // before)
    rest = n_srs % (before * parts)
    return parts // 2 * (rest // before) + rest // (2 * before)


@lru_cache(maxsize=SLOTS_KEPT)
def _pilots(config: Srs, carrier: Carrier, slot: int, earlier: int) -> tuple[PilotGroup, ...]:
    """earlier: n_SRS of the slot's first symbol."""
    by_start: dict[int, list[int]] = {}
    for late in range(config.symbol_count):
        by_start.setdefault(config._first_subcarrier(earlier + late // config.repetition), []).append(late)
    by_comb: dict[int, list[int]] = {}
    for port in range(config.port_count):
        by_comb.setdefault(config._port_comb(port), []).append(port)
    sequences = [_sequence(config, slot, config.start_symbol + late) for late in range(config.symbol_count)]
    codes = [cyclic_shift(config._port_shift(p), _SHIFTS[config.comb], config.length) for p in range(config.port_count)]
    groups = []
    for start, lates in by_start.items():
        for comb_offset, ports in by_comb.items():
            first = start + comb_offset - carrier.first_crb * PRB_SUBCARRIERS
            subcarriers = first + config.comb * np.arange(config.length)
            require_inside(carrier, subcarriers)
            values = np.stack([codes[port] * np.stack([sequences[late] for late in lates]) for port in ports])
            groups.append(kept_group(ports, [config.start_symbol + late for late in lates], subcarriers, values))
    return tuple(groups)


def _sequence(config: Srs, slot: int, symbol: int) -> npt.NDArray[np.complex128]:
    f_gh, v = hop(config.hopping, slot, symbol, config.length, config.n_id)
    return low_papr((f_gh + config.n_id) % GROUPS, v, config.length)
