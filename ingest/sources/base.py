"""What every source of messages has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingest.messages import Message


@dataclass(frozen=True)
class Annotation:
    """What a recording says of some of its samples: `count` of them from `first_sample` on, None to the end.

    first_sample is a running number as in `IqBlock.first_sample`: samples that were lost count.
    """

    first_sample: int
    count: int | None = None
    label: str = ""
    comment: str = ""


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source before its first message; None where it does not apply.

    start: when the first sample was taken, as the recording writes it. annotations: what the recording says of itself.
    """

    format: str
    where: str
    antennas: int | None = None
    rate_hz: float | None = None
    center_hz: float | None = None
    samples: int | None = None
    start: str | None = None
    annotations: tuple[Annotation, ...] = ()


@dataclass
class Source(ABC):
    """An iterable of messages in the order of their time.

    `rejected` counts by reason what could not be passed on, `gaps` the messages known to be missing; samples that are
    missing show in the blocks' `first_sample`, where the receiver counts them. All are complete when iteration ends.
    """

    info: SourceInfo
    rejected: Counter[str] = field(default_factory=Counter, init=False)
    gaps: int = field(default=0, init=False)

    @abstractmethod
    def __iter__(self) -> Iterator[Message]:
        """The messages, once."""

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Give back files and sockets; a closed source yields nothing more."""
