"""Logs of Wi-Fi channel state information: the Intel 5300 NIC's, read by the `csiread` package (extra `csi`).

The NIC's receive antennas are the array, each transmit stream is a user.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ingest.errors import InputRefused, TwinbeamError
from ingest.messages import ChannelFrame, no_array
from ingest.sources.base import Source, SourceInfo

# IEEE 802.11n-2009 table 7-25f: the 30 subcarriers that Ng = 2 (20 MHz) and Ng = 4 (40 MHz) grouping report.
TONES_20_MHZ = np.r_[np.arange(-28, -1, 2), -1, np.arange(1, 28, 2), 28] * 312.5e3
TONES_40_MHZ = np.arange(-58, 59, 4) * 312.5e3
_RATE_40_MHZ = 0x800
"""Bit of Intel's `rate_n_flags` that tells a 40 MHz packet."""

_TIMER_NS = 1_000
_TIMER_WRAP = 1 << 32


class IntelCsiSource(Source):
    """One `ChannelFrame` per packet and transmit stream, scaled so that the noise power of an entry is 1.

    The scaling by RSSI, AGC and noise floor is csiread's `get_scaled_csi` (D. Halperin's Linux 802.11n CSI Tool).
    """

    def __init__(self, path: Path) -> None:
        self._log = _read(path)
        self._csi = self._log.get_scaled_csi()
        antennas = int(self._log.Nrx.max())
        super().__init__(SourceInfo(format="intel5300", where=str(path), antennas=antennas, samples=self._log.count))

    def __iter__(self) -> Iterator[ChannelFrame]:
        log = self._log
        if _ends_inside_record(Path(self.info.where)):
            self.rejected["truncated_end"] += 1
        ticks = np.unwrap(log.timestamp_low.astype(np.float64), period=_TIMER_WRAP)
        times_ns = ((ticks - ticks[0]) * _TIMER_NS).astype(np.int64)
        for packet in range(log.count):
            antennas = int(log.Nrx[packet])
            tones_hz = TONES_40_MHZ if log.rate[packet] & _RATE_40_MHZ else TONES_20_MHZ
            for stream in range(int(log.Ntx[packet])):
                cfr = self._csi[packet, :, :antennas, stream].T.astype(np.complex64)
                if antennas != self.info.antennas:
                    self.rejected["antennas"] += 1
                    continue
                if not np.isfinite(cfr).all():
                    self.rejected["non_finite"] += 1
                    continue
                yield ChannelFrame(
                    source=f"intel5300.tx{stream}",
                    epoch=0,
                    seq=packet,
                    t_ns=int(max(times_ns[packet], 0)),
                    user=f"tx{stream}",
                    block=packet,
                    domain="effective",
                    noise_power=1.0,
                    snr_db=float(10 * np.log10(np.mean(np.abs(cfr) ** 2) + 1e-30)),
                    cfr=cfr[None],
                    tones_hz=tones_hz,
                    ris_patterns=no_array(1, 0),
                    beams=no_array(0, antennas),
                    cir=no_array(antennas, 0),
                )


def _read(path: Path) -> Any:
    try:
        import csiread
    except ImportError:
        raise TwinbeamError(
            "reading a CSI log needs csiread", where=str(path), mend="pip install 'twinbeam[csi]'"
        ) from None
    if path.stat().st_size == 0:
        raise InputRefused("is empty", where=str(path), mend="give a log with packets in it")
    log = csiread.Intel(str(path), nrxnum=3, ntxnum=3, pl_size=0, if_report=False)
    try:
        log.read()
    except Exception as error:
        raise InputRefused(f"is not an Intel 5300 log: {error}", where=str(path)) from None
    if log.count == 0:
        raise InputRefused("holds no CSI packet", where=str(path), mend="give a log of the Linux 802.11n CSI Tool")
    return log


def _ends_inside_record(path: Path) -> bool:
    """Whether the last record of the log is cut: csiread leaves it out and says nothing."""
    size = path.stat().st_size
    offset = 0
    with path.open("rb") as file:
        while offset + 2 <= size:
            file.seek(offset)
            offset += 2 + int.from_bytes(file.read(2))
    return offset != size
