"""The one table of topics: what flows, how fast, when it is stale, and whether the journal keeps it.

Sockets, liveness, journal and metrics all read it; nothing else lists the topics.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.messages import (
    BlockDecision,
    ChannelFrame,
    FeedbackFrame,
    IqBlock,
    Message,
    OutcomeFrame,
    StepBudget,
    TwinFrame,
)


@dataclass(frozen=True)
class Topic:
    """One row. `inbound`: accepted on the wire. `stale_after_s`: a stream silent for longer is told to be stale."""

    message: type[Message]
    inbound: bool
    journalled: bool
    stale_after_s: float
    max_bytes: int

    @property
    def name(self) -> str:
        return self.message.TOPIC

    @property
    def prefix(self) -> bytes:
        """What a ZeroMQ subscription asks for."""
        return self.name.encode()


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(IqBlock, inbound=True, journalled=False, stale_after_s=0.1, max_bytes=64 << 20),
        Topic(ChannelFrame, inbound=True, journalled=True, stale_after_s=1.0, max_bytes=16 << 20),
        Topic(FeedbackFrame, inbound=True, journalled=True, stale_after_s=1.0, max_bytes=1 << 20),
        Topic(OutcomeFrame, inbound=True, journalled=True, stale_after_s=1.0, max_bytes=64 << 10),
        Topic(StepBudget, inbound=False, journalled=True, stale_after_s=1.0, max_bytes=64 << 10),
        Topic(TwinFrame, inbound=False, journalled=True, stale_after_s=1.0, max_bytes=16 << 20),
        Topic(BlockDecision, inbound=False, journalled=True, stale_after_s=1.0, max_bytes=16 << 20),
    )
}

MAX_MESSAGE_BYTES = max(topic.max_bytes for topic in TOPICS.values())
