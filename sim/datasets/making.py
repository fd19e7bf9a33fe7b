"""`dataset make`: from a specification to a folder of shards and their manifest, in one go or in many."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ingest.errors import TwinbeamError, UsageRefused
from sim.bundle import file_digest
from sim.datasets.executors import Executor, LocalExecutor, cores
from sim.datasets.folder import DatasetFolder, held_folder
from sim.datasets.shards import shard_file
from sim.datasets.spec import BATCH, Plan, load_plan
from sim.datasets.telling import Teller
from sim.datasets.workshop import Made
from sim.llvm import choose_libllvm

_MOST_WORKERS = 1024


def make_dataset(spec: Path, out: Path | None, *, ray: str | None = None, workers: int | None = None) -> dict[str, Any]:
    """Make the set that the file `spec` describes, or what is missing of it; the fields of CLI-JSON.

    out: its folder, by default the set's name. ray: address of a cluster, "local" for one of its own. workers: 1 to
    1024, by default a core each. Raises `UsageRefused`, `InputRefused` or `TwinbeamError`; after Ctrl-C as well, and
    what was made until then stays.
    """
    plan = load_plan(spec)
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise UsageRefused(f"{workers} workers", where="--workers", mend=f"1 to {_MOST_WORKERS}")
    if ray is None:
        choose_libllvm()  # else each worker would find out by itself that there is none
    begun = perf_counter()
    with held_folder(out or Path(plan.spec.name), plan) as folder, Teller(plan.spec.name, plan.spec.samples) as told:
        for name in folder.damaged:
            told.line(f"{name} is missing or damaged, it is made anew")
        try:
            report = _made(plan, folder, told, ray, workers)
        except KeyboardInterrupt:
            kept = sum(entry["samples"] for entry in folder.entries.values())
            text = f"stopped, {kept} of {plan.spec.samples} samples are kept"
            raise TwinbeamError(text, where=str(folder.path), mend="the same command goes on") from None
        manifest = folder.finish()
    seconds = perf_counter() - begun
    entries = list(folder.entries.values())
    rate = {"samples_per_s": round(report["made"] / seconds, 2)} if report["made"] else {}
    return {
        "name": plan.spec.name,
        "samples": plan.spec.samples,
        "shards": plan.spec.shards,
        "unreached": sum(entry["unreached"] for entry in entries),
        "seconds": round(seconds, 3),
        **report,
        **rate,
        "bytes": manifest.stat().st_size + sum(entry["bytes"] for entry in entries),
        "sha256": file_digest(manifest),
        "manifest": str(manifest),
    }


def _made(plan: Plan, folder: DatasetFolder, told: Teller, ray: str | None, workers: int | None) -> dict[str, Any]:
    """Make the shards that are missing."""
    missing = [shard for shard in range(plan.spec.shards) if shard not in folder.entries]
    told.begin(plan.spec.samples - sum(len(plan.spec.shard_range(shard)) for shard in missing))
    if not missing:
        return {"made": 0}
    batches = [batch for shard in missing for batch in _batches(plan, shard)]
    with closing(_executor(plan, len(batches), ray, workers)) as executor:
        trace_ms = _assembled(plan, folder, executor, batches, told)
        report: dict[str, Any] = {"workers": executor.workers, "deaths": executor.deaths}
    p50, p99 = (round(float(value), 2) for value in np.percentile(trace_ms, [50, 99]))
    made = sum(len(plan.spec.shard_range(shard)) for shard in missing)
    return {"made": made, "trace_ms": {"p50": p50, "p99": p99}, **report}


def _assembled(
    plan: Plan, folder: DatasetFolder, executor: Executor, batches: Sequence[int], told: Teller
) -> list[float]:
    """Put batches together to shards as they come; the time of each batch's tracing in ms."""
    waiting: dict[int, dict[int, Made]] = {}
    trace_ms = []
    for made in executor.run(batches):
        trace_ms.append(1e3 * made.trace_s)
        shard = made.batch * BATCH // plan.spec.shard_samples
        parts = waiting.setdefault(shard, {})
        parts[made.batch] = made
        wanted = _batches(plan, shard)
        if len(parts) == len(wanted):
            content, entry = shard_file(plan, shard, [parts[batch].arrays for batch in wanted])
            folder.add(shard, content, entry)
            del waiting[shard]
        told.advance(min(BATCH, plan.spec.samples - made.batch * BATCH), executor.deaths)
    return trace_ms


def _batches(plan: Plan, shard: int) -> range:
    """The batches of a shard; the last one of a set may have more samples than are wanted."""
    samples = plan.spec.shard_range(shard)
    return range(samples.start // BATCH, -(-samples.stop // BATCH))


def _executor(plan: Plan, batches: int, ray: str | None, workers: int | None) -> Executor:
    if ray is None:
        return LocalExecutor(plan, min(workers or cores(), batches))
    from sim.datasets.on_ray import RayExecutor

    return RayExecutor(plan, ray, workers)
