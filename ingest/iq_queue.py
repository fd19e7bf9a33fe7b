"""IQ on its way from the thread that receives to the thread that estimates.

A radio must never wait, and what a full socket drops at its far end, nobody can count: so the socket is always drained,
and where estimation is too slow, whole blocks of IQ are let go here, and told.
"""

from __future__ import annotations

import threading
from collections import deque

from ingest.messages import IqBlock

MAX_WAITING_S = 0.1
MAX_WAITING_BYTES = 256 << 20


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

    def take(self) -> IqBlock | None:
        """The oldest block, waiting for one; None when no more can come."""
        with self._changed:
            while not self._waiting:
                if self._ended or self._closed:
                    return None
                self._changed.wait()
            block = self._waiting.popleft()
            self._weigh(block, -1)
            self._changed.notify_all()
            return block

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
            self.missing_samples += max(block.first_sample - expected, 0)
        self._next[block.source] = block.epoch, block.first_sample + block.samples.shape[1]

    def _is_full(self, further: IqBlock | None = None) -> bool:
        max_s, max_bytes = self._limits
        if further is None:
            return self._bytes > max_bytes or max(self._seconds.values(), default=0.0) > max_s
        seconds = self._seconds.get(further.source, 0.0) + further.samples.shape[1] / further.rate_hz
        return self._bytes + further.samples.nbytes > max_bytes or seconds > max_s

    def _shed(self) -> None:
        for _ in range(len(self._waiting) // 2):
            block = self._waiting.popleft()
            self._weigh(block, -1)
            self.shed_blocks += 1
            self.shed_samples += block.samples.shape[1]
            self.shed_s += block.samples.shape[1] / block.rate_hz

    def _weigh(self, block: IqBlock, sign: int) -> None:
        self._bytes += sign * block.samples.nbytes
        seconds = self._seconds.get(block.source, 0.0) + sign * block.samples.shape[1] / block.rate_hz
        self._seconds[block.source] = seconds
        if not self._waiting:
            self._seconds.clear()  # else rounding adds up over months, and radios that are gone stay
