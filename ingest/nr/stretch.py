"""A block of a stream with the end of the one before: what lies across the border is whole, and nothing is copied
that is not asked for."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.complex64]


class Stretch:
    """Samples `first_sample` to `end` of a stream: those of `tail` [A, t], then those of `block` [A, T]."""

    def __init__(self, tail: Samples, block: Samples, first_sample: int) -> None:
        self._tail = tail
        self._block = block
        self.first_sample = first_sample
        self.antennas = block.shape[0]
        self.length: int = tail.shape[1] + block.shape[1]

    @property
    def end(self) -> int:
        return self.first_sample + self.length

    def take(self, start: int, stop: int) -> Samples:
        """Samples start to stop of the stream. Shape [A, stop - start]; a view where they lie in one block.

        Raises ValueError where some of them are not there.
        """
        if not self.first_sample <= start <= stop <= self.end:
            raise ValueError(f"samples {start} to {stop} are not in {self.first_sample} to {self.end}")
        border = self._tail.shape[1]
        first, last = start - self.first_sample, stop - self.first_sample
        if first >= border:
            return self._block[:, first - border : last - border]
        if last <= border:
            return self._tail[:, first:last]
        return np.concatenate([self._tail[:, first:], self._block[:, : last - border]], axis=1)

    @cached_property
    def whole(self) -> Samples:
        """All samples. Shape [A, length]."""
        return np.concatenate([self._tail, self._block], axis=1) if self._tail.shape[1] else self._block

    def last(self, count: int) -> Samples:
        """A copy of the last `count` samples, or of all if there are fewer."""
        return self.take(max(self.end - count, self.first_sample), self.end).copy()
