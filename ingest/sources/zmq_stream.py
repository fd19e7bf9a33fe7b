"""Messages from a ZeroMQ socket, decoded strictly and stamped as they arrive.

Made to be read from a thread: asyncio sockets are several times slower.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import zmq

from ingest import wire
from ingest.clock import Clock, MonotonicClock
from ingest.endpoints import Endpoint, open_socket, parse_endpoint, socket_type
from ingest.messages import Message
from ingest.sequence import SequenceTracker
from ingest.sources.base import Source, SourceInfo
from ingest.topics import TOPICS

_POLL_MS = 50


class ZmqSource(Source):
    """Yields what comes in until `close` is called; what does not decode is counted in `rejected` and dropped.

    `t_ns` of every message is the time of its arrival on this machine's clock: senders' clocks are not ours.
    """

    def __init__(self, uri: str | Endpoint, clock: Clock | None = None) -> None:
        endpoint = parse_endpoint(uri) if isinstance(uri, str) else uri
        super().__init__(SourceInfo(format="zmq", where=endpoint.address))
        self._clock = clock or MonotonicClock()
        self._closed = threading.Event()
        self.sequence = SequenceTracker()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket = open_socket(self._context, socket_type(endpoint), endpoint)
        except Exception:
            self._context.term()
            raise
        if endpoint.socket == "sub":
            for topic in TOPICS.values():
                if topic.inbound:
                    self._socket.setsockopt(zmq.SUBSCRIBE, topic.prefix)

    def __iter__(self) -> Iterator[Message]:
        try:
            while not self._closed.is_set():
                if self._socket.poll(_POLL_MS):
                    frames = self._socket.recv_multipart(copy=False)
                    message = self.take([frame.buffer for frame in frames], self._clock.now_ns())
                    if message is not None:
                        yield message
        finally:
            self._socket.close()
            self._context.term()

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

    def close(self) -> None:
        """Ask the reading thread to end; it closes the socket, which is its own."""
        self._closed.set()
