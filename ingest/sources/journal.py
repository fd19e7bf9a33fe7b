"""A journal as a source: what the run took in, granted and decided, in the order in which it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ingest.journal import JournalReader
from ingest.messages import Message
from ingest.sources.base import Source, SourceInfo


class JournalSource(Source):
    """Yields every message of a journal. `reader.metadata` is the run's configuration."""

    def __init__(self, path: Path) -> None:
        self.reader = JournalReader(path)
        super().__init__(SourceInfo(format="journal", where=str(path)))

    def __iter__(self) -> Iterator[Message]:
        yield from self.reader
        if self.reader.truncated:
            self.rejected["truncated_end"] += 1
