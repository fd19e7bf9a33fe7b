"""Decisions out: a ZeroMQ publisher that never blocks."""

from __future__ import annotations

import zmq

from ingest import wire
from ingest.endpoints import Endpoint, open_socket
from ingest.messages import BlockDecision

WELCOME = b"welcome"
"""A new subscriber of this topic is sent it at once, so that it knows its subscription has arrived."""


class DecisionPublisher:
    """Publishes decisions at `endpoint`. A subscriber that does not keep up misses some; their `seq` tells it which."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket = open_socket(self._context, zmq.XPUB, endpoint, welcome=WELCOME)
        except Exception:
            self._context.term()
            raise

    def publish(self, decision: BlockDecision) -> None:
        """Send `decision` to whoever is there. Never waits."""
        self.attend()
        self._socket.send_multipart(wire.encode(decision), flags=zmq.DONTWAIT)

    def attend(self) -> None:
        """Let the socket take in new subscribers, and welcome them; it only does so when it is used."""
        while self._socket.poll(0, zmq.POLLIN):
            self._socket.recv(zmq.DONTWAIT)

    def close(self) -> None:
        """Give the socket back; what was sent goes out first, for a moment at most."""
        self._socket.close(linger=200)
        self._context.term()
