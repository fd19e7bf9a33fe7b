"""Frames of IQ get the position and the RIS state that were theirs, or are not used: never a guess."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.coherence import RadioBlocks
from controller.gathering import Gathering
from controller.on_air import OnAir
from ingest.messages import BlockDecision, ChannelFrame, FeedbackFrame, OutcomeFrame, no_array
from tests.random_channels import complex_normal, frame

MS = 10**6
SWITCH_S = 2e-3


def on_air() -> OnAir:
    return OnAir({"ue"}, 2, SWITCH_S, stale_after_s=0.2)


def theta(number: int) -> npt.NDArray[np.complex64]:
    return np.exp(1j * np.array([number, 2 * number])).astype(np.complex64)


def decision(seq: int, state: npt.NDArray[np.complex64], block: int | None = None) -> BlockDecision:
    nobody = np.zeros(0, np.float32)
    return BlockDecision(
        source="test",
        epoch=7,
        seq=seq,
        t_ns=0,
        block=seq if block is None else block,
        rung="silence",
        users=(),
        validity=(),
        designed_block=0,
        power=0.0,
        precoder=np.zeros((4, 0), np.complex64),
        theta=state,
        sinr_db=nobody,
        sinr_low_db=nobody,
        sinr_high_db=nobody,
        promised_outage=nobody,
        rate_target_bps_hz=nobody,
        residual_db=nobody,
    )


def outcome(seq: int, block: int, t_ms: float, epoch: int | None = 7) -> OutcomeFrame:
    return OutcomeFrame(
        source="radio",
        epoch=0,
        seq=0,
        t_ns=round(t_ms * MS),
        user="ue.0",
        block=block,
        decision_seq=seq,
        decision_epoch=epoch,
        received_power_dbm=-60.0,
        sinr_db=0.0,
        rate_bps_hz=1.0,
        ack=True,
    )


def heard(t_ms: float, user: str = "ue.0") -> ChannelFrame:
    """A frame as the receiver yields it: it knows neither a position nor the RIS."""
    made = frame(complex_normal(np.random.default_rng(1), 1, 4), user=user, t_ns=round(t_ms * MS))
    return msgspec.structs.replace(
        made, ris_patterns=no_array(1, 0), domain="effective", position_m=None, velocity_m_s=None
    )


def report(t_ms: float, x_m: float = 0.0, sent_dbm: float | None = None, user: str = "ue.0") -> FeedbackFrame:
    return FeedbackFrame(
        source="testbed",
        epoch=0,
        seq=0,
        t_ns=round(t_ms * MS),
        user=user,
        block=0,
        codec="none",
        position_m=(x_m, 1.0, 1.5),
        velocity_m_s=(2.0, 0.0, 0.0),
        sent_dbm=sent_dbm,
        codeword=no_array(0, dtype=np.float32),
        powers_dbm=no_array(0, dtype=np.float32),
        ris_pattern=no_array(0),
    )


def state_at(air: OnAir, t_ms: float) -> npt.NDArray[np.complex64] | None:
    joined = air.joined(heard(t_ms))
    if joined is None:
        return None
    assert isinstance(joined, ChannelFrame)
    return np.asarray(joined.ris_patterns[0])


def test_before_anything_was_sent_out_nothing_is_known() -> None:
    air = on_air()
    assert air.joined(heard(5)) is None
    assert air.unused == {"ris_state_unknown": 1}


def test_a_state_holds_once_it_has_had_its_time() -> None:
    air = on_air()
    air.emitted(decision(0, theta(1)), 10 * MS, late=False)
    assert state_at(air, 5) is None  # before it
    assert state_at(air, 9.5) is None  # it was sent out within the slot
    assert state_at(air, 11) is None  # perhaps not yet switched
    np.testing.assert_array_equal(state_at(air, 12), theta(1))
    assert air.unused == {"ris_state_unknown": 3}


def test_while_it_switches_nothing_is_known_and_what_stays_the_same_is() -> None:
    air = on_air()
    for seq, (state, t_ms) in enumerate([(1, 0), (1, 20), (2, 40), (2, 60)]):
        air.emitted(decision(seq, theta(state)), t_ms * MS, late=False)
    for t_ms, expected in [(3, 1), (20.5, 1), (38.5, 1), (39.5, None), (41, None), (42, 2), (61, 2), (90, 2)]:
        found = state_at(air, t_ms)
        if expected is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, theta(expected))


def test_of_a_late_decision_nobody_knows_until_an_outcome_tells() -> None:
    for told, expected in ((None, None), (0, 1), (1, 2)):
        air = on_air()
        air.emitted(decision(0, theta(1)), 0, late=False)
        air.emitted(decision(1, theta(2)), 38 * MS, late=True)
        if told is not None:
            air.joined(outcome(told, block=1, t_ms=45))
        found = state_at(air, 60)
        if expected is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, theta(expected))


def test_an_outcome_from_before_a_decision_had_its_time_says_nothing_of_it() -> None:
    air = on_air()
    air.emitted(decision(0, theta(1)), 0, late=False)
    air.emitted(decision(1, theta(2)), 38 * MS, late=True)
    air.joined(outcome(0, block=1, t_ms=39))
    assert state_at(air, 60) is None


def test_a_decision_that_was_lost_on_its_way_is_not_taken_for_on_air() -> None:
    air = on_air()
    air.emitted(decision(0, theta(1)), 0, late=False)
    air.emitted(decision(1, theta(2)), 20 * MS, late=False)
    air.joined(outcome(0, block=1, t_ms=35))
    np.testing.assert_array_equal(state_at(air, 45), theta(1))


def test_outcomes_of_another_life_or_of_the_past_change_nothing() -> None:
    air = on_air()
    for seq in range(3):
        air.emitted(decision(seq, theta(seq)), 20 * seq * MS, late=False)
    air.joined(outcome(2, block=2, t_ms=55))
    air.joined(outcome(0, block=0, t_ms=56))
    air.joined(outcome(1, block=9, t_ms=57, epoch=6))
    np.testing.assert_array_equal(state_at(air, 60), theta(2))


def test_decisions_that_leave_the_ris_alone_do_not_count() -> None:
    air = on_air()
    air.emitted(decision(0, theta(1)), 0, late=False)
    air.emitted(decision(1, no_array(0)), 20 * MS, late=True)
    np.testing.assert_array_equal(state_at(air, 21), theta(1))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 30), st.floats(0, 8), st.booleans(), st.booleans()), max_size=12
    ),
    st.floats(0, 400),
)
@settings(max_examples=200, deadline=None)
def test_what_is_told_is_what_was_set(steps: list[tuple[int, float, float, bool, bool]], t_ms: float) -> None:
    """A radio that takes decisions up within the promised time, late ones perhaps not at all: against its diary."""
    air, now_ms, diary = on_air(), 0.0, list[tuple[float, int]]()
    for seq, (state, wait_ms, switch_ms, late, drops) in enumerate(steps):
        now_ms += wait_ms
        if now_ms > t_ms + 1:
            break
        air.emitted(decision(seq, theta(state)), round(now_ms * MS), late=late)
        if not (late and drops):
            set_ms = now_ms + min(switch_ms, SWITCH_S * 1e3)
            diary = [(since_ms, one) for since_ms, one in diary if since_ms < set_ms]
            diary.append((set_ms, state))
    found = state_at(air, t_ms)
    if found is None:
        return
    before = [one for since_ms, one in diary if since_ms <= t_ms + 1e-6]
    within = [one for since_ms, one in diary if t_ms < since_ms <= t_ms + 1]
    assert before
    for one in (before[-1], *within):
        np.testing.assert_array_equal(found, theta(one))


def test_a_frame_is_placed_by_the_nearest_report_and_carried_on() -> None:
    air = on_air()
    air.emitted(decision(0, theta(0)), 0, late=False)
    for t_ms, x_m in ((10, 1.0), (110, 5.0), (210, 9.0)):
        air.joined(report(t_ms, x_m))
    air.joined(report(112, 77.0, user="ue.1"))
    joined = air.joined(heard(130))
    assert isinstance(joined, ChannelFrame)
    assert joined.position_m == (pytest.approx(5.0 + 2.0 * 0.02), 1.0, 1.5)
    assert joined.velocity_m_s == (2.0, 0.0, 0.0)


def test_a_position_that_is_too_old_is_none() -> None:
    air = on_air()
    air.emitted(decision(0, theta(0)), 0, late=False)
    air.joined(report(10))
    assert air.joined(heard(211)) is None
    assert air.unused == {"position_stale": 1}


def test_who_never_told_a_position_has_none() -> None:
    air = on_air()
    air.emitted(decision(0, theta(0)), 0, late=False)
    joined = air.joined(heard(30))
    assert isinstance(joined, ChannelFrame)
    assert joined.position_m is None


def test_sent_power_makes_a_path_gain_of_what_was_received() -> None:
    air = on_air()
    air.emitted(decision(0, theta(0)), 0, late=False)
    air.joined(report(10, sent_dbm=-20.0))
    received = heard(10)
    joined = air.joined(received)
    assert isinstance(joined, ChannelFrame)
    np.testing.assert_allclose(joined.cfr, 10 * received.cfr, rtol=1e-6)
    assert joined.noise_power == pytest.approx(100 * received.noise_power)


def test_what_says_it_itself_is_left_alone() -> None:
    air = on_air()
    full = msgspec.structs.replace(heard(30), ris_patterns=theta(3)[None], position_m=(1.0, 2.0, 3.0))
    assert air.joined(full) is full
    whole = msgspec.structs.replace(heard(30), domain="cascade")
    assert air.joined(whole) is whole
    without_ris = OnAir({"ue"}, 0, SWITCH_S, 0.2)
    alone = heard(30)
    assert without_ris.joined(alone) is alone


def test_cells_are_no_users() -> None:
    air = on_air()
    assert air.is_user(heard(0))
    assert not air.is_user(heard(0, user="pci500.ssb0"))


def test_memory_is_bounded() -> None:
    air = on_air()
    for seq in range(2000):
        air.emitted(decision(seq, theta(seq)), seq * 20 * MS, late=seq % 2 == 1)
        air.joined(report(20 * seq, user=f"ue.{seq}"))
        air.joined(report(20 * seq))
    assert len(air._emitted) <= 64
    assert len(air._reports) <= 256
    assert all(len(reports) <= 8 for reports in air._reports.values())


def test_a_report_of_a_position_starts_no_block() -> None:
    gathering = Gathering()
    gathering.take(report(3))
    assert (gathering.first_ns, gathering.block, gathering.heard) == (None, None, set())
    gathering.take(msgspec.structs.replace(heard(5), block=4))
    assert (gathering.first_ns, gathering.block, gathering.is_complete) == (5 * MS, 4, True)
    gathering.end()
    gathering.take(msgspec.structs.replace(heard(6), block=4))  # a straggler waits for its block's successor
    assert gathering.heard == set()
    gathering.take(msgspec.structs.replace(heard(25, user="ue.1"), block=5))
    assert not gathering.is_complete
    gathering.take(msgspec.structs.replace(heard(26), block=5))
    assert gathering.is_complete


def test_blocks_are_numbered_by_the_radio_s_samples() -> None:
    blocks = RadioBlocks(20e-3)
    assert [blocks.number("a", 0, time_s) for time_s in (0.1213, 0.1399, 0.1401, 9.99)] == [6, 6, 7, 499]
    # Another radio began later: it is in step with the first from then on.
    assert [blocks.number("b", 0, time_s) for time_s in (0.001, 0.041)] == [499, 501]
    assert blocks.number("a", 0, 10.0) == 500
    # The first one began anew, and so do its blocks.
    assert blocks.number("a", 1, 0.02) == 1
