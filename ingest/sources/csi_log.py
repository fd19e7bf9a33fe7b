"""Logs of Wi-Fi channel state information: the Intel 5300 NIC's, as D. Halperin's Linux 802.11n CSI Tool writes them.

The NIC's receive antennas are the array, each transmit stream is a user. A log is a row of records: big-endian length,
code byte, payload; code 0xBB is a beamforming report with the channel on 30 subcarriers. The `csiread` package (extra
`csi`) unpacks and scales a report. It believes every length in it and writes where that leads, so all of them are
checked here first. A log of any size streams through.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, TwinbeamError
from ingest.messages import ChannelFrame, no_array
from ingest.sources.base import Source, SourceInfo
from ingest.sources.wifi import TONES_20_MHZ, TONES_40_MHZ

_RATE_40_MHZ = 0x800
"""Bit of Intel's `rate_n_flags` that tells a 40 MHz packet."""

_BEAMFORMING = 0xBB
_SUBCARRIERS = 30
_MAX_ANTENNAS = 3
_TIMER_NS = 1_000
_TIMER_WRAP = 1 << 32
_HEAD = struct.Struct("<IH2xBB3BbBBHH")
"""Timer, report number, antennas, streams, RSSI A B C, noise floor, AGC, antenna order, bytes of channel, rate."""


@dataclass(frozen=True)
class Report:
    """One beamforming report. csi [receive antenna, stream, subcarrier]: the channel over its noise."""

    timer: int
    rate: int
    csi: npt.NDArray[np.complex128]


class IntelCsiSource(Source):
    """One `ChannelFrame` per packet and transmit stream, scaled so that the noise power of an entry is 1."""

    def __init__(self, path: Path) -> None:
        self._csiread = _csiread(path)
        shapes = [_shape(payload) for payload in _payloads(path) if payload]
        antennas = [shape[0] for shape in shapes if shape is not None]
        if not antennas:
            raise InputRefused("holds no CSI packet", where=str(path), mend="give a log of the Linux 802.11n CSI Tool")
        super().__init__(SourceInfo(format="intel5300", where=str(path), antennas=max(antennas), samples=len(antennas)))

    def __iter__(self) -> Iterator[ChannelFrame]:
        packet = -1
        timer: int | None = None
        ticks = latest = 0
        for payload in _payloads(Path(self.info.where)):
            if payload is None:
                self.rejected["truncated_end"] += 1
                continue
            report = self._report(payload)
            if report is None:
                self.rejected["damaged"] += 1
                continue
            packet += 1
            ticks += 0 if timer is None else _ticks_between(timer, report.timer)
            timer, latest = report.timer, max(latest, ticks)
            yield from self._frames(report, packet, latest * _TIMER_NS)

    def _report(self, payload: bytes) -> Report | None:
        """The report in `payload`; None where its parts do not agree."""
        shape = _shape(payload)
        if shape is None:
            return None
        # A new one for every report: one that is used again scales by sums of the report before (csiread 1.4.1).
        reader = self._csiread.Intel(None, nrxnum=_MAX_ANTENNAS, ntxnum=_MAX_ANTENNAS, pl_size=0, if_report=False)
        if reader.pmsg(bytes([_BEAMFORMING]) + payload) != _BEAMFORMING:
            return None
        antennas, streams = shape
        scaled = np.zeros((_SUBCARRIERS, antennas, streams), np.complex128)
        if reader.rssi_a[0] or reader.rssi_b[0] or reader.rssi_c[0]:
            with suppress(ZeroDivisionError):  # nothing was received
                scaled = reader.get_scaled_csi()[0, :, :antennas, :streams]
        return Report(int(reader.timestamp_low[0]), int(reader.rate[0]), np.moveaxis(scaled, 0, -1))

    def _frames(self, report: Report, packet: int, t_ns: int) -> Iterator[ChannelFrame]:
        antennas, streams, _ = report.csi.shape
        if antennas != self.info.antennas:
            self.rejected["antennas"] += streams
        elif not (report.csi.any() and np.isfinite(report.csi).all()):
            self.rejected["no_power"] += streams
        else:
            for stream in range(streams):
                yield _frame(report, report.csi[:, stream].astype(np.complex64), stream, packet, t_ns)


def _ticks_between(earlier: int, later: int) -> int:
    """How far the timer went, which wraps; negative where a packet was reported late."""
    return (later - earlier + _TIMER_WRAP // 2) % _TIMER_WRAP - _TIMER_WRAP // 2


def _frame(report: Report, cfr: npt.NDArray[np.complex64], stream: int, packet: int, t_ns: int) -> ChannelFrame:
    """cfr [antenna, subcarrier] as a message."""
    antennas = cfr.shape[0]
    return ChannelFrame(
        source=f"intel5300.tx{stream}",
        epoch=0,
        seq=packet,
        t_ns=t_ns,
        user=f"tx{stream}",
        block=packet,
        domain="effective",
        noise_power=1.0,
        snr_db=float(10 * np.log10(np.mean(np.abs(cfr) ** 2) + 1e-30)),
        cfr=cfr[None],
        tones_hz=TONES_40_MHZ if report.rate & _RATE_40_MHZ else TONES_20_MHZ,
        ris_patterns=no_array(1, 0),
        beams=no_array(0, antennas),
        cir=no_array(antennas, 0),
    )


def _payloads(path: Path) -> Iterator[bytes | None]:
    """The payload of every beamforming report; at last None where the log ends inside a record."""
    try:
        with path.open("rb") as file:
            yield from _records(file)
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None


def _records(file: IO[bytes]) -> Iterator[bytes | None]:
    while head := file.read(2):
        length = int.from_bytes(head)
        record = file.read(length)
        if len(head) < 2 or len(record) < length:
            yield None
            return
        if record and record[0] == _BEAMFORMING:
            yield record[1:]


def _shape(payload: bytes) -> tuple[int, int] | None:
    """Antennas and streams of the report in `payload`; None where its parts do not agree."""
    if len(payload) < _HEAD.size:
        return None
    _, _, antennas, streams, *_, order, csi_bytes, _ = _HEAD.unpack_from(payload)
    if not (1 <= antennas <= _MAX_ANTENNAS and 1 <= streams <= _MAX_ANTENNAS):
        return None
    bits = _SUBCARRIERS * (3 + 16 * antennas * streams)
    if csi_bytes != (bits + 7) // 8 or len(payload) != _HEAD.size + csi_bytes:
        return None
    chains = [(order >> 2 * antenna) & 3 for antenna in range(antennas)]
    return (antennas, streams) if sorted(chains) == list(range(antennas)) else None


def _csiread(path: Path) -> Any:
    try:
        import csiread
    except ImportError:
        raise TwinbeamError(
            "reading a CSI log needs csiread", where=str(path), mend="pip install 'twinbeam[csi]'"
        ) from None
    return csiread
