"""Every SS/PBCH block in a band, also those that a stronger cell covers.

Cells of a TDD network send their blocks at the same instant on the same subcarriers. A block whose PBCH is decoded is
known to the last symbol: it is taken out of the samples, and what is left is searched again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.fft

from ingest.nr.band import Band
from ingest.nr.cell_search import find_pss
from ingest.nr.numerology import SSB_SAMPLES, SSB_SYMBOL
from ingest.nr.ssb import SsbMeasurement, measure_ssb, reconstruct

PSS_CANDIDATES = 64.0
"""PSSs that noise yields in a capture on average; what follows them up to the PBCH's CRC refuses them."""

_LAYERS = 3
"""Cells taken out one below the other, at most."""
_HIDING_DB = 0.0
"""A block weaker than this hides nothing that could be found below it."""


def search_band(band: Band, raster_hz: float, *, hypotheses: int = 1) -> list[SsbMeasurement]:
    """The blocks in `band`, in no order. hypotheses: bands searched in all, see `find_pss`."""
    found: list[SsbMeasurement] = []
    for detection in find_pss(band, hypotheses=hypotheses, expected_false=PSS_CANDIDATES):
        if any(_is_taken(detection.n_id_2, detection.first_sample, known) for known in found):
            continue
        block = measure_ssb(band, detection, raster_hz, hypotheses=hypotheses)
        if block is not None:
            found.append(block)
    for block in sorted(found, key=lambda one: -one.snr_db):
        _search_below(band, block, found, hypotheses)
    return found


def _is_taken(n_id_2: int, first_sample: int, known: SsbMeasurement) -> bool:
    """Whether a PSS is another peak of a known block's."""
    return known.pci % 3 == n_id_2 and abs(known.first_sample - first_sample) < SSB_SYMBOL


def _search_below(band: Band, block: SsbMeasurement, found: list[SsbMeasurement], hypotheses: int) -> None:
    """Add to `found` what overlaps with `block` and shows when it, and what shows then, are taken out."""
    first = max(block.first_sample - SSB_SAMPLES, 0)
    last = min(block.first_sample + 2 * SSB_SAMPLES, band.valid_samples)
    here = [one for one in found if abs(one.first_sample - block.first_sample) < SSB_SAMPLES]
    if block is not max(here, key=lambda one: one.snr_db):
        return  # it was taken out below a stronger one
    left = band.samples[:, first:last].astype(np.complex64)
    for _ in range(_LAYERS):
        rest = Band(scipy.fft.fft(left, axis=1), band.rate_hz, band.center_hz, left.shape[1])
        moved = _moved(block, -first)
        removed = reconstruct(rest, moved) if block.snr_db > _HIDING_DB else None
        if removed is None:
            return
        left[:, moved.first_sample : moved.first_sample + SSB_SAMPLES] -= removed.astype(np.complex64)
        rest = Band(scipy.fft.fft(left, axis=1), band.rate_hz, band.center_hz, left.shape[1])
        below = [
            _moved(one, first)
            for detection in find_pss(rest, hypotheses=hypotheses, expected_false=PSS_CANDIDATES)
            if (one := measure_ssb(rest, detection, block.ssb_center_hz, hypotheses=hypotheses)) is not None
        ]
        new = [one for one in below if not any(_is_same(one, known) for known in found)]
        found += new
        # The next layer: what was found below, or what was known beside it.
        below = [one for one in below if one.pci != block.pci and one.mib is not None]
        if not below:
            return
        block = max(below, key=lambda one: one.snr_db)


def _is_same(one: SsbMeasurement, other: SsbMeasurement) -> bool:
    return one.pci == other.pci and abs(one.first_sample - other.first_sample) < SSB_SAMPLES // 2


def _moved(block: SsbMeasurement, samples: int) -> SsbMeasurement:
    return replace(block, first_sample=block.first_sample + samples)
