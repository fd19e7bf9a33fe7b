"""Where samples are made: a scene that stays loaded and compiled, and makes one batch after another.

It runs in a process or a Ray actor of its own, is told numbers of batches and gives back arrays or a refusal.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError, UsageRefused
from sim.channels import SiteArrays
from sim.datasets.positions import PositionDraw
from sim.datasets.scene_files import scene_digest
from sim.datasets.shaping import as_taps, earliest_s, on_tones, path_responses
from sim.datasets.spec import BATCH, Plan, installed_versions
from sim.fidelity.position import position_offsets_m
from sim.paths import PathTable, empty_table

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Made:
    """A batch: its number, an array per column with the samples first, and how long its tracing took."""

    batch: int
    arrays: Arrays
    trace_s: float


@dataclass(frozen=True)
class Refused:
    """Why a batch cannot be made: the fields of a `TwinbeamError`."""

    exit_code: int
    what: str
    where: str
    mend: str

    def raised(self) -> TwinbeamError:
        """The error again, on the other side of a process."""
        error = TwinbeamError(self.what, where=self.where, mend=self.mend)
        error.exit_code = self.exit_code
        return error


class Workshop:
    """Makes batches of a plan. threads: as many as the tracer may use; what it finds does not depend on it."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self._plan, self._threads = plan, threads
        self._maker: _Maker | None = None

    def make(self, batch: int) -> Made | Refused:
        """A batch. The scene is loaded for the first one."""
        try:
            if self._maker is None:
                _refuse_other_makers(self._plan)
                self._maker = _Maker(self._plan, self._threads)
            return self._maker.make(batch)
        except TwinbeamError as error:
            return Refused(error.exit_code, error.what, error.where, error.mend)
        except Exception as error:  # whatever a library raises ends the set with a line, not in a dead worker
            return Refused(1, f"a batch failed: {type(error).__name__}: {error}", f"batch {batch}", "")


def _refuse_other_makers(plan: Plan) -> None:
    """On another machine of a cluster there may be other versions, or another scene."""
    here = installed_versions()
    for name, wanted in plan.made_with.items():
        if here[name] != wanted:
            text = f"has {name} {here[name]} where the set is begun with {wanted}"
            raise TwinbeamError(text, where=platform.node(), mend="the same versions on every machine")
    if scene_digest(plan.site.scene, plan.folder) != plan.scene_sha256:
        raise TwinbeamError("has another scene", where=f"{platform.node()}: {plan.folder / plan.site.scene}")


class _Maker:
    """A loaded scene with all that does not change from batch to batch."""

    def __init__(self, plan: Plan, threads: int) -> None:
        from sim.llvm import choose_libllvm

        choose_libllvm()
        import drjit

        drjit.set_thread_count(threads)
        from sim.tracer import SceneTracer

        self._plan = plan
        site, spec = plan.site, plan.spec
        self._scene = SceneTracer.load(site, plan.settings, plan.world, plan.folder, BATCH)
        self._draw = PositionDraw(spec.positions, site.users, spec.seed, self._scene.outdoor)
        hop = empty_table(1)
        if spec.cascade is not None and site.ris is not None:
            hop = self._traced_from_bs(np.array([site.ris.position_m]))
            if hop.paths == 0:
                text = "no path from base station to RIS"
                raise UsageRefused(text, where=site.name, mend="move the RIS into view, or leave [cascade] out")
        self._arrays = SiteArrays(site, hop, hardware=plan.settings.hardware)

    def make(self, batch: int) -> Made:
        """The arrays of batch number `batch`, always of `BATCH` samples."""
        plan, samples = self._plan, range(batch * BATCH, (batch + 1) * BATCH)
        positions_m = self._draw.of(samples)
        begun = perf_counter()
        bs_user = self._traced_from_bs(positions_m)
        ris_user = empty_table(BATCH)
        if "cascade" in plan.channels and plan.site.ris is not None:
            ris_user = self._scene.trace(plan.site.ris, "iso", positions_m)
        trace_s = perf_counter() - begun
        arrays = self._channels(bs_user, ris_user) | {
            "position_m": self._told(batch, positions_m).astype("<f8"),
            "paths": np.diff(bs_user.offsets).astype("<i4"),
            "los": _in_sight(bs_user),
            "delay_s": earliest_s(bs_user).astype("<f8"),
        }
        if plan.spec.positions.draw == "tracks":
            arrays["track"] = (np.arange(samples.start, samples.stop) // plan.spec.positions.track_samples).astype(
                "<i8"
            )
        return Made(batch, arrays, trace_s)

    def _told(self, batch: int, positions_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where users are said to stand."""
        position = self._plan.settings.position
        rng = np.random.default_rng(position.seed if position.common else [position.seed, batch])
        return positions_m + position_offsets_m(position, len(positions_m), rng)

    def _traced_from_bs(self, receivers_m: npt.NDArray[np.float64]) -> PathTable:
        bs = self._plan.site.bs
        return self._scene.trace(bs, bs.pattern, receivers_m)

    def _channels(self, bs_user: PathTable, ris_user: PathTable) -> Arrays:
        spec, out = self._plan.spec, Arrays()
        responses = path_responses(self._arrays, bs_user)
        if spec.cfr is not None:
            out["cfr"] = on_tones(responses, bs_user, spec.cfr.tones_hz)
        if spec.cir is not None:
            out["cir"] = as_taps(responses, bs_user, spec.cir.taps, spec.cir.bandwidth_hz, spec.cir.before)
        if spec.cascade is not None:
            still = np.zeros((BATCH, 3))
            out["cascade"] = self._arrays.cascades(bs_user, ris_user, np.arange(BATCH), still)
        return {name: array.astype("<c8") for name, array in out.items()}


def _in_sight(table: PathTable) -> npt.NDArray[np.uint8]:
    """1 for links with a line of sight. Shape [links]."""
    return np.array([np.any(table.kind[table.rows(link)] == 0) for link in range(table.links)], np.uint8)
