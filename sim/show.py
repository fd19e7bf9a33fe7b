"""`twin show`: a picture of a site. Where buildings, arrays, users and zones are, and what power reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError, UsageRefused
from sim.bundle import SiteBundle, load_bundle
from sim.fidelity.knobs import Tree
from sim.meshes import Mesh
from sim.plan import draw_plan, draw_trees, view_size
from sim.scene_loading import load_scene, own_scene, scene_meshes
from sim.site import Site, load_site, site_path
from sim.site_checks import check_site, closed_bodies, containing

Real = npt.NDArray[np.float64]

_RENDER_PIXELS = (840, 560)
_RENDER_SAMPLES = 24


@dataclass(frozen=True)
class Coverage:
    """Path gain [dB] at each position, between one antenna of the base station and the user's isotropic one.

    direct_db [P]: powers of all paths added up. ris_db [P]: over the RIS with all elements in phase; None without one.
    NaN where no path leads.
    """

    direct_db: Real
    ris_db: Real | None


def show_site(
    name_or_path: str, *, out: Path | None = None, zone_m: float = 20.0, world: bool = False
) -> dict[str, Any]:
    """Draw the site with its bundle's coverage, where there is a bundle, to a PNG file; what was drawn, in numbers.

    out: the file; the site's name in the current folder. zone_m: side of the square zones, 0 for none. world: the
    bundle and materials of the testbed's world. Raises `TwinbeamError` where the scene or the file cannot be had;
    what is wrong with where things stand is drawn and told as `problem`.
    """
    begun = perf_counter()
    path = site_path(name_or_path)
    site = load_site(path)
    target = out or Path(f"{site.name}.png")
    if not target.parent.is_dir():
        raise UsageRefused("no such folder", where=str(target.parent), mend="make it, or name another by --out")
    knobs = site.world if world else site.twin
    own = own_scene(site, path.parent)
    drawn = None if knobs.geometry.changes else own
    scene, without = _traced_scene(site, path.parent, world, needed=drawn is None)
    meshes = [mesh for _, mesh in drawn.surfaces] if drawn is not None else scene_meshes(scene)
    bodies = drawn.bodies if drawn is not None else closed_bodies(meshes)
    file = path.with_name("world.h5" if world else "twin.h5")
    bundle = load_bundle(file) if file.is_file() else None
    grid_m = site.users.grid_m()
    users_m = bundle.positions_m if bundle is not None else grid_m[containing(bodies, grid_m) < 0]
    coverage = None if bundle is None else coverage_of(bundle)
    result: dict[str, Any] = {"site": site.name, "png": str(target), "positions": len(users_m)}
    result |= {"bodies": len(bodies)} | ({} if own is None else own.notes)
    if zone_m:
        result["zones"] = len({(int(x // zone_m), int(y // zone_m)) for x, y, _ in users_m})
    if bundle is not None and coverage is not None:
        result |= {"bundle": str(file), "bundle_is_of_this_site": bundle.site == site}
        result |= _in_numbers(coverage)
    site = site.seen_with(knobs)
    if problem := _problem(site, bodies):
        result["problem"] = problem
    picture = None if scene is None else rendered(scene, site, users_m)
    if without:
        result["not_rendered"] = without
    _figure(target, site, meshes, knobs.foliage.trees, users_m, coverage, zone_m, picture, problem)
    return result | {"seconds": round(perf_counter() - begun, 3)}


def coverage_of(bundle: SiteBundle) -> Coverage:
    """What reaches each position of the bundle."""
    from sim.channels import SiteChannels

    power = np.abs(bundle.bs_user.gain) ** 2
    direct = np.array([power[bundle.bs_user.rows(link)].sum() for link in range(bundle.bs_user.links)])
    if bundle.site.ris is None:
        return Coverage(_decibels(direct), None)
    channels = SiteChannels(bundle)
    aligned = [np.abs(channels.cascade(place)[1:, 0]).sum() ** 2 for place in bundle.positions_m]
    return Coverage(_decibels(direct), _decibels(np.array(aligned)))


def _decibels(power: Real) -> Real:
    return np.asarray(10 * np.log10(np.where(power > 0, power, np.nan)))


def _in_numbers(coverage: Coverage) -> dict[str, Any]:
    found: dict[str, Any] = {"unreached": int(np.count_nonzero(np.isnan(coverage.direct_db)))}
    for name, values_db in (("coverage_db", coverage.direct_db), ("ris_coverage_db", coverage.ris_db)):
        if values_db is not None and not np.isnan(values_db).all():
            p10, median, p90 = (round(float(x), 2) for x in np.nanpercentile(values_db, [10, 50, 90]))
            found[name] = {"median": median, "p10": p10, "p90": p90}
    return found


def _problem(site: Site, bodies: Sequence[Mesh]) -> str:
    """Why the site would not be traced, "" where it would."""
    try:
        check_site(site, bodies)
    except TwinbeamError as refusal:
        return str(refusal)
    return ""


def _traced_scene(site: Site, folder: Path, world: bool, *, needed: bool) -> tuple[Any, str]:
    """The scene in Sionna RT; None and why where that cannot be had and is not needed."""
    from sim.llvm import choose_libllvm

    try:
        choose_libllvm()
        import sionna.rt as rt
    except (ImportError, TwinbeamError) as error:
        if needed:
            mend = "pip install 'twinbeam[twin]'; see twinbeam doctor"
            raise TwinbeamError(f"this scene needs Sionna RT: {error}", where=site.scene, mend=mend) from None
        return None, str(error)
    return load_scene(rt, site, folder, world=world, check=False), ""


def rendered(scene: Any, site: Site, users_m: Real) -> npt.NDArray[np.float64]:
    """Sionna RT's own picture of the scene from above the south-west, [rows, columns, 3], 0 to 1."""
    import sionna.rt as rt
    from matplotlib.image import imread

    places = np.array([m.position_m for m in (site.bs, site.ris) if m is not None] + [[*p] for p in users_m])
    low, high = places.min(axis=0), places.max(axis=0)
    middle = (low + high) / 2
    reach_m = max(float(np.linalg.norm((high - low)[:2])), 20.0)
    radius_m = reach_m / 80
    scene.add(rt.Transmitter("bs", list(site.bs.position_m), color=(0.85, 0.1, 0.1), display_radius=radius_m))
    if site.ris is not None:
        scene.add(rt.Receiver("ris", list(site.ris.position_m), color=(0.1, 0.3, 0.9), display_radius=radius_m))
    eye = middle + reach_m * np.array([-0.5, -0.85, 0.95])
    camera = rt.Camera(position=[float(x) for x in eye], look_at=[float(x) for x in middle])
    with TemporaryDirectory(prefix="twinbeam-show-") as folder:
        file = Path(folder) / "render.png"
        scene.render_to_file(
            camera=camera, filename=str(file), resolution=_RENDER_PIXELS, num_samples=_RENDER_SAMPLES, fov=48.0
        )
        return np.asarray(imread(file), np.float64)[..., :3]


def _figure(
    target: Path,
    site: Site,
    meshes: Sequence[Mesh],
    trees: Sequence[Tree],
    users_m: Real,
    coverage: Coverage | None,
    zone_m: float,
    picture: npt.NDArray[np.float64] | None,
    problem: str,
) -> None:
    """The plan with the base station's coverage; beside it the RIS's, and the render."""
    ris_db = None if coverage is None else coverage.ris_db
    beside = [name for name, there in (("ris", ris_db is not None), ("render", picture is not None)) if there]
    figure, axes = _laid_out(view_size(site, users_m), beside)
    what = "users" if coverage is None else "from one antenna of the base station, all paths"
    plan = axes["plan"]
    draw_plan(plan, site, meshes, users_m, None if coverage is None else coverage.direct_db, zone_m, what)
    draw_trees(plan, trees)
    if ris_db is not None:
        draw_plan(axes["ris"], site, meshes, users_m, ris_db, zone_m, "over the RIS, its elements in phase", small=True)
        draw_trees(axes["ris"], trees)
    if picture is not None:
        axes["render"].imshow(picture)
        axes["render"].set_axis_off()
        axes["render"].set_title("seen from the south-west, by Sionna RT: base station red, RIS blue", fontsize=9)
    figure.legend(*plan.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    title = f"{site.name}: {site.scene}, {site.carrier_hz / 1e9:g} GHz"
    figure.suptitle(title + (f"\n{problem}" if problem else ""), color="firebrick" if problem else "black")
    try:
        figure.savefig(target, format="png")
    except OSError as error:
        raise UsageRefused(f"cannot be written: {error.strerror}", where=str(target), mend="--out FILE") from None


def _laid_out(view_m: tuple[float, float], beside: list[str]) -> tuple[Any, dict[str, Any]]:
    """A figure whose large plan is of the shape of the view, the other pictures beside a high and below a wide one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_m, height_m = view_m
    figure = Figure(dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if beside and width_m > 1.2 * height_m:
        plan_in = float(np.clip(11.0 * height_m / width_m, 3.0, 9.5))
        figure.set_size_inches(12.5, 1.62 * plan_in + 1.8)
        mosaic: Any = [["plan"] * len(beside), beside]
        ratios = {"height_ratios": [1.0, 0.62]}
    else:
        plan_in = float(np.clip(9.0 * width_m / height_m, 5.0, 11.0))
        figure.set_size_inches(plan_in * (1.75 if beside else 1.0) + 1.5, 10.0)
        mosaic = [["plan", name] for name in beside] or [["plan"]]
        ratios = {"width_ratios": [1.35, 1.0]} if beside else {}
    return figure, figure.subplot_mosaic(mosaic, gridspec_kw=ratios)
