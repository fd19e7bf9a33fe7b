"""Traces a site with Sionna RT (extra `twin`) into a bundle. Nothing else imports Sionna.

Sionna RT has no RIS: base station to RIS and RIS to user are traced on their own, the RIS as a point with an
isotropic pattern, and composed into the cascade afterwards (`sim.channels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError, UsageRefused
from sim.bundle import PathTable, SiteBundle
from sim.llvm import choose_libllvm
from sim.site import SPEED_OF_LIGHT_M_S, Mount, Site, TraceSettings

BATCH = 64
"""Receivers traced at once. The number is always the same, since every new shape is compiled anew."""

_MAX_PATHS = 1_000_000
"""The solver's buffer per transmitter. When it is full, paths are left out without a word."""

DIFFUSE = 2
"""Sionna RT's flag of a diffuse reflection in `Paths.interactions`."""

_FLOOR_DB = -50.0
"""Paths this far below the strongest of their link are left out."""

_GROUND_M = 0.5
"""A grid point is outdoors where nothing is above the ground by more than this."""

Progress = Callable[[int, int], None]


def trace_site(
    site: Site, settings: TraceSettings, *, world: bool, folder: Path, progress: Progress | None = None
) -> SiteBundle:
    """All paths of `site` for every outdoor point of its user grid.

    world: apply the site's `world_materials` on top of its `materials`. folder: where a scene's relative path starts
    from. progress(done, total) is called after every batch. Raises `TwinbeamError` (libLLVM or Sionna RT missing) or
    `UsageRefused` (the scene cannot serve).
    """
    scene = _Scene.load(site, settings, world, folder)
    users = scene.outdoor(site.users.grid_m())
    if len(users) == 0:
        raise UsageRefused("no outdoor point in the user area", where=site.name, mend="move or enlarge [users]")
    links = 2 if site.ris else 1
    report = progress or (lambda done, total: None)
    bs_user = scene.trace(site.bs, site.bs.pattern, users, lambda done: report(done, links * len(users)))
    bs_ris, ris_user = _empty_table(1), _empty_table(len(users))
    if site.ris:
        panel = np.array([site.ris.position_m])
        bs_ris = scene.trace(site.bs, site.bs.pattern, panel, lambda done: None)
        if bs_ris.paths == 0:
            raise UsageRefused("no path from base station to RIS", where=site.name, mend="move the RIS into view")
        ris_user = scene.trace(site.ris, "iso", users, lambda done: report(len(users) + done, links * len(users)))
    if bs_user.paths + ris_user.paths == 0:
        raise UsageRefused("no path reaches any user", where=site.name, mend="move the base station or [users]")
    return SiteBundle(
        site=site,
        settings=settings,
        positions_m=users,
        bs_user=bs_user,
        bs_ris=bs_ris,
        ris_user=ris_user,
        made_with={name: version(name) for name in ("sionna-rt", "mitsuba", "drjit")},
    )


def _empty_table(links: int) -> PathTable:
    return PathTable(
        offsets=np.zeros(links + 1, np.int64),
        gain=np.zeros(0, np.complex128),
        length_m=np.zeros(0),
        departure=np.zeros((0, 3)),
        arrival=np.zeros((0, 3)),
        kind=np.zeros(0, np.uint8),
    )


@dataclass
class _Scene:
    """A loaded Sionna scene with the solver settings of one trace. rt: the `sionna.rt` module."""

    rt: Any
    scene: Any
    solver: Any
    settings: TraceSettings

    @classmethod
    def load(cls, site: Site, settings: TraceSettings, world: bool, folder: Path) -> _Scene:
        rt = _import_rt()
        scene = rt.load_scene(_scene_path(rt, site, folder))
        scene.frequency = site.carrier_hz
        overrides = {**site.materials, **(site.world_materials if world else {})}
        known = scene.radio_materials
        for name, material in overrides.items():
            if name not in known:
                mend = "the scene has " + ", ".join(sorted(known))
                raise UsageRefused(f"no material '{name}' in the scene", where=site.name, mend=mend)
            if material.relative_permittivity is not None:
                known[name].relative_permittivity = material.relative_permittivity
            if material.conductivity_s_m is not None:
                known[name].conductivity = material.conductivity_s_m
        if settings.scattering:
            for material in known.values():
                material.scattering_coefficient = settings.scattering
        return cls(rt, scene, rt.PathSolver(deterministic=True), settings)

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

    def trace(
        self,
        transmitter: Mount,
        pattern: str,
        receivers_m: npt.NDArray[np.float64],
        done: Callable[[int], None],
    ) -> PathTable:
        """Paths from one antenna at `transmitter` to isotropic antennas at `receivers_m` [R, 3]."""
        self.scene.tx_array = self._antenna(pattern)
        self.scene.rx_array = self._antenna("iso")
        orientation = [float(np.radians(angle)) for angle in (transmitter.yaw_deg, transmitter.pitch_deg, 0.0)]
        self.scene.add(self.rt.Transmitter("tx", [float(x) for x in transmitter.position_m], orientation=orientation))
        links: list[_Link] = []
        for start in range(0, len(receivers_m), BATCH):
            batch = receivers_m[start : start + BATCH]
            links += list(self._trace_batch(batch))
            done(min(start + BATCH, len(receivers_m)))
        self.scene.remove("tx")
        return _table(links)

    def _antenna(self, pattern: str) -> Any:
        return self.rt.PlanarArray(num_rows=1, num_cols=1, pattern=pattern, polarization="V")

    def _trace_batch(self, receivers_m: npt.NDArray[np.float64]) -> Iterator[_Link]:
        # A short batch is filled up with its last receiver, so that the compiled kernels fit.
        padded = np.concatenate([receivers_m, np.repeat(receivers_m[-1:], BATCH - len(receivers_m), axis=0)])
        for index, position in enumerate(padded):
            self.scene.add(self.rt.Receiver(f"rx{index}", [float(x) for x in position]))
        settings, count = self.settings, len(receivers_m)
        found = self._solve(count, settings.samples, los=True, diffraction=settings.diffraction)
        if settings.scattering:
            # On its own: rough walls yield so many paths that in one pass they would crowd out the others.
            scattered = self._solve(count, settings.scattering_samples, los=False, diffuse_reflection=True)
            found = [link.joined(extra.of_kind(DIFFUSE)) for link, extra in zip(found, scattered, strict=True)]
        for index in range(len(padded)):
            self.scene.remove(f"rx{index}")
        for link in found:
            yield link.strongest(settings.max_paths)

    def _solve(self, receivers: int, samples: int, **interactions: bool) -> list[_Link]:
        """All paths to the first `receivers` receivers; `TwinbeamError` where the solver had to leave some out."""
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
        valid = np.array(paths.valid).astype(bool)[:, 0, :]
        if valid.sum() > 0.9 * _MAX_PATHS:
            raise TwinbeamError(
                f"{valid.sum()} paths fill the solver's buffer, some may be missing",
                where="[twin] or [world] of the site file",
                mend="fewer samples or scattering_samples",
            )
        return _links(paths, valid, receivers)


@dataclass(frozen=True)
class _Link:
    """The paths of one link; fields as in `PathTable`."""

    gain: npt.NDArray[np.complex128]
    length_m: npt.NDArray[np.float64]
    departure: npt.NDArray[np.float64]
    arrival: npt.NDArray[np.float64]
    kind: npt.NDArray[np.uint8]

    def _rows(self, rows: npt.NDArray[Any]) -> _Link:
        return _Link(self.gain[rows], self.length_m[rows], self.departure[rows], self.arrival[rows], self.kind[rows])

    def of_kind(self, flag: int) -> _Link:
        """The paths with an interaction of this kind."""
        return self._rows(np.flatnonzero(self.kind & flag))

    def joined(self, other: _Link) -> _Link:
        """The paths of both."""
        return _Link(
            np.concatenate([self.gain, other.gain]),
            np.concatenate([self.length_m, other.length_m]),
            np.concatenate([self.departure, other.departure]),
            np.concatenate([self.arrival, other.arrival]),
            np.concatenate([self.kind, other.kind]),
        )

    def strongest(self, count: int) -> _Link:
        """At most `count` paths, strongest first, without those `_FLOOR_DB` below the first."""
        power = np.abs(self.gain) ** 2
        order = np.argsort(-power, kind="stable")[:count]
        floor = power.max(initial=0.0) * 10 ** (_FLOOR_DB / 10)
        return self._rows(order[(power[order] > 0) & (power[order] >= floor)])


def _links(paths: Any, valid: npt.NDArray[np.bool_], receivers: int) -> list[_Link]:
    """The valid paths of the first receivers. valid [R, L]."""
    real, imaginary = (np.array(part, np.float64)[:, 0, 0, 0, :] for part in paths.a)
    length_m = np.array(paths.tau, np.float64)[:, 0, :] * SPEED_OF_LIGHT_M_S
    departure = _unit(np.array(paths.theta_t)[:, 0, :], np.array(paths.phi_t)[:, 0, :])
    arrival = _unit(np.array(paths.theta_r)[:, 0, :], np.array(paths.phi_r)[:, 0, :])
    kind = np.bitwise_or.reduce(np.array(paths.interactions).astype(np.uint8)[:, :, 0, :], axis=0)
    gain = real + 1j * imaginary
    return [
        _Link(
            gain[link, keep],
            length_m[link, keep],
            departure[link, keep],
            arrival[link, keep],
            kind[link, keep],
        )
        for link, keep in enumerate(valid[:receivers])
    ]


def _unit(theta: npt.NDArray[Any], phi: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Unit vectors of zenith angle theta and azimuth phi. Shape [..., 3]."""
    theta, phi = theta.astype(np.float64), phi.astype(np.float64)
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)


def _table(links: list[_Link]) -> PathTable:
    counts = [len(link.gain) for link in links]
    return PathTable(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        gain=np.concatenate([link.gain for link in links]),
        length_m=np.concatenate([link.length_m for link in links]),
        departure=np.concatenate([link.departure for link in links]),
        arrival=np.concatenate([link.arrival for link in links]),
        kind=np.concatenate([link.kind for link in links]),
    )


def _import_rt() -> Any:
    choose_libllvm()
    try:
        import sionna.rt as rt
    except ImportError as error:
        raise TwinbeamError(f"tracing needs Sionna RT: {error}", mend="pip install 'twinbeam[twin]'") from None
    return rt


def _scene_path(rt: Any, site: Site, folder: Path) -> str:
    """A scene bundled with Sionna RT by its name, or a Mitsuba XML file by its path."""
    if site.scene.endswith(".xml"):
        path = folder / site.scene
        if not path.is_file():
            raise UsageRefused("no such scene file", where=str(path), mend="a Mitsuba XML file")
        return str(path)
    bundled = getattr(rt.scene, site.scene, None)
    if not isinstance(bundled, str):
        raise UsageRefused(
            f"no bundled scene '{site.scene}'", where=site.name, mend="munich, etoile, … or an .xml file"
        )
    return bundled
