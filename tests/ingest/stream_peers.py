"""What the tests of live streams share: peers on raw sockets, and readers that do not wait for ever."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from ingest.messages import IqBlock
from ingest.sources import LiveSource

PATIENCE_S = 30.0

Complex = npt.NDArray[np.complex64]


def bound(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> tuple[zmq.Socket[bytes], str]:
    """A socket that gives up in the end, bound; and where. Waits until whoever was there before has gone."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1e3))
    socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.bind(address)
            break
        except zmq.ZMQError:
            assert time.monotonic() < give_up, f"{address} cannot be had"
            time.sleep(0.01)
    last = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(last, bytes)
    return socket, last.rstrip(b"\0").decode()


@contextmanager
def patience(source: LiveSource) -> Iterator[None]:
    """Closes `source` when nobody else does."""
    guard = threading.Timer(PATIENCE_S, source.close)
    guard.start()
    try:
        yield
    finally:
        guard.cancel()
        source.close()


def until(messages: Iterator[Any], samples: int) -> list[IqBlock]:
    """Blocks until they hold `samples` samples."""
    blocks: list[IqBlock] = []
    while sum(block.samples.shape[1] for block in blocks) < samples:
        blocks.append(next(messages))
    return blocks


def joined(blocks: list[IqBlock]) -> Complex:
    """The samples of `blocks` behind each other. Shape [antennas, samples]."""
    return np.concatenate([block.samples for block in blocks], axis=1)


def rows(blocks: list[IqBlock]) -> list[tuple[int, int, int]]:
    """Runs of samples without a gap: (epoch, first sample, how many)."""
    runs: list[tuple[int, int, int]] = []
    for block in blocks:
        count = block.samples.shape[1]
        if runs and (runs[-1][0], runs[-1][1] + runs[-1][2]) == (block.epoch, block.first_sample):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + count)
        else:
            runs.append((block.epoch, block.first_sample, count))
    return runs


def symbol(text: str) -> bytes:
    return b"\x02" + struct.pack(">H", len(text)) + text.encode()


def double(value: float) -> bytes:
    return b"\x04" + struct.pack(">d", value)


def u64(value: int) -> bytes:
    return b"\x0b" + struct.pack(">Q", value)


def time_tuple(seconds: int, fraction: float) -> bytes:
    return b"\x0c" + struct.pack(">I", 2) + u64(seconds) + double(fraction)


def tag(offset: int, key: str, value: bytes) -> bytes:
    """A tag as gr-zeromq writes it; its source is PMT_F."""
    return struct.pack("<Q", offset) + symbol(key) + value + b"\x01"


def tagged(offset: int, samples: npt.NDArray[Any], *tags: bytes) -> bytes:
    """A message of a gr-zeromq sink that passes tags."""
    return b"\xf0\x5f\x01" + struct.pack("<QQ", offset, len(tags)) + b"".join(tags) + samples.tobytes()
