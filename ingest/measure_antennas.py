"""How a radio's antennas differ, measured from a capture in which one signal went to all of them through a splitter.

Any signal does that fills the band: per frequency bin the antennas' covariance is averaged over the capture, and its
greatest eigenvector is what each makes of the common signal. Only mutual gains show: antenna 0 has phase 0, and the
mean power gain is 1. Cables and splitter count as part of the antennas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.antenna_calibration import SCHEMA, AntennaCalibration
from ingest.errors import InputRefused
from ingest.messages import IqBlock
from ingest.sources import IqFileSource, Source

_BINS = 256
_PIECES = 32
_LEAST_SEGMENTS = 64
_COHERENT = 0.9
"""Coherence of every antenna with antenna 0 below which a band is left out: there is no common signal."""

_CLEAR = 6.0
_LEAST_TURN_RAD = 0.02
_EDGE = 0.45
"""Share of the sample rate either side of the centre that is used: filters fall off beyond."""

Complex = npt.NDArray[np.complex128]


def measure_antennas(
    source: Source, *, bands: int = 16, progress: Callable[[float], None] = lambda seconds: None
) -> tuple[AntennaCalibration, dict[str, Any]]:
    """The mutual gains of the antennas of a capture, over at most `bands` frequencies, and a report of them.

    Raises `InputRefused` where it is no IQ, of one antenna only or too short, where there is no common signal, and
    where antennas turn against each other while they are measured.
    """
    where = source.info.where
    if not isinstance(source, IqFileSource):
        raise InputRefused("is no recording of IQ", where=where, mend="SigMF or raw IQ of all antennas")
    tally = _Tally(where)
    for block in source:
        if isinstance(block, IqBlock):
            tally.add(block)
            progress((block.first_sample + block.samples.shape[1]) / block.rate_hz)
    covariance, pieces = tally.finished()
    found = _in_bands(covariance, tally.rate_hz, bands, where)
    _check_steady(pieces, tally, where)
    return _calibration(found, tally, where)


@dataclass(frozen=True, eq=False)
class _Band:
    """offset_hz: its middle, from the centre. gains [A] of the antennas, coherence [A] with antenna 0."""

    offset_hz: float
    gains: Complex
    coherence: npt.NDArray[np.float64]


class _Tally:
    """Adds up the antennas' covariances [bins, A, A], and those over all bins in pieces of time [n, A, A]."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.rate_hz, self.center_hz, self.radio = 0.0, 0.0, ""
        self.segments, self.per_piece = 0, 1
        self._rest = np.zeros((0, 0), np.complex64)
        self._next_sample = 0
        self._window = np.hanning(_BINS + 1)[:-1].astype(np.float32)
        self._pieces: list[Complex] = []
        self._open: Complex = np.zeros(0, np.complex128)
        self._covariance: Complex = np.zeros(0, np.complex128)
        self._in_piece = 0

    def add(self, block: IqBlock) -> None:
        """Take in a block; what lies across a gap is left out."""
        antennas = block.samples.shape[0]
        if not self.rate_hz:
            if antennas < 2:
                raise InputRefused("has one antenna", where=self._where, mend="a capture of all antennas at once")
            self.rate_hz, self.center_hz, self.radio = block.rate_hz, block.center_hz, block.source
            self._covariance = np.zeros((_BINS, antennas, antennas), np.complex128)
            self._open = np.zeros((antennas, antennas), np.complex128)
            self._rest = block.samples[:, :0]
        elif (block.rate_hz, block.center_hz, antennas) != (self.rate_hz, self.center_hz, len(self._rest)):
            raise InputRefused(
                "changes rate, tuning or antennas within", where=self._where, mend="one capture at a time"
            )
        if block.first_sample != self._next_sample:
            self._rest = self._rest[:, :0]
        self._next_sample = block.first_sample + block.samples.shape[1]
        samples = np.concatenate([self._rest, block.samples], axis=1)
        count = samples.shape[1] // _BINS
        for begin in range(0, count, 1024):
            self._take(samples[:, begin * _BINS : min(begin + 1024, count) * _BINS])
        self._rest = samples[:, count * _BINS :]

    def _take(self, samples: npt.NDArray[np.complexfloating]) -> None:
        segments = samples.reshape(len(samples), -1, _BINS) * self._window
        spectra = np.fft.fftshift(scipy.fft.fft(segments, axis=2), axes=2).transpose(1, 2, 0)
        by_bin = spectra.transpose(1, 2, 0)
        self._covariance += by_bin @ by_bin.conj().transpose(0, 2, 1)
        self.segments += len(spectra)
        middle = np.delete(spectra, _BINS // 2, axis=1)
        each = middle.transpose(0, 2, 1) @ middle.conj()
        while len(each):
            taken = each[: self.per_piece - self._in_piece]
            self._open += taken.sum(axis=0)
            self._in_piece += len(taken)
            each = each[len(taken) :]
            if self._in_piece == self.per_piece:
                self._close_piece()

    def _close_piece(self) -> None:
        """Pieces double in length whenever there are too many, so that any capture has some tens of them."""
        self._pieces.append(self._open.copy())
        self._open[:] = 0.0
        self._in_piece = 0
        if len(self._pieces) == 2 * _PIECES:
            self._pieces = [one + other for one, other in zip(self._pieces[::2], self._pieces[1::2], strict=True)]
            self.per_piece *= 2

    def finished(self) -> tuple[Complex, Complex]:
        """Covariances by bin and by piece of time; `InputRefused` where there is too little of them."""
        if self.segments < _LEAST_SEGMENTS:
            need = _LEAST_SEGMENTS * _BINS
            raise InputRefused(
                f"holds too little IQ: fewer than {need} samples", where=self._where, mend="record longer"
            )
        return self._covariance, np.array(self._pieces)


def _in_bands(covariance: Complex, rate_hz: float, bands: int, where: str) -> list[_Band]:
    """What antennas make of the common signal in every band that has one; `InputRefused` where none has."""
    offsets_hz = np.fft.fftshift(np.fft.fftfreq(_BINS)) * rate_hz
    used = np.flatnonzero(np.abs(offsets_hz) <= _EDGE * rate_hz)
    used = used[offsets_hz[used] != 0.0]  # a leaking carrier is no common signal
    found = []
    for band in np.array_split(used, bands):
        gains, coherence = _principal(covariance[band].sum(axis=0))
        if coherence.min() >= _COHERENT:
            found.append(_Band(float(offsets_hz[band].mean()), gains, coherence))
    if not found:
        _, coherence = _principal(covariance[used].sum(axis=0))
        worst = int(np.argmin(coherence))
        raise InputRefused(
            f"antennas 0 and {worst} did not receive one signal: coherence {coherence[worst]:.2f}",
            where=where,
            mend="feed all antennas through a splitter, with a signal that fills the band",
        )
    return found


def _principal(covariance: Complex) -> tuple[Complex, npt.NDArray[np.float64]]:
    """What antennas make of their common signal [A], antenna 0 at phase 0, and their coherence with antenna 0 [A]."""
    power = np.maximum(np.diagonal(covariance).real, 1e-300)
    scale = np.sqrt(power)
    normal = covariance / np.outer(scale, scale)
    coherence = np.minimum(np.abs(normal[:, 0]), 1.0)
    vector = np.linalg.eigh(normal)[1][:, -1] * scale
    vector *= np.exp(-1j * np.angle(vector[0])) / np.sqrt(np.mean(np.abs(vector) ** 2))
    return vector, coherence


def _check_steady(pieces: Complex, tally: _Tally, where: str) -> None:
    """`InputRefused` where antennas turn against antenna 0 while the capture runs."""
    phases = np.unwrap(np.angle(pieces[:, 1:, 0]), axis=0)
    count = len(phases)
    times_s = np.arange(count) * tally.per_piece * _BINS / tally.rate_hz
    slope, level = np.polyfit(times_s, phases, 1)
    residual = np.sqrt(np.sum((phases - level - np.outer(times_s, slope)) ** 2, axis=0) / (count - 2))
    error = residual / np.sqrt(np.sum((times_s - times_s.mean()) ** 2))
    turned = np.abs(slope) * times_s[-1]
    turns = (np.abs(slope) > _CLEAR * error) & (turned > _LEAST_TURN_RAD)
    if np.any(turns):
        antenna = int(np.argmax(np.where(turns, turned, 0.0)))
        raise InputRefused(
            f"antenna {antenna + 1} turns against antenna 0 by {slope[antenna] / (2 * np.pi):.4g} Hz",
            where=where,
            mend="lock the receivers' clocks to one reference",
        )


def _calibration(found: list[_Band], tally: _Tally, where: str) -> tuple[AntennaCalibration, dict[str, Any]]:
    gains, coherence = (np.array([getattr(one, name) for one in found]) for name in ("gains", "coherence"))
    per_band = tally.segments * _BINS / len(found)
    errors = np.sqrt(np.mean((1 - coherence**2) / (2 * coherence**2), axis=0) / per_band)
    levels_db, phases = 20 * np.log10(np.abs(gains)).T, np.unwrap(np.angle(gains), axis=0).T
    offsets_hz = np.array([one.offset_hz for one in found])
    several = len(found) > 1
    calibration = AntennaCalibration(
        format=SCHEMA,
        gains_db=_rows(levels_db, several, 4),
        phases_rad=_rows(phases, several, 6),
        frequencies_hz=tuple(round(float(tally.center_hz + one), 1) for one in offsets_hz) if several else (),
        center_hz=float(tally.center_hz),
        phase_errors_rad=tuple(round(float(one), 6) for one in errors),
        made_from=where,
    )
    slopes = np.polyfit(offsets_hz - offsets_hz.mean(), phases.T, 1)[0] if several else np.zeros(len(phases))
    report = {
        "antennas": len(phases),
        "bands": len(found),
        "gains_db": [round(float(one), 3) for one in levels_db.mean(axis=1)],
        "phases_rad": [round(float(np.angle(np.exp(1j * row).mean())), 4) for row in phases],
        "delays_ns": [round(float(-slope / (2 * np.pi) * 1e9), 3) for slope in slopes],
        "phase_errors_rad": list(calibration.phase_errors_rad),
        "coherence": [round(float(one), 4) for one in coherence.min(axis=0)],
        "seconds": round(tally.segments * _BINS / tally.rate_hz, 6),
    }
    return calibration, report


def _rows(values: npt.NDArray[np.float64], several: bool, digits: int) -> tuple[float | tuple[float, ...], ...]:
    rounded = [tuple(round(float(one), digits) for one in row) for row in values]
    return tuple(rounded) if several else tuple(row[0] for row in rounded)
