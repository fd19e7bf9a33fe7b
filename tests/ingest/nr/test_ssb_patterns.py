"""Patterns A to E as 38.213 clause 4.1 lists them, and the frame found again from a block anywhere in it."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb_patterns import (
    case_of,
    decide_case,
    first_symbols,
    ssb_start_s,
    symbol_start_s,
)
from tests.ingest.nr.broadcast import Broadcast
from tests.ingest.nr.signals import Ssb, block, capture

LITERAL = {
    ("A", 4): [2, 8, 16, 22],
    ("A", 8): [2, 8, 16, 22, 30, 36, 44, 50],
    ("B", 4): [4, 8, 16, 20],
    ("B", 8): [4, 8, 16, 20, 32, 36, 44, 48],
    ("C", 4): [2, 8, 16, 22],
    ("C", 8): [2, 8, 16, 22, 30, 36, 44, 50],
}
SPACING_HZ = {"A": 15e3, "B": 30e3, "C": 30e3, "D": 120e3, "E": 240e3}


@pytest.mark.parametrize(("case", "l_max"), LITERAL)
def test_the_small_patterns(case: str, l_max: int) -> None:
    assert list(first_symbols(case, l_max)) == LITERAL[case, l_max]


def test_the_large_patterns() -> None:
    d = [s + 28 * n for n in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18) for s in (4, 8, 16, 20)]
    e = [s + 56 * n for n in (0, 1, 2, 3, 5, 6, 7, 8) for s in (8, 12, 16, 20, 32, 36, 40, 44)]
    assert list(first_symbols("D", 64)) == d
    assert list(first_symbols("E", 64)) == e
    with pytest.raises(ValueError, match="pattern D has no 8"):
        first_symbols("D", 8)


@pytest.mark.parametrize(("case", "l_max"), [*LITERAL, ("D", 64), ("E", 64)])
def test_no_block_has_a_symbol_with_the_longer_prefix(case: str, l_max: int) -> None:
    per_half_subframe = 7 * round(SPACING_HZ[case] / 15e3)
    symbols = {first + k for first in first_symbols(case, l_max) for k in range(4)}
    assert not any(symbol % per_half_subframe == 0 for symbol in symbols)
    assert len(symbols) == 4 * l_max  # and no two blocks share one


@pytest.mark.parametrize("scs_hz", [15e3, 30e3, 120e3, 240e3])
def test_symbols_start_where_their_lengths_add_up_to(scs_hz: float) -> None:
    """Clause 5.3.1 in units of Tc kappa = 1/30.72 MHz, symbol after symbol."""
    mu = round(np.log2(scs_hz / 15e3))
    ticks = 0.0
    for symbol in range(5 * 14 * 2**mu):
        assert symbol_start_s(symbol, scs_hz) == pytest.approx(ticks / 30.72e6, abs=1e-13)
        prefix = 144 * 2.0**-mu + (16 if symbol % (7 * 2**mu) == 0 else 0)
        ticks += 2048 * 2.0**-mu + prefix
    assert ticks / 30.72e6 == pytest.approx(5e-3, abs=1e-13)


@pytest.mark.parametrize(
    ("scs_hz", "raster_hz", "case"),
    [
        (15e3, 1842.05e6, "A"),
        (30e3, 881.5e6, "B"),
        (30e3, 2155e6, "B"),
        (30e3, 2600e6, "C"),
        (30e3, 3512.64e6, "C"),
        (120e3, 28e9, "D"),
        (240e3, 28e9, "E"),
    ],
)
def test_the_pattern_of_a_band(scs_hz: float, raster_hz: float, case: str) -> None:
    assert case_of(scs_hz, raster_hz) == case


@pytest.mark.parametrize(("scs_hz", "raster_hz"), [(120e3, 3.5e9), (15e3, 28e9), (60e3, 3.5e9)])
def test_spacings_without_a_pattern(scs_hz: float, raster_hz: float) -> None:
    with pytest.raises(ValueError, match="no SSB has"):
        case_of(scs_hz, raster_hz)


@pytest.mark.parametrize("true", ["B", "C"])
@pytest.mark.parametrize("expected", ["B", "C"])
def test_blocks_of_two_indices_decide_between_b_and_c(true: str, expected: str) -> None:
    seen = [(3.0 + ssb_start_s(true, 8, index) + 5e-3 * n, index) for n, index in enumerate((0, 1, 5))]
    assert decide_case(expected, 8, seen) == true
    assert decide_case(expected, 8, seen[:1]) == expected
    assert decide_case("A", 8, seen) == "A"
    nonsense = [(time_s + 1e-3 * index, index) for time_s, index in seen]
    assert decide_case(expected, 8, nonsense) == expected


CELLS = [
    ("A", 1842.05e6, 7.68e6, 4, 3, 1),
    ("A", 1842.05e6, 15.36e6, 4, 0, 0),
    ("B", 881.05e6, 7.68e6, 4, 2, 1),
    ("C", 2600.45e6, 7.68e6, 8, 7, 0),
    ("C", 3512.64e6, 15.36e6, 8, 5, 1),
    ("D", 24.25008e9 + 200 * 17.28e6, 61.44e6, 64, 43, 0),
    ("D", 24.25008e9 + 200 * 17.28e6, 30.72e6, 64, 6, 1),
    ("E", 24.25008e9 + 200 * 17.28e6, 61.44e6, 64, 61, 1),
]


@pytest.mark.kernel
@pytest.mark.parametrize(("case", "raster_hz", "rate_hz", "l_max", "index", "half_frame"), CELLS)
def test_the_frame_of_a_block(
    case: str, raster_hz: float, rate_hz: float, l_max: int, index: int, half_frame: int, rng: np.random.Generator
) -> None:
    """A block of any pattern tells where its frame starts, which one it is, and in which slot the block lies."""
    frame_start_s, scs_hz, sfn = 0.123, SPACING_HZ[case], 517
    start_s = frame_start_s + 5e-3 * half_frame + ssb_start_s(case, l_max, index)
    sent = Ssb(
        pci=333,
        start_s=start_s,
        raster_hz=raster_hz,
        scs_hz=scs_hz,
        index_bar=index + 4 * half_frame if l_max == 4 else index % 8,
        cfo_hz=0.1 * scs_hz,
        said=Broadcast(sfn=sfn, half_frame=half_frame, l_max=l_max, ssb_index=index),
    )
    first_sample = round((start_s - 1e-4) * rate_hz)
    seen = capture(
        [sent],
        rate_hz=rate_hz,
        center_hz=raster_hz,
        samples=int(rate_hz * 6e-4),
        snr_db=10.0,
        rng=rng,
        first_sample=first_sample,
    )
    receiver = NrReceiver()
    (frame,) = receiver.process(block(seen, rate_hz=rate_hz, center_hz=raster_hz, first_sample=first_sample))
    assert frame.user == f"pci333.ssb{index}"
    (cell,) = receiver.cells
    assert cell.mib is not None
    timing = cell.timing
    assert timing is not None
    assert (timing.case, timing.half_frame, timing.sfn) == (case, half_frame, sfn)
    assert timing.frame_start_s == pytest.approx(frame_start_s, abs=0.3 / (256 * scs_hz))
    symbol = first_symbols(case, l_max)[index]
    slots_per_frame = round(10 * scs_hz / 15e3)
    assert timing.slot == symbol // 14 + half_frame * slots_per_frame // 2
    assert timing.symbol == symbol % 14
    number, start_s = timing.frame_at(frame_start_s + 0.0253)
    assert (number, start_s) == (sfn + 2, pytest.approx(timing.frame_start_s + 0.02))


@pytest.mark.kernel
def test_a_cell_against_its_bands_rule(rng: np.random.Generator) -> None:
    """30 kHz in an FDD band stands for pattern B with four blocks; eight in pattern C are believed when proved."""
    raster_hz, rate_hz = 2155.25e6, 7.68e6
    blocks = [
        Ssb(
            pci=10,
            start_s=1e-4 + ssb_start_s("C", 8, index),
            raster_hz=raster_hz,
            index_bar=index,
            said=Broadcast(half_frame=0, sfn=3),
        )
        for index in (0, 5, 6)
    ]
    seen = capture(blocks, rate_hz=rate_hz, center_hz=raster_hz, samples=18_000, snr_db=10.0, rng=rng)
    receiver = NrReceiver()
    frames = list(receiver.process(block(seen, rate_hz=rate_hz, center_hz=raster_hz)))
    assert [frame.user for frame in frames] == ["pci10.ssb0", "pci10.ssb5", "pci10.ssb6"]
    last = next(cell for cell in receiver.cells if cell.measurement.ssb_index == 6)
    assert last.timing is not None
    assert last.timing.case == "C"
    assert last.timing.frame_start_s == pytest.approx(1e-4, abs=1e-7)
