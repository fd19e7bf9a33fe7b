"""The twin that keeps up: a thread asks the tracer where users are, and its traces come to the loop as other inputs do.

The tracer itself is passed in: Sionna RT stays out of the daemon. The loop waits for none of it; where no trace comes
it goes on with the last one, and this says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from controller.config import Config
from controller.log import logger
from controller.metrics import TwinMetrics
from controller.page.feed import PageFeed
from controller.prior import TwinPrior
from controller.session import Session
from controller.staleness import Staleness
from controller.tracking import newest_tracks
from controller.twin_frames import frame_of
from ingest.clock import Clock
from ingest.messages import Message
from sim.tracker import PathTracker, Trace

_LONGEST_WAIT_S = 0.1
"""So soon the thread sees that the run has ended."""

_JOIN_S = 10.0


class Tracer(Protocol):
    """What traces users for a live twin; `sim.tracer_process.LiveTracer` is one. Used by one thread at a time."""

    status: Literal["starting", "ready", "dead"]
    deaths: int
    last_failure: str
    trace_s: float

    def ask(self, t_ns: int, users: tuple[str, ...], positions_m: npt.NDArray[np.float64]) -> None:
        """Have users traced at positions_m [K, 3]; only the newest question counts. Never blocks."""
        ...

    def newest(self) -> Trace | None:
        """A trace that has come since the last call. Never blocks."""
        ...

    def wait(self, longest_s: float) -> None:
        """Wait for news, no longer than that."""
        ...

    def close(self) -> None:
        """End it."""
        ...


TracerStarter = Callable[[Path, int, int | None], Tracer]
"""Starts a tracer of a site file for so many users, with so many rays, or as many as the site file says."""


@dataclass
class LiveTwin:
    """A tracer beside the loop. prior: as the bundle gives it. `attend` is for the loop, and says what has changed."""

    config: Config
    session: Session
    prior: TwinPrior
    tracer: Tracer
    site_file: Path
    clock: Clock
    metrics: TwinMetrics
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _traces: int = field(default=0, init=False)
    _deaths_told: int = field(default=0, init=False)
    _errors_db: tuple[float, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        table = self.config.twin
        self.staleness = Staleness(table.stale_after_s, 1 / table.trace_hz)
        self._judge = PathTracker(self.prior.channels.arrays)

    def start(self, pass_on: Callable[[Iterable[Message]], None], failed: Callable[[Exception], None]) -> None:
        """Trace from now on. pass_on: takes traces, from the thread. failed: is told what the thread has ended by."""

        def work() -> None:
            try:
                self._trace(pass_on)
            except Exception as error:
                failed(error)

        self._thread = threading.Thread(target=work, name="twin", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End thread and tracer."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=_JOIN_S)
        self.tracer.close()

    # ---- its own thread ---------------------------------------------------------------------------------------

    def _trace(self, pass_on: Callable[[Iterable[Message]], None]) -> None:
        period_ns, due_ns = round(1e9 / self.config.twin.trace_hz), 0
        while not self._closing.is_set():
            now_ns = self.clock.now_ns()
            if now_ns >= due_ns:
                self._ask(now_ns)
                due_ns = now_ns + period_ns
            trace = self.tracer.newest()
            if trace is not None:
                pass_on((self._told(trace),))
            self.tracer.wait(min(max((due_ns - self.clock.now_ns()) * 1e-9, 0.0), _LONGEST_WAIT_S))

    def _ask(self, now_ns: int) -> None:
        """About the users that are designed for, where they said last that they are."""
        knowledge = self.session.state.knowledge  # the loop replaces it and never changes it
        block, most = self.config.block, self.config.link.max_users
        tracks = newest_tracks(knowledge, now_ns, block.stale_after_s, most) if knowledge is not None else {}
        places = {user: track.look.position_m for user, track in tracks.items() if track.look.position_m is not None}
        self.staleness.asking(now_ns, users=bool(places))
        if places:
            self.tracer.ask(now_ns, tuple(places), np.array(list(places.values())))

    def _told(self, trace: Trace) -> Message:
        """A trace as a message, judged by what was predicted: here, since that takes too long for the loop."""
        came_ns, trace_s = self.clock.now_ns(), self.tracer.trace_s
        self._judge.take(trace)
        self._traces += 1
        self.staleness.came(trace.t_ns, came_ns, trace_s)
        errors_db, life = self._judge.errors_db, self.tracer.deaths
        frame = frame_of(trace, errors_db, epoch=life, seq=self._traces, came_ns=came_ns, trace_s=trace_s)
        self._errors_db = tuple(error_db for error_db in frame.errors_db if error_db is not None)
        return frame

    # ---- the loop ---------------------------------------------------------------------------------------------

    def attend(self, page: PageFeed | None) -> None:
        """Say what has changed since the last call: one line of log, metrics, the page's mark."""
        tracer, now_ns, deaths = self.tracer, self.clock.now_ns(), self.tracer.deaths
        dead = tracer.last_failure if deaths > self._deaths_told else ""
        self._deaths_told = deaths
        if self.staleness.look(now_ns, dead=dead, starting=tracer.status == "starting"):
            self._log()
        stale, age_s = self.staleness.state != "fresh", self.staleness.age_s(now_ns)
        errors_db = self._errors_db
        self.metrics.look(stale=stale, age_s=age_s, trace_s=tracer.trace_s, deaths=deaths, errors_db=errors_db)
        if page is not None:
            page.twin = {
                "state": self.staleness.state,
                "why": self.staleness.why,
                "age_s": None if age_s is None else round(age_s, 3),
                "trace_ms": round(tracer.trace_s * 1e3, 1),
                "error_db": round(float(np.median(errors_db)), 1) if errors_db else None,
            }

    def _log(self) -> None:
        staleness, where = self.staleness, str(self.site_file)
        if staleness.state == "stale":
            logger().warning("twin stale", why=staleness.why, where=where, mend=staleness.mend)
        else:
            logger().info("twin fresh", where=where, trace_ms=round(self.tracer.trace_s * 1e3, 1))

    def summary(self) -> dict[str, Any]:
        """What became of it, in the fields of CLI-JSON."""
        staleness = self.staleness
        found: dict[str, Any] = {
            "stale": staleness.state != "fresh",
            "stale_times": staleness.times,
            "stale_s": round(staleness.stale_for_s(self.clock.now_ns()), 3),
            "deaths": self.tracer.deaths,
        }
        return found | ({"why": staleness.why} if staleness.why else {})
