"""Every message survives the wire unchanged, and nothing but `WireError` comes of bytes that are no message."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ingest import wire
from ingest.messages import MESSAGE_TYPES, ChannelFrame, IqBlock, Message, TwinFrame, no_array
from ingest.topics import MAX_MESSAGE_BYTES, TOPICS
from tests.random_channels import complex_normal, frame

NAMES = st.from_regex(r"[A-Za-z0-9_.:+-]{1,64}", fullmatch=True)
COUNTS = st.integers(0, 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-300, 1e300)
VECTORS = st.tuples(FLOATS, FLOATS, FLOATS)
ELEMENTS = {
    "<c8": st.complex_numbers(max_magnitude=1e18, allow_nan=False, allow_infinity=False, width=64),
    "<f8": FLOATS,
    "<f4": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "<i2": st.integers(-(2**15), 2**15 - 1),
}
LONG = 300


@st.composite
def messages(draw: Any, message_type: type[Message]) -> Message:
    """Any valid message of a type, its scalars drawn by their annotations, its arrays by their letters."""
    lengths = {letter: draw(st.integers(1, 4)) for spec in message_type.ARRAYS for letter in spec.dims}
    fields: dict[str, Any] = {
        name: draw(COUNTS)
        for name in (
            "epoch",
            "seq",
            "t_ns",
            "asked_ns",
            "block",
            "first_sample",
            "skipped",
            "decision_seq",
            "iterations",
        )
    }
    fields |= {"designed_block": draw(COUNTS), "source": draw(NAMES), "user": draw(NAMES), "codec": draw(NAMES)}
    fields |= {
        name: draw(POSITIVE) for name in ("rate_hz", "noise_power", "gain", "power", "lead_s", "trace_s", "rate_bps_hz")
    }
    fields |= {name: draw(FLOATS) for name in ("snr_db", "sinr_db", "received_power_dbm")}
    fields |= {
        "center_hz": draw(POSITIVE),
        "ack": draw(st.booleans()),
        "rung": draw(st.sampled_from(["linear", "hold"])),
    }
    for name, values in (
        ("carrier_hz", POSITIVE),
        ("cfo_hz", FLOATS),
        ("k_factor_db", FLOATS),
        ("tap_s", POSITIVE),
        ("sent_dbm", FLOATS),
    ):
        fields[name] = draw(st.none() | values)
    for name, most in (("delay_spread_s", 1e300), ("doppler_hz", 1e300), ("confidence", 1.0)):
        fields[name] = draw(st.none() | st.floats(0.0, most))
    fields["phases"] = draw(st.sampled_from([None, "calibrated", "uncalibrated", "drifting"]))
    fields["decision_epoch"] = draw(st.none() | COUNTS)
    fields["full_scale"] = draw(st.none() | st.sampled_from([2048.0, 32767.0, 32768.0]))
    fields |= {"position_m": draw(st.none() | VECTORS), "velocity_m_s": draw(st.none() | VECTORS)}
    fields["notes"] = tuple(draw(st.lists(st.text(max_size=40), max_size=3)))
    users = lengths.get("K", 0)
    fields |= {"users": tuple(f"ue{k}" for k in range(users)), "validity": ("learning",) * users}
    fields["domain"] = draw(st.sampled_from(["effective", "cascade"]))
    if message_type is ChannelFrame and fields["domain"] == "cascade":
        lengths |= {"M": 0, "N": 0}
    fields["errors_db"] = tuple(draw(st.lists(st.none() | FLOATS, min_size=users, max_size=users)))
    if message_type is TwinFrame:
        lengths |= {"X": 3}
    for spec in message_type.ARRAYS:
        shape = tuple(lengths[letter] for letter in spec.dims)
        dtype = draw(st.sampled_from(spec.dtypes))
        if spec.scaled and fields["full_scale"]:
            pairs = draw(hnp.arrays(np.dtype("<i2"), (*shape, 2)))
            fields[spec.name] = wire.from_pairs(pairs, fields["full_scale"])
        else:
            fields[spec.name] = draw(hnp.arrays(np.dtype(dtype), shape, elements=ELEMENTS[dtype]))
    if message_type is TwinFrame:
        _make_whole(fields)
    return message_type(**{name: fields[name] for name in message_type.__struct_fields__})


def _make_whole(fields: dict[str, Any]) -> None:
    """Let the first user have all paths, and each path a length."""
    for hop in ("bs", "ris"):
        lengths = fields[f"{hop}_length_m"]
        fields[f"{hop}_paths"] = np.zeros_like(fields[f"{hop}_paths"])
        fields[f"{hop}_paths"][0] = len(lengths)
        for name in ("length_m", "reach_m"):
            fields[f"{hop}_{name}"] = np.abs(fields[f"{hop}_{name}"]) + 1.0


def same(left: Message, right: Message) -> bool:
    """Equal types, scalars and arrays, dtype and shape included."""
    if type(left) is not type(right):
        return False
    for name in left.__struct_fields__:
        one, other = getattr(left, name), getattr(right, name)
        if isinstance(one, np.ndarray):
            if one.dtype != other.dtype or one.shape != other.shape or not np.array_equal(one, other):
                return False
        elif one != other:
            return False
    return True


@pytest.mark.parametrize("message_type", MESSAGE_TYPES)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(message_type: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(message_type))
    frames = [bytes(part) for part in wire.encode(message)]
    assert same(wire.decode(frames), message)
    assert [bytes(part) for part in wire.encode(wire.decode(frames))] == frames


@given(st.lists(st.binary(max_size=LONG), max_size=8))
@settings(max_examples=300, deadline=None)
def test_noise_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(frames)
    assert refusal.value.reason in wire.REASONS


@pytest.mark.parametrize("message_type", MESSAGE_TYPES)
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_is_refused_or_harmless(message_type: type[Message], data: st.DataObject) -> None:
    """Any byte changed, any frame cut, dropped or doubled: a valid message or a `WireError`, never anything else."""
    frames = [bytearray(part) for part in wire.encode(data.draw(messages(message_type)))]
    index = data.draw(st.integers(0, len(frames) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "drop", "double", "grow"]))
    if kind == "flip" and frames[index]:
        place = data.draw(st.integers(0, len(frames[index]) - 1))
        frames[index][place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        frames[index] = frames[index][: data.draw(st.integers(0, len(frames[index])))]
    elif kind == "drop":
        del frames[index]
    elif kind == "double":
        frames.insert(index, frames[index])
    else:
        frames[index] += data.draw(st.binary(min_size=1, max_size=32))
    try:
        message = wire.decode([bytes(part) for part in frames])
    except wire.WireError as refusal:
        refused = refusal.reason
    else:
        refused = None
        assert all(np.isfinite(getattr(message, spec.name)).all() for spec in type(message).ARRAYS)
    assert refused is None or refused in wire.REASONS


def changed_header(message: Message, **changes: Any) -> list[bytes]:
    frames = [bytes(part) for part in wire.encode(message)]
    header = json.loads(frames[1])
    for key, value in changes.items():
        if value is ...:
            del header[key]
        else:
            header[key] = value
    frames[1] = json.dumps(header).encode()
    return frames


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": "twinbeam.ChannelFrame/2"}, "schema"),
        ({"surprise": 1}, "header"),
        ({"user": ...}, "header"),
        ({"user": "no spaces"}, "header"),
        ({"user": "x" * 65}, "header"),
        ({"seq": -1}, "header"),
        ({"seq": 2**64}, "header"),
        ({"noise_power": 0.0}, "header"),
        ({"noise_power": "1"}, "header"),
        ({"domain": "somewhere"}, "header"),
        ({"arrays": []}, "frames"),
    ],
)
def test_strict_header(changes: dict[str, Any], reason: str, rng: np.random.Generator) -> None:
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(changed_header(frame(complex_normal(rng, 1, 4)), **changes))
    assert refusal.value.reason == reason


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_scalars_are_finite(number: str, rng: np.random.Generator) -> None:
    frames = changed_header(frame(complex_normal(rng, 1, 4)))
    frames[1] = frames[1].replace(b'"snr_db": 0.0', b'"snr_db": ' + number.encode())
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(frames)
    assert refusal.value.reason in ("header", "non_finite")


@pytest.mark.parametrize("poison", [np.nan, np.inf, complex(0, np.nan)])
def test_arrays_are_finite(poison: complex, rng: np.random.Generator) -> None:
    values = complex_normal(rng, 1, 4)
    values[0, 2] = poison
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(wire.encode(frame(values)))
    assert refusal.value.reason == "non_finite"


def test_equal_letters_are_equal_lengths(rng: np.random.Generator) -> None:
    message = msgspec.structs.replace(frame(complex_normal(rng, 1, 4)), tones_hz=np.zeros(2))
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(wire.encode(message))
    assert refusal.value.reason == "shape"


def test_shapes_beyond_memory_are_refused_without_allocating(rng: np.random.Generator) -> None:
    message = frame(complex_normal(rng, 1, 4))
    frames = [bytes(part) for part in wire.encode(message)]
    header = json.loads(frames[1])
    header["arrays"][0]["shape"] = [2**26, 2**26, 2**26]
    frames[1] = json.dumps(header).encode()
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(frames)
    assert refusal.value.reason == "shape"


def test_too_large_is_refused() -> None:
    topic = TOPICS[IqBlock.TOPIC]
    with pytest.raises(wire.WireError) as refusal:
        wire.decode([topic.prefix, b"{}", bytes(topic.max_bytes)])
    assert refusal.value.reason == "size"
    with pytest.raises(wire.WireError) as refusal:
        wire.decode([topic.prefix, bytes(wire.MAX_HEADER_BYTES + 1)])
    assert refusal.value.reason == "size"
    assert topic.max_bytes <= MAX_MESSAGE_BYTES


def test_contradictions_are_refused(rng: np.random.Generator) -> None:
    cascade = frame(complex_normal(rng, 3, 4), cascade=True)
    message = msgspec.structs.replace(cascade, ris_patterns=np.ones((3, 2), np.complex64))
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(wire.encode(message))
    assert refusal.value.reason == "inconsistent"
    empty = msgspec.structs.replace(
        cascade, cfr=no_array(0, 4, 1), ris_patterns=no_array(0, 0), beams=no_array(0, 4), cir=no_array(4, 0)
    )
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(wire.encode(empty))
    assert refusal.value.reason == "inconsistent"


def test_encode_refuses_other_kinds_of_arrays(rng: np.random.Generator) -> None:
    message = msgspec.structs.replace(frame(complex_normal(rng, 1, 4)), tones_hz=np.array(["a"]))
    with pytest.raises(ValueError, match="tones_hz"):
        wire.encode(message)


def iq(samples: np.ndarray, full_scale: float | None = None) -> IqBlock:
    return IqBlock(
        source="radio",
        epoch=0,
        seq=0,
        t_ns=0,
        rate_hz=1e6,
        center_hz=1e9,
        first_sample=0,
        full_scale=full_scale,
        samples=samples.astype(np.complex64),
    )


@pytest.mark.parametrize("full_scale", [1.0, 2047.0, 32767.0, 32768.0, 2.0**24])
def test_sixteen_bits_are_what_an_integer_division_says(full_scale: float, rng: np.random.Generator) -> None:
    pairs = rng.integers(-32768, 32768, (2, 500, 2), np.int16)
    frames = [bytes(part) for part in wire.encode(iq(np.zeros((2, 500)), full_scale))]
    frames[2] = pairs.tobytes()
    got = wire.decode(frames)
    assert isinstance(got, IqBlock)
    assert got.samples.dtype == np.complex64
    expected = (pairs[..., 0].astype(np.float64) + 1j * pairs[..., 1]) / full_scale
    np.testing.assert_allclose(got.samples, expected, rtol=2e-7)
    assert wire.encode(got)[2] == frames[2]


def test_sixteen_bits_halve_the_bytes_and_clip_what_is_beyond(rng: np.random.Generator) -> None:
    samples = complex_normal(rng, 2, 100)
    assert 2 * len(wire.encode(iq(samples, 32768.0))[2]) == len(wire.encode(iq(samples))[2])
    beyond = np.array([[1.0, -1.0 - 1.0j, 5j, -7.0 + 0.5j]])
    got = wire.decode(wire.encode(iq(beyond, 32768.0)))
    assert isinstance(got, IqBlock)
    np.testing.assert_array_equal(got.samples * 32768, [[32767, -32768 - 32768j, 32767j, -32768 + 16384j]])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"full_scale": None}, "dtype"),
        ({"full_scale": 0.5}, "header"),
        ({"full_scale": "32768"}, "header"),
        ({"full_scale": 1e300}, "header"),
        ({"arrays": [{"name": "samples", "dtype": "<c8", "shape": [1, 4]}]}, "dtype"),
        ({"arrays": [{"name": "samples", "dtype": "<i2", "shape": [1, 8]}]}, "shape"),
        ({"arrays": [{"name": "samples", "dtype": "<i2", "shape": [1, 2, 4]}]}, "shape"),
        ({"arrays": [{"name": "samples", "dtype": "<i2", "shape": [1, 5, 2]}]}, "shape"),
        ({"arrays": [{"name": "samples", "dtype": "<i2", "shape": [2**27, 0, 2]}]}, "shape"),
        ({"arrays": [{"name": "samples", "dtype": "<i2", "shape": [0, 4, 2]}]}, "shape"),
    ],
)
def test_sixteen_bits_are_strict_too(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(changed_header(iq(np.ones((1, 4)) / 2, 32768.0), **changes))
    assert refusal.value.reason == reason


def test_whole_numbers_without_their_scale_are_refused() -> None:
    with pytest.raises(wire.WireError) as refusal:
        wire.decode(changed_header(iq(np.ones((1, 4))), full_scale=32768.0))
    assert refusal.value.reason == "dtype"
