"""Samples cut into OFDM symbols on a grid that was found, with the numbers that sequences give to symbols and bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal

from ingest.nr.occupancy import noise_floor
from ingest.nr.time_grid import TimeGrid, find_time_grid


@dataclass(frozen=True, eq=False)
class CaptureGrid:
    """Every whole symbol of samples [A, T] on `grid`. stretch: samples here for one of the samples given."""

    samples: npt.NDArray[np.complex64]
    grid: TimeGrid
    stretch: float

    @cached_property
    def symbols(self) -> npt.NDArray[np.int64]:
        """The grid's numbers of the symbols inside. Shape [Q]."""
        return self.grid.symbols_inside(self.samples.shape[1])

    @cached_property
    def spectra(self) -> npt.NDArray[np.complex64]:
        """Shape [Q, A, fft], frequencies ascending."""
        return self.grid.spectrum(self.samples, self.symbols)

    @cached_property
    def power(self) -> npt.NDArray[np.float64]:
        """Mean over antennas. Shape [Q, fft]."""
        return np.asarray(np.mean(np.abs(self.spectra) ** 2, axis=1, dtype=np.float64))

    @cached_property
    def floor(self) -> float:
        return noise_floor(self.power)

    @property
    def frame_symbols(self) -> int:
        return round(140 * self.grid.scs_hz / 15e3)

    def cfo_hz(self, symbols: npt.NDArray[np.int64], low: int, high: int) -> float:
        """The frequency offset that the prefixes of `symbols` have in bins [low, high), modulo the spacing."""
        fft = self.grid.fft
        prefix = 144 * fft // 2048
        useful = np.round(self.grid.useful(symbols)).astype(int)
        first, last = max(int(useful.min()) - prefix, 0), min(int(useful.max()) + fft, self.samples.shape[1])
        segment = self.samples[:, first:last]
        places = np.fft.fftfreq(segment.shape[1]) * fft + fft // 2
        inside = (places >= low - 0.5) & (places < high - 0.5)
        band = scipy.fft.ifft(scipy.fft.fft(segment, axis=1) * inside, axis=1)
        total = 0j
        for start in useful - first:
            early = start - prefix * 3 // 4
            if early >= 0 and start + fft <= band.shape[1]:
                total += np.vdot(band[:, early:start], band[:, early + fft : start + fft])
        turn = float(np.angle(total)) / (2 * np.pi) * self.grid.scs_hz
        near = round((self.grid.cfo_hz - turn) / self.grid.scs_hz)
        return turn + near * self.grid.scs_hz


def cut(samples: npt.NDArray[np.complex64], rate_hz: float, scs_hz: float) -> CaptureGrid | None:
    """The samples on the best grid of spacing `scs_hz`; None where there is none.

    Where the rate is no whole multiple of the spacing the samples are resampled to the next one.
    """
    fft = int(np.ceil(rate_hz / scs_hz - 1e-9))
    wanted_hz = fft * scs_hz
    stretch = 1.0
    if abs(wanted_hz - rate_hz) > 1e-6 * rate_hz:
        count = round(samples.shape[1] * wanted_hz / rate_hz)
        stretch = count / samples.shape[1]
        samples = np.asarray(scipy.signal.resample(samples, count, axis=1), np.complex64)
    grid = find_time_grid(samples, wanted_hz, scs_hz)
    return None if grid is None else CaptureGrid(samples, grid, stretch)
