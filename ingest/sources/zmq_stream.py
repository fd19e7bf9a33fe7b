"""Messages from a ZeroMQ socket, decoded strictly and stamped as they arrive.

Made to be read from a thread: asyncio sockets are several times slower.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from ingest import wire
from ingest.clock import Clock, MonotonicClock
from ingest.endpoints import Endpoint, open_socket, parse_endpoint, socket_type
from ingest.messages import Message
from ingest.sequence import SequenceTracker
from ingest.sources.base import Source, SourceInfo
from ingest.topics import TOPICS

_POLL_MS = 50
_CONNECTION_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECTED


class ZmqSource(Source):
    """Yields what comes in until `close` is called; what does not decode is counted in `rejected` and dropped.

    `t_ns` of every message is the time of its arrival on this machine's clock: senders' clocks are not ours.
    """

    def __init__(self, uri: str | Endpoint, clock: Clock | None = None) -> None:
        endpoint = parse_endpoint(uri) if isinstance(uri, str) else uri
        super().__init__(SourceInfo(format="zmq", where=endpoint.address))
        self._endpoint = endpoint
        self._clock = clock or MonotonicClock()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._reading = False
        self.sequence = SequenceTracker()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket, self._monitor = self._open()
        except Exception:
            self._context.term()
            raise
        self._hung_up = False

    def _open(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """The socket that receives, and the one on which libzmq tells of its connection."""
        socket = open_socket(self._context, socket_type(self._endpoint), self._endpoint)
        if self._endpoint.socket == "sub":
            for topic in TOPICS.values():
                if topic.inbound:
                    socket.setsockopt(zmq.SUBSCRIBE, topic.prefix)
        return socket, socket.get_monitor_socket(_CONNECTION_EVENTS)

    def __iter__(self) -> Iterator[Message]:
        with self._lock:
            if self._reading or self._closed.is_set():
                return
            self._reading = True
        try:
            while not self._closed.is_set():
                if self._socket.poll(_POLL_MS):
                    frames = self._socket.recv_multipart(copy=False)
                    message = self.take([frame.buffer for frame in frames], self._clock.now_ns())
                    if message is not None:
                        yield message
                elif self._is_cut_off():
                    self.rejected["hung_up"] += 1
                    self._close_sockets()
                    self._socket, self._monitor = self._open()
        finally:
            self._release()

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
        """Ask the reading thread to end; it closes the socket, which is its own. Where none reads, that is done now."""
        with self._lock:
            unread = not self._reading and not self._closed.is_set()
            self._closed.set()
        if unread:
            self._release()

    def _is_cut_off(self) -> bool:
        """Whether libzmq has hung up for good, as it does on a peer whose frame is too long, and goes on to be silent.

        A lost connection it tries again, and says so at once; here that is given the time of one poll.
        """
        hung_up_before = self._hung_up
        while self._monitor.poll(0):
            self._hung_up = recv_monitor_message(self._monitor)["event"] == zmq.EVENT_DISCONNECTED
        if self._endpoint.bind or not (hung_up_before and self._hung_up):
            return False
        self._hung_up = False
        return True

    def _close_sockets(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _release(self) -> None:
        self._close_sockets()
        self._context.term()
