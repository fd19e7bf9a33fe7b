"""Cell search: finds PSSs anywhere in a capture, over raster position, time and frequency offset.

The detector is the normalised matched filter, so its threshold follows from a false-alarm probability alone,
whatever the level or the colour of what else is in the band.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.nr.band import Band
from ingest.nr.numerology import (
    SSB_CP,
    SSB_FFT,
    SSB_SAMPLES,
    SYNC_FIRST_SUBCARRIER,
    SYNC_SUBCARRIERS,
)
from ingest.nr.sequences import pss

FALSE_ALARM = 1e-4
"""Probability that a capture of noise yields any PSS; the SSS and the PBCH DMRS must then agree as well."""

OFFSETS_SCS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Frequency offsets tried, in subcarrier spacings. The worst one in between costs 0.9 dB."""


@dataclass(frozen=True)
class PssDetection:
    """A PSS found in a band. first_sample: where its useful part starts. offset_scs: the best frequency hypothesis.

    metric: matched-filter output power over signal power in the PSS's band, 0 to 1.
    """

    n_id_2: int
    first_sample: int
    offset_scs: float
    metric: float


def pss_symbol(n_id_2: int) -> npt.NDArray[np.complex128]:
    """The useful part of a PSS symbol in time at the band's rate. Shape [SSB_FFT], unit energy."""
    bins = np.zeros(SSB_FFT, np.complex128)
    subcarriers = np.arange(SYNC_SUBCARRIERS) + SYNC_FIRST_SUBCARRIER - 120
    bins[subcarriers] = pss(n_id_2)
    symbol = np.fft.ifft(bins)
    return np.asarray(symbol / np.linalg.norm(symbol))


@lru_cache(maxsize=32)
def _template(length: int, n_id_2: int, offset_scs: float) -> npt.NDArray[np.complex64]:
    """Conjugate spectrum of the PSS shifted by `offset_scs`. Shape [length]."""
    shift = np.exp(2j * np.pi * offset_scs * np.arange(SSB_FFT) / SSB_FFT)
    return np.asarray(np.conj(scipy.fft.fft((pss_symbol(n_id_2) * shift).astype(np.complex64), length)))


def _sync_band(band: Band) -> npt.NDArray[np.complex64]:
    """The spectrum of `band` without what no PSS can occupy; a strong neighbour must not leak into the filter."""
    bins = np.abs(np.fft.fftfreq(band.spectrum.shape[1], 1.0 / SSB_FFT))
    return np.asarray(band.spectrum * (bins <= (SYNC_SUBCARRIERS + 1) / 2 + max(OFFSETS_SCS)), np.complex64)


def _window_energy(spectrum: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """Energy over the SSB_FFT samples that start at each sample, over all chains. spectrum [A, L] to shape [L]."""
    power = np.asarray(np.sum(np.abs(scipy.fft.ifft(spectrum, axis=1)) ** 2, axis=0, dtype=np.float64))
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([power, power[: SSB_FFT - 1]]))])
    return np.asarray(total[SSB_FFT:] - total[:-SSB_FFT], np.float32)


def threshold(trials: int) -> float:
    """The metric that noise exceeds in any of `trials` with probability `FALSE_ALARM`.

    For white noise in the PSS's D = 127 dimensions the metric is Beta(1, D - 1): P(metric > t) = (1 - t)^(D - 1).
    """
    return float(-np.expm1(np.log(FALSE_ALARM / trials) / (SYNC_SUBCARRIERS - 1)))


def find_pss(
    band: Band,
    *,
    hypotheses: int = 1,
    n_id_2s: tuple[int, ...] = (0, 1, 2),
    offsets_scs: tuple[float, ...] = OFFSETS_SCS,
) -> list[PssDetection]:
    """Every PSS in `band` whose block ends in it, the best first; of overlapping ones of a kind the better.

    hypotheses: bands searched in all, which share the false-alarm probability.
    """
    length = band.spectrum.shape[1]
    last_start = min(band.valid_samples, length) - (SSB_SAMPLES - SSB_CP)
    if last_start < 0:
        return []
    spectrum = _sync_band(band)
    energy = _window_energy(spectrum)[: last_start + 1]
    floor = np.float32(1e-12) * max(float(energy.max()), 1e-30)
    limit = threshold(hypotheses * 3 * len(OFFSETS_SCS) * (last_start + 1))
    found: list[PssDetection] = []
    for n_id_2 in n_id_2s:
        for offset_scs in offsets_scs:
            output = scipy.fft.ifft(spectrum * _template(length, n_id_2, offset_scs), axis=1)
            power = np.sum(np.abs(output[:, : last_start + 1]) ** 2, axis=0)
            metric = power / (energy + floor)
            found += [
                PssDetection(n_id_2, sample, offset_scs, float(metric[sample])) for sample in _peaks(metric, limit)
            ]
    return _best_of_overlapping(found)


def _peaks(metric: npt.NDArray[np.float32], limit: float) -> list[int]:
    """Where `metric` exceeds `limit` and is the greatest within one symbol."""
    peaks: list[int] = []
    for sample in np.flatnonzero(metric > limit):
        if peaks and sample - peaks[-1] < SSB_FFT:
            if metric[sample] > metric[peaks[-1]]:
                peaks[-1] = int(sample)
        else:
            peaks.append(int(sample))
    return peaks


def _best_of_overlapping(found: list[PssDetection]) -> list[PssDetection]:
    """The detections, best first, without those within a symbol of a better one of the same sequence.

    Cells of a TDD network send at the same instant, so different sequences may well overlap.
    """
    kept: list[PssDetection] = []
    for candidate in sorted(found, key=lambda detection: -detection.metric):
        if not any(_is_echo(candidate, better) for better in kept):
            kept.append(candidate)
    return kept


def _is_echo(candidate: PssDetection, better: PssDetection) -> bool:
    apart = abs(candidate.first_sample - better.first_sample)
    return candidate.n_id_2 == better.n_id_2 and apart < SSB_FFT
