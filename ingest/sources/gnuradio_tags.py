"""The header that gr-zeromq sinks put in front of samples when they pass tags.

`F0 5F`, version 1, u64 offset of the first item, u64 number of tags (all little-endian, as the sender's machine has
it), then per tag its u64 offset and key, value and source id as serialised PMTs, which are big-endian
(GNU Radio 3.10: gr-zeromq/lib/tag_headers.cc, pmt/pmt_serial_tags.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

MAGIC = b"\xf0\x5f"
_HEAD = struct.Struct("<2sBQQ")
_MAX_OFFSET = 1 << 62
_MAX_DEPTH = 32
_MAX_HEADER_BYTES = 1 << 16
_SMALLEST_TAG = 8 + 3
"""Bytes of a tag whose key, value and source are each a single byte."""

_UNIFORM_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 8, 7: 8, 8: 4, 9: 8, 10: 8, 11: 16}


class TagError(ValueError):
    """Bytes that are no tag header."""


@dataclass(frozen=True)
class Tag:
    """A tag on an item. index: which item of its message."""

    index: int
    key: str
    value: Any


@dataclass(frozen=True)
class TagHeader:
    """offset: running number of the message's first item at the sender. payload: where the items begin in the bytes."""

    offset: int
    tags: tuple[Tag, ...]
    payload: int


@dataclass
class _Reader:
    """Reads PMTs one after the other; every length is checked before it is believed."""

    data: memoryview
    at: int
    depth: int = field(default=0)

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise TagError("cut")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def pmt(self) -> Any:
        """The next PMT: bool, None, str, int, float, complex, tuple, dict; pairs are tuples, uniform vectors bytes."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise TagError("nested too deeply")
        try:
            return self._pmt(self.number(">B"))
        finally:
            self.depth -= 1

    def _pmt(self, kind: int) -> Any:
        match kind:
            case 0x00 | 0x01:
                return kind == 0x00
            case 0x02:
                return bytes(self.take(self.number(">H"))).decode("utf-8", errors="replace")
            case 0x03:
                return self.number(">i")
            case 0x04:
                return self.number(">d")
            case 0x05:
                return complex(self.number(">d"), self.number(">d"))
            case 0x06:
                return None
            case 0x07 | 0x09:
                return self._pairs(kind)
            case 0x08 | 0x0C:
                return self._items()
            case 0x0A:
                return self._uniform_vector()
            case 0x0B:
                return self.number(">Q")
            case 0x0D:
                return self.number(">q")
        raise TagError(f"no PMT of kind {kind}")

    def _pairs(self, kind: int) -> Any:
        """A list or dictionary: what each cell holds, then what ends the chain."""
        cells = [self.pmt()]
        while self.at < len(self.data) and self.data[self.at] == kind:
            self.at += 1
            cells.append(self.pmt())
        end = self.pmt()
        if kind == 0x09:
            return {str(cell[0]): cell[1] for cell in cells if isinstance(cell, tuple) and len(cell) == 2}
        return tuple(cells) if end is None else (*cells, end)

    def _items(self) -> tuple[Any, ...]:
        count = self.number(">I")
        if count > len(self.data) - self.at:
            raise TagError("more items than bytes")
        return tuple(self.pmt() for _ in range(count))

    def _uniform_vector(self) -> bytes:
        kind, count, padding = self.number(">B") & 0x7F, self.number(">I"), self.number(">B")
        if kind not in _UNIFORM_BYTES:
            raise TagError(f"no vector of kind {kind}")
        self.take(padding)
        return bytes(self.take(count * _UNIFORM_BYTES[kind]))


def parse_tag_header(data: memoryview) -> TagHeader:
    """The header at the beginning of `data`; `TagError` where there is none, or a damaged one."""
    if len(data) < _HEAD.size:
        raise TagError("cut")
    magic, version, offset, count = _HEAD.unpack(data[: _HEAD.size])
    if magic != MAGIC or version != 1:
        raise TagError("no header of version 1")
    if offset > _MAX_OFFSET or count > (len(data) - _HEAD.size) // _SMALLEST_TAG:
        raise TagError("more tags than bytes")
    reader = _Reader(data[:_MAX_HEADER_BYTES], _HEAD.size)
    tags = []
    for _ in range(count):
        index = reader.number("<Q") - offset
        key, value, _source = reader.pmt(), reader.pmt(), reader.pmt()
        if index < 0:
            raise TagError("a tag before its message")
        tags.append(Tag(index, key if isinstance(key, str) else "", value))
    return TagHeader(offset, tuple(tags), reader.at)
