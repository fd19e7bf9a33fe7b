"""What a calibration says of itself: numbers for `--json` and a file, zone by zone, and two plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.calibration.calibrating import STAGES, Calibration
from sim.calibration.links import MeasuredLinks
from sim.site import Site

Real = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TRUSTED_DB, USABLE_DB = -10.0, -3.0
"""Residual over energy of a zone's links: below the first the twin may stand for a measurement, above the second it
tells less of a channel than a guess of its direction would."""

_TOLD = 0.9
"""A parameter whose deviation shrank by less was not told by the links."""


def in_numbers(site: Site, links: MeasuredLinks, found: Calibration, zone_m: float) -> dict[str, Any]:
    """The fields of CLI-JSON."""
    division = found.division
    parts = {"fitted": division.fitted, "validating": division.validating, "held_out": division.held_out}
    physical = found.physical
    return {
        "site": site.name,
        "accepted": found.accepted,
        "counts": {name: int(part.sum()) for name, part in parts.items()},
        "residual_db": {
            stage: {name: _summary(residuals, links.power, part) for name, part in parts.items()}
            for stage, residuals in found.residuals.items()
        },
        "shape_db": {
            stage: {name: _summary(shapes, links.power, part) for name, part in parts.items()}
            for stage, shapes in found.shapes.items()
        },
        "parameters": {
            "yaw_deg": round(float(np.degrees(physical.pose.yaw_rad)), 3),
            "pitch_deg": round(float(np.degrees(physical.pose.pitch_rad)), 3),
            "place_m": [round(value, 4) for value in physical.pose.place_m],
            "materials": {
                name: {"relative_permittivity": round(a, 3), "conductivity_s_m": round(b, 5)}
                for name, (a, b) in physical.materials.items()
            },
        },
        "not_told_by_links": [name for name, ratio in physical.deviations.items() if ratio > _TOLD],
        "walls": len(found.correction.walls.gain),
        "scatterers": len(found.correction.scatterers.points),
        "zones": zones(links, found, zone_m),
        "links": per_link(links, found),
    }


def zones(links: MeasuredLinks, found: Calibration, zone_m: float) -> list[dict[str, Any]]:
    """Square zones of ground: residuals before and after [dB], and what the twin is good for there.

    Judged is by links that were not fitted, where a zone has any; `judged_by` says how many, or that it has none.
    """
    squares = np.floor(links.positions_m[:, :2] / zone_m).astype(np.int64)
    known, owner = np.unique(squares, axis=0, return_inverse=True)
    owner = owner.reshape(-1)
    told = []
    for index, square in enumerate(known):
        here = owner == index
        judging = here & ~found.division.fitted
        used = judging if judging.any() else here
        after_db = _summary(found.after, links.power, used)
        told.append(
            {
                "corner_m": [round(float(value), 3) for value in square * zone_m],
                "side_m": zone_m,
                "links": int(here.sum()),
                "judged_by": int(judging.sum()),
                "before_db": _summary(found.residuals[STAGES[0]], links.power, used),
                "after_db": after_db,
                "shape_db": _summary(found.shapes[STAGES[-1]], links.power, used),
                "trust": _trust(after_db["pooled"]) if judging.any() else "not judged",
            }
        )
    return told


def per_link(links: MeasuredLinks, found: Calibration) -> list[dict[str, Any]]:
    """Every link's name and place, its residual before and after [dB], and whether only the verdict saw it."""
    before, after = _decibels(found.residuals[STAGES[0]]).round(2), _decibels(found.after).round(2)
    return [
        {
            "name": links.names[link] if links.names else str(link),
            "position_m": links.positions_m[link].round(4).tolist(),
            "before_db": float(before[link]),
            "after_db": float(after[link]),
            "held_out": bool(found.division.held_out[link]),
        }
        for link in range(links.count)
    ]


def draw(links: MeasuredLinks, found: Calibration, folder: Path) -> list[str]:
    """`links.png`, residuals on the map before and after, and `residuals.png`, their distributions; their names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    shown: Any = None
    for index, stage in enumerate((STAGES[0], STAGES[-1])):
        axes = figure.add_subplot(1, 2, index + 1)
        values = _decibels(found.residuals[stage])
        for marker, part, name in (
            ("o", found.division.fitted, "fitted"),
            ("s", found.division.validating, "validating"),
            ("^", found.division.held_out, "held out"),
        ):
            x, y = links.positions_m[part, 0], links.positions_m[part, 1]
            shown = axes.scatter(
                x, y, c=values[part], marker=marker, s=22, vmin=-30, vmax=0, cmap="viridis", label=name
            )
        if index:
            _draw_scatterers(axes, found)
        axes.set(aspect="equal", xlabel="x [m]", ylabel="y [m]", title="before" if index == 0 else "after")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.25), ncols=4, fontsize=8)
    figure.colorbar(shown, ax=figure.axes, label="residual over energy of the link [dB]")
    figure.savefig(folder / "links.png", dpi=110)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    kept = found.division.held_out
    for stage, residuals in found.residuals.items():
        values = np.sort(_decibels(residuals[kept]))
        axes.step(values, np.arange(1, len(values) + 1) / len(values), where="post", label=stage)
    axes.set(xlabel="residual over energy of a held-out link [dB]", ylabel="share of links", ylim=(0, 1))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    figure.savefig(folder / "residuals.png", dpi=110)
    return ["links.png", "residuals.png"]


def _draw_scatterers(axes: Any, found: Calibration) -> None:
    points = found.correction.scatterers.points
    if points:
        places_m = np.array([point.position_m for point in points])
        axes.scatter(places_m[:, 0], places_m[:, 1], c="crimson", marker="x", s=30, label="virtual scatterers")


def _summary(residuals: Real, power: Real, part: Mask) -> dict[str, float | None]:
    """Median over links, and residual energy over energy of all together [dB]."""
    if not part.any():
        return {"median": None, "pooled": None}
    pooled = np.sum(residuals[part] * power[part]) / np.sum(power[part])
    median, together = _decibels(np.array([np.median(residuals[part]), pooled])).round(2)
    return {"median": float(median), "pooled": float(together)}


def _trust(after_db: float | None) -> str:
    if after_db is None or after_db > USABLE_DB:
        return "no"
    return "yes" if after_db <= TRUSTED_DB else "in part"


def _decibels(ratio: Real) -> Real:
    return np.asarray(10 * np.log10(np.maximum(ratio, 1e-12)))
