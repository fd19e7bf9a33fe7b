"""Channels of a twin at measured places, as a function of what can be wrong with it: its array's pose, its materials.

Parameters are unbounded numbers behind which lie physical ones: ln(permittivity - 1), ln(conductivity), angles and
metres. Derivatives are Sionna RT's of the fields, and in closed form or by differences of the array's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.cached_paths import FieldSettings
from sim.channels import SiteArrays
from sim.paths import PathTable, empty_table
from sim.site import SPEED_OF_LIGHT_M_S, Site

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

METAL_S_M = 1e4
"""What conducts so well reflects all there is, whatever its constants."""

LEAST_LOG, MOST_LOG = -12.0, 4.0
"""Bounds of ln(permittivity - 1) and ln(conductivity [S/m]): permittivity to 55, conductivity to 55 S/m (sea: 5)."""

POSE = 5
"""The first parameters are the pose's."""

_STEP_RAD = 1e-4


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
        logs = np.clip(vector[5:], LEAST_LOG, MOST_LOG).reshape(-1, 2)
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
