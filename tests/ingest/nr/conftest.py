"""Where kernels run as plain Python, NumPy does the PSS filters: a search would take a minute otherwise.

That the kernels do the same, also as plain Python, is shown by `test_pss_filters` on a few segments.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from ingest.nr import pss_filters
from ingest.nr.pss_lanes import BINS, COARSE, IMAGINARY, LANES, OUTPUTS, PART

Real = npt.NDArray[np.float32]

add_power = pss_filters._add_power
"""The kernel itself."""


def filter_by_numpy(x: Real, by: Real, rows: npt.NDArray[np.int64], turning: Real, part: Real, out: Real) -> None:
    """What `pss_filters._filter` does."""
    behind, part_values = IMAGINARY, 9 * PART
    both = [x[first : first + part_values].reshape(9, 65, LANES)[:, :64] for first in (0, behind)]
    template = (by[:COARSE] + 1j * by[COARSE:]).reshape(9, 64, 1)
    product = np.empty((COARSE, LANES), np.complex128)
    product[BINS] = (both[0] + 1j * both[1]) * template
    outputs = np.fft.ifft(product, axis=0).ravel() * COARSE
    out[: outputs.size] = outputs.real
    out[pss_filters._OUT_IMAGINARY :][: outputs.size] = outputs.imag


def power_by_numpy(out: Real, power: Real, limits: Real) -> int:
    """What `pss_filters._add_power` does."""
    count = OUTPUTS * LANES
    values = out[: count + LANES] + 1j * out[pss_filters._OUT_IMAGINARY :][: count + LANES]
    power[:count] += np.abs(values[:count]) ** 2
    power[count:] += np.abs(values[:count] + values[LANES:]) ** 2 / 2
    return int(np.count_nonzero(power > limits))


if numba.config.DISABLE_JIT:
    pss_filters._filter, pss_filters._add_power = filter_by_numpy, power_by_numpy
