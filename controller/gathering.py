"""A coherence block while its frames come in: who was heard, when the first one was, and which block it is."""

from __future__ import annotations

from ingest.messages import ChannelFrame, FeedbackFrame, Message

_STRAGGLER_BLOCKS = 8


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

    def end(self) -> None:
        """The block is decided; the next one begins."""
        if self.block is not None:
            self._decided = self.block
        self._expected, self.heard, self.first_ns, self.block = self.heard, set(), None, None

    def _is_straggler(self, message: ChannelFrame | FeedbackFrame) -> bool:
        """Whether it belongs to a block that is decided; it waits for the next. Far older ones: a sender began anew."""
        return self._decided is not None and 0 <= self._decided - message.block < _STRAGGLER_BLOCKS
