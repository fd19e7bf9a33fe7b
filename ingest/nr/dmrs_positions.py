"""On which symbols the DMRS of PUSCH and PDSCH lie (38.211 clauses 6.4.1.1.3 and 7.4.1.1.2).

Mapping type A counts symbols from the slot's start and its duration reaches from there to the allocation's end; type B
counts both from the allocation's start. Each table holds, by number of additional positions, what comes besides the
first position l_0: from which duration on, where.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ingest.nr.signal_config import require

Mapping = Literal["A", "B"]
Channel = Literal["PUSCH", "PDSCH"]


class _Table(NamedTuple):
    """durations: the shortest and the longest of the table. additional: by number of additional positions, then from
    the shortest duration on that has them."""

    durations: tuple[int, int]
    additional: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]


_SINGLE_A = (
    (),
    ((8, (7,)), (10, (9,)), (13, (11,))),
    ((8, (7,)), (10, (6, 9)), (13, (7, 11))),
    ((8, (7,)), (10, (6, 9)), (12, (5, 8, 11))),
)
_DOUBLE_A = ((), ((10, (8,)), (13, (10,))))
_SINGLE_B_PUSCH = (
    (),
    ((5, (4,)), (8, (6,)), (10, (8,)), (12, (10,))),
    ((5, (4,)), (8, (3, 6)), (10, (4, 8)), (12, (5, 10))),
    ((5, (4,)), (8, (3, 6)), (10, (3, 6, 9))),
)
_SINGLE_B_PDSCH = (
    (),
    ((5, (4,)), (8, (6,)), (9, (7,)), (11, (8,)), (12, (9,))),
    ((5, (4,)), (8, (3, 6)), (9, (4, 7)), (11, (4, 8)), (12, (5, 9))),
    ((5, (4,)), (8, (3, 6)), (9, (4, 7)), (11, (3, 6, 9))),
)

_TABLES: dict[tuple[Channel, Mapping, int], _Table] = {
    # Tables 6.4.1.1.3-3 and -4.
    ("PUSCH", "A", 1): _Table((4, 14), _SINGLE_A),
    ("PUSCH", "A", 2): _Table((4, 14), _DOUBLE_A),
    ("PUSCH", "B", 1): _Table((1, 14), _SINGLE_B_PUSCH),
    ("PUSCH", "B", 2): _Table((5, 14), ((), ((8, (5,)), (10, (7,)), (12, (9,))))),
    # Tables 7.4.1.1.2-3 and -4.
    ("PDSCH", "A", 1): _Table((3, 14), _SINGLE_A),
    ("PDSCH", "A", 2): _Table((4, 14), _DOUBLE_A),
    ("PDSCH", "B", 1): _Table((2, 13), _SINGLE_B_PDSCH),
    ("PDSCH", "B", 2): _Table((5, 13), ((), ((8, (5,)), (10, (7,)), (12, (8,))))),
}


def positions(
    channel: Channel, mapping: Mapping, length: int, duration: int, additional: int, l_0: int
) -> tuple[int, ...]:
    """l-bar of each DMRS position: its (first) symbol, counted as the module says.

    length: 1 or 2 symbols. duration: l_d. additional: number of additional positions asked for, of which short
    durations have fewer. Raises ValueError where the tables have no entry.
    """
    table = _TABLES[channel, mapping, length]
    require(
        additional < len(table.additional),
        f"DMRS of {length} symbols have at most {len(table.additional) - 1} additional positions",
    )
    low, high = table.durations
    require(
        low <= duration <= high,
        f"{channel} of type {mapping} with DMRS of {length} symbols lasts {low} to {high} symbols, not {duration}",
    )
    later: tuple[int, ...] = ()
    for least, places in table.additional[additional]:
        if duration >= least:
            later = places
    return (l_0, *later)


def hop_positions(mapping: Mapping, hop: int, duration: int, additional: int, l_0: int) -> tuple[int, ...]:
    """l-bar of the single-symbol DMRS in hop 0 or 1 of a PUSCH that hops within the slot (table 6.4.1.1.3-6).

    Counted from the hop's start; duration is the hop's. l_0: of the slot's first position. Raises ValueError.
    """
    low = 4 if mapping == "A" else 1
    require(low <= duration <= 7, f"a hop of type {mapping} lasts {low} to 7 symbols, not {duration}")
    first = l_0 if hop == 0 else 0
    last = first + 4
    # With one more four symbols on, where the hop is long enough for that.
    return (first, last) if additional and last < duration else (first,)
