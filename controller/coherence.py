"""Which coherence block a received frame belongs to: the NR receiver counts slots and SSBs, the controller blocks."""

from __future__ import annotations

import msgspec

from ingest.messages import ChannelFrame


class CoherenceBlocks:
    """Numbers frames by their time in blocks of `period_s`, from 0 at the first one on, never back."""

    def __init__(self, period_s: float) -> None:
        self._period_ns = round(period_s * 1e9)
        self._begun_ns: int | None = None
        self._last = 0

    def numbered(self, frame: ChannelFrame) -> ChannelFrame:
        if self._begun_ns is None:
            self._begun_ns = frame.t_ns
        self._last = max(self._last, (frame.t_ns - self._begun_ns) // self._period_ns)
        return msgspec.structs.replace(frame, block=self._last)
