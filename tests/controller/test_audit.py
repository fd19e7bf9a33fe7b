"""The audit's sums are those of what was promised and what came of it; nothing is counted twice, too late, or kept for
ever."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.audit import OutageAudit, UserAudit
from ingest.messages import BlockDecision, OutcomeFrame, no_array
from sim.testbed import NO_DECISION


def decided(
    seq: int, promises: dict[str, tuple[float, float]], sinr_db: tuple[float, float] = (-1.0, 1.0)
) -> BlockDecision:
    """Decision `seq` with (promised outage, rate target) per user, all with SINRs between the two of sinr_db."""
    users = tuple(promises)
    outage, target = (np.array([promises[user][k] for user in users], np.float32) for k in (0, 1))
    return BlockDecision(
        source="test",
        epoch=0,
        seq=seq,
        t_ns=0,
        block=seq,
        rung="linear",
        users=users,
        validity=("learning",) * len(users),
        designed_block=seq,
        power=0.0,
        precoder=no_array(0, len(users)) if users else no_array(0, 0),
        theta=no_array(0),
        sinr_db=np.zeros(len(users), np.float32),
        sinr_low_db=np.full(len(users), sinr_db[0], np.float32),
        sinr_high_db=np.full(len(users), sinr_db[1], np.float32),
        promised_outage=outage,
        rate_target_bps_hz=target,
        residual_db=np.zeros(len(users), np.float32),
    )


def outcome(seq: int, user: str, rate: float) -> OutcomeFrame:
    return OutcomeFrame(
        source="radio",
        epoch=0,
        seq=0,
        t_ns=0,
        user=user,
        block=0,
        decision_seq=seq,
        received_power_dbm=-60.0,
        sinr_db=0.0,
        rate_bps_hz=rate,
        ack=True,
    )


PROMISE = {"a": (0.25, 1.0), "b": (0.5, 2.0)}


def test_a_promise_is_settled_by_its_outcome() -> None:
    audit = OutageAudit().promise(decided(3, PROMISE))
    audit = audit.settle(outcome(3, "a", 1.5)).settle(outcome(3, "b", 1.5))
    assert audit.users == {"a": UserAudit(1, 0.25, 0, 1.5, 1), "b": UserAudit(1, 0.5, 1, 1.5, 1)}
    assert audit.total() == UserAudit(2, 0.75, 1, 3.0, 2)
    assert audit.total().promised_outage == 0.375
    assert audit.total().realised_outage == 0.5


def test_nothing_audited_is_no_outage() -> None:
    assert OutageAudit().total() == UserAudit()
    assert UserAudit().promised_outage == UserAudit().realised_outage == 0.0


@pytest.mark.parametrize(
    ("rate", "missed"), [(0.0, True), (0.99, True), (1.0 - 1e-9, False), (1.0, False), (9.0, False)]
)
def test_the_target_itself_is_met(rate: float, missed: bool) -> None:
    """Rates and targets come in single precision: a rounding error is no outage."""
    audit = OutageAudit().promise(decided(0, PROMISE)).settle(outcome(0, "a", rate))
    assert audit.users["a"].realised == missed


@pytest.mark.parametrize(
    ("seq", "user"), [(2, "a"), (4, "a"), (3, "c"), (NO_DECISION, "a")], ids=["older", "newer", "stranger", "none"]
)
def test_what_was_not_promised_settles_nothing(seq: int, user: str) -> None:
    audit = OutageAudit().promise(decided(3, PROMISE))
    after = audit.settle(outcome(seq, user, 0.0))
    assert (after.users, after.open, after.total(), after.settled) == ({}, audit.open, UserAudit(), 0)
    assert after.outcomes == 1


@pytest.mark.parametrize(("decision_epoch", "settles"), [(None, True), (5, True), (4, False)])
def test_a_decision_of_an_earlier_life_has_no_promise_here(decision_epoch: int | None, settles: bool) -> None:
    """A restarted controller numbers its decisions anew: outcomes of the old ones must not settle the new ones."""
    audit = OutageAudit().promise(decided(3, PROMISE))
    sent = msgspec.structs.replace(outcome(3, "a", 0.0), decision_epoch=decision_epoch)
    assert audit.settle(sent, epoch=5).total().blocks == settles
    assert audit.settle(sent).total().blocks == 1


def test_outcomes_and_decisions_heard_of_are_counted() -> None:
    """Every outcome, those without ack, and each decision once however many users answered."""
    audit = OutageAudit().promise(decided(0, PROMISE)).promise(decided(1, PROMISE))
    for seq, user, ack in ((0, "a", True), (0, "b", False), (0, "b", False), (1, "c", True), (7, "a", False)):
        audit = audit.settle(msgspec.structs.replace(outcome(seq, user, 3.0), ack=ack))
    assert (audit.outcomes, audit.failed, audit.settled) == (5, 3, 1)


def test_a_late_decision_is_not_settled() -> None:
    """The radio went on with decision 0 while 1 was late: 1's promise stays open, 0's is settled once."""
    audit = OutageAudit().promise(decided(0, PROMISE)).settle(outcome(0, "a", 3.0))
    audit = audit.promise(decided(1, PROMISE)).settle(outcome(0, "a", 0.0))
    assert audit.total() == UserAudit(1, 0.25, 0, 3.0, 1)
    audit = audit.promise(decided(2, PROMISE)).settle(outcome(2, "a", 0.5))
    assert audit.total() == UserAudit(2, 0.5, 1, 3.5, 2)


def test_nothing_is_settled_twice() -> None:
    audit = OutageAudit().promise(decided(0, PROMISE)).settle(outcome(0, "a", 3.0))
    again = audit.settle(outcome(0, "a", 3.0))
    assert (again.users, again.open, again.settled) == (audit.users, audit.open, 1)


STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcde"), st.tuples(st.floats(0, 1), st.floats(0, 4)), max_size=4),
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abcdef"), st.floats(0, 5)), max_size=5),
    ),
    max_size=12,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_sums_are_right_whatever_comes(
    steps: list[tuple[dict[str, tuple[float, float]], list[tuple[int, str, float]]]],
) -> None:
    """Decisions and outcomes in any order, doubled, unasked for: against a plain ledger."""
    audit, open_promises = OutageAudit(), {}
    ledger: dict[str, list[tuple[float, bool, float]]] = defaultdict(list)
    for seq, (promises, outcomes) in enumerate(steps):
        decision = decided(seq, promises)
        audit = audit.promise(decision)
        for k, user in enumerate(decision.users):
            open_promises[seq, user] = float(decision.promised_outage[k]), float(decision.rate_target_bps_hz[k])
        for about, user, rate in outcomes:
            audit = audit.settle(outcome(about, user, rate))
            if (about, user) in open_promises:
                promised, target = open_promises.pop((about, user))
                ledger[user].append((promised, rate < target - 1e-6, rate))
    assert set(audit.users) == set(ledger)
    for user, entries in ledger.items():
        found = audit.users[user]
        assert (found.blocks, found.realised) == (len(entries), sum(missed for _, missed, _ in entries))
        assert found.promised == pytest.approx(sum(promised for promised, _, _ in entries))
        assert found.rate_bps_hz == pytest.approx(sum(rate for _, _, rate in entries))
    total = audit.total()
    assert total.blocks == sum(len(entries) for entries in ledger.values())
    assert total.promised == pytest.approx(sum(entry[0] for entries in ledger.values() for entry in entries))


def test_an_audit_is_a_value() -> None:
    """Neither promise nor settle changes what it is called on: replays share states."""
    first = OutageAudit().promise(decided(0, PROMISE))
    second = first.settle(outcome(0, "a", 0.0))
    assert first.users == {}
    assert set(first.open[0]) == {"a", "b"}
    assert set(second.open[0]) == {"b"}
    assert second.settle(outcome(0, "b", 0.0)).total().blocks == 2
    assert second.total().blocks == 1


def test_unanswered_promises_are_forgotten() -> None:
    audit = OutageAudit()
    for seq in range(1000):
        audit = audit.promise(decided(seq, PROMISE))
    assert len(audit.open) == 256
    assert audit.settle(outcome(0, "a", 0.0)).total().blocks == 0
    assert audit.settle(outcome(999, "a", 0.0)).total().blocks == 1
    assert audit.settle(outcome(744, "a", 0.0)).total().blocks == 1


def churned(visitors: int) -> OutageAudit:
    """One user that stays and many that come for a block and never again."""
    audit = OutageAudit()
    for seq in range(visitors):
        passing = f"ue{seq}"
        audit = audit.promise(decided(seq, {"resident": (0.1, 1.0), passing: (0.5, 1.0)}))
        audit = audit.settle(outcome(seq, "resident", 2.0)).settle(outcome(seq, passing, 0.5))
    return audit


def test_memory_is_bounded_however_many_users_pass_through() -> None:
    audit = churned(2000)
    assert len(audit.users) <= 256
    assert len(audit.open) <= 256
    assert len(audit.heard) <= 256
    assert sum(len(promises) for promises in audit.open.values()) <= 2 * 256
    assert audit.settled == 2000


def test_users_that_passed_still_count_in_the_total() -> None:
    audit = churned(2000)
    assert audit.users["resident"].blocks == 2000
    assert "ue1999" in audit.users
    assert "ue0" not in audit.users
    total: Any = audit.total()
    assert (total.blocks, total.realised) == (4000, 2000)
    assert total.promised == pytest.approx(2000 * 0.1 + 2000 * 0.5)
    assert total.rate_bps_hz == pytest.approx(2000 * 2.0 + 2000 * 0.5)


@pytest.mark.parametrize(
    ("interval", "inside"), [((-1.0, 1.0), 1), ((0.0, 0.0), 1), ((0.1, 1.0), 0), ((-1.0, -0.1), 0)]
)
def test_an_sinr_is_inside_what_was_stated_or_not(interval: tuple[float, float], inside: int) -> None:
    audit = OutageAudit().promise(decided(0, {"a": (0.1, 1.0)}, interval)).settle(outcome(0, "a", 1.0))
    assert audit.users["a"].inside == inside
    assert audit.total().inside_share == inside


def test_margins_are_learnt_of_users_apart_and_bounded() -> None:
    audit = OutageAudit()
    for seq in range(1000):
        audit = audit.promise(decided(seq, {"a": (0.1, 1.0), f"b{seq}": (0.1, 1.0)}, (0.5, 1.0)))
        audit = audit.settle(outcome(seq, "a", 1.0)).settle(outcome(seq, f"b{seq}", 1.0))
    assert len(audit.margins) == 256
    # Below the lower end each time, never above the upper one; as far as margins go.
    assert (audit.margins["a"].low_db, audit.margins["a"].high_db) == (60.0, pytest.approx(-50.0))
    assert audit.margins["b999"].low_db == pytest.approx(0.95)
