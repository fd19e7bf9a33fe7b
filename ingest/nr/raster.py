"""The synchronisation raster: where an SSB may lie (38.104 clause 5.4.3.1)."""

from __future__ import annotations

import numpy as np

from ingest.nr.numerology import SSB_SUBCARRIERS


def sync_raster_hz(low_hz: float, high_hz: float) -> list[float]:
    """SS_REF frequencies between `low_hz` and `high_hz`, ascending.

    Below 3 GHz N x 1200 kHz + M x 50 kHz with M of 1, 3, 5; to 24.25 GHz 3000 MHz + N x 1.44 MHz; above that
    24250.08 MHz + N x 17.28 MHz.
    """
    found: list[float] = []
    for n in range(max(1, int(low_hz // 1.2e6)), min(2499, int(high_hz // 1.2e6)) + 1):
        found += [n * 1.2e6 + m * 50e3 for m in (1, 3, 5)]
    found += [3e9 + n * 1.44e6 for n in _steps(low_hz, high_hz, 3e9, 1.44e6, 14756)]
    found += [24.25008e9 + n * 17.28e6 for n in _steps(low_hz, high_hz, 24.25008e9, 17.28e6, 4383)]
    return [frequency for frequency in found if low_hz <= frequency <= high_hz]


def _steps(low_hz: float, high_hz: float, origin_hz: float, step_hz: float, last: int) -> range:
    """The numbers n <= last of the frequencies origin + n step between low and high."""
    first = max(0, int(np.ceil((low_hz - origin_hz) / step_hz)))
    return range(first, min(last, int(np.floor((high_hz - origin_hz) / step_hz))) + 1)


def candidates_hz(center_hz: float, rate_hz: float, scs_hz: float) -> list[float]:
    """SS_REF frequencies whose whole SSB lies inside a capture, the ones nearest its centre first.

    SS_REF is the frequency of subcarrier 120 of the block (38.104 table 5.4.3.2-1), so the block reaches 120
    subcarriers down and 119.5 up from there.
    """
    margin_hz = rate_hz / 2 - SSB_SUBCARRIERS / 2 * scs_hz
    if margin_hz < 0:
        return []
    found = sync_raster_hz(center_hz - margin_hz, center_hz + margin_hz)
    return sorted(found, key=lambda frequency: abs(frequency - center_hz))
