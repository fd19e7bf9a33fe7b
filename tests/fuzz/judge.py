"""What one execution may do: give a result, or refuse its input in one line. Anything else is a bug.

It may not want more than `ROOM_BYTES` of memory either: the process's address space ends there, so that an array that
a small file declares cannot be had. Parsers that refuse a file because of it are found out by what they caught.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

from ingest.errors import InputRefused, UsageRefused

ROOM_BYTES = 256 << 20
"""What executions may add to the address space of a process that has loaded everything and read good files."""

HANG_S = 60
"""A parser that works at one input for so long is said to hang; far from what any takes, however busy the machine."""

MAX_INPUT_BYTES = 1 << 16

Execute = Callable[[bytes], object]


class Unexpected(Exception):
    """What an execution may not do; the exception that tells it is its cause."""


def judged(execute: Execute, data: bytes) -> bool:
    """Whether anything came of `data`, or nothing or a refusal; raises `Unexpected`."""
    try:
        return bool(execute(data))
    except (InputRefused, UsageRefused) as refusal:
        if "\n" in str(refusal):
            raise Unexpected(f"refused in several lines: {str(refusal)!r}") from refusal
        if wanted_memory(refusal):
            raise Unexpected(f"refused only for want of memory: {refusal}") from refusal
        return False
    except (Exception, SystemExit) as error:
        raise Unexpected(f"{type(error).__name__}: {error}") from error


def wanted_memory(error: BaseException | None) -> bool:
    """Whether a `MemoryError` led to `error`, suppressed or not."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def limit_memory(room_bytes: int = ROOM_BYTES) -> None:
    """From here on this process gets no more than `room_bytes` on top of what it has."""
    most = memory_bytes("VmSize") + room_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def memory_bytes(name: str) -> int:
    """A figure of this process: VmSize, VmRSS, VmHWM (resident peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise ValueError(name)
