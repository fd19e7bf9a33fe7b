"""What a run says of itself: percentiles, the hash of its decisions, what was learnt."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import Config
from controller.mailbox import Inputs
from controller.pipeline import Pipeline
from controller.report import RunReport, StageClock, TimeTally
from ingest.journal import pack
from tests.random_channels import budget, complex_normal, frame


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=200), st.floats(0, 100))
def test_percentiles_are_those_of_the_sorted_times_within_a_bin(times_s: list[float], percent: float) -> None:
    tally = TimeTally()
    for seconds in times_s:
        tally.add(seconds)
    exact = sorted(times_s)[max(int(np.ceil(percent / 100 * len(times_s))) - 1, 0)]
    assert tally.percentile_s(percent) == pytest.approx(exact, rel=0.012)
    assert tally.longest_s == max(times_s)


def test_names_of_percentiles() -> None:
    tally = TimeTally()
    tally.add(2e-3)
    assert tally.summary_ms(50, 99, 99.9) == pytest.approx(dict.fromkeys(("p50", "p99", "p999", "max"), 2.0), rel=0.02)


def test_memory_does_not_grow_with_the_run() -> None:
    tally = TimeTally()
    for seconds in np.random.default_rng(0).uniform(1e-4, 1e-1, 20_000):
        tally.add(float(seconds))
    assert len(tally.bins) < 64 * 11


def test_a_report_hashes_and_counts_decisions() -> None:
    rng = np.random.default_rng(1)
    controller = Pipeline.build(Config(), None, {})
    state, report, clock = controller.start(), RunReport(), StageClock()
    sha = hashlib.sha256()
    for block in range(40):
        channel = frame(complex_normal(rng, 1, 4), block=block, t_ns=block * 10**7)
        state, decision = controller.step(state, Inputs(channels=(channel,)), budget(block), clock)
        report.decided(decision)
        sha.update(pack(decision))
    found = report.summary(state)
    assert found["decisions"] == 40
    assert found["ladder"] == {"linear": 40}
    assert found["decisions_sha256"] == sha.hexdigest()
    assert found["power_db"] == pytest.approx(0.0, abs=1e-4)
    assert "outage" not in found, "nobody told what they got"
    (zone,) = found["zones"]
    assert zone["zone"] == "site"
    assert zone["validity"] in ("learning", "converged", "drifted")
    assert zone["observations"] > 1
    assert zone["error_db"] == pytest.approx(0.0, abs=3.0), "unit channels without a twin: all of it is error"
    assert set(clock.summary_ms()) == {"measure", "learn", "believe", "design"}
