"""Metrics as Prometheus reads them: valid by promtool, true to what happened."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from prometheus_client import generate_latest

from controller.audit import OutageAudit
from controller.config import Config
from controller.mailbox import Inputs
from controller.metrics import Metrics, TwinMetrics
from controller.pipeline import Pipeline
from tests.random_channels import budget, complex_normal, frame


def decided() -> Metrics:
    """Metrics after one decision for one user, late, and some drops."""
    controller = Pipeline.build(Config(), None, {})
    channel = frame(complex_normal(np.random.default_rng(0), 1, 4))
    _, decision = controller.step(controller.start(), Inputs(channels=(channel,)), budget(0))
    metrics = Metrics("1.2.3")
    metrics.took_in("channel")
    metrics.silent_for("channel", 0.01)
    metrics.silent_for("outcome", 60.0)
    metrics.decided(decision, 4e-3, missed=True)
    metrics.stages({"design": 1e-3})
    metrics.loop_lag(1e-4)
    metrics.audited(OutageAudit())
    metrics.totals({"non_finite": 3, "superseded": 1}, lost=2, unwritten=0)
    twin = TwinMetrics(metrics.registry)
    twin.look(stale=False, age_s=0.3, trace_s=0.1, deaths=2, errors_db=(-20.0, -30.0, -10.0))
    twin.look(stale=True, age_s=1.3, trace_s=0.2, deaths=2, errors_db=())
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")
def test_promtool_finds_nothing_wrong() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(decided().registry), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()
    assert checked.stdout + checked.stderr == b""


def test_what_happened_is_counted() -> None:
    metrics = decided()
    assert value(metrics, "twinbeam_decisions_total", rung="linear") == 1
    assert value(metrics, "twinbeam_decisions_total", rung="hold") == 0, "known from the start, for rates"
    assert value(metrics, "twinbeam_deadlines_missed_total") == 1
    assert value(metrics, "twinbeam_decision_latency_seconds_sum") == pytest.approx(4e-3)
    assert value(metrics, "twinbeam_inputs_total", topic="channel") == 1
    assert value(metrics, "twinbeam_inputs_dropped_total", reason="non_finite") == 3
    assert value(metrics, "twinbeam_inputs_lost_total") == 2
    assert value(metrics, "twinbeam_input_fresh", topic="channel") == 1
    assert value(metrics, "twinbeam_input_fresh", topic="outcome") == 0
    assert value(metrics, "twinbeam_input_fresh", topic="feedback") is None
    assert value(metrics, "twinbeam_users", validity="learning") == 1
    assert value(metrics, "twinbeam_build_info", version="1.2.3") == 1


def test_a_live_twin_is_told() -> None:
    metrics = decided()
    assert value(metrics, "twinbeam_twin_stale") == 1
    assert value(metrics, "twinbeam_twin_trace_age_seconds") == 1.3
    assert value(metrics, "twinbeam_twin_trace_seconds") == 0.2
    assert value(metrics, "twinbeam_twin_tracer_deaths_total") == 2
    assert value(metrics, "twinbeam_twin_tracker_error_ratio", of="median") == pytest.approx(0.01)
    assert value(metrics, "twinbeam_twin_tracker_error_ratio", of="worst") == pytest.approx(0.1)
    assert value(Metrics("1.0"), "twinbeam_twin_stale") is None, "of a twin that nobody traces nothing is said"


def test_counters_never_fall() -> None:
    metrics = decided()
    metrics.totals({"non_finite": 5}, lost=2, unwritten=1)
    metrics.totals({"non_finite": 4}, lost=0, unwritten=0)
    assert value(metrics, "twinbeam_inputs_dropped_total", reason="non_finite") == 5
    assert value(metrics, "twinbeam_inputs_lost_total") == 2
    assert value(metrics, "twinbeam_journal_unwritten_total") == 1
