"""How fast the phases between antennas turn, as one transmitter's channels tell: from look to look, with an error bar.

A look is c_a = sum over tones of h_a conj(h_r), r being the reference antenna: the channel's own phase is not in it. Of
a channel that fades while the radio's clocks are locked, c turns back as often as on: over scatterers of uncorrelated
phases E[c(t + lag) conj(c(t))] = |E c|^2 + |r(lag)|^2, with r the fading's autocorrelation, has no phase where the
antennas see the same Doppler spectrum. So the phase of the summed products is the clocks', and how it scatters from
stretch to stretch says how sure that is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_CELLS = 128
_LEAST_PAIRS = 4
_CELL_S = 1.0
"""Products are summed in at most so many cells, of 4 products at first and of a second in the end: what is older than
two minutes is forgotten."""

_BLOCKS = 16
"""Cells are taken together in so many blocks, as long as can be, to see how much the rate scatters: what fades
remembers, and short blocks would not be independent."""

_NEWS = 4
"""Cells between judgements."""

_LAG_TOLERANCE = 0.25
"""Looks whose distance differs more than this from the usual one are not compared."""

_CHANGED = 10.0
"""Standard errors by which the last cells must differ from those before for these to be forgotten."""

_LEAST_ERROR = 1e-6
"""[rad] of the phase per lag: what rounding leaves."""


@dataclass(frozen=True, eq=False)
class Rate:
    """How fast the antennas' phases turn against the reference's. hz [A], error_hz [A]: one standard error.

    span_s: of the looks it comes from. lag_s: between looks; the
    rate is known up to multiples of 1 / lag_s.
    """

    hz: Real
    error_hz: Real
    span_s: float
    lag_s: float


@dataclass
class RateSeries:
    """The products of looks `lag_s` apart, and what they say."""

    lag_s: float
    antennas: int
    _sums: Complex = field(init=False)
    _filled: int = field(default=0, init=False)
    _per_cell: int = field(default=_LEAST_PAIRS, init=False)
    _open_pairs: int = field(default=0, init=False)
    _pairs: int = field(default=0, init=False)
    _lags_s: float = field(default=0.0, init=False)
    _cell_s: float = field(default=0.0, init=False)
    _opened_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._sums = np.zeros((_CELLS, self.antennas), np.complex128)
        self._open: Complex = np.zeros(self.antennas, np.complex128)

    @property
    def is_enough(self) -> bool:
        """Whether `rate` can be told."""
        return self._filled >= _BLOCKS

    def fits(self, lag_s: float) -> bool:
        """Whether looks so far apart may be compared."""
        return abs(lag_s - self.lag_s) <= _LAG_TOLERANCE * self.lag_s

    def add(self, product: Complex, lag_s: float, time_s: float) -> bool:
        """Take in product [A] of two looks. Whether `rate` has news."""
        if self._opened_s is None:
            self._opened_s = time_s - lag_s
        self._open += product
        self._open_pairs += 1
        self._pairs += 1
        self._lags_s += lag_s
        if self._open_pairs < self._per_cell:
            return False
        self._close(time_s)
        return self.is_enough and self._filled % _NEWS == 0

    def _close(self, time_s: float) -> None:
        """End a cell; make room where there is none, by longer cells or by forgetting."""
        assert self._opened_s is not None
        self._sums[self._filled] = self._open
        self._cell_s += (time_s - self._opened_s - self._cell_s) / (self._filled + 1)
        self._filled += 1
        self._open[:] = 0.0
        self._open_pairs = 0
        self._opened_s = time_s
        if self._filled >= 2 * _BLOCKS and self._filled % _NEWS == 0:
            self._forget_what_was_otherwise()
        if self._filled < _CELLS:
            return
        kept = _CELLS // 2
        if self._cell_s < _CELL_S:
            self._sums[:kept] = self._sums[::2] + self._sums[1::2]
            self._per_cell *= 2
            self._cell_s *= 2
        else:
            kept = 3 * _CELLS // 4
            self._sums[:kept] = self._sums[-kept:].copy()
        self._filled = kept

    def _forget_what_was_otherwise(self) -> None:
        """Leave the cells before the last 16 out where those turn at another rate: clocks begin and cease to drift."""
        early, late = self._sums[: self._filled - _BLOCKS], self._sums[self._filled - _BLOCKS : self._filled]
        turn = late.sum(axis=0) * early.sum(axis=0).conj()
        turn /= np.maximum(np.abs(turn), 1e-300)
        towards = early.sum(axis=0)
        towards /= np.maximum(np.abs(towards), 1e-300)
        scatter = (late * (towards * turn).conj()).imag.std(axis=0, ddof=1) * np.sqrt(_BLOCKS)
        error = scatter / np.maximum(np.abs(late.sum(axis=0)), 1e-300) + _LEAST_ERROR
        if np.any(np.abs(np.angle(turn)) > _CHANGED * error):
            self._sums[:_BLOCKS] = late.copy()
            self._filled = _BLOCKS

    def rate(self) -> Rate:
        """What the cells say; there must be `_BLOCKS` of them, as `add` tells."""
        cells = self._sums[: self._filled]
        total = cells.sum(axis=0)
        size = np.maximum(np.abs(total), 1e-300)
        length = self._filled // _BLOCKS
        across = (cells * (total.conj() / size)).imag[-length * _BLOCKS :] * (self._filled / size)
        blocks = across.reshape(_BLOCKS, length, -1).mean(axis=1)
        error = np.maximum(blocks.std(axis=0, ddof=1) / np.sqrt(_BLOCKS), _LEAST_ERROR)
        angle = np.angle(total)
        lag_s = self._lags_s / self._pairs
        per_rad = 1.0 / (2 * np.pi * lag_s)
        return Rate(angle * per_rad, error * per_rad, self._filled * self._cell_s, lag_s)


def joined(coarse: Rate | None, fine: Rate | None) -> Rate | None:
    """One rate of a series with long lags and one with short ones, which tells how often the former went round."""
    if coarse is None or fine is None:
        return coarse or fine
    told = fine.error_hz * coarse.lag_s < 0.1
    rounds = np.where(told, np.round((fine.hz - coarse.hz) * coarse.lag_s), 0.0)
    hz = coarse.hz + rounds / coarse.lag_s
    lag_s = fine.lag_s if bool(np.all(told)) else coarse.lag_s
    return Rate(hz, coarse.error_hz, coarse.span_s, lag_s)
