"""The ladder tries the best affordable rung first; what a rung costs is learnt without being fooled by one outlier."""

from __future__ import annotations

import numpy as np
import pytest

from controller.ladder import DESIGNING, RUNGS, CostEstimate, Rung, from_rung

BOTH = {"robust": True, "linear": True}


def test_rungs_are_tried_downwards() -> None:
    assert from_rung("robust") == ("robust", "linear", "hold", "silence")
    assert from_rung("hold") == ("hold", "silence")
    assert from_rung("silence") == ("silence",)
    for rung in RUNGS:
        assert from_rung(rung)[0] == rung
        assert from_rung(rung)[-1] == "silence"
    assert from_rung("robust")[: len(DESIGNING)] == DESIGNING


@pytest.mark.parametrize(
    ("left_s", "available", "expected"),
    [
        (5e-3, BOTH, "robust"),
        (3e-3, BOTH, "robust"),
        (2.9e-3, BOTH, "linear"),
        (1e-3, BOTH, "linear"),
        (0.9e-3, BOTH, "hold"),
        (-1.0, BOTH, "hold"),
        (5e-3, {"linear": True}, "linear"),
        (5e-3, {"robust": False, "linear": True}, "linear"),
        (5e-3, {}, "hold"),
        (2e-3, {"robust": True}, "hold"),
    ],
)
def test_the_best_affordable_rung_is_taken(left_s: float, available: dict[Rung, bool], expected: str) -> None:
    costs = CostEstimate()
    costs.observe("robust", 3e-3)
    costs.observe("linear", 1e-3)
    assert costs.affordable(left_s, available) == expected


def test_a_rung_never_measured_is_tried() -> None:
    assert CostEstimate().affordable(0.0, BOTH) == "robust"
    assert CostEstimate().affordable(-1e-9, BOTH) == "hold"


def test_costs_find_an_upper_quantile(rng: np.random.Generator) -> None:
    """For log-normal times the estimate covers most of them, without going to the extremes."""
    costs, times = CostEstimate(), np.exp(0.3 * rng.normal(size=4000))
    estimates = []
    for seconds in times:
        costs.observe("linear", float(seconds))
        estimates.append(costs.costs_s["linear"])
    covered = np.mean(times[1000:] < np.mean(estimates[1000:]))
    assert 0.6 < covered < 0.95


def test_one_outlier_hardly_moves_a_cost() -> None:
    costs = CostEstimate()
    for _ in range(50):
        costs.observe("linear", 1e-3)
    costs.observe("linear", 3e-3)
    assert costs.affordable(1.5e-3, {"linear": True}) == "linear"
    for _ in range(50):
        costs.observe("linear", 1e-3)
    assert costs.costs_s["linear"] == pytest.approx(1e-3, rel=0.05)


def test_a_stall_of_seconds_counts_no_more_than_twice_the_usual() -> None:
    costs = CostEstimate()
    costs.observe("linear", 1e-3)
    costs.observe("linear", 10.0)
    assert costs.costs_s["linear"] <= 2e-3
    assert costs.affordable(1.5e-3, {"linear": True}) == "linear"


def test_a_lasting_rise_is_followed() -> None:
    costs = CostEstimate()
    costs.observe("linear", 1e-3)
    for _ in range(20):
        costs.observe("linear", 4e-3)
    assert costs.affordable(3e-3, {"linear": True}) == "hold"


def test_a_rung_too_dear_once_is_tried_again() -> None:
    """Cost sinks with every block that could not afford it: no rung is given up for ever."""
    costs, blocks = CostEstimate(), 0
    costs.observe("linear", 50e-3)
    while costs.affordable(5e-3, {"linear": True}) != "linear":
        blocks += 1
        assert blocks < 100
    assert blocks > 10


def test_costs_of_rungs_that_are_not_available_stay() -> None:
    costs = CostEstimate()
    costs.observe("robust", 1.0)
    costs.affordable(1e-3, {"linear": True})
    assert costs.costs_s["robust"] == 1.0
