"""Cell search: finds PSSs anywhere in a capture, over raster position, time and frequency offset.

The detector is the normalised matched filter, so its threshold follows from a false-alarm probability alone,
whatever the level or the colour of what else is in the band. Each antenna counts by its own power. Traffic that all
antennas hear has fewer dimensions than are reckoned with then; how much of the PSS lies in what the antennas span,
whose distribution no covariance changes (Kelly 1986), limits what is believed. It runs by overlap-save over short
transforms, many at a time, which is several times faster than one long transform for each hypothesis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.special

from ingest.kernel import kernel
from ingest.nr.antennas import heard, spanned_part, whitened
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
"""Probability that a capture of noise yields any detection."""

OFFSETS_SCS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Frequency offsets tried, in subcarrier spacings. The worst one in between costs 0.9 dB."""

_SEGMENT = 1024
_STEP = _SEGMENT - SSB_FFT
_COARSE = 576
"""Bins of a segment's spectrum that a PSS can occupy, and thereby points of time at which its filter is computed:
one in 16/9 samples. What lies between two of them shows in their sum."""
_POINTS = 2 * _STEP * _COARSE // _SEGMENT
_COARSE_SHARE = 0.9
"""Of the limit: what a peak may lose between the points."""
_SEGMENTS_AT_ONCE = 128
"""Bounds the working memory: a megabyte for each antenna."""
_SPATIAL_SHARE = 0.7
"""The same with several antennas, where a peak's own noise is not quite that of the segment around it."""
SPATIAL_SLACK = 2.0
"""What an unknown covariance may cost of a true PSS's evidence, about that of a weak one with four antennas. Where
all antennas hear the same, false ones are exp(this) times as many."""
_MAX_PEAKS = 256
"""Peaks kept for one sequence and offset in one band; the best ones where there are more."""


@dataclass(frozen=True)
class PssDetection:
    """A PSS found in a band. first_sample: where its useful part starts. offset_scs: the best frequency hypothesis.

    metric: matched-filter output power over signal power in the PSS's band, 0 to 1. antennas: that it was summed over.
    share: the mean of the antennas' own metrics; spanned: the part of the PSS in what the antennas span, both 0 to 1.
    With one antenna they are the metric, which they are if left out.
    """

    n_id_2: int
    first_sample: int
    offset_scs: float
    metric: float
    antennas: int = 1
    share: float | None = None
    spanned: float | None = None

    @property
    def evidence(self) -> float:
        """-ln of the probability that noise does as well at a given place, sequence and offset."""
        share = self.metric if self.share is None else self.share
        alone = beta_evidence(share, self.antennas, self.antennas * (SYNC_SUBCARRIERS - 1))
        if self.antennas == 1 or self.spanned is None:
            return alone
        spatial = beta_evidence(self.spanned, self.antennas, SYNC_SUBCARRIERS - self.antennas)
        return min(alone, spatial + SPATIAL_SLACK)


def beta_evidence(metric: float, signal_dimensions: int, noise_dimensions: int) -> float:
    """-ln P(x > metric) of x = Beta(signal_dimensions, noise_dimensions).

    It is the share of white noise's power in a given subspace: all of a projection is one complex dimension. Where
    the projection is onto the truth of noise, this evidence is exponential with mean 1.
    """
    metric = min(max(metric, 0.0), 1.0 - 1e-12)
    if signal_dimensions == 1:
        return float(-noise_dimensions * np.log1p(-metric))
    tail = float(scipy.special.betainc(noise_dimensions, signal_dimensions, 1.0 - metric))
    if tail > 1e-280:
        return float(-np.log(tail))
    # Far out: the density's leading term, an upper bound of the tail within a factor near 1.
    log_beta = float(scipy.special.betaln(signal_dimensions, noise_dimensions))
    leading = (signal_dimensions - 1) * np.log(metric) + noise_dimensions * np.log1p(-metric)
    return float(-(leading - np.log(noise_dimensions) - log_beta))


def pss_symbol(n_id_2: int) -> npt.NDArray[np.complex128]:
    """The useful part of a PSS symbol in time at the band's rate. Shape [SSB_FFT], unit energy."""
    bins = np.zeros(SSB_FFT, np.complex128)
    subcarriers = np.arange(SYNC_SUBCARRIERS) + SYNC_FIRST_SUBCARRIER - 120
    bins[subcarriers] = pss(n_id_2)
    symbol = np.fft.ifft(bins)
    return np.asarray(symbol / np.linalg.norm(symbol))


@lru_cache(maxsize=32)
def _waveform(n_id_2: int, offset_scs: float) -> npt.NDArray[np.complex64]:
    """The PSS shifted by `offset_scs`, conjugate. Shape [SSB_FFT]."""
    shift = np.exp(2j * np.pi * offset_scs * np.arange(SSB_FFT) / SSB_FFT)
    return np.asarray((pss_symbol(n_id_2) * shift).conj(), np.complex64)


_KEPT = np.r_[0 : _COARSE // 2, _SEGMENT - _COARSE // 2 : _SEGMENT]


@lru_cache(maxsize=32)
def _template(n_id_2: int, offset_scs: float) -> npt.NDArray[np.complex64]:
    """Conjugate spectrum of the PSS shifted by `offset_scs` where a PSS can be. Shape [_COARSE]."""
    spectrum = scipy.fft.fft(_waveform(n_id_2, offset_scs).conj(), _SEGMENT).conj()
    return np.asarray(spectrum[_KEPT] * np.float32(_COARSE / _SEGMENT), np.complex64)


def _sync_samples(band: Band) -> npt.NDArray[np.complex64]:
    """The band in time without what no PSS can occupy; a strong neighbour must not leak into the filter."""
    bins = np.abs(np.fft.fftfreq(band.spectrum.shape[1], 1.0 / SSB_FFT))
    kept = bins <= (SYNC_SUBCARRIERS + 1) / 2 + max(OFFSETS_SCS)
    return np.asarray(scipy.fft.ifft(np.where(kept, band.spectrum, np.complex64(0)), axis=1, overwrite_x=True))


@kernel
def _window_energy(samples: npt.NDArray[np.complex64], starts: int) -> npt.NDArray[np.float32]:
    """Energy over the SSB_FFT samples that start at each of the first `starts` samples, over all chains. [starts]."""
    total = np.zeros(starts + SSB_FFT)
    for antenna in range(samples.shape[0]):
        running = 0.0
        for i in range(starts + SSB_FFT - 1):
            value = samples[antenna, i]
            running += value.real * value.real + value.imag * value.imag
            total[i + 1] += running
    energy = np.empty(starts, np.float32)
    for start in range(starts):
        energy[start] = total[start + SSB_FFT] - total[start]
    return energy


def threshold(trials: float, false_alarm: float = FALSE_ALARM, antennas: int = 1) -> float:
    """The share that noise exceeds `false_alarm` times in `trials` on average.

    For white noise in the PSS's D = 127 dimensions the share is Beta(1, D - 1): P(share > t) = (1 - t)^(D - 1); over A
    antennas that are alike and independent, Beta(A, A (D - 1)).
    """
    if antennas == 1:
        return float(-np.expm1(np.log(false_alarm / trials) / (SYNC_SUBCARRIERS - 1)))
    tail = min(false_alarm / trials, 1.0)
    return float(1.0 - scipy.special.betaincinv(antennas * (SYNC_SUBCARRIERS - 1), antennas, tail))


def pss_trials(band: Band) -> int:
    """How many places, sequences and offsets `find_pss` looks at in `band`."""
    last_start = min(band.valid_samples, band.spectrum.shape[1]) - (SSB_SAMPLES - SSB_CP)
    return 3 * len(OFFSETS_SCS) * max(int(last_start) + 1, 0)


def find_pss(band: Band, *, hypotheses: int = 1, expected_false: float = FALSE_ALARM) -> list[PssDetection]:
    """Every PSS in `band` whose block ends in it, the best first; of overlapping ones of a kind the better.

    hypotheses: bands searched in all, which share the `expected_false` detections that noise yields on average.
    """
    starts = pss_trials(band) // (3 * len(OFFSETS_SCS))
    if starts == 0:
        return []
    samples = heard(_sync_samples(band))
    energy = _window_energy(samples, starts)
    energy += np.float32(1e-12) * max(float(energy.max()), 1e-30)
    limit = threshold(hypotheses * pss_trials(band), expected_false, len(samples))
    least = float(np.log(hypotheses * pss_trials(band) / expected_false))
    found: list[PssDetection] = []
    for first in range(0, starts, _SEGMENTS_AT_ONCE * _STEP):
        count = min(starts - first, _SEGMENTS_AT_ONCE * _STEP)
        new = _search_segments(samples[:, first:], energy[first : first + count], first, limit)
        found += [one for one in new if one.antennas == 1 or one.evidence > least]
    return _best_of_overlapping(found)


def _search_segments(
    samples: npt.NDArray[np.complex64], energy: npt.NDArray[np.float32], first_sample: int, limit: float
) -> list[PssDetection]:
    """Detections that start at the first len(energy) of `samples` [A, >=], which begin at `first_sample`."""
    antennas, count = len(samples), len(energy)
    segments = -(-count // _STEP)
    padded = np.zeros((antennas, segments * _STEP + SSB_FFT), np.complex64)
    usable = min(samples.shape[1], padded.shape[1])
    padded[:, :usable] = samples[:, :usable]
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SEGMENT, axis=1)[:, ::_STEP]
    points = np.floor(np.arange(_POINTS * segments) * (_STEP / _POINTS) + 0.5).astype(np.int64)
    if antennas == 1:
        limits = energy[np.minimum(points, count - 1)] * np.float32(limit * _COARSE_SHARE)
    else:
        windows, energies = whitened(windows, points[:_POINTS], SSB_FFT)
        limits = energies.ravel() * np.float32(limit * _SPATIAL_SHARE)
    limits[points >= count] = np.inf
    spectra = np.take(scipy.fft.fft(windows, axis=2), _KEPT, axis=2)
    product = np.empty_like(spectra)
    found: list[PssDetection] = []
    places = np.empty(_MAX_PEAKS, np.int64)
    for n_id_2 in range(3):
        for offset_scs in OFFSETS_SCS:
            np.multiply(spectra, _template(n_id_2, offset_scs), out=product)
            outputs = scipy.fft.ifft(product, axis=2, overwrite_x=True)
            peaks = _peaks(outputs.view(np.float32), limits, places)
            if peaks:
                waveform = _waveform(n_id_2, offset_scs)
                found += [
                    PssDetection(n_id_2, first_sample + start, offset_scs, metric, antennas, share, spanned)
                    for start, metric, share, spanned in _refined(padded, energy, points[places[:peaks]], waveform)
                    if share > limit
                ]
    return found


def _refined(
    samples: npt.NDArray[np.complex64],
    energy: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
    waveform: npt.NDArray[np.complex64],
) -> list[tuple[int, float, float, float]]:
    """The best starts within a sample of `starts` [P]; metric, share and what is spanned (see `PssDetection`) there."""
    tried = np.clip(starts[:, None] + np.array([-1, 0, 1]), 0, len(energy) - 1)
    windows = samples[:, tried[..., None] + np.arange(SSB_FFT)]
    powers = np.abs(windows @ waveform) ** 2
    metrics = np.sum(powers, axis=0) / energy[tried]
    shares = metrics
    if len(samples) > 1:
        own = np.sum(windows.real**2 + windows.imag**2, axis=-1)
        shares = np.mean(powers / np.maximum(own, np.float32(1e-6) * energy[tried]), axis=0)
    best = np.argmax(shares, axis=1)
    rows = np.arange(len(starts))
    spanned = spanned_part(windows[:, rows, best], waveform) if len(samples) > 1 else metrics[rows, best]
    columns = (tried[rows, best], metrics[rows, best], shares[rows, best], spanned)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@kernel
def _peaks(outputs: npt.NDArray[np.float32], limits: npt.NDArray[np.float32], places: npt.NDArray[np.int64]) -> int:
    """Where the filter's power exceeds `limits` and does so most within one symbol; fills places, returns how many.

    outputs [A, segments, 2 x _COARSE]: real and imaginary parts. limits [segments x _POINTS]: for every output and for
    the middle between it and the next. Of too many the least is given up.
    """
    found, last, into = 0, -_POINTS, -1
    power, shares = np.empty(_POINTS, np.float32), np.empty(places.size, np.float32)
    apart = _POINTS * SSB_FFT // _STEP
    for segment in range(outputs.shape[1]):
        first = segment * _POINTS
        power[:] = np.float32(0.0)
        for antenna in range(outputs.shape[0]):
            for i in range(_POINTS // 2):
                real, imag = outputs[antenna, segment, 2 * i], outputs[antenna, segment, 2 * i + 1]
                power[2 * i] += real * real + imag * imag
                real += outputs[antenna, segment, 2 * i + 2]
                imag += outputs[antenna, segment, 2 * i + 3]
                power[2 * i + 1] += np.float32(0.5) * (real * real + imag * imag)
        above = 0
        for i in range(_POINTS):  # branchless, so that it is vectorised: hardly any segment holds a peak
            above += power[i] > limits[first + i]
        if above == 0:
            continue
        for i in range(_POINTS):
            if power[i] <= limits[first + i]:
                continue
            share = power[i] / limits[first + i]
            if first + i - last >= apart or into < 0:
                into = found if found < places.size else int(np.argmin(shares))
                if found < places.size:
                    found += 1
                elif shares[into] >= share:
                    into = -1
                    continue
            elif share <= shares[into]:
                continue
            places[into], shares[into], last = first + i, share, first + i
    return found


def _best_of_overlapping(found: list[PssDetection]) -> list[PssDetection]:
    """The detections, best first, without those within a symbol of a better one of the same sequence.

    Cells of a TDD network send at the same instant, so different sequences may well overlap.
    """
    kept: list[PssDetection] = []
    starts: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for candidate in sorted(found, key=lambda detection: -detection.evidence):
        taken = starts[candidate.n_id_2]
        if not any(abs(candidate.first_sample - start) < SSB_FFT for start in taken):
            taken.append(candidate.first_sample)
            kept.append(candidate)
    return kept
