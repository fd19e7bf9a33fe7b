"""One calibration from links to verdict: what is fitted in which order, and whether held-out links are better off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.calibration.correction import Correction
from sim.calibration.links import (
    Division,
    MeasuredLinks,
    Phase,
    aligned_residuals,
    divided_by_place,
    relative_residuals,
    turned,
)
from sim.calibration.physical import fit_physical
from sim.calibration.scatterer_fit import Residuals
from sim.calibration.scatterer_search import find_scatterers
from sim.calibration.scatterers import NOTHING, Scatterers
from sim.calibration.site_model import Physical, SiteModel, summed
from sim.calibration.walls import NO_WALLS, WallGains, fit_walls
from sim.paths import PathTable

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

STAGES = ("before", "materials and pose", "walls", "scatterers")
_TURNS = 2
"""Materials and scatterers are fitted in turn."""

_FEWEST_TONES = 8
"""Without a bandwidth no delay is known, and without delays no scatterer is found."""


@dataclass(frozen=True)
class Choices:
    """How to calibrate. square_m: side of the squares by which links are divided; scatterers: the most of them."""

    phase: Phase = "free"
    square_m: float = 10.0
    scatterers: int = 40
    seed: int = 1


@dataclass(frozen=True)
class Calibration:
    """The outcome. residuals: of every link [K], relative to its energy, after each of `STAGES`.

    shapes: the same before and after where each prediction is first scaled to the measurement.
    accepted: whether the held-out links are better off than before, in the mean of all and in the median.
    """

    physical: Physical
    correction: Correction
    division: Division
    residuals: dict[str, Real]
    shapes: dict[str, Real]
    accepted: bool

    @property
    def after(self) -> Real:
        """Residuals of the last stage [K]."""
        return self.residuals[STAGES[-1]]


def calibrate(
    model: SiteModel,
    links: MeasuredLinks,
    choices: Choices,
    retraced: Callable[[Physical], SiteModel],
    told: Callable[[str], None] = lambda stage: None,
) -> Calibration:
    """Fit the model to the links. retraced: the model whose site is in a fitted state. told(stage): before each stage.

    A stage that does not help the links that validate is left out; the held-out ones are looked at once, at the end.
    Raises `InputRefused` where the links lie in too few places.
    """
    division = divided_by_place(links.positions_m, square_m=choices.square_m, seed=choices.seed)
    work = _Work(model, links, division, choices.phase)
    before, shape = work.residuals(NO_WALLS, NOTHING), work.shapes(NO_WALLS, NOTHING)
    fit, less = None, links
    for turn in range(_TURNS):
        told(STAGES[1])
        start = None if fit is None else fit.physical
        physical = fit_physical(model, less, division.fitted, choices.phase, start)
        now = _fitted(work, before, physical, retraced(physical), choices, told)
        if fit is not None and not work.better(now.residuals[STAGES[-1]], fit.residuals[STAGES[-1]]):
            break
        fit = now
        if not fit.scatterers.points or turn == _TURNS - 1:
            break
        # What scatterers explain would draw materials to where they explain it instead.
        less = fit.work.without_scatterers(fit.walls, fit.scatterers)
    assert fit is not None
    shapes = {STAGES[0]: shape, STAGES[-1]: fit.work.shapes(fit.walls, fit.scatterers)}
    correction = Correction(fit.walls, fit.scatterers, fit.work.array_m, model.site.wavelength_m)
    accepted = work.accepted(fit.residuals)
    return Calibration(fit.physical, correction, division, fit.residuals, shapes, accepted)


@dataclass(frozen=True)
class _Fit:
    """All that one turn finds. work: of the model in the state that was found."""

    work: _Work
    physical: Physical
    walls: WallGains
    scatterers: Scatterers
    residuals: dict[str, Real]


def _fitted(
    before: _Work, unfitted: Real, physical: Physical, model: SiteModel, choices: Choices, told: Callable[[str], None]
) -> _Fit:
    """Walls and scatterers on top of a physical state, each where it helps the links that validate."""
    residuals = {STAGES[0]: unfitted}
    work = _Work(model, before.links, before.division, before.phase)
    residuals[STAGES[1]] = work.residuals(NO_WALLS, NOTHING)
    if not work.better(residuals[STAGES[1]], residuals[STAGES[0]]):
        work, physical, residuals[STAGES[1]] = before, before.model.start, residuals[STAGES[0]]
    told(STAGES[2])
    division = before.division
    walls = fit_walls(*work.parts(), before.links, division.fitted, division.validating, before.phase)
    residuals[STAGES[2]] = work.residuals(walls, NOTHING)
    told(STAGES[3])
    scatterers = work.scatterers(walls, choices.scatterers)
    residuals[STAGES[3]] = work.residuals(walls, scatterers)
    if not work.better(residuals[STAGES[3]], residuals[STAGES[2]]):
        scatterers, residuals[STAGES[3]] = NOTHING, residuals[STAGES[2]]
    return _Fit(work, physical, walls, scatterers, residuals)


@dataclass
class _Work:
    """A model in its start's state, and the links that it is judged by."""

    model: SiteModel
    links: MeasuredLinks
    division: Division
    phase: Phase

    @property
    def array_m(self) -> Real:
        return np.array(self.model.site.bs.position_m, np.float64)

    def parts(self) -> tuple[PathTable, tuple[Complex, Complex]]:
        """The twin's paths, and antennas' phases [L, N] and coefficients [L, S] of each."""
        table = self.model.table(self.model.start)
        return table, self.model.arrays(self.model.start.pose).per_path(table, self.links.tones_hz)

    def residuals(self, walls: WallGains, scatterers: Scatterers) -> Real:
        return relative_residuals(self.links, self._predicted(walls, scatterers), self.phase)

    def shapes(self, walls: WallGains, scatterers: Scatterers) -> Real:
        return aligned_residuals(self.links, self._predicted(walls, scatterers))

    def scatterers(self, walls: WallGains, most: int) -> Scatterers:
        """What is found in what is left of the links that are fitted."""
        if most == 0 or len(self.links.tones_hz) < _FEWEST_TONES:
            return NOTHING
        predicted = self._predicted(walls, NOTHING)
        left = turned(self.links.cfr, predicted, self.phase) - predicted
        all_left = Residuals(self.links.positions_m, left, self.links.tones_hz)
        fitted, validating = all_left.chosen(self.division.fitted), all_left.chosen(self.division.validating)
        arrays = self.model.arrays(self.model.start.pose)
        return find_scatterers(fitted, validating, arrays, self.array_m, most=most)

    def without_scatterers(self, walls: WallGains, scatterers: Scatterers) -> MeasuredLinks:
        """The links less what scatterers give them; their phases are those of the model from now on."""
        measured = turned(self.links.cfr, self._predicted(walls, scatterers), self.phase)
        return replace(self.links, cfr=measured - self._scattered(scatterers))

    def better(self, found: Real, before: Real) -> bool:
        """Whether the links that validate are better off; none counts for more than all its energy."""
        kept = self.division.validating
        return bool(np.mean(np.minimum(found[kept], 1.0)) < np.mean(np.minimum(before[kept], 1.0)))

    def accepted(self, residuals: dict[str, Real]) -> bool:
        """Whether held-out links are better off, together and in the median."""
        kept = self.division.held_out
        before, after, power = residuals[STAGES[0]][kept], residuals[STAGES[-1]][kept], self.links.power[kept]
        return bool(np.sum(after * power) < np.sum(before * power) and np.median(after) < np.median(before))

    def _predicted(self, walls: WallGains, scatterers: Scatterers) -> Complex:
        """Channels [K, N, S]."""
        table, (phases, tones) = self.parts()
        out = summed(table, phases, tones * walls.of(table, self.links.positions_m)[:, None])
        return out + self._scattered(scatterers)

    def _scattered(self, scatterers: Scatterers) -> Complex:
        points = scatterers.table(self.array_m, self.links.positions_m, self.model.site.wavelength_m)
        return summed(points, *self.model.arrays(self.model.start.pose).per_path(points, self.links.tones_hz))
