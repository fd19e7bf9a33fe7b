"""The journal: every input, every budget and every decision of a run, in order, in one MCAP file.

MCAP is chunked, indexed and CRC-checked; a run that is killed leaves a file that reads up to its last whole chunk.
A message is stored in its wire form without the topic: `uint32 header length, header JSON, arrays`.
The metadata record `twinbeam` holds what a replay needs to start from: configuration and site bundle.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
from mcap.records import Channel, Metadata
from mcap.records import Message as McapMessage
from mcap.writer import Writer

from ingest import wire
from ingest.errors import InputRefused, UsageRefused
from ingest.mcap_file import Damaged, read_records
from ingest.messages import Message
from ingest.topics import MAX_MESSAGE_BYTES, TOPICS

PROFILE = "twinbeam"
METADATA_NAME = "twinbeam"
MESSAGE_ENCODING = "twinbeam-wire-1"
_LENGTH = struct.Struct("<I")
_QUEUE_MESSAGES = 20_000
_FLUSH_S = 1.0
_CHUNK_BYTES = 1 << 20
_MAX_CHUNK_BYTES = _CHUNK_BYTES + MAX_MESSAGE_BYTES + wire.MAX_HEADER_BYTES + (1 << 20)
"""A chunk ends with the message that fills it; schemas, channels and record heads come on top."""


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
    if header_bytes > wire.MAX_HEADER_BYTES:
        raise wire.WireError("size", f"header of {header_bytes} bytes, at most {wire.MAX_HEADER_BYTES}")
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
_ITEM_BYTES = {"<c8": 8, "<f8": 8, "<f4": 4, "<i2": 2}


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
    is, `fault` says why and `unwritten` counts what it lacks. What a failing disk took of the last chunk is cut off
    again, so that the file reads up to there.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.path = path
        self.fault = ""
        self._file = _create(path)
        # The writer never ends a chunk by itself: `_flush` does, and so knows what is on disk.
        self._writer: Any = Writer(self._file, chunk_size=1 << 62, enable_data_crcs=True)  # partly untyped
        self._disk_failed = False
        self._closed = False
        self._refused = self._queued = self._added = self._kept = self._kept_bytes = 0
        try:
            self._channels = self._begin(metadata)
        except OSError as error:
            self._abandon(error)
            path.unlink(missing_ok=True)
            raise UsageRefused(f"cannot be written: {error.strerror}", where=str(path)) from None
        self._queue: queue.Queue[tuple[str, int, int, bytes] | tuple[()] | None] = queue.Queue(_QUEUE_MESSAGES)
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
        self._flush()
        return channels

    @property
    def unwritten(self) -> int:
        """Messages that the journal lacks: refused, or under way when the disk failed."""
        return self._refused + (self._queued - self._kept if self._disk_failed else 0)

    def write(self, message: Message) -> None:
        """Queue `message`, if its topic is journalled. Never blocks and never raises for the disk's sake."""
        if message.TOPIC not in self._channels:
            return
        if self.fault or self._closed:
            self._refused += 1
            return
        try:
            self._queue.put_nowait((message.TOPIC, message.t_ns, message.seq, pack(message)))
            self._queued += 1
        except queue.Full:
            self.fault = f"the disk fell behind by {_QUEUE_MESSAGES} messages"
            self._refused += 1

    def catch_up(self) -> None:
        """Wait until the thread has taken what is queued: for writers that are in no hurry and must lose nothing."""
        while self._thread.is_alive() and not self._queue.empty():
            time.sleep(1e-3)

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:  # whatever it is, the run goes on without its journal and says so
            self._abandon(error)

    def _write_until_closed(self) -> None:
        flushed_s = time.monotonic()
        pending_bytes = 0
        while True:
            try:
                item = self._queue.get(timeout=_FLUSH_S)
            except queue.Empty:
                item = ()
            if item is None:
                return
            if item:
                self._add(*item)
                pending_bytes += len(item[-1])
            if pending_bytes > _CHUNK_BYTES or time.monotonic() - flushed_s > _FLUSH_S:
                self._flush()
                flushed_s = time.monotonic()
                pending_bytes = 0

    def _add(self, topic: str, t_ns: int, seq: int, record: bytes) -> None:
        self._writer.add_message(
            channel_id=self._channels[topic],
            log_time=t_ns,
            publish_time=t_ns,
            sequence=seq & 0xFFFFFFFF,
            data=record,
        )
        self._added += 1

    def _flush(self) -> None:
        """End the chunk; from here on, its messages are the operating system's to keep."""
        self._writer.flush()
        self._kept = self._added
        self._kept_bytes = self._file.tell()

    def _abandon(self, error: Exception) -> None:
        """The journal ends with its last whole chunk."""
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        self.fault = self.fault or f"the disk failed: {reason}"
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.truncate(self.path, self._kept_bytes)
        self._disk_failed = True

    def close(self) -> None:
        """Write what is queued, the index and the footer, and close the file."""
        if self._closed:
            return
        self._closed = True
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=_FLUSH_S)
                break
            except queue.Full:
                continue
        self._thread.join()
        if self._disk_failed:
            return
        try:
            self._flush()
            self._writer.finish()
            self._file.close()
        except OSError as error:
            self._abandon(error)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create(path: Path) -> IO[bytes]:
    """A new file at `path`, in a folder that is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageRefused(f"cannot be made a folder: {error.strerror}", where=str(path.parent)) from None
    try:
        return path.open("xb")
    except FileExistsError:
        raise UsageRefused("exists already", where=str(path), mend="name a new journal file") from None
    except OSError as error:
        raise UsageRefused(f"cannot be written: {error.strerror}", where=str(path)) from None


class JournalReader:
    """Reads a journal in the order in which it was written.

    After iteration `truncated` tells whether the file ends before its messages do (a killed run). `metadata` is read
    at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truncated = False
        self._file: IO[bytes] | None = None
        self._bytes = 0
        self.metadata = self._read_metadata()

    def _read_metadata(self) -> dict[str, str]:
        for record in self._records():
            if isinstance(record, Metadata) and record.name == METADATA_NAME:
                return dict(record.metadata)
            if isinstance(record, McapMessage):
                break
        if self.truncated:
            raise InputRefused("ends before its first message", where=str(self.path), mend="the run was cut off there")
        raise InputRefused("is an MCAP file but not a journal of twinbeam", where=str(self.path))

    def progress(self) -> tuple[int, int]:
        """Bytes read by now, and bytes of the file. The index behind the messages is never read."""
        done = self._bytes if self._file is None or self._file.closed else self._file.tell()
        return done, self._bytes

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

    def _records(self) -> Generator[Any, None, None]:
        """Raw MCAP records; a file that ends early is told by `truncated`, a damaged one is refused."""
        try:
            with self.path.open("rb") as file:
                self._file, self._bytes = file, os.fstat(file.fileno()).st_size
                self.truncated = yield from read_records(file, _MAX_CHUNK_BYTES)
        except OSError as error:
            raise InputRefused(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        except Damaged as error:
            raise InputRefused(
                f"is damaged: {error}", where=str(self.path), mend="copy it again from where it was made"
            ) from None
