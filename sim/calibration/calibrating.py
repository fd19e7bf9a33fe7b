"""One calibration from links to verdict: what is fitted in which order, and whether held-out links are better off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.calibration.links import Division, MeasuredLinks, Phase, divided_by_place, relative_residuals, turned
from sim.calibration.physical import Physical, SiteModel, fit_physical, summed
from sim.calibration.scatterers import NOTHING, Residuals, Scatterers, find_scatterers
from sim.calibration.walls import NO_WALLS, WallGains, fit_walls
from sim.paths import PathTable, merged

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

STAGES = ("before", "materials and pose", "walls", "scatterers")
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
class Correction:
    """What is put right beside materials and pose: gains of walls, and scatterers seen by the array at array_m [3]."""

    walls: WallGains
    scatterers: Scatterers
    array_m: Real
    wavelength_m: float

    def applied(self, table: PathTable, receivers_m: Real) -> PathTable:
        """A table of paths to receivers_m [K, 3] with what is put right."""
        mended = replace(table, gain=table.gain * self.walls.of(table, receivers_m))
        return merged(mended, self.scatterers.table(self.array_m, receivers_m, self.wavelength_m))


@dataclass(frozen=True)
class Calibration:
    """The outcome. residuals: of every link [K], relative to its energy, after each of `STAGES`.

    accepted: whether the held-out links are better off than before, in the mean of all and in the median.
    """

    physical: Physical
    correction: Correction
    division: Division
    residuals: dict[str, Real]
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
    residuals = {STAGES[0]: work.residuals(NO_WALLS, NOTHING)}
    told(STAGES[1])
    physical = fit_physical(model, links, division.fitted, choices.phase)
    fitted = _Work(retraced(physical), links, division, choices.phase)
    residuals[STAGES[1]] = fitted.residuals(NO_WALLS, NOTHING)
    if work.better(residuals[STAGES[1]], residuals[STAGES[0]]):
        work = fitted
    else:
        physical, residuals[STAGES[1]] = model.start, residuals[STAGES[0]]
    told(STAGES[2])
    walls = fit_walls(*work.parts(), links, division.fitted, division.validating, choices.phase)
    residuals[STAGES[2]] = work.residuals(walls, NOTHING)
    told(STAGES[3])
    scatterers = work.scatterers(walls, choices.scatterers)
    residuals[STAGES[3]] = work.residuals(walls, scatterers)
    if not work.better(residuals[STAGES[3]], residuals[STAGES[2]]):
        scatterers, residuals[STAGES[3]] = NOTHING, residuals[STAGES[2]]
    correction = Correction(walls, scatterers, work.array_m, model.site.wavelength_m)
    return Calibration(physical, correction, division, residuals, work.accepted(residuals))


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
        points = scatterers.table(self.array_m, self.links.positions_m, self.model.site.wavelength_m)
        arrays = self.model.arrays(self.model.start.pose)
        return out + summed(points, *arrays.per_path(points, self.links.tones_hz))
