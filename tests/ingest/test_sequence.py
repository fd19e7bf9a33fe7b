"""Gaps, duplicates, reordering and restarts, by deterministic patterns."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ingest.sequence import MAX_SENDERS, SequenceTracker
from tests.random_channels import budget


@pytest.mark.parametrize(
    ("pattern", "accepted", "lost", "restarts"),
    [
        ([(0, 0), (0, 1), (0, 2)], "111", 0, 0),
        ([(0, 5), (0, 6)], "11", 0, 0),  # joining late is no loss
        ([(0, 0), (0, 3), (0, 4)], "111", 2, 0),
        ([(0, 0), (0, 0), (0, 1)], "101", 0, 0),
        ([(0, 0), (0, 2), (0, 1), (0, 3)], "1101", 1, 0),
        ([(0, 7), (1, 0), (1, 1)], "111", 0, 1),
        ([(1, 0), (0, 8), (1, 1)], "101", 0, 0),
    ],
)
def test_patterns(pattern: list[tuple[int, int]], accepted: str, lost: int, restarts: int) -> None:
    tracker = SequenceTracker()
    message = budget(0)
    seen = [tracker.observe(msgspec.structs.replace(message, epoch=epoch, seq=seq)).accepted for epoch, seq in pattern]
    assert "".join(str(int(one)) for one in seen) == accepted
    assert (tracker.lost, tracker.restarts) == (lost, restarts)


def test_senders_do_not_disturb_each_other() -> None:
    tracker = SequenceTracker()
    for seq in range(10):
        for source in ("a", "b"):
            assert tracker.observe(msgspec.structs.replace(budget(0), source=source, seq=seq)).accepted
    assert tracker.lost == 0


def test_memory_is_bounded() -> None:
    tracker = SequenceTracker()
    for sender in range(2 * MAX_SENDERS):
        tracker.observe(msgspec.structs.replace(budget(0), source=f"s{sender}"))
    assert len(tracker._last) == MAX_SENDERS


def test_random_loss_is_counted_exactly(rng: np.random.Generator) -> None:
    sent = np.arange(5000)
    arrived = sent[rng.random(len(sent)) > 0.1]
    tracker = SequenceTracker()
    for seq in arrived:
        tracker.observe(msgspec.structs.replace(budget(0), seq=int(seq)))
    assert tracker.lost == arrived[-1] - arrived[0] + 1 - len(arrived)
