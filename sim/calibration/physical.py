"""Fits materials and the array's pose: robust Gauss-Newton steps with priors, on derivatives of Sionna RT's fields.

Parameters are unbounded numbers behind which lie physical ones: ln(permittivity - 1), ln(conductivity), angles and
metres. Every one has a Gaussian prior about what the site file says, so that what no link tells stays as it was and
materials cannot run away.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.cached_paths import FieldSettings
from sim.calibration.links import MeasuredLinks, Phase, relative_residuals, turned
from sim.channels import SiteArrays
from sim.paths import PathTable, empty_table
from sim.site import SPEED_OF_LIGHT_M_S, Site

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

METAL_S_M = 1e4
"""What conducts so well reflects all there is, whatever its constants."""

_SIGMA_ANGLE_RAD, _SIGMA_PLACE_M, _SIGMA_MATERIAL = np.radians(3.0), 0.1, 0.7
"""Standard deviations of the priors; materials' in nepers (a factor of two)."""

_MOST_CONSTANT, _LEAST_CONSTANT = 4.0, -12.0
"""Bounds of ln(permittivity - 1) and ln(conductivity [S/m]): permittivity to 55, conductivity to 55 S/m (sea: 5)."""

_ANGLES_RAD = np.radians(np.arange(-10.0, 10.1, 0.5))
_STEP_RAD = 1e-4
_POSE = 5
"""The first parameters."""
_SEARCHED = np.array(
    [(shift, loss) for loss in (0.0, 1.5) for shift in np.linspace(-1.6, 1.6, 25 if loss == 0 else 13)]
)
"""Of the logarithms of a material's constants. A slab of 0.1 m has its next hollow 0.2 off at 3.5 GHz."""
_CLEARLY = 1.0
"""What a search must gain, in nats, lest it wander among equals."""
_LEAST_SPREAD = 1e-6
_NEAR_NOISE = 3.0
_STEPS, _ROUNDS = 12, 3
_ENOUGH = 1e-3
"""A step that lowers the cost by less than this share is the last."""


@dataclass(frozen=True)
class Pose:
    """How far the array's yaw, pitch and place are from what the site file says."""

    yaw_rad: float = 0.0
    pitch_rad: float = 0.0
    place_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Physical:
    """A fitted state: the pose's corrections and materials (permittivity, conductivity [S/m]) by name.

    deviations: of every parameter, in its own unit, after the fit over before; near 1 says that no link told of it.
    """

    pose: Pose
    materials: dict[str, tuple[float, float]]
    deviations: dict[str, float] = field(default_factory=dict)


class Paths(Protocol):
    """Paths whose gains go with materials and the array's angles, as `sim.cached_paths.CachedPaths` has them."""

    materials: tuple[str, ...]
    geometry: PathTable

    @property
    def nominal(self) -> FieldSettings:
        """Everything as it is told."""

    def table(self, settings: FieldSettings) -> PathTable:
        """With the gains under `settings`."""

    def gains(self, settings: FieldSettings, by: tuple[str, ...]) -> tuple[Complex, Complex]:
        """Gains [L] and their derivatives [len(by), L]."""


class SiteModel:
    """Channels of the twin at the links' places, as a function of its physical parameters."""

    def __init__(self, site: Site, paths: Paths, tones_hz: Real, *, plane_waves: bool = False) -> None:
        self.site, self.paths, self.tones_hz, self._plane_waves = site, paths, tones_hz, plane_waves
        nominal = paths.nominal
        self.start = Physical(Pose(), nominal.materials)
        self.fitted = tuple(name for name, (_, sigma) in nominal.materials.items() if sigma < METAL_S_M)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in their order."""
        constants = [f"{what} {name}" for name in self.fitted for what in ("permittivity", "conductivity")]
        return ("yaw", "pitch", "x", "y", "z", *constants)

    def vector(self, state: Physical) -> Real:
        """Parameters of a state [P]."""
        constants = [state.materials[name] for name in self.fitted]
        logs = [(np.log(max(eta - 1, 1e-5)), np.log(max(sigma, 1e-5))) for eta, sigma in constants]
        return np.concatenate([[state.pose.yaw_rad, state.pose.pitch_rad], state.pose.place_m, np.reshape(logs, -1)])

    def state(self, vector: Real) -> Physical:
        """The state of parameters [P], within the bounds of what is physical."""
        logs = np.clip(vector[5:], _LEAST_CONSTANT, _MOST_CONSTANT).reshape(-1, 2)
        told = {name: (1 + float(np.exp(a)), float(np.exp(b))) for name, (a, b) in zip(self.fitted, logs, strict=True)}
        pose = Pose(float(vector[0]), float(vector[1]), (float(vector[2]), float(vector[3]), float(vector[4])))
        return Physical(pose, {**self.start.materials, **told})

    def table(self, state: Physical) -> PathTable:
        """The twin's paths in a state; lengths go with the array's place."""
        return self._moved(self.paths.table(self._settings(state)), state.pose)

    def arrays(self, pose: Pose) -> SiteArrays:
        """The base station's array in a pose."""
        bs = self.site.bs.model_copy(update=turned_angles(self.site, pose))
        site = self.site.model_copy(update={"bs": bs, "ris": None})
        return SiteArrays(site, empty_table(1), plane_waves=self._plane_waves)

    def channels(self, state: Physical) -> Complex:
        """[K, N, S] of all links."""
        table = self.table(state)
        return summed(table, *self.arrays(state.pose).per_path(table, self.tones_hz))

    def derivatives(self, state: Physical) -> tuple[Complex, Complex]:
        """Channels [K, N, S], and their derivatives by every parameter [P, K, N, S]."""
        by = tuple(name for name in self.names if name not in ("x", "y", "z"))
        gain, slopes = self.paths.gains(self._settings(state), by)
        table = replace(self._moved(self.paths.geometry, state.pose), gain=gain)
        phases, tones = self.arrays(state.pose).per_path(table, self.tones_hz)
        per_gain = tones / np.where(gain == 0, 1.0, gain)[:, None]
        columns: list[Complex] = []
        wave = 2 * np.pi * (self.site.carrier_hz + self.tones_hz) / SPEED_OF_LIGHT_M_S
        for name, slope in zip(by, slopes, strict=True):
            column = summed(table, phases, slope[:, None] * per_gain)
            if name in ("yaw", "pitch"):
                turn = self._phase_slope(table, state.pose, name)
                column = column + summed(table, turn, tones)
            columns.append(column * self._chain(name, state))
        places = [summed(table, phases, 1j * table.departure[:, [axis]] * wave * tones) for axis in range(3)]
        return summed(table, phases, tones), np.stack([*columns[:2], *places, *columns[2:]])

    def _chain(self, name: str, state: Physical) -> float:
        """d(physical) / d(parameter)."""
        what, _, material = name.partition(" ")
        if what == "permittivity":
            return state.materials[material][0] - 1
        return state.materials[material][1] if what == "conductivity" else 1.0

    def _phase_slope(self, table: PathTable, pose: Pose, name: str) -> Complex:
        """Derivative of the antennas' phases [L, N] by an angle."""
        ends = []
        for step in (_STEP_RAD, -_STEP_RAD):
            yaw, pitch = pose.yaw_rad + step * (name == "yaw"), pose.pitch_rad + step * (name == "pitch")
            ends.append(self.arrays(Pose(yaw, pitch, pose.place_m)).per_path(table, self.tones_hz[:1])[0])
        return np.asarray((ends[0] - ends[1]) / (2 * _STEP_RAD))

    def _settings(self, state: Physical) -> FieldSettings:
        angles = turned_angles(self.site, state.pose)
        return FieldSettings(angles["yaw_deg"], angles["pitch_deg"], state.materials)

    def _moved(self, table: PathTable, pose: Pose) -> PathTable:
        return replace(table, length_m=table.length_m - table.departure @ np.array(pose.place_m))


def turned_angles(site: Site, pose: Pose) -> dict[str, float]:
    """yaw_deg and pitch_deg of the site's array in a pose."""
    bs = site.bs
    yaw, pitch = bs.yaw_deg + np.degrees(pose.yaw_rad), bs.pitch_deg + np.degrees(pose.pitch_rad)
    return {"yaw_deg": float(yaw), "pitch_deg": float(pitch)}


def summed(table: PathTable, phases: Complex, tones: Complex) -> Complex:
    """Channels [K, N, S] of links whose paths have antennas' phases [L, N] and coefficients [L, S]."""
    out = np.zeros((table.links, phases.shape[1], tones.shape[1]), np.complex128)
    for link in range(table.links):
        rows = table.rows(link)
        out[link] = phases[rows].T @ tones[rows]
    return out


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
    for turn in range(_ROUNDS):
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
        for first in range(_POSE, len(vector), 2):
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
    most = np.concatenate([[0.5, 0.5, 1.0, 1.0, 1.0], np.full(count - 5, _MOST_CONSTANT)])
    return np.concatenate([-most[:5], np.full(count - 5, _LEAST_CONSTANT)]), most


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
