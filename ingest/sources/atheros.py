"""Logs of the Atheros CSI Tool (Y. Xie and M. Li): ath9k cards, every subcarrier, 10 bits a component.

A log is a row of records, a 16-bit length and so many bytes: 25 of head, the channel, the packet. Lengths and the
head's 16- and 64-bit numbers have the byte order of the machine that logged: a PC's little, a router's big. Numbers of
the channel run over receive antennas first, then streams, then subcarriers, as the tool's own reader unpacks them;
csiread 1.4.1 takes streams first, which mixes antennas as soon as there is more than one stream.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame
from ingest.sources.base import Source, SourceInfo
from ingest.sources.wifi import ALL_TONES, Packet, frames, unpack_10_bit, usual

_HEAD = "QHHBBBBBBB4BH"
"""Time [us], bytes of channel, carrier [MHz], error, noise floor, rate, 40 MHz, tones, antennas, streams, RSSI (4),
bytes of packet."""
_HEAD_BYTES = struct.calcsize("<" + _HEAD)
_MAX_ANTENNAS = 3
_NO_RSSI = 0x80
_LOOK_BYTES = 1 << 16


def atheros_byte_order(head: bytes) -> str:
    """'<' or '>' where `head` is the beginning of such a log, else nothing."""
    for order in "<>":
        offset = packets = 0
        while offset + 2 + _HEAD_BYTES <= len(head) and packets < 4:
            (length,) = struct.unpack_from(order + "H", head, offset)
            if _checked(order, head[offset + 2 : offset + 2 + length], length) is None:
                break
            offset += 2 + length
            packets += 1
        if packets and (packets == 4 or offset + 2 + _HEAD_BYTES > len(head)):
            return order
    return ""


def _checked(order: str, record: bytes, length: int) -> tuple[int, ...] | None:
    """The head of a record whose parts agree with each other, else None. `record` may be cut after its head."""
    if len(record) < _HEAD_BYTES or length < _HEAD_BYTES:
        return None
    head = struct.unpack_from(order + _HEAD, record)
    csi_bytes, wide, tones, antennas, streams, payload = head[1], head[6], *head[7:10], head[14]
    if length != _HEAD_BYTES + csi_bytes + payload:
        return None
    if not csi_bytes:
        return head
    if not (1 <= antennas <= _MAX_ANTENNAS and 1 <= streams <= _MAX_ANTENNAS and tones in ALL_TONES):
        return None
    needed = tones * antennas * streams * 20
    return head if wide <= 1 and needed <= csi_bytes * 8 < needed + 32 else None


class AtherosCsiSource(Source):
    """One `ChannelFrame` per packet and transmit stream, scaled so that the noise power of an entry is 1."""

    def __init__(self, path: Path) -> None:
        self._order = ""
        counts: Counter[int] = Counter()
        try:
            with path.open("rb") as file:
                self._order = atheros_byte_order(file.read(_LOOK_BYTES)) or "<"
        except OSError as error:
            raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
        for head, _ in self._records(path):
            if head is not None and head[1]:
                counts[head[8]] += 1
        if not counts:
            raise InputRefused("holds no CSI packet", where=str(path), mend="give a log of the Atheros CSI Tool")
        super().__init__(SourceInfo(format="atheros", where=str(path), antennas=usual(counts), samples=counts.total()))

    def __iter__(self) -> Iterator[ChannelFrame]:
        number = 0
        for head, record in self._records(Path(self.info.where)):
            if head is None:
                self.rejected["truncated_end" if record is None else "damaged"] += 1
                continue
            assert record is not None
            if not head[1]:
                self.rejected["no_csi"] += 1
                continue
            packet = _packet(head, record)
            if packet.csi.shape[0] != self.info.antennas:
                self.rejected["antennas"] += packet.csi.shape[1]
            elif not packet.csi.any():
                self.rejected["no_power"] += packet.csi.shape[1]
            else:
                yield from frames(packet, "atheros", number)
                number += 1

    def _records(self, path: Path) -> Iterator[tuple[tuple[int, ...] | None, bytes | None]]:
        """Head and bytes of every record; (None, bytes) for a damaged one, at last (None, None) for a cut one."""
        try:
            with path.open("rb") as file:
                yield from self._read(file)
        except OSError as error:
            raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None

    def _read(self, file: IO[bytes]) -> Iterator[tuple[tuple[int, ...] | None, bytes | None]]:
        while prefix := file.read(2):
            if len(prefix) < 2:
                yield None, None
                return
            (length,) = struct.unpack(self._order + "H", prefix)
            record = file.read(length)
            if len(record) < length:
                yield None, None
                return
            yield _checked(self._order, record, length), record


def _packet(head: tuple[int, ...], record: bytes) -> Packet:
    time_us, csi_bytes, carrier_mhz = head[:3]
    tones, antennas, streams, rssi = head[7:11]
    csi = unpack_10_bit(record[_HEAD_BYTES : _HEAD_BYTES + csi_bytes], (tones, streams, antennas))
    return Packet(
        csi=np.ascontiguousarray(csi.transpose(2, 1, 0)),
        tones_hz=ALL_TONES[tones],
        t_ns=min(time_us, (1 << 63) // 1000 - 1) * 1000,
        snr_db=float(rssi) if 0 < rssi < _NO_RSSI else None,
        carrier_hz=carrier_mhz * 1e6 or None,
    )
