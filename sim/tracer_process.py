"""The tracer in a process of its own: the twin keeps up with users while nobody waits for it.

Ray tracing takes tens of milliseconds, compiles for seconds, and its libraries abort the process on some machines.
So it is asked, works on the newest question only, and answers when it can; when it dies it is started again, and who
asks goes on with the last trace.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError
from ingest.packing import packed, unpacked
from sim.fidelity.knobs import PositionSettings
from sim.fidelity.position import user_offsets_m
from sim.paths import PathTable, empty_table
from sim.site import Site, load_site
from sim.tracker import Trace

Real = npt.NDArray[np.float64]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
"""Before a dead tracer is started again; each death in a row doubles the wait."""

_JOIN_S = 5.0

_NICENESS = 10
"""The tracer would take all cores: the others on this machine, its controller first, go before it."""

Status = Literal["starting", "ready", "dead"]


class _Question(msgspec.Struct, frozen=True):
    t_ns: int
    users: tuple[str, ...]
    positions_m: np.ndarray


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trace, and how long it took; or with `failure`, why there is none; neither: the tracer is ready."""

    question: _Question | None = None
    bs_user: PathTable | None = None
    ris_user: PathTable | None = None
    seconds: float = 0.0
    failure: str = ""


_ENCODER = msgspec.msgpack.Encoder(enc_hook=packed)
_QUESTIONS = msgspec.msgpack.Decoder(_Question, dec_hook=unpacked)
_ANSWERS = msgspec.msgpack.Decoder(_Answer, dec_hook=unpacked)


@dataclass
class LiveTracer:
    """Traces up to `most_users` users of the site file at `site_file`, by the twin's settings or the world's.

    samples: rays of a trace instead of what the settings say. status: "starting" until the scene is loaded and its
    kernels are compiled, "dead" between a death and the next start. deaths, last_failure: how often and why. trace_s:
    what the last trace took. To be used by one thread at a time.
    """

    site_file: Path
    most_users: int = 8
    world: bool = False
    samples: int | None = None
    status: Status = field(default="dead", init=False)
    deaths: int = field(default=0, init=False)
    last_failure: str = field(default="", init=False)
    trace_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        load_site(self.site_file)  # a wrong file is told here and not by a process that dies
        self._wait_s = _FIRST_WAIT_S
        self._again_at_s = 0.0
        self._pending: _Question | None = None
        self._asked = False
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._start()

    def ask(self, t_ns: int, users: tuple[str, ...], positions_m: Real) -> None:
        """Have users traced at positions_m [K, 3]; a question that is still waiting is forgotten. Never blocks.

        Raises ValueError for more than `most_users`.
        """
        if len(users) > self.most_users:
            raise ValueError(f"{len(users)} users, the tracer was started for {self.most_users}")
        if users:
            self._pending = _Question(t_ns, users, np.ascontiguousarray(positions_m, np.float64))
        self._send()

    def newest(self) -> Trace | None:
        """A trace that has come since the last call, None where there is none. Never blocks; starts the dead again."""
        found = None
        try:
            while self._connection is not None and self._connection.poll():
                found = self._heard(_ANSWERS.decode(self._connection.recv_bytes())) or found
        except (EOFError, OSError):
            self._died("")
        if self._process is not None and not self._process.is_alive():
            self._died("")
        if self._process is None and time.monotonic() >= self._again_at_s:
            self._start()
        self._send()
        return found

    def wait(self, longest_s: float) -> None:
        """Wait for news of the tracer, an answer or its death, but no longer than that."""
        if self._process is None or self._connection is None:
            time.sleep(longest_s)
        else:
            wait([self._connection, self._process.sentinel], longest_s)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join(timeout=_JOIN_S)
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        self._again_at_s = float("inf")
        self.status = "dead"

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        asked = (theirs, str(self.site_file), self.most_users, self.world, self.samples)
        self._process = context.Process(target=_work, args=asked, name="tracer", daemon=True)
        # Ctrl-C is for who started us, from our first moment. Any thread can set a mask, and it is inherited; but to
        # start Python's resource tracker takes it off again.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.status, self._asked = "starting", False

    def _send(self) -> None:
        """Pass the waiting question on, if the tracer has nothing to do."""
        if self.status != "ready" or self._asked or self._pending is None or self._connection is None:
            return
        with suppress(OSError):  # dead: `newest` finds out
            self._connection.send_bytes(_ENCODER.encode(self._pending))
            self._pending, self._asked = None, True

    def _heard(self, answer: _Answer) -> Trace | None:
        if answer.failure:
            self._died(answer.failure)
            return None
        self.status, self._asked, self._wait_s = "ready", False, _FIRST_WAIT_S
        question = answer.question
        if question is None or answer.bs_user is None or answer.ris_user is None:
            return None
        self.trace_s = answer.seconds
        return Trace(question.t_ns, question.users, question.positions_m, answer.bs_user, answer.ris_user)

    def _died(self, why: str) -> None:
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if process is not None:
            process.join(timeout=_JOIN_S if not why else 0.1)
            if process.is_alive():
                process.kill()
            self.deaths += 1
            self.last_failure = why or f"the tracer has died with code {process.exitcode}"
        self.status = "dead"
        self._again_at_s = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)


def _work(connection: Connection, site_file: str, most_users: int, world: bool, samples: int | None) -> None:
    """The process: load, trace once for nothing, then answer questions until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a mask may be taken off by what we load
    os.nice(_NICENESS)  # before there are threads, which inherit it
    with suppress(BrokenPipeError, ConnectionResetError, EOFError):
        try:
            site = load_site(Path(site_file))
            tracer = _tracer(site, Path(site_file).parent, most_users, world, samples)
            _answer(site, tracer, _warm_up(site, most_users))
            connection.send_bytes(_ENCODER.encode(_Answer()))
            while True:
                question = _QUESTIONS.decode(connection.recv_bytes())
                connection.send_bytes(_ENCODER.encode(_answer(site, tracer, question)))
        except TwinbeamError as error:
            connection.send_bytes(_ENCODER.encode(_Answer(failure=str(error))))
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            connection.send_bytes(_ENCODER.encode(_Answer(failure=f"{type(error).__name__}: {error}")))
    os._exit(0)  # libraries' threads may not be joined on the way out


def _tracer(site: Site, folder: Path, most_users: int, world: bool, samples: int | None) -> Any:
    from sim.tracer import SceneTracer

    settings = site.world if world else site.twin
    if samples is not None:
        settings = settings.model_copy(update={"samples": samples})
    if world:
        settings = settings.model_copy(update={"position": PositionSettings()})  # of reports: the testbed errs
    return SceneTracer.load(site, settings, world=world, folder=folder, batch=most_users)


def _warm_up(site: Site, most_users: int) -> _Question:
    """Places all over the grid: what no path reaches compiles only half of what others need."""
    grid_m = site.users.grid_m()
    chosen = np.linspace(0, len(grid_m) - 1, most_users).round().astype(np.int64)
    return _Question(0, tuple(f"warm{index}" for index in range(most_users)), grid_m[chosen])


def _answer(site: Site, tracer: Any, question: _Question) -> _Answer:
    begun_s = time.perf_counter()
    # A twin that errs says of a place what is so elsewhere.
    places_m = question.positions_m - user_offsets_m(tracer.settings.position, question.users)
    bs_user = tracer.to_users(site.bs, places_m)
    ris_user = tracer.trace(site.ris, "iso", places_m) if site.ris else empty_table(len(places_m))
    return _Answer(question, bs_user, ris_user, time.perf_counter() - begun_s)
