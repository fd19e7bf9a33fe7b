"""IQ blocks in, channel frames out: searches for cells, then measures every SS/PBCH block of the cells found.

A full search runs over all raster positions until a cell is found, and again every `RESEARCH_S` of signal; in between
only the raster positions where cells are known are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.messages import MAX_NAME, ChannelFrame, IqBlock, no_array
from ingest.nr.band import WidebandSpectrum
from ingest.nr.cell_search import find_pss
from ingest.nr.numerology import SSB_CP, SSB_SAMPLES, SSB_SUBCARRIERS, ssb_sample_rate_hz, ssb_spacings_hz
from ingest.nr.raster import candidates_hz
from ingest.nr.ssb import SsbMeasurement, measure_ssb

RESEARCH_S = 1.0
_MAX_LEVEL = 1e6


@dataclass(frozen=True)
class Cell:
    """A cell as the receiver saw it best. time_s: start of that SSB in the stream. seen: how many SSBs of it."""

    measurement: SsbMeasurement
    time_s: float
    seen: int = 1

    @property
    def key(self) -> tuple[float, float, int, int]:
        """What tells cells and their beams apart: raster position, spacing, identity, SSB index."""
        found = self.measurement
        return found.ssb_center_hz, found.scs_hz, found.pci, found.ssb_index


class NrReceiver:
    """Turns a stream of `IqBlock`s of one radio into `ChannelFrame`s of the cells it hears.

    `cells` holds what was found, the strongest first. `gaps` counts samples missing between blocks.
    """

    def __init__(self) -> None:
        self.gaps = 0
        self._cells: dict[tuple[float, float, int, int], Cell] = {}
        self._stream: tuple[str, int, float, float, int] | None = None
        self._next_sample = 0
        self._tail = np.zeros((0, 0), np.complex64)
        self._searched_s = -np.inf
        self._reported_s: dict[tuple[float, float, int], float] = {}
        self._seq = 0

    @property
    def cells(self) -> list[Cell]:
        return sorted(self._cells.values(), key=lambda cell: -cell.measurement.snr_db)

    def process(self, block: IqBlock) -> Iterator[ChannelFrame]:
        """The frames of the SSBs that end in `block`, in the order of their time."""
        samples, first_sample = self._join(block)
        start_s = first_sample / block.rate_hz
        full = self._is_search_due(block, start_s)
        if full:
            self._searched_s = start_s
        unit = _unit(samples)
        if unit != 1.0:
            samples = samples / np.float32(unit)
        found: list[tuple[float, SsbMeasurement]] = []
        for scs_hz in ssb_spacings_hz(block.center_hz):
            found += self._measure(samples, block, scs_hz, full)
        for offset_s, measurement in sorted(found, key=lambda item: item[0]):
            if self._is_new(measurement, start_s + offset_s):
                yield self._frame(block, samples.shape[0], start_s + offset_s, measurement.times(unit))

    def _join(self, block: IqBlock) -> tuple[npt.NDArray[np.complex64], int]:
        """The block's samples behind the end of what came before, so that an SSB across the border is whole."""
        samples = block.samples.astype(np.complex64, copy=False)
        stream = (block.source, block.epoch, block.rate_hz, block.center_hz, samples.shape[0])
        before = np.zeros((samples.shape[0], 0), np.complex64)
        if stream == self._stream and block.first_sample == self._next_sample:
            before = self._tail
        else:
            self._reported_s.clear()
            if stream != self._stream:
                self._searched_s = -np.inf
            else:
                self.gaps += max(block.first_sample - self._next_sample, 0)
        joined = np.concatenate([before, samples], axis=1)
        self._stream = stream
        self._next_sample = block.first_sample + samples.shape[1]
        self._tail = joined[:, max(joined.shape[1] - self._overlap(block), 0) :].copy()
        return joined, block.first_sample - before.shape[1]

    @staticmethod
    def _overlap(block: IqBlock) -> int:
        """Samples of the longest SSB and a cyclic prefix: wherever a block ends, an SSB is whole in it or the next."""
        slowest_hz = ssb_sample_rate_hz(min(ssb_spacings_hz(block.center_hz)))
        return int(np.ceil((SSB_SAMPLES + SSB_CP) * block.rate_hz / slowest_hz))

    def _is_search_due(self, block: IqBlock, start_s: float) -> bool:
        """Whether to search everywhere: nothing is known here, or it was long ago, or time went back."""
        if not 0 <= start_s - self._searched_s < RESEARCH_S:
            return True
        return not any(self._positions(block, scs_hz, full=False) for scs_hz in ssb_spacings_hz(block.center_hz))

    def _positions(self, block: IqBlock, scs_hz: float, *, full: bool) -> list[float]:
        """Raster positions in the block's band: all of them, or those where cells are known."""
        positions = candidates_hz(block.center_hz, block.rate_hz, scs_hz)
        if full:
            return positions
        known = {key[0] for key in self._cells if key[1] == scs_hz}
        return [position for position in positions if position in known]

    def _measure(
        self, samples: npt.NDArray[np.complex64], block: IqBlock, scs_hz: float, full: bool
    ) -> list[tuple[float, SsbMeasurement]]:
        """(time in the samples, measurement) of every SSB of spacing `scs_hz`."""
        positions = self._positions(block, scs_hz, full=full)
        if not positions:
            return []
        spectrum = WidebandSpectrum(samples, block.rate_hz, block.center_hz, scs_hz)
        found: list[tuple[float, SsbMeasurement]] = []
        for raster_hz in positions:
            band = spectrum.band(raster_hz)
            for detection in find_pss(band, hypotheses=len(positions)):
                measurement = measure_ssb(band, detection, raster_hz)
                if measurement is not None:
                    found.append((measurement.first_sample / band.rate_hz, measurement))
        return found

    def _is_new(self, found: SsbMeasurement, time_s: float) -> bool:
        """Whether this SSB was not reported yet; the end of a block is looked at twice."""
        key = (found.ssb_center_hz, found.scs_hz, found.pci)
        half_s = SSB_SAMPLES / ssb_sample_rate_hz(found.scs_hz) / 2
        if time_s < self._reported_s.get(key, -np.inf) + half_s:
            return False
        self._reported_s[key] = time_s
        return True

    def _frame(self, block: IqBlock, antennas: int, time_s: float, found: SsbMeasurement) -> ChannelFrame:
        cell = Cell(found, time_s)
        known = self._cells.get(cell.key)
        if known is not None:
            best = max(known, cell, key=lambda one: one.measurement.snr_db)
            cell = Cell(best.measurement, best.time_s, known.seen + 1)
        self._cells[cell.key] = cell
        self._seq += 1
        return ChannelFrame(
            source=f"nr.{block.source}"[:MAX_NAME],
            epoch=block.epoch,
            seq=self._seq - 1,
            t_ns=max(block.t_ns + round((time_s - block.first_sample / block.rate_hz) * 1e9), 0),
            user=f"pci{found.pci}.ssb{found.ssb_index}",
            block=self._seq - 1,
            domain="effective",
            noise_power=found.noise_power,
            snr_db=found.snr_db,
            carrier_hz=found.ssb_center_hz,
            cfo_hz=found.cfo_hz,
            tap_s=1.0 / (SSB_SUBCARRIERS * found.scs_hz),
            cfr=found.ls[None],
            tones_hz=found.tones_hz,
            ris_patterns=no_array(1, 0),
            beams=no_array(0, antennas),
            cir=impulse_response(found.ls),
        )


def _unit(samples: npt.NDArray[np.complex64]) -> float:
    """What to divide samples by where they are so great or small that their squares leave single precision; else 1."""
    parts = samples.view(np.float32)
    peak = max(float(parts.max()), -float(parts.min()))
    return peak if peak > _MAX_LEVEL or 0 < peak < 1 / _MAX_LEVEL else 1.0


def impulse_response(cfr: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complex64]:
    """Taps of a channel on evenly spaced tones: inverse DFT along the last axis, delay 0 in the middle tap."""
    return np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(cfr, axes=-1), axis=-1), axes=-1).astype(np.complex64)
