"""Where in time and frequency there is something that could hold pilots, the likeliest places first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.nr.reference_evidence import Layout

MIN_BINS = 48
MAX_BINS = 432
"""36 resource blocks: more pilots make a decoder's work longer and no surer."""

_SMOOTH = 24
_ABOVE_FLOOR = 1.6
"""Mean power over `_SMOOTH` bins of noise exceeds its own mean by this with probability 0.3 % a place."""

_LEVELS_BELOW_PEAK = (0.5, 0.1, 0.01)


@dataclass(frozen=True)
class Window:
    """Bins [low, high) of one symbol's transform. row: the symbol's row in the capture's spectra."""

    row: int
    low: int
    high: int

    @property
    def bins(self) -> int:
        return self.high - self.low


@dataclass(frozen=True)
class Trial:
    """A window and how pilots may lie in it: the first one at bin `first`. score: ln of the comb's contrast."""

    window: Window
    layout: Layout
    first: int
    score: float


def noise_floor(power: npt.NDArray[np.float64]) -> float:
    """Power of a bin without signal, from power [Q, N]: the lower tenth of what is not exactly silent."""
    smooth = smoothed(power)
    audible = smooth[smooth > 1e-9 * max(float(smooth.max()), 1e-300)]
    return float(np.quantile(audible, 0.1)) if len(audible) else 0.0


def windows(power: npt.NDArray[np.float64], floor: float) -> list[Window]:
    """Runs of bins above the floor, and above fractions of each symbol's peak: users differ in power."""
    smooth = smoothed(power)
    found: list[Window] = []
    for row, levels in enumerate(smooth):
        peak = float(levels.max())
        thresholds = [_ABOVE_FLOOR * floor] + [share * peak for share in _LEVELS_BELOW_PEAK]
        kept: list[Window] = []
        for threshold in thresholds:
            if threshold < _ABOVE_FLOOR * floor:
                continue
            for window in _runs(levels > threshold, row):
                if not any(_alike(window, other) for other in kept):
                    kept.append(window)
        found += kept
    return found


def trials(power: npt.NDArray[np.float64], found: list[Window], layouts: tuple[Layout, ...]) -> list[Trial]:
    """Every way in which pilots may lie in the windows, the best contrast first, without the plainly empty combs."""
    listed: list[Trial] = []
    for window in found:
        levels = power[window.row, window.low : window.high]
        for layout in layouts:
            whole = len(levels) // layout.period * layout.period
            per_place = levels[:whole].reshape(-1, layout.period).mean(axis=0) + 1e-30
            for first in range(layout.period):
                on = (first + np.arange(layout.in_period)) % layout.period
                rest = (per_place.sum() - per_place[on].sum()) / (layout.period - layout.in_period)
                score = float(np.log(per_place[on].min() / rest))
                if score > -0.7:
                    listed.append(Trial(window, layout, window.low + first, score))
    return sorted(listed, key=_promise)


def _promise(trial: Trial) -> float:
    """Lower is tried earlier. An empty neighbouring comb is a strong sign; a long window makes it sure."""
    return -trial.score * float(np.sqrt(trial.window.bins))


def smoothed(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = np.cumsum(np.pad(power, ((0, 0), (_SMOOTH // 2 + 1, _SMOOTH - _SMOOTH // 2 - 1)), mode="edge"), axis=1)
    total = np.concatenate([total, total[:, -1:]], axis=1)
    return np.asarray((total[:, _SMOOTH:] - total[:, :-_SMOOTH])[:, : power.shape[1]] / _SMOOTH)


def _runs(above: npt.NDArray[np.bool_], row: int) -> list[Window]:
    """Windows over the runs of True, long ones cut in pieces that overlap by half."""
    found: list[Window] = []
    for low, high in runs(above):
        pieces = max(1, int(np.ceil((high - low - MAX_BINS) / (MAX_BINS / 2))) + 1) if high - low > MAX_BINS else 1
        width = min(high - low, MAX_BINS)
        for piece in range(pieces):
            start = low + (high - low - width) * piece // max(pieces - 1, 1)
            found.append(Window(row, start, start + width))
    return found


def runs(above: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[low, high) of each run of at least MIN_BINS times True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]]).astype(np.int8)))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(low, high) for low, high in pairs if high - low >= MIN_BINS]


def _alike(one: Window, other: Window) -> bool:
    overlap = min(one.high, other.high) - max(one.low, other.low)
    return overlap > 0.85 * max(one.bins, other.bins)
