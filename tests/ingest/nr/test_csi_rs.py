"""CSI reference signals: against a literal reading of 38.211 clause 7.4.1.5, and what they are made for."""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.csi_rs import CsiRs, TrackingRs
from ingest.nr.ofdm import Carrier
from ingest.nr.pilots import PilotGroup
from tests.ingest.nr.signals import slow_gold

Complex = npt.NDArray[np.complex128]

CARRIER = Carrier(30e3, 24, 3.5e9, first_crb=3)

# Table 7.4.1.5.3-1: row | ports X | densities | CDM type | (k-bar, l-bar) | CDM group j | k' | l'
TABLE = """
1|1|3|no|k0,l0 k0+4,l0 k0+8,l0|0 0 0|0|0
2|1|1 0.5|no|k0,l0|0|0|0
3|2|1 0.5|fd2|k0,l0|0|0 1|0
4|4|1|fd2|k0,l0 k0+2,l0|0 1|0 1|0
5|4|1|fd2|k0,l0 k0,l0+1|0 1|0 1|0
6|8|1|fd2|k0,l0 k1,l0 k2,l0 k3,l0|0 1 2 3|0 1|0
7|8|1|fd2|k0,l0 k1,l0 k0,l0+1 k1,l0+1|0 1 2 3|0 1|0
8|8|1|cdm4|k0,l0 k1,l0|0 1|0 1|0 1
9|12|1|fd2|k0,l0 k1,l0 k2,l0 k3,l0 k4,l0 k5,l0|0 1 2 3 4 5|0 1|0
10|12|1|cdm4|k0,l0 k1,l0 k2,l0|0 1 2|0 1|0 1
11|16|1 0.5|fd2|k0,l0 k1,l0 k2,l0 k3,l0 k0,l0+1 k1,l0+1 k2,l0+1 k3,l0+1|0 1 2 3 4 5 6 7|0 1|0
12|16|1 0.5|cdm4|k0,l0 k1,l0 k2,l0 k3,l0|0 1 2 3|0 1|0 1
13|24|1 0.5|fd2|k0,l0 k1,l0 k2,l0 k0,l0+1 k1,l0+1 k2,l0+1 k0,l1 k1,l1 k2,l1 k0,l1+1 k1,l1+1 k2,l1+1|0 1 2 3 4 5 6 7 8 9 10 11|0 1|0
14|24|1 0.5|cdm4|k0,l0 k1,l0 k2,l0 k0,l1 k1,l1 k2,l1|0 1 2 3 4 5|0 1|0 1
15|24|1 0.5|cdm8|k0,l0 k1,l0 k2,l0|0 1 2|0 1|0 1 2 3
16|32|1 0.5|fd2|k0,l0 k1,l0 k2,l0 k3,l0 k0,l0+1 k1,l0+1 k2,l0+1 k3,l0+1 k0,l1 k1,l1 k2,l1 k3,l1 k0,l1+1 k1,l1+1 k2,l1+1 k3,l1+1|0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15|0 1|0
17|32|1 0.5|cdm4|k0,l0 k1,l0 k2,l0 k3,l0 k0,l1 k1,l1 k2,l1 k3,l1|0 1 2 3 4 5 6 7|0 1|0 1
18|32|1 0.5|cdm8|k0,l0 k1,l0 k2,l0 k3,l0|0 1 2 3|0 1|0 1 2 3
"""  # noqa: E501
# Tables 7.4.1.5.3-2 to -5: per index, w_f and w_t.
COVERS = {
    "no": [("+", "+")],
    "fd2": [("++", "+"), ("+-", "+")],
    "cdm4": [("++", "++"), ("+-", "++"), ("++", "+-"), ("+-", "+-")],
    "cdm8": [
        ("++", "++++"),
        ("+-", "++++"),
        ("++", "+-+-"),
        ("+-", "+-+-"),
        ("++", "++--"),
        ("+-", "++--"),
        ("++", "+--+"),
        ("+-", "+--+"),
    ],
}
BITS = {
    1: ["0001", "1000"],
    2: ["000000000001", "100000000000", "000001000000"],
    3: ["000001", "100000"],
    4: ["001", "100"],
    5: ["010000"],
    6: ["011110", "110110"],
    7: ["100001"],
    8: ["001010"],
    9: ["111111"],
    10: ["101010"],
    11: ["001111"],
    12: ["111010"],
    13: ["100110"],
    14: ["000111"],
    15: ["110100"],
    16: ["110011"],
    17: ["011110"],
    18: ["101101"],
}
FACTOR = {1: 1, 2: 1, 4: 4}
"""k_i = f(i), 4 f(i) in row 4, else 2 f(i)."""

CASES = [
    (int(row), float(density), bits)
    for row, _, densities, *_ in (line.split("|") for line in TABLE.strip().splitlines())
    for density in densities.split()
    for bits in BITS[int(row)]
]


def literal_csi_rs(config: CsiRs, carrier: Carrier, slot: int, blocks: range) -> dict[int, Complex]:
    """Clause 7.4.1.5 as written: every port's grid [14, subcarriers], on common resource blocks `blocks`."""
    (line,) = (line.split("|") for line in TABLE.strip().splitlines() if line.startswith(f"{config.row}|"))
    ports, cdm = int(line[1]), line[3]
    set_bits = [bit for bit in range(len(config.frequency_bits)) if config.frequency_bits[-1 - bit] == "1"]
    names: dict[str, int] = {f"k{i}": FACTOR.get(config.row, 2) * bit for i, bit in enumerate(set_bits)}
    names |= {"l0": config.l_0, "l1": config.l_1 or 0}

    def value(text: str) -> int:
        name, _, more = text.partition("+")
        return names[name] + int(more or 0)

    covers = COVERS[cdm]
    rho = config.density
    alpha = rho if ports == 1 else 2 * rho
    grids = {port: np.zeros((14, carrier.subcarriers), complex) for port in range(ports)}
    for place, j in zip(line[4].split(), map(int, line[5].split()), strict=True):
        k_bar, l_bar = map(value, place.split(","))
        for l_prime in map(int, line[7].split()):
            symbol = l_bar + l_prime
            c_init = (2**10 * (14 * slot + symbol + 1) * (2 * config.n_id + 1) + config.n_id) % 2**31
            c = slow_gold(c_init, 2 * 3 * (max(blocks) + 2))
            for n in blocks:
                if rho == 0.5 and n % 2 != config.odd_blocks:
                    continue
                for k_prime in map(int, line[6].split()):
                    m = floor(n * alpha) + k_prime + floor(k_bar * rho / 12)
                    r = ((1 - 2 * c[2 * m]) + 1j * (1 - 2 * c[2 * m + 1])) / 2**0.5
                    k = 12 * n + k_bar + k_prime - 12 * carrier.first_crb
                    for s, (w_f, w_t) in enumerate(covers):
                        sign = (1 if w_f[k_prime] == "+" else -1) * (1 if w_t[l_prime] == "+" else -1)
                        assert grids[s + j * len(covers)][symbol, k] == 0
                        grids[s + j * len(covers)][symbol, k] = sign * r
    return grids


def dense(groups: tuple[PilotGroup, ...], carrier: Carrier) -> dict[int, Complex]:
    grids: dict[int, Complex] = {}
    for group in groups:
        assert list(group.subcarriers) == sorted(set(group.subcarriers))
        for port, values in zip(group.ports, group.values, strict=True):
            assert port not in grids
            grids[port] = np.zeros((14, carrier.subcarriers), complex)
            grids[port][np.ix_(group.symbols, group.subcarriers)] = values
    return grids


def resource(row: int, density: float, bits: str, **more: Any) -> CsiRs:
    l_1 = 9 if row in (13, 14, 16, 17) else None
    return CsiRs(row=row, density=density, frequency_bits=bits, l_0=3, l_1=l_1, n_id=777, **more)


@pytest.mark.parametrize(("row", "density", "bits"), CASES)
@pytest.mark.parametrize("odd", [False, True])
def test_values_are_the_texts(row: int, density: float, bits: str, odd: bool) -> None:
    config = resource(row, density, bits, first_crb=4, crb_count=7, odd_blocks=odd)
    groups = config.pilots(CARRIER, 11)
    expected = literal_csi_rs(config, CARRIER, 11, range(4, 11))
    grids = dense(groups, CARRIER)
    assert set(grids) == set(expected) == set(range(config.port_count))
    for port, grid in grids.items():
        np.testing.assert_allclose(grid, expected[port], atol=1e-6)
    used = np.flatnonzero(sum(np.abs(grid).sum(axis=1) for grid in grids.values()))
    assert tuple(used) == config.symbols


@pytest.mark.parametrize(("row", "density", "bits"), CASES)
def test_ports_are_orthogonal(row: int, density: float, bits: str) -> None:
    """Within a CDM group over its own resource elements; groups do not share any."""
    groups = resource(row, density, bits).pilots(CARRIER, 2)
    taken: set[tuple[int, int]] = set()
    for group in groups:
        elements = {(symbol, int(k)) for symbol in group.symbols for k in group.subcarriers}
        assert not elements & taken
        taken |= elements
        np.testing.assert_allclose(np.abs(group.values), 1.0, rtol=1e-6)
        size = len(group.ports)
        assert size == {1: 1, 2: 1}.get(row, 2 * len(group.symbols))
        spans = group.values.reshape(size, len(group.symbols), -1, 1 if size == 1 else 2)
        products = np.einsum("gtnk,htnk->ngh", spans, spans.conj())
        np.testing.assert_allclose(products, np.broadcast_to(size * np.eye(size), products.shape), atol=1e-5)


def test_the_whole_carrier_by_default() -> None:
    (group,) = CsiRs(n_id=3).pilots(CARRIER, 0)
    np.testing.assert_array_equal(group.subcarriers, np.arange(0, 24 * 12, 4))
    (odd,) = CsiRs(row=2, density=0.5, odd_blocks=True, frequency_bits="000000000100").pilots(CARRIER, 0)
    # CRB 3, the carrier's PRB 0, is odd.
    np.testing.assert_array_equal(odd.subcarriers, np.arange(0, 24 * 12, 24) + 2)


def test_when_it_is_sent() -> None:
    config = CsiRs(period_slots=40, offset_slots=27)
    sent = [(frame, slot) for frame in range(6) for slot in range(20) if config.pilots(CARRIER, slot, frame)]
    assert sent == [(1, 7), (3, 7), (5, 7)]
    assert all(CsiRs().pilots(CARRIER, slot) for slot in range(20))
    assert config.pilots(CARRIER, 7, 1)[0] is config.pilots(CARRIER, 7, 3)[0]


def test_tracking() -> None:
    """Two symbols of two slots, each of them what row 1 says."""
    config = TrackingRs(l_0=5, n_id=41, period_slots=20, offset_slots=19, frequency_bits="0100")
    sent = {(frame, slot) for frame in range(3) for slot in range(20) if config.pilots(CARRIER, slot, frame)}
    assert sent == {(0, 19), (0, 0), (1, 0), (1, 19), (2, 0), (2, 19)}
    (group,) = config.pilots(CARRIER, 19)
    assert group.symbols == (5, 9)
    assert group.ports == (0,)
    for index, symbol in enumerate(group.symbols):
        (single,) = CsiRs(l_0=symbol, n_id=41, frequency_bits="0100").pilots(CARRIER, 19)
        np.testing.assert_array_equal(group.subcarriers, single.subcarriers)
        np.testing.assert_array_equal(group.values[:, index], single.values[:, 0])
    assert not TrackingRs(slot_count=1, period_slots=20, offset_slots=19).pilots(CARRIER, 0, 1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"row": 19}, "row"),
        ({"frequency_bits": "00001"}, "4 bits"),
        ({"frequency_bits": "0002"}, "4 bits"),
        ({"frequency_bits": "0011"}, "1 set bits"),
        ({"row": 6, "density": 1.0, "frequency_bits": "000111"}, "4 set bits"),
        ({"density": 1.0}, "density"),
        ({"row": 4, "density": 0.5, "frequency_bits": "001"}, "density"),
        ({"l_0": 14}, "l_0"),
        ({"l_1": 8}, "l_1"),
        ({"row": 14, "density": 1.0, "frequency_bits": "000111"}, "l_1"),
        ({"row": 14, "density": 1.0, "frequency_bits": "000111", "l_1": 5}, "two symbols apart"),
        ({"row": 18, "density": 1.0, "frequency_bits": "001111", "l_0": 11}, "leaves the slot"),
        ({"n_id": 1024}, "n_id"),
        ({"period_slots": 7}, "period_slots"),
        ({"period_slots": 10, "offset_slots": 10}, "offset_slots"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CsiRs(**settings)


def test_what_does_not_fit() -> None:
    for config in (CsiRs(first_crb=2), CsiRs(first_crb=3, crb_count=25)):
        with pytest.raises(ValueError, match="the carrier has 0 to 23"):
            config.pilots(CARRIER, 0)
    with pytest.raises(ValueError, match="no resource block"):
        CsiRs(first_crb=27).pilots(CARRIER, 0)
    with pytest.raises(ValueError, match="slot_in_frame"):
        CsiRs().pilots(CARRIER, 20)
    with pytest.raises(ValueError, match="frame"):
        CsiRs().pilots(CARRIER, 0, -1)
    with pytest.raises(ValueError, match="l_0"):
        TrackingRs(l_0=10)
    with pytest.raises(ValueError, match="slot_count"):
        TrackingRs(slot_count=3)
