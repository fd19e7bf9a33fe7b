"""What a frame measured from IQ does not say of itself: where its user was, and how the RIS was set meanwhile.

Users report positions beside the IQ, each at its own pace; the RIS states are those that we sent out, and outcomes say
which of our decisions was on air. A frame of which either is not known for certain is no measurement of a known thing:
it is not used, and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec
import numpy as np

from ingest.messages import BlockDecision, ChannelFrame, ComplexArray, FeedbackFrame, Message, OutcomeFrame, Vector

_SLOT_S = 1e-3
"""The longest slot: what was sent out until its end may have changed the RIS in it."""

_MOST_DECISIONS = 64
_MOST_REPORTS = 8
_MOST_USERS = 256


@dataclass
class _Emitted:
    """A decision that was sent out at t_ns. late: after its deadline, when a radio may have gone on without it."""

    seq: int
    epoch: int
    block: int
    t_ns: int
    theta: ComplexArray
    late: bool


@dataclass
class OnAir:
    """Joins frames with positions and RIS states. It reads no clock: all times are those of messages.

    references: names of the signals that users send; frames of others, as of cells' SSBs, are no user's. elements: of
    the RIS. switch_s: how long after a decision was sent out the RIS is surely set as it says. stale_after_s: the age
    at which a position says nothing any more. unused: frames by the reason why.
    """

    references: Collection[str]
    elements: int
    switch_s: float
    stale_after_s: float
    unused: Counter[str] = field(default_factory=Counter)
    _emitted: deque[_Emitted] = field(default_factory=lambda: deque(maxlen=_MOST_DECISIONS), init=False)
    _confirmed: int = field(default=-1, init=False)
    _reports: dict[str, deque[FeedbackFrame]] = field(default_factory=dict, init=False)

    def emitted(self, decision: BlockDecision, t_ns: int, *, late: bool) -> None:
        """`decision` was sent out at t_ns."""
        if decision.theta.size:
            self._emitted.append(_Emitted(decision.seq, decision.epoch, decision.block, t_ns, decision.theta, late))

    def _hear(self, message: Message) -> None:
        """Learn from what users say: positions, and which decision was on air."""
        if isinstance(message, OutcomeFrame):
            self._confirm(message)
        elif isinstance(message, FeedbackFrame) and message.position_m is not None:
            reports = self._reports.pop(message.user, None) or deque(maxlen=_MOST_REPORTS)
            reports.append(message)
            self._reports[message.user] = reports
            if len(self._reports) > _MOST_USERS:
                del self._reports[next(iter(self._reports))]

    def is_user(self, frame: ChannelFrame) -> bool:
        """Whether a user sent what the frame was measured from."""
        return frame.user.rpartition(".")[0] in self.references

    def joined(self, message: Message) -> Message | None:
        """A frame with what it does not say itself, None where that is not certain; all else is heard, and left."""
        if isinstance(message, ChannelFrame) and message.domain == "effective":
            return self._complete(message)
        self._hear(message)
        return message

    def _complete(self, frame: ChannelFrame) -> ChannelFrame | None:
        if self.elements and frame.ris_patterns.shape == (1, 0):
            theta = self.theta(frame.t_ns, frame.t_ns + round(_SLOT_S * 1e9))
            if theta is None:
                self.unused["ris_state_unknown"] += 1
                return None
            frame = msgspec.structs.replace(frame, ris_patterns=theta[None].astype(np.complex64))
        if frame.position_m is None and frame.user in self._reports:
            report = min(self._reports[frame.user], key=lambda one: abs(one.t_ns - frame.t_ns))
            age_s = (frame.t_ns - report.t_ns) * 1e-9
            if abs(age_s) > self.stale_after_s:
                self.unused["position_stale"] += 1
                return None
            frame = _placed(frame, report, age_s)
        return frame

    def theta(self, begin_ns: int, end_ns: int) -> ComplexArray | None:
        """The RIS state [M] from begin_ns to end_ns; None where it is not certain."""
        settled: _Emitted | None = None
        later: list[_Emitted] = []
        for one in self._emitted:
            if one.t_ns > end_ns:
                break
            sure = one.seq == self._confirmed or (not one.late and one.t_ns + self.switch_s * 1e9 <= begin_ns)
            if sure:
                settled, later = one, []
            else:
                later.append(one)
        if settled is None or any(not np.array_equal(one.theta, settled.theta) for one in later):
            return None
        return settled.theta

    def _confirm(self, outcome: OutcomeFrame) -> None:
        """A decision was on air: those before it are past, and a later one that had its chance was not taken up."""
        known = next((one for one in self._emitted if one.seq == outcome.decision_seq), None)
        if known is None or outcome.decision_epoch not in (None, known.epoch) or known.seq < self._confirmed:
            return
        self._confirmed = known.seq
        kept = [
            one
            for one in self._emitted
            if one.seq == known.seq or (one.seq > known.seq and not self._was_passed_over(one, outcome))
        ]
        self._emitted = deque(kept, maxlen=_MOST_DECISIONS)

    def _was_passed_over(self, one: _Emitted, outcome: OutcomeFrame) -> bool:
        return one.block <= outcome.block and one.t_ns + self.switch_s * 1e9 <= outcome.t_ns


def _placed(frame: ChannelFrame, report: FeedbackFrame, age_s: float) -> ChannelFrame:
    """`frame` at the reported position, carried on by `age_s`, and as the path gain that the sent power makes of it."""
    assert report.position_m is not None
    x, y, z = report.position_m
    vx, vy, vz = report.velocity_m_s or (0.0, 0.0, 0.0)
    position_m: Vector = (x + vx * age_s, y + vy * age_s, z + vz * age_s)
    frame = msgspec.structs.replace(frame, position_m=position_m, velocity_m_s=report.velocity_m_s)
    if report.sent_dbm is None:
        return frame
    power = 10.0 ** (-report.sent_dbm / 10)
    amplitude = np.complex64(power**0.5)
    return msgspec.structs.replace(
        frame, cfr=frame.cfr * amplitude, cir=frame.cir * amplitude, noise_power=frame.noise_power * power
    )
