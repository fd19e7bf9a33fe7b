"""Bad files made anew each time, where changing a good one is slower or less safe than writing another: HDF5, MCAP.

The bytes that such a mutator is given do not matter to it, but for those that it damages as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
from mcap.writer import CompressionType, Writer

from ingest.journal import METADATA_NAME, JournalReader, pack
from ingest.topics import TOPICS
from tests.fuzz.formats import sometimes
from tests.fuzz.mutate import FLOATS, TEXTS, Mutator, change_json, damage, dumps, overwrite

Content = dict[str, Any]

_DTYPES = ("<f4", "<f8", "<c8", "<c16", "<i2", "<i8", "<u8", "i1", ">f8", "S4", "?", "<f2")
_SHAPES = ((), (0,), (1,), (3,), (2, 2), (40,), (2, 40), (3, 2, 4), (1, 3, 2, 4), (0, 3), (4, 3), (3, 0))
_VAST = ((1 << 40,), (1 << 20, 1 << 20), (300_000_000,), (2, 200_000_000), (300_000, 1, 1000), (100_000_000, 3))


def hdf5(good: Path, *, seal: bool = False, damaged: Mutator = damage) -> Mutator:
    """A mutator of files like `good`: its arrays and attributes of other types, shapes, values and kinds.

    seal: with the line that a site bundle ends with, so that it is looked at.
    """
    with h5py.File(good, "r") as file:
        arrays: Content = {}
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        attributes = dict(file.attrs)

    def make(_: bytes, rng: Random) -> bytes:
        packed = io.BytesIO()
        with h5py.File(packed, "w", libver=rng.choice(("earliest", "latest"))) as file:
            bad = {rng.choice([*arrays, *attributes]) for _ in range(rng.choice((1, 1, 2, 3)))}
            for name, values in arrays.items():
                _make_groups(file, name)
                (_write_badly if name in bad else _write)(file, name, values, rng)
            for name, value in attributes.items():
                file.attrs[name] = _bad_attribute(value, rng) if name in bad else value
        data = packed.getvalue()
        line = f"\n# twinbeam sha256 {hashlib.sha256(data).hexdigest()}\n".encode()
        return data + line if seal else data

    return sometimes(make, damaged, 0.1 if seal else 0.3)


def _make_groups(file: Any, name: str) -> None:
    """The groups that an array lies in, without the times at which they were made: a seed makes one file."""
    timeless = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    timeless.set_obj_track_times(False)
    parts = name.split("/")[:-1]
    for number in range(len(parts)):
        group = "/".join(parts[: number + 1])
        if group not in file:
            h5py.h5g.create(file.id, group.encode(), gcpl=timeless)


def _write(file: Any, name: str, values: Any, _: Random) -> None:
    file[name] = values


def _write_badly(file: Any, name: str, values: Any, rng: Random) -> None:
    values = np.asarray(values)
    match rng.randrange(12):
        case 0:
            return
        case 1:
            file.create_group(name)
        case 2:
            kind = rng.choice(
                (h5py.SoftLink("/other"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/dev/zero", "/x"))
            )
            file[name] = kind
        case 3:
            file.create_dataset(name, (40,), "<f8", external=[("/dev/zero", 0, 320)])
        case 4:
            layout = h5py.VirtualLayout((4, 2), "<f8")
            layout[0] = h5py.VirtualSource("/dev/zero", "x", (2,))
            file.create_virtual_dataset(name, layout)
        case 5:
            shape = rng.choice((*_VAST, (1 << 33, *values.shape[1:])))
            chunks = (1, *(min(length, 1000) for length in shape[1:])) if len(shape) > 1 else (1000,)
            kind = values.dtype if rng.random() < 0.8 else rng.choice(_DTYPES)
            file.create_dataset(name, shape, kind, chunks=chunks, compression=rng.choice((None, "gzip")))
        case 6:
            file.create_dataset(name, data=rng.choice(("text", ["a", "b"], np.bytes_("x"), h5py.Empty("f4"))))
        case 7:
            file[name] = np.full(values.shape, rng.choice((0, 1, -1, 2**31 - 1)), rng.choice(_DTYPES))
        case 8:
            file.create_dataset(name, rng.choice(_SHAPES), values.dtype)
        case 9 if values.size:
            changed = np.array(values).reshape(-1)
            with np.errstate(all="ignore"):
                changed[rng.randrange(changed.size)] = rng.choice(FLOATS if changed.dtype.kind in "fc" else (0, 1, 127))
            file[name] = changed.reshape(values.shape)
        case 10:
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = rng.choice(("double", "char", b"char", 7))
        case _:
            file.create_dataset(name, rng.choice(_SHAPES), rng.choice(_DTYPES))


def _bad_attribute(value: Any, rng: Random) -> Any:
    if rng.random() < 0.2:
        return rng.choice((b"\xff", 7, np.zeros((2, 2)), "", h5py.Empty("f4"), np.float64("nan")))
    try:
        json.loads(value)
        changed = change_json(value.encode(), rng).decode("utf-8", "replace")
    except ValueError:
        changed = rng.choice(TEXTS).encode("utf-8", "replace").decode()
    return changed[:30_000].replace("\0", "")


def journal(good: Path) -> Mutator:
    """A mutator of journals like `good`: whole MCAP files whose messages, channels or metadata are bad."""
    reader = JournalReader(good)
    messages = [(message.TOPIC, pack(message)) for message in reader]

    def make(_: bytes, rng: Random) -> bytes:
        packed = io.BytesIO()
        kind = rng.choice((CompressionType.ZSTD, CompressionType.ZSTD, CompressionType.NONE, CompressionType.LZ4))
        writer = Writer(
            packed, chunk_size=rng.choice((1, 1 << 20)), compression=kind, enable_data_crcs=rng.random() < 0.5
        )
        writer.start(profile="twinbeam", library="fuzz")
        if rng.random() < 0.95:
            writer.add_metadata(rng.choice((METADATA_NAME,) * 9 + ("x",)), {"config": rng.choice(TEXTS[:12])})
        channels = {}
        for topic in (*TOPICS, "unknown"):
            schema = writer.register_schema(name=topic, encoding="jsonschema", data=b"")
            channels[topic] = writer.register_channel(topic=topic, message_encoding="x", schema_id=schema)
        bad = rng.randrange(len(messages))
        for number, (topic, record) in enumerate(messages):
            record = change_record(record, rng) if number == bad else record
            topic = rng.choice(list(channels)) if rng.random() < 0.02 else topic
            writer.add_message(channels[topic], log_time=number, publish_time=0, sequence=0, data=record)
        writer.finish()
        return packed.getvalue()

    return sometimes(make, damage, 0.3)


def change_record(record: bytes, rng: Random) -> bytes:
    """A journal's record, or what follows its length: header, arrays."""
    (size,) = struct.unpack_from("<I", record)
    header, rest = record[4 : 4 + size], record[4 + size :]
    match rng.randrange(5):
        case 0:
            return damage(record, rng)
        case 1:
            rest = overwrite(rest, rng)
        case 2:
            header, (rest,) = resized(header, [rest], rng, joined=True)
        case _:
            header = change_json(header, rng)
    return struct.pack("<I", len(header)) + header + rest


_ITEM_BYTES = {"<c8": 8, "<f8": 8, "<f4": 4, "<i2": 2}


def resized(header: bytes, arrays: list[bytes], rng: Random, *, joined: bool = False) -> tuple[bytes, list[bytes]]:
    """Header and arrays of a message of ours with lengths of one letter changed, and bytes enough for that."""
    told = json.loads(header)
    place = rng.randrange(len(told["arrays"]))
    shape = told["arrays"][place]["shape"]
    if shape:
        old, new = rng.choice(shape), rng.choice((0, 1, 2, 3, 17, 1 << 26, 1 << 60))
        for one in told["arrays"]:
            one["shape"] = [new if length == old else length for length in one["shape"]]
    if rng.random() < 0.2:
        told["full_scale"] = rng.choice((1, 32767, 1 << 24, 1e308))
    sized = []
    for one in told["arrays"]:
        size = _ITEM_BYTES.get(one["dtype"], 1) * int(np.prod([float(length) for length in one["shape"]]))
        sized.append(bytes(size) if size <= 4096 else bytes(64))
    return dumps(told), [b"".join(sized)] if joined else sized
