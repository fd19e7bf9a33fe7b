"""DMRS of PUSCH and PDSCH: against Sionna's PUSCH, a literal reading of 38.211, and recorded uplinks."""

from __future__ import annotations

import importlib.util
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.dmrs import PdschDmrs, PuschDmrs
from ingest.nr.low_papr import low_papr
from ingest.nr.ofdm import Carrier, OfdmDemodulator
from ingest.nr.pilots import PilotGroup
from tests.ingest.nr.signals import slow_gold

Complex = npt.NDArray[np.complex128]

CARRIER = Carrier(30e3, 12, 3.5e9)
PORTS = {(1, 1): 4, (1, 2): 8, (2, 1): 6, (2, 2): 12}
"""Number of ports by configuration type and length."""

needs_sionna = pytest.mark.skipif(
    importlib.util.find_spec("sionna") is None, reason="Sionna is not installed (extra `train`)"
)


def dense(groups: tuple[PilotGroup, ...], carrier: Carrier) -> dict[int, Complex]:
    """Each port's grid [14, subcarriers]. Groups must not overlap in ports' resource elements."""
    grids: dict[int, Complex] = {}
    for group in groups:
        assert list(group.subcarriers) == sorted(set(group.subcarriers))
        assert list(group.symbols) == sorted(set(group.symbols))
        for port, values in zip(group.ports, group.values, strict=True):
            grid = grids.setdefault(port, np.zeros((14, carrier.subcarriers), complex))
            place = np.ix_(group.symbols, group.subcarriers)
            assert not grid[place].any()
            grid[place] = values
    return grids


def literal_r(c_init: int, length: int) -> list[complex]:
    c = slow_gold(c_init, 2 * length)
    return [((1 - 2 * c[2 * m]) + 1j * (1 - 2 * c[2 * m + 1])) / 2**0.5 for m in range(length)]


W_F = {0: (1, 1), 1: (1, -1)}
TYPE_1 = {0: (0, 0, 1), 1: (0, 1, 1), 2: (1, 0, 1), 3: (1, 1, 1), 4: (0, 0, -1), 5: (0, 1, -1), 6: (1, 0, -1)}
TYPE_1[7] = (1, 1, -1)
TYPE_2 = {0: (0, 0, 1), 1: (0, 1, 1), 2: (2, 0, 1), 3: (2, 1, 1), 4: (4, 0, 1), 5: (4, 1, 1), 6: (0, 0, -1)}
TYPE_2 |= {7: (0, 1, -1), 8: (2, 0, -1), 9: (2, 1, -1), 10: (4, 0, -1), 11: (4, 1, -1)}
"""Tables 6.4.1.1.3-1 and -2: Delta, which w_f, w_t(1) by port."""


def literal_dmrs(
    carrier: Carrier,
    slot: int,
    port: int,
    first_symbols: dict[int, tuple[int, ...]],
    *,
    config_type: int,
    length: int,
    n_id: tuple[int, int],
    n_scid: int,
    reference_crb: int = 0,
    release16: bool = False,
) -> Complex:
    """Clauses 6.4.1.1 and 7.4.1.1 as written. first_symbols: PRBs by first symbol of each position."""
    delta, code, w_t1 = (TYPE_1 if config_type == 1 else TYPE_2)[port]
    cdm_group = delta if config_type == 1 else delta // 2
    scid, lam = n_scid, 0
    if release16:
        lam = cdm_group
        scid = 1 - n_scid if cdm_group == 1 else n_scid
    grid = np.zeros((14, carrier.subcarriers), complex)
    for first, prbs in first_symbols.items():
        for l_prime in range(length):
            symbol = first + l_prime
            c_init = (
                2**17 * (14 * slot + symbol + 1) * (2 * n_id[scid] + 1) + 2**17 * (lam // 2) + 2 * n_id[scid] + scid
            )
            highest = carrier.first_crb + carrier.prbs - reference_crb
            r = literal_r(c_init % 2**31, 12 * highest)
            for n in range(12 * highest):
                for k_prime in (0, 1):
                    k = 4 * n + 2 * k_prime + delta if config_type == 1 else 6 * n + k_prime + delta
                    own = k + 12 * (reference_crb - carrier.first_crb)
                    if own // 12 in prbs and 0 <= own < carrier.subcarriers:
                        grid[symbol, own] = r[2 * n + k_prime] * W_F[code][k_prime] * (1, w_t1)[l_prime]
    return grid


# --- Sionna -----------------------------------------------------------------------------------------------------------


def sionna_grid(
    *, slot: int = 0, prbs: int = 12, scs_khz: int = 30, symbols: tuple[int, int] = (0, 14), **dmrs: Any
) -> Complex:
    """DMRS grid of Sionna [ports, subcarriers, 14]."""
    from sionna.phy.nr import CarrierConfig, PUSCHConfig, PUSCHDMRSConfig

    mapping = dmrs.pop("mapping", "A")
    layers = len(dmrs.get("dmrs_port_set", [0]))
    carrier = CarrierConfig(subcarrier_spacing=scs_khz, n_size_grid=prbs, slot_number=slot)
    config = PUSCHConfig(
        carrier_config=carrier,
        pusch_dmrs_config=PUSCHDMRSConfig(**dmrs),
        mapping_type=mapping,
        symbol_allocation=list(symbols),
        num_layers=layers,
        num_antenna_ports=layers,
    )
    return np.asarray(config.dmrs_grid)


@needs_sionna
@pytest.mark.parametrize(("config_type", "length"), PORTS)
@pytest.mark.parametrize(("n_id", "n_scid", "slot"), [((1, 7), 0, 0), ((1, 7), 1, 13), ((65535, 4000), 0, 19)])
def test_values_are_sionnas(config_type: int, length: int, n_id: tuple[int, int], n_scid: int, slot: int) -> None:
    ports = tuple(range(PORTS[config_type, length]))
    groups_without_data = 2 if config_type == 1 else 3
    config = PuschDmrs(
        config_type=config_type,
        length=length,
        additional_positions=1,
        n_id=n_id,
        n_scid=n_scid,
        ports=ports,
        groups_without_data=groups_without_data,
    )
    groups = config.pilots(CARRIER, slot)
    assert len(groups) == groups_without_data
    grids = dense(groups, CARRIER)
    for pair in zip(ports[0::2], ports[1::2], strict=True):
        expected = sionna_grid(
            slot=slot,
            config_type=config_type,
            length=length,
            additional_position=1,
            n_id=n_id,
            n_scid=n_scid,
            dmrs_port_set=list(pair),
            num_cdm_groups_without_data=groups_without_data,
        )
        for port, grid in zip(pair, expected, strict=True):
            np.testing.assert_allclose(grids[port], grid.T, atol=1e-6)


@needs_sionna
@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("mapping", ["A", "B"])
def test_positions_are_sionnas(mapping: Any, length: int) -> None:
    """Every duration, start and number of additional positions: the same symbols, or refused by both."""
    compared = 0
    for duration, start, more, type_a in product(range(1, 15), (0, 3), range(4), (2, 3)):
        if duration + start > 14 or (mapping == "A" and start) or (mapping == "B" and type_a == 3):
            continue
        try:
            grid = sionna_grid(
                mapping=mapping,
                prbs=1,
                symbols=(start, duration),
                length=length,
                additional_position=more,
                type_a_position=type_a,
            )
            expected = tuple(np.flatnonzero(np.abs(grid[0]).sum(axis=0)))
        except ValueError:
            expected = ()
        arguments = {"mapping": mapping, "start_symbol": start, "symbol_count": duration, "length": length}
        if not expected:
            with pytest.raises(ValueError):
                PuschDmrs(additional_positions=more, type_a_position=type_a, **arguments)
            continue
        config = PuschDmrs(additional_positions=more, type_a_position=type_a, prb_count=1, **arguments)
        (group,) = config.pilots(CARRIER, 0)
        assert group.symbols == expected, (mapping, length, duration, start, more, type_a)
        compared += 1
    assert compared > 20


@needs_sionna
@pytest.mark.parametrize("ports", [(2,), (3, 0), (0, 1, 2, 3), (5, 2), (7, 0, 6, 1)])
def test_any_ports_are_sionnas(ports: tuple[int, ...]) -> None:
    length = 2 if max(ports) > 3 else 1
    groups = PuschDmrs(ports=ports, length=length, n_id=(3, 3), groups_without_data=2).pilots(CARRIER, 4)
    grids = dense(groups, CARRIER)
    assert set(grids) == set(ports)
    expected = sionna_grid(slot=4, length=length, n_id=3, dmrs_port_set=list(ports), num_cdm_groups_without_data=2)
    for port, grid in zip(ports, expected, strict=True):
        np.testing.assert_allclose(grids[port], grid.T, atol=1e-6)


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config_type", "length"), PORTS)
@pytest.mark.parametrize("channel", [PuschDmrs, PdschDmrs])
@pytest.mark.parametrize("release16", [False, True])
def test_values_are_the_texts(channel: Any, config_type: int, length: int, release16: bool) -> None:
    """In a carrier away from CRB 0, on scattered PRBs."""
    carrier = Carrier(30e3, 9, 3.5e9, first_crb=5)
    prbs = (1, 2, 5, 8)
    ports = tuple(range(PORTS[config_type, length]))
    shared: dict[str, Any] = {"config_type": config_type, "length": length, "n_id": (12, 801), "n_scid": 1}
    config = channel(prbs=prbs, ports=ports, additional_positions=1, release16=release16, **shared)
    grids = dense(config.pilots(carrier, 9), carrier)
    first_symbols = {2: prbs, (11 if length == 1 else 10): prbs}
    for port in ports:
        expected = literal_dmrs(carrier, 9, port, first_symbols, release16=release16, **shared)
        np.testing.assert_allclose(grids[port], expected, atol=1e-6)


def test_a_pdsch_that_counts_from_its_coreset() -> None:
    carrier = Carrier(30e3, 9, 3.5e9, first_crb=5)
    config = PdschDmrs(prbs=(3, 4, 6), n_id=(1, 1), ports=(1,), reference_crb=7)
    expected = literal_dmrs(
        carrier, 3, 1, {2: (3, 4, 6)}, config_type=1, length=1, n_id=(1, 1), n_scid=0, reference_crb=7
    )
    np.testing.assert_allclose(dense(config.pilots(carrier, 3), carrier)[1], expected, atol=1e-6)
    with pytest.raises(ValueError, match="reference_crb"):
        PdschDmrs(prbs=(1,), reference_crb=7).pilots(carrier, 0)


PDSCH_B_SINGLE = """
2: 0 | 0 | 0 | 0
3: 0 | 0 | 0 | 0
4: 0 | 0 | 0 | 0
5: 0 | 0 4 | 0 4 | 0 4
6: 0 | 0 4 | 0 4 | 0 4
7: 0 | 0 4 | 0 4 | 0 4
8: 0 | 0 6 | 0 3 6 | 0 3 6
9: 0 | 0 7 | 0 4 7 | 0 4 7
10: 0 | 0 7 | 0 4 7 | 0 4 7
11: 0 | 0 8 | 0 4 8 | 0 3 6 9
12: 0 | 0 9 | 0 5 9 | 0 3 6 9
13: 0 | 0 9 | 0 5 9 | 0 3 6 9
"""
PDSCH_A_SINGLE = """
3: 2 | 2 | 2 | 2
4: 2 | 2 | 2 | 2
7: 2 | 2 | 2 | 2
8: 2 | 2 7 | 2 7 | 2 7
9: 2 | 2 7 | 2 7 | 2 7
10: 2 | 2 9 | 2 6 9 | 2 6 9
11: 2 | 2 9 | 2 6 9 | 2 6 9
12: 2 | 2 9 | 2 6 9 | 2 5 8 11
13: 2 | 2 11 | 2 7 11 | 2 5 8 11
14: 2 | 2 11 | 2 7 11 | 2 5 8 11
"""
PDSCH_B_DOUBLE = """
5: 0 1 | 0 1
7: 0 1 | 0 1
8: 0 1 | 0 1 5 6
9: 0 1 | 0 1 5 6
10: 0 1 | 0 1 7 8
11: 0 1 | 0 1 7 8
12: 0 1 | 0 1 8 9
13: 0 1 | 0 1 8 9
"""
PDSCH_A_DOUBLE = """
4: 2 3 | 2 3
9: 2 3 | 2 3
10: 2 3 | 2 3 8 9
12: 2 3 | 2 3 8 9
13: 2 3 | 2 3 10 11
14: 2 3 | 2 3 10 11
"""


@pytest.mark.parametrize(
    ("mapping", "length", "table"),
    [("A", 1, PDSCH_A_SINGLE), ("B", 1, PDSCH_B_SINGLE), ("A", 2, PDSCH_A_DOUBLE), ("B", 2, PDSCH_B_DOUBLE)],
)
def test_positions_of_the_pdsch(mapping: Any, length: int, table: str) -> None:
    """Tables 7.4.1.1.2-3 and -4."""
    for row in table.strip().splitlines():
        duration, cells = row.split(":")
        for more, cell in enumerate(cells.split("|")):
            config = PdschDmrs(
                mapping=mapping, symbol_count=int(duration), length=length, additional_positions=more, prb_count=1
            )
            (group,) = config.pilots(CARRIER, 0)
            assert group.symbols == tuple(int(symbol) for symbol in cell.split()), (row, more)


def test_positions_move_with_the_start() -> None:
    """Type B counts from the allocation's start, type A from the slot's."""
    shared: dict[str, Any] = {"prb_count": 1, "additional_positions": 1}
    (group,) = PdschDmrs(mapping="B", start_symbol=4, symbol_count=7, **shared).pilots(CARRIER, 0)
    assert group.symbols == (4, 8)
    (group,) = PdschDmrs(mapping="A", start_symbol=2, symbol_count=12, **shared).pilots(CARRIER, 0)
    assert group.symbols == (2, 11)
    (group,) = PdschDmrs(type_a_position=3, late_l_1=True, **shared).pilots(CARRIER, 0)
    assert group.symbols == (3, 12)


@pytest.mark.parametrize(
    ("mapping", "symbols", "more", "type_a", "expected"),
    [
        # Table 6.4.1.1.3-6; the second hop begins at floor(symbols / 2).
        ("A", 8, 0, 2, ((2,), (4,))),
        ("A", 8, 1, 2, ((2,), (4,))),
        ("A", 10, 1, 2, ((2,), (5, 9))),
        ("A", 12, 1, 3, ((3,), (6, 10))),
        ("A", 14, 0, 3, ((3,), (7,))),
        ("A", 14, 1, 2, ((2, 6), (7, 11))),
        ("A", 14, 1, 3, ((3,), (7, 11))),
        ("B", 2, 1, 2, ((0,), (1,))),
        ("B", 9, 1, 2, ((0,), (4, 8))),
        ("B", 10, 0, 2, ((0,), (5,))),
        ("B", 14, 2, 2, ((0, 4), (7, 11))),
    ],
)
def test_hopping_within_the_slot(
    mapping: Any, symbols: int, more: int, type_a: int, expected: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    config = PuschDmrs(
        mapping=mapping,
        symbol_count=symbols,
        additional_positions=more,
        type_a_position=type_a,
        first_prb=1,
        prb_count=3,
        second_hop_first_prb=8,
        n_id=(77, 0),
    )
    groups = config.pilots(CARRIER, 6)
    assert tuple(group.symbols for group in groups) == expected
    first_symbols = dict.fromkeys(expected[0], (1, 2, 3)) | dict.fromkeys(expected[1], (8, 9, 10))
    literal = literal_dmrs(CARRIER, 6, 0, first_symbols, config_type=1, length=1, n_id=(77, 0), n_scid=0)
    np.testing.assert_allclose(dense(groups, CARRIER)[0], literal, atol=1e-6)


@pytest.mark.parametrize("hopping", ["neither", "group", "sequence"])
@pytest.mark.parametrize(("count", "length"), [(1, 1), (5, 1), (6, 1), (12, 2)])
def test_transform_precoding(hopping: Any, count: int, length: int) -> None:
    """Clause 6.4.1.1.1.2: (u, v) of the symbol, of the first one where DMRS have two."""
    carrier = Carrier(15e3, 20, 2e9, first_crb=11)
    ports = (0, 1, 2, 3, 4, 5, 6, 7)[: 4 * length]
    config = PuschDmrs(
        transform_precoding=True,
        hopping=hopping,
        n_id_rs=311,
        first_prb=4,
        prb_count=count,
        length=length,
        additional_positions=1,
        ports=ports,
    )
    grids = dense(config.pilots(carrier, 7), carrier)
    m_zc = 6 * count
    for first in (2, 11 if length == 1 else 10):
        index = 14 * 7 + first
        f_gh, v = 0, 0
        if hopping == "group":
            c = slow_gold(311 // 30, 8 * index + 8)
            f_gh = sum(c[8 * index + m] << m for m in range(8)) % 30
        if hopping == "sequence" and m_zc >= 72:
            v = slow_gold(311, index + 1)[index]
        r = low_papr((f_gh + 311) % 30, v, m_zc)
        for port, l_prime in product(ports, range(length)):
            delta, code, w_t1 = TYPE_1[port]
            expected = np.zeros(carrier.subcarriers, complex)
            for n, k_prime in product(range(m_zc // 2), (0, 1)):
                k = 48 + 4 * n + 2 * k_prime + delta
                expected[k] = r[2 * n + k_prime] * W_F[code][k_prime] * (1, w_t1)[l_prime]
            np.testing.assert_allclose(grids[port][first + l_prime], expected, atol=1e-6)


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config_type", "length", "transform"), [(*kind, False) for kind in PORTS] + [(1, 1, True), (1, 2, True)]
)
def test_ports_are_orthogonal_over_a_cover(config_type: int, length: int, transform: bool) -> None:
    """Over two neighbouring resource elements of a group and the symbols of a position; all have unit magnitude."""
    config = PuschDmrs(
        config_type=config_type,
        length=length,
        additional_positions=1,
        transform_precoding=transform,
        ports=tuple(range(PORTS[config_type, length])),
    )
    for group in config.pilots(CARRIER, 1):
        np.testing.assert_allclose(np.abs(group.values), 1.0, rtol=1e-6)
        spans = group.values.reshape(len(group.ports), -1, length, len(group.subcarriers) // 2, 2)
        products = np.einsum("gpltk,hpltk->ptgh", spans, spans.conj())
        np.testing.assert_allclose(
            products, np.broadcast_to(2 * length * np.eye(len(group.ports)), products.shape), atol=1e-5
        )
        assert len(group.ports) == 2 * length


def test_slots_and_sharing() -> None:
    config = PuschDmrs(slots=(3, 7))
    assert config.pilots(CARRIER, 4) == ()
    (group,) = config.pilots(CARRIER, 7)
    assert config.pilots(CARRIER, 7)[0] is group
    assert PuschDmrs(slots=(3, 7)).pilots(Carrier(30e3, 12, 3.5e9), 7, 55)[0] is group
    assert group.values.dtype == np.complex64
    assert not group.values.flags.writeable
    assert not np.array_equal(group.values, config.pilots(CARRIER, 3)[0].values)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"config_type": 3}, "config_type"),
        ({"length": 3}, "length"),
        ({"mapping": "C"}, "mapping"),
        ({"ports": ()}, "at least one port"),
        ({"ports": (0, 0)}, "differ"),
        ({"ports": (4,)}, "ports 0 to 3"),
        ({"ports": (8,), "length": 2}, "ports 0 to 7"),
        ({"ports": (6,), "config_type": 2}, "ports 0 to 5"),
        ({"n_id": (0, 65536)}, "n_id"),
        ({"n_scid": 2}, "n_scid"),
        ({"groups_without_data": 3}, "groups_without_data"),
        ({"groups_without_data": 1, "ports": (0, 2)}, "groups_without_data"),
        ({"additional_positions": 2, "length": 2}, "additional positions"),
        ({"additional_positions": 3, "type_a_position": 3}, "type_a_position 2"),
        ({"symbol_count": 15}, "symbol_count"),
        ({"symbol_count": 3}, "4 to 14 symbols"),
        ({"symbol_count": 4, "length": 2, "type_a_position": 3}, "do not fit"),
        ({"start_symbol": 1, "symbol_count": 13}, "starts at symbol 0"),
        ({"prbs": (1, 3, 2)}, "ascending"),
        ({"prbs": (1, 3), "first_prb": 1}, "exclude"),
        ({"prbs": (1, 3), "transform_precoding": True}, "contiguous"),
        ({"config_type": 2, "transform_precoding": True}, "config_type 1"),
        ({"second_hop_first_prb": 3, "length": 2}, "length 1"),
        ({"second_hop_first_prb": 3, "symbol_count": 7}, "hop of type A"),
        ({"hopping": "often"}, "hopping"),
        ({"slots": (-1,)}, "slots"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PuschDmrs(**settings)


def test_what_does_not_fit_in_the_carrier() -> None:
    for config in (PuschDmrs(prbs=(0, 12)), PuschDmrs(first_prb=10, prb_count=3), PuschDmrs(second_hop_first_prb=1)):
        with pytest.raises(ValueError, match="the carrier has 0 to 11"):
            config.pilots(CARRIER, 0)
    with pytest.raises(ValueError, match="no PRB"):
        PuschDmrs(first_prb=12).pilots(CARRIER, 0)
    with pytest.raises(ValueError, match="slot_in_frame"):
        PuschDmrs().pilots(CARRIER, 20)


# --- recorded uplinks -------------------------------------------------------------------------------------------------

UPLINK = Carrier(30e3, 106, 3427.5e6)


def coherence(group: PilotGroup, samples: npt.NDArray[np.complex64]) -> list[float]:
    """Per symbol: correlation of the least-squares channel with itself, a pilot further."""
    demodulator = OfdmDemodulator(UPLINK, 46.08e6, UPLINK.carrier_hz)
    slot_start = -768 + UPLINK.slot_start_s(1) * 46.08e6
    received = demodulator.symbols(samples, slot_start, 1, group.symbols, subcarriers=group.subcarriers)[0]
    channel = received * group.values[0].conj()
    return [
        float(np.abs(np.vdot(row[:-1], row[1:])) / np.linalg.norm(row[:-1]) / np.linalg.norm(row[1:]))
        for row in channel
    ]


@pytest.mark.data
def test_recorded_uplinks_are_coherent(data: Path) -> None:
    paths = sorted((data / "nr-iq" / "srsran-n78-40MHz").glob("pusch_*.cf32"))
    assert len(paths) == 6
    for path in paths:
        samples = np.fromfile(path, "<c8")[None]
        count = 24 if path.stem == "pusch_12066" else 6
        shared: dict[str, Any] = {"first_prb": 3, "prb_count": count, "additional_positions": 2}
        (group,) = PuschDmrs(n_id=(1, 1), **shared).pilots(UPLINK, 7)
        assert group.symbols == (2, 7, 11)
        assert min(coherence(group, samples)) > 0.95, path.stem
        for wrong in (
            PuschDmrs(n_id=(2, 2), **shared).pilots(UPLINK, 7),
            PuschDmrs(n_id=(1, 1), **shared).pilots(UPLINK, 8),
            PuschDmrs(n_id=(1, 1), ports=(2,), **shared).pilots(UPLINK, 7),
        ):
            assert np.mean(coherence(wrong[0], samples)) < 0.7, path.stem
