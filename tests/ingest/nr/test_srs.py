"""Sounding reference signals: against a literal reading of 38.211 clause 6.4.1.4, and what they are made for."""

from __future__ import annotations

import cmath
from itertools import product
from math import floor, pi, prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.nr.low_papr import low_papr
from ingest.nr.ofdm import Carrier
from ingest.nr.pilots import PilotGroup
from ingest.nr.srs import Srs
from ingest.nr.srs_bandwidths import BANDWIDTHS
from tests.ingest.nr.signals import slow_gold

Complex = npt.NDArray[np.complex128]

CARRIER = Carrier(30e3, 273, 3.5e9)

# Table 6.4.1.4.3-1, four rows a line: m_SRS,0 N_1 N_2 N_3.
TABLE = """
4 1 1 1 | 8 2 1 1 | 12 3 1 1 | 16 4 1 1
16 2 2 1 | 20 5 1 1 | 24 6 1 1 | 24 2 3 1
28 7 1 1 | 32 2 2 2 | 36 3 3 1 | 40 2 5 1
48 3 2 2 | 48 2 2 3 | 52 13 1 1 | 56 2 7 1
60 3 5 1 | 64 2 2 4 | 72 3 2 3 | 72 2 3 3
76 19 1 1 | 80 2 2 5 | 88 2 11 1 | 96 3 2 4
96 2 2 6 | 104 2 13 1 | 112 2 2 7 | 120 2 3 5
120 3 5 2 | 120 5 2 3 | 128 2 2 8 | 128 2 4 4
128 8 2 2 | 132 3 11 1 | 136 2 17 1 | 144 2 2 9
144 3 2 2 | 144 3 3 4 | 144 9 2 2 | 152 2 19 1
160 2 2 10 | 160 2 4 5 | 160 5 2 4 | 168 2 3 7
176 2 2 11 | 184 2 23 1 | 192 2 2 12 | 192 2 4 6
192 3 4 4 | 192 8 3 2 | 208 2 2 13 | 216 2 3 9
224 2 2 14 | 240 2 2 15 | 240 3 4 5 | 240 5 3 2
240 10 2 3 | 256 2 2 16 | 256 2 4 8 | 256 16 2 2
264 2 3 11 | 272 2 2 17 | 272 4 17 1 | 272 17 2 2
"""
ROWS = [tuple(map(int, row.split())) for line in TABLE.strip().splitlines() for row in line.split("|")]


def table(c_srs: int, b: int) -> tuple[int, int]:
    """m_SRS,b and N_b."""
    m_0, *parts = ROWS[c_srs]
    return m_0 // prod(parts[:b]), (1, *parts)[b]


def test_the_bandwidths() -> None:
    assert len(ROWS) == 64
    assert tuple(tuple(table(c, b)[0] for b in range(4)) for c in range(64)) == BANDWIDTHS
    for c in range(64):
        assert all(table(c, b)[0] * table(c, b)[1] == table(c, b - 1)[0] for b in range(1, 4))
        assert all(table(c, b)[0] % 4 == 0 for b in range(4))


def f_b(config: Srs, b: int, n_srs: int) -> int:
    """Clause 6.4.1.4.3: F_b, where N of b_hop counts as 1."""

    def n(level: int) -> int:
        return 1 if level == config.b_hop else table(config.c_srs, level)[1]

    upto = prod(n(level) for level in range(config.b_hop, b + 1))
    below = prod(n(level) for level in range(config.b_hop, b))
    n_b = table(config.c_srs, b)[1]
    if n_b % 2 == 0:
        return n_b // 2 * floor((n_srs % upto) / below) + floor((n_srs % upto) / (2 * below))
    return n_b // 2 * floor(n_srs / below)


def literal_srs(config: Srs, carrier: Carrier, slot: int, frame: int) -> dict[int, Complex]:
    """Clause 6.4.1.4 as written: every port's grid [14, subcarriers]."""
    grids = {port: np.zeros((14, carrier.subcarriers), complex) for port in range(config.port_count)}
    count = carrier.slots_per_frame * frame + slot
    if config.period_slots is not None and (count - config.offset_slots) % config.period_slots:
        return grids
    cs_max = {2: 8, 4: 12, 8: 6}[config.comb]
    m_sc = table(config.c_srs, config.b_srs)[0] * 12 // config.comb
    for port, late in product(range(config.port_count), range(config.symbol_count)):
        p_i = 1000 + port
        if config.port_count == 4 and cs_max == 6:
            cs = (config.cyclic_shift + cs_max * ((p_i - 1000) // 2) // 2) % cs_max
        else:
            cs = (config.cyclic_shift + cs_max * (p_i - 1000) // config.port_count) % cs_max
        k_tc = config.comb_offset
        if config.port_count == 4 and p_i in (1001, 1003) and (cs_max == 6 or config.cyclic_shift >= cs_max / 2):
            k_tc = (config.comb_offset + config.comb // 2) % config.comb
        n_srs = late // config.repetition
        if config.period_slots is not None:
            soundings = (count - config.offset_slots) // config.period_slots
            n_srs += soundings * (config.symbol_count // config.repetition)
        k_0 = config.n_shift * 12 + k_tc % config.comb
        for b in range(config.b_srs + 1):
            m_b, n_b = table(config.c_srs, b)
            position = floor(4 * config.n_rrc / m_b)
            if config.b_hop < config.b_srs and b > config.b_hop:
                position += f_b(config, b, n_srs)
            k_0 += config.comb * (m_b * 12 // config.comb) * (position % n_b)
        if config.bwp_start_crb > config.n_shift:
            k_0 += 12 * config.bwp_start_crb
        index = 14 * slot + config.start_symbol + late
        f_gh = v = 0
        if config.hopping == "group":
            c = slow_gold(config.n_id, 8 * index + 8)
            f_gh = sum(c[8 * index + m] << m for m in range(8)) % 30
        if config.hopping == "sequence" and m_sc >= 72:
            v = slow_gold(config.n_id, index + 1)[index]
        base = low_papr((f_gh + config.n_id) % 30, v, m_sc)
        for n in range(m_sc):
            k = k_0 + config.comb * n - 12 * carrier.first_crb
            grids[port][config.start_symbol + late, k] = base[n] * cmath.exp(2j * pi * cs * n / cs_max)
    return grids


def dense(groups: tuple[PilotGroup, ...], config: Srs, carrier: Carrier) -> dict[int, Complex]:
    grids = {port: np.zeros((14, carrier.subcarriers), complex) for port in range(config.port_count)}
    for group in groups:
        assert list(group.subcarriers) == sorted(set(group.subcarriers))
        assert list(group.symbols) == sorted(set(group.symbols))
        for port, values in zip(group.ports, group.values, strict=True):
            place = np.ix_(group.symbols, group.subcarriers)
            assert not grids[port][place].any()
            grids[port][place] = values
    return grids


@st.composite
def resources(draw: st.DrawFn) -> Srs:
    comb = draw(st.sampled_from([2, 4, 8]))
    symbol_count = draw(st.sampled_from([1, 2, 4, 8, 12]))
    period = draw(st.sampled_from([None, 1, 5, 40, 320]))
    return Srs(
        c_srs=draw(st.integers(0, 40)),
        b_srs=draw(st.integers(0, 3)),
        b_hop=draw(st.integers(0, 3)),
        n_rrc=draw(st.integers(0, 67)),
        n_shift=draw(st.integers(17, 50)),
        bwp_start_crb=draw(st.sampled_from([0, 20, 61])),
        port_count=draw(st.sampled_from([1, 2, 4])),
        symbol_count=symbol_count,
        start_symbol=draw(st.integers(0, 14 - symbol_count)),
        repetition=draw(st.sampled_from([r for r in (1, 2, 4) if symbol_count % r == 0])),
        comb=comb,
        comb_offset=draw(st.integers(0, comb - 1)),
        cyclic_shift=draw(st.integers(0, {2: 8, 4: 12, 8: 6}[comb] - 1)),
        n_id=draw(st.integers(0, 1023)),
        hopping=draw(st.sampled_from(["neither", "group", "sequence"])),
        period_slots=period,
        offset_slots=draw(st.integers(0, (period or 1) - 1)),
    )


@given(config=resources(), frame=st.integers(0, 1023), slot=st.integers(0, 19), first_crb=st.sampled_from([0, 17]))
@settings(max_examples=120, deadline=None)
def test_values_are_the_texts(config: Srs, frame: int, slot: int, first_crb: int) -> None:
    carrier = Carrier(30e3, 273, 3.5e9, first_crb=first_crb)
    if config.period_slots is not None and config.period_slots <= 20:
        slot -= (slot - config.offset_slots) % config.period_slots
        slot += config.period_slots if slot < 0 else 0
    groups = config.pilots(carrier, slot, frame)
    expected = literal_srs(config, carrier, slot, frame)
    grids = dense(groups, config, carrier)
    for port in range(config.port_count):
        np.testing.assert_allclose(grids[port], expected[port], atol=1e-5)


@pytest.mark.parametrize(
    ("c_srs", "b_srs", "b_hop"), [(1, 1, 0), (2, 1, 0), (9, 3, 0), (9, 3, 1), (28, 3, 0), (62, 2, 0)]
)
@pytest.mark.parametrize("symbol_count", [1, 2, 4])
def test_hopping_sounds_every_part_of_the_band_once(c_srs: int, b_srs: int, b_hop: int, symbol_count: int) -> None:
    """Before it begins anew, over even and odd numbers of parts: the union is the bandwidth of b_hop."""
    config = Srs(
        c_srs=c_srs,
        b_srs=b_srs,
        b_hop=b_hop,
        period_slots=10,
        symbol_count=symbol_count,
        start_symbol=14 - symbol_count,
    )
    own, whole = BANDWIDTHS[c_srs][b_srs], BANDWIDTHS[c_srs][b_hop]
    starts = []
    for sounding in range(-(-whole // own // symbol_count)):
        frame, half = divmod(sounding, 2)
        groups = config.pilots(CARRIER, 10 * half, frame)
        by_symbol = {symbol: int(group.subcarriers[0]) // 12 for group in groups for symbol in group.symbols}
        assert len(by_symbol) == symbol_count
        starts += [by_symbol[symbol] for symbol in sorted(by_symbol)]
    assert sorted(set(starts)) == list(range(0, whole, own))
    assert len(set(starts[: whole // own])) == whole // own


def test_repetition_and_groups() -> None:
    """Symbols of equal subcarriers share a group; a hop between them makes two."""
    shared: dict[str, Any] = {"c_srs": 9, "b_srs": 1, "symbol_count": 4, "start_symbol": 10}
    (still,) = Srs(**shared).pilots(CARRIER, 0)
    assert still.symbols == (10, 11, 12, 13)
    groups = Srs(b_hop=0, repetition=2, **shared).pilots(CARRIER, 0)
    assert [group.symbols for group in groups] == [(10, 11), (12, 13)]
    assert [int(group.subcarriers[0]) for group in groups] == [0, 16 * 12]
    groups = Srs(b_hop=0, **shared).pilots(CARRIER, 0)
    assert [group.symbols for group in groups] == [(10, 12), (11, 13)]


@pytest.mark.parametrize("comb", [2, 4, 8])
@pytest.mark.parametrize("cyclic_shift", [0, 2, 4, 5])
@pytest.mark.parametrize("port_count", [1, 2, 4])
def test_ports_are_orthogonal(comb: int, cyclic_shift: int, port_count: int) -> None:
    """On one comb by their cyclic shifts, over as many resource elements as there are shifts; of unit magnitude."""
    config = Srs(c_srs=13, comb=comb, cyclic_shift=cyclic_shift, port_count=port_count)
    groups = config.pilots(CARRIER, 0)
    two_combs = port_count == 4 and (comb == 8 or (comb == 2 and cyclic_shift >= 4))
    assert [group.ports for group in groups] == ([(0, 2), (1, 3)] if two_combs else [tuple(range(port_count))])
    if two_combs:
        assert not set(groups[0].subcarriers) & set(groups[1].subcarriers)
    for group in groups:
        np.testing.assert_allclose(np.abs(group.values), 1.0, rtol=1e-6)
        span = {2: 8, 4: 12, 8: 6}[comb]
        parts = group.values[:, 0].reshape(len(group.ports), -1, span)
        products = np.einsum("gns,hns->ngh", parts, parts.conj())
        np.testing.assert_allclose(
            products, np.broadcast_to(span * np.eye(len(group.ports)), products.shape), atol=1e-4
        )


def test_when_it_is_sent() -> None:
    config = Srs(period_slots=40, offset_slots=27)
    sent = [(frame, slot) for frame in range(6) for slot in range(20) if config.pilots(CARRIER, slot, frame)]
    assert sent == [(1, 7), (3, 7), (5, 7)]
    assert all(Srs().pilots(CARRIER, slot) for slot in range(20))


def test_sequences_are_kept() -> None:
    """A slot's pilots are made once, whatever the frame; hopping ones once for each position."""
    config = Srs(c_srs=9, b_srs=1, b_hop=0, period_slots=20)
    first = config.pilots(CARRIER, 0, 0)[0]
    assert config.pilots(CARRIER, 0, 1)[0] is not first
    assert config.pilots(CARRIER, 0, 2)[0] is first
    assert config.pilots(CARRIER, 0, 1022)[0] is first
    assert not first.values.flags.writeable
    assert first.values.dtype == np.complex64


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"c_srs": 64}, "c_srs"),
        ({"b_srs": 4}, "b_srs"),
        ({"b_hop": -1}, "b_hop"),
        ({"n_rrc": 68}, "n_rrc"),
        ({"n_shift": 269}, "n_shift"),
        ({"port_count": 3}, "port_count"),
        ({"symbol_count": 3}, "symbol_count"),
        ({"symbol_count": 2}, "start_symbol"),
        ({"symbol_count": 4, "start_symbol": 10, "repetition": 3}, "repetition"),
        ({"repetition": 2}, "repetition"),
        ({"comb": 3}, "comb"),
        ({"comb_offset": 2}, "comb_offset"),
        ({"cyclic_shift": 8}, "cyclic_shift"),
        ({"n_id": -1}, "n_id"),
        ({"hopping": "both"}, "hopping"),
        ({"period_slots": 3}, "period_slots"),
        ({"period_slots": 10, "offset_slots": 10}, "offset_slots"),
        ({"offset_slots": 1}, "offset_slots"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Srs(**settings)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="the carrier has 0 to 272"):
        Srs(c_srs=63, n_shift=2).pilots(CARRIER, 0)
    with pytest.raises(ValueError, match="lies on PRBs -1 to 2"):
        Srs(n_shift=16).pilots(Carrier(30e3, 273, 3.5e9, first_crb=17), 0)
    with pytest.raises(ValueError, match="slot_in_frame"):
        Srs().pilots(CARRIER, 20)
    with pytest.raises(ValueError, match="frame"):
        Srs().pilots(CARRIER, 0, 1024)
