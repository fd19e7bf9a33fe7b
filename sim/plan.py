"""Draws a site from above with matplotlib: roofs by height, walls, arrays and where they look, users and zones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.fidelity.knobs import Tree
from sim.meshes import Mesh
from sim.site import BaseStation, Mount, Ris, Site

Real = npt.NDArray[np.float64]

_GROUND_M = 0.5
"""What is no higher than this over the lowest place is ground."""

_UPWARDS, _UPRIGHT = 0.3, 0.2
_BS_COLOUR, _RIS_COLOUR, _ZONE_COLOUR, _TREE_COLOUR = "firebrick", "royalblue", "darkorange", "forestgreen"
_HALF_POWER_DEG = 32.5
"""Half the width of a tr38901 element's beam (3GPP TR 38.901, table 7.3-1: 65 degrees at 3 dB)."""


def draw_plan(
    axes: Any,
    site: Site,
    meshes: Sequence[Mesh],
    users_m: Real,
    values_db: Real | None,
    zone_m: float,
    title: str,
    *,
    small: bool = False,
) -> None:
    """The site on matplotlib `axes`. values_db [P] colours the users [P, 3]; NaN is shown as no path."""
    low, high = _view(site, users_m)
    _draw_buildings(axes, meshes, low, high, bar=not small)
    if zone_m:
        _draw_zones(axes, users_m, zone_m)
    _draw_users(axes, users_m, values_db, float(np.max(high - low)), small)
    reach_m = 0.13 * float(np.max(high - low))
    _draw_base_station(axes, site.bs, reach_m)
    if site.ris is not None:
        _draw_ris(axes, site.ris, reach_m)
    _draw_scale(axes, low, high)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set_title(title, fontsize=9 if small else 11)
    axes.tick_params(labelsize=7 if small else 9)
    if not small:
        axes.set(xlabel="x, east [m]", ylabel="y, north [m]")


def draw_trees(axes: Any, trees: Sequence[Tree]) -> None:
    """Crowns of trees from above."""
    from matplotlib.patches import Ellipse, Patch, Rectangle

    for index, tree in enumerate(trees):
        x, y, _ = tree.middle_m
        long_m, wide_m, _ = tree.size_m
        crown: Patch = Ellipse((x, y), long_m, wide_m, angle=tree.yaw_deg)
        if tree.shape == "box":
            corner = x - long_m / 2, y - wide_m / 2
            crown = Rectangle(corner, long_m, wide_m, angle=tree.yaw_deg, rotation_point="center")
        crown.set(facecolor=_TREE_COLOUR, alpha=0.4, edgecolor="none", label=None if index else "trees")
        axes.add_patch(crown)


def _view(site: Site, users_m: Real) -> tuple[Real, Real]:
    """Corners of what is shown: arrays and users with air around them."""
    places = [np.array([mount.position_m[:2]]) for mount in (site.bs, site.ris) if mount is not None]
    corner = np.array(site.users.corner_m)
    inside = np.concatenate([*places, users_m[:, :2], [corner, corner + site.users.size_m]])
    low, high = inside.min(axis=0), inside.max(axis=0)
    margin_m = max(0.14 * float(np.max(high - low)), 8.0)
    return low - margin_m, high + margin_m


def view_size(site: Site, users_m: Real) -> tuple[float, float]:
    """Width and height of what is shown [m]."""
    low, high = _view(site, users_m)
    return float(high[0] - low[0]), float(high[1] - low[1])


def _draw_buildings(axes: Any, meshes: Sequence[Mesh], low: Real, high: Real, *, bar: bool) -> None:
    """Roofs in grey by their height, darker where higher, and walls as lines."""
    from matplotlib.collections import LineCollection, PolyCollection

    corners = np.concatenate([np.zeros((0, 3, 3)), *(mesh.vertices_m[mesh.faces] for mesh in meshes)])
    upwards = np.concatenate([np.zeros(0), *(np.abs(mesh.normals()[:, 2]) for mesh in meshes)])
    lowest_m = corners[:, :, 2].min() if len(corners) else 0.0
    seen = np.all((corners[:, :, :2].max(axis=1) > low) & (corners[:, :, :2].min(axis=1) < high), axis=1)
    height_m = corners[:, :, 2].max(axis=1) - lowest_m
    roofs = np.nonzero(seen & (upwards > _UPWARDS) & (height_m > _GROUND_M))[0]
    roofs = roofs[np.argsort(height_m[roofs], kind="stable")]
    if len(roofs):
        tallest_m = max(float(height_m[roofs].max()), 1.0)
        shapes = PolyCollection(list(corners[roofs][:, :, :2]), cmap="Greys", zorder=1, linewidths=0.4)
        shapes.set_array(height_m[roofs])
        shapes.set_clim(-0.5 * tallest_m, 1.6 * tallest_m)
        shapes.set_edgecolor("face")
        axes.add_collection(shapes)
        if bar:
            axes.plot([], [], "s", color="0.6", label=f"buildings, up to {tallest_m:.0f} m, darker where higher")
    walls = corners[seen & (upwards < _UPRIGHT) & (height_m > _GROUND_M)][:, :, :2]
    # Seen from above a wall's triangle is a line, the longest of its three sides.
    sides = walls[:, [[0, 1], [1, 2], [2, 0]]]
    longest = np.linalg.norm(sides[:, :, 1] - sides[:, :, 0], axis=2).argmax(axis=1)
    axes.add_collection(
        LineCollection(sides[np.arange(len(sides)), longest], colors="0.25", linewidths=0.6, zorder=1.5)
    )


def _draw_users(axes: Any, users_m: Real, values_db: Real | None, across_m: float, small: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    step_m = _spacing(users_m)
    pixels = (420 if small else 620) * step_m / across_m
    size = float(np.clip(0.45 * pixels**2, 3, 110))
    if values_db is None:
        axes.scatter(*users_m[:, :2].T, s=0.5 * size, color="seagreen", zorder=3, label="users")
        return
    dark = np.isnan(values_db)
    axes.scatter(*users_m[dark, :2].T, s=0.6 * size, marker="x", color="0.45", linewidths=0.8, zorder=3,
                 label="no path" if dark.any() else None)  # fmt: skip
    if dark.all():
        return
    least, most = np.nanpercentile(values_db, [2, 100])
    drawn = axes.scatter(
        *users_m[~dark, :2].T, c=values_db[~dark], s=size, marker="s", cmap="viridis", vmin=least, vmax=most, zorder=3,
        label="users, by path gain"
    )  # fmt: skip
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.015, ticks=MaxNLocator(7))
    bar.set_label("path gain [dB]", fontsize=8 if small else 10)
    bar.ax.tick_params(labelsize=7 if small else 9)


def _spacing(users_m: Real) -> float:
    """Least distance between neighbouring positions; 1 where there are fewer than two."""
    from scipy.spatial import KDTree

    if len(users_m) < 2:
        return 1.0
    return max(float(np.median(KDTree(users_m).query(users_m, 2)[0][:, 1])), 1e-3)


def _draw_zones(axes: Any, users_m: Real, zone_m: float) -> None:
    """The squares that hold users, as the controller's grid zones lie: multiples of their side from the origin."""
    from matplotlib.collections import PolyCollection

    cells = np.unique(np.floor(users_m[:, :2] / zone_m), axis=0) * zone_m
    square = zone_m * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    axes.add_collection(
        PolyCollection(
            list(cells[:, None] + square), facecolors="none", edgecolors=_ZONE_COLOUR, linewidths=1.0, linestyles="--",
            zorder=2.5, label=f"{len(cells)} zones of {zone_m:g} m"
        )
    )  # fmt: skip


def _draw_base_station(axes: Any, station: BaseStation, reach_m: float) -> None:
    from matplotlib.patches import Wedge

    half_deg = station.field_of_view_deg / 2
    told = f"field of view, {station.field_of_view_deg:g}°"
    if half_deg >= 180 and station.pattern == "tr38901":
        half_deg, told = _HALF_POWER_DEG, "half-power beam of an element, 65°"
    if half_deg < 180:
        wedge = Wedge(station.position_m[:2], 1.6 * reach_m, station.yaw_deg - half_deg, station.yaw_deg + half_deg)
        wedge.set(facecolor=_BS_COLOUR, alpha=0.16, zorder=3.5, label=told)
        axes.add_patch(wedge)
    label = f"base station, {station.rows} x {station.columns}, {station.position_m[2]:g} m high"
    axes.plot(*station.position_m[:2], "^", color=_BS_COLOUR, markersize=9, markeredgecolor="white", zorder=5,
              label=label)  # fmt: skip
    _draw_boresight(axes, station, reach_m, _BS_COLOUR)


def _draw_ris(axes: Any, ris: Ris, reach_m: float) -> None:
    """The panel as a bar, longer than it is, and its front."""
    along = ris.rotation()[:2, 1] * 0.35 * reach_m
    ends = np.array([ris.position_m[:2] - along, ris.position_m[:2] + along])
    label = f"RIS, {ris.rows} x {ris.columns}, {ris.position_m[2]:g} m high (not to scale)"
    axes.plot(*ends.T, "-", color=_RIS_COLOUR, linewidth=4.5, solid_capstyle="butt", zorder=5, label=label)
    _draw_boresight(axes, ris, 0.8 * reach_m, _RIS_COLOUR)


def _draw_boresight(axes: Any, mount: Mount, reach_m: float, colour: str) -> None:
    tip = np.array(mount.position_m[:2]) + reach_m * mount.rotation()[:2, 0]
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", tip, mount.position_m[:2], arrowprops=style, zorder=5)


def _draw_scale(axes: Any, low: Real, high: Real) -> None:
    """A bar of a round length in the lower right corner."""
    across_m = float(high[0] - low[0])
    raw = across_m / 5
    power = 10 ** np.floor(np.log10(raw))
    length_m = float(power * max(step for step in (1, 2, 5) if step * power <= raw))
    right, bottom = high[0] - 0.04 * across_m, low[1] + 0.04 * float(high[1] - low[1])
    axes.plot([right - length_m, right], [bottom, bottom], "k-", linewidth=3, solid_capstyle="butt", zorder=6)
    axes.annotate(f"{length_m:g} m", (right - length_m / 2, bottom), xytext=(0, 4), textcoords="offset points",
                  ha="center", fontsize=8, zorder=6)  # fmt: skip
