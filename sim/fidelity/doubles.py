"""Paths that Sionna RT finds twice where two surfaces lie almost, but not quite, in one plane.

It tells planes apart to a millimetre. Fronts of neighbouring houses that were moved by millimetres, and triangles of a
rebuilt wall, each count as a plane of their own: the same reflection comes out twice or more, and its power fourfold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.paths import DIFFUSE, PathTable

_SAME_M = 3e-3
"""Of a path's length: what planes a millimetre or so apart make of it."""

_SAME_DIRECTION = 1e-3


def without_doubles(table: PathTable) -> PathTable:
    """The table with only the first of paths of one link and kind that leave, arrive and are as long as each other.

    Diffuse paths are left as they are: they are samples, however near to each other.
    """
    kept = np.ones(table.paths, np.bool_)
    for link in range(table.links):
        rows = table.rows(link)
        kept[rows] = ~_repeats(table, np.arange(rows.start, rows.stop))
    offsets = np.concatenate([[0], np.cumsum(kept)])[table.offsets]
    return table.chosen(np.nonzero(kept)[0], offsets.astype(np.int64))


def _repeats(table: PathTable, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the rows repeat an earlier one."""
    found = np.zeros(len(rows), np.bool_)
    sure = np.nonzero((table.kind[rows] & DIFFUSE) == 0)[0]
    if len(sure) < 2:
        return found
    chosen = rows[sure]
    same = table.kind[chosen][:, None] == table.kind[chosen]
    same &= np.abs(table.length_m[chosen][:, None] - table.length_m[chosen]) < _SAME_M
    for directions in (table.departure[chosen], table.arrival[chosen]):
        same &= np.sum((directions[:, None] - directions) ** 2, axis=2) < _SAME_DIRECTION**2
    found[sure] = np.any(np.tril(same, -1), axis=1)
    return found
