"""The table of topics agrees with the message types and with itself."""

from __future__ import annotations

import itertools

from ingest.messages import (
    MESSAGE_TYPES,
    BlockDecision,
    ChannelFrame,
    FeedbackFrame,
    IqBlock,
    OutcomeFrame,
    StepBudget,
    TwinFrame,
)
from ingest.topics import MAX_MESSAGE_BYTES, TOPICS


def test_every_message_type_has_one_row() -> None:
    assert {topic.message for topic in TOPICS.values()} == set(MESSAGE_TYPES)
    assert len(TOPICS) == len(set(MESSAGE_TYPES))
    assert all(topic.message.TOPIC == name == topic.name for name, topic in TOPICS.items())


def test_names_are_what_a_subscription_can_tell_apart() -> None:
    """ZeroMQ subscribes by prefix: no topic may begin with another one."""
    assert all(topic.prefix.decode("ascii") == name for name, topic in TOPICS.items())
    assert all(name.isidentifier() and len(name) <= 32 for name in TOPICS)
    assert not any(one.startswith(other) for one, other in itertools.permutations(TOPICS, 2))


def test_measurements_come_in_and_decisions_go_out() -> None:
    inbound = {topic.message for topic in TOPICS.values() if topic.inbound}
    assert inbound == {IqBlock, ChannelFrame, FeedbackFrame, OutcomeFrame}


def test_the_journal_keeps_all_that_a_replay_needs() -> None:
    kept = {topic.message for topic in TOPICS.values() if topic.journalled}
    assert kept == {ChannelFrame, FeedbackFrame, OutcomeFrame, StepBudget, TwinFrame, BlockDecision}


def test_limits_mean_something() -> None:
    assert all(topic.stale_after_s > 0 for topic in TOPICS.values())
    assert all(0 < topic.max_bytes <= MAX_MESSAGE_BYTES for topic in TOPICS.values())
    assert max(topic.max_bytes for topic in TOPICS.values()) == MAX_MESSAGE_BYTES


def test_a_block_of_the_fastest_radio_fits() -> None:
    """20 ms of 8 chains at 46.08 MS/s, complex64, header included."""
    assert TOPICS[IqBlock.TOPIC].max_bytes > 8 * 0.02 * 46.08e6 * 8 + 4096
