"""DICHASUS files, encoded by Google's protobuf package, their checksums by the polynomial bit by bit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import ChannelFrame
from ingest.sources import Source, open_source
from ingest.sources.tfrecord import Damaged, masked_crc, parse_example, parse_tensor
from tests.random_channels import complex_normal

ANTENNAS, TONES = 4, 16


def frames(source: Source) -> list[ChannelFrame]:
    return [message for message in source if isinstance(message, ChannelFrame)]


def crc32c(data: bytes) -> int:
    """CRC-32C by its definition: the reflected polynomial 0x1EDC6F41, one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def message_types() -> dict[str, Any]:
    """`tf.train.Example` and `tf.TensorProto` by their .proto files, built with the protobuf package."""
    pool_module = pytest.importorskip("google.protobuf.descriptor_pool")
    from google.protobuf import descriptor_pb2, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    optional, repeated = 1, 3
    kinds = {"float": 2, "int64": 3, "string": 9, "message": 11, "bytes": 12, "int32": 5, "double": 1}

    def define(name: str, *rows: tuple[str, int, str, int, str]) -> Any:
        message = file.message_type.add(name=name)
        for field, number, kind, label, of in rows:
            added = message.field.add(name=field, number=number, type=kinds[kind], label=label)
            if of:
                added.type_name = f".t.{of}"
        return message

    define("BytesList", ("value", 1, "bytes", repeated, ""))
    define("FloatList", ("value", 1, "float", repeated, ""))
    define("Int64List", ("value", 1, "int64", repeated, ""))
    define("Feature", ("bytes_list", 1, "message", optional, "BytesList"),
           ("float_list", 2, "message", optional, "FloatList"),
           ("int64_list", 3, "message", optional, "Int64List"))  # fmt: skip
    features = define("Features", ("feature", 1, "message", repeated, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=optional)
    entry.field.add(name="value", number=2, type=11, label=optional, type_name=".t.Feature")
    define("Example", ("features", 1, "message", optional, "Features"))
    shape = define("Shape", ("dim", 2, "message", repeated, "Shape.Dim"))
    dim = shape.nested_type.add(name="Dim")
    dim.field.add(name="size", number=1, type=3, label=optional)
    dim.field.add(name="name", number=2, type=9, label=optional)
    define("Tensor", ("dtype", 1, "int32", optional, ""), ("tensor_shape", 2, "message", optional, "Shape"),
           ("version_number", 3, "int32", optional, ""), ("tensor_content", 4, "bytes", optional, ""),
           ("float_val", 5, "float", repeated, ""), ("double_val", 6, "double", repeated, ""))  # fmt: skip
    pool = pool_module.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in ("Example", "Tensor")
    }


@pytest.fixture(scope="module")
def types() -> dict[str, Any]:
    return message_types()


def tensor(types: dict[str, Any], values: npt.NDArray[Any], *, listed: bool = False) -> bytes:
    """As `tf.io.serialize_tensor` does; listed: as `tf.make_tensor_proto` may write small ones."""
    made = types["Tensor"](dtype={"float32": 1, "float64": 2, "int32": 3}[values.dtype.name])
    for size in values.shape:
        made.tensor_shape.dim.add(size=size)
    if listed:
        getattr(made, "float_val" if values.dtype == np.float32 else "double_val").extend(values.ravel().tolist())
    else:
        made.tensor_content = values.tobytes()
    return bytes(made.SerializeToString())


def example(types: dict[str, Any], **features: Any) -> bytes:
    made = types["Example"]()
    for name, value in features.items():
        feature = made.features.feature[name.replace("_", "-")]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.append(value)
    return bytes(made.SerializeToString())


def a_record(types: dict[str, Any], rng: np.random.Generator, n: int = 0, **change: Any) -> tuple[bytes, Any]:
    """One record as DICHASUS writes it, and its channel [A, S] with rising subcarriers."""
    channel = complex_normal(rng, ANTENNAS, TONES).astype(np.complex64)
    in_fft_order = np.fft.ifftshift(channel, axes=1)
    csi = np.stack([in_fft_order.real, in_fft_order.imag], axis=-1).astype(np.float32)
    features: dict[str, Any] = {
        "csi": tensor(types, csi),
        "cfo": tensor(types, np.zeros(ANTENNAS, np.float32)),
        "snr": tensor(types, np.full(ANTENNAS, 20, np.float32)),
        "pos_tachy": tensor(types, np.array([1.0 + n, -2.0, 0.5])),
        "gt_interp_age_tachy": 0.02,
        "time": 0.048 * n,
    } | change
    return record(example(types, **{key: value for key, value in features.items() if value is not None})), channel


def test_checksums() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    rng = np.random.default_rng(1)
    for size in (0, 1, 7, 8, 9, 63, 1000):
        data = rng.bytes(size)
        assert masked_crc(data) == masked(data)


@pytest.mark.kernel
def test_checksums_of_the_kernel_at_every_offset(rng: np.random.Generator) -> None:
    data = rng.bytes(100)
    assert all(masked_crc(data[a:b]) == masked(data[a:b]) for a in range(9) for b in range(a, 40))


def test_a_file(tmp_path: Path, types: dict[str, Any], rng: np.random.Generator) -> None:
    rows = [a_record(types, rng, n) for n in range(3)]
    path = tmp_path / "dichasus-cf02.tfrecords"
    path.write_bytes(b"".join(data for data, _ in rows))
    source = open_source(f"{path}?bandwidth_hz=50.056e6")
    assert (source.info.format, source.info.antennas) == ("dichasus", ANTENNAS)
    found = frames(source)
    for n, (frame, (_, channel)) in enumerate(zip(found, rows, strict=True)):
        np.testing.assert_array_equal(frame.cfr[0], channel)
        assert (frame.user, frame.block, frame.position_m) == ("mobtx", n, (1.0 + n, -2.0, 0.5))
        assert frame.t_ns == pytest.approx(48_000_000 * n, abs=10)
        assert frame.carrier_hz == 1.272e9
        assert frame.snr_db == pytest.approx(20, abs=1e-6)
        assert frame.noise_power == pytest.approx(np.mean(np.abs(channel) ** 2) / 100, rel=1e-5)
        np.testing.assert_allclose(frame.tones_hz, (np.arange(TONES) - 8) * 50.056e6 / 16)
    assert not source.rejected


def test_what_may_be_missing(tmp_path: Path, types: dict[str, Any], rng: np.random.Generator) -> None:
    few, _ = a_record(types, rng, snr=None, pos_tachy=None, time=None, gt_interp_age_tachy=None, cfo=None)
    old, _ = a_record(types, rng, gt_interp_age_tachy=30.0)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(few + old)
    bare, aged = frames(open_source(str(path)))
    assert (bare.position_m, bare.t_ns) == (None, 0)
    assert bare.snr_db < 10, "a channel of random numbers is not smooth"
    assert aged.position_m is None
    assert frames(open_source(f"{path}?max_age_s=60"))[1].position_m == (1.0, -2.0, 0.5)


def test_tensors_in_lists_and_doubles(types: dict[str, Any], rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64):
        values = rng.normal(size=(2, 3)).astype(dtype)
        for listed in (False, True):
            np.testing.assert_array_equal(parse_tensor(tensor(types, values, listed=listed)), values)
    with pytest.raises(Damaged):
        parse_tensor(tensor(types, np.ones(3, np.int32)))


def test_features_of_all_kinds(types: dict[str, Any]) -> None:
    found = parse_example(example(types, a=b"text", b=1.5, c=7))
    assert found["a"] == b"text"
    assert found["b"] == np.array([1.5], np.float32)
    assert set(found) == {"a", "b"}


def test_damage_is_counted_and_the_next_record_read(
    tmp_path: Path, types: dict[str, Any], rng: np.random.Generator
) -> None:
    good = [a_record(types, rng, n)[0] for n in range(6)]
    changed = bytearray(good[1])
    changed[100] ^= 1
    other = record(example(types, csi=tensor(types, np.ones((ANTENNAS + 1, TONES, 2), np.float32))))
    poisoned, _ = a_record(types, rng, csi=tensor(types, np.full((ANTENNAS, TONES, 2), np.nan, np.float32)))
    flat = record(example(types, csi=tensor(types, np.ones(5, np.float32))))
    silent = record(example(types, csi=tensor(types, np.zeros((ANTENNAS, TONES, 2), np.float32))))
    nothing = record(example(types, time=1.0))
    path = tmp_path / "a.tfrecords"
    parts = [
        good[0],
        changed,
        good[2],
        other,
        poisoned,
        flat,
        silent,
        nothing,
        record(b"\x0a\xff"),
        good[3],
        good[4][:-2],
    ]
    path.write_bytes(b"".join(bytes(part) for part in parts))
    source = open_source(str(path))
    assert len(frames(source)) == 3
    assert dict(source.rejected) == {
        "damaged": 3, "antennas": 1, "non_finite": 1, "no_power": 1, "no_csi": 1, "truncated_end": 1,
    }  # fmt: skip


def test_a_damaged_length_ends_the_file(tmp_path: Path, types: dict[str, Any], rng: np.random.Generator) -> None:
    first, second = a_record(types, rng)[0], bytearray(a_record(types, rng)[0])
    second[3] = 0xFF
    (tmp_path / "a.tfrecords").write_bytes(first + second + first)
    source = open_source(str(tmp_path / "a.tfrecords"))
    assert len(frames(source)) == 1
    assert dict(source.rejected) == {"damaged": 1}


def test_what_is_no_such_file(tmp_path: Path, types: dict[str, Any]) -> None:
    for content in (
        b"text",
        bytes(100),
        record(b"text"),
        record(example(types, time=1.0)),
        struct.pack("<QI", 1 << 60, 0),
    ):
        (tmp_path / "a.tfrecords").write_bytes(content)
        with pytest.raises(InputRefused, match="is no DICHASUS file"):
            open_source(str(tmp_path / "a.tfrecords"))
    (tmp_path / "a.tfrecords").write_bytes(record(example(types, csi=b"\xff")))
    with pytest.raises(InputRefused, match="no float tensor"):
        open_source(str(tmp_path / "a.tfrecords"))
    with pytest.raises(UsageRefused, match="carrier_hz"):
        open_source(f"{tmp_path / 'a.tfrecords'}?carrier_hz=-1")


def test_changed_bytes_never_do_worse_than_be_refused(types: dict[str, Any], rng: np.random.Generator) -> None:
    """Behind the checksum, every byte string is either features and tensors or `Damaged`."""
    whole = example(types, csi=tensor(types, np.ones((2, 3, 2), np.float32)), time=1.0)
    read = 0
    for _ in range(2000):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            changed[place] = int(rng.integers(256))
        try:
            for value in parse_example(bytes(changed)).values():
                if isinstance(value, bytes):
                    parse_tensor(value)
            read += 1
        except Damaged:
            pass
    assert 0 < read < 2000
