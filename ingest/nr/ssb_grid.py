"""The resource grid of one SS/PBCH block: out of samples, back into samples, and its channel by LMMSE."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from ingest.nr.numerology import (
    SSB_CP,
    SSB_FFT,
    SSB_SAMPLES,
    SSB_SUBCARRIERS,
    SSB_SYMBOL,
    SSB_SYMBOLS,
    SYNC_FIRST_SUBCARRIER,
    SYNC_SUBCARRIERS,
)
from ingest.nr.sequences import pbch_dmrs, pbch_dmrs_subcarriers, sss

WINDOW_BACKOFF = SSB_CP // 2
"""The FFT window starts this much inside the cyclic prefix, so that a timing error either way stays harmless."""

SYNC = slice(SYNC_FIRST_SUBCARRIER, SYNC_FIRST_SUBCARRIER + SYNC_SUBCARRIERS)

DELAYS = np.arange(-WINDOW_BACKOFF, SSB_CP + 1)
"""Delays that a channel may have, in samples at `SSB_FFT`; timing may err by a few."""

SHORT_DELAYS = np.arange(-3, 7)
"""Delays that most channels have: believed where the noise leaves no other choice."""

_SNR_STEP_DB, _SNRS_DB = 3.0, (-9.0, 30.0)


def symbol_phases(raster_hz: float, scs_hz: float) -> npt.NDArray[np.complex128]:
    """What undoes the transmitter's upconversion, which starts its carrier anew at every symbol (38.211 clause 5.4).

    A receiver's oscillator runs through, so symbol l arrives turned by -2 pi f t_l. Shape [SSB_SYMBOLS].
    """
    turns = np.mod(raster_hz / (SSB_FFT * scs_hz) * SSB_SYMBOL * np.arange(SSB_SYMBOLS), 1.0)
    return np.asarray(np.exp(2j * np.pi * turns))


@cache
def _bins_and_ramp() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.complex128]]:
    subcarriers = np.arange(SSB_SUBCARRIERS) - SSB_SUBCARRIERS // 2
    ramp = np.exp(2j * np.pi * subcarriers * WINDOW_BACKOFF / SSB_FFT)
    return subcarriers % SSB_FFT, ramp / np.sqrt(SSB_FFT)


def demodulate(
    samples: npt.NDArray[np.complexfloating], cfo_scs: float, phases: npt.NDArray[np.complexfloating]
) -> npt.NDArray[np.complex128]:
    """Resource grid [A, 4, 240] of samples [A, SSB_SAMPLES] without `cfo_scs`, delays counted from the symbol."""
    time = np.arange(SSB_SAMPLES) - SSB_CP
    corrected = samples * np.exp(-2j * np.pi * cfo_scs / SSB_FFT * time)
    symbols = corrected.reshape(-1, SSB_SYMBOLS, SSB_SYMBOL)
    window = symbols[..., SSB_CP - WINDOW_BACKOFF : SSB_SYMBOL - WINDOW_BACKOFF]
    bins, ramp = _bins_and_ramp()
    return np.asarray(np.fft.fft(window, axis=-1)[..., bins] * (ramp * phases[:, None]))


def modulate(
    grid: npt.NDArray[np.complexfloating], cfo_scs: float, phases: npt.NDArray[np.complexfloating]
) -> npt.NDArray[np.complex128]:
    """The samples [A, SSB_SAMPLES] of a resource grid [A, 4, 240]: `demodulate` the other way round."""
    bins, _ = _bins_and_ramp()
    spectrum = np.zeros((*grid.shape[:2], SSB_FFT), np.complex128)
    spectrum[..., bins] = grid * (np.sqrt(SSB_FFT) * phases.conj()[:, None])
    useful = np.fft.ifft(spectrum, axis=-1)
    symbols = np.concatenate([useful[..., -SSB_CP:], useful], axis=-1).reshape(len(grid), SSB_SAMPLES)
    return np.asarray(symbols * np.exp(2j * np.pi * cfo_scs / SSB_FFT * (np.arange(SSB_SAMPLES) - SSB_CP)))


@cache
def pilot_places(shift: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Symbols and subcarriers of SSS and DMRS, in the order of `pilot_values`; shift = PCI mod 4. Shapes [271]."""
    combs = pbch_dmrs_subcarriers(shift)
    symbols = np.concatenate([np.full(SYNC_SUBCARRIERS, 2), *(np.full(len(c), s) for s, c in enumerate(combs, 1))])
    return symbols, np.concatenate([np.arange(SSB_SUBCARRIERS)[SYNC], *combs])


@lru_cache(maxsize=256)
def pilot_values(pci: int, index_bar: int) -> npt.NDArray[np.complex128]:
    """SSS, then DMRS: what stands at the pilots' places. Shape [271]."""
    return np.concatenate([sss(pci), pbch_dmrs(pci, index_bar)])


def channel(
    grid: npt.NDArray[np.complexfloating], pci: int, index_bar: int, snr_db: float, *, short: bool = False
) -> tuple[npt.NDArray[np.complex64], float]:
    """LMMSE channel [A, 240] from SSS and DMRS of a grid [A, 4, 240], and its error variance over its power.

    It is taken for constant over the block: the frequency offset must be out of `grid`. short: whether to believe in
    the usual delays only.
    """
    shift = pci % 4
    symbols, places = pilot_places(shift)
    seen = grid[:, symbols, places] * pilot_values(pci, index_bar).conj()
    weights, error = _wiener(shift, _snr_step(snr_db), short)
    return np.asarray(seen.astype(np.complex64) @ weights.T), error


def sync_channel(least_squares: npt.NDArray[np.complexfloating], snr_db: float) -> npt.NDArray[np.complex64]:
    """LMMSE channel [A, 240] from least squares [A, 127] on the subcarriers of PSS and SSS."""
    weights, _ = _wiener(None, _snr_step(snr_db), False)
    return np.asarray(least_squares.astype(np.complex64) @ weights.T)


def _snr_step(snr_db: float) -> float:
    lowest, highest = _SNRS_DB
    return min(max(round(snr_db / _SNR_STEP_DB) * _SNR_STEP_DB, lowest), highest)


@lru_cache(maxsize=128)
def _wiener(shift: int | None, snr_db: float, short: bool) -> tuple[npt.NDArray[np.complex64], float]:
    """Filter [240, pilots] from least squares at the pilots to the channel everywhere, and its error per power.

    A priori all delays are equally likely; pilots of one subcarrier share their channel.
    shift: of the DMRS; without one the pilots are those of one synchronisation signal.
    """
    places = np.arange(SSB_SUBCARRIERS)[SYNC] if shift is None else pilot_places(shift)[1]
    apart = np.arange(-SSB_SUBCARRIERS, SSB_SUBCARRIERS + 1)
    correlation = np.exp(-2j * np.pi * np.outer(apart, SHORT_DELAYS if short else DELAYS) / SSB_FFT).mean(axis=1)
    used, of_used, pilots = np.unique(places, return_inverse=True, return_counts=True)
    among = correlation[used[:, None] - used[None, :] + SSB_SUBCARRIERS]
    across = correlation[np.arange(SSB_SUBCARRIERS)[:, None] - used[None, :] + SSB_SUBCARRIERS]
    weights = np.linalg.solve(among + np.diag(10 ** (-snr_db / 10) / pilots), across.conj().T).conj().T
    error = 1.0 - float(np.mean(np.real(np.sum(weights * across.conj(), axis=1))))
    return (weights / pilots)[:, of_used].astype(np.complex64), max(error, 0.0)
