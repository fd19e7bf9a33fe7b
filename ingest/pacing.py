"""Plays recorded messages back at the pace at which they were recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ingest.clock import Clock
from ingest.messages import Message

Told = Callable[[int, int], None]
"""Told of each message how many ns it is late, and after how many ns of the recording it came."""


def at_their_time(
    messages: Iterable[Message],
    clock: Clock,
    closed: threading.Event,
    *,
    speed: float = 1.0,
    restamp: bool = True,
    told: Told = lambda late_ns, recorded_ns: None,
) -> Iterator[Message]:
    """`messages` when their time has come; with `restamp` they carry the time at which they are passed on.

    speed: recorded seconds per second. Ends early when `closed` is set. A message that is late goes out at once; `told`
    of how late each one goes out, which counts from the first.
    """
    first_ns: int | None = None
    begun_ns = clock.now_ns()
    for message in messages:
        if first_ns is None:
            first_ns, begun_ns = message.t_ns, clock.now_ns()
        recorded_ns = message.t_ns - first_ns
        due_ns = begun_ns + round(recorded_ns / speed)
        if closed.wait(min(max(due_ns - clock.now_ns(), 0) * 1e-9, threading.TIMEOUT_MAX)):
            return
        told(max(clock.now_ns() - due_ns, 0), recorded_ns)
        yield msgspec.structs.replace(message, t_ns=clock.now_ns()) if restamp else message
