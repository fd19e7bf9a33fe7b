"""The site from above, for the live page: what its bundle knows, told once as JSON and drawn by the page itself.

A bundle holds no buildings. Where the user area has grid points that are not outdoors, something stands on them: these
are told beside the traced points, and show streets as a map does.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from sim.channels import SiteChannels
from sim.site import BaseStation, Mount, Panel

NO_PLAN = b"null"

_MOST_POINTS = 20_000
"""Of more, an even part is told."""

_SAME_M = 1e-3
_HALF_POWER_DEG = 65.0
"""Width of a tr38901 element's beam (3GPP TR 38.901, table 7.3-1)."""


def site_plan(channels: SiteChannels | None, zone_m: float | None) -> bytes:
    """What the page draws of a site; `null` where there is none. zone_m: side of its square zones, if it has any."""
    if channels is None:
        return NO_PLAN
    bundle = channels.bundle
    site = bundle.site
    kept = np.arange(0, len(bundle.positions_m), -(-len(bundle.positions_m) // _MOST_POINTS))
    shown: dict[str, Any] = {
        "name": site.name,
        "scene": site.scene,
        "carrier_hz": site.carrier_hz,
        "spacing_m": site.users.spacing_m,
        "points_m": np.round(bundle.positions_m[kept, :2], 2).tolist(),
        "gain_db": [None if np.isnan(gain) else round(float(gain), 1) for gain in _gains_db(channels)[kept]],
        "indoors_m": np.round(_indoors(site.users.grid_m(), bundle.positions_m), 2).tolist(),
        "bs": _mount(site.bs) | {"width_deg": _width_deg(site.bs)},
        "ris": None if site.ris is None else _mount(site.ris) | {"width_m": _width_m(site.ris, site.wavelength_m)},
        "zone_m": zone_m,
    }
    return msgspec.json.encode(shown)


def _gains_db(channels: SiteChannels) -> npt.NDArray[np.float64]:
    """Path gain [P] from one antenna to every position, powers of all paths added up; NaN where none leads."""
    table = channels.bundle.bs_user
    sums = np.concatenate([[0.0], np.cumsum(np.abs(table.gain) ** 2)])
    power = np.diff(sums[table.offsets])
    found = np.diff(table.offsets) > 0
    return np.asarray(10 * np.log10(np.where(found & (power > 0), power, np.nan)))


def _indoors(grid_m: npt.NDArray[np.float64], outdoors_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points (x, y) of the grid that were not traced, since something stands there."""
    outside = {tuple(place) for place in np.round(outdoors_m[:, :2] / _SAME_M).astype(np.int64).tolist()}
    cells = np.round(grid_m[:, :2] / _SAME_M).astype(np.int64).tolist()
    return grid_m[[tuple(cell) not in outside for cell in cells], :2][:_MOST_POINTS]


def _mount(mount: Mount) -> dict[str, Any]:
    return {"position_m": list(mount.position_m), "yaw_deg": mount.yaw_deg}


def _width_deg(station: BaseStation) -> float:
    """The opening angle that is drawn: the field of view, or the element's beam where that is narrower."""
    return min(station.field_of_view_deg, _HALF_POWER_DEG if station.pattern == "tr38901" else 360.0)


def _width_m(panel: Panel, wavelength_m: float) -> float:
    return panel.columns * panel.spacing_wavelengths * wavelength_m
