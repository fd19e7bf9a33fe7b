"""gr-zeromq's messages: bytes that GNU Radio itself wrote, and every way in which messages go wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.clock import ManualClock
from ingest.errors import UsageRefused
from ingest.messages import IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.sources.gnuradio import GnuRadioSource
from ingest.sources.gnuradio_tags import Tag, TagError, TagHeader, parse_tag_header
from ingest.stream_uri import parse_gnuradio
from tests.ingest.nr.signals import Ssb, capture
from tests.ingest.stream_peers import (
    bound,
    double,
    joined,
    patience,
    rows,
    symbol,
    tag,
    tagged,
    time_tuple,
    u64,
    until,
)

RATE_HZ = 1e6
NOW_NS = 77


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@contextmanager
def pushed(
    context: zmq.Context[zmq.Socket[bytes]], options: str = "", rate_hz: float = RATE_HZ, center_hz: float = 1e9
) -> Iterator[tuple[zmq.Socket[bytes], GnuRadioSource]]:
    """A PUSH sink and the source that pulls from it."""
    sink, address = bound(context, zmq.PUSH, "tcp://127.0.0.1:0")
    uri = f"gnuradio+{address}?socket=pull&rate_hz={rate_hz}&center_hz={center_hz}{options}"
    source = GnuRadioSource(uri, ManualClock(NOW_NS))
    with patience(source):
        yield sink, source
    sink.close()


def ramp(first: int, count: int, antennas: int = 1) -> npt.NDArray[np.complex64]:
    """Samples that tell their number. Shape [samples, antennas], as items lie in a message."""
    numbers = np.arange(first, first + count)[:, None] + 1000j * np.arange(antennas)[None]
    return numbers.astype(np.complex64)


# Written by GNU Radio 3.10.5: pmt.serialize_str of symbol, u64, double, tuple, dict, pair, vector, true, nil, complex,
# vector of two integers, dict with a tuple in it, and of a list of two truths.
GENUINE = {
    "02000772785f66726571": "rx_freq",
    "0b0000000000000005": 5,
    "043ff8000000000000": 1.5,
    "0c000000020b0000000000000003043fd0000000000000": (3, 0.25),
    "09070200016103fffffffd06": {"a": -3},
    "07020001780d0000010000000000": ("x", 2**40),
    "0a080000000201003f80000040000000": bytes.fromhex("3f80000040000000"),
    "00": True,
    "06": None,
    "053ff00000000000004000000000000000": 1 + 2j,
    "080000000203000000010300000001": (1, 1),
    "09070200016e0c00000002030000000103000000020907020004667265710441cdcd650000000006": {"n": (1, 2), "freq": 1e9},
    "0701070006": (False, True),
}


@pytest.mark.parametrize("text", GENUINE)
def test_values_that_gnu_radio_wrote(text: str) -> None:
    header = tagged(100, ramp(0, 3), tag(101, "key", bytes.fromhex(text)), tag(102, "next", u64(1)))
    assert parse_tag_header(memoryview(header)) == TagHeader(
        100, (Tag(1, "key", GENUINE[text]), Tag(2, "next", 1)), len(header) - 24
    )


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        tagged(0, ramp(0, 0))[:18],
        b"\xf0\x5f\x02" + tagged(0, ramp(0, 4))[3:],
        b"\x5f\xf0\x01" + tagged(0, ramp(0, 4))[3:],
        b"\xf0\x5f\x01" + struct.pack("<QQ", 1 << 63, 0),
        b"\xf0\x5f\x01" + struct.pack("<QQ", 0, 1 << 60) + bytes(100),
        tagged(5, ramp(0, 4), tag(4, "early", b"\x00")),
        tagged(0, ramp(0, 0), tag(0, "cut", double(1.0)))[:-4],
        tagged(0, ramp(0, 4), tag(0, "kind", b"\x0e")),
        tagged(0, ramp(0, 4), tag(0, "vector", b"\x0a\x55" + bytes(20))),
        tagged(0, ramp(0, 4), tag(0, "long", b"\x08\xff\xff\xff\xff")),
        tagged(0, ramp(0, 4), tag(0, "deep", b"\x07" * 5000)),
        tagged(0, ramp(0, 4), tag(0, "large", b"\x08" + struct.pack(">I", 1 << 17) + bytes(1 << 17))),
    ],
)
def test_damaged_headers_are_refused(damaged: bytes) -> None:
    with pytest.raises(TagError):
        parse_tag_header(memoryview(damaged))


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 60), st.integers(0, 255))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_header_or_refused(body: bytes, tags: int, place: int, value: int) -> None:
    made = bytearray(tagged(3, ramp(0, 2), *[tag(3 + n, "rx_time", time_tuple(n, 0.5)) for n in range(tags)]))
    made[min(place, len(made) - 1)] = value
    for data in (bytes(made), b"\xf0\x5f\x01" + struct.pack("<QQ", 0, tags) + body, body):
        try:
            header = parse_tag_header(memoryview(data))
        except TagError:
            continue
        assert 19 <= header.payload <= len(data)
        assert all(found.index >= 0 for found in header.tags)


@pytest.mark.parametrize("name", ["cf32", "cf64", "sc16", "sc8"])
@pytest.mark.parametrize("antennas", [1, 3])
@pytest.mark.parametrize("cut", [1, 5, 8, 64, 1000])
def test_bare_samples_may_be_cut_anywhere(
    name: str, antennas: int, cut: int, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    component, full_scale = {"cf32": ("<f4", 1), "cf64": ("<f8", 1), "sc16": ("<i2", 32768), "sc8": ("i1", 128)}[name]
    sent = np.random.default_rng(cut).integers(-100, 100, (50, antennas, 2)).astype(component)
    data = sent.tobytes()
    with pushed(context, f"&format={name}&antennas={antennas}&block_ms=0.1") as (sink, source):
        for start in range(0, len(data), cut):
            sink.send(data[start : start + cut])
        blocks = until(iter(source), 50)
    expected = (sent[..., 0] + 1j * sent[..., 1].astype(np.float64)) / full_scale
    np.testing.assert_allclose(joined(blocks), expected.T, rtol=1e-6)
    assert rows(blocks) == [(0, 0, 50)]
    assert (dict(source.rejected), source.lost_samples) == ({}, 0)
    assert {block.t_ns for block in blocks} == {NOW_NS}
    assert {block.rate_hz for block in blocks} == {RATE_HZ}


def test_blocks_have_the_length_asked_for(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pushed(context, "&block_ms=0.1") as (sink, source):
        for first in range(0, 330, 33):
            sink.send(ramp(first, 33).tobytes())
        blocks = until(iter(source), 330)
    assert [block.samples.shape[1] for block in blocks] == [100, 100, 100, 30]
    assert [block.seq for block in blocks] == [0, 1, 2, 3]
    np.testing.assert_array_equal(joined(blocks)[0], np.arange(330))


def test_a_key_is_asked_for_and_no_longer_one(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    sink, address = bound(context, zmq.XPUB, f"ipc://{tmp_path}/out")
    source = GnuRadioSource(f"gnuradio+{address}?key=rx&rate_hz=1e6&center_hz=1e9")
    with patience(source):
        assert sink.recv() == b"\x01rx"
        sink.send_multipart([b"rx", ramp(0, 10).tobytes()])
        sink.send_multipart([b"rx2", ramp(10, 10).tobytes()])
        sink.send_multipart([b"rx"])
        sink.send_multipart([b"rx", ramp(20, 10).tobytes(), b"more"])
        sink.send_multipart([b"tx", ramp(30, 10).tobytes()])
        sink.send_multipart([b"rx", ramp(40, 10).tobytes()])
        blocks = until(iter(source), 20)
    sink.close()
    np.testing.assert_array_equal(joined(blocks)[0], [*range(10), *range(40, 50)])
    assert dict(source.rejected) == {"key": 1, "frames": 2}


def messages_of(pattern: list[int]) -> list[bytes]:
    """Tagged messages of 1000 samples, by their number in the stream."""
    return [tagged(1000 * n, ramp(1000 * n, 1000)) for n in pattern]


FAULTS: dict[str, tuple[list[bytes], list[tuple[int, int, int]], dict[str, int], int]] = {
    "none": (messages_of([0, 1, 2]), [(0, 0, 3000)], {}, 0),
    "late subscriber": (messages_of([7, 8]), [(0, 7000, 2000)], {}, 0),
    "lost": (messages_of([0, 1, 4, 5, 7]), [(0, 0, 2000), (0, 4000, 2000), (0, 7000, 1000)], {}, 3000),
    "duplicated": (messages_of([0, 1, 1, 1, 2]), [(0, 0, 3000)], {"duplicate": 2}, 0),
    "reordered": (messages_of([0, 3, 1, 2, 4]), [(0, 0, 1000), (0, 3000, 2000)], {"reordered": 2}, 2000),
    "restarted": (messages_of([100, 101, 0, 1]), [(0, 100_000, 2000), (1, 0, 2000)], {}, 0),
    "restarted with loss": (messages_of([100, 3, 5]), [(0, 100_000, 1000), (1, 3000, 1000), (1, 5000, 1000)], {}, 1000),
    "truncated": (
        [*messages_of([0]), messages_of([1])[0][:-3], *messages_of([2])],
        [(0, 0, 1000), (0, 2000, 1000)],
        {"truncated": 1},
        1000,
    ),
    "cut before a tag": (
        [*messages_of([0]), tagged(1000, ramp(1000, 1000), tag(1999, "x", b"\x00"))[: -8 * 100], *messages_of([2])],
        [(0, 0, 1000), (0, 2000, 1000)],
        {"truncated": 1},
        1000,
    ),
    "untagged among tagged": (
        [*messages_of([0]), ramp(1000, 1000).tobytes(), *messages_of([2])],
        [(0, 0, 1000), (0, 2000, 1000)],
        {"header": 1},
        1000,
    ),
    "empty": ([*messages_of([0]), b"", tagged(1000, ramp(0, 0)), *messages_of([1])], [(0, 0, 2000)], {"header": 1}, 0),
    "not a number": (
        [*messages_of([0]), tagged(1000, np.full(1000, np.nan, np.complex64)), *messages_of([2])],
        [(0, 0, 1000), (0, 2000, 1000)],
        {"non_finite": 1},
        0,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_tagged_streams_are_counted_exactly(fault: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    messages, expected, rejected, lost = FAULTS[fault]
    with pushed(context, "&tags=1") as (sink, source):
        for message in messages:
            sink.send(message)
        blocks = until(iter(source), sum(count for _, _, count in expected))
    assert rows(blocks) == expected
    numbers = np.concatenate([np.arange(first, first + count) for _, first, count in expected])
    np.testing.assert_array_equal(joined(blocks)[0], numbers)
    assert (dict(source.rejected), source.lost_samples, source.gaps) == (rejected, lost, 0)


def test_tags_where_none_are_expected_are_told(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pushed(context) as (sink, source):
        sink.send(ramp(0, 10).tobytes()[:-3])
        sink.send(tagged(10, ramp(10, 10), tag(10, "rx_freq", double(1e9))))
        sink.send(ramp(9, 2).tobytes()[5:])
        blocks = until(iter(source), 11)
    np.testing.assert_array_equal(joined(blocks)[0], np.arange(11))
    assert dict(source.rejected) == {"tagged": 1}


def test_frequency_and_rate_hold_from_their_sample_on(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    tags = [
        tag(0, "rx_freq", double(2e9)),
        tag(40, "rx_freq", double(3e9)),
        tag(40, "other", symbol("x")),
        tag(70, "rx_freq", double(3e9)),
        tag(90, "rx_rate", double(2e6)),
        tag(100, "rx_freq", double(1e9)),
    ]
    with pushed(context, "&tags=1") as (sink, source):
        sink.send(tagged(0, ramp(0, 100), *reversed(tags)))
        sink.send(tagged(100, ramp(100, 100)))
        blocks = until(iter(source), 200)
    told = [(block.first_sample, block.samples.shape[1], block.center_hz, block.rate_hz) for block in blocks]
    assert told == [(0, 40, 2e9, 1e6), (40, 50, 3e9, 1e6), (90, 10, 3e9, 2e6), (100, 100, 1e9, 2e6)]
    np.testing.assert_array_equal(joined(blocks)[0], np.arange(200))
    assert not source.rejected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rx_freq", double(np.nan)),
        ("rx_freq", double(-1.0)),
        ("rx_freq", symbol("1e9")),
        ("rx_freq", b"\x00"),
        ("rx_rate", double(0.0)),
        ("rx_rate", double(np.inf)),
        ("rx_rate", b"\x06"),
        ("rx_time", double(1.0)),
        ("rx_time", b"\x0c" + struct.pack(">I", 2) + double(1.0) + double(0.5)),
        ("rx_time", time_tuple(1, 7.0)),
        ("rx_time", time_tuple(1 << 63, 0.0)),
    ],
)
def test_tags_that_no_radio_sends(key: str, value: bytes, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pushed(context, "&tags=1") as (sink, source):
        sink.send(tagged(0, ramp(0, 10), tag(5, key, value)))
        blocks = until(iter(source), 10)
    assert [(block.center_hz, block.rate_hz) for block in blocks] == [(1e9, 1e6)]
    assert dict(source.rejected) == {"tag": 1}


@pytest.mark.parametrize(
    ("times", "expected", "rejected", "lost"),
    [
        # (sample that bears the tag, seconds, fraction) at 1 MS/s
        ([(0, 5, 0.9999), (100, 6, 0.0)], [(0, 0, 300)], {}, 0),
        ([(0, 5, 0.0), (100, 5, 0.000123)], [(0, 0, 100), (0, 123, 200)], {}, 23),
        ([(50, 5, 0.0), (100, 5, 0.00006), (200, 5, 0.00017)], [(0, 0, 100), (0, 110, 100), (0, 220, 100)], {}, 20),
        ([(0, 5, 0.0), (100, 4, 0.0)], [(0, 0, 100), (1, 100, 200)], {"clock_step": 1}, 0),
        ([(0, 5, 0.0), (100, 500_000, 0.0), (200, 500_000, 1e-4)], [(0, 0, 100), (1, 100, 200)], {"clock_step": 1}, 0),
    ],
)
def test_the_radios_clock_tells_what_the_radio_lost(
    times: list[tuple[int, int, float]],
    expected: list[tuple[int, int, int]],
    rejected: dict[str, int],
    lost: int,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    tags = [tag(at, "rx_time", time_tuple(seconds, fraction)) for at, seconds, fraction in times]
    with pushed(context, "&tags=1") as (sink, source):
        sink.send(tagged(0, ramp(0, 300), *tags))
        blocks = until(iter(source), 300)
    assert rows(blocks) == expected
    np.testing.assert_array_equal(joined(blocks)[0], np.arange(300))
    assert (dict(source.rejected), source.lost_samples) == (rejected, lost)


@pytest.mark.parametrize("tags", [0, 1])
def test_a_sink_that_comes_back_begins_a_new_life(tags: int, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pushed(context, f"&tags={tags}") as (sink, source):
        first = tagged(0, ramp(0, 10)) if tags else ramp(0, 10).tobytes() + b"half"
        sink.send(first)
        messages = iter(source)
        blocks = until(messages, 10)
        address = source.info.where
        sink.close()
        again, _ = bound(context, zmq.PUSH, address)
        again.send(tagged(0, ramp(0, 20)) if tags else ramp(0, 20).tobytes())
        blocks += until(messages, 20)
        again.close()
    assert rows(blocks) == [(0, 0, 10), (1, 0, 20)]
    assert not source.rejected


def ssb_messages(rate_hz: float, center_hz: float, raster_hz: float) -> list[npt.NDArray[np.complex64]]:
    """120 ms of a cell with an SSB every 20 ms, in pieces of 2 ms; noise among it."""
    rng = np.random.default_rng(4)
    ssbs = [Ssb(pci=321, start_s=0.5e-3 + 0.02 * n, raster_hz=raster_hz) for n in range(6)]
    samples = capture(ssbs, rate_hz=rate_hz, center_hz=center_hz, samples=round(0.12 * rate_hz), snr_db=20.0, rng=rng)
    return np.split(samples[0], 60)


@pytest.mark.parametrize(
    ("pattern", "heard_ms"),
    [
        ([*range(60)], [0, 20, 40, 60, 80, 100]),
        ([*range(19), *range(22, 60)], [0, 20, 60, 80, 100]),  # the SSB at 40 ms is lost, the next one is heard again
        ([*range(20), 20, 20, 20, *range(21, 60)], [0, 20, 40, 60, 80, 100]),
        ([*range(20), 25, 20, 21, 22, 23, 24, *range(26, 60)], [0, 20, 60, 80, 100]),
        ([*range(10), *range(33, 60)], [0, 80, 100]),
    ],
)
def test_estimates_resume_on_the_next_good_block(
    pattern: list[int], heard_ms: list[int], context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    rate_hz, center_hz, raster_hz = 15.36e6, 3500e6, 3499.68e6
    pieces = ssb_messages(rate_hz, center_hz, raster_hz)
    length = len(pieces[0])
    receiver, frames = NrReceiver(), []
    with pushed(context, "&tags=1", rate_hz, center_hz) as (sink, source):
        for n in pattern:
            sink.send(tagged(n * length, pieces[n]))
        messages: Any = iter(source)
        expected = len(set(pattern)) - source_refuses(pattern)
        for block in until(messages, expected * length):
            frames += [(frame, block) for frame in receiver.process(block)]
    times_ms = [(frame.t_ns - block.t_ns) * 1e-6 + block.first_sample / rate_hz * 1e3 for frame, block in frames]
    assert [round(time_ms) // 20 * 20 for time_ms in times_ms] == heard_ms
    assert {frame.user for frame, _ in frames} == {"pci321.ssb0"}
    assert all(abs(frame.snr_db - 20.0) < 3.0 for frame, _ in frames)
    assert receiver.gaps == source.lost_samples


def source_refuses(pattern: list[int]) -> int:
    """How many different messages come only after a later one."""
    return sum(n < max(pattern[: pattern.index(n)], default=-1) for n in set(pattern))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gnuradio+tcp://127.0.0.1:1", "needs rate_hz"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6", "needs center_hz"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=nan&center_hz=1", "rate_hz=nan"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=0&center_hz=1", "rate_hz=0"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=-1", "center_hz=-1"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=1&block_ms=0", "block_ms=0"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=1&antennas=0", "antennas=0"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=1&antennas=65", "antennas=65"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=1&format=f32", "unknown format"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=1&tags=yes", "tags=yes"),
        ("gnuradio+tcp://127.0.0.1:1?rate_hz=1e6&center_hz=1&socket=pull&key=a", "a key belongs"),
        ("gnuradio+tcp://127.0.0.1:1?rate=1e6", "unknown option 'rate'"),
        ("gnuradio+tcp://127.0.0.1?rate_hz=1e6&center_hz=1", "host and a port"),
        ("gnuradio+tcp://0.0.0.0:1?rate_hz=1e6&center_hz=1&bind=1", "other hosts"),
    ],
)
def test_addresses_are_checked(uri: str, words: str) -> None:
    with pytest.raises(UsageRefused, match=words):
        parse_gnuradio(uri)


def test_the_configuration_may_tell_rate_and_frequency() -> None:
    stream = parse_gnuradio("gnuradio+tcp://127.0.0.1:1?rate_hz=2e6", 1e6, 3e9)
    assert (stream.iq.rate_hz, stream.iq.center_hz) == (2e6, 3e9)


def test_what_cannot_be_seen_is_told(tmp_path: Path) -> None:
    for tags, words in ((0, "losses unseen"), (1, "tags")):
        source = GnuRadioSource(f"gnuradio+ipc://{tmp_path}/x?rate_hz=1e6&center_hz=1e9&tags={tags}")
        assert words in source.info.format
        source.close()
    assert isinstance(source, GnuRadioSource)
    assert list(source) == []


def test_blocks_are_the_receivers_to_keep(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pushed(context, "&block_ms=0.1") as (sink, source):
        messages = iter(source)
        sink.send(ramp(0, 100).tobytes())
        first = next(messages)
        sink.send(ramp(100, 100).tobytes())
        next(messages)
    assert isinstance(first, IqBlock)
    np.testing.assert_array_equal(first.samples[0], np.arange(100))
