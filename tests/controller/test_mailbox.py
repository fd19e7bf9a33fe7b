"""The mailbox keeps the newest of everything within bounds, in an order that does not depend on arrival."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.mailbox import MAX_OUTCOMES, MAX_USERS, Inputs, Mailbox
from ingest.messages import FeedbackFrame, Message, OutcomeFrame, no_array
from tests.random_channels import budget, complex_normal, frame


def channel(user: str, block: int = 0, *, cascade: bool = False, seq: int = 0) -> Message:
    cfr = np.ones((2 if cascade else 1, 3), np.complex128)
    return frame(cfr, user=user, block=block, cascade=cascade, seq=seq)


def feedback(user: str, seq: int = 0) -> FeedbackFrame:
    return FeedbackFrame(
        source="test",
        epoch=0,
        seq=seq,
        t_ns=0,
        user=user,
        block=0,
        codec="c",
        codeword=np.zeros(4, np.float32),
        powers_dbm=no_array(0, dtype=np.float32),
        ris_pattern=no_array(0),
    )


def outcome(user: str, seq: int = 0) -> OutcomeFrame:
    return OutcomeFrame(
        source="test",
        epoch=0,
        seq=seq,
        t_ns=0,
        user=user,
        block=0,
        decision_seq=0,
        received_power_dbm=0.0,
        sinr_db=0.0,
        rate_bps_hz=0.0,
        ack=False,
    )


def filled(messages: list[Message]) -> Mailbox:
    mailbox = Mailbox()
    for message in messages:
        mailbox.put(message)
    return mailbox


def test_what_is_put_in_comes_out_once() -> None:
    messages = [channel("a"), feedback("b"), outcome("c")]
    mailbox = filled(messages)
    inputs = mailbox.drain()
    assert (inputs.channels, inputs.feedback, inputs.outcomes) == ((messages[0],), (messages[1],), (messages[2],))
    assert mailbox.drain() == Inputs()
    assert not mailbox.dropped


def test_the_newest_of_a_kind_wins() -> None:
    old, new = channel("a", seq=1), channel("a", seq=2)
    mailbox = filled([old, new, feedback("a", 1), feedback("a", 2)])
    inputs = mailbox.drain()
    assert inputs.channels == (new,)
    assert [one.seq for one in inputs.feedback] == [2]
    assert mailbox.dropped == {"superseded": 2}


def test_domains_are_kept_apart() -> None:
    inputs = filled([channel("a"), channel("a", cascade=True)]).drain()
    assert [frame.domain for frame in inputs.channels] == ["cascade", "effective"]


USERS = st.sampled_from(["a", "b", "c"])
MESSAGES = st.one_of(
    st.builds(lambda user, cascade: channel(user, cascade=cascade), USERS, st.booleans()),
    st.builds(feedback, USERS),
)


@given(st.lists(MESSAGES, max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_is_by_user_whatever_the_order_of_arrival(messages: list[Message], random: Any) -> None:
    shuffled = list(messages)
    random.shuffle(shuffled)
    one, other = filled(messages).drain(), filled(shuffled).drain()
    assert [(c.user, c.domain) for c in one.channels] == [(c.user, c.domain) for c in other.channels]
    assert [f.user for f in one.feedback] == [f.user for f in other.feedback]
    assert [c.user for c in one.channels] == sorted(c.user for c in one.channels)


def test_outcomes_stay_in_the_order_of_arrival() -> None:
    inputs = filled([outcome("b", 1), outcome("a", 2), outcome("b", 3)]).drain()
    assert [one.seq for one in inputs.outcomes] == [1, 2, 3]


def test_users_are_bounded_and_those_known_are_still_heard() -> None:
    mailbox = filled([channel(f"u{k}") for k in range(5 * MAX_USERS)])
    assert mailbox.dropped == {"too_many_users": 3 * MAX_USERS}
    newer = channel("u0", seq=9)
    mailbox.put(newer)
    inputs = mailbox.drain()
    assert len(inputs.channels) == 2 * MAX_USERS
    assert newer in inputs.channels


def test_outcomes_are_bounded() -> None:
    mailbox = filled([outcome("a", seq) for seq in range(MAX_OUTCOMES + 7)])
    assert mailbox.dropped == {"outcomes_full": 7}
    assert len(mailbox.drain().outcomes) == MAX_OUTCOMES
    mailbox.put(outcome("a"))
    assert len(mailbox.drain().outcomes) == 1


def test_what_is_no_input_is_counted() -> None:
    """A decision or a budget on its way round is no input of a step; it is let go, and that shows."""
    mailbox = filled([budget(0)])
    assert mailbox.drain() == Inputs()
    assert sum(mailbox.dropped.values()) == 1


def test_frames_pass_through_untouched(rng: np.random.Generator) -> None:
    sent = frame(complex_normal(rng, 1, 3), user="a")
    copy = msgspec.structs.replace(sent, cfr=sent.cfr.copy())
    (found,) = filled([sent]).drain().channels
    assert found is sent
    assert np.array_equal(found.cfr, copy.cfr)
