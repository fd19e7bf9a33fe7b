"""From paths to what a data set keeps: every user's channel on tones, or as taps.

Sums are written out in kernels and run in the order of the paths: a library may change its order with what else a
machine does, and with it the last bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from sim.channels import SiteArrays
from sim.paths import PathTable
from sim.site import SPEED_OF_LIGHT_M_S

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


def path_responses(arrays: SiteArrays, table: PathTable) -> Complex:
    """What each path by itself gives at each antenna, at the carrier. Shape [L, N]."""
    each = np.arange(table.paths + 1)
    alone = table.chosen(each[:-1], each.astype(np.int64))
    return arrays.direct(alone, each[:-1].astype(np.int64), np.zeros((table.paths, 3)))


def earliest_s(table: PathTable) -> Real:
    """Delay of each link's earliest path, NaN where there is none. Shape [links]."""
    lengths_m = [table.length_m[table.rows(link)] for link in range(table.links)]
    return np.array([way.min() if len(way) else np.nan for way in lengths_m]) / SPEED_OF_LIGHT_M_S


def on_tones(responses: Complex, table: PathTable, tones_hz: Real) -> Complex:
    """sum_l r_l exp(-j 2 pi f_s tau_l) per link; tones_hz [S] are offsets from the carrier. Shape [links, N, S]."""
    out = np.empty((table.links, responses.shape[1], len(tones_hz)), np.complex128)
    _sum_on_tones(responses, table.length_m / SPEED_OF_LIGHT_M_S, table.offsets, tones_hz, out)
    return out


def as_taps(responses: Complex, table: PathTable, taps: int, bandwidth_hz: float, before: int) -> Complex:
    """sum_l r_l sinc(t - before - B (tau_l - tau_0)) per link, tau_0 the earliest. Shape [links, N, taps].

    Channel taps behind ideal filters of bandwidth B (D. Tse, P. Viswanath, "Fundamentals of wireless communication",
    2005, eq. 2.34).
    """
    out = np.empty((table.links, responses.shape[1], taps), np.complex128)
    delays_s = table.length_m / SPEED_OF_LIGHT_M_S
    _sum_as_taps(responses, delays_s, table.offsets, earliest_s(table), bandwidth_hz, float(before), out)
    return out


@kernel
def _sum_on_tones(responses: Complex, delays_s: Real, offsets: Index, tones_hz: Real, out: Complex) -> None:
    out[:] = 0.0
    for link in range(out.shape[0]):
        for path in range(offsets[link], offsets[link + 1]):
            for tone in range(out.shape[2]):
                turns = tones_hz[tone] * delays_s[path]
                factor = np.exp(-2j * np.pi * (turns - np.floor(turns)))
                for antenna in range(out.shape[1]):
                    out[link, antenna, tone] += responses[path, antenna] * factor


@kernel
def _sum_as_taps(
    responses: Complex,
    delays_s: Real,
    offsets: Index,
    earliest: Real,
    bandwidth_hz: float,
    before: float,
    out: Complex,
) -> None:
    out[:] = 0.0
    for link in range(out.shape[0]):
        for path in range(offsets[link], offsets[link + 1]):
            at = before + bandwidth_hz * (delays_s[path] - earliest[link])
            for tap in range(out.shape[2]):
                way = np.pi * (tap - at)
                factor = np.sin(way) / way if abs(way) > 1e-9 else 1.0
                for antenna in range(out.shape[1]):
                    out[link, antenna, tap] += responses[path, antenna] * factor
