"""Fits materials and the array's pose: robust Gauss-Newton steps with priors, on derivatives of Sionna RT's fields.

Every parameter has a Gaussian prior about what the site file says, so that what no link tells stays as it was and
materials cannot run away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.calibration.links import MeasuredLinks, Phase, relative_residuals, turned
from sim.calibration.site_model import LEAST_LOG, MOST_LOG, POSE, Physical, Pose, SiteModel, summed

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_SIGMA_ANGLE_RAD, _SIGMA_PLACE_M, _SIGMA_MATERIAL = np.radians(3.0), 0.1, 0.7
"""Standard deviations of the priors; materials' in nepers (a factor of two)."""

_ANGLES_RAD = np.radians(np.arange(-10.0, 10.1, 0.5))
_SEARCHED = np.array(
    [(shift, loss) for loss in (0.0, 1.5) for shift in np.linspace(-1.6, 1.6, 25 if loss == 0 else 13)]
)
"""Of the logarithms of a material's constants. A slab of 0.1 m has its next hollow 0.2 off at 3.5 GHz."""
_CLEARLY = 1.0
"""What a search must gain, in nats, lest it wander among equals."""
_LEAST_SPREAD = 1e-6
_NEAR_NOISE = 3.0
_STEPS, _ROUNDS = 10, 2
_ENOUGH = 3e-3
"""A step that lowers the cost by less than this share is the last."""


def fit_physical(
    model: SiteModel,
    links: MeasuredLinks,
    kept: npt.NDArray[np.bool_],
    phase: Phase,
    start: Physical | None = None,
) -> Physical:
    """The state that explains the `kept` [K] links best; start: where to begin, None for the site file's state.

    Derivatives only lead to the next hollow, so yaw is searched first, over 10 degrees to both sides (beyond a beam's
    width antennas fall out of step), and each material's constants over what they may be: a wall is a slab, and what
    it reflects goes up and down with its permittivity.
    """
    fit = _Fit(model, links.chosen(kept), kept, phase)
    vector = fit.nearest_yaw() if start is None else model.vector(start)
    for turn in range(_ROUNDS if start is None else 1):
        searched = fit.searched_materials(vector)
        if turn and np.array_equal(searched, vector):
            break
        vector = fit.descended(searched)
        if fit.at_noise(vector):
            break
    found = model.state(vector)
    return Physical(found.pose, found.materials, fit.deviations())


class _Fit:
    """One fit to `links`, the `kept` ones of those that the model is of."""

    def __init__(self, model: SiteModel, links: MeasuredLinks, kept: npt.NDArray[np.bool_], phase: Phase) -> None:
        self.model, self.links, self.kept, self.phase = model, links, kept, phase
        self.sigmas = np.array([_sigma(name) for name in model.names])
        self.prior = model.vector(model.start)
        self.information = np.diag(self.sigmas**-2.0)

    def descended(self, vector: Real) -> Real:
        """Levenberg and Marquardt's steps from `vector` [P], links weighted anew before each."""
        damping = 1e-3
        for _ in range(_STEPS):
            predicted, slopes = self.model.derivatives(self.model.state(vector))
            predicted, slopes = predicted[self.kept], slopes[:, self.kept]
            residuals = relative_residuals(self.links, predicted, self.phase)
            spread = max(float(np.median(residuals)), _LEAST_SPREAD)
            weights = 1.0 / (1.0 + residuals / spread) / (self.links.power * spread)
            gradient, curvature = _normal(self.links, predicted, slopes, weights, self.phase)
            self.information = curvature + np.diag(self.sigmas**-2.0)
            pull = gradient - (vector - self.prior) / self.sigmas**2
            cost = self._cost(residuals, spread, vector)
            for _ in range(8):
                scaled = self.information + damping * np.diag(np.diag(self.information))
                tried = np.clip(vector + np.linalg.solve(scaled, pull), *_bounds(len(vector)))
                new = self._cost(self._residuals(tried), spread, tried)
                if new < cost:
                    break
                damping *= 6
            else:
                break
            vector, damping = tried, max(damping / 5, 1e-6)
            if cost - new < _ENOUGH * max(cost, 1.0):
                break
        return vector

    def nearest_yaw(self) -> Real:
        """The start with the yaw under which most links fit; the element's own pattern is left as it is."""
        model = self.model
        table, best, least = model.table(model.start), 0.0, np.inf
        for yaw_rad in _ANGLES_RAD:
            phases, tones = model.arrays(Pose(yaw_rad=float(yaw_rad))).per_path(table, model.tones_hz)
            predicted = summed(table, phases, tones)[self.kept]
            cost = float(np.mean(np.minimum(relative_residuals(self.links, predicted, self.phase), 1.0)))
            if cost < least:
                best, least = float(yaw_rad), cost
        return model.vector(Physical(Pose(yaw_rad=best), model.start.materials))

    def searched_materials(self, vector: Real) -> Real:
        """`vector` with each material's constants where links fit best, one material after another."""
        vector = vector.copy()
        residuals = self._residuals(vector)
        spread = max(float(np.median(residuals)), _LEAST_SPREAD)
        least = self._cost(residuals, spread, vector)
        for first in range(POSE, len(vector), 2):
            pair, start = slice(first, first + 2), self.prior[first : first + 2]
            for shift in _SEARCHED:
                tried = np.clip(_with(vector, pair, start + shift), *_bounds(len(vector)))
                cost = self._cost(self._residuals(tried), spread, tried)
                if cost < least - _CLEARLY:
                    vector, least = tried, cost
        return vector

    def at_noise(self, vector: Real) -> bool:
        """Whether half the links are explained down to about their noise."""
        samples = self.links.cfr.shape[1] * self.links.cfr.shape[2]
        floor = self.links.noise_power * samples / self.links.power
        return bool(np.median(self._residuals(vector)) < _NEAR_NOISE * np.median(floor))

    def deviations(self) -> dict[str, float]:
        """Of the parameters after the fit, over those of the priors."""
        after = np.sqrt(np.diag(np.linalg.inv(self.information)))
        return {name: float(ratio) for name, ratio in zip(self.model.names, after / self.sigmas, strict=True)}

    def _residuals(self, vector: Real) -> Real:
        return relative_residuals(self.links, self.model.channels(self.model.state(vector))[self.kept], self.phase)

    def _cost(self, residuals: Real, spread: float, vector: Real) -> float:
        """Cauchy's: a link that no state explains, as where its position is wrong, counts for little."""
        away = (vector - self.prior) / self.sigmas
        return float(np.sum(np.log1p(residuals / spread)) + 0.5 * np.sum(away**2))


def _with(vector: Real, where: slice, values: npt.ArrayLike) -> Real:
    changed = vector.copy()
    changed[where] = values
    return changed


def _sigma(name: str) -> float:
    if name in ("yaw", "pitch"):
        return float(_SIGMA_ANGLE_RAD)
    return _SIGMA_PLACE_M if name in ("x", "y", "z") else _SIGMA_MATERIAL


def _bounds(count: int) -> tuple[Real, Real]:
    """Least and most of all parameters."""
    most = np.concatenate([[0.5, 0.5, 1.0, 1.0, 1.0], np.full(count - 5, MOST_LOG)])
    return np.concatenate([-most[:5], np.full(count - 5, LEAST_LOG)]), most


def _normal(
    links: MeasuredLinks, predicted: Complex, slopes: Complex, weights: Real, phase: Phase
) -> tuple[Real, Real]:
    """Gradient [P] and curvature [P, P] of the weighted fit; where phases are free, motion along them is taken out."""
    difference = turned(links.cfr, predicted, phase) - predicted
    count = len(slopes)
    gradient, curvature = np.zeros(count), np.zeros((count, count))
    for link, weight in enumerate(weights):
        rows = slopes[:, link].reshape(count, -1)
        if phase == "free":
            along = 1j * predicted[link].reshape(-1)
            energy = np.vdot(along, along).real
            if energy > 0:
                rows = rows - np.real(rows @ np.conj(along))[:, None] * along / energy
        gradient += weight * np.real(np.conj(rows) @ difference[link].reshape(-1))
        curvature += weight * np.real(np.conj(rows) @ rows.T)
    return gradient, curvature
