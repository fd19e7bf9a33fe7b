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


class RadioBlocks:
    """Numbers blocks of `period_s` by radios' own sample clocks, whatever the way to us does to the times of arrival.

    The first radio's samples count from its block 0, as it counts itself; every other one is in step with it.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._lead: str | None = None
        self._last = 0
        self._offsets: dict[tuple[str, int], int] = {}

    def number(self, radio: str, epoch: int, time_s: float) -> int:
        """The block that `time_s` after sample 0 of a life of `radio` lies in."""
        own = max(int(time_s / self._period_s), 0)
        if self._lead is None:
            self._lead = radio
        if radio == self._lead:
            self._last = own
            return own
        offset = self._offsets.setdefault((radio, epoch), self._last - own)
        return max(own + offset, 0)
