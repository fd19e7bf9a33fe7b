"""Fuzz targets: what comes in by network. Messages go straight to the code that takes them from a socket.

An input is a row of multipart messages: per frame a byte that says whether it is its message's last, and its length.
Nothing at all may be raised here, not even a refusal: what is bad is counted, and the stream goes on.
"""

from __future__ import annotations

import copy
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np

from controller.twin_frames import frame_of
from ingest import wire
from ingest.journal import pack, unpack
from ingest.messages import FeedbackFrame, IqBlock, Message, OutcomeFrame, no_array
from ingest.sequence import SequenceTracker
from ingest.sources.gnuradio import GnuRadioSource
from ingest.sources.srsran import SrsranSource
from ingest.sources.zmq_stream import ZmqSource
from ingest.topics import TOPICS
from sim.tracker import Trace
from tests.fuzz.formats import sometimes
from tests.fuzz.formats_made import change_record, resized
from tests.fuzz.mutate import NUMBERS, change_json, damage, overwrite
from tests.fuzz.targets import Ready, Target
from tests.ingest.stream_peers import double, symbol, tag, tagged, time_tuple, u64
from tests.random_channels import budget, complex_normal, frame
from tests.sim.hand_made import line_of_sight

_LENGTH = struct.Struct("<BI")
_PUSHED = "gnuradio+ipc://@fuzz?socket=pull&rate_hz=1e4&center_hz=1e9"
Frames = list[bytes]


def packed(messages: list[Frames]) -> bytes:
    """Messages as one input."""
    return b"".join(
        _LENGTH.pack(number == len(frames) - 1, len(one)) + one
        for frames in messages
        for number, one in enumerate(frames)
    )


def unpacked(data: bytes) -> list[Frames]:
    """The messages of an input; any bytes are some."""
    messages: list[Frames] = [[]]
    at = 0
    while at + _LENGTH.size <= len(data):
        last, size = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        messages[-1].append(data[at : at + size])
        at += size
        if last:
            messages.append([])
    return [frames for frames in messages if frames]


def _change_frames(data: bytes, rng: Random) -> bytes:
    """A frame of a message changed, or the order of frames and messages."""
    messages = unpacked(data)
    frames = rng.choice(messages)
    place = rng.randrange(len(frames))
    match rng.randrange(10):
        case 0:
            del frames[place]
        case 1:
            frames.insert(rng.randrange(len(frames) + 1), frames[place])
        case 2:
            messages.insert(rng.randrange(len(messages) + 1), frames)
        case 3:
            messages.remove(frames)
        case 4 | 5 if len(frames) > 2:
            frames[1], frames[2:] = resized(frames[1], frames[2:], rng)
        case 6:
            frames[place] = damage(frames[place], rng)
        case _:
            change = change_json if frames[place][:1] == b"{" else overwrite
            frames[place] = change(frames[place], rng)
    return packed([each for each in messages if each])


HERE = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def _messages() -> list[Message]:
    """One of every kind but the decision; the last two, a trace and a budget, are only ever read from a journal."""
    rng = np.random.default_rng(5)
    common = {"source": "fuzz", "epoch": 1, "seq": 4, "t_ns": 5}
    samples = complex_normal(rng, 2, 9).astype(np.complex64)
    traced = line_of_sight(np.zeros(3), HERE, 0.1)
    return [
        frame(complex_normal(rng, 2, 3), position_m=(1.0, 2.0, 3.0), pattern=np.ones(4)),
        IqBlock(**common, rate_hz=1e6, center_hz=1e9, first_sample=3, samples=samples),
        IqBlock(**common, rate_hz=1e6, center_hz=1e9, first_sample=3, full_scale=32767.0, samples=samples),
        FeedbackFrame(**common, user="u", block=1, codec="c", codeword=np.ones(4, np.float32),
                      powers_dbm=np.ones(2, np.float32), ris_pattern=no_array(0)),
        OutcomeFrame(**common, user="u", block=1, decision_seq=1, received_power_dbm=-50.0, sinr_db=3.0,
                     rate_bps_hz=1.0, ack=True),
        frame_of(Trace(3, ("u", "v"), HERE, traced, traced), {"u": -3.0}, epoch=1, seq=4, came_ns=5, trace_s=0.1),
        budget(3),
    ]  # fmt: skip


def _wire(_: Path) -> Ready:
    source = ZmqSource("zmq+ipc://@fuzz")

    def execute(data: bytes) -> int:
        source.sequence = SequenceTracker()
        found = [source.take([memoryview(one) for one in frames], 7) for frames in unpacked(data)]
        messages = [message for message in found if message is not None]
        for message in messages:
            wire.decode(wire.encode(message))
        return len(messages)

    each = [[bytes(part) for part in wire.encode(message)] for message in _messages()[:-2]]
    return Ready(execute, [packed([one]) for one in each] + [packed(each)], sometimes(_change_frames), source.close)


def _record(_: Path) -> Ready:
    """A journal's record, by the topic that its first byte tells."""
    topics = list(TOPICS)

    def execute(data: bytes) -> bool:
        with suppress(wire.WireError):
            return unpack(topics[data[0] % len(topics)] if data else "", data[1:]).seq >= 0
        return False

    seeds = [bytes([topics.index(message.TOPIC)]) + pack(message) for message in _messages()]
    return Ready(execute, seeds, sometimes(lambda data, rng: data[:1] + change_record(data[1:], rng)))


def _gnuradio(options: str, messages: list[Frames]) -> Target:
    def prepare(_: Path) -> Ready:
        opened = GnuRadioSource(_PUSHED.replace("pull", "sub") + options)

        def execute(data: bytes) -> int:
            source = copy.copy(opened)  # cheaper than another socket; what it changes is its own
            source.rejected = Counter()
            source._builder = copy.deepcopy(opened._builder)
            blocks = [block for frames in unpacked(data) for block in source.take([memoryview(f) for f in frames], 7)]
            blocks += source._builder.flush()
            for block in blocks:
                wire.decode(wire.encode(block))
            return len(blocks)

        mutate = sometimes(_change_tags if "tags=1" in options else _change_frames)
        return Ready(execute, [packed(messages)], mutate, opened.close)

    return Target(f"gnuradio {options.replace('&', ' ').strip()}".strip(), prepare)


def _change_tags(data: bytes, rng: Random) -> bytes:
    """Messages changed, or another one with tags of any kind behind them."""
    if rng.random() < 0.5:
        return _change_frames(data, rng)
    offset = rng.choice((0, 8, 16, 24, 100, 1 << 40, 1 << 62, (1 << 64) - 1))
    tags = [_a_tag(offset, rng) for _ in range(rng.randrange(4))]
    samples = np.ones(rng.choice((0, 1, 8, 8, 200)), np.complex64) * rng.choice((1, 1, np.inf))
    return data + packed([[tagged(offset, samples, *tags)]])


def _a_tag(offset: int, rng: Random) -> bytes:
    key = rng.choice(("rx_time", "rx_freq", "rx_rate", "", "x" * 300))
    places = (offset, offset + 1, offset + 8, offset + 9, offset - 1, 1 << 63)
    if key == "rx_time" and rng.random() < 0.6:
        value = time_tuple(rng.choice(NUMBERS) % (1 << 64), rng.choice((0.0, 0.5, 1.0, 2.0, float("nan"), 1e308)))
    elif rng.random() < 0.6:
        value = double(rng.choice((0.0, 1.0, 1e4, 2e9, 1e10, 1e11, -1.0, float("nan"), float("inf"), 1e-320)))
    else:
        value = _a_pmt(rng, 0)
    return tag(rng.choice(places) % (1 << 64), key, value)


def _a_pmt(rng: Random, depth: int) -> bytes:
    """A polymorphic value as GNU Radio serialises it, or nearly."""
    inner = (lambda: _a_pmt(rng, depth + 1)) if depth < 5 else (lambda: b"\x06")
    count = rng.randrange(3)
    match rng.randrange(9):
        case 0:
            return bytes([rng.choice((0, 1, 6, 6, 6, 14, 255))])
        case 1:
            return symbol(rng.choice(("", "rx_time", "é", "x" * 70)))
        case 2:
            return u64(rng.choice(NUMBERS) % (1 << 64))
        case 3:
            return b"\x03" + struct.pack(">I", rng.choice(NUMBERS) % (1 << 32))
        case 4:
            return (
                bytes([rng.choice((0x08, 0x0C))]) + struct.pack(">I", count) + b"".join(inner() for _ in range(count))
            )
        case 5:
            return bytes([rng.choice((0x07, 0x09))]) + inner() + inner()
        case 6:
            return b"\x0a" + struct.pack(">BIB", rng.randrange(14), rng.choice((0, 2, 1 << 31)), 0) + bytes(16)
        case 7:
            return b"\x09" + b"".join(b"\x07" + symbol(key) + inner() + b"\x09" for key in "ab") + b"\x06\x06"
    return bytes([rng.choice((0x07, 0x09, 0x08))]) * rng.choice((1, 40, 2000))


def _srsran(_: Path) -> Ready:
    """Answers of two channels in turn, as they are taken off the sockets."""
    opened = SrsranSource("srsran+tcp://127.0.0.1:9?port1=10&rate_hz=1e4&center_hz=1e9")

    def execute(data: bytes) -> int:
        source = copy.copy(opened)
        source.rejected = Counter()
        source._builder = copy.deepcopy(opened._builder)
        source._channels = [copy.copy(channel) for channel in opened._channels]
        blocks = []
        for number, frames in enumerate(unpacked(data)):
            blocks += source._take(source._channels[number % 2], frames)
            blocks += source._pass_on()
        for block in [*blocks, *source._builder.flush()]:
            wire.decode(wire.encode(block))
        return len(blocks)

    answers = [[np.full(count, 1 + 1j, np.complex64).tobytes()] for count in (50, 20, 120, 150, 1, 1)]
    return Ready(execute, [packed(answers)], sometimes(_change_frames), opened.close)


_BARE = np.arange(64, dtype=np.complex64)
_TAGGED: list[Frames] = [
    [tagged(0, _BARE[:8], tag(0, "rx_time", time_tuple(5, 0.25)), tag(0, "rx_freq", double(2e9)))],
    [tagged(8, _BARE[:8])],
    [tagged(24, _BARE[:8], tag(26, "rx_rate", double(2e4)), tag(24, "rx_time", time_tuple(6, 0.5)))],
]
STREAMS = [
    Target("wire", _wire),
    Target("journal record", _record),
    _gnuradio("", [[_BARE[:40].tobytes()], [_BARE[:30].tobytes()[:-3]], [_BARE.tobytes()]]),
    _gnuradio("&format=sc16&antennas=3&key=k", [[b"k", bytes(range(48))], [b"k", bytes(30)]]),
    _gnuradio("&tags=1", _TAGGED),
    _gnuradio("&tags=1&key=rx&format=cf64", [[b"rx", *each] for each in _TAGGED]),
    Target("srsran", _srsran),
]
