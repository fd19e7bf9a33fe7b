"""The outage audit: what decisions promised against what users report they got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ingest.messages import BlockDecision, OutcomeFrame

_REMEMBERED = 256
_RATE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class UserAudit:
    """Sums over the audited blocks of one user."""

    blocks: int = 0
    promised: float = 0.0
    realised: int = 0
    rate_bps_hz: float = 0.0

    @property
    def promised_outage(self) -> float:
        return self.promised / self.blocks if self.blocks else 0.0

    @property
    def realised_outage(self) -> float:
        return self.realised / self.blocks if self.blocks else 0.0


@dataclass(frozen=True)
class OutageAudit:
    """Promises still waiting for their outcome, and what came of the others.

    A promise belongs to a decision: where the radio used an older one, because the new one was late, it is not settled.
    """

    users: Mapping[str, UserAudit] = field(default_factory=dict)
    open: Mapping[int, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """Decision's seq -> user -> (promised outage, rate target)."""

    def promise(self, decision: BlockDecision) -> OutageAudit:
        """Remember what `decision` promises; the oldest promises are forgotten unanswered."""
        promises = {
            user: (float(decision.promised_outage[k]), float(decision.rate_target_bps_hz[k]))
            for k, user in enumerate(decision.users)
        }
        waiting = {**self.open, decision.seq: promises}
        for seq in sorted(waiting)[: max(0, len(waiting) - _REMEMBERED)]:
            del waiting[seq]
        return replace(self, open=waiting)

    def settle(self, outcome: OutcomeFrame) -> OutageAudit:
        """Set `outcome` against its promise; one that nothing was promised for changes nothing."""
        promises = dict(self.open.get(outcome.decision_seq, {}))
        if outcome.user not in promises:
            return self
        promised, target = promises.pop(outcome.user)
        before = self.users.get(outcome.user, UserAudit())
        after = UserAudit(
            blocks=before.blocks + 1,
            promised=before.promised + promised,
            realised=before.realised + (outcome.rate_bps_hz < target - _RATE_TOLERANCE),
            rate_bps_hz=before.rate_bps_hz + outcome.rate_bps_hz,
        )
        return OutageAudit({**self.users, outcome.user: after}, {**self.open, outcome.decision_seq: promises})

    def total(self) -> UserAudit:
        """All users together."""
        audits = self.users.values()
        return UserAudit(
            blocks=sum(audit.blocks for audit in audits),
            promised=sum(audit.promised for audit in audits),
            realised=sum(audit.realised for audit in audits),
            rate_bps_hz=sum(audit.rate_bps_hz for audit in audits),
        )
