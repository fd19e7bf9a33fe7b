"""Follows the SS/PBCH blocks of a known cell: each is measured at its expected time, at the capture's own rate.

Only the four symbols of the block are mixed and transformed. Timing and carrier frequency are followed by one small
Kalman filter each; a cell that is missed too often is lost, and must be searched for again.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import numpy as np
import numpy.typing as npt
import scipy.fft

from ingest.nr.cell_search import beta_evidence
from ingest.nr.drift import DriftFilter
from ingest.nr.numerology import SSB_CP, SSB_FFT, SSB_SAMPLES, SSB_SUBCARRIERS, SSB_SYMBOL, SSB_SYMBOLS
from ingest.nr.sequences import pss
from ingest.nr.ssb import SsbGrid, SsbMeasurement, measurement, with_mib
from ingest.nr.ssb_grid import DELAYS, SYNC, pilot_places, pilot_values, symbol_phases
from ingest.nr.ssb_patterns import HALF_FRAME_S, SFN_COUNT, Case, FrameTiming, frame_timing
from ingest.nr.stretch import Stretch

MAX_MISSED = 8
"""So many expected blocks in a row that were not there: the cell is lost."""

FALSE_PRESENCE = 1e-6
"""Probability that noise passes for the expected block."""

MAX_BLIND_S = 2.0
"""After so long without a block, whatever the reason, its time is no longer known well enough."""

DECODE_EVERY = 50
"""Of so many blocks one has its PBCH read again: once a second at the usual period of 20 ms."""

_LEARNING_HALF_FRAMES = 32
"""The longest period of SSBs is 160 ms (38.331 `ssb-periodicityServingCell`)."""
_LEARNING_HITS = 4
"""Two alone may be any number of periods apart, where samples are missing between."""
_MAX_CFO_LEFT_SCS = 0.02
"""What may be left of the frequency offset in a grid; more would let subcarriers leak into each other."""
_TURN = 32

_PSS, _SSS, _FIRST, _LAST = 127, 254, 314, 60
"""Where among the pilots PSS, SSS and the DMRS of symbol 1 end, and how many those of symbol 3 are."""


class SsbTracker:
    """One SSB of a cell, found once as `found` at `time_s` of a stream at rate_hz tuned to center_hz.

    cfo_hz: followed carrier offset. drift_s: how far the blocks have come from a clock at the nominal rate, drift_ppm
    how fast that grows. timing: the frame of the last block, where it is known. missed: expected blocks in a row that
    were not there; lost: too many. case: the pattern, where it is known better than from the band. unit: what samples
    are divided by. Raises ValueError where `supports` says no.
    """

    def __init__(
        self,
        found: SsbMeasurement,
        time_s: float,
        rate_hz: float,
        center_hz: float,
        *,
        case: Case | None = None,
        unit: float = 1.0,
    ) -> None:
        if not supports(rate_hz, found.scs_hz):
            raise ValueError(f"{rate_hz} Hz is no whole multiple of {found.scs_hz} Hz")
        scs_hz = found.scs_hz
        self.last = found
        self.case = case
        self.missed = 0
        self._rate_hz, self._unit = rate_hz, unit
        self._fft = round(rate_hz / scs_hz)
        self._scale = np.sqrt(SSB_FFT) / self._fft / unit
        shift_scs = (found.ssb_center_hz - center_hz) / scs_hz
        whole_scs = round(shift_scs)
        self._residual_hz = (shift_scs - whole_scs) * scs_hz
        self._first_bin = whole_scs - SSB_SUBCARRIERS // 2
        self._places = (self._first_bin + np.arange(SSB_SUBCARRIERS)) % self._fft
        # The transform starts its bins anew at every symbol, as the transmitter does its carrier: the rest turns.
        self._phases = symbol_phases(found.ssb_center_hz - whole_scs * scs_hz, scs_hz)
        self._places_of_pilots, self._conjugates, self._taps = _pilots(found)
        sample_s = 1.0 / (SSB_FFT * scs_hz)
        self._timing = DriftFilter(0.0, (2e-9) ** 2, (2e-8) ** 2, ((0.3 * sample_s) ** 2, (5e-6) ** 2))
        self._cfo = DriftFilter(found.cfo_hz, (1e-3 * scs_hz) ** 2, (3e-3 * scs_hz) ** 2, ((0.02 * scs_hz) ** 2, 1e4))
        self._anchor_s = time_s + found.delay_s
        self._half_frame = 0
        self._next, self._step = 1, 1
        self._hits = [0]
        self._knows_period = False
        self._mib, self._mib_half_frame = found.mib, 0
        self._since_decoded = 0
        self._blind = False
        self.timing: FrameTiming | None = frame_timing(found, self._anchor_s, case)

    @property
    def cfo_hz(self) -> float:
        return self._cfo.value

    @property
    def drift_s(self) -> float:
        return self._timing.value

    @property
    def drift_ppm(self) -> float:
        return self._timing.rate * 1e6

    @property
    def period_s(self) -> float:
        """How often a block is expected; half frames until the period is learnt."""
        return self._step * HALF_FRAME_S

    @property
    def learning(self) -> bool:
        """Whether the period is not known yet."""
        return not self._knows_period

    @property
    def lost(self) -> bool:
        return self._blind or self.missed >= (_LEARNING_HALF_FRAMES if self.learning else MAX_MISSED)

    def _start_s(self, half_frame: int) -> float:
        """Where the block that many half frames after the first one is expected to start."""
        ahead_s = (half_frame - self._half_frame) * HALF_FRAME_S
        return self._anchor_s + half_frame * HALF_FRAME_S + self._timing.value + self._timing.rate * ahead_s

    def measure(self, stretch: Stretch) -> list[tuple[float, SsbMeasurement]]:
        """(start in the stream's time, measurement) of every block that was expected in `stretch` and is there."""
        found: list[tuple[float, SsbMeasurement]] = []
        while not self.lost:
            start = self._start_s(self._next) * self._rate_hz
            if start + (SSB_SAMPLES + SSB_CP) * self._fft / SSB_FFT > stretch.end:
                break
            half_frame, self._next = self._next, self._next + self._step
            if start < stretch.first_sample:
                self._skip_to(stretch.first_sample / self._rate_hz)
                self._blind |= (self._next - self._hits[-1]) * HALF_FRAME_S > MAX_BLIND_S
                continue
            block = self._measure_at(stretch, half_frame, start)
            if block is not None:
                found.append((start / self._rate_hz, block.times(self._unit)))
        return found

    def _skip_to(self, time_s: float) -> None:
        """Go on with the first block after `time_s`: the samples before are missing, which is no miss of the cell."""
        steps = int(np.ceil((time_s - self._start_s(self._next)) / self.period_s))
        self._next += max(steps, 0) * self._step

    @property
    def _backoff(self) -> int:
        return SSB_CP * self._fft // (2 * SSB_FFT)

    def _measure_at(self, stretch: Stretch, half_frame: int, start: float) -> SsbMeasurement | None:
        elapsed_s = (half_frame - self._half_frame) * HALF_FRAME_S
        self._cfo.predict(elapsed_s)
        self._timing.predict(elapsed_s)
        self._half_frame = half_frame
        scs_hz, cfo_hz = self.last.scs_hz, self._cfo.value
        with np.errstate(over="ignore", invalid="ignore"):  # samples of absurd size are no block
            pilots, grid = self.grid(stretch, start, cfo_hz)
            there = self._is_there(pilots)
        if not there:
            self.missed += 1
            self._learn_period()
            return None
        left_scs = grid.cfo_left_scs()
        if abs(left_scs) > _MAX_CFO_LEFT_SCS:
            cfo_hz += left_scs * scs_hz
            _, grid = self.grid(stretch, start, cfo_hz)
            left_scs = grid.cfo_left_scs()
        self._since_decoded = (self._since_decoded + 1) % DECODE_EVERY
        found = measurement(
            _turned_back(grid, left_scs),
            self.last.ssb_center_hz,
            scs_hz,
            cfo_hz + left_scs * scs_hz,
            first_sample=round(start * SSB_FFT / self._fft),
            decode=self._since_decoded == 0 or self._mib is None,
            l_max=self.last.l_max,
        )
        found = self._in_its_frame(found, half_frame)
        self._follow(found, half_frame)
        self.timing = frame_timing(found, start / self._rate_hz + found.delay_s, self.case) or self.timing
        return found

    def _in_its_frame(self, found: SsbMeasurement, half_frame: int) -> SsbMeasurement:
        """`found` with the frame number that its PBCH would tell, counted on from the last one that was read."""
        if found.mib is not None:
            self._mib, self._mib_half_frame = found.mib, half_frame
        elif self._mib is not None:
            passed = self._mib.half_frame + half_frame - self._mib_half_frame
            sfn = (self._mib.sfn + passed // 2) % SFN_COUNT
            return with_mib(found, replace(self._mib, sfn=sfn, half_frame=passed % 2))
        return found

    def _follow(self, found: SsbMeasurement, half_frame: int) -> None:
        """Correct both filters by what was measured and how well it could be."""
        snr = 10 ** (found.snr_db / 10)
        spread = (1 / snr + 1 / (2 * snr**2)) / 187
        turn = SSB_FFT / (2 * SSB_SYMBOL) / (2 * np.pi) * self.last.scs_hz
        self._cfo.correct(found.cfo_hz, turn**2 * spread + (1e-3 * self.last.scs_hz) ** 2)
        sample_s = 1.0 / (SSB_FFT * self.last.scs_hz)
        self._timing.correct(self._timing.value + found.delay_s, (0.03 * sample_s) ** 2 + (6 * sample_s) ** 2 * spread)
        self.missed = 0
        self.last = found
        self._hits.append(half_frame)
        self._learn_period()

    def _learn_period(self) -> None:
        """The period is what all gaps between blocks are multiples of, once the longest one must have shown."""
        if self.learning and self._half_frame >= _LEARNING_HALF_FRAMES and len(self._hits) >= _LEARNING_HITS:
            self._knows_period = True
            self._step = gcd(*(later - self._hits[0] for later in self._hits[1:]))
            self._next = self._hits[-1] + self._step
            while self._next <= self._half_frame:
                self._next += self._step
        if len(self._hits) > 4 * _LEARNING_HALF_FRAMES:
            del self._hits[1:-1]

    def grid(self, stretch: Stretch, start: float, cfo_hz: float) -> tuple[npt.NDArray[np.complexfloating], SsbGrid]:
        """Least squares at all pilots [A, 398] and the resource elements of the block that starts at sample `start`.

        `start` counts in the stream and may lie between two samples.
        Scaled as if the block had been cut out at `SSB_FFT` samples a symbol.
        """
        symbol = start + (np.arange(SSB_SYMBOLS) * SSB_SYMBOL + SSB_CP) * (self._fft / SSB_FFT)
        begins = np.floor(symbol).astype(np.int64) - self._backoff
        first = int(begins[0])
        samples = stretch.take(first, int(begins[-1]) + self._fft)
        windows = np.stack([samples[:, begin - first : begin - first + self._fft] for begin in begins], axis=1)
        turn = -(cfo_hz + self._residual_hz) / self._rate_hz
        windows *= _phasor(turn, self._fft)
        spectrum = scipy.fft.fft(windows, axis=2, overwrite_x=True)
        early = (symbol - begins) / self._fft
        steady = np.exp(2j * np.pi * (turn * (begins - symbol[0]) + early * self._first_bin)) * self._phases
        # At usual rates all symbols start equally far between samples, and one ramp does for all.
        alike = np.ptp(early) < 1e-9
        ramp = np.array([_phasor(one, SSB_SUBCARRIERS) for one in (early[:1] if alike else early)])
        elements = spectrum[..., self._places]
        elements *= ramp * (steady * self._scale).astype(np.complex64)[:, None]
        seen = elements[:, *self._places_of_pilots] * self._conjugates
        pilots = seen[:, :_PSS], seen[:, _PSS:_SSS], seen[:, _SSS:_FIRST], seen[:, -_LAST:]
        last = self.last
        return seen, SsbGrid(elements, last.pci, last.index_bar, cfo_hz / last.scs_hz, pilots)

    def _is_there(self, seen: npt.NDArray[np.complexfloating]) -> bool:
        """Whether all pilots [A, 398] together show a short channel that noise would not."""
        power = float(np.vdot(seen, seen).real)
        if not 0 < power < np.inf:
            return False
        taps = seen @ self._taps
        best = float(np.max(np.sum(taps.real**2 + taps.imag**2, axis=0)))
        antennas, pilots = seen.shape
        evidence = beta_evidence(best / (pilots * power), antennas, antennas * (pilots - 1))
        return bool(evidence > np.log(len(DELAYS) / FALSE_PRESENCE))


def supports(rate_hz: float, scs_hz: float) -> bool:
    """Whether blocks can be tracked at this rate: it must be a whole multiple of the spacing."""
    fft = round(rate_hz / scs_hz)
    return fft >= SSB_SUBCARRIERS and abs(fft * scs_hz - rate_hz) <= 1e-6 * scs_hz


def _phasor(turn: float, length: int) -> npt.NDArray[np.complex64]:
    """exp(2 pi j turn n), n < length, by a product of two short ones."""
    fine = np.exp(2j * np.pi * turn * np.arange(_TURN))
    coarse = np.exp(2j * np.pi * turn * _TURN * np.arange(-(-length // _TURN)))
    return np.asarray(np.multiply.outer(coarse, fine).astype(np.complex64).ravel()[:length])


def _turned_back(grid: SsbGrid, left_scs: float) -> SsbGrid:
    """The grid with the little that is left of the frequency offset taken out symbol by symbol."""
    turns = np.exp(-2j * np.pi * left_scs * SSB_SYMBOL / SSB_FFT * np.arange(SSB_SYMBOLS)).astype(np.complex64)
    early, late, first, third = *grid.sync_pair(), *grid.dmrs_pair()
    return SsbGrid(
        grid.elements * turns[:, None],
        grid.pci,
        grid.index_bar,
        grid.cfo_scs + left_scs,
        (early * turns[0], late * turns[2], first * turns[1], third * turns[3]),
    )


def _pilots(
    found: SsbMeasurement,
) -> tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.complex64], npt.NDArray[np.complex64]]:
    """Symbols and subcarriers of PSS, SSS and DMRS, their conjugate values, and what brings them to delays."""
    symbols, places = pilot_places(found.pci % 4)
    sync = np.arange(SSB_SUBCARRIERS)[SYNC]
    symbols = np.concatenate([np.zeros(len(sync), np.int64), symbols])
    places = np.concatenate([sync, places])
    values = np.concatenate([pss(found.pci % 3), pilot_values(found.pci, found.index_bar)])
    taps = np.exp(2j * np.pi / SSB_FFT * np.outer(places, DELAYS))
    return (symbols, places), values.conj().astype(np.complex64), taps.astype(np.complex64)
