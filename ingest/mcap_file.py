"""Reads the records of an MCAP file, and tells a file that was cut off from one that was damaged.

`mcap.stream_reader` takes a torn record for a short one, passes over records whose opcode was changed, and lets out
whatever its parsers stumble over. Here a record counts only if it parses to its last byte and the checksums agree.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator
from io import BytesIO
from typing import IO, Any, Protocol

import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.stream_reader import breakup_chunk

MAGIC = b"\x89MCAP0\r\n"
_HEAD_BYTES = 9


class _Readable(Protocol):
    @staticmethod
    def read(stream: ReadDataStream) -> Any: ...


_TYPES: dict[int, type[_Readable]] = {
    Opcode.HEADER: records.Header,
    Opcode.SCHEMA: records.Schema,
    Opcode.CHANNEL: records.Channel,
    Opcode.CHUNK: records.Chunk,
    Opcode.MESSAGE_INDEX: records.MessageIndex,
    Opcode.METADATA: records.Metadata,
    Opcode.DATA_END: records.DataEnd,
}
"""What the data section of a journal holds."""


class Damaged(Exception):
    """The file's bytes contradict each other; says how."""


def read_records(file: IO[bytes], max_chunk_bytes: int) -> Generator[Any, None, bool]:
    """The records of the data section of `file`, chunks opened; returns whether the file ends before that section does.

    Raises `Damaged` and `OSError`, nothing else.
    """
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise Damaged("it does not begin as MCAP does")
    crc = zlib.crc32(MAGIC)
    while True:
        offset = file.tell()
        head = file.read(_HEAD_BYTES)
        length = int.from_bytes(head[1:], "little")
        if len(head) < _HEAD_BYTES or length > size - offset - _HEAD_BYTES:
            if _has_end(file, size):
                raise Damaged(f"the record at byte {offset} reaches beyond the end")
            return True
        if length > max_chunk_bytes:
            raise Damaged(f"the record at byte {offset} has {length} bytes")
        body = file.read(length)
        record = _parse(head[0], body, offset)
        if isinstance(record, records.DataEnd):
            if record.data_section_crc not in (0, crc):
                raise Damaged("the checksum over the whole file is wrong")
            return False
        crc = zlib.crc32(body, zlib.crc32(head, crc))
        if isinstance(record, records.Chunk):
            yield from _open_chunk(record, offset, max_chunk_bytes)
        else:
            yield record


def _has_end(file: IO[bytes], size: int) -> bool:
    """Whether the file was finished, so that nothing can be missing at its end."""
    file.seek(max(size - len(MAGIC), len(MAGIC)))
    return file.read() == MAGIC


def _parse(opcode: int, body: bytes, offset: int) -> Any:
    kind = _TYPES.get(opcode)
    if kind is None:
        raise Damaged(f"the record at byte {offset} is of unknown kind {opcode}")
    stream = ReadDataStream(BytesIO(body))
    try:
        record = kind.read(stream)
    except Exception as error:  # EndOfFile, struct.error, UnicodeDecodeError, MemoryError: all say the same
        raise Damaged(f"the record at byte {offset} does not parse: {error!r}") from None
    if stream.count != len(body):
        raise Damaged(f"the record at byte {offset} is {len(body)} bytes long but holds {stream.count}")
    return record


def _open_chunk(chunk: records.Chunk, offset: int, max_chunk_bytes: int) -> list[Any]:
    """The records in `chunk`, whose size is checked before anything is unpacked."""
    try:
        unpacked_bytes = zstandard.frame_content_size(chunk.data) if chunk.compression == "zstd" else -1
        if unpacked_bytes != chunk.uncompressed_size or not 0 <= unpacked_bytes <= max_chunk_bytes:
            raise Damaged(f"the chunk at byte {offset} has no credible size")
        return breakup_chunk(chunk, validate_crc=True)
    except Damaged:
        raise
    except Exception as error:  # zstandard, CRC and parse errors have no common ancestor
        raise Damaged(f"the chunk at byte {offset} does not unpack: {error}") from None
