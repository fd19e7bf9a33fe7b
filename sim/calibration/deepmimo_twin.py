"""A twin that is a DeepMIMO scenario: traced by others, so that only the array's pose and gains of walls can be fitted.

Its paths become a `PathTable` of a site made for it, from antennas in this project's order: row by row from the top,
which is DeepMIMO's order backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame
from ingest.sources.deepmimo import DeepMimoSource
from sim.cached_paths import FieldSettings
from sim.calibration.site_model import Physical, SiteModel
from sim.paths import SPECULAR, PathTable
from sim.site import SPEED_OF_LIGHT_M_S, Site

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_SAME_PLACE_M = 0.01


class FixedPaths:
    """Paths [L] whose gains nothing changes; else as `sim.cached_paths.CachedPaths`."""

    materials: tuple[str, ...] = ()

    def __init__(self, table: PathTable, yaw_deg: float, pitch_deg: float) -> None:
        self.geometry = table
        self._angles_deg = yaw_deg, pitch_deg

    @property
    def nominal(self) -> FieldSettings:
        """The array's angles as they are told."""
        return FieldSettings(*self._angles_deg, {})

    def table(self, settings: FieldSettings) -> PathTable:
        """The paths."""
        return self.geometry

    def gains(self, settings: FieldSettings, by: tuple[str, ...]) -> tuple[Complex, Complex]:
        """Gains [L], and derivatives [len(by), L] of zero."""
        return self.geometry.gain, np.zeros((len(by), self.geometry.paths), np.complex128)


def in_our_order(frames: Iterable[ChannelFrame]) -> Iterator[ChannelFrame]:
    """Frames of a DeepMIMO scenario with antennas in this project's order."""
    for frame in frames:
        yield msgspec.structs.replace(frame, cfr=frame.cfr[:, ::-1])


def scenario_site(scenario: DeepMimoSource, name: str) -> Site:
    """A site with the scenario's array; raises `InputRefused` where the file does not say where the array stands."""
    about_x, about_y, about_z = scenario.array.rotation_deg
    if scenario.transmitter_m is None or scenario.carrier_hz is None:
        mend = "the scenario's own files, params.mat beside them"
        raise InputRefused("no place of the transmitter or no carrier", where=scenario.info.where, mend=mend)
    if about_x:
        raise InputRefused("an array turned about x", where=scenario.info.where, mend="rotation=0,…")
    horizontal, vertical = scenario.array.shape
    low, high = scenario.places_m.min(axis=0), scenario.places_m.max(axis=0)
    bs = {"position_m": scenario.transmitter_m.tolist(), "yaw_deg": about_z, "pitch_deg": about_y, "rows": vertical}
    bs |= {"columns": horizontal, "spacing_wavelengths": scenario.array.spacing, "pattern": "iso"}
    size_m = np.maximum(high[:2] - low[:2], 1.0)
    users = {"corner_m": low[:2].tolist(), "size_m": size_m.tolist(), "height_m": float(high[2])}
    users["spacing_m"] = float(max(size_m) / 100)
    told = {"name": name, "scene": "deepmimo", "carrier_hz": scenario.carrier_hz, "bs": bs, "users": users}
    return Site.model_validate(told)


def scenario_model(scenario: DeepMimoSource, site: Site, positions_m: Real, tones_hz: Real) -> SiteModel:
    """The scenario's channels at positions_m [K, 3], each of which has to be a place of a user of it."""
    away_m, users = cKDTree(scenario.places_m).query(positions_m)
    if np.max(away_m) > _SAME_PLACE_M:
        what = f"a link {np.max(away_m):.2g} m from the next user of the twin"
        raise InputRefused(what, where=scenario.info.where, mend="two scenarios of the same grid of users")
    tables = [_columns(scenario, site, int(user)) for user in users]
    counts = [len(table["gain"]) for table in tables]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    paths = FixedPaths(PathTable(offsets=offsets, **columns), site.bs.yaw_deg, site.bs.pitch_deg)
    return SiteModel(site, paths, tones_hz, plane_waves=True)


def moved(model: SiteModel, found: Physical, site: Site) -> SiteModel:
    """A scenario's model in a fitted state, whose `site` it is: lengths go with the array's place."""
    table = model.paths.geometry
    table = replace(table, length_m=table.length_m - table.departure @ np.array(found.pose.place_m))
    return SiteModel(site, FixedPaths(table, site.bs.yaw_deg, site.bs.pitch_deg), model.tones_hz, plane_waves=True)


def _columns(scenario: DeepMimoSource, site: Site, user: int) -> dict[str, npt.NDArray[Any]]:
    """A user's paths as a `PathTable` has them. DeepMIMO's phases hold the carrier's turns and count from a corner."""
    paths = scenario.paths_of(user)
    paths = np.zeros((8, 0)) if paths is None else paths
    delay_s = paths[1]
    departure, arrival = _unit(paths[5], paths[6]), _unit(paths[3], paths[4])
    own = departure @ site.bs.rotation()
    corner = (site.bs.columns - 1) / 2 * own[:, 1] + (site.bs.rows - 1) / 2 * own[:, 2]
    at_dc = replace(scenario.ofdm, tones=np.zeros(1, np.int64)).response(paths, scenario.gain_db)[:, 0]
    turns = scenario.carrier_hz * delay_s + site.bs.spacing_wavelengths * corner
    length_m = np.maximum(delay_s * SPEED_OF_LIGHT_M_S, 1e-3)
    return {
        "gain": at_dc * np.exp(2j * np.pi * turns),
        "length_m": length_m,
        "departure": departure,
        "arrival": arrival,
        "kind": np.where(paths[7] > 0, 0, SPECULAR).astype(np.uint8),
        "reach_m": length_m,
        "mirror": np.zeros((len(length_m), 3, 3)),
    }


def _unit(azimuth_deg: Real, zenith_deg: Real) -> Real:
    """Unit vectors [L, 3]."""
    azimuth, zenith = np.radians(azimuth_deg), np.radians(zenith_deg)
    flat = np.sin(zenith)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.cos(zenith)], axis=-1)
