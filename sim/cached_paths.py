"""Paths whose geometry is traced once and whose fields are computed again and again, with their derivatives.

Where paths run depends on walls alone. What a material, the array's orientation or its pattern changes is only the
field along them, which Sionna RT replays in a fraction of the time and differentiates (Dr.Jit's forward mode).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError
from sim.paths import PathTable
from sim.site import BaseStation
from sim.traced_links import Chains, motion
from sim.tracer import SceneTracer

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_MAX_PATHS = 1_000_000
_RAYS_TO_LINKS, _FEWEST_RAYS = 30_000_000, 10_000
"""Rays times links, each of which takes about a hundred bytes while candidates of paths are looked for."""


@dataclass(frozen=True)
class FieldSettings:
    """What fields depend on: yaw and pitch of the array, and relative permittivity and conductivity of materials."""

    yaw_deg: float
    pitch_deg: float
    materials: dict[str, tuple[float, float]]


class CachedPaths:
    """Paths from a base station to receivers_m [K, 3], by the settings of `tracer`, but for scattering of rough walls.

    All links are traced at once, and where they are many, with fewer rays: 30 million over their number, or 10 000.

    `geometry` are the paths without gains; `materials` are the names of those that paths meet and whose constants
    matter, in a fixed order. Raises `TwinbeamError` where paths do not fit.
    """

    def __init__(self, tracer: SceneTracer, transmitter: BaseStation, receivers_m: Real) -> None:
        self._tracer, self._transmitter = tracer, transmitter
        self._links = len(receivers_m)
        self._samples = min(tracer.settings.samples, max(_RAYS_TO_LINKS // max(self._links, 1), _FEWEST_RAYS))
        with self._devices(receivers_m):
            self._trace()
        table = self._geometry(receivers_m)
        order = np.lexsort((np.arange(len(self._targets)), self._targets))
        self._order = order[transmitter.sees(table.departure)[order]]
        counts = np.bincount(self._targets[self._order], minlength=self._links)
        self.geometry = table.chosen(self._order, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        self.materials = tuple(sorted(name for name, known in tracer.scene.radio_materials.items() if known.is_used))
        plain = self.gains(self.nominal, ())[0]
        met = [name for name in self.materials if np.any(self.gains(self._denser(name), ())[0] != plain)]
        self.materials = tuple(met)

    @property
    def nominal(self) -> FieldSettings:
        """Everything as the site and the scene have it."""
        known = self._tracer.scene.radio_materials
        constants = {
            name: (float(known[name].relative_permittivity[0]), float(known[name].conductivity[0]))
            for name in self.materials
        }
        return FieldSettings(self._transmitter.yaw_deg, self._transmitter.pitch_deg, constants)

    def _denser(self, name: str) -> FieldSettings:
        """Nominal but for one material, of twice the permittivity."""
        nominal = self.nominal
        permittivity, conductivity = nominal.materials[name]
        return replace(nominal, materials={**nominal.materials, name: (2 * permittivity, conductivity)})

    def table(self, settings: FieldSettings) -> PathTable:
        """The paths with the gains that they have under `settings`."""
        return replace(self.geometry, gain=self.gains(settings, ())[0])

    def gains(self, settings: FieldSettings, by: tuple[str, ...]) -> tuple[Complex, Complex]:
        """Gains [L] of all paths and their derivatives [len(by), L].

        by: "yaw", "pitch" [per radian], "permittivity NAME" and "conductivity NAME" [per S/m]. Derivatives are Sionna
        RT's own; the geometry does not depend on them.
        """
        import drjit as dr

        value: Complex | None = None
        columns = []
        for name in by or ("",):
            gain, slope = self._field(settings, name)
            value = gain
            if by:
                columns.append(slope)
        assert value is not None
        dr.flush_malloc_cache()
        return value[self._order], np.array(columns, np.complex128).reshape(len(by), len(value))[:, self._order]

    def _field(self, settings: FieldSettings, by: str) -> tuple[Complex, Complex]:
        """Gains in the solver's own order, and their derivative by one of the settings; zeros for none."""
        import drjit as dr
        import mitsuba as mi

        step = mi.Float(0.0)
        if by:
            dr.enable_grad(step)
        what, _, material = by.partition(" ")
        angles = [float(np.radians(angle)) for angle in (settings.yaw_deg, settings.pitch_deg)]
        yaw, pitch = (dr.opaque(mi.Float, angle) for angle in angles)
        yaw, pitch = yaw + step if what == "yaw" else yaw, pitch + step if what == "pitch" else pitch
        with self._with_materials(settings, what, material, step):
            gain = self._replayed(mi.Point3f(yaw, pitch, mi.Float(0.0)))
            slope = np.zeros(len(self._targets), np.complex128)
            if by:
                dr.forward(step)
                slope = _complex(dr.grad(gain))
            return _complex(dr.detach(gain)), slope

    @contextmanager
    def _with_materials(self, settings: FieldSettings, what: str, material: str, step: Any) -> Iterator[None]:
        """Materials as `settings` have them, one of them moving with `step`; as they were afterwards."""
        import drjit as dr
        import mitsuba as mi

        known = self._tracer.scene.radio_materials
        before = {name: (known[name].relative_permittivity, known[name].conductivity) for name in settings.materials}
        try:
            for name, (permittivity, conductivity) in settings.materials.items():
                moves = name == material
                eta, sigma = dr.opaque(mi.Float, permittivity), dr.opaque(mi.Float, conductivity)
                known[name].relative_permittivity = eta + step if moves and what == "permittivity" else eta
                known[name].conductivity = sigma + step if moves and what == "conductivity" else sigma
            yield
        finally:
            for name, (eta, sigma) in before.items():
                known[name].relative_permittivity, known[name].conductivity = eta, sigma

    def _replayed(self, orientation: Any) -> Any:
        """Fields along the cached paths, a Dr.Jit array [L] in the solver's order."""
        scene, solver, settings = self._tracer.scene, self._tracer.solver, self._tracer.settings
        before = solver.loop_mode
        solver.loop_mode = "evaluated"  # a symbolic loop has no derivatives, and is compiled anew for every value
        try:
            found = solver._field_calculator(
                wavelength=scene.wavelength,
                paths=self._buffer,
                samples_per_src=self._samples,
                diffraction=settings.diffraction,
                src_positions=self._source,
                tgt_positions=self._target_points,
                src_orientations=orientation,
                tgt_orientations=self._target_turns,
                src_antenna_patterns=self._patterns[0],
                tgt_antenna_patterns=self._patterns[1],
            )
        finally:
            solver.loop_mode = before
        return found.a[0][0]

    @contextmanager
    def _devices(self, receivers_m: Real) -> Iterator[None]:
        tracer, scene = self._tracer, self._tracer.scene
        scene.tx_array, scene.rx_array = tracer.antenna(self._transmitter.pattern), tracer.antenna("iso")
        turn = [float(np.radians(angle)) for angle in (self._transmitter.yaw_deg, self._transmitter.pitch_deg, 0.0)]
        place = [float(x) for x in self._transmitter.position_m]
        scene.add(tracer.rt.Transmitter("tx", place, orientation=turn))
        for index, position in enumerate(receivers_m):
            scene.add(tracer.rt.Receiver(f"rx{index}", [float(x) for x in position]))
        try:
            yield
        finally:
            for name in ("tx", *(f"rx{index}" for index in range(len(receivers_m)))):
                scene.remove(name)

    def _trace(self) -> None:
        """Sionna RT's stages up to the fields; the buffer that they fill is what is cached."""
        import drjit as dr
        from drjit import eval as computed

        scene, solver, settings = self._tracer.scene, self._tracer.solver, self._tracer.settings
        self._source, turns, *_ = scene.sources(True, True)
        self._target_points, self._target_turns, *_ = scene.targets(True, True)
        self._patterns = tuple(array.antenna_pattern.patterns for array in (scene.tx_array, scene.rx_array))
        scene.all_set(radio_map=False)
        dr.make_opaque(self._source, self._target_points, turns, self._target_turns)
        buffer = solver._candidate_generator(
            mi_scene=scene.mi_scene,
            src_positions=self._source,
            tgt_positions=self._target_points,
            samples_per_src=self._samples,
            max_num_paths_per_src=_MAX_PATHS,
            max_depth=settings.max_depth,
            los=True,
            specular_reflection=True,
            diffuse_reflection=False,
            refraction=settings.refraction,
            diffraction=settings.diffraction,
            edge_diffraction=False,
            seed=settings.seed,
        )
        buffer.schedule()
        computed()
        if int(buffer.paths_counter[0]) >= _MAX_PATHS:
            raise TwinbeamError("candidates of paths fill the solver's buffer", mend="fewer links or [twin] samples")
        buffer.shrink()
        buffer.detach_geometry()
        buffer = solver._image_method(
            scene=scene.mi_scene,
            paths=buffer,
            src_positions=self._source,
            tgt_positions=self._target_points,
            diffraction=settings.diffraction,
            diffraction_lit_region=True,
        )
        buffer.discard_invalid()
        buffer.schedule()
        computed()
        self._buffer = buffer

    def _geometry(self, receivers_m: Real) -> PathTable:
        """The cached paths in the solver's order as one link, without gains."""
        buffer = self._buffer
        count = int(buffer.buffer_size)
        self._targets = np.array(buffer.target_indices, np.int64)[:count]
        depth = int(buffer.depth_dim_size)
        kinds = np.array(buffer.interaction_types).reshape(count, depth).astype(np.uint8)
        vertices = [
            np.array(axis).reshape(count, depth) for axis in (buffer.vertices_x, buffer.vertices_y, buffer.vertices_z)
        ]
        vertices_m = np.stack(vertices, axis=-1).astype(np.float64)
        ends_m = receivers_m[self._targets]
        source_m = np.array(self._transmitter.position_m, np.float64)
        chains = Chains(kinds, vertices_m, source_m, ends_m)
        inside = kinds > 0
        points = np.concatenate(
            [
                np.broadcast_to(source_m, (count, 1, 3)),
                np.where(inside[:, :, None], vertices_m, ends_m[:, None]),
                ends_m[:, None],
            ],
            axis=1,
        )
        length_m = np.linalg.norm(np.diff(points, axis=1), axis=2).sum(axis=1)
        reach_m, mirror = motion(chains, length_m)
        return PathTable(
            offsets=np.array([0, count]),
            gain=np.zeros(count, np.complex128),
            length_m=length_m,
            departure=np.array(buffer.k_tx, np.float64).reshape(3, -1).T,
            arrival=np.array(buffer.k_rx, np.float64).reshape(3, -1).T,
            kind=np.bitwise_or.reduce(kinds, axis=1),
            reach_m=reach_m,
            mirror=mirror,
        )


def _complex(values: Any) -> Complex:
    return np.asarray(np.array(values.real, np.float64) + 1j * np.array(values.imag, np.float64))
