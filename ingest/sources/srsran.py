"""Samples of an srsRAN ZeroMQ radio, whose transmitter we stand in for the receiver of.

The receiver is REQ: it connects and sends one byte that means nothing; the transmitter is REP: it binds and answers
with any whole number of complex64 once it has some. One socket a channel, no header, no time (srsRAN Project,
lib/radio/zmq/radio_zmq_rx_channel.cpp and radio_zmq_tx_channel.cpp). The base station runs as fast as it is asked: its
samples are counted, no wall clock is held against them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import zmq

from ingest.clock import Clock
from ingest.endpoints import Endpoint, open_socket
from ingest.messages import IqBlock, Message
from ingest.sources.base import SourceInfo
from ingest.sources.iq_blocks import BlockBuilder
from ingest.sources.live import POLL_MS, LiveSource, Watched, ZmqSocket
from ingest.stream_uri import SrsranStream, parse_srsran

_REQUEST = b"\0"
_SAMPLE = np.dtype("<c8")
_AHEAD_SAMPLES = 1 << 20
"""What one channel may hold that the others have not; more than an answer, as a peer may serve channels in turn."""

_NONE: npt.NDArray[np.complex64] = np.zeros(0, np.complex64)


class _Channel:
    """One transmitter: whether it owes us an answer, and what of its answers waits for the other channels."""

    def __init__(self, context: zmq.Context[ZmqSocket], address: str) -> None:
        self.watched = Watched(open_socket(context, zmq.REQ, Endpoint(address, bind=False)))
        self.asked = False
        self.samples = _NONE

    def ask(self) -> None:
        """Ask for more, where no answer is due and the channel is not too far ahead of the others."""
        if self.asked or self.samples.size > _AHEAD_SAMPLES:
            return
        try:
            self.watched.socket.send(_REQUEST, zmq.NOBLOCK)
        except zmq.Again:
            return
        self.asked = True

    def answer(self) -> list[bytes]:
        """The answer that is there."""
        self.asked = False
        return self.watched.socket.recv_multipart(zmq.NOBLOCK)


class SrsranSource(LiveSource):
    """Yields `IqBlock`s of what one srsRAN radio transmits, its channels read in step.

    A connection that ends takes the request with it: all channels are opened anew, and a new epoch begins at sample 0
    (`hung_up` counts them). An answer that is no whole number of samples is refused (`truncated`, `frames`): how many
    it lacks is not known, so a new epoch begins; several channels may then be out of step with each other.
    """

    peer_waits = True

    def __init__(self, uri: str | SrsranStream, clock: Clock | None = None) -> None:
        stream = parse_srsran(uri) if isinstance(uri, str) else uri
        info = SourceInfo(
            format="srsran/cf32",
            where=", ".join(stream.addresses),
            antennas=len(stream.addresses),
            rate_hz=stream.iq.rate_hz,
            center_hz=stream.iq.center_hz,
        )
        super().__init__(info, clock)
        self._addresses = stream.addresses
        self._builder = BlockBuilder("srsran", len(stream.addresses), stream.iq)
        self._poller = zmq.Poller()
        self._channels: list[_Channel] = []
        try:
            self._open()
        except Exception:
            self._release()
            raise

    def _open(self) -> None:
        for address in self._addresses:
            channel = _Channel(self._context, address)
            self._channels.append(channel)
            self._poller.register(channel.watched.socket, zmq.POLLIN)

    def _read(self) -> Iterator[Message]:
        while not self._closed.is_set():
            for channel in self._channels:
                channel.ask()
            ready = dict(self._poller.poll(POLL_MS))
            for channel in self._channels:
                if channel.watched.socket in ready:
                    yield from self._take(channel, channel.answer())
            yield from self._pass_on()
            if not ready:
                yield from self._idle()

    def _take(self, channel: _Channel, frames: list[bytes]) -> Iterator[IqBlock]:
        """An answer of one channel."""
        if len(frames) == 1 and len(frames[0]) % _SAMPLE.itemsize == 0:
            answer = np.frombuffer(frames[0], _SAMPLE)
            channel.samples = np.concatenate([channel.samples, answer]) if channel.samples.size else answer
            return
        self.rejected["truncated" if len(frames) == 1 else "frames"] += 1
        yield from self._builder.restart()

    def _pass_on(self) -> Iterator[IqBlock]:
        """What all channels have, into blocks."""
        common = min(channel.samples.size for channel in self._channels)
        if not common:
            return
        samples = np.stack([channel.samples[:common] for channel in self._channels])
        for channel in self._channels:
            channel.samples = channel.samples[common:]
        if np.isfinite(samples.view(np.float32)).all():
            yield from self._builder.add(samples, self._clock.now_ns())
        else:
            self.rejected["non_finite"] += 1
            yield from self._builder.skip(common)

    def _idle(self) -> Iterator[IqBlock]:
        """Nothing came: what was collected goes on, and after a lost connection everything begins anew."""
        yield from self._builder.flush()
        if not any([channel.watched.losses() for channel in self._channels]):
            return
        self.rejected["hung_up"] += 1
        self._close_sockets()
        self._open()
        yield from self._builder.restart()

    def _close_sockets(self) -> None:
        for channel in self._channels:
            self._poller.unregister(channel.watched.socket)
            channel.watched.close()
        self._channels.clear()
