"""The wire form of the messages: ZeroMQ multipart `[topic, header, array, array, …]`.

The header is JSON and names its arrays as `arrays: [{name, dtype, shape}]`; arrays are raw, little-endian, C order.
Decoding is strict. Whatever does not decode raises `WireError` with a reason from `REASONS`, so that the edge can
count it and go on; no other exception leaves `decode`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.finite import all_finite
from ingest.messages import MAX_DIMENSION, ArraySpec, Message
from ingest.topics import TOPICS, Topic

SCHEMA_VERSION = 1
MAX_HEADER_BYTES = 64 << 10
REASONS = ("topic", "header", "schema", "frames", "size", "dtype", "shape", "non_finite", "inconsistent")

Frame = bytes | memoryview


class WireError(Exception):
    """A message that is not taken in. `reason` is one of `REASONS`; `detail` says what and where."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ArrayHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the header describes one array."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def schema_name(message: type[Message]) -> str:
    """The `schema` field of the header of `message`."""
    return f"twinbeam.{message.__name__}/{SCHEMA_VERSION}"


def _header_type(message: type[Message]) -> type[msgspec.Struct]:
    """A strict struct with the scalar fields of `message`, its schema and its array table."""
    hints = get_type_hints(message, include_extras=True)
    arrays = {spec.name for spec in message.ARRAYS}
    fields: list[Any] = [("schema", str), ("arrays", tuple[ArrayHeader, ...])]
    for field in msgspec.structs.fields(message):
        if field.name in arrays:
            continue
        if field.required:
            fields.append((field.name, hints[field.name]))
        else:
            fields.append((field.name, hints[field.name], field.default))
    return msgspec.defstruct(f"{message.__name__}Header", fields, kw_only=True, frozen=True, forbid_unknown_fields=True)


_HEADERS = {name: _header_type(topic.message) for name, topic in TOPICS.items()}
_DECODERS = {name: msgspec.json.Decoder(header) for name, header in _HEADERS.items()}
_ENCODER = msgspec.json.Encoder()


def header_json_schema(message: type[Message]) -> bytes:
    """JSON schema of the header of `message`, for files that describe themselves."""
    return msgspec.json.encode(msgspec.json.schema(_HEADERS[message.TOPIC]))


def encode(message: Message) -> list[Frame]:
    """The multipart form of `message`; `ValueError` when an array is of a kind that the wire does not carry."""
    arrays: list[npt.NDArray[Any]] = []
    described: list[ArrayHeader] = []
    for spec in message.ARRAYS:
        array = np.asarray(getattr(message, spec.name))
        full_scale = getattr(message, "full_scale", None) if spec.scaled else None
        if full_scale is not None:
            array = to_pairs(array, full_scale)
        else:
            array = np.ascontiguousarray(array.astype(_wire_dtype(array, spec), copy=False))
        arrays.append(array)
        described.append(ArrayHeader(spec.name, array.dtype.str, array.shape))
    names = {spec.name for spec in message.ARRAYS}
    header = _HEADERS[message.TOPIC](
        schema=schema_name(type(message)),
        arrays=tuple(described),
        **{name: getattr(message, name) for name in message.__struct_fields__ if name not in names},
    )
    frames: list[Frame] = [message.TOPIC.encode(), _ENCODER.encode(header)]
    frames.extend(array.data.cast("B") if array.size else b"" for array in arrays)
    return frames


def _wire_dtype(array: npt.NDArray[Any], spec: ArraySpec) -> str:
    """The allowed dtype that `array` is sent as: its own, else the first one of the same kind."""
    for dtype in spec.dtypes:
        if array.dtype == np.dtype(dtype):
            return dtype
    for dtype in spec.dtypes:
        if array.dtype.kind == np.dtype(dtype).kind:
            return dtype
    raise ValueError(f"{spec.name} is {array.dtype}, the wire takes {' or '.join(spec.dtypes)}")


def to_pairs(array: npt.NDArray[Any], full_scale: float) -> npt.NDArray[np.int16]:
    """Complex values as `<i2` [..., 2], 1.0 counting `full_scale`; what exceeds 16 bits is clipped, as a radio does."""
    parts = np.ascontiguousarray(array, "<c8").view("<f4").reshape(*array.shape, 2) * np.float32(full_scale)
    return np.clip(np.rint(parts), -32768, 32767).astype("<i2")


def from_pairs(pairs: npt.NDArray[np.int16], full_scale: float) -> npt.NDArray[np.complex64]:
    """`<i2` [..., 2] as complex64 [...]; `full_scale` becomes 1.0."""
    parts = np.empty(pairs.shape, np.float32)
    np.multiply(pairs, np.float32(1.0 / full_scale), out=parts)
    return parts.view(np.complex64)[..., 0]


def decode(frames: Sequence[Frame]) -> Message:
    """The message in `frames`, its arrays read-only views of them; 16-bit samples are converted.

    Raises `WireError` and nothing else, whatever the bytes are.
    """
    if len(frames) < 2:
        raise WireError("frames", f"{len(frames)} frames, a message has at least 2")
    topic = _topic(bytes(frames[0][:64]))
    _check_size(frames, topic)
    header = _decode_header(topic, frames[1])
    specs = topic.message.ARRAYS
    described: tuple[ArrayHeader, ...] = header.arrays  # type: ignore[attr-defined]
    if len(frames) - 2 != len(specs) or [array.name for array in described] != [spec.name for spec in specs]:
        names = ", ".join(spec.name for spec in specs) or "no arrays"
        raise WireError("frames", f"{topic.name} carries {names}")
    lengths: dict[str, int] = {}
    arrays = {
        spec.name: _decode_array(spec, array, frame, lengths, getattr(header, "full_scale", None))
        for spec, array, frame in zip(specs, described, frames[2:], strict=True)
    }
    scalars = {name: getattr(header, name) for name in header.__struct_fields__ if name not in ("schema", "arrays")}
    _check_finite(scalars)
    fields: dict[str, Any] = {**scalars, **arrays}
    message = topic.message(**fields)
    if (problem := message.problem()) is not None:
        raise WireError("inconsistent", problem)
    return message


def _topic(name: bytes) -> Topic:
    topic = TOPICS.get(name.decode("ascii", errors="replace"))
    if topic is None:
        raise WireError("topic", f"{name[:32]!r} is not a topic")
    return topic


def _check_size(frames: Sequence[Frame], topic: Topic) -> None:
    header_bytes = len(frames[1])
    if header_bytes > MAX_HEADER_BYTES:
        raise WireError("size", f"header of {header_bytes} bytes, at most {MAX_HEADER_BYTES}")
    total = sum(len(frame) for frame in frames)
    if total > topic.max_bytes:
        raise WireError("size", f"{topic.name} of {total} bytes, at most {topic.max_bytes}")


def _decode_header(topic: Topic, frame: Frame) -> msgspec.Struct:
    try:
        header = _DECODERS[topic.name].decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("header", str(error)) from None
    if header.schema != schema_name(topic.message):  # type: ignore[attr-defined]
        raise WireError("schema", f"{header.schema[:64]!r} is not {schema_name(topic.message)}")  # type: ignore[attr-defined]
    return header


def _decode_array(
    spec: ArraySpec, described: ArrayHeader, frame: Frame, lengths: dict[str, int], full_scale: float | None
) -> npt.NDArray[Any]:
    """One array of a message: dtype, shape and byte count agree, equal letters are equal, all is finite."""
    scaled = spec.scaled and full_scale is not None
    dtypes, dims = (("<i2",), (*spec.dims, "")) if scaled else (spec.dtypes, spec.dims)
    if described.dtype not in dtypes:
        raise WireError("dtype", f"{spec.name} is {described.dtype[:16]!r}, not {' or '.join(dtypes)}")
    if len(described.shape) != len(dims):
        raise WireError("shape", f"{spec.name} has {len(described.shape)} dimensions, not {len(dims)}")
    if scaled and described.shape[-1] != 2:
        raise WireError("shape", f"{spec.name} has {described.shape[-1]} parts, not 2")
    for letter, length in zip(spec.dims, described.shape, strict=False):
        if not 0 <= length <= MAX_DIMENSION or lengths.setdefault(letter, length) != length:
            raise WireError("shape", f"{spec.name} has {letter} = {length}")
    dtype = np.dtype(described.dtype)
    if math.prod(described.shape) * dtype.itemsize != len(frame):
        raise WireError("shape", f"{spec.name} is {described.shape} but has {len(frame)} bytes")
    array: npt.NDArray[Any] = np.frombuffer(frame, dtype).reshape(described.shape)
    if not array.flags.aligned:  # it lies in the middle of a buffer: for compiled kernels that is another type
        array = array.copy()
    if full_scale is not None and scaled:
        return from_pairs(array, full_scale)
    if not all_finite(array.reshape(-1).view(dtype.char.lower())):
        raise WireError("non_finite", f"{spec.name} has NaN or infinite values")
    return array


def _check_finite(scalars: dict[str, Any]) -> None:
    for name, value in scalars.items():
        values = value if isinstance(value, tuple) else (value,)
        for number in values:
            if isinstance(number, float) and not math.isfinite(number):
                raise WireError("non_finite", f"{name} is {number}")
