"""Channel estimates of OpenAirInterface's data recording application: frequency-domain grids in SigMF.

Its captures carry `serialization:scheme = ["subcarriers", "ofdm_symbols"]` and `serialization:counts`: the samples are
the grid of one PUSCH allocation in one slot, subcarriers the faster index, not IQ. `raw-ce-fd-data` holds the
least-squares estimates at the DMRS positions and zeros elsewhere, `raw-inter-ce-fd-data` estimates on every subcarrier.
One recording is one slot; a collection holds one such recording beside the received grid, pilots and bits of the same
slot, which are passed over. What the radio was set to stands in the annotation under `system_components:*`.
Source: OpenAirInterface, doc/data_recording.md and common/utils/data_recording (November 2025).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame, no_array
from ingest.sources.base import Source, SourceInfo
from ingest.sources.sigmf_files import Recording
from ingest.sources.wifi import ROUNDING_POWER, noise_from_bends

_MAX_SUBCARRIERS = 275 * 12
_MAX_SYMBOLS = 14
_FRAMES = 1024
_SCS_HZ = (15e3, 30e3, 60e3, 120e3)
_ESTIMATES = re.compile(r"raw-(inter-)?ce-fd-data", re.ASCII)
_FULL_SCALE = 32768.0
"""OAI writes its 16-bit fixed-point numbers as they are, as floats."""


@dataclass(frozen=True)
class Grid:
    """What the metadata says of one recorded slot. pilots: the symbols, within the recorded ones, with DMRS."""

    subcarriers: int
    symbols: int
    pilots: tuple[int, ...]
    scs_hz: float
    carrier_hz: float
    frame: int
    slot: int
    rnti: int


def is_frequency_domain(recording: Recording) -> bool:
    """Whether the samples are a resource grid and not IQ over time."""
    return any("serialization:scheme" in capture for capture in recording.captures)


class OaiGridSource(Source):
    """One `ChannelFrame` per DMRS symbol of every recording with channel estimates; the UE is user `rnti<number>`."""

    def __init__(self, path: Path, recordings: tuple[Recording, ...]) -> None:
        estimates = [each for each in recordings if _ESTIMATES.match(each.name)]
        if not estimates:
            raise InputRefused(
                "is a frequency-domain grid without channel estimates, not IQ",
                where=recordings[0].where,
                mend="name the raw-ce-fd-data recording of the same slot",
            )
        self._recordings = [(each, _grid(each)) for each in estimates]
        super().__init__(SourceInfo(format="oai/channel-estimates", where=str(path), antennas=1))

    def __iter__(self) -> Iterator[ChannelFrame]:
        seq = 0
        for recording, grid in self._recordings:
            estimates = _read(recording, grid)
            for symbol in grid.pilots:
                frame = self._frame(estimates[symbol], grid, symbol, seq)
                if frame is None:
                    continue
                yield frame
                seq += 1

    def _frame(self, row: npt.NDArray[np.complex64], grid: Grid, symbol: int, seq: int) -> ChannelFrame | None:
        """The estimates of one symbol; None, and counted, where there are none."""
        if not np.isfinite(row).all():
            self.rejected["non_finite"] += 1
            return None
        places, values = _distinct(row)
        if places.size == 0:
            self.rejected["no_estimate"] += 1
            return None
        noise = noise_from_bends(values, ROUNDING_POWER / _FULL_SCALE**2)
        slots_per_s = grid.scs_hz / 15e3 * 1000
        slot = grid.frame * slots_per_s / 100 + grid.slot
        return ChannelFrame(
            source="oai",
            epoch=0,
            seq=seq,
            t_ns=round((slot + symbol / _MAX_SYMBOLS) / slots_per_s * 1e9),
            user=f"rnti{grid.rnti}",
            block=round(slot),
            domain="effective",
            noise_power=noise,
            snr_db=float(10 * np.log10(np.mean(np.abs(values) ** 2) / noise)),
            carrier_hz=grid.carrier_hz,
            cfr=values[None, None],
            tones_hz=(places - (grid.subcarriers - 1) / 2) * grid.scs_hz,
            ris_patterns=no_array(1, 0),
            beams=no_array(0, 1),
            cir=no_array(1, 0),
        )


def _distinct(row: npt.NDArray[np.complex64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.complex64]]:
    """Places (in subcarriers) and values of the estimates in one symbol, zeros left out.

    OAI averages the two pilots of a DMRS type 1 cover (38.211 table 6.4.1.1.3-1) and writes the mean twice, at both:
    such a pair counts once, in its middle.
    """
    places = np.flatnonzero(row).astype(np.float64)
    values = row[np.flatnonzero(row)]
    if values.size >= 2 and values.size % 2 == 0 and (values[0::2] == values[1::2]).all():
        return (places[0::2] + places[1::2]) / 2, values[0::2]
    return places, values


def _read(recording: Recording, grid: Grid) -> npt.NDArray[np.complex64]:
    """The grid [symbols, subcarriers], full scale being 1."""
    data = b"".join(recording.pieces())
    count = grid.subcarriers * grid.symbols
    if len(data) != 8 * count:
        raise InputRefused(
            f"{len(data)} bytes are no grid of {grid.symbols} symbols with {grid.subcarriers} subcarriers",
            where=str(recording.data),
            mend="the file is truncated, or of several antennas, which OAI does not record yet",
        )
    samples = np.frombuffer(data, "<c8").reshape(grid.symbols, grid.subcarriers)
    return (samples * np.float32(1 / _FULL_SCALE)).astype(np.complex64)


def _grid(recording: Recording) -> Grid:
    """The slot's description; refused where it is not what OAI writes."""
    capture = recording.captures[0]
    try:
        if recording.settings["core:datatype"] != "cf32_le" or len(recording.captures) != 1:
            raise ValueError("samples are not cf32_le of one capture")
        if capture["serialization:scheme"] != ["subcarriers", "ofdm_symbols"]:
            raise ValueError(f"serialization {str(capture['serialization:scheme'])[:60]}")
        subcarriers, symbols = (_whole(count, 1) for count in capture["serialization:counts"])
        detail = _detail(recording.meta["annotations"])
        first = _whole(detail.get("pusch:start_ofdm_symbol", 0), 0, _MAX_SYMBOLS - 1)
        pilots = sorted({_whole(each, first, first + symbols - 1) - first for each in detail[_PILOTS]})
        scs_hz = float(detail["subcarrier_spacing"])
        if subcarriers > _MAX_SUBCARRIERS or symbols > _MAX_SYMBOLS or scs_hz not in _SCS_HZ:
            raise ValueError(f"{subcarriers} subcarriers of {scs_hz:g} Hz and {symbols} symbols")
        return Grid(
            subcarriers,
            symbols,
            tuple(pilots),
            scs_hz,
            carrier_hz=_frequency(capture["core:frequency"]),
            frame=_whole(detail.get("frame", 0), 0, _FRAMES - 1),
            slot=_whole(detail.get("slot", 0), 0, 10 * round(scs_hz / 15e3) - 1),
            rnti=_whole(detail.get("rnti", 0), 0, 65535),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        told = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputRefused(f"is no channel estimate of OAI's: {told}", where=recording.where) from None


_PILOTS = "pusch_dmrs:ofdm_symbol_idx"


def _detail(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    transmitter = annotations[0]["system_components:transmitter"][0]
    detail: dict[str, Any] = transmitter["signal:detail"]["5gnr"]
    return dict(detail)


def _whole(value: Any, least: int, most: int = 1 << 30) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    if not least <= value <= most:
        raise ValueError(f"{value} is not within {least} … {most}")
    return int(value)


def _frequency(value: Any) -> float:
    if not 0 < float(value) <= 1e12:
        raise ValueError(f"frequency {value}")
    return float(value)
