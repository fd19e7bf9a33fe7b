"""Cell search: finds PSSs anywhere in a capture, over raster position, time and frequency offset.

The detector is the normalised matched filter, so its threshold follows from a false-alarm probability alone,
whatever the level or the colour of what else is in the band. Each antenna counts by its own power. Traffic that all
antennas hear has fewer dimensions than are reckoned with then; how much of the PSS lies in what the antennas span,
whose distribution no covariance changes (Kelly 1986), limits what is believed. It runs by overlap-save over short
transforms, many at a time, which is several times faster than one long transform for each hypothesis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

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
from ingest.nr.pss_filters import peaks
from ingest.nr.pss_lanes import COARSE, POINTS, limits_side_by_side, side_by_side, templates_of
from ingest.nr.sequences import pss

FALSE_ALARM = 1e-4
"""Probability that a capture of noise yields any detection."""

OFFSETS_SCS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Frequency offsets tried, in subcarrier spacings. The worst one in between costs 0.9 dB."""

_SEGMENT = 1024
"""Of its bins a PSS can occupy COARSE, so that its filter is computed at one point of time in 16/9 samples; what lies
between two of them shows in their sum."""
_STEP = _SEGMENT - SSB_FFT
_PLACES = np.floor(np.arange(POINTS) * (_STEP / POINTS) + 0.5).astype(np.int64)
"""The samples nearest to the points."""
_COARSE_SHARE = 0.9
"""Of the limit: what a peak may lose between the points."""
_SEGMENTS_AT_ONCE = 256
"""Bounds the working memory: two megabytes for each antenna."""
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


_KEPT = np.r_[0 : COARSE // 2, _SEGMENT - COARSE // 2 : _SEGMENT]
_HYPOTHESES = tuple((n_id_2, offset_scs) for n_id_2 in range(3) for offset_scs in OFFSETS_SCS)


@cache
def _waveforms() -> npt.NDArray[np.complex64]:
    """Those of `_HYPOTHESES`, conjugate. Shape [hypotheses, SSB_FFT]."""
    return np.array([_waveform(*hypothesis) for hypothesis in _HYPOTHESES])


@cache
def _templates() -> npt.NDArray[np.float32]:
    """Their conjugate spectra where a PSS can be, over the length of the transform, as `peaks` takes them."""
    spectra = scipy.fft.fft(_waveforms().conj(), _SEGMENT, axis=1).conj()
    return templates_of(spectra[:, _KEPT] * np.float32(1 / _SEGMENT))


def _sync_samples(band: Band) -> npt.NDArray[np.complex64]:
    """The band in time without what no PSS can occupy; a strong neighbour must not leak into the filter."""
    length = band.spectrum.shape[1]
    reach = int(((SYNC_SUBCARRIERS + 1) // 2 + max(OFFSETS_SCS)) * length) // SSB_FFT
    kept = np.zeros_like(band.spectrum)
    kept[:, : reach + 1] = band.spectrum[:, : reach + 1]
    kept[:, length - reach :] = band.spectrum[:, length - reach :]
    return Band(kept, band.rate_hz, band.center_hz, band.valid_samples).samples


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
    if antennas == 1:
        limits = np.full(segments * _STEP, np.inf, np.float32)
        np.multiply(energy, np.float32(limit * _COARSE_SHARE), out=limits[:count])
        ordered = limits_side_by_side(limits, _STEP, _PLACES, segments)
    else:
        windows, energies = whitened(windows, _PLACES, SSB_FFT)
        energies *= np.float32(limit * _SPATIAL_SHARE)
        energies[-1, _PLACES + (segments - 1) * _STEP >= count] = np.inf
        ordered = limits_side_by_side(energies.ravel(), POINTS, np.arange(POINTS), segments)
    spectra = side_by_side(scipy.fft.fft(windows, axis=2), _KEPT)
    places, counts = peaks(spectra, _templates(), ordered, POINTS * SSB_FFT // _STEP, _MAX_PEAKS)
    which = np.repeat(np.arange(len(_HYPOTHESES)), counts)
    points = places[np.arange(_MAX_PEAKS) < counts[:, None]]
    starts = points // POINTS * _STEP + _PLACES[points % POINTS]
    found: list[PssDetection] = []
    for first in range(0, max(len(starts), 1), _MAX_PEAKS):  # once for none: its kernel is compiled in warming up
        part = slice(first, first + _MAX_PEAKS)
        for hypothesis, start, *shares in _refined(padded, energy, starts[part], which[part], limit):
            n_id_2, offset_scs = _HYPOTHESES[hypothesis]
            metric, share, spanned = shares
            found.append(PssDetection(n_id_2, first_sample + start, offset_scs, metric, antennas, share, spanned))
    return found


def _refined(
    samples: npt.NDArray[np.complex64],
    energy: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
    hypotheses: npt.NDArray[np.int64],
    limit: float,
) -> list[tuple[int, int, float, float, float]]:
    """What exceeds `limit` at the best starts within a sample of `starts` [P], a hypothesis for each.

    Hypothesis, start, metric, share and what is spanned (see `PssDetection`) there.
    """
    tried = np.clip(starts[:, None] + np.array([-1, 0, 1]), 0, len(energy) - 1)
    powers, own = np.empty((2, *tried.shape, len(samples)))
    _matched(samples, tried, _waveforms(), hypotheses, powers, own)
    shares = metrics = np.sum(powers, axis=2) / energy[tried]
    if len(samples) > 1:
        shares = np.mean(powers / np.maximum(own, 1e-6 * energy[tried][..., None]), axis=2)
    best = np.argmax(shares, axis=1)
    rows = np.flatnonzero(shares[np.arange(len(starts)), best] > limit)
    best, hypotheses = best[rows], hypotheses[rows]
    spanned = metrics[rows, best]
    if len(samples) > 1:
        windows = samples[:, tried[rows, best, None] + np.arange(SSB_FFT)]
        spanned = spanned_part(windows, _waveforms()[hypotheses])
    columns = (hypotheses, tried[rows, best], metrics[rows, best], shares[rows, best], spanned)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@kernel
def _matched(
    samples: npt.NDArray[np.complex64],
    starts: npt.NDArray[np.int64],
    waveforms: npt.NDArray[np.complex64],
    hypotheses: npt.NDArray[np.int64],
    powers: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
) -> None:
    """Powers behind the filter, and before it within its length, of samples [A, N] from starts [P, S] on. [P, S, A]."""
    for place in range(starts.shape[0]):
        waveform = waveforms[hypotheses[place]]
        for i in range(starts.shape[1]):
            for antenna in range(samples.shape[0]):
                window = samples[antenna, starts[place, i] : starts[place, i] + SSB_FFT]
                real, imag, power = 0.0, 0.0, 0.0
                for n in range(SSB_FFT):
                    xr, xi, wr, wi = window[n].real, window[n].imag, waveform[n].real, waveform[n].imag
                    real += xr * wr - xi * wi
                    imag += xr * wi + xi * wr
                    power += xr * xr + xi * xi
                powers[place, i, antenna], own[place, i, antenna] = real * real + imag * imag, power


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
