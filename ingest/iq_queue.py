"""IQ on its way from the thread that receives to the thread that estimates.

A radio must never wait, and what a full socket drops at its far end, nobody can count: so the socket is always drained,
and where estimation is too slow, whole blocks of IQ are let go here, and told.
"""

from __future__ import annotations

import threading
from collections import deque

import msgspec
import numpy as np

from ingest.buffers import Buffers
from ingest.messages import IqBlock

MAX_WAITING_S = 0.5
"""Estimation on a shared machine was seen to fall a fifth of a second behind for a moment; it then catches up."""

MAX_WAITING_BYTES = 512 << 20


class IqQueue:
    """A bounded queue of blocks from any number of radios.

    More than `max_s` of one radio's signal waiting, or more than `max_bytes` in all: with `sheds` the older half of
    what waits goes, for the rest is in one piece, where dropping every other block would leave no two that follow each
    other; else `put` waits. shed_blocks and shed_samples count what went, shed_s is how much signal that was.
    missing_samples: how many the senders' numbering says are missing before they came here.
    """

    def __init__(self, *, sheds: bool, max_s: float = MAX_WAITING_S, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self.shed_blocks = self.shed_samples = self.missing_samples = 0
        self.shed_s = 0.0
        self._sheds = sheds
        self._limits = max_s, max_bytes
        self._changed = threading.Condition()
        self._waiting: deque[IqBlock] = deque()
        self._seconds: dict[str, float] = {}
        self._bytes = 0
        self._buffers = Buffers()
        self._next: dict[str, tuple[int, int]] = {}
        self._ended = self._closed = False

    def put(self, block: IqBlock) -> None:
        """Append `block`; once the queue is closed, it is let go."""
        with self._changed:
            self._count_missing(block)
            while not self._sheds and self._waiting and self._is_full(block) and not self._closed:
                self._changed.wait()
            if self._closed:
                return
            self._waiting.append(block)
            self._weigh(block, 1)
            if len(self._waiting) > 1 and self._is_full():
                self._shed()
            self._changed.notify_all()

    def take(self, max_s: float = 0.0) -> IqBlock | None:
        """The oldest block, waiting for one; None when no more can come.

        Blocks behind it that go on with the same signal are joined to it while all last `max_s` at most: whoever
        is behind has less to do for each sample. A joined block has the first one's number and the last one's time.
        """
        with self._changed:
            while not self._waiting:
                if self._ended or self._closed:
                    return None
                self._changed.wait()
            run = [self._popped()]
            samples = run[0].samples.shape[1]
            while self._waiting and _goes_on(run[-1], self._waiting[0]):
                samples += self._waiting[0].samples.shape[1]
                if samples > max_s * run[0].rate_hz:
                    break
                run.append(self._popped())
            self._changed.notify_all()
        return run[0] if len(run) == 1 else self._joined(run)

    def end(self) -> None:
        """No more will be put; what waits can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody wants what waits any more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _count_missing(self, block: IqBlock) -> None:
        epoch, expected = self._next.get(block.source, (block.epoch, block.first_sample))
        if epoch == block.epoch:
            self.missing_samples += max(block.first_sample - block.skipped - expected, 0)
        self._next[block.source] = block.epoch, block.first_sample + block.samples.shape[1]

    def _is_full(self, further: IqBlock | None = None) -> bool:
        max_s, max_bytes = self._limits
        if further is None:
            return self._bytes > max_bytes or max(self._seconds.values(), default=0.0) > max_s
        seconds = self._seconds.get(further.source, 0.0) + further.samples.shape[1] / further.rate_hz
        return self._bytes + further.samples.nbytes > max_bytes or seconds > max_s

    def _shed(self) -> None:
        for _ in range(len(self._waiting) // 2):
            block = self._popped()
            self.shed_blocks += 1
            self.shed_samples += block.samples.shape[1]
            self.shed_s += block.samples.shape[1] / block.rate_hz

    def _joined(self, run: list[IqBlock]) -> IqBlock:
        samples = self._buffers.take(len(run[0].samples), sum(block.samples.shape[1] for block in run))
        np.concatenate([block.samples for block in run], axis=1, out=samples)
        return msgspec.structs.replace(run[0], t_ns=run[-1].t_ns, samples=samples)

    def _popped(self) -> IqBlock:
        block = self._waiting.popleft()
        self._weigh(block, -1)
        return block

    def _weigh(self, block: IqBlock, sign: int) -> None:
        self._bytes += sign * block.samples.nbytes
        seconds = self._seconds.get(block.source, 0.0) + sign * block.samples.shape[1] / block.rate_hz
        self._seconds[block.source] = seconds
        if not self._waiting:
            self._seconds.clear()  # else rounding adds up over months, and radios that are gone stay


def _goes_on(block: IqBlock, other: IqBlock) -> bool:
    """Whether `other` begins where `block` ends."""
    same = all(getattr(block, name) == getattr(other, name) for name in ("source", "epoch", "rate_hz", "center_hz"))
    antennas, length = block.samples.shape
    return same and antennas == len(other.samples) and other.first_sample == block.first_sample + length
