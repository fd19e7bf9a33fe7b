"""The journal: every input, every budget and every decision of a run, in order, in one MCAP file.

MCAP is chunked, indexed and CRC-checked; a run that is killed leaves a file that reads up to its last whole chunk.
A message is stored in its wire form without the topic: `uint32 header length, header JSON, arrays`.
The metadata record `twinbeam` holds what a replay needs to start from: configuration and site bundle.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
from mcap.exceptions import McapError
from mcap.records import Channel, Metadata
from mcap.records import Message as McapMessage
from mcap.stream_reader import CRCValidationError, StreamReader
from mcap.writer import Writer

from ingest import wire
from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import Message
from ingest.topics import MAX_MESSAGE_BYTES, TOPICS

PROFILE = "twinbeam"
METADATA_NAME = "twinbeam"
MESSAGE_ENCODING = "twinbeam-wire-1"
_LENGTH = struct.Struct("<I")
_QUEUE_MESSAGES = 20_000
_FLUSH_S = 1.0
_CHUNK_BYTES = 1 << 20


def pack(message: Message) -> bytes:
    """`message` as one journal record."""
    _, header, *arrays = wire.encode(message)
    return b"".join([_LENGTH.pack(len(header)), header, *arrays])


def unpack(topic: str, record: bytes) -> Message:
    """The message in a journal record of `topic`; `wire.WireError` when it is not one."""
    view = memoryview(record)
    if len(view) < _LENGTH.size:
        raise wire.WireError("frames", "record shorter than its length field")
    (header_bytes,) = _LENGTH.unpack_from(view)
    header = view[_LENGTH.size : _LENGTH.size + header_bytes]
    rest = view[_LENGTH.size + header_bytes :]
    frames: list[wire.Frame] = [topic.encode(), header]
    for size in _array_bytes(bytes(header)):
        frames.append(rest[:size])
        rest = rest[size:]
    if len(rest):
        raise wire.WireError("frames", f"{len(rest)} bytes after the last array")
    return wire.decode(frames)


class _ArrayTable(msgspec.Struct):
    arrays: tuple[wire.ArrayHeader, ...]


_ARRAY_TABLE = msgspec.json.Decoder(_ArrayTable)
_ITEM_BYTES = {"<c8": 8, "<f8": 8, "<f4": 4}


def _array_bytes(header: bytes) -> list[int]:
    """How many bytes each array of a record has, by its header."""
    try:
        table = _ARRAY_TABLE.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wire.WireError("header", str(error)) from None
    sizes = []
    for array in table.arrays:
        size = _ITEM_BYTES.get(array.dtype, 0)
        for length in array.shape:
            size *= length
        if not 0 <= size <= MAX_MESSAGE_BYTES:
            raise wire.WireError("size", f"{array.name} of {size} bytes")
        sizes.append(size)
    return sizes


class JournalWriter:
    """Writes a journal from a thread of its own, so that a slow disk never holds up a decision.

    Messages are packed by the caller and queued; when the queue is full or the disk fails, the journal ends where it
    is, `fault` says why and `unwritten` counts what it lacks.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("xb")
        except FileExistsError:
            raise UsageRefused("exists already", where=str(path), mend="name a new journal file") from None
        except OSError as error:
            raise UsageRefused(f"cannot be written: {error.strerror}", where=str(path)) from None
        self.path = path
        self.fault = ""
        self.unwritten = 0
        self._queue: queue.Queue[tuple[str, int, int, bytes] | tuple[()] | None] = queue.Queue(_QUEUE_MESSAGES)
        self._writer: Any = Writer(self._file, chunk_size=_CHUNK_BYTES)  # parts of its interface are untyped
        self._channels = self._begin(metadata)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def _begin(self, metadata: Mapping[str, str]) -> dict[str, int]:
        self._writer.start(profile=PROFILE, library="twinbeam")
        self._writer.add_metadata(METADATA_NAME, dict(metadata))
        channels = {}
        for topic in TOPICS.values():
            if topic.journalled:
                schema_id = self._writer.register_schema(
                    name=wire.schema_name(topic.message),
                    encoding="jsonschema",
                    data=wire.header_json_schema(topic.message),
                )
                channels[topic.name] = self._writer.register_channel(
                    topic=topic.name, message_encoding=MESSAGE_ENCODING, schema_id=schema_id
                )
        self._writer.flush()
        return channels

    def write(self, message: Message) -> None:
        """Queue `message`, if its topic is journalled. Never blocks and never raises for the disk's sake."""
        if message.TOPIC not in self._channels:
            return
        if self.fault:
            self.unwritten += 1
            return
        try:
            self._queue.put_nowait((message.TOPIC, message.t_ns, message.seq, pack(message)))
        except queue.Full:
            self.fault = f"the disk fell behind by {_QUEUE_MESSAGES} messages"
            self.unwritten += 1

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except OSError as error:
            self.fault = f"the disk failed: {error.strerror}"

    def _write_until_closed(self) -> None:
        flushed_s = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=_FLUSH_S)
            except queue.Empty:
                item = ()
            if item is None:
                return
            if item:
                topic, t_ns, seq, record = item
                self._writer.add_message(
                    channel_id=self._channels[topic],
                    log_time=t_ns,
                    publish_time=t_ns,
                    sequence=seq & 0xFFFFFFFF,
                    data=record,
                )
            if time.monotonic() - flushed_s > _FLUSH_S:
                self._writer.flush()
                flushed_s = time.monotonic()

    def close(self) -> None:
        """Write what is queued, the index and the footer, and close the file."""
        if self._file.closed:
            return
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=_FLUSH_S)
                break
            except queue.Full:
                continue
        self._thread.join()
        try:
            self._writer.finish()
        except OSError as error:
            self.fault = self.fault or f"the disk failed: {error.strerror}"
        finally:
            self._file.close()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JournalReader:
    """Reads a journal in the order in which it was written.

    After iteration `truncated` tells whether the file ends before its footer (a killed run). `metadata` is read at
    once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truncated = False
        self.metadata: dict[str, str] = {}
        for record in self._records():
            if isinstance(record, Metadata) and record.name == METADATA_NAME:
                self.metadata = dict(record.metadata)
                break
            if isinstance(record, McapMessage):
                break
        if not self.metadata:
            raise InputRefused("is an MCAP file but not a journal of twinbeam", where=str(path))

    def __iter__(self) -> Iterator[Message]:
        topics: dict[int, str] = {}
        for record in self._records():
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, McapMessage):
                yield self._decode(topics.get(record.channel_id, ""), record)

    def _decode(self, topic: str, record: McapMessage) -> Message:
        try:
            return unpack(topic, record.data)
        except wire.WireError as error:
            raise InputRefused(
                f"holds a message that does not decode: {error}",
                where=str(self.path),
                mend="replay it with the version that wrote it",
            ) from None

    def _records(self) -> Iterator[Any]:
        """Raw MCAP records; a file that ends early is told by `truncated`, a damaged one is refused."""
        try:
            with self.path.open("rb") as file:
                try:
                    yield from StreamReader(file, validate_crcs=True, record_size_limit=1 << 30).records
                except (EOFError, McapError) as error:
                    if type(error).__name__ not in ("EndOfFile", "EOFError"):
                        raise
                    self.truncated = True
        except OSError as error:
            raise InputRefused(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        except TwinbeamError:
            raise
        except CRCValidationError:
            raise InputRefused(
                "is damaged: a chunk's CRC is wrong",
                where=str(self.path),
                mend="copy it again from where it was made",
            ) from None
        except (McapError, struct.error, ValueError) as error:
            raise InputRefused(f"is not a readable MCAP file: {error}", where=str(self.path)) from None
