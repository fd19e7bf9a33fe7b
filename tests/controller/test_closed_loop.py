"""The whole loop in lockstep, without wire or clock: the simulated testbed against the pipeline, on the committed site.

What is scored here, the world, the pipeline never sees: it has the twin and what the testbed measures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controller.assembly import build_pipeline
from controller.config import Config
from controller.session import Session
from ingest.messages import BlockDecision, OutcomeFrame, StepBudget
from sim.bundle import load_bundle
from sim.channels import SiteChannels
from sim.site import sites_folder
from sim.testbed import Testbed, TestbedSettings

PERIOD_S = 20e-3

Played = tuple[Session, list[BlockDecision], list[OutcomeFrame]]


@pytest.fixture(scope="module")
def world() -> SiteChannels:
    return SiteChannels(load_bundle(sites_folder() / "munich" / "world.h5"))


def play(world: SiteChannels, blocks: int, seed: int, design_every: int = 1, **tables: Any) -> Played:
    """`blocks` coherence blocks, every decision in time; designed in one of `design_every`, held in the others."""
    config = Config.model_validate(
        {
            "site": {"bundle": "munich"},
            "link": {"power_dbm": 33.0, "noise_dbm": -94.0},
            "zones": {"method": "grid"},
            "block": {"period_s": PERIOD_S, "deadline_s": 15e-3, "lead_s": 17e-3},
            **tables,
        }
    )
    session = Session(build_pipeline(config)[0])
    testbed = Testbed(world, TestbedSettings(period_s=PERIOD_S, lead_s=17e-3, speed_m_s=0.35, seed=seed))
    decisions, outcomes = [], []
    for block in range(blocks):
        now_ns = round(block * PERIOD_S * 1e9)
        for message in testbed.measure(now_ns):
            session.put(message)
        decision = session.step(
            StepBudget(
                source="test",
                epoch=0,
                seq=block,
                t_ns=now_ns,
                block=testbed.block,
                rung="linear" if block % design_every == 0 else "hold",
                iterations=3,
                lead_s=config.block.lead_s,
            )
        )
        decisions.append(decision)
        for outcome in testbed.transmit(decision, now_ns):
            session.put(outcome)
            outcomes.append(outcome)
    return session, decisions, outcomes


def settled(outcomes: list[OutcomeFrame], what: str) -> float:
    """Mean of a field of the outcomes after the first hundred blocks."""
    return float(np.mean([getattr(outcome, what) for outcome in outcomes if outcome.block >= 100]))


def test_promises_are_kept(world: SiteChannels) -> None:
    """With seed 2 one of the users walks in the shadow, where its rate target is at the edge of what can be had."""
    session, decisions, outcomes = play(world, 400, seed=2)
    total = session.state.audit.total()
    assert {decision.rung for decision in decisions} == {"linear"}
    assert total.blocks >= 0.95 * len(outcomes)
    assert total.realised_outage > 0.05
    # Blocks follow each other: the standard error is that of about a tenth as many independent ones.
    tolerance = 0.01 + 3 * np.sqrt(total.promised_outage / (total.blocks / 10))
    assert total.realised_outage == pytest.approx(total.promised_outage, abs=tolerance)


def test_a_held_design_promises_what_it_can_still_keep(world: SiteChannels) -> None:
    """Ten blocks are 0.2 s, 7 cm at walking pace: the longer a design is held, the less of it holds."""
    _, decisions, outcomes = play(world, 400, seed=2, design_every=10)
    promised = {
        rung: float(np.mean([one.promised_outage for one in decisions if one.rung == rung]))
        for rung in ("linear", "hold")
    }
    held = {one.seq for one in decisions if one.rung == "hold"}
    realised = float(np.mean([one.rate_bps_hz < 1.0 for one in outcomes if one.decision_seq in held]))
    assert promised["hold"] > promised["linear"] + 0.05
    assert promised["hold"] == pytest.approx(realised, abs=0.1)


def test_learning_the_twin_s_error_pays(world: SiteChannels) -> None:
    """Against designing from the twin's word alone, which is never corrected: more rate to the users in all."""
    trusting = {"relative_error_db": -60.0, "prior_weight": 1e9}
    learnt, trusted = 0.0, 0.0
    for seed in (1, 3):
        learnt += settled(play(world, 250, seed=seed)[2], "rate_bps_hz")
        trusted += settled(play(world, 250, seed=seed, learning=trusting)[2], "rate_bps_hz")
    assert learnt > 1.05 * trusted


@pytest.mark.parametrize("seed", [1, 4])
def test_aligning_the_ris_raises_what_users_receive(world: SiteChannels, seed: int) -> None:
    """The objective of alignment. Their rates need not follow: users fed over one RIS hear each other as well."""
    _, _, aligned = play(world, 200, seed=seed)
    _, _, fixed = play(world, 200, seed=seed, design={"ris": "fixed"})
    assert settled(aligned, "received_power_dbm") > settled(fixed, "received_power_dbm") + 0.5


def test_same_seed_same_bytes(world: SiteChannels) -> None:
    first, _, _ = play(world, 30, seed=1)
    second, _, _ = play(world, 30, seed=1)
    assert first.report.decisions_sha256 == second.report.decisions_sha256
