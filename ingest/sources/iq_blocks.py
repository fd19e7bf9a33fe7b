"""Puts bare samples, which come in pieces of any length, together to blocks of one length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ingest.messages import IqBlock
from ingest.stream_uri import IqSettings

_MAX_BLOCK_SAMPLES = 1 << 22

Samples = npt.NDArray[np.complex64]


class BlockBuilder:
    """Collects samples of A coherent chains and hands them out as `IqBlock`s that follow each other.

    What breaks the row (`skip`, `restart`, `retune`) first hands out what was collected. `next_sample` is the running
    number of the sample that comes next; `epoch` counts the sender's lives.
    """

    def __init__(self, source: str, antennas: int, settings: IqSettings) -> None:
        self.rate_hz = settings.rate_hz
        self.center_hz = settings.center_hz
        self.next_sample = 0
        self.epoch = 0
        self._source = source
        self._antennas = antennas
        self._block_s = settings.block_s
        self._seq = 0
        self._filled = 0
        self._now_ns = 0
        self._buffer = self._new_buffer()

    def add(self, samples: Samples, now_ns: int) -> Iterator[IqBlock]:
        """`samples` [A, n] that came at `now_ns`; the blocks that they fill."""
        self._now_ns = now_ns
        done = 0
        while done < samples.shape[1]:
            part = samples[:, done : done + self._buffer.shape[1] - self._filled]
            self._buffer[:, self._filled : self._filled + part.shape[1]] = part
            done += part.shape[1]
            self._filled += part.shape[1]
            self.next_sample += part.shape[1]
            if self._filled == self._buffer.shape[1]:
                yield from self.flush()

    def flush(self) -> Iterator[IqBlock]:
        """What was collected, as a block of its own."""
        if not self._filled:
            return
        samples, first = self._buffer[:, : self._filled], self.next_sample - self._filled
        self._buffer, self._filled = self._new_buffer(), 0
        self._seq += 1
        yield IqBlock(
            source=self._source,
            epoch=self.epoch,
            seq=self._seq - 1,
            t_ns=self._now_ns,
            rate_hz=self.rate_hz,
            center_hz=self.center_hz,
            first_sample=first,
            samples=np.ascontiguousarray(samples),
        )

    def skip(self, samples: int) -> Iterator[IqBlock]:
        """`samples` are missing here."""
        yield from self.flush()
        self.next_sample += samples

    def restart(self, first_sample: int = 0) -> Iterator[IqBlock]:
        """The sender has begun anew, or its samples no longer follow those before by a known count."""
        yield from self.flush()
        self.epoch += 1
        self._seq = 0
        self.next_sample = first_sample

    def retune(self, rate_hz: float | None = None, center_hz: float | None = None) -> Iterator[IqBlock]:
        """From here on another rate, another centre frequency, or both."""
        yield from self.flush()
        self.rate_hz = self.rate_hz if rate_hz is None else rate_hz
        self.center_hz = self.center_hz if center_hz is None else center_hz
        self._buffer = self._new_buffer()

    def _new_buffer(self) -> Samples:
        """A new one for every block: who was handed the last one may keep it."""
        length = min(max(round(self._block_s * self.rate_hz), 1), _MAX_BLOCK_SAMPLES // self._antennas)
        return np.empty((self._antennas, length), np.complex64)
