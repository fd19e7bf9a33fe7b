"""The outage audit: what decisions promised against what users report they got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from controller.sinr_interval import Margins
from ingest.messages import BlockDecision, OutcomeFrame

_REMEMBERED = 256
_MAX_USERS = 256
"""Users audited one by one. Of more, the sums of those heard longest ago go into `OutageAudit.gone`."""

_RATE_TOLERANCE = 1e-6
_SINR_TOLERANCE_DB = 1e-3


@dataclass(frozen=True)
class UserAudit:
    """Sums over the audited blocks of one user. inside: blocks with an SINR in the interval that was stated."""

    blocks: int = 0
    promised: float = 0.0
    realised: int = 0
    rate_bps_hz: float = 0.0
    inside: int = 0

    def plus(self, other: UserAudit) -> UserAudit:
        """The sums over the blocks of both."""
        return UserAudit(
            self.blocks + other.blocks,
            self.promised + other.promised,
            self.realised + other.realised,
            self.rate_bps_hz + other.rate_bps_hz,
            self.inside + other.inside,
        )

    @property
    def promised_outage(self) -> float:
        return self.promised / self.blocks if self.blocks else 0.0

    @property
    def realised_outage(self) -> float:
        return self.realised / self.blocks if self.blocks else 0.0

    @property
    def inside_share(self) -> float:
        return self.inside / self.blocks if self.blocks else 0.0


class Promise(NamedTuple):
    """What a decision says of one user's block."""

    outage: float
    rate_target_bps_hz: float
    sinr_low_db: float
    sinr_high_db: float


@dataclass(frozen=True)
class OutageAudit:
    """Promises still waiting for their outcome, and what came of the others.

    A promise belongs to a decision: where the radio used an older one, because the new one was late, it is not settled.
    users: in the order in which they were last heard of. gone: the sums of those that made way for others. heard:
    open decisions that a user answered, settled: how many were in all. outcomes: every one that came back, failed:
    those of them without ack, promised or not. margins: what users' outcomes taught of the intervals stated for them.
    """

    users: Mapping[str, UserAudit] = field(default_factory=dict)
    gone: UserAudit = UserAudit()
    open: Mapping[int, Mapping[str, Promise]] = field(default_factory=dict)
    """Decision's seq -> user -> what was promised."""

    heard: frozenset[int] = frozenset()
    settled: int = 0
    outcomes: int = 0
    failed: int = 0
    margins: Mapping[str, Margins] = field(default_factory=dict)

    def promise(self, decision: BlockDecision) -> OutageAudit:
        """Remember what `decision` promises; the oldest promises are forgotten unanswered."""
        promises = {
            user: Promise(
                float(decision.promised_outage[k]),
                float(decision.rate_target_bps_hz[k]),
                float(decision.sinr_low_db[k]),
                float(decision.sinr_high_db[k]),
            )
            for k, user in enumerate(decision.users)
        }
        waiting = {**self.open, decision.seq: promises}
        for seq in sorted(waiting)[: max(0, len(waiting) - _REMEMBERED)]:
            del waiting[seq]
        return replace(self, open=waiting, heard=self.heard & waiting.keys())

    def settle(self, outcome: OutcomeFrame, epoch: int | None = None) -> OutageAudit:
        """Count `outcome`, and set it against its promise, if there is one.

        epoch: of the controller; an outcome of a decision of its last life has no promise here.
        """
        audit = replace(self, outcomes=self.outcomes + 1, failed=self.failed + (not outcome.ack))
        seq, promises = outcome.decision_seq, dict(self.open.get(outcome.decision_seq, {}))
        foreign = epoch is not None and outcome.decision_epoch not in (None, epoch)
        if foreign or outcome.user not in promises:
            return audit
        promised = promises.pop(outcome.user)
        failed = outcome.rate_bps_hz < promised.rate_target_bps_hz - _RATE_TOLERANCE
        is_below = outcome.sinr_db < promised.sinr_low_db - _SINR_TOLERANCE_DB
        is_above = outcome.sinr_db > promised.sinr_high_db + _SINR_TOLERANCE_DB
        inside = not (is_below or is_above)
        one = UserAudit(1, promised.outage, int(failed), outcome.rate_bps_hz, int(inside))
        margins = dict(self.margins)
        margins[outcome.user] = margins.pop(outcome.user, Margins()).after(is_below, is_above)
        if len(margins) > _MAX_USERS:
            del margins[next(iter(margins))]
        users, gone = dict(self.users), self.gone
        users[outcome.user] = users.pop(outcome.user, UserAudit()).plus(one)
        if len(users) > _MAX_USERS:
            gone = gone.plus(users.pop(next(iter(users))))
        return replace(
            audit,
            users=users,
            gone=gone,
            margins=margins,
            open={**self.open, seq: promises},
            heard=self.heard | {seq},
            settled=self.settled + (seq not in self.heard),
        )

    def total(self) -> UserAudit:
        """All users together, those gone included."""
        audits = (self.gone, *self.users.values())
        return UserAudit(
            blocks=sum(audit.blocks for audit in audits),
            promised=sum(audit.promised for audit in audits),
            realised=sum(audit.realised for audit in audits),
            rate_bps_hz=sum(audit.rate_bps_hz for audit in audits),
            inside=sum(audit.inside for audit in audits),
        )
