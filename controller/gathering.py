"""A coherence block while its frames come in: who was heard, when the first one was, and which block it is."""

from __future__ import annotations

from controller.config import BlockTable
from ingest.messages import ChannelFrame, FeedbackFrame, Message

_STRAGGLER_BLOCKS = 8
_GATHER_SHARE = 0.35
"""Share of the deadline that is waited for the frames of the other users once the first one is there."""

_LATE_PERIODS = 1.5
"""Periods without any frame after which a block is decided without."""


class Gathering:
    """What has come of the block that is decided next.

    first_ns: when the first frame came. block: the sender's newest number. heard: whose frames are complete.
    """

    def __init__(self) -> None:
        self.first_ns: int | None = None
        self.block: int | None = None
        self.heard: set[str] = set()
        self._expected: set[str] = set()
        self._decided: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether everyone was heard who was in the block before."""
        return bool(self.heard) and self.heard >= self._expected

    def take(self, message: Message) -> None:
        """Count `message` in, if a channel is told by it: feedback may only report a position, or powers."""
        if not isinstance(message, ChannelFrame | FeedbackFrame) or self._is_straggler(message):
            return
        if isinstance(message, FeedbackFrame) and not message.codeword.size:
            return
        if self.first_ns is None:
            self.first_ns = message.t_ns
        self.block = message.block if self.block is None else max(self.block, message.block)
        if not isinstance(message, ChannelFrame) or message.domain == "effective":
            self.heard.add(message.user)

    def patience_s(self, now_ns: int, decided_ns: int | None, block: BlockTable) -> float | None:
        """How long to wait for more frames; None before the first one ever came.

        decided_ns: when the block before was decided.
        """
        if self.first_ns is not None:
            return (self.first_ns - now_ns) * 1e-9 + _GATHER_SHARE * block.deadline_s
        if decided_ns is not None:
            return (decided_ns - now_ns) * 1e-9 + _LATE_PERIODS * block.period_s
        return None

    def end(self) -> None:
        """The block is decided; the next one begins."""
        if self.block is not None:
            self._decided = self.block
        self._expected, self.heard, self.first_ns, self.block = self.heard, set(), None, None

    def _is_straggler(self, message: ChannelFrame | FeedbackFrame) -> bool:
        """Whether it belongs to a block that is decided; it waits for the next. Far older ones: a sender began anew."""
        return self._decided is not None and 0 <= self._decided - message.block < _STRAGGLER_BLOCKS
