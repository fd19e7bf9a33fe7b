"""Traces a site with Sionna RT (extra `twin`) into a bundle. Nothing else imports Sionna.

Sionna RT has no RIS: base station to RIS and RIS to user are traced on their own, the RIS as a point with an
isotropic pattern, and composed into the cascade afterwards (`sim.channels`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError, UsageRefused
from sim.bundle import SiteBundle
from sim.calibration.correction import Correction, load_correction
from sim.fidelity.doubles import without_doubles
from sim.fidelity.foliage import path_amplitudes
from sim.fidelity.position import misplaced
from sim.fidelity.settings import FidelitySettings
from sim.llvm import choose_libllvm
from sim.paths import DIFFUSE, PathTable, empty_table, joined, merged, strongest, within
from sim.scene_loading import load_scene
from sim.site import BaseStation, Mount, Site, seeing
from sim.trace_settings import TraceSettings
from sim.traced_links import Losses, paths_to_table

BATCH = 64
"""Receivers traced at once where there are many."""

_MAX_PATHS = 1_000_000
"""The solver's buffer per transmitter. When it is full, paths are left out without a word."""

_GROUND_M = 0.5
"""A grid point is outdoors where nothing is above the ground by more than this."""

_REPEATS = 8
"""A path and its repeats, at most: so many more are kept until the repeats are taken out."""

Progress = Callable[[int, int], None]


def trace_site(
    site: Site, settings: TraceSettings, *, world: bool, folder: Path, progress: Progress | None = None
) -> SiteBundle:
    """All paths of `site` for every outdoor point of its user grid.

    world: apply the site's `world_materials` on top of its `materials`, and let positions be true: the testbed errs
    about those of the world's users by itself. folder: where a scene's relative path starts from. progress(done, total)
    is called after every batch. Raises `TwinbeamError` (libLLVM or Sionna RT missing) or `UsageRefused` (the scene
    cannot serve).
    """
    scene = SceneTracer.load(site, settings, world, folder)
    users = scene.outdoor(site.users.grid_m())
    if len(users) == 0:
        raise UsageRefused("no outdoor point in the user area", where=site.name, mend="move or enlarge [users]")
    links = 2 if site.ris else 1
    report = progress or (lambda done, total: None)
    bs_user = scene.to_users(site.bs, users, lambda done: report(done, links * len(users)))
    bs_ris, ris_user = empty_table(1), empty_table(len(users))
    if site.ris:
        panel = np.array([site.ris.position_m])
        bs_ris = scene.trace(site.bs, site.bs.pattern, panel)
        if bs_ris.paths == 0:
            raise UsageRefused("no path from base station to RIS", where=site.name, mend="move the RIS into view")
        ris_user = scene.trace(site.ris, "iso", users, lambda done: report(len(users) + done, links * len(users)))
    if bs_user.paths + ris_user.paths == 0:
        raise UsageRefused("no path reaches any user", where=site.name, mend="move the base station or [users]")
    bundle = SiteBundle(
        site=site,
        settings=scene.settings,
        positions_m=users,
        bs_user=bs_user,
        bs_ris=bs_ris,
        ris_user=ris_user,
        made_with={name: version(name) for name in ("sionna-rt", "mitsuba", "drjit")},
    )
    return bundle if world else misplaced(bundle, scene.settings.position)


@dataclass
class SceneTracer:
    """A loaded Sionna scene with the solver settings of one trace. rt: the `sionna.rt` module.

    correction: what a calibration of the twin has put right, where there was one.
    batch: receivers traced at once. The number is always the same, since every new shape is compiled anew.
    """

    rt: Any
    scene: Any
    solver: Any
    settings: FidelitySettings
    batch: int = BATCH
    correction: Correction | None = None

    @classmethod
    def load(cls, site: Site, settings: TraceSettings, world: bool, folder: Path, batch: int = BATCH) -> SceneTracer:
        """The scene of a site file in `folder`. Raises as `trace_site` does."""
        rt, knobs = _import_rt(), FidelitySettings.of(settings)
        scene = load_scene(rt, site, folder, world=world, settings=knobs)
        correction = None if world else load_correction(site, folder)
        return cls(rt, scene, rt.PathSolver(deterministic=True), knobs, batch, correction)

    def outdoor(self, grid_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The grid points with nothing but ground below the sky, lifted by the ground's height. [users, 3]."""
        import mitsuba as mi

        bounds = self.scene.mi_scene.bbox()
        top = float(bounds.max[2]) + 10.0
        x, y = (mi.Float(grid_m[:, axis].astype(np.float32)) for axis in (0, 1))
        ray = mi.Ray3f(mi.Point3f(x, y, mi.Float(np.full(len(grid_m), top, np.float32))), mi.Vector3f(0, 0, -1))
        hit = self.scene.mi_scene.ray_intersect(ray)
        ground = top - np.array(hit.t, np.float64)
        lowest = float(bounds.min[2])
        outside = np.isfinite(ground) & (ground < lowest + _GROUND_M)
        users = grid_m[outside].copy()
        users[:, 2] += ground[outside]
        return users

    def to_users(
        self,
        bs: BaseStation,
        users_m: npt.NDArray[np.float64],
        done: Callable[[int], None] = lambda done: None,
    ) -> PathTable:
        """Paths from the base station to users at users_m [R, 3], with what a calibration has put right."""
        table = self.trace(bs, bs.pattern, users_m, done)
        return table if self.correction is None else self.correction.applied(table, users_m)

    def trace(
        self,
        transmitter: Mount,
        pattern: str,
        receivers_m: npt.NDArray[np.float64],
        done: Callable[[int], None] = lambda done: None,
    ) -> PathTable:
        """Paths from one antenna at `transmitter` to isotropic antennas at `receivers_m` [R, 3]."""
        self.scene.tx_array = self.antenna(pattern)
        self.scene.rx_array = self.antenna("iso")
        orientation = [float(np.radians(angle)) for angle in (transmitter.yaw_deg, transmitter.pitch_deg, 0.0)]
        self.scene.add(self.rt.Transmitter("tx", [float(x) for x in transmitter.position_m], orientation=orientation))
        tables = []
        for start in range(0, len(receivers_m), self.batch):
            tables.append(self._trace_batch(receivers_m[start : start + self.batch]))
            done(min(start + self.batch, len(receivers_m)))
        self.scene.remove("tx")
        table = joined(tables)
        if isinstance(transmitter, BaseStation):
            return within(table, seeing(transmitter, self.settings).sees(table.departure))
        return table

    def antenna(self, pattern: str) -> Any:
        """A single antenna of Sionna RT's `pattern`."""
        return self.rt.PlanarArray(num_rows=1, num_cols=1, pattern=pattern, polarization="V")

    def _trace_batch(self, receivers_m: npt.NDArray[np.float64]) -> PathTable:
        # A short batch is filled up with its last receiver, so that the compiled kernels fit.
        padded = np.concatenate([receivers_m, np.repeat(receivers_m[-1:], self.batch - len(receivers_m), axis=0)])
        for index, position in enumerate(padded):
            self.scene.add(self.rt.Receiver(f"rx{index}", [float(x) for x in position]))
        settings, count = self.settings, len(receivers_m)
        losses, repeated = self._losses(), settings.without_repeats
        some = settings.max_paths * (_REPEATS if repeated else 1)
        solved = self._solve(settings.samples, los=True, diffraction=settings.diffraction)
        found = paths_to_table(solved, count, some, losses=losses)
        if repeated:
            found = without_doubles(found)
        if settings.scattering:
            # On its own: rough walls yield so many paths that in one pass they would crowd out the others.
            scattered = self._solve(settings.scattering_samples, los=False, diffuse_reflection=True)
            found = merged(found, paths_to_table(scattered, count, settings.max_paths, DIFFUSE, losses))
        for index in range(len(padded)):
            self.scene.remove(f"rx{index}")
        _give_back_memory()
        return strongest(found, settings.max_paths, settings.floor_db)

    def _losses(self) -> Losses | None:
        """What trees take of paths."""
        foliage = self.settings.foliage
        if not foliage.trees:
            return None
        carrier_hz = float(np.array(self.scene.frequency).item())
        return lambda points_m: path_amplitudes(points_m, foliage, carrier_hz)

    def _solve(self, samples: int, **interactions: bool) -> Any:
        """All paths to the receivers; `TwinbeamError` where the solver had to leave some out."""
        paths = self.solver(
            self.scene,
            max_depth=self.settings.max_depth,
            max_num_paths_per_src=_MAX_PATHS,
            samples_per_src=samples,
            specular_reflection=True,
            refraction=self.settings.refraction,
            seed=self.settings.seed,
            **interactions,
        )
        count = int(np.count_nonzero(np.array(paths.valid)))
        if count > 0.9 * _MAX_PATHS:
            raise TwinbeamError(
                f"{count} paths fill the solver's buffer, some may be missing",
                where="[twin] or [world] of the site file",
                mend="fewer samples or scattering_samples",
            )
        return paths


def _give_back_memory() -> None:
    """Sizes differ from batch to batch: kept for another use that never comes, Munich's world took 11 GB."""
    import drjit as dr

    dr.flush_malloc_cache()


def _import_rt() -> Any:
    choose_libllvm()
    try:
        import sionna.rt as rt
    except ImportError as error:
        raise TwinbeamError(f"tracing needs Sionna RT: {error}", mend="pip install 'twinbeam[twin]'") from None
    return rt
