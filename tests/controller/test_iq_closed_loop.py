"""The whole loop from IQ on, in lockstep: IQ -> DMRS -> residual -> covariance -> precoder and RIS -> outcome.

What is scored here, the world, nothing of ours ever sees: it has the twin, and what a radio hears.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingest.messages import BlockDecision, ChannelFrame
from sim.bundle import load_bundle
from sim.channels import SiteChannels
from sim.site import sites_folder
from tests.controller.iq_loop import Played, play_iq

BLOCKS = 300
USERS = ("ue.0", "ue.1", "ue.2")


@pytest.fixture(scope="module")
def world() -> SiteChannels:
    return SiteChannels(load_bundle(sites_folder() / "munich" / "world.h5"))


@pytest.fixture(scope="module", params=[1, 2])
def played(request: pytest.FixtureRequest, world: SiteChannels, tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play_iq(world, "munich", tmp_path_factory.mktemp("iq"), BLOCKS, seed=request.param)


def test_every_frame_is_joined_and_every_block_designed(played: Played) -> None:
    """But for the first: nobody knows how the RIS is set before we said so."""
    assert played.unused == {"ris_state_unknown": len(USERS)}
    assert [decision.rung for decision in played.decisions] == ["silence"] + ["linear"] * (BLOCKS - 1)
    assert {decision.users for decision in played.decisions[1:]} == {USERS}
    assert len(played.frames) == len(USERS) * (BLOCKS - 1)
    on_air: dict[int, BlockDecision] = {decision.block: decision for decision in played.decisions}
    for frame in played.frames:
        assert isinstance(frame, ChannelFrame)
        assert frame.position_m is not None
        assert frame.phases == "calibrated"
        np.testing.assert_array_equal(frame.ris_patterns[0], on_air[frame.block - 1].theta)


def test_the_ris_is_moved_meanwhile(played: Played) -> None:
    states = {decision.theta.tobytes() for decision in played.decisions}
    assert len(states) > 5


def test_what_is_learnt_of_the_twin_s_error_is_its_size(played: Played) -> None:
    """Normalised innovations come to one wherever there was time: the covariance is as large as the error."""
    knowledge = played.session.state.knowledge
    assert knowledge is not None
    visits = [sum(track.zone == zone for track in knowledge.users.values()) for zone in knowledge.zones]
    assert sum(visits) == len(USERS)
    for zone, statistics in knowledge.zones.items():
        if statistics.judged > 5:
            assert 1 / 3 < statistics.nis < 3, zone
    assert any(statistics.judged > 5 for statistics in knowledge.zones.values())


def test_sinrs_are_where_decisions_say(played: Played) -> None:
    """Nine of ten outcomes are inside the interval that was stated, of every user; and intervals say something."""
    audit = played.session.state.audit
    assert set(audit.users) == set(USERS)
    for user, one in audit.users.items():
        assert one.blocks == BLOCKS - 2  # the last one's outcomes wait for a step
        assert one.inside_share == pytest.approx(0.9, abs=0.05), user
    late = played.decisions[BLOCKS // 2 :]
    widths_db = [decision.sinr_high_db - decision.sinr_low_db for decision in late]
    assert np.median(widths_db) < 25
    told = np.concatenate([(decision.sinr_low_db + decision.sinr_high_db) / 2 for decision in late])
    by_block = {(outcome.block, outcome.user): outcome.sinr_db for outcome in played.outcomes}
    got = np.array([by_block[decision.block, user] for decision in late for user in decision.users])
    assert np.corrcoef(told, got)[0, 1] > 0.7


def test_promised_outage_comes_true(played: Played) -> None:
    total = played.session.state.audit.total()
    # Blocks follow each other: the standard error is that of about a tenth as many independent ones.
    tolerance = 0.02 + 3 * np.sqrt(total.promised_outage / (total.blocks / 10))
    assert total.realised_outage == pytest.approx(total.promised_outage, abs=tolerance)


def test_same_seed_same_decisions(world: SiteChannels, tmp_path: Path) -> None:
    first, again = (play_iq(world, "munich", tmp_path, 12, seed=1) for _ in range(2))
    assert first.session.report.decisions_sha256 == again.session.report.decisions_sha256
    assert (
        first.session.report.decisions_sha256
        != play_iq(world, "munich", tmp_path, 12, seed=3).session.report.decisions_sha256
    )
