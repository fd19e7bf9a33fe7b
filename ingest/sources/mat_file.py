"""MATLAB files of version 5 to 7, read so that no damage in them does worse than be refused.

SciPy's reader ends the process on some damaged files (seen with 1.17), so every length is checked here before it is
followed. Source: MathWorks, "MAT-File Format", level 5: elements of type, length and content, padded to eight bytes; a
matrix is an element of elements: flags, dimensions, name, then numbers, cells or fields. Version 7.3 is HDF5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused

Value = npt.NDArray[Any] | dict[str, npt.NDArray[Any]]
"""Numbers and cells (of dtype object) as arrays, text as an array of lines, a struct as its fields' cells by name."""

_MAX_FILE_BYTES = 4 << 30
_MAX_UNPACKED_BYTES = 4 << 30
_MAX_DEPTH = 16
_MAX_DIMS = 32
_NAME_BYTES = 4096
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_COMPLEX_FLAG = 0x0800


class _Damaged(Exception):
    """What is wrong with the bytes."""


def read_mat(path: Path, names: tuple[str, ...] | None = None) -> dict[str, Value]:
    """The variables of a file by name, all of them or those that are asked for; what is no array is left out."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputRefused(f"is over {_MAX_FILE_BYTES >> 30} GiB", where=str(path), mend="save it as -v7.3 or .npz")
        data = path.read_bytes()
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
    if len(data) < 128 or not order:
        raise InputRefused("is no MATLAB file", where=str(path), mend="save it from version 5 on, or as .npz or .h5")
    try:
        return dict(_variables(_Reader(data, order), names))
    except (_Damaged, zlib.error, UnicodeDecodeError, MemoryError, struct.error) as error:
        raise InputRefused(f"is damaged: {error}", where=str(path), mend="copy or save it again") from None


def _variables(file: _Reader, names: tuple[str, ...] | None) -> Iterator[tuple[str, Value]]:
    for element in file.elements(128, len(file.data)):
        reader, matrix = file, element
        if element.kind == _COMPRESSED:
            packed = file.data[element.begin : element.end]
            if names is not None and _peek(packed, file.order) not in names:
                continue
            reader = _Reader(_unpacked(packed, _MAX_UNPACKED_BYTES), file.order)
            matrix = next(reader.elements(0, len(reader.data)), element)
        if matrix.kind != _MATRIX:
            continue
        name, value = reader.matrix(matrix, 0)
        if value is not None and (names is None or name in names):
            yield name, value


def _unpacked(packed: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, most)
    if unpacker.unconsumed_tail:
        raise _Damaged(f"a variable of over {most >> 30} GiB")
    if not unpacker.eof:
        raise _Damaged("a compressed variable is cut")
    return data


def _peek(packed: bytes, order: str) -> str:
    """The name of a compressed variable, by its first bytes."""
    begin = zlib.decompressobj().decompress(packed, _NAME_BYTES)
    reader = _Reader(begin, order)
    parts = reader.elements(8, len(begin), cut=True)
    for number, part in enumerate(parts):
        if number == 2:
            return begin[part.begin : part.end].decode("latin-1")
    return ""


@dataclass(frozen=True)
class _Element:
    """Type of an element, and where its content lies."""

    kind: int
    begin: int
    end: int


class _Reader:
    """Elements in `data`; order: '<' or '>', as the file's head says."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order

    def elements(self, begin: int, end: int, *, cut: bool = False) -> Iterator[_Element]:
        """The elements from `begin` to `end`. cut: the last one may go beyond."""
        at = begin
        while at + 8 <= end:
            kind, size = struct.unpack_from(self.order + "II", self.data, at)
            content, after = at + 8, at + 8 + size
            if kind >> 16:  # a small element: length and type in one word, up to four bytes behind
                kind, size, content, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
                if size > 4:
                    raise _Damaged("a small element of over four bytes")
            elif kind != _COMPRESSED:
                after += -size % 8
            if content + size > end and not cut:
                raise _Damaged("an element goes beyond the end")
            yield _Element(kind, content, min(content + size, end))
            at = after

    def matrix(self, element: _Element, depth: int) -> tuple[str, Value | None]:
        """Name and value of a matrix; the value is None where it is of a class that is not read."""
        if depth > _MAX_DEPTH:
            raise _Damaged("nested too deeply")
        if element.begin == element.end:
            return "", np.zeros((0, 0))
        parts = self.elements(element.begin, element.end)
        flags_at, dims_at, name_at = next(parts, None), next(parts, None), next(parts, None)
        if flags_at is None or dims_at is None or name_at is None:
            raise _Damaged("a matrix without head")
        flags = int(self.whole_numbers(flags_at).astype(np.uint64)[:1].sum())
        shape = tuple(int(size) for size in self.whole_numbers(dims_at))
        if not 2 <= len(shape) <= _MAX_DIMS or min(shape) < 0:
            raise _Damaged(f"a matrix of {len(shape)} dimensions")
        name = self.data[name_at.begin : name_at.end].decode("latin-1")
        count = 1
        for size in shape:
            count *= size
        return name, self._content(flags, shape, count, list(parts), depth)

    def _content(
        self, flags: int, shape: tuple[int, ...], count: int, parts: list[_Element], depth: int
    ) -> Value | None:
        kind = flags & 0xFF
        if kind in _CLASSES:
            return self._numeric(_CLASSES[kind], bool(flags & _COMPLEX_FLAG), shape, count, parts)
        if kind == _CHAR:
            return self._text(shape, parts)
        if kind == _CELL:
            return self._cells(parts, shape, count, depth)
        if kind == _STRUCT and len(parts) >= 2:
            lengths = self.whole_numbers(parts[0])
            width = int(lengths[0]) if lengths.size == 1 else 0
            text = self.data[parts[1].begin : parts[1].end]
            if not 1 <= width <= 1024:
                raise _Damaged("a struct with names of no length")
            fields = [text[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), width)]
            values = parts[2:]
            if len(values) != len(fields) * count:
                raise _Damaged("a struct of the wrong size")
            return {
                field: self._cells(values[number :: len(fields)], shape, count, depth)
                for number, field in enumerate(fields)
            }
        return None

    def _numeric(
        self, dtype: str, is_complex: bool, shape: tuple[int, ...], count: int, parts: list[_Element]
    ) -> npt.NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # of damaged files only: numbers are stored in no wider type
            found = [self.numbers(part).astype(dtype) for part in parts[: 1 + is_complex]]
        if len(found) != 1 + is_complex or any(part.size != count for part in found):
            raise _Damaged("a matrix of the wrong size")
        values: npt.NDArray[Any] = found[0]
        if is_complex:
            values = np.empty(count, np.complex64 if dtype == "f4" else np.complex128)
            values.real, values.imag = found
        return values.reshape(shape, order="F")

    def _text(self, shape: tuple[int, ...], parts: list[_Element]) -> npt.NDArray[Any]:
        """Lines of text, the rows of a matrix of characters."""
        if not parts:
            return np.array([""])
        encoding = _TEXTS.get(parts[0].kind, "latin-1")
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self.order == "<" else "-be"
        letters = self.data[parts[0].begin : parts[0].end].decode(encoding)
        rows = shape[0]
        if rows < 1 or len(letters) % rows:
            return np.array([letters])
        return np.array([letters[row::rows] for row in range(rows)])

    def _cells(self, parts: list[_Element], shape: tuple[int, ...], count: int, depth: int) -> npt.NDArray[Any]:
        if len(parts) != count or any(part.kind != _MATRIX for part in parts):
            raise _Damaged("cells of the wrong number")
        cells = np.empty(count, object)
        for place, part in enumerate(parts):
            cells[place] = self.matrix(part, depth + 1)[1]
        return cells.reshape(shape, order="F")

    def whole_numbers(self, element: _Element) -> npt.NDArray[np.integer]:
        numbers = self.numbers(element)
        if numbers.dtype.kind not in "iu":
            raise _Damaged("a size that is no whole number")
        return numbers

    def numbers(self, element: _Element) -> npt.NDArray[Any]:
        if element.kind not in _TYPES:
            raise _Damaged(f"numbers of type {element.kind}")
        dtype = np.dtype(self.order + _TYPES[element.kind])
        size = element.end - element.begin
        if size % dtype.itemsize:
            raise _Damaged("a number is cut")
        return np.frombuffer(self.data, dtype, size // dtype.itemsize, element.begin)
