"""Which cell and which SSB a PSS belongs to, if to any: what is worth reading the PBCH of.

PSS and SSS are matched filters normalised by the power they saw. Under noise, -ln of a normalised power's tail
probability is exponential with mean 1 and the two are independent, so their sum is Gamma(2): one threshold for both
together (Fisher's method) sees weaker blocks than one after the other. The DMRS then ranks SSB indices; the proof is
the PBCH's CRC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from ingest.nr.antennas import whitening
from ingest.nr.cell_search import SPATIAL_SLACK, PssDetection, beta_evidence
from ingest.nr.numerology import SSB_FFT, SSB_SUBCARRIERS, SSB_SYMBOL, SYNC_SUBCARRIERS
from ingest.nr.sequences import PCI_COUNT, pbch_dmrs, pbch_dmrs_subcarriers, pss, sss
from ingest.nr.ssb_grid import DELAYS, SYNC, demodulate, sync_channel

INDICES = 8
IDENTITIES = PCI_COUNT // 3
_PAIR_SCS = SSB_FFT / (2 * SSB_SYMBOL)
"""Symbols two apart tell the offset modulo this."""
_REACH_SCS = 0.4
"""The true offset lies no further from the best hypothesis of the search than this."""

EXPECTED_FALSE = 4.0
"""Blocks that noise yields in a capture on average before their PBCH is read."""

_LEAST_SHARE = 0.2
"""The SSS must fit at least this well compared with the PSS, or else the PSS is of something else."""

_TRIED = 2
"""Pairs of SSB index and frequency offset that are worth reading the PBCH with."""


@dataclass(frozen=True)
class Identity:
    """What a PSS may be. offset_scs: its frequency offset. evidence: of PSS and SSS, see `identify`."""

    pci: int
    index_bar: int
    offset_scs: float
    evidence: float


def gamma_threshold(trials: float, expected_false: float) -> float:
    """The sum of two exponentials of mean 1 that `trials` exceed `expected_false` times on average.

    P(Gamma(2) > t) = exp(-t) (1 + t).
    """
    wanted = float(np.log(max(trials / expected_false, 1.0)))
    level = wanted
    for _ in range(50):
        level = wanted + float(np.log1p(level))
    return level


def identify(
    samples: npt.NDArray[np.complexfloating],
    detection: PssDetection,
    phases: npt.NDArray[np.complexfloating],
    trials: float,
) -> list[Identity]:
    """What the block in samples [A, SSB_SAMPLES] that begins with `detection` may be, the likeliest first.

    trials: PSS hypotheses that were tried where `detection` was found. Empty where PSS and SSS together do not stand
    out of noise.
    """
    snr_db = _snr_db(detection.metric)
    grid = demodulate(samples, detection.offset_scs, phases)
    pci, share, evidence = _find_sss(grid, detection.n_id_2, snr_db)
    if share < _LEAST_SHARE * detection.metric:
        return []
    evidence += detection.evidence
    if evidence < gamma_threshold(IDENTITIES * max(trials, 1.0), EXPECTED_FALSE):
        return []
    turned = np.vdot(grid[:, 0, SYNC] * pss(pci % 3), grid[:, 2, SYNC] * sss(pci))
    fraction = float(np.angle(turned)) / (2 * np.pi) * _PAIR_SCS
    ranked: list[tuple[float, int, float]] = []
    for turns in (-1, 0, 1):
        left = fraction + turns * _PAIR_SCS
        if abs(left) <= _REACH_SCS:
            offset = detection.offset_scs + left
            powers = _index_powers(demodulate(samples, offset, phases), pci)
            ranked += [(float(power), index_bar, offset) for index_bar, power in enumerate(powers)]
    ranked.sort(reverse=True)
    return [Identity(pci, index_bar, offset, evidence) for _, index_bar, offset in ranked[:_TRIED]]


def _snr_db(metric: float) -> float:
    """The signal-to-noise ratio at which a matched filter reads `metric`."""
    return float(10 * np.log10(max(metric, 1e-3) / max(1.0 - metric, 1e-3)))


@cache
def _sss_of(n_id_2: int) -> npt.NDArray[np.float32]:
    """Every SSS that goes with a PSS. Shape [336, 127]."""
    return np.array([sss(pci) for pci in range(n_id_2, PCI_COUNT, 3)], np.float32)


def _find_sss(grid: npt.NDArray[np.complex128], n_id_2: int, snr_db: float) -> tuple[int, float, float]:
    """The cell identity whose SSS fits best, given the PSS's channel, its normalised power 0 to 1, and its evidence.

    As with the PSS each antenna counts by its own power, and what all antennas hear limits what is believed.
    """
    expected = sync_channel(grid[:, 0, SYNC] * pss(n_id_2), snr_db)[:, SYNC]
    received = grid[:, 2, SYNC]
    power = np.sum(np.abs(received) ** 2, axis=1)
    heard = power > 1e-12 * max(float(power.max()), 1e-300)
    scale = np.sqrt(np.maximum(power[heard], 1e-300))[:, None]
    alike, wanted = received[heard] / scale, expected[heard] / scale
    matched = np.sum(alike * wanted.conj(), axis=0)
    parts = _sss_of(n_id_2) @ np.stack([matched.real, matched.imag], axis=1).astype(np.float32)
    pci = n_id_2 + 3 * int(np.argmax(np.sum(parts.astype(np.float64) ** 2, axis=1)))
    wanted = wanted * sss(pci)
    evidence = beta_evidence(_share(alike, wanted), 1, len(alike) * SYNC_SUBCARRIERS - 1)
    if len(alike) > 1:
        white = whitening(alike)
        spatial = beta_evidence(_share(white @ alike, white @ wanted), 1, len(white) * SYNC_SUBCARRIERS - 1)
        evidence = min(evidence, spatial + SPATIAL_SLACK)
    return pci, _share(received, expected * sss(pci)), evidence


def _share(one: npt.NDArray[np.complexfloating], other: npt.NDArray[np.complexfloating]) -> float:
    """Power of one in the direction of the other, over its own; 0 to 1."""
    norm = float(np.sum(np.abs(one) ** 2) * np.sum(np.abs(other) ** 2))
    return min(abs(complex(np.vdot(one, other))) ** 2 / max(norm, 1e-300), 1.0)


def _index_powers(grid: npt.NDArray[np.complex128], pci: int) -> npt.NDArray[np.float64]:
    """How well each of the eight DMRS shows one short channel together with PSS and SSS. Shape [8].

    The power that least squares at all pilots have within the delays of a cyclic prefix: the locally best detector of
    a channel of which no more is known.
    """
    least_squares = grid[:, 0, SYNC] * pss(pci % 3) + grid[:, 2, SYNC] * sss(pci)
    symbols = np.repeat([1, 2, 3], [60, 24, 60])
    places = np.concatenate(pbch_dmrs_subcarriers(pci))
    received = _dmrs_of(pci).conj()[:, None] * grid[:, symbols, places]
    taps = received @ _delays()[places] + least_squares @ _delays()[SYNC]
    return np.asarray(np.sum(np.abs(taps) ** 2, axis=(1, 2)))


@cache
def _delays() -> npt.NDArray[np.complex128]:
    """What brings subcarriers to the delays of a cyclic prefix. Shape [240, delays]."""
    return np.asarray(np.exp(2j * np.pi / SSB_FFT * np.outer(np.arange(SSB_SUBCARRIERS), DELAYS)))


@lru_cache(maxsize=128)
def _dmrs_of(pci: int) -> npt.NDArray[np.complex128]:
    """The PBCH DMRS of a cell's eight indices. Shape [8, 144]."""
    return np.array([pbch_dmrs(pci, index_bar) for index_bar in range(INDICES)])
