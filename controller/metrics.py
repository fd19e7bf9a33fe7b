"""What Prometheus sees: names by its conventions, latencies in seconds, labels from short fixed lists."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controller.audit import OutageAudit
from controller.ladder import RUNGS
from ingest.messages import BlockDecision
from ingest.topics import TOPICS

LATENCY_BUCKETS_S = (
    50e-6,
    100e-6,
    200e-6,
    500e-6,
    1e-3,
    2e-3,
    3e-3,
    5e-3,
    7e-3,
    10e-3,
    15e-3,
    20e-3,
    50e-3,
    100e-3,
)
VALIDITIES = ("learning", "converged", "drifted")


class Metrics:
    """The controller's metrics in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._info = Gauge("twinbeam_build_info", "Version of twinbeam.", ["version"], registry=registry)
        self._info.labels(version).set(1)
        self._decisions = Counter(
            "twinbeam_decisions",
            "Decisions emitted, by rung of the deadline ladder.",
            ["rung"],
            registry=registry,
        )
        for rung in RUNGS:
            self._decisions.labels(rung)
        self._missed = Counter(
            "twinbeam_deadlines_missed", "Decisions emitted after their deadline.", registry=registry
        )
        self._latency = Histogram(
            "twinbeam_decision_latency_seconds",
            "From the first frame of a block to its decision.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._stage = Histogram(
            "twinbeam_stage_seconds",
            "Time in a stage.",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._lag = Histogram(
            "twinbeam_loop_lag_seconds",
            "How late the event loop wakes up.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._inputs = Counter("twinbeam_inputs", "Messages taken in, by topic.", ["topic"], registry=registry)
        self._fresh = Gauge(
            "twinbeam_input_fresh",
            "Whether a topic brought anything lately, 1 or 0; absent before it ever did.",
            ["topic"],
            registry=registry,
        )
        self._dropped = Counter("twinbeam_inputs_dropped", "Messages let go, by reason.", ["reason"], registry=registry)
        self._lost = Counter("twinbeam_inputs_lost", "Messages that were sent and never came.", registry=registry)
        self._iq_lost = Counter(
            "twinbeam_iq_samples_lost", "Samples, by antenna array, that never came.", registry=registry
        )
        self._iq_shed = Counter(
            "twinbeam_iq_samples_shed",
            "Samples, by antenna array, let go because estimation could not keep up.",
            registry=registry,
        )
        self._unwritten = Counter("twinbeam_journal_unwritten", "Messages the journal lacks.", registry=registry)
        self._users = Gauge(
            "twinbeam_users", "Users in the last decision, by validity.", ["validity"], registry=registry
        )
        self._residual = Gauge(
            "twinbeam_residual_power_ratio",
            "Error of the twin over channel power, mean over users.",
            registry=registry,
        )
        self._power = Gauge("twinbeam_transmit_power_watts", "Power of the last precoder.", registry=registry)
        self._promised = Gauge("twinbeam_outage_promised_ratio", "Mean outage promised so far.", registry=registry)
        self._realised = Gauge("twinbeam_outage_realised_ratio", "Share of outages so far.", registry=registry)
        self._counted: Tally[str] = Tally()

    def decided(self, decision: BlockDecision, latency_s: float | None, *, missed: bool) -> None:
        """One decision went out, `latency_s` after the first frame of its block, None where it had none."""
        self._decisions.labels(decision.rung).inc()
        if latency_s is not None:
            self._latency.observe(latency_s)
        if missed:
            self._missed.inc()
        self._power.set(decision.power)
        validity: Tally[str] = Tally(decision.validity)
        for name in VALIDITIES:
            self._users.labels(name).set(validity[name])
        if len(decision.users):
            self._residual.set(float((10.0 ** (decision.residual_db / 10.0)).mean()))

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Times of the stages of one step."""
        for stage, value in seconds.items():
            self._stage.labels(stage).observe(value)

    def took_in(self, topic: str) -> None:
        """One message was accepted."""
        self._inputs.labels(topic).inc()

    def silent_for(self, topic: str, seconds: float) -> None:
        """The last message of `topic` came so long ago."""
        self._fresh.labels(topic).set(seconds <= TOPICS[topic].stale_after_s)

    def loop_lag(self, seconds: float) -> None:
        """The event loop woke up this late."""
        self._lag.observe(max(seconds, 0.0))

    def audited(self, audit: OutageAudit) -> None:
        """The state of the outage audit."""
        total = audit.total()
        self._promised.set(total.promised_outage)
        self._realised.set(total.realised_outage)

    def totals(self, dropped: Mapping[str, int], lost: int, unwritten: int) -> None:
        """Counts that others keep: drops by reason, lost messages, messages the journal lacks."""
        for reason, count in dropped.items():
            self._raise_to(f"dropped:{reason}", count, self._dropped.labels(reason))
        self._raise_to("lost", lost, self._lost)
        self._raise_to("unwritten", unwritten, self._unwritten)

    def iq_totals(self, lost: int, shed: int) -> None:
        """Samples that never came, and samples let go."""
        self._raise_to("iq_lost", lost, self._iq_lost)
        self._raise_to("iq_shed", shed, self._iq_shed)

    def _raise_to(self, key: str, total: int, counter: Counter) -> None:
        counter.inc(max(total - self._counted[key], 0))
        self._counted[key] = max(total, self._counted[key])


class TwinMetrics:
    """What Prometheus sees of a twin that is traced live; absent where none is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stale = Gauge(
            "twinbeam_twin_stale", "Whether the twin no longer follows its users, 1 or 0.", registry=registry
        )
        self._stale.set(1)
        self._age = Gauge(
            "twinbeam_twin_trace_age_seconds",
            "Since the newest trace was asked for; NaN before there was one.",
            registry=registry,
        )
        self._age.set(float("nan"))
        self._took = Gauge("twinbeam_twin_trace_seconds", "What the newest trace took.", registry=registry)
        self._deaths = Counter("twinbeam_twin_tracer_deaths", "How often the tracer has died.", registry=registry)
        self._error = Gauge(
            "twinbeam_twin_tracker_error_ratio",
            "Error power of what was predicted for the places of the newest trace over its power, over users.",
            ["of"],
            registry=registry,
        )
        self._counted = 0

    def look(
        self, *, stale: bool, age_s: float | None, trace_s: float, deaths: int, errors_db: Sequence[float]
    ) -> None:
        """How it stands now. errors_db: of each user that was predicted."""
        self._stale.set(stale)
        if age_s is not None:
            self._age.set(age_s)
            self._took.set(trace_s)
        self._deaths.inc(deaths - self._counted)
        self._counted = deaths
        if errors_db:
            ordered = sorted(10.0 ** (error_db / 10.0) for error_db in errors_db)
            self._error.labels("median").set(ordered[len(ordered) // 2])
            self._error.labels("worst").set(ordered[-1])
