"""Channel frames and what else a journal keeps, as a journal."""

from __future__ import annotations

import os
from pathlib import Path

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.journal import JournalWriter
from ingest.messages import Message
from ingest.sinks.base import Asked, Sink, told
from ingest.topics import TOPICS

_BURST = 1_000


class JournalSink(Sink):
    """Every message that a journal keeps, in order. It has no configuration: `replay` needs to be told one."""

    def __init__(self, path: Path, asked: Asked) -> None:
        super().__init__(path)
        if asked.format is not None or asked.scale != 1.0:
            raise UsageRefused("messages have no sample format or scale", where=str(path))
        if not asked.force and os.path.lexists(path):
            raise UsageRefused("exists already", where=str(path), mend="name a new file, or --force")
        self._temporary = path.with_name(f".{path.name}.part-{os.getpid()}")
        self._temporary.unlink(missing_ok=True)
        self._source = asked.source
        self._written = 0
        self._writer = JournalWriter(self._temporary, {"converted_from": asked.source})

    def write(self, message: Message) -> None:
        if not TOPICS[message.TOPIC].journalled:
            self.left_out[message.TOPIC] += 1
            return
        self._writer.write(message)
        self._written += 1
        if self._written % _BURST == 0:
            self._writer.catch_up()

    def finish(self) -> None:
        if not self._written:
            raise InputRefused("has no message that a journal keeps", where=self._source)
        self._writer.close()
        if self._writer.fault or self._writer.unwritten:
            raise TwinbeamError(f"cannot be written: {self._writer.fault}", where=str(self.path))
        with told(self.path):
            os.replace(self._temporary, self.path)
        self.report = {"messages": self._written}

    def give_up(self) -> None:
        self._writer.close()
        self._temporary.unlink(missing_ok=True)
