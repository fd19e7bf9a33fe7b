"""Data sets on a Ray cluster (extra `cluster`): actors that keep scene and compiled kernels. Nothing else imports Ray.

Batches come back over Ray's object store and are written here, so that only this machine needs the folder.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from ingest.errors import TwinbeamError, UsageRefused
from sim.datasets.executors import Attempts
from sim.datasets.spec import Plan
from sim.datasets.workshop import Made, Refused, Workshop

LOCAL = "local"
"""The address that means a cluster of its own on this machine, ended with the set."""

LOCAL_WORKERS = 2
_STORE_BYTES = 256 << 20
_THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}


class RayExecutor:
    """Actors of a Ray cluster, one core each; `workers` of them, or as many as the cluster has cores."""

    def __init__(self, plan: Plan, address: str, workers: int | None) -> None:
        ray = _import_ray()
        self._ray = ray
        self._connect(address, workers)
        # More actors than cores would wait for each other: each is given a batch before it runs.
        in_all = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.workers = min(workers or in_all, in_all)
        environment = {"env_vars": _THREADS}
        self._actor = ray.remote(num_cpus=1, max_restarts=0, runtime_env=environment)(Workshop)
        self._plan = ray.put(plan)
        self._at: dict[Any, tuple[Any, int]] = {}
        self._attempts = Attempts()

    @property
    def deaths(self) -> int:
        return self._attempts.deaths

    def run(self, batches: Iterable[int]) -> Iterator[Made]:
        waiting = deque(batches)
        idle: list[Any] = []
        while waiting or self._at:
            while waiting and len(self._at) < self.workers:
                actor = idle.pop() if idle else self._actor.remote(self._plan, 1)
                batch = waiting.popleft()
                self._at[actor.make.remote(batch)] = actor, batch
            finished, _ = self._ray.wait(list(self._at), num_returns=1)
            for reference in finished:
                actor, batch = self._at.pop(reference)
                try:
                    result: Made | Refused = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    self._attempts.died(batch, f"by {type(error).__name__}")
                    waiting.appendleft(batch)
                    continue
                if isinstance(result, Refused):
                    raise result.raised()
                idle.append(actor)
                yield result

    def close(self) -> None:
        self._ray.shutdown()

    def _connect(self, address: str, workers: int | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == LOCAL:
            options |= {
                "address": LOCAL,
                "num_cpus": workers or LOCAL_WORKERS,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            }
        else:
            options["address"] = address
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            mend = "host:port of a cluster's head, ray://host:10001, or local; RAY_AUTH_MODE=token if it wants a token"
            raise UsageRefused(f"no Ray cluster: {reason}", where=f"--ray {address}", mend=mend) from None


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the user wants it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise TwinbeamError(f"--ray needs Ray: {error}", mend="pip install 'twinbeam[cluster]'") from None
    return ray
