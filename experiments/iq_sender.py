"""A radio for `bench ingest`: a process that sends a ring of samples over our wire at the pace of its sample rate."""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import Any

import msgspec
import numpy as np
import zmq

from ingest import wire
from ingest.messages import IqBlock

BLOCK_S = 4e-3
"""Of smaller blocks a receiver spends more on each than on what is in them."""

MEASURING = "measuring"
_FULL_SCALE = 32767.0
_LINGER_MS = 10_000


def send(
    path: str,
    address: str,
    rate_hz: float,
    center_hz: float,
    seconds: float,
    sample_format: str = "cf32",
    warm_up_s: float = 0.0,
) -> dict[str, Any]:
    """Send for `warm_up_s`, print that measuring begins, and go on for `seconds`, of which is told:

    blocks; unsent: of them, those that found the socket full; late_s: how far behind its pace it ever was; took_s,
    gbytes. Blocks are encoded before: what is measured is the receiver, on the same cores.
    """
    length = round(BLOCK_S * rate_hz)
    pieces = _encoded(np.load(path), length, rate_hz, center_hz, sample_format)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    socket.connect(address)
    socket.poll(_LINGER_MS, zmq.POLLOUT)
    gc.disable()
    warm, count = (round(length_s / BLOCK_S) for length_s in (warm_up_s, warm_up_s + seconds))
    unsent, late_s, sent_bytes = 0, 0.0, 0
    begun_s = measured_s = time.monotonic()
    for number in range(count):
        if number == warm:
            unsent, late_s, sent_bytes, measured_s = 0, 0.0, 0, time.monotonic()
            print(MEASURING, flush=True)
        ahead_s = begun_s + (number + 1) * BLOCK_S - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
        late_s = max(late_s, -ahead_s)
        header, samples = pieces[number % len(pieces)]
        header |= {"seq": number, "first_sample": number * length}
        try:
            socket.send_multipart([b"iq", msgspec.json.encode(header), samples], zmq.NOBLOCK, copy=False)
            sent_bytes += samples.nbytes
        except zmq.Again:
            unsent += 1
    took_s = time.monotonic() - measured_s
    socket.close()
    context.term()
    return {
        "blocks": count - warm,
        "unsent": unsent,
        "late_s": late_s,
        "took_s": took_s,
        "gbytes": sent_bytes * 1e-9,
    }


def _encoded(
    ring: np.ndarray[Any, np.dtype[np.complex64]], length: int, rate_hz: float, center_hz: float, sample_format: str
) -> list[tuple[dict[str, Any], memoryview]]:
    """Header and samples of the ring's blocks."""
    pieces = []
    for first in range(0, ring.shape[1], length):
        block = IqBlock(
            source="bench",
            epoch=0,
            seq=0,
            t_ns=0,
            rate_hz=rate_hz,
            center_hz=center_hz,
            first_sample=0,
            full_scale=_FULL_SCALE if sample_format == "sc16" else None,
            samples=np.ascontiguousarray(ring[:, first : first + length]),
        )
        _, header, samples = wire.encode(block)
        pieces.append((msgspec.json.decode(header), memoryview(samples)))
    return pieces


def main() -> None:
    """`python -m experiments.iq_sender …`: prints what `send` returns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="the ring, .npy [A, T] complex64")
    parser.add_argument("address", help="ipc://… or tcp://… of a PULL socket")
    for name in ("rate-hz", "center-hz", "seconds"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--warm-up-s", type=float, default=0.0)
    parser.add_argument("--sample-format", choices=("cf32", "sc16"), default="cf32")
    options = parser.parse_args()
    result = send(**vars(options))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
