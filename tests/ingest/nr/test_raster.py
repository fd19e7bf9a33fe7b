"""The synchronisation raster of 38.104 clause 5.4.3, and the numbers of SSBs that go with frequencies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.nr.numerology import max_ssb_per_half_frame, ssb_spacings_hz
from ingest.nr.raster import candidates_hz, sync_raster_hz


def gscn_hz(gscn: int) -> float:
    """Table 5.4.3.1-1, from the other side: the frequency of a global synchronisation channel number."""
    if gscn < 7499:
        n, step = divmod(gscn + 1, 3)
        return n * 1200e3 + (2 * step + 1) * 50e3
    if gscn < 22256:
        return 3000e6 + (gscn - 7499) * 1.44e6
    return 24250.08e6 + (gscn - 22256) * 17.28e6


@pytest.mark.parametrize(
    ("gscn", "megahertz"),
    [
        (2, 1.25),
        (3, 1.35),
        (4, 1.45),
        (7498, 2999.05),
        (7499, 3000.0),
        (22255, 24248.64),
        (22256, 24250.08),
        (26639, 99988.32),
        (4604, 1842.05),  # the recorded n3 cell
        (7855, 3512.64),  # the recorded n78 cell
        (7786, 3413.28),
    ],
)
def test_single_frequencies(gscn: int, megahertz: float) -> None:
    assert gscn_hz(gscn) == pytest.approx(megahertz * 1e6, abs=1e-3)
    assert sync_raster_hz(megahertz * 1e6 - 1, megahertz * 1e6 + 1) == pytest.approx([megahertz * 1e6], abs=1e-3)
    assert sync_raster_hz(gscn_hz(gscn), gscn_hz(gscn)) == [gscn_hz(gscn)]


@pytest.mark.parametrize(
    ("first", "last"),
    # Table 5.4.3.3-1, for 15 kHz below 3 GHz and 30 kHz above: n1, n3, n28, n41, n77, n78, n257, n260.
    [
        (5279, 5419),
        (4517, 4693),
        (1901, 2002),
        (6246, 6717),
        (7711, 8329),
        (7711, 8051),
        (22388, 22558),
        (22995, 23166),
    ],
)
def test_whole_bands(first: int, last: int) -> None:
    found = sync_raster_hz(gscn_hz(first), gscn_hz(last))
    assert found == pytest.approx([gscn_hz(gscn) for gscn in range(first, last + 1)], abs=1e-3)


EVERY_HZ = [gscn_hz(gscn) for gscn in range(2, 26640)]


@given(low_hz=st.floats(0, 101e9), width_hz=st.floats(0, 100e6))
@settings(max_examples=150, deadline=None)
def test_any_range(low_hz: float, width_hz: float) -> None:
    expected = [hz for hz in EVERY_HZ if low_hz <= hz <= low_hz + width_hz]
    assert sync_raster_hz(low_hz, low_hz + width_hz) == pytest.approx(expected, abs=1e-3)


def test_nothing_below_and_above() -> None:
    assert sync_raster_hz(-1e9, 1.2e6) == []
    assert sync_raster_hz(100e9, 101e9) == []
    assert sync_raster_hz(2e9, 1e9) == []


@given(
    center_hz=st.floats(5e6, 8e9),
    rate_hz=st.floats(1e6, 61.44e6),
    scs_hz=st.sampled_from([15e3, 30e3]),
)
@settings(max_examples=150, deadline=None)
def test_a_candidate_fits_whole_into_the_capture(center_hz: float, rate_hz: float, scs_hz: float) -> None:
    found = candidates_hz(center_hz, rate_hz, scs_hz)
    inside = [
        hz for hz in EVERY_HZ if abs(hz - center_hz) <= rate_hz / 2 - 120 * scs_hz and abs(hz - center_hz) < rate_hz
    ]
    assert sorted(found) == pytest.approx(inside, abs=1e-3)
    distances = [abs(hz - center_hz) for hz in found]
    assert distances == sorted(distances)


@pytest.mark.parametrize(("rate_hz", "count"), [(7.2e6, 1), (7.19e6, 0), (7.2e6 + 2.88e6, 3), (1.0, 0)])
def test_the_narrowest_capture(rate_hz: float, count: int) -> None:
    assert len(candidates_hz(3512.64e6, rate_hz, 30e3)) == count


@pytest.mark.parametrize(
    ("megahertz", "spacings"),
    [(700, (15e3, 30e3)), (3500, (15e3, 30e3)), (7125, (15e3, 30e3)), (28000, (120e3, 240e3))],
)
def test_spacings(megahertz: float, spacings: tuple[float, ...]) -> None:
    assert ssb_spacings_hz(megahertz * 1e6) == spacings


@pytest.mark.parametrize(
    ("megahertz", "scs_hz", "count"),
    [
        (763.35, 15e3, 4),  # n28, case A
        (1842.05, 15e3, 4),  # n3, case A
        (881.5, 30e3, 4),  # n5, case B
        (2155.0, 30e3, 4),  # n66, case B, paired
        (1900.0, 30e3, 8),  # n39, case C above 1.88 GHz
        (2017.5, 30e3, 8),  # n34, case C
        (2350.0, 30e3, 8),  # n40, case C
        (2600.0, 30e3, 8),  # n41, case C
        (2600.0, 15e3, 4),  # n41, case A
        (3000.0, 15e3, 4),
        (3000.1, 15e3, 8),
        (3512.64, 30e3, 8),  # n78, case C
        (4900.0, 30e3, 8),
        (28000.0, 120e3, 64),
    ],
)
def test_ssbs_per_half_frame(megahertz: float, scs_hz: float, count: int) -> None:
    assert max_ssb_per_half_frame(megahertz * 1e6, scs_hz) == count
