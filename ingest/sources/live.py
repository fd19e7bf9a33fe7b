"""What live streams have in common: a thread that reads them, an end that comes from elsewhere, and ZeroMQ's quirks.

Made to be read from a thread: asyncio sockets are several times slower.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

from ingest.clock import Clock, MonotonicClock
from ingest.endpoints import Endpoint, open_socket, socket_type
from ingest.messages import Message
from ingest.sources.base import Source, SourceInfo

POLL_MS = 50
_CONNECTION_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECTED

ZmqSocket = zmq.Socket[bytes]


class LiveSource(Source):
    """Yields what comes in until `close` is called, whoever calls it; the thread that reads owns the sockets.

    `t_ns` of every message is the time of its arrival on this machine's clock: senders' clocks are not ours.
    `lost_samples` counts samples known to be missing; they show in the blocks' `first_sample` too. `peer_waits`: the
    sender sends what it is asked for, and nothing is lost by reading slowly.
    """

    peer_waits = False

    def __init__(self, info: SourceInfo, clock: Clock | None) -> None:
        super().__init__(info)
        self.lost_samples = 0
        self._clock = clock or MonotonicClock()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._reading = False
        self._context: zmq.Context[ZmqSocket] = zmq.Context()

    def __iter__(self) -> Iterator[Message]:
        with self._lock:
            if self._reading or self._closed.is_set():
                return
            self._reading = True
        try:
            yield from self._read()
        finally:
            self._release()

    @abstractmethod
    def _read(self) -> Iterator[Message]:
        """Messages until `_closed` is set."""

    @abstractmethod
    def _close_sockets(self) -> None: ...

    def close(self) -> None:
        """Ask the reading thread to end; it closes the socket, which is its own. Where none reads, that is done now."""
        with self._lock:
            unread = not self._reading and not self._closed.is_set()
            self._closed.set()
        if unread:
            self._release()

    def _release(self) -> None:
        self._close_sockets()
        self._context.term()


class Watched:
    """A socket and what libzmq tells of its connection."""

    def __init__(self, socket: ZmqSocket) -> None:
        self.socket = socket
        self._monitor: ZmqSocket = socket.get_monitor_socket(_CONNECTION_EVENTS)
        self._hung_up = self._asked = False
        self._losses = 0

    def look(self) -> None:
        """Take in what was told since the last look."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._hung_up = event == zmq.EVENT_DISCONNECTED
            self._losses += self._hung_up

    def losses(self) -> int:
        """How many connections have ended since this was last asked."""
        self.look()
        losses, self._losses = self._losses, 0
        return losses

    def is_cut_off(self) -> bool:
        """Whether libzmq has hung up for good, as it does on a peer whose frame is too long, and goes on to be silent.

        A lost connection it tries again, and says so at once; here that is given the time between two questions.
        """
        self.look()
        hung_up_before, self._asked = self._asked, self._hung_up
        return hung_up_before and self._hung_up

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


class SubscribedSource(LiveSource):
    """A live source with one socket, on which a sender publishes or pushes multipart messages."""

    def __init__(self, info: SourceInfo, endpoint: Endpoint, prefixes: Iterable[bytes], clock: Clock | None) -> None:
        super().__init__(info, clock)
        self._endpoint = endpoint
        self._prefixes = tuple(prefixes)
        try:
            self._watched = self._open()
        except Exception:
            self._context.term()
            raise

    def _open(self) -> Watched:
        socket = open_socket(self._context, socket_type(self._endpoint), self._endpoint)
        if self._endpoint.socket == "sub":
            for prefix in self._prefixes:
                socket.setsockopt(zmq.SUBSCRIBE, prefix)
        return Watched(socket)

    def _read(self) -> Iterator[Message]:
        while not self._closed.is_set():
            # One call where a message waits: every wait lets another thread take the interpreter.
            try:
                frames = self._watched.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                if not self._watched.socket.poll(POLL_MS):
                    yield from self._idle()
                continue
            yield from self._taken([frame.buffer for frame in frames], self._clock.now_ns())

    @abstractmethod
    def _taken(self, frames: list[memoryview], now_ns: int) -> Iterable[Message]:
        """What the multipart message `frames`, which came at `now_ns`, leads to."""

    def _idle(self) -> Iterable[Message]:
        """Called when nothing has come for a while."""
        if self._watched.is_cut_off() and not self._endpoint.bind:
            self.rejected["hung_up"] += 1
            self._watched.close()
            self._watched = self._open()
        return ()

    def _close_sockets(self) -> None:
        self._watched.close()
