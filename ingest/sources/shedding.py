"""A bounded hand-over from the thread that receives to the thread that estimates.

The socket is always drained: a radio must never wait, and what a full socket drops at its far end, nobody can count.
Where estimation is too slow, whole blocks of IQ are let go here, and told.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from ingest.messages import IqBlock, Message
from ingest.sources.base import Source

MAX_WAITING_S = 0.1
MAX_WAITING_BYTES = 256 << 20
MAX_WAITING_MESSAGES = 4096


class SheddingSource(Source):
    """Yields what `source` yields, which a thread of its own reads; what waits is bounded, the reading never blocks.

    More than `max_s` of IQ waiting, or more than `max_bytes`, sheds the older half of what waits: the rest is in one
    piece, where dropping every other block would leave no two that follow each other. Shed blocks are counted in
    `rejected["shed"]`, their samples in `shed_samples`; the blocks after them show the gap in `first_sample`. Other
    messages are never dropped for IQ; beyond `max_messages` of them the oldest go, counted in `rejected["overrun"]`.
    `rejected` is the source's own. A failure of the source is raised to whoever iterates, after what came before it.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_s: float = MAX_WAITING_S,
        max_bytes: int = MAX_WAITING_BYTES,
        max_messages: int = MAX_WAITING_MESSAGES,
    ) -> None:
        super().__init__(source.info)
        self.rejected = source.rejected
        self.shed_samples = 0
        self.source = source
        self._limits = max_s, max_bytes, max_messages
        self._news = threading.Condition()
        self._iq: deque[tuple[int, IqBlock]] = deque()
        self._other: deque[tuple[int, Message]] = deque()
        self._came = 0
        self._waiting_s = 0.0
        self._waiting_bytes = 0
        self._started = self._ended = False
        self._failure: Exception | None = None

    def __iter__(self) -> Iterator[Message]:
        with self._news:
            if self._started or self._ended:
                return
            self._started = True
        thread = threading.Thread(target=self._drain, name="receive", daemon=True)
        thread.start()
        try:
            while (message := self._next()) is not None:
                yield message
            if self._failure is not None:
                raise self._failure
        finally:
            self.source.close()
            thread.join()

    def close(self) -> None:
        """End the reading; what waits is still yielded."""
        self.source.close()
        with self._news:
            self._ended = self._ended or not self._started

    def _drain(self) -> None:
        """The receiving thread."""
        try:
            for message in self.source:
                self._put(message)
        except Exception as error:
            self._failure = error
        finally:
            with self._news:
                self._ended = True
                self._news.notify()

    def _put(self, message: Message) -> None:
        max_s, max_bytes, max_messages = self._limits
        with self._news:
            self.gaps = self.source.gaps
            self._came += 1
            if isinstance(message, IqBlock):
                self._count(message, 1)
                self._iq.append((self._came, message))
                if len(self._iq) > 1 and (self._waiting_s > max_s or self._waiting_bytes > max_bytes):
                    self._shed()
            else:
                self._other.append((self._came, message))
                if len(self._other) > max_messages:
                    self._other.popleft()
                    self.rejected["overrun"] += 1
            self._news.notify()

    def _shed(self) -> None:
        for _ in range(len(self._iq) // 2):
            _, block = self._iq.popleft()
            self._count(block, -1)
            self.rejected["shed"] += 1
            self.shed_samples += block.samples.shape[1]

    def _count(self, block: IqBlock, sign: int) -> None:
        self._waiting_s += sign * block.samples.shape[1] / block.rate_hz
        self._waiting_bytes += sign * block.samples.nbytes

    def _next(self) -> Message | None:
        """The message that came first of those that wait; None when no more can come."""
        with self._news:
            while not (self._iq or self._other):
                if self._ended:
                    return None
                self._news.wait()
            if self._other and not (self._iq and self._iq[0][0] < self._other[0][0]):
                return self._other.popleft()[1]
            _, block = self._iq.popleft()
            self._count(block, -1)
            if not self._iq:
                self._waiting_s = 0.0  # else rounding adds up over months
            return block
