"""Whether a twin that is traced live still keeps up with its users: fresh, or stale and why; each change told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TwinState = Literal["starting", "fresh", "stale"]

_DEAD_MEND = "twinbeam doctor, if it does not come back by itself"
_SLOW_MEND = "fewer rays in [twin] trace_samples, or a longer [twin] stale_after_s"

_STARTS_IN_S = 60.0


@dataclass
class Staleness:
    """What is known of the twin's freshness. Times are nanoseconds of one clock, which the caller reads.

    stale_after_s: how old the newest trace may become, counted from when it was asked for. period_s: between two
    questions. state: "starting" until the first trace comes. why, mend: of what is stale. asked_ns: when the newest
    trace was asked for. stale_s: how long it was stale for before the present state; times: how often it became so.
    """

    stale_after_s: float
    period_s: float
    state: TwinState = "starting"
    why: str = ""
    mend: str = ""
    asked_ns: int | None = None
    stale_s: float = 0.0
    times: int = 0
    _came_ns: int | None = None
    _trace_s: float = 0.0
    _since_ns: int | None = None
    _asking_ns: int | None = None

    def asking(self, now_ns: int, *, users: bool) -> None:
        """The tracer is asked, or there are no users to ask it about: then nothing can come, and nothing is late."""
        if not users:
            self._asking_ns = None
        elif self._asking_ns is None:
            self._asking_ns = now_ns

    def came(self, asked_ns: int, came_ns: int, trace_s: float) -> None:
        """A trace came that was asked for at `asked_ns`; tracing took `trace_s`."""
        self._trace_s, self.asked_ns, self._came_ns = trace_s, asked_ns, came_ns

    def look(self, now_ns: int, *, dead: str, starting: bool) -> bool:
        """Whether the state is another than at the last look. dead: what the tracer has just died of, "" if it lives.

        starting: whether it has not yet loaded the site and compiled, for which it has a minute.
        """
        before, came_ns = self.state, self._came_ns
        if dead:
            self._become("stale", now_ns, f"the tracer is dead: {dead}", _DEAD_MEND)
        elif came_ns is not None and self.asked_ns is not None:
            self._came_ns = None
            # So late is each trace, and so long it lasts until the next: twice too slow is never fresh, not in turn.
            oldest_s = (came_ns - self.asked_ns) * 1e-9 + max(self._trace_s, self.period_s)
            if oldest_s <= self.stale_after_s:
                self._become("fresh", now_ns)
            elif self.state == "starting":
                self._become("stale", now_ns, f"a trace takes {self._trace_s:.2g} s", _SLOW_MEND)
        waits_ns = max((at for at in (self.asked_ns, self._asking_ns) if at is not None), default=now_ns)
        begins = starting and self.state == "starting"
        patience_s = max(self.stale_after_s, _STARTS_IN_S if begins else 0.0)
        if self._asking_ns is not None and now_ns - waits_ns > patience_s * 1e9:
            mend = _DEAD_MEND if begins else _SLOW_MEND
            self._become("stale", now_ns, f"no trace for {patience_s:g} s", mend)
        return self.state != before

    def age_s(self, now_ns: int) -> float | None:
        """How old the newest trace is; None where there is none."""
        return None if self.asked_ns is None else (now_ns - self.asked_ns) * 1e-9

    def stale_for_s(self, now_ns: int) -> float:
        """How long it was stale for, all times together."""
        lasting_s = (now_ns - self._since_ns) * 1e-9 if self._since_ns is not None else 0.0
        return self.stale_s + lasting_s

    def _become(self, state: TwinState, now_ns: int, why: str = "", mend: str = "") -> None:
        if state == self.state:
            return
        self.stale_s, self._since_ns = self.stale_for_s(now_ns), now_ns if state == "stale" else None
        self.state, self.why, self.mend = state, why, mend
        self.times += state == "stale"
