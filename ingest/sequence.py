"""From (source, epoch, seq): gaps, duplicates, reordering and restarts of senders."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ingest.messages import Message

MAX_SENDERS = 1024


@dataclass(frozen=True)
class Arrival:
    """How a message follows what its sender sent before. `lost`: messages missing just before it."""

    accepted: bool
    lost: int = 0
    reason: str = ""


@dataclass
class SequenceTracker:
    """Follows every (topic, source) and says what each message means for it.

    A newer epoch is a restart and starts counting anew; an older one is a leftover of the sender's last life. At most
    `MAX_SENDERS` are remembered; the one heard of longest ago is forgotten first.
    """

    lost: int = 0
    restarts: int = 0
    _last: OrderedDict[tuple[str, str], tuple[int, int]] = field(default_factory=OrderedDict)

    def observe(self, message: Message) -> Arrival:
        """Record `message`; not accepted are duplicates, reordered messages and old epochs."""
        key = (message.TOPIC, message.source)
        last = self._last.get(key)
        if last is None or message.epoch > last[0]:
            if last is not None:
                self.restarts += 1
            return self._accept(key, message, 0)
        epoch, seq = last
        if message.epoch < epoch:
            return Arrival(accepted=False, reason="old_epoch")
        if message.seq == seq:
            return Arrival(accepted=False, reason="duplicate")
        if message.seq < seq:
            return Arrival(accepted=False, reason="reordered")
        return self._accept(key, message, message.seq - seq - 1)

    def _accept(self, key: tuple[str, str], message: Message, lost: int) -> Arrival:
        self._last[key] = (message.epoch, message.seq)
        self._last.move_to_end(key)
        if len(self._last) > MAX_SENDERS:
            self._last.popitem(last=False)
        self.lost += lost
        return Arrival(accepted=True, lost=lost)
