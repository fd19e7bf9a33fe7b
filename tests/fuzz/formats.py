"""Changes what lies inside of containers, and makes their lengths and checksums right again.

Without that hardly a changed byte gets past a TFRecord's or a tar's checksum. Bytes that are no such container are
damaged as they are.
"""

from __future__ import annotations

import ast
import io
import struct
import tarfile
import zipfile
import zlib
from random import Random
from typing import Any

from ingest.sources.tfrecord import masked_crc
from tests.fuzz.mutate import NUMBERS, Mutator, change_json, damage, overwrite, packed_number


def sometimes(mutate: Mutator, otherwise: Mutator = damage, chance: float = 0.15) -> Mutator:
    """`mutate`, but for a few that are changed `otherwise`, as are those that it cannot take apart."""

    def either(data: bytes, rng: Random) -> bytes:
        if rng.random() < chance:
            return otherwise(data, rng)
        try:
            return mutate(data, rng)
        except Exception:
            return otherwise(data, rng)

    return either


def records(prefix: str) -> Mutator:
    """A row of records behind their lengths, a struct of one number."""
    length = struct.Struct(prefix)
    most = (1 << 8 * length.size) - 1

    def change(data: bytes, rng: Random) -> bytes:
        parts, at = [], 0
        while at + length.size <= len(data):
            (size,) = length.unpack_from(data, at)
            parts.append(data[at + length.size : at + length.size + size])
            at += length.size + size
        place = rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                parts.insert(rng.randrange(len(parts) + 1), parts[place])
            case 1:
                parts[place] = damage(parts[place], rng)
            case 2:
                del parts[place]
            case _:
                parts[place] = overwrite(parts[place][:64], rng) + parts[place][64:]
        return b"".join(length.pack(min(len(part), most)) + part for part in parts)

    return sometimes(change)


def change_tfrecord(data: bytes, rng: Random) -> bytes:
    """One record of a TFRecord changed as a protocol buffer, all checksums right."""
    found, at = [], 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        found.append(data[at + 12 : at + 12 + size])
        at += 16 + size
    place = rng.randrange(len(found))
    found[place] = change_protobuf(found[place], rng)
    written = []
    for content in found:
        head = struct.pack("<Q", len(content))
        written.append(head + struct.pack("<I", masked_crc(head)) + content + struct.pack("<I", masked_crc(content)))
    if rng.random() < 0.05:  # a length that is vouched for and not there
        head = struct.pack("<Q", rng.choice((1 << 20, 256 << 20, 1 << 40)))
        written.append(head + struct.pack("<I", masked_crc(head)))
    return b"".join(written)


def change_protobuf(data: bytes, rng: Random) -> bytes:
    """One field of a protocol buffer changed, at any depth; the lengths around it are right."""
    fields = _protobuf(data)
    if not fields:
        return damage(data, rng)
    place = rng.randrange(len(fields))
    number, kind, value = fields[place]
    match rng.randrange(10):
        case 0:
            del fields[place]
        case 1:
            fields.insert(rng.randrange(len(fields) + 1), fields[place])
        case 2:
            fields[place] = (rng.choice((0, 1, 2, 3, 4, 5, 1 << 20)), kind, value)
        case 3:
            fields[place] = (
                number,
                *rng.choice(((0, 5), (1, b"12345678"), (2, b""), (5, b"1234"), (3, b""), (7, b""))),
            )
        case _ if kind == 0:
            fields[place] = (number, kind, rng.choice(NUMBERS) % (1 << 64))
        case _:
            change = change_protobuf if kind == 2 and rng.random() < 0.8 else overwrite
            fields[place] = (number, kind, change(value, rng))
    return b"".join(_varint(number << 3 | kind) + _field(kind, value) for number, kind, value in fields)


def _protobuf(data: bytes) -> list[tuple[int, int, Any]]:
    """Number, wire type and content of every field; nothing where `data` is no protocol buffer."""
    fields, at = [], 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 0:
            value, at = _read_varint(data, at)
            fields.append((number, kind, value))
            continue
        if kind == 2:
            size, at = _read_varint(data, at)
        if kind not in (1, 2, 5) or not number or at + size > len(data):
            return []
        fields.append((number, kind, data[at : at + size]))
        at += size
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def _field(kind: int, value: Any) -> bytes:
    if kind == 0:
        return _varint(value)
    return _varint(len(value)) + value if kind == 2 else bytes(value)


def change_npz(data: bytes, rng: Random) -> bytes:
    """One array of an `.npz` changed, in its header or its numbers, and packed anew in one of the ways of ZIP."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    match rng.randrange(8):
        case 0:
            del members[place]
        case 1:
            members[place] = (
                rng.choice(("iq.npy", "cfr.npy", "gaps.npy", "user.npy", "t_ns.npy", "../x", "iq")),
                content,
            )
        case 2:
            members[place] = (name, damage(content, rng))
        case 3:
            members[place] = (name, content[:128] + overwrite(content[128:], rng))
        case _:
            members[place] = (name, _changed_npy(content, rng))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for each, body in dict(members).items():
            archive.writestr(zipfile.ZipInfo(each), body, rng.choice((0, 0, 0, 8, 12, 14)))
    return packed.getvalue()


_DTYPES = ("<c8", "<c16", "<f4", "<f8", "<i2", "|i1", "<i8", ">f4", "<U3", "|S4", "|O", "|b1", "<M8[ns]", "|V8", "<f2")
_SHAPES = ((), (0,), (1,), (2,), (3,), (40,), (0, 4), (2, 0), (1, 1, 1), (2, 2), (3, 2, 4), (1, 3, 2, 4), (2**62, 4),
           (-1,), (10**9, 8), (1 << 40,), (1,) * 40)  # fmt: skip


def _changed_npy(content: bytes, rng: Random) -> bytes:
    """Header of an array changed: dtype, shape, order; mostly with as many bytes as that then takes."""
    head = ast.literal_eval(content[10 : 10 + int.from_bytes(content[8:10], "little")].decode())
    what = rng.choice(("descr", "shape", "shape", "fortran_order", ""))
    if what == "descr":
        head["descr"] = rng.choice((*_DTYPES, [("real", "<f8"), ("imag", "<f8")], [("r", "<f4"), ("i", "<f4")], 7, "x"))
    elif what == "shape":
        head["shape"] = rng.choice((*_SHAPES, 5, "ab", (1.5,), (True,)))
    elif what == "fortran_order":
        head["fortran_order"] = not head["fortran_order"]
    else:
        head[rng.choice(("x", "descr", "shape"))] = rng.choice((None, "[" * 200, -1))
    text = repr(head).encode() + b" " * rng.choice((0, 1, 60)) + b"\n"
    numbers = content[10 + int.from_bytes(content[8:10], "little") :]
    try:
        size = int(head["descr"][2:]) if isinstance(head["descr"], str) else 16
        for length in head["shape"]:
            size *= length
        numbers = (numbers * (size // max(len(numbers), 1) + 1))[:size] if size < 5000 else numbers
    except (TypeError, ValueError):
        pass
    return content[:8] + struct.pack("<H", len(text)) + text + numbers


def change_tar(data: bytes, rng: Random) -> bytes:
    """A member of a tar changed, its head or its content; the checksums of the heads are right."""
    if rng.random() < 0.3:
        changed = bytearray(data)
        head = 512 * rng.randrange(max(len(data) // 512, 1))
        field = rng.choice(((0, 100), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155), (100, 8)))
        new = overwrite(bytes(changed[head + field[0] : head + sum(field)]), rng)
        changed[head + field[0] : head + sum(field)] = rng.choice(
            (new, b"%011o\0" % (1 << 32), b"\x80" + b"\xff" * 11, b"S")
        )[: field[1]].ljust(field[1], b"\0")
        block = bytes(changed[head : head + 148]) + b" " * 8 + bytes(changed[head + 156 : head + 512])
        changed[head + 148 : head + 156] = b"%06o\0 " % sum(block)
        return bytes(changed)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(info, archive.extractfile(info)) for info in archive if info.isreg()]
        contents = [(info, file.read() if file else b"") for info, file in members]
    place = rng.randrange(len(contents))
    info, content = contents[place]
    content = change_json(content, rng) if info.name.endswith("meta") else damage(content, rng)
    if rng.random() < 0.1:
        info.type = rng.choice(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)
        )
    contents[place] = (info, content)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as archive:
        for each, body in contents:
            each.size = len(body)
            archive.addfile(each, io.BytesIO(body))
    return packed.getvalue()


_MATRIX, _COMPRESSED = 14, 15


def change_mat(data: bytes, rng: Random) -> bytes:
    """One element of a MATLAB file changed, at any depth; the lengths around it are right, some are compressed."""
    head, order = data[:128], {b"IM": "<", b"MI": ">"}[data[126:128]]
    elements = _elements(data[128:], order)
    _change_element(elements, order, rng)
    for place, (kind, content) in enumerate(elements):
        if kind == _MATRIX and rng.random() < 0.3:
            elements[place] = (_COMPRESSED, zlib.compress(_matlab([(kind, content)], order)))
    return head + _matlab(elements, order)


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Type and content of elements that follow each other."""
    found, at = [], 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:
            found.append((kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]))
            at += 8
        else:
            content = data[at + 8 : at + 8 + size]
            if kind == _COMPRESSED:
                ((kind, content),) = _elements(zlib.decompressobj().decompress(content, 1 << 16), order)
                at += 8 + size
            else:
                at += 8 + size + -size % 8
            found.append((kind, content))
    return found


def _change_element(elements: list[tuple[int, bytes]], order: str, rng: Random) -> None:
    if not elements:
        return
    place = rng.randrange(len(elements))
    kind, content = elements[place]
    match rng.randrange(12):
        case 0:
            del elements[place]
        case 1:
            elements.insert(rng.randrange(len(elements) + 1), elements[place])
        case 2:
            elements[place] = (rng.choice((0, 1, 2, 3, 5, 6, 7, 9, 12, 13, 14, 16, 17, 18, 99)), content)
        case 3 if kind != _MATRIX:
            elements[place] = (kind, damage(content, rng))
        case 4:
            elements[place] = (kind, b"")
        case _ if kind == _MATRIX:
            inner = _elements(content, order)
            _change_element(inner, order, rng)
            elements[place] = (kind, _matlab(inner, order))
        case _ if len(content) <= 16:  # flags, dimensions
            number = packed_number(rng)
            elements[place] = (kind, (number + content[len(number) :])[: len(content)])
        case _:
            elements[place] = (kind, overwrite(content, rng))


def _matlab(elements: list[tuple[int, bytes]], order: str) -> bytes:
    parts = []
    for kind, content in elements:
        padding = 0 if kind == _COMPRESSED else -len(content) % 8
        parts.append(struct.pack(order + "II", kind, len(content)) + content + bytes(padding))
    return b"".join(parts)
