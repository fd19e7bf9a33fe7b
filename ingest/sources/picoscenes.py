"""PicoScenes logs (`.csi`): Intel 5300, Atheros 9300 and software radios, in one format of named segments.

A log is a row of frames: 32-bit length of what follows, magic 0x20150315, frame version, number of segments; a segment
is a 32-bit length of what follows, its name, its version and its content. `RxSBasic` holds time and RSSI, `CSI` the
channel. Segments of other names are passed over, versions that we do not know are counted. Intel AX200/AX210 frames are
counted as `device`: how they pack their numbers is not documented. Everything is little-endian.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame
from ingest.sources.base import Source, SourceInfo
from ingest.sources.wifi import (
    ALL_TONES,
    ROUNDING_POWER,
    TONES_20_MHZ,
    TONES_40_MHZ,
    Packet,
    frames,
    unpack_10_bit,
    usual,
)

MAGIC = 0x20150315
_FRAME = struct.Struct("<IIHB")
_MAX_FRAME_BYTES = 64 << 20
_ATHEROS, _INTEL, _RADIOS = 0x9300, 0x5300, (0x1234, 0x1000)
_CSI_HEADS = {
    1: struct.Struct("<HbHQQIHBBBBI"),
    2: struct.Struct("<HbHQQIHBBBBhI"),
    3: struct.Struct("<HbHQQIHBBBHBhI"),
    4: struct.Struct("<HBbHQQIHBBBHBhI"),
}
"""Device, (firmware,) packet format, bandwidth [MHz], carrier [Hz], rate [Hz], spacing [Hz], tones, streams, antennas,
extra streams, (CSI count,) antenna selection, (tone offset,) bytes of channel."""
_RX_TIME = struct.Struct("<HQh")
_RX_BYTES = {1: 26, 2: 28, 3: 32}
_MAX_ANTENNAS = 64
_MAX_TONES = 4096


class _Unread(Exception):
    """Why a frame is not passed on; the reason is counted."""


@dataclass(frozen=True)
class _Csi:
    """The head of a CSI segment and its numbers."""

    device: int
    bandwidth_mhz: int
    carrier_hz: int
    spacing_hz: int
    tones: int
    streams: int
    antennas: int
    offset: int
    data: bytes


def looks_like_picoscenes(head: bytes) -> bool:
    """Whether `head` begins with a PicoScenes frame."""
    return len(head) >= _FRAME.size and _FRAME.unpack_from(head)[1:3] == (MAGIC, 1)


class PicoScenesSource(Source):
    """One `ChannelFrame` per frame and transmit stream, scaled so that the noise power of an entry is 1.

    A log may hold frames with different numbers of antennas: the number that most of them have is the array.
    """

    def __init__(self, path: Path) -> None:
        counts: Counter[int] = Counter()
        for frame in _frames(path):
            try:
                if frame is not None:
                    counts[_packet(frame).csi.shape[0]] += 1
            except _Unread:
                continue
        if not counts:
            raise InputRefused("holds no CSI that is read", where=str(path), mend="Intel 5300, Atheros 9300 or USRP")
        super().__init__(
            SourceInfo(format="picoscenes", where=str(path), antennas=usual(counts), samples=counts.total())
        )

    def __iter__(self) -> Iterator[ChannelFrame]:
        number = 0
        for frame in _frames(Path(self.info.where)):
            try:
                if frame is None:
                    raise _Unread("truncated_end")
                packet = _packet(frame)
                if packet.csi.shape[0] != self.info.antennas:
                    raise _Unread("antennas")
                if not (packet.csi.any() and np.isfinite(packet.csi).all()):
                    raise _Unread("no_power")
            except _Unread as reason:
                self.rejected[str(reason)] += 1
                continue
            yield from frames(packet, "picoscenes", number)
            number += 1


def _frames(path: Path) -> Iterator[bytes | None]:
    """Every frame's bytes after its length; at last None where the log ends inside a frame or is none any more."""
    try:
        with path.open("rb") as file:
            yield from _read(file)
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None


def _read(file: IO[bytes]) -> Iterator[bytes | None]:
    while prefix := file.read(4):
        length = int.from_bytes(prefix, "little")
        frame = file.read(length) if len(prefix) == 4 and length <= _MAX_FRAME_BYTES else b""
        if len(frame) < max(length, _FRAME.size - 4):
            yield None
            return
        yield frame


def _packet(frame: bytes) -> Packet:
    """The channel in a frame."""
    magic, version, count = struct.unpack_from("<IHB", frame)
    if (magic, version) != (MAGIC, 1):
        raise _Unread("damaged")
    segments = _segments(frame, count)
    if "CSI" not in segments:
        raise _Unread("no_csi")
    csi = _head(*segments["CSI"])
    time, rssi = _basic(*segments.get("RxSBasic", (0, b"")))
    values, tones_hz = _values(csi)
    per_tick = 1 if csi.device in _RADIOS else 1000  # radios count nanoseconds, cards microseconds
    return Packet(
        csi=values,
        tones_hz=tones_hz,
        t_ns=min(time * per_tick, (1 << 63) - 1),
        snr_db=float(rssi) if rssi > 0 else None,
        carrier_hz=float(csi.carrier_hz) or None,
        rounding=0.0 if csi.device in _RADIOS else ROUNDING_POWER,
    )


def _segments(frame: bytes, count: int) -> dict[str, tuple[int, bytes]]:
    """Version and content of every segment, by name."""
    found: dict[str, tuple[int, bytes]] = {}
    offset = _FRAME.size - 4
    for _ in range(count):
        if offset + 5 > len(frame):
            raise _Unread("damaged")
        length, name_bytes = struct.unpack_from("<IB", frame, offset)
        end, begin = offset + 4 + length, offset + 5 + name_bytes + 2
        if not begin <= end <= len(frame):
            raise _Unread("damaged")
        name = frame[offset + 5 : offset + 5 + name_bytes].decode("latin-1")
        found.setdefault(name, (int.from_bytes(frame[begin - 2 : begin], "little"), frame[begin:end]))
        offset = end
    return found


def _head(version: int, content: bytes) -> _Csi:
    if version not in _CSI_HEADS:
        raise _Unread("unknown_version")
    layout = _CSI_HEADS[version]
    if len(content) < layout.size:
        raise _Unread("damaged")
    values = list(layout.unpack_from(content))
    data = content[layout.size :]
    if version == 4:
        del values[1]  # firmware
    device, _, bandwidth, carrier, _, spacing, tones, streams, antennas, extra = values[:10]
    if version >= 3 and values[10] > 1:
        raise _Unread("several_csi")
    offset = values[-2] if version >= 2 else 0
    streams += extra if device in _RADIOS else 0
    if values[-1] != len(data) or not (1 <= antennas <= _MAX_ANTENNAS and 1 <= tones <= _MAX_TONES):
        raise _Unread("damaged")
    return _Csi(device, bandwidth, carrier, spacing, tones, streams, antennas, offset, data)


def _basic(version: int, content: bytes) -> tuple[int, int]:
    """Time stamp and RSSI over the noise floor [dB], 0 where it is not told."""
    size = _RX_BYTES.get(version)
    if size is None or len(content) < size:
        return 0, 0
    _, time, _ = _RX_TIME.unpack_from(content)
    return time, int.from_bytes(content[size - 4 : size - 3], signed=True)


def _values(csi: _Csi) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float64]]:
    """The channel [antenna, stream, tone] and its tones."""
    if csi.device == _ATHEROS:
        return _atheros(csi)
    if csi.device == _INTEL:
        return _intel(csi)
    if csi.device in _RADIOS:
        return _radio(csi)
    raise _Unread("device")


def _atheros(csi: _Csi) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float64]]:
    """10-bit numbers: antennas first, then streams, then tones; sounding streams come on top of the told ones."""
    if csi.tones not in ALL_TONES:
        raise _Unread("damaged")
    streams, rest = divmod(len(csi.data) * 8, csi.tones * csi.antennas * 20)
    if not 1 <= streams <= _MAX_ANTENNAS or rest >= 32:
        raise _Unread("damaged")
    values = unpack_10_bit(csi.data, (csi.tones, streams, csi.antennas))
    return np.ascontiguousarray(values.transpose(2, 1, 0)), ALL_TONES[csi.tones] + csi.offset * csi.spacing_hz


def _intel(csi: _Csi) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float64]]:
    """8-bit numbers behind 3 bits a tone: streams first, then antennas, then tones."""
    pairs = (len(csi.data) - 12) // 60
    streams = pairs // csi.antennas
    bits = np.unpackbits(np.frombuffer(csi.data, np.uint8), bitorder="little")
    per_tone = 3 + 16 * csi.antennas * streams
    if csi.tones != 30 or streams < 1 or 30 * per_tone > bits.size:
        raise _Unread("damaged")
    numbers = bits[: 30 * per_tone].reshape(30, per_tone)[:, 3:].reshape(30, csi.antennas, streams, 2, 8)
    parts = np.packbits(numbers, axis=-1, bitorder="little")[..., 0].view(np.int8).astype(np.float32)
    values = (parts[..., 0] + 1j * parts[..., 1]).astype(np.complex64)
    tones_hz = TONES_40_MHZ if csi.bandwidth_mhz == 40 else TONES_20_MHZ
    return np.ascontiguousarray(values.transpose(1, 2, 0)), np.asarray(
        tones_hz + csi.offset * csi.spacing_hz, np.float64
    )


def _radio(csi: _Csi) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float64]]:
    """Tone numbers, then a matrix of complex doubles [tone, stream, antenna] that says so in its head."""
    numbers = np.frombuffer(csi.data[: 2 * csi.tones], "<i2")
    head = csi.data[2 * csi.tones :]
    shape = (csi.tones, csi.streams, csi.antennas)
    expected = b"BBv2\x03" + struct.pack("<3Q", *shape) + b"CD@C"
    values = np.frombuffer(head[len(expected) :][: len(head) // 16 * 16], np.uint8)
    if head[: len(expected)] != expected or values.size != 16 * csi.tones * csi.streams * csi.antennas:
        raise _Unread("damaged")
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.view("<c16").reshape(shape).astype(np.complex64)
    return np.ascontiguousarray(found.transpose(2, 1, 0)), numbers * float(csi.spacing_hz)
