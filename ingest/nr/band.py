"""Cuts the band of one SSB out of a wideband capture: filtered, shifted to zero and decimated in one go.

The capture is transformed once; every band is then a slice of that spectrum. A slice is an ideal band-pass, so
nothing outside it aliases in; only its first and last few samples feel the block's edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.nr.numerology import ssb_sample_rate_hz

_MAX_DENOMINATOR = 20_000


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
        return np.asarray(scipy.fft.ifft(self.spectrum, axis=1), np.complex64)


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
        half = self._band_length // 2
        offsets = np.arange(-half, self._band_length - half)
        wanted = middle + offsets
        inside = (wanted >= -(self._length // 2)) & (wanted < self._length - self._length // 2)
        spectrum = np.zeros((self._spectrum.shape[0], self._band_length), np.complex64)
        spectrum[:, offsets[inside]] = self._spectrum[:, wanted[inside]]
        spectrum *= np.float32(self._band_length / self._length)
        return Band(spectrum, self.band_rate_hz, self._center_hz + middle * bin_hz, self._valid_samples)


def _fft_length(samples: int, multiple_of: int) -> int:
    """The shortest fast FFT length that holds `samples` and is a multiple of `multiple_of`."""
    return int(scipy.fft.next_fast_len(-(-samples // multiple_of)) * multiple_of)
