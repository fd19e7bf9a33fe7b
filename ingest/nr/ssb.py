"""From a PSS to a measured SS/PBCH block: frequency offset, identity, channel, SNR and what its PBCH says.

A block whose SSS or PBCH DMRS does not agree is no block; one whose PBCH passes the CRC is proved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ingest.nr import pbch
from ingest.nr.band import Band
from ingest.nr.cell_search import FALSE_ALARM, PssDetection, pss_trials
from ingest.nr.numerology import (
    SSB_CP,
    SSB_FFT,
    SSB_SAMPLES,
    SSB_SUBCARRIERS,
    SSB_SYMBOL,
    max_ssb_per_half_frame,
)
from ingest.nr.pbch import Mib
from ingest.nr.sequences import pbch_dmrs, pbch_dmrs_subcarriers, pss, sss
from ingest.nr.ssb_grid import SYNC, channel, demodulate, modulate, symbol_phases, sync_channel
from ingest.nr.ssb_identity import Identity, identify

_CFO_ROUNDS = 2
_CLEAR_DB = 6.0
_WEAK_DB = 0.0
"""Below this SNR a PBCH that fails is read once more, see `_read_pbch`; above it noise is not why it failed."""

MIN_SSS_CORRELATION = 0.35
"""Chance reaches this among 336 sequences of 127 values with probability 336 exp(-127 x 0.35^2) = 6e-5."""

MIN_DMRS_CORRELATION = 0.4
"""Chance reaches this among 8 sequences with 60 pairs with probability 8 exp(-60 x 0.4^2) = 5e-4."""

Complex = npt.NDArray[np.complexfloating]


@dataclass(frozen=True)
class SsbMeasurement:
    """One received SS/PBCH block.

    ssb_center_hz: the raster frequency. cfo_hz: carrier minus that. first_sample: where its first cyclic prefix starts,
    in samples of the band; delay_s: the channel's mean delay behind that. ls [A, 60]: least-squares channel on the PBCH
    DMRS comb, mean of symbols 1 and 3; tones_hz [60]: offsets of the comb from ssb_center_hz. noise_power: variance of
    one entry of `ls`. snr_db: per resource element. l_max: SSBs that a half frame may have. half_frame: 0 or 1, None
    where neither DMRS nor PBCH tells. mib: what the PBCH says, None where its CRC fails; of a tracked cell, whose PBCH
    is not read every time, the frame number is counted on. Without it an `ssb_index` with l_max = 64 is known by its
    three lowest bits only.
    """

    pci: int
    ssb_index: int
    half_frame: int | None
    l_max: int
    cfo_hz: float
    snr_db: float
    first_sample: int
    delay_s: float
    scs_hz: float
    ssb_center_hz: float
    sss_correlation: float
    dmrs_correlation: float
    ls: npt.NDArray[np.complex64]
    tones_hz: npt.NDArray[np.float64]
    noise_power: float
    mib: Mib | None = None

    @property
    def index_bar(self) -> int:
        """The three bits that the DMRS tells (38.211 clause 7.4.1.4.1)."""
        return self.ssb_index + 4 * (self.half_frame or 0) if self.l_max == 4 else self.ssb_index % 8

    def times(self, level: float) -> SsbMeasurement:
        """The same measurement of samples `level` times as great."""
        if level == 1.0:
            return self
        return replace(self, ls=self.ls * np.float32(level), noise_power=self.noise_power * level**2)


@dataclass(frozen=True)
class SsbGrid:
    """A block's resource elements [A, 4, 240], its frequency offset `cfo_scs` taken out, and whose they are.

    pilots: what `sync_pair` and `dmrs_pair` are, where it was computed already.
    """

    elements: npt.NDArray[np.complexfloating]
    pci: int
    index_bar: int
    cfo_scs: float
    pilots: tuple[Complex, Complex, Complex, Complex] | None = None

    def sync_pair(self) -> tuple[Complex, Complex]:
        """Least-squares channels on the PSS and, two symbols later, on the SSS. Shapes [A, 127]."""
        if self.pilots is not None:
            return self.pilots[:2]
        early, late = self.elements[:, 0, SYNC] * pss(self.pci % 3), self.elements[:, 2, SYNC] * sss(self.pci)
        return np.asarray(early), np.asarray(late)

    def dmrs_pair(self) -> tuple[Complex, Complex]:
        """Least-squares channels on the DMRS combs of symbols 1 and 3. Shapes [A, 60]."""
        if self.pilots is not None:
            return self.pilots[2:]
        comb = slice(self.pci % 4, None, 4)
        conjugate = pbch_dmrs(self.pci, self.index_bar).conj()
        return self.elements[:, 1, comb] * conjugate[:60], self.elements[:, 3, comb] * conjugate[84:]

    def cfo_left_scs(self) -> float:
        """Offset that is still in the elements: how far the channel turns within two symbols."""
        turned = sum(complex(np.vdot(early, late)) for early, late in (self.sync_pair(), self.dmrs_pair()))
        return float(np.angle(turned)) / (2 * np.pi) * SSB_FFT / (2 * SSB_SYMBOL)


def measure_ssb(band: Band, detection: PssDetection, raster_hz: float, *, hypotheses: int = 1) -> SsbMeasurement | None:
    """The SS/PBCH block that begins with `detection`; None where it is none, or cut.

    A block is one whose PBCH passes the CRC, or whose SSS and DMRS agree with its PSS and with each other so well that
    chance is out of the question. raster_hz: SS_REF, which the frequency offset is counted from. hypotheses: as in
    `find_pss`.
    """
    start = detection.first_sample - SSB_CP
    if start < 0 or start + SSB_SAMPLES > band.valid_samples:
        return None
    samples = band.part(start, SSB_SAMPLES).astype(np.complex128)
    if not np.any(samples):
        return None
    scs_hz = band.rate_hz / SSB_FFT
    phases = symbol_phases(raster_hz, scs_hz)
    trials = hypotheses * pss_trials(band)
    least = float(np.log(max(trials, 1) / FALSE_ALARM))
    unproved: SsbMeasurement | None = None
    for identity in identify(samples, detection, phases, trials):
        grid = _settle(samples, phases, identity)
        cfo_hz = grid.cfo_scs * scs_hz + band.center_hz - raster_hz
        found = measurement(grid, raster_hz, scs_hz, cfo_hz, first_sample=start)
        if found.mib is not None:
            return found
        if unproved is None and detection.evidence >= least and _stands_alone(grid):
            unproved = found
    return unproved


def _settle(samples: Complex, phases: Complex, identity: Identity) -> SsbGrid:
    """The block's grid without what is left of the frequency offset when all pilots are used."""
    cfo_scs = identity.offset_scs
    for _ in range(_CFO_ROUNDS):
        grid = SsbGrid(demodulate(samples, cfo_scs, phases), identity.pci, identity.index_bar, cfo_scs)
        cfo_scs += grid.cfo_left_scs()
    return SsbGrid(demodulate(samples, cfo_scs, phases), identity.pci, identity.index_bar, cfo_scs)


def _stands_alone(grid: SsbGrid) -> bool:
    """Whether the reference signals alone prove it, where the PBCH does not.

    Each resource element counts by its phase alone: a carrier leak on a few of them is no block.
    """
    sync, dmrs = (
        _likeness(*(one / np.maximum(np.abs(one), 1e-300) for one in pair))
        for pair in (grid.sync_pair(), grid.dmrs_pair())
    )
    return sync >= MIN_SSS_CORRELATION and dmrs >= MIN_DMRS_CORRELATION


def measurement(
    grid: SsbGrid,
    raster_hz: float,
    scs_hz: float,
    cfo_hz: float,
    *,
    first_sample: int,
    decode: bool = True,
    l_max: int | None = None,
) -> SsbMeasurement:
    """Everything that a block's grid tells; decode: its PBCH too. l_max: if it is known better than from the band."""
    first, third = grid.dmrs_pair()
    early, late = grid.sync_pair()
    signal_power, noise_power = _powers(first, third)
    snr_db = float(10 * np.log10(signal_power / noise_power))
    ls: Complex = (first + third) / 2
    comb = np.arange(grid.pci % 4, SSB_SUBCARRIERS, 4)
    shape, apart_scs = ls, 4
    if snr_db < _CLEAR_DB:  # noise is worth the work of a better estimate
        early = sync_channel(early, snr_db)[:, SYNC]
        shape, _ = channel(grid.elements, grid.pci, grid.index_bar, snr_db)
        apart_scs = 1
    slope = complex(np.vdot(shape[:, :-1], shape[:, 1:]))
    l_max = l_max or max_ssb_per_half_frame(raster_hz, scs_hz)
    mib, l_max = _read_pbch(grid, noise_power, snr_db, l_max) if decode else (None, l_max)
    found = SsbMeasurement(
        pci=grid.pci,
        ssb_index=grid.index_bar % 4 if l_max == 4 else grid.index_bar,
        half_frame=grid.index_bar // 4 if l_max == 4 else None,
        l_max=l_max,
        cfo_hz=cfo_hz,
        snr_db=snr_db,
        first_sample=first_sample,
        delay_s=-float(np.angle(slope)) / (2 * np.pi * apart_scs * scs_hz),
        scs_hz=scs_hz,
        ssb_center_hz=raster_hz,
        sss_correlation=_likeness(early, late),
        dmrs_correlation=_likeness(first, third),
        ls=ls.astype(np.complex64),
        tones_hz=np.asarray((comb - SSB_SUBCARRIERS // 2) * scs_hz, np.float64),
        noise_power=noise_power / 2,
    )
    return found if mib is None else with_mib(found, mib)


def _powers(first: Complex, third: Complex) -> tuple[float, float]:
    """Signal and noise power of a resource element from the DMRS of symbols 1 and 3.

    The channel hardly changes within two symbols: their difference is noise, twice.
    """
    noise = float(np.mean(np.abs(first - third) ** 2)) / 2
    signal = float(np.mean(np.abs(first + third) ** 2)) / 4 - noise / 2
    signal = max(signal, 1e-3 * noise, 1e-30)
    return signal, max(noise, 1e-12 * signal)


def with_mib(found: SsbMeasurement, mib: Mib) -> SsbMeasurement:
    """`found` with what its PBCH says: half frame and, where there may be 64, the high bits of the SSB index."""
    index = found.ssb_index % 8 + 8 * (mib.ssb_index_high or 0) if found.l_max == 64 else found.ssb_index
    return replace(found, mib=mib, half_frame=mib.half_frame, ssb_index=index)


def _read_pbch(grid: SsbGrid, noise_power: float, snr_db: float, l_max: int) -> tuple[Mib | None, int]:
    """The MIB and the L_max under which it passes the CRC, first believing any channel, then a short one.

    Up to 3 GHz bands differ in whether 4 or 8 SSBs lie in a half frame; what does not fit the band's rule is proved.
    """
    others = [12 - l_max] if l_max < 64 and grid.index_bar >= 4 else []
    for short in (False, True) if snr_db < _WEAK_DB else (False,):
        soft = pbch.soft_bits(grid.elements, grid.pci, grid.index_bar, noise_power, snr_db, short=short)
        for tried in (l_max, *others):
            mib = pbch.decode(soft, grid.pci, grid.index_bar, tried)
            if mib is not None:
                contradicted = tried == 4 and mib.half_frame != grid.index_bar // 4
                return mib, 8 if contradicted else tried
    return None, l_max


def _likeness(one: Complex, other: Complex) -> float:
    """Normalised correlation of two channels, 0 to 1."""
    power = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(abs(complex(np.vdot(one, other))) / max(power, 1e-300), 1.0)


def reconstruct(band: Band, found: SsbMeasurement) -> Complex | None:
    """What `found` adds to the band's samples from its first sample on. Shape [A, SSB_SAMPLES]; None if unproved.

    Its PBCH is encoded again, and the channel estimated once more from all that is known then.
    """
    if found.mib is None:
        return None
    start = found.first_sample
    samples = band.part(start, SSB_SAMPLES).astype(np.complex128)
    phases = symbol_phases(found.ssb_center_hz, found.scs_hz)
    cfo_scs = (found.cfo_hz + found.ssb_center_hz - band.center_hz) / found.scs_hz
    elements = demodulate(samples, cfo_scs, phases)
    sent = np.zeros(elements.shape[1:], np.complex128)
    sent[0, SYNC] = pss(found.pci % 3)
    sent[2, SYNC] = sss(found.pci)
    reference = pbch_dmrs(found.pci, found.index_bar)
    for symbol, comb, values in zip(
        (1, 2, 3), pbch_dmrs_subcarriers(found.pci), np.split(reference, [60, 84]), strict=True
    ):
        sent[symbol, comb] = values
    symbols, places = pbch.data_places(found.pci % 4)
    sent[symbols, places] = pbch.elements(found.mib.message, found.pci, found.index_bar, found.l_max)
    estimate, _ = channel(elements, found.pci, found.index_bar, found.snr_db + 6)
    gains = np.sum(elements * (estimate[:, None] * sent).conj(), axis=(0, 2))
    gains /= np.maximum(np.sum(np.abs(estimate[:, None] * sent) ** 2, axis=(0, 2)), 1e-300)
    # A symbol's own gain takes in the PSS's boost (38.213 clause 4.1) and the oscillators' wander.
    return modulate(estimate[:, None] * sent * gains[:, None], cfo_scs, phases)
