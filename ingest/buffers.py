"""Memory for blocks of samples, used again: new pages for every block take longer than what is read into them."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

_KEPT = 4
_UNSEEN = 3
"""References to an array that nobody else looks at: the list's, the loop's and that of who asks."""


class Buffers:
    """Hands out arrays whose contents do not matter. One that nobody holds any more, nor a view of it, comes again."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.complex64]] = []

    def take(self, antennas: int, samples: int) -> npt.NDArray[np.complex64]:
        """An array [antennas, samples]."""
        for array in self._arrays:
            if array.shape == (antennas, samples) and sys.getrefcount(array) <= _UNSEEN:
                return array
        array = np.empty((antennas, samples), np.complex64)
        self._arrays = [*self._arrays[1 - _KEPT :], array]
        return array
