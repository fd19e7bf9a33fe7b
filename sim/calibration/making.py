"""`twin calibrate`: from a site and measured frames to a folder with the calibrated site, its twin and a report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from ingest.errors import TwinbeamError, UsageRefused
from ingest.messages import ChannelFrame
from ingest.sources import Source, open_source
from ingest.sources.deepmimo import DeepMimoSource
from sim.bundle import save_bundle
from sim.calibration.calibrating import Calibration, Choices, calibrate
from sim.calibration.correction import save_correction
from sim.calibration.deepmimo_twin import in_our_order, moved, scenario_model, scenario_site
from sim.calibration.fitted_site import fitted_site
from sim.calibration.links import MeasuredLinks, links_of
from sim.calibration.report import draw, in_numbers
from sim.calibration.site_model import Physical, SiteModel
from sim.site import Site, load_site, site_path

Told = Callable[[str], None]


def calibrate_site(
    name_or_path: str, frames: str, *, out: Path | None, zone_m: float, choices: Choices, told: Told
) -> dict[str, Any]:
    """Calibrate the site's twin by the channel frames of a source; the fields of CLI-JSON.

    name_or_path: a site, or a DeepMIMO scenario's file that is the twin itself. out: the folder, made if need be. It
    gets `calibration.json`, `links.png` and `residuals.png`; and where held-out links are better off, `site.toml`,
    `correction.json` and `twin.h5`. told(stage) is called before each stage.
    """
    begun = perf_counter()
    scenario = _scenario(name_or_path)
    if scenario is not None:
        name = Path(scenario.info.where).resolve().parent.name[:64]
        site, site_file = scenario_site(scenario, name), None
    else:
        site_file = site_path(name_or_path)
        site = load_site(site_file)
    target = out or Path(f"{site.name}-calibrated")
    if site_file is not None and target.resolve() == site_file.parent.resolve():
        raise UsageRefused("would replace the site itself", where=str(target), mend="another folder by --out")
    links = links_of(_frames(open_source(frames)), site.bs.elements, site.carrier_hz, frames)
    told("paths")
    model, retraced = _models(site, site_file, scenario, links)
    found = calibrate(model, links, choices, retraced, told)
    _make(target)
    report = {**in_numbers(site, links, found, zone_m), "out": str(target)}
    if found.accepted and site_file is not None:
        told("twin")
        write_site(fitted_site(site, found.physical), found, site_file, target)
    report["plots"] = draw(links, found, target)
    report["seconds"] = round(perf_counter() - begun, 1)
    (target / "calibration.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def refuse_worse(report: dict[str, Any]) -> None:
    """Raise `TwinbeamError` where a calibration made held-out links no better."""
    if not report["accepted"]:
        before, after = (report["residual_db"][stage]["held_out"] for stage in ("before", "scatterers"))
        raise TwinbeamError(
            f"not calibrated: held-out links go from {before['pooled']} to {after['pooled']} dB "
            f"(median {before['median']} to {after['median']})",
            where=report["out"],
            mend="look at its plots: frames of another site, wrong positions, too few places?",
        )


def _scenario(name: str) -> DeepMimoSource | None:
    """The DeepMIMO scenario that is meant, None for a site."""
    if not name.partition("?")[0].endswith(".mat"):
        return None
    source = open_source(name)
    if not isinstance(source, DeepMimoSource):
        raise UsageRefused("neither a site nor a DeepMIMO scenario", where=name, mend="a BS<b>_UE_<from>-<to>.mat")
    return source


def _frames(source: Source) -> Iterator[ChannelFrame]:
    frames: Iterable[ChannelFrame] = (message for message in source if isinstance(message, ChannelFrame))
    yield from in_our_order(frames) if isinstance(source, DeepMimoSource) else frames


def _models(
    site: Site, site_file: Path | None, scenario: DeepMimoSource | None, links: MeasuredLinks
) -> tuple[SiteModel, Callable[[Physical], SiteModel]]:
    """The twin's channels at the links' places, and how it is made in a fitted state."""
    if scenario is not None:
        model = scenario_model(scenario, site, links.positions_m, links.tones_hz)
        return model, lambda state: moved(model, state, fitted_site(site, state))
    from sim.cached_paths import CachedPaths
    from sim.tracer import SceneTracer

    assert site_file is not None
    folder = site_file.parent

    def traced(now: Site) -> SiteModel:
        tracer = SceneTracer.load(now, now.twin, world=False, folder=folder)
        return SiteModel(now, CachedPaths(tracer, now.bs, links.positions_m), links.tones_hz)

    return traced(site), lambda state: traced(fitted_site(site, state))


def _make(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageRefused(f"no such folder: {error.strerror}", where=str(target), mend="another by --out") from None


def write_site(site: Site, found: Calibration, site_file: Path, target: Path) -> None:
    """The calibrated site, what is put right beside it, and its twin traced anew."""
    import tomli_w

    from sim.tracer import trace_site

    if (site_file.parent / site.scene).is_file():
        scene = os.path.relpath(site_file.parent / site.scene, target)
        site = site.model_copy(update={"scene": scene})
    content = site.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    (target / "site.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    site = load_site(target / "site.toml")
    save_correction(found.correction, site, target)
    save_bundle(trace_site(site, site.twin, world=False, folder=target), target / "twin.h5")
