"""How segments of a band lie side by side for the PSSs' filters (`pss_filters`): spectra, templates and limits.

The segment is the index that runs fastest. Real parts come before imaginary ones. A spectrum's bins stand in nine parts
of 64 rows, so that the transform needs no turning between parts and rows (Good 1958, Thomas 1963).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel

LANES = 16
"""Segments side by side."""

COARSE = 576
"""Bins of a segment's spectrum that a PSS can occupy, and points of time at which its filter is computed."""

OUTPUTS = COARSE * 3 // 4
"""Those of them where a PSS starts that lies in the segment wholly."""

POINTS = 2 * OUTPUTS
"""Places looked at in a segment: every output, and the middle between it and the next."""

PART = 65 * LANES
"""From one of the nine parts to the next: 64 rows, and one more lest all parts fall on the same lines of a cache."""
IMAGINARY = 9 * PART + LANES
"""From real to imaginary parts of a spectrum."""
MIDDLES = OUTPUTS * LANES
"""From powers of outputs to those of middles."""

Real = npt.NDArray[np.float32]

BINS = (64 * np.arange(9)[:, None] + 9 * np.arange(64)) % COARSE
"""Which bin stands where in [part, row], so that no turning is needed between parts and rows."""


def templates_of(spectra: npt.NDArray[np.complex64]) -> Real:
    """Templates [T, COARSE], by which spectra are multiplied, in the order of the filters. Shape [T, 2 x COARSE]."""
    parts = spectra[:, BINS.ravel()]
    return np.concatenate([parts.real, parts.imag], axis=1).astype(np.float32)


def side_by_side(spectra: npt.NDArray[np.complex64], kept: npt.NDArray[np.int64]) -> Real:
    """The bins `kept` [COARSE] of spectra [A, segments, N], LANES segments side by side. Shape [groups, A, values]."""
    groups = -(-spectra.shape[1] // LANES)
    packed = np.zeros((groups, len(spectra), 2 * IMAGINARY), np.float32)
    _pack(spectra, kept[BINS], packed)
    return packed


def limits_side_by_side(limits: Real, apart: int, places: npt.NDArray[np.int64], segments: int) -> Real:
    """Limits in the order of the filters' powers. Shape [groups, POINTS x LANES].

    A segment's are those at `places` [POINTS] from its start, segments starting `apart`.
    """
    ordered = np.full((-(-segments // LANES), POINTS * LANES), np.inf, np.float32)
    _order_limits(limits, apart, places, segments, ordered)
    return ordered


@kernel
def _pack(spectra: npt.NDArray[np.complex64], bins: npt.NDArray[np.int64], packed: Real) -> None:
    for antenna in range(spectra.shape[0]):
        for segment in range(spectra.shape[1]):
            into = packed[segment // LANES, antenna]
            lane = segment % LANES
            for part in range(9):
                for row in range(64):
                    value = spectra[antenna, segment, bins[part, row]]
                    into[part * PART + row * LANES + lane] = value.real
                    into[part * PART + row * LANES + lane + IMAGINARY] = value.imag


@kernel
def _order_limits(limits: Real, apart: int, places: npt.NDArray[np.int64], segments: int, ordered: Real) -> None:
    for segment in range(segments):
        into, lane = ordered[segment // LANES], segment % LANES
        for output in range(OUTPUTS):
            into[output * LANES + lane] = limits[segment * apart + places[2 * output]]
            into[MIDDLES + output * LANES + lane] = limits[segment * apart + places[2 * output + 1]]
