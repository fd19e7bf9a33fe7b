"""TFRecord files and the `tf.train.Example`s in them, read without TensorFlow.

A record is `uint64 length, uint32 crc of that, data, uint32 crc of the data`, little-endian; a crc is CRC-32C
(Castagnoli), rotated right by 15 bits and added to 0xa282ead8. The data is a protocol buffer: fields of
`key, content`, where only lengths, 32- and 64-bit numbers and varints occur.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel

_MAX_RECORD_BYTES = 256 << 20
_POLYNOMIAL = 0x82F63B78
_FLOAT, _DOUBLE = 1, 2
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_MAX_DIMS = 8
Feature = bytes | npt.NDArray[np.float32]


class Damaged(Exception):
    """Bytes that are not what they should be. `lost`: where the next record begins is not known."""

    def __init__(self, what: str, *, lost: bool = False) -> None:
        super().__init__(what)
        self.lost = lost


def _table() -> npt.NDArray[np.uint32]:
    """[8, 256]: the CRC of a byte followed by 0 … 7 zero bytes (slicing by eight)."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, (row >> 1) ^ np.uint32(_POLYNOMIAL), row >> 1).astype(np.uint32)
    rows = [row]
    for _ in range(7):
        rows.append((rows[-1] >> 8) ^ row[rows[-1] & 0xFF])
    return np.stack(rows)


_TABLE = _table()


@kernel
def _crc32c(data: npt.NDArray[np.uint8], table: npt.NDArray[np.uint32]) -> int:
    crc = np.uint32(0xFFFFFFFF)
    whole = data.size // 8 * 8
    for at in range(0, whole, 8):
        low = crc ^ (
            np.uint32(data[at])
            | (np.uint32(data[at + 1]) << np.uint32(8))
            | (np.uint32(data[at + 2]) << np.uint32(16))
            | (np.uint32(data[at + 3]) << np.uint32(24))
        )
        crc = (
            table[7, low & np.uint32(0xFF)]
            ^ table[6, (low >> np.uint32(8)) & np.uint32(0xFF)]
            ^ table[5, (low >> np.uint32(16)) & np.uint32(0xFF)]
            ^ table[4, low >> np.uint32(24)]
            ^ table[3, data[at + 4]]
            ^ table[2, data[at + 5]]
            ^ table[1, data[at + 6]]
            ^ table[0, data[at + 7]]
        )
    for at in range(whole, data.size):
        crc = (crc >> np.uint32(8)) ^ table[0, (crc ^ np.uint32(data[at])) & np.uint32(0xFF)]
    return int(crc ^ np.uint32(0xFFFFFFFF))


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data` as TFRecord stores it."""
    crc = int(_crc32c(np.frombuffer(data, np.uint8), _TABLE))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(file: IO[bytes]) -> Iterator[bytes | Damaged]:
    """Every record's data, or why it is damaged; after a damage that is `lost` nothing more comes."""
    size = os.fstat(file.fileno()).st_size
    while head := file.read(12):
        length, crc = struct.unpack("<QI", head) if len(head) == 12 else (0, -1)
        if len(head) < 12:
            yield Damaged("truncated_end", lost=True)
            return
        if masked_crc(head[:8]) != crc or length > _MAX_RECORD_BYTES:
            yield Damaged("damaged", lost=True)
            return
        if length > size:  # `read` would take that much memory before it sees the end
            yield Damaged("truncated_end", lost=True)
            return
        data, tail = file.read(length), file.read(4)
        if len(data) < length or len(tail) < 4:
            yield Damaged("truncated_end", lost=True)
            return
        yield data if masked_crc(data) == int.from_bytes(tail, "little") else Damaged("damaged")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise Damaged("damaged")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and content of every field of a protocol buffer; numbers of four and eight bytes come as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _LENGTH:
            size, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise Damaged("damaged")
        if at + size > len(data):
            raise Damaged("damaged")
        yield number, data[at : at + size]
        at += size


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    """The contents of all fields `number`, which are messages or strings."""
    for found, content in fields(data):
        if found == number:
            if not isinstance(content, bytes):
                raise Damaged("damaged")
            yield content


def parse_example(data: bytes) -> dict[str, Feature]:
    """Features of a `tf.train.Example`: the first string of a bytes list, all numbers of a float list."""
    found: dict[str, Feature] = {}
    for features in _messages(data, 1):
        for entry in _messages(features, 1):
            name = b"".join(_messages(entry, 1)).decode("utf-8", "replace")
            for feature in _messages(entry, 2):
                for kind, content in fields(feature):
                    if not isinstance(content, bytes):
                        raise Damaged("damaged")
                    if kind == 1:
                        found[name] = next(_messages(content, 1), b"")
                    elif kind == 2:
                        found[name] = _floats(b"".join(_messages(content, 1)), "<f4")
    return found


def _floats(data: bytes, dtype: str) -> npt.NDArray[np.float32]:
    if len(data) % np.dtype(dtype).itemsize:
        raise Damaged("damaged")
    return np.frombuffer(data, dtype)


def parse_tensor(data: bytes) -> npt.NDArray[np.floating]:
    """A float or double tensor as `tf.io.serialize_tensor` writes it (TensorProto)."""
    dtype, shape = "", []
    content, listed = b"", b""
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            dtype = {_FLOAT: "<f4", _DOUBLE: "<f8"}.get(value, "")
        elif number == 2 and isinstance(value, bytes):
            shape = [_size(dimension) for dimension in _messages(value, 2)]
        elif number == 4 and isinstance(value, bytes):
            content = value
        elif number in (5, 6) and isinstance(value, bytes):
            listed += value
    if not dtype or len(shape) > _MAX_DIMS:
        raise Damaged("damaged")
    values = _floats(content or listed, dtype)
    count = 1
    for size in shape:
        count *= size
    if values.size != count:
        raise Damaged("damaged")
    return values.reshape(shape)


def _size(dimension: bytes) -> int:
    for number, value in fields(dimension):
        if number == 1 and isinstance(value, int):
            return value
    return 0
