"""Who makes batches: processes of this machine, or a Ray cluster (`sim.datasets.on_ray`), behind one interface."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Protocol

from ingest.errors import TwinbeamError
from sim.datasets.spec import Plan
from sim.datasets.workshop import Made, Refused, Workshop

MAX_DEATHS = 3
"""A batch that so many workers died at is given up."""

_JOIN_S = 5.0


class Executor(Protocol):
    """Makes batches with workers that keep scene and compiled kernels between them.

    `run` yields every batch once, in any order, and may be called once; `workers` is how many work at it. A worker
    that dies is replaced and its batch made anew; `deaths` counts them. `close` ends all workers, whatever they do.
    """

    workers: int

    @property
    def deaths(self) -> int: ...

    def run(self, batches: Iterable[int]) -> Iterator[Made]: ...

    def close(self) -> None: ...


class Attempts:
    """How often workers died at a batch."""

    def __init__(self) -> None:
        self._died: Counter[int] = Counter()

    def died(self, batch: int, how: str) -> None:
        """Count a death; `TwinbeamError` at the last one that a batch may cost."""
        self._died[batch] += 1
        if self._died[batch] >= MAX_DEATHS:
            mend = "less memory is needed by fewer samples in [trace], or fewer --workers"
            raise TwinbeamError(f"{MAX_DEATHS} workers died at it, the last {how}", where=f"batch {batch}", mend=mend)

    @property
    def deaths(self) -> int:
        return self._died.total()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass
class _Worker:
    """A process with our end of its pipe. batch: what it is at."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    batch: int


class LocalExecutor:
    """Processes of this machine; each is told its next batch when it has given back the last one."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self.workers = workers
        self._plan = plan
        self._threads = max(1, cores() // workers)
        self._running: list[_Worker] = []
        self._attempts = Attempts()

    @property
    def deaths(self) -> int:
        return self._attempts.deaths

    def run(self, batches: Iterable[int]) -> Iterator[Made]:
        waiting = deque(batches)
        while waiting or self._running:
            while waiting and len(self._running) < self.workers:
                self._running.append(self._started(waiting.popleft()))
            for pipe in wait([worker.pipe for worker in self._running]):
                worker = next(worker for worker in self._running if worker.pipe is pipe)
                result = _received(worker.pipe)
                if isinstance(result, Refused):
                    raise result.raised()
                if result is None:
                    self._bury(worker)
                    waiting.appendleft(worker.batch)
                    continue
                self._give(worker, waiting)
                yield result

    def close(self) -> None:
        for worker in self._running:
            worker.process.terminate()
        for worker in self._running:
            worker.process.join(timeout=_JOIN_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._running.clear()

    def _started(self, batch: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._plan, self._threads), name="samples", daemon=True)
        with _ignoring_interrupts():
            process.start()
        theirs.close()
        with suppress(OSError):  # dead already: who waits for it sees it
            ours.send(batch)
        return _Worker(process, ours, batch)

    def _give(self, worker: _Worker, waiting: deque[int]) -> None:
        """Its next batch, or the end."""
        if not waiting:
            worker.pipe.close()
            worker.process.join(timeout=_JOIN_S)
            worker.process.kill()  # it has nothing more to lose
            worker.process.join()
            self._running.remove(worker)
            return
        worker.batch = waiting.popleft()
        with suppress(OSError):  # dead since: the next wait sees it
            worker.pipe.send(worker.batch)

    def _bury(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(timeout=_JOIN_S)
        if worker.process.is_alive():  # it closed its pipe and stays
            worker.process.kill()
            worker.process.join()
        self._running.remove(worker)
        self._attempts.died(worker.batch, f"with code {worker.process.exitcode}")


def _received(pipe: Connection) -> Made | Refused | None:
    """What a worker has to give; None when it is dead, also in the middle of giving."""
    try:
        result = pipe.recv()
    except (EOFError, OSError):
        return None
    assert isinstance(result, Made | Refused)
    return result


def _work(pipe: Connection, plan: Plan, threads: int) -> None:
    """A worker's life: until nobody is there any more to tell it a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workshop = Workshop(plan, threads)
    with suppress(EOFError, OSError):
        while True:
            pipe.send(workshop.make(pipe.recv()))


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; those started inside leave it to us from their first moment."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
