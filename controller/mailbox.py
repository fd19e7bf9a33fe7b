"""What came in since the last step: bounded, the newest message wins.

Filled and drained on one thread, in the order in which the journal is written; so a replay drains the same inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from ingest.messages import ChannelFrame, FeedbackFrame, Message, OutcomeFrame, TwinFrame

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

MAX_USERS = 64
MAX_OUTCOMES = 4096


@dataclass(frozen=True)
class Inputs:
    """The inputs of one step, ordered by user, outcomes by arrival. One frame per user and domain at most.

    twin: the newest trace, where one came.
    """

    channels: tuple[ChannelFrame, ...] = ()
    feedback: tuple[FeedbackFrame, ...] = ()
    outcomes: tuple[OutcomeFrame, ...] = ()
    twin: TwinFrame | None = None


@dataclass
class Mailbox:
    """Collects messages for the next step. `dropped` counts by reason what it had to let go."""

    dropped: Counter[str] = field(default_factory=Counter)
    _channels: dict[tuple[str, str], ChannelFrame] = field(default_factory=dict)
    _feedback: dict[str, FeedbackFrame] = field(default_factory=dict)
    _outcomes: list[OutcomeFrame] = field(default_factory=list)
    _twin: TwinFrame | None = None

    def put(self, message: Message) -> None:
        """Take `message` in; an older one of the same user and kind makes way."""
        if isinstance(message, ChannelFrame):
            self._put(self._channels, (message.user, message.domain), message)
        elif isinstance(message, FeedbackFrame):
            self._put(self._feedback, message.user, message)
        elif isinstance(message, OutcomeFrame):
            if len(self._outcomes) >= MAX_OUTCOMES:
                self.dropped["outcomes_full"] += 1
                return
            self._outcomes.append(message)
        elif isinstance(message, TwinFrame):
            if self._twin is not None:
                self.dropped["superseded"] += 1
            self._twin = message
        else:
            self.dropped["not_an_input"] += 1

    def _put(self, box: dict[Key, Value], key: Key, message: Value) -> None:
        if key in box:
            self.dropped["superseded"] += 1
        elif len(box) >= 2 * MAX_USERS:
            self.dropped["too_many_users"] += 1
            return
        box[key] = message

    def drain(self) -> Inputs:
        """Everything waiting, and an empty box behind it."""
        inputs = Inputs(
            channels=tuple(self._channels[key] for key in sorted(self._channels)),
            feedback=tuple(self._feedback[user] for user in sorted(self._feedback)),
            outcomes=tuple(self._outcomes),
            twin=self._twin,
        )
        self._channels, self._feedback, self._outcomes, self._twin = {}, {}, [], None
        return inputs
