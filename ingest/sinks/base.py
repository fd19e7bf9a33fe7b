"""What sinks have in common: files that appear whole or not at all, and what a conversion is asked for."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ingest.errors import TwinbeamError, UsageRefused
from ingest.messages import Message
from ingest.sources.base import Annotation


@dataclass(frozen=True)
class Asked:
    """How to write. format: sample format, None for what suits source and name. scale: what samples are multiplied by.

    start: when the first sample was taken, as the source tells it. source: what the recording came from.
    """

    format: str | None = None
    scale: float = 1.0
    force: bool = False
    start: str | None = None
    source: str = ""


class NewFile:
    """A file that is written under another name beside `path`, and renamed when it is whole."""

    def __init__(self, path: Path, *, force: bool) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.part-{os.getpid()}")
        if path.is_dir():
            raise UsageRefused("is a directory", where=str(path), mend="name a file")
        if not force and os.path.lexists(path):
            raise UsageRefused("exists already", where=str(path), mend="name a new file, or --force")
        with told(path, UsageRefused):
            self.file: IO[bytes] = self.temporary.open("w+b")

    def keep(self) -> None:
        """Everything on the disk and under its name."""
        with told(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.temporary, self.path)

    def drop(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)


@contextmanager
def told(path: Path, kind: type[TwinbeamError] = TwinbeamError) -> Iterator[None]:
    """A disk that fails is told in one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # HDF5 raises the last
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise kind(f"cannot be written: {reason}", where=str(path)) from None


class Sink(ABC):
    """Takes messages in order. `left_out` counts by reason what it cannot hold, `report` says what it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self.report: dict[str, Any] = {}

    @abstractmethod
    def write(self, message: Message) -> None:
        """Take one message; `InputRefused` where it does not go with those before it."""

    def annotate(self, notes: tuple[Annotation, ...]) -> None:
        """What else is known of the samples; a sink without a place for it counts it as left out."""
        if notes:
            self.left_out["annotations"] += len(notes)

    @abstractmethod
    def finish(self) -> None:
        """Make what was written appear; `report` is complete then."""

    @abstractmethod
    def give_up(self) -> None:
        """Leave nothing behind of what was not finished."""
