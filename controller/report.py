"""What a run did, in constant memory: counts, percentiles, and the hash of its decisions."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from controller.error_statistics import ErrorStatistics
from controller.pipeline import State
from controller.sinr_interval import SHARE
from ingest.journal import pack
from ingest.messages import BlockDecision, TwinFrame

_FINEST_S = 1e-7
_BINS_PER_OCTAVE = 64


@dataclass
class TimeTally:
    """A histogram of durations with bins 1.1 % wide, from 0.1 us on; percentiles to that precision."""

    bins: Counter[int] = field(default_factory=Counter)
    count: int = 0
    longest_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.bins[math.floor(math.log2(max(seconds, _FINEST_S) / _FINEST_S) * _BINS_PER_OCTAVE)] += 1
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)

    def percentile_s(self, percent: float) -> float:
        """The duration that `percent` of all do not exceed; the middle of its bin."""
        wanted, seen = percent / 100 * self.count, 0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if seen >= wanted:
                return min(float(_FINEST_S * 2 ** ((index + 0.5) / _BINS_PER_OCTAVE)), self.longest_s)
        return self.longest_s

    def summary_ms(self, *percents: float) -> dict[str, float]:
        """Percentiles and maximum in milliseconds, as CLI-JSON names them: p50, p99, p999, max."""
        named = {f"p{percent:g}".replace(".", ""): self.percentile_s(percent) for percent in percents}
        return {name: round(seconds * 1e3, 4) for name, seconds in {**named, "max": self.longest_s}.items()}


@dataclass
class StageClock:
    """The trace that a pipeline is timed with: seconds per stage of the current step, and of all."""

    tallies: dict[str, TimeTally] = field(default_factory=dict)
    last_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = perf_counter()
        yield
        seconds = perf_counter() - begun
        self.last_s[stage] = seconds
        self.tallies.setdefault(stage, TimeTally()).add(seconds)

    def summary_ms(self) -> dict[str, dict[str, float]]:
        return {
            stage: {
                "p50": round(tally.percentile_s(50) * 1e3, 4),
                "p99": round(tally.percentile_s(99) * 1e3, 4),
            }
            for stage, tally in self.tallies.items()
        }


@dataclass
class TraceTally:
    """Traces that came in for the twin: how long they took, and how far predictions were from them."""

    took: TimeTally = field(default_factory=TimeTally)
    errors_db: Counter[int] = field(default_factory=Counter)

    def add(self, frame: TwinFrame) -> None:
        """Count one."""
        self.took.add(frame.trace_s)
        self.errors_db.update(round(error_db) for error_db in frame.errors_db if error_db is not None)

    def summary(self) -> dict[str, Any]:
        """`traces`, `trace_ms`, and to a decibel `tracker_error_db` over users and traces."""
        found: dict[str, Any] = {"traces": self.took.count}
        if self.took.count:
            found["trace_ms"] = self.took.summary_ms(50, 99)
        if self.errors_db:
            found["tracker_error_db"] = {"median": self._error_db(0.5), "p90": self._error_db(0.9)}
        return found

    def _error_db(self, share: float) -> int:
        """What this share of the errors do not exceed."""
        wanted, seen, error_db = share * self.errors_db.total(), 0, 0
        for error_db in sorted(self.errors_db):
            seen += self.errors_db[error_db]
            if seen >= wanted:
                break
        return error_db


@dataclass
class RunReport:
    """Counts over the decisions of a run."""

    decisions: int = 0
    missed: int = 0
    ladder: Counter[str] = field(default_factory=Counter)
    latency: TimeTally = field(default_factory=TimeTally)
    power_sum: float = 0.0
    traces: TraceTally = field(default_factory=TraceTally)
    _hash: Any = field(default_factory=hashlib.sha256)

    def decided(self, decision: BlockDecision) -> None:
        """Count `decision` and take it into the hash."""
        self.decisions += 1
        self.ladder[decision.rung] += 1
        self.power_sum += decision.power
        self._hash.update(pack(decision))

    def emitted(self, latency_s: float | None, *, missed: bool) -> None:
        """The decision went out `latency_s` after the first frame of its block, None where it had no frames."""
        if latency_s is not None:
            self.latency.add(latency_s)
        self.missed += missed

    @property
    def decisions_sha256(self) -> str:
        """sha256 over the wire form of all decisions, in order."""
        return str(self._hash.hexdigest())

    def summary(self, state: State) -> dict[str, Any]:
        """The fields of CLI-JSON that live runs and replays share, and what was learnt of the twin's error by zone."""
        audit = state.audit
        total = audit.total()
        found: dict[str, Any] = {
            "decisions": self.decisions,
            "ladder": dict(self.ladder),
            "decisions_sha256": self.decisions_sha256,
        }
        if total.blocks:
            found["outage"] = {
                "promised": round(total.promised_outage, 6),
                "realised": round(total.realised_outage, 6),
                "blocks": total.blocks,
                "all": {"outcomes": audit.outcomes, "realised": round(audit.failed / audit.outcomes, 6)},
                "users": [
                    {
                        "user": user,
                        "promised": round(one.promised_outage, 6),
                        "realised": round(one.realised_outage, 6),
                        "blocks": one.blocks,
                        "inside": round(one.inside_share, 6),
                    }
                    for user, one in sorted(audit.users.items())
                ],
            }
            found["sinr"] = {"interval": SHARE, "inside": round(total.inside_share, 6), "blocks": total.blocks}
            found["sum_se_bps_hz"] = round(total.rate_bps_hz / audit.settled, 4)
        mean_power = self.power_sum / self.decisions if self.decisions else 0.0
        if mean_power > 0:
            found["power_db"] = round(float(10 * np.log10(mean_power)), 4) + 0.0  # never -0.0
        if self.traces.took.count:
            found["twin"] = self.traces.summary()
        if state.knowledge is not None:
            found["zones"] = [_zone(name, zone) for name, zone in sorted(state.knowledge.zones.items())]
        return found


def _zone(name: str, statistics: ErrorStatistics) -> dict[str, Any]:
    """What was learnt of the error in one zone. `error_db`: its mean power per entry of the channel."""
    return {
        "zone": name,
        "validity": statistics.validity,
        "observations": round(statistics.taught, 2),
        "nis": round(statistics.nis, 4),
        "coherence": round(statistics.coherence, 4),
        "error_db": round(float(10 * np.log10(max(float(np.mean(statistics.covariance.variances)), 1e-300))), 3),
        "rank": statistics.covariance.rank,
    }
