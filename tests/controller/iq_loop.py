"""The loop from IQ to outcome in lockstep, without wire, processes or clock: every decision is in time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.assembly import build_pipeline
from controller.config import config_from
from controller.iq_demo import receiver_table
from controller.iq_estimator import IqEstimator
from controller.on_air import OnAir
from controller.session import Session
from ingest.antenna_calibration import write_calibration
from ingest.messages import BlockDecision, ChannelFrame, IqBlock, Message, OutcomeFrame, StepBudget
from sim.channels import SiteChannels
from sim.iq_testbed import IqTestbed
from sim.testbed import TestbedSettings

PERIOD_S, LEAD_S = 20e-3, 17e-3
_DECIDED_S = 8e-3
"""When in its block a decision goes out."""


@dataclass
class Played:
    """What came of a run. frames: as they were joined."""

    session: Session
    testbed: IqTestbed
    estimator: IqEstimator
    frames: list[ChannelFrame] = field(default_factory=list)
    decisions: list[BlockDecision] = field(default_factory=list)
    outcomes: list[OutcomeFrame] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)


def play_iq(
    world: SiteChannels, bundle: str, folder: Path, blocks: int, *, users: int = 3, seed: int = 1, **tables: Any
) -> Played:
    """`blocks` coherence blocks of a site in which the twin is `bundle`."""
    settings = TestbedSettings(users=users, period_s=PERIOD_S, lead_s=LEAD_S, speed_m_s=0.35, seed=seed)
    testbed = IqTestbed(world, settings)
    calibration = folder / "antennas.json"
    write_calibration(calibration, testbed.chains.calibration(testbed.band.center_hz), force=True)
    config = config_from(
        {
            "site": {"bundle": bundle},
            "receiver": receiver_table(testbed.band) | {"antenna_calibrations": (str(calibration),)},
            "link": {"power_dbm": 33.0, "noise_dbm": -94.0},
            "zones": {"method": "grid"},
            "block": {"period_s": PERIOD_S, "deadline_s": 15e-3, "lead_s": LEAD_S},
            **tables,
        },
        where="test",
    )
    session = Session(build_pipeline(config)[0])
    assert config.receiver.ris_switch_s is not None
    on_air = OnAir(config.receiver.reference_names(), world.elements, config.receiver.ris_switch_s, 0.2)
    played = Played(session, testbed, IqEstimator(config, live=False))
    for block in range(blocks):
        _play_block(played, on_air, round(block * PERIOD_S * 1e9))
    played.unused = on_air.unused
    return played


def _play_block(played: Played, on_air: OnAir, now_ns: int) -> None:
    session, testbed, block = played.session, played.testbed, played.testbed.block
    for message in testbed.measure(now_ns):
        for one in played.estimator.receive(message) if isinstance(message, IqBlock) else (message,):
            if isinstance(one, ChannelFrame) and not on_air.is_user(one):
                continue
            assert getattr(one, "block", block) == block
            _put(session, on_air.joined(one), played)
    decision = session.step(
        StepBudget(
            source="test",
            epoch=0,
            seq=block,
            t_ns=now_ns,
            block=block,
            rung="linear",
            iterations=3,
            lead_s=LEAD_S,
        )
    )
    played.decisions.append(decision)
    on_air.emitted(decision, now_ns + round(_DECIDED_S * 1e9), late=False)
    for outcome in testbed.transmit(decision, now_ns + round(LEAD_S * 1e9)):
        played.outcomes.append(outcome)
        _put(session, on_air.joined(outcome), played)


def _put(session: Session, message: Message | None, played: Played) -> None:
    if isinstance(message, ChannelFrame):
        played.frames.append(message)
    if message is not None:
        session.put(message)
