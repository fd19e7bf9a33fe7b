"""From a PSS to a measured SS/PBCH block: frequency offset, cell identity, SSB index, channel and SNR.

Every step tests its own hypothesis: a block whose SSS or PBCH DMRS does not agree is no block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ingest.nr.band import Band
from ingest.nr.cell_search import PssDetection
from ingest.nr.numerology import (
    SSB_CP,
    SSB_FFT,
    SSB_SAMPLES,
    SSB_SUBCARRIERS,
    SSB_SYMBOL,
    SSB_SYMBOLS,
    SYNC_FIRST_SUBCARRIER,
    SYNC_SUBCARRIERS,
    max_ssb_per_half_frame,
)
from ingest.nr.sequences import PCI_COUNT, pbch_dmrs, pbch_dmrs_subcarriers, pss, sss

_WINDOW_BACKOFF = SSB_CP // 2
"""The FFT window starts this much inside the cyclic prefix, so that a timing error either way stays harmless."""

_SYNC = slice(SYNC_FIRST_SUBCARRIER, SYNC_FIRST_SUBCARRIER + SYNC_SUBCARRIERS)
_SMOOTHING = 7
"""Subcarriers averaged when the PSS's channel is used for the SSS: far below any coherence bandwidth."""

MIN_SSS_CORRELATION = 0.35
"""Chance reaches this among 336 sequences of 127 values with probability 336 exp(-127 x 0.35^2) = 6e-5."""

MIN_DMRS_CORRELATION = 0.4
"""Chance reaches this among 8 sequences with 60 pairs with probability 8 exp(-60 x 0.4^2) = 5e-4."""

_CFO_ROUNDS = 2


@dataclass(frozen=True)
class SsbMeasurement:
    """One received SS/PBCH block.

    ssb_center_hz: the raster frequency. cfo_hz: carrier minus that. first_sample: where its first cyclic prefix starts,
    in samples of the band. ls [A, 60]: least-squares channel on the PBCH DMRS comb, mean of symbols 1 and 3; tones_hz
    [60]: offsets of the comb from ssb_center_hz. noise_power: variance of one entry of `ls`. snr_db: per resource
    element. half_frame: 0 or 1, None where the DMRS does not tell (more than 4 SSBs a half frame).
    """

    pci: int
    ssb_index: int
    half_frame: int | None
    cfo_hz: float
    snr_db: float
    first_sample: int
    scs_hz: float
    ssb_center_hz: float
    sss_correlation: float
    dmrs_correlation: float
    ls: npt.NDArray[np.complex64]
    tones_hz: npt.NDArray[np.float64]
    noise_power: float

    def times(self, level: float) -> SsbMeasurement:
        """The same measurement of samples `level` times as great."""
        if level == 1.0:
            return self
        return replace(self, ls=self.ls * np.float32(level), noise_power=self.noise_power * level**2)


def measure_ssb(band: Band, detection: PssDetection, raster_hz: float) -> SsbMeasurement | None:
    """The SS/PBCH block that begins with `detection`; None where SSS or PBCH DMRS contradict it or it is cut.

    raster_hz: SS_REF, which the frequency offset is counted from.
    """
    start = detection.first_sample - SSB_CP
    if start < 0 or start + SSB_SAMPLES > band.valid_samples:
        return None
    samples = band.samples[:, start : start + SSB_SAMPLES].astype(np.complex128)
    if not np.any(samples):
        return None
    phases = _symbol_phases(raster_hz, band.rate_hz)
    cfo_scs = _coarse_cfo(samples, detection.offset_scs)
    grid = _demodulate(samples, cfo_scs, phases)
    pci, sss_correlation = _find_sss(grid, detection.n_id_2)
    if sss_correlation < MIN_SSS_CORRELATION:
        return None
    cfo_scs += _cfo_from_pairs([_sync_pair(grid, pci)])
    grid = _demodulate(samples, cfo_scs, phases)
    index_bar, dmrs_correlation = _find_index(grid, pci)
    if dmrs_correlation < MIN_DMRS_CORRELATION:
        return None
    for _ in range(_CFO_ROUNDS):
        first, third = _dmrs_ls(grid, pci, index_bar)
        cfo_scs += _cfo_from_pairs([_sync_pair(grid, pci), (first, third)])
        grid = _demodulate(samples, cfo_scs, phases)
    first, third = _dmrs_ls(grid, pci, index_bar)
    return _measurement(
        band, raster_hz, start, cfo_scs, pci, index_bar, first, third, sss_correlation, dmrs_correlation
    )


def _measurement(
    band: Band,
    raster_hz: float,
    start: int,
    cfo_scs: float,
    pci: int,
    index_bar: int,
    first: npt.NDArray[np.complex128],
    third: npt.NDArray[np.complex128],
    sss_correlation: float,
    dmrs_correlation: float,
) -> SsbMeasurement:
    scs_hz = band.rate_hz / SSB_FFT
    # The channel hardly changes within two symbols: their difference is noise, twice.
    noise_power = float(np.mean(np.abs(first - third) ** 2)) / 2
    ls = (first + third) / 2
    signal_power = max(float(np.mean(np.abs(ls) ** 2)) - noise_power / 2, 1e-3 * noise_power, 1e-30)
    noise_power = max(noise_power, 1e-12 * signal_power)
    few = max_ssb_per_half_frame(raster_hz, scs_hz) == 4
    comb = np.arange(pci % 4, SSB_SUBCARRIERS, 4)
    return SsbMeasurement(
        pci=pci,
        ssb_index=index_bar % 4 if few else index_bar,
        half_frame=index_bar // 4 if few else None,
        cfo_hz=cfo_scs * scs_hz + band.center_hz - raster_hz,
        snr_db=float(10 * np.log10(signal_power / noise_power)),
        first_sample=start,
        scs_hz=scs_hz,
        ssb_center_hz=raster_hz,
        sss_correlation=sss_correlation,
        dmrs_correlation=dmrs_correlation,
        ls=ls.astype(np.complex64),
        tones_hz=np.asarray((comb - SSB_SUBCARRIERS // 2) * scs_hz, np.float64),
        noise_power=noise_power / 2,
    )


def _coarse_cfo(samples: npt.NDArray[np.complex128], hypothesis_scs: float) -> float:
    """Offset in subcarrier spacings: the cyclic prefixes give its fraction, the PSS hypothesis the rest."""
    symbols = samples.reshape(-1, SSB_SYMBOLS, SSB_SYMBOL)
    correlation = np.sum(symbols[..., SSB_FFT:] * symbols[..., :SSB_CP].conj())
    fraction = float(np.angle(correlation)) / (2 * np.pi)
    return fraction + round(hypothesis_scs - fraction)


def _demodulate(
    samples: npt.NDArray[np.complex128], cfo_scs: float, symbol_phases: npt.NDArray[np.complex128]
) -> npt.NDArray[np.complex128]:
    """Resource grid [A, SSB_SYMBOLS, SSB_SUBCARRIERS] after taking out `cfo_scs`, delays counted from the symbol."""
    time = np.arange(SSB_SAMPLES) - SSB_CP
    corrected = samples * np.exp(-2j * np.pi * cfo_scs * time / SSB_FFT)
    symbols = corrected.reshape(-1, SSB_SYMBOLS, SSB_SYMBOL)
    window = symbols[..., SSB_CP - _WINDOW_BACKOFF : SSB_SYMBOL - _WINDOW_BACKOFF]
    subcarriers = np.arange(SSB_SUBCARRIERS) - SSB_SUBCARRIERS // 2
    ramp = np.exp(2j * np.pi * subcarriers * _WINDOW_BACKOFF / SSB_FFT)
    grid = np.fft.fft(window, axis=-1)[..., subcarriers] * ramp / np.sqrt(SSB_FFT)
    return np.asarray(grid * symbol_phases[:, None])


def _symbol_phases(raster_hz: float, rate_hz: float) -> npt.NDArray[np.complex128]:
    """What undoes the transmitter's upconversion, which starts its carrier anew at every symbol (38.211 clause 5.4).

    A receiver's oscillator runs through, so symbol l arrives turned by -2 pi f t_l. Shape [SSB_SYMBOLS].
    """
    turns = np.mod(raster_hz / rate_hz * SSB_SYMBOL * np.arange(SSB_SYMBOLS), 1.0)
    return np.asarray(np.exp(2j * np.pi * turns))


def _find_sss(grid: npt.NDArray[np.complex128], n_id_2: int) -> tuple[int, float]:
    """The cell identity whose SSS fits best, given the PSS's channel, and its normalised correlation 0 to 1."""
    channel = _smooth(grid[:, 0, _SYNC] * pss(n_id_2))
    received = grid[:, 2, _SYNC]
    matched = np.sum(received * channel.conj(), axis=0)
    identities = np.arange(n_id_2, PCI_COUNT, 3)
    sequences = np.array([sss(int(pci)) for pci in identities])
    correlation = np.abs(sequences @ matched)
    norm = np.linalg.norm(received) * np.linalg.norm(channel)
    best = int(np.argmax(correlation))
    return int(identities[best]), float(correlation[best] / max(norm, 1e-300))


def _smooth(channel: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """Moving average over subcarriers, shorter at the edges."""
    window = np.ones(_SMOOTHING)
    weight = np.convolve(np.ones(channel.shape[1]), window, "same")
    return np.array([np.convolve(row, window, "same") / weight for row in channel])


def _sync_pair(
    grid: npt.NDArray[np.complex128], pci: int
) -> tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]:
    """Least-squares channels on the PSS and, two symbols later, on the SSS. Shapes [A, 127]."""
    return grid[:, 0, _SYNC] * pss(pci % 3), grid[:, 2, _SYNC] * sss(pci)


def _dmrs_ls(
    grid: npt.NDArray[np.complex128], pci: int, index_bar: int
) -> tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]:
    """Least-squares channels on the DMRS combs of symbols 1 and 3. Shapes [A, 60]."""
    reference = pbch_dmrs(pci, index_bar)
    comb, _, _ = pbch_dmrs_subcarriers(pci)
    first = grid[:, 1, comb] * reference[:60].conj()
    third = grid[:, 3, comb] * reference[84:].conj()
    return first, third


def _find_index(grid: npt.NDArray[np.complex128], pci: int) -> tuple[int, float]:
    """The three bits of the PBCH DMRS that fit best: with the right ones symbols 1 and 3 show the same channel."""
    correlations = []
    for index_bar in range(8):
        first, third = _dmrs_ls(grid, pci, index_bar)
        power = np.linalg.norm(first) * np.linalg.norm(third)
        correlations.append(abs(np.vdot(first, third)) / max(float(power), 1e-300))
    best = int(np.argmax(correlations))
    return best, float(correlations[best])


def _cfo_from_pairs(pairs: list[tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]]) -> float:
    """Offset in subcarrier spacings from channels two symbols apart: the phase their sum of products turned by."""
    turned = sum(complex(np.vdot(early, late)) for early, late in pairs)
    return float(np.angle(turned)) / (2 * np.pi) * SSB_FFT / (2 * SSB_SYMBOL)
