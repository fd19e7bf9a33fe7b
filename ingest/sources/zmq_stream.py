"""Messages of our own wire from a ZeroMQ socket, decoded strictly and stamped as they arrive."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ingest import wire
from ingest.clock import Clock
from ingest.endpoints import Endpoint, parse_endpoint
from ingest.messages import Message
from ingest.sequence import SequenceTracker
from ingest.sources.base import SourceInfo
from ingest.sources.live import SubscribedSource
from ingest.topics import TOPICS


class ZmqSource(SubscribedSource):
    """Yields what comes in until `close` is called; what does not decode is counted in `rejected` and dropped."""

    def __init__(self, uri: str | Endpoint, clock: Clock | None = None) -> None:
        endpoint = parse_endpoint(uri) if isinstance(uri, str) else uri
        prefixes = [topic.prefix for topic in TOPICS.values() if topic.inbound]
        super().__init__(SourceInfo(format="zmq", where=endpoint.address), endpoint, prefixes, clock)
        self.sequence = SequenceTracker()

    def _taken(self, frames: list[memoryview], now_ns: int) -> Iterable[Message]:
        message = self.take(frames, now_ns)
        return () if message is None else (message,)

    def take(self, frames: list[memoryview], now_ns: int) -> Message | None:
        """The message in `frames` stamped `now_ns`, or None where it is refused and counted."""
        try:
            message = wire.decode(frames)
        except wire.WireError as error:
            self.rejected[error.reason] += 1
            return None
        if not TOPICS[message.TOPIC].inbound:
            self.rejected["topic"] += 1
            return None
        arrival = self.sequence.observe(message)
        self.gaps = self.sequence.lost
        if not arrival.accepted:
            self.rejected[arrival.reason] += 1
            return None
        return msgspec.structs.replace(message, t_ns=now_ns)
