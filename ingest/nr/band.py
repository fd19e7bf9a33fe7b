"""Cuts the band of one SSB out of a wideband capture: filtered, shifted to zero and decimated in one go.

The capture is transformed once; every band is then a slice of that spectrum. A slice is an ideal band-pass, so
nothing outside it aliases in; only its first and last few samples feel the block's edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.nr.numerology import ssb_sample_rate_hz

_MAX_DENOMINATOR = 20_000
_MOST_STRANDS = 32


@dataclass(frozen=True)
class Band:
    """A narrow band around `center_hz`. spectrum [A, L]: its DFT in FFT order. rate_hz: of the samples behind it."""

    spectrum: npt.NDArray[np.complex64]
    rate_hz: float
    center_hz: float
    valid_samples: int

    @cached_property
    def samples(self) -> npt.NDArray[np.complex64]:
        """The band in time. Shape [A, L]; samples past `valid_samples` come from zero padding."""
        _, rows, strands = self._strands.shape
        turned = self._strands * _turning(self.spectrum.shape[1], strands, rows)
        parts = scipy.fft.ifft(turned, axis=2, overwrite_x=True)
        return np.ascontiguousarray(parts.transpose(0, 2, 1)).reshape(self.spectrum.shape)

    @cached_property
    def _strands(self) -> npt.NDArray[np.complex64]:
        """Transforms of every r-th bin, from each of the first r on. Shape [A, L / r, r].

        A transform in two steps, each of many short ones side by side, takes less than a long one.
        """
        antennas, length = self.spectrum.shape
        strands = next(r for r in range(_MOST_STRANDS, 0, -1) if length % r == 0)
        return np.asarray(scipy.fft.ifft(self.spectrum.reshape(antennas, -1, strands), axis=1), np.complex64)

    def part(self, first: int, count: int) -> npt.NDArray[np.complex64]:
        """`samples` from `first` on, shape [A, count]: the second step is done where it is wanted, if all were not."""
        if "samples" in self.__dict__ or self._strands.shape[1] < count:
            return self.samples[:, first : first + count]
        length, (_, rows, strands) = self.spectrum.shape[1], self._strands.shape
        begin = np.exp(2j * np.pi * (first * np.arange(strands) % length) / length) / strands
        wanted = self._strands[:, (first + np.arange(count)) % rows] * _turning(length, strands, count)
        return np.asarray(wanted @ begin.astype(np.complex64))


@lru_cache(maxsize=8)
def _turning(length: int, strands: int, count: int) -> npt.NDArray[np.complex64]:
    """How far the first bins of a transform turn within `count` samples. Shape [count, strands]."""
    turns = np.outer(np.arange(count), np.arange(strands)) / length
    return np.asarray(np.exp(2j * np.pi * turns), np.complex64)


class WidebandSpectrum:
    """The spectrum of a block of IQ, from which bands of one subcarrier spacing are cut.

    samples [A, T] complex64 at rate_hz around center_hz.
    """

    def __init__(
        self, samples: npt.NDArray[np.complexfloating], rate_hz: float, center_hz: float, scs_hz: float
    ) -> None:
        self.band_rate_hz = ssb_sample_rate_hz(scs_hz)
        ratio = Fraction(self.band_rate_hz / rate_hz).limit_denominator(_MAX_DENOMINATOR)
        self._length = _fft_length(samples.shape[1], ratio.denominator)
        self._band_length = self._length * ratio.numerator // ratio.denominator
        self._rate_hz = rate_hz
        self._center_hz = center_hz
        self._valid_samples = int(samples.shape[1] * ratio)
        self._spectrum = scipy.fft.fft(samples, self._length, axis=1)

    def band(self, center_hz: float) -> Band:
        """The band nearest `center_hz`; its true centre, within half a bin, stands in the result."""
        bin_hz = self._rate_hz / self._length
        middle = round((center_hz - self._center_hz) / bin_hz)
        half, whole_half = self._band_length // 2, self._length // 2
        first = max(-half, -whole_half - middle)
        last = min(self._band_length - half, self._length - whole_half - middle)
        spectrum = np.zeros((self._spectrum.shape[0], self._band_length), np.complex64)
        scale = np.float32(self._band_length / self._length)
        borders = sorted({first, *(border for border in (0, -middle) if first < border < last), last})
        for start, stop in pairwise(borders):  # in FFT order neither the band nor the whole is in one piece
            into, source = start % self._band_length, (start + middle) % self._length
            piece = self._spectrum[:, source : source + stop - start]
            np.multiply(piece, scale, out=spectrum[:, into : into + stop - start])
        return Band(spectrum, self.band_rate_hz, self._center_hz + middle * bin_hz, self._valid_samples)


def _fft_length(samples: int, multiple_of: int) -> int:
    """The shortest fast FFT length that holds `samples` and is a multiple of `multiple_of`."""
    return int(scipy.fft.next_fast_len(-(-samples // multiple_of)) * multiple_of)
