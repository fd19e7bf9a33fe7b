"""Channels over tones as taps over delay."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft


def impulse_response(cfr: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complex64]:
    """Taps of a channel on evenly spaced tones: inverse DFT along the last axis, delay 0 in the middle tap.

    The middle tone counts as frequency 0.
    """
    middle = cfr.shape[-1] // 2
    taps = scipy.fft.ifft(cfr.astype(np.complex64, copy=False), axis=-1)
    taps *= _turns(cfr.shape[-1])
    return np.concatenate([taps[..., -middle:], taps[..., :-middle]], axis=-1) if middle else taps


@lru_cache(maxsize=256)
def _turns(tones: int) -> npt.NDArray[np.complex64]:
    """What moves frequency 0 from the first tone to the middle one. Shape [tones]."""
    return np.asarray(np.exp(-2j * np.pi * (tones // 2) * np.arange(tones) / tones), np.complex64)
