"""The path of IQ: a thread of its own that makes channel frames of what the receiving thread hands over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from controller.iq_estimator import IqEstimator
from controller.iq_told import Heard, IqTold
from ingest.iq_queue import IqQueue
from ingest.messages import ChannelFrame, IqBlock

SWITCH_S = 2e-4
"""Between threads where one of them estimates: Python's 5 ms are as long as all that may wait in a radio's socket."""

_MAX_RADIOS = 16
_JOIN_S = 5.0
_JOINED_S = 5e-3
"""Blocks of a stream that is behind are received together up to this length: a batch of slots, half a frame."""

_LOOK_S = 0.1
"""Between looks at what was heard, for those who ask."""


class IqPath:
    """Estimates channels of IQ in a thread that starts with the first block.

    put: takes the frames of a block, in that thread. failed: told when estimation broke down. sheds: whoever sends does
    not wait; IQ that estimation is too slow for is let go.
    """

    def __init__(
        self,
        estimator: IqEstimator,
        put: Callable[[list[ChannelFrame]], None],
        failed: Callable[[Exception], None],
        *,
        sheds: bool,
    ) -> None:
        self.queue = IqQueue(sheds=sheds)
        self._estimator = estimator
        self._put, self._failed = put, failed
        self._radios: set[str] = set()
        self._too_many_radios = 0
        self._heard = Heard()
        self._thread: threading.Thread | None = None

    def offer(self, block: IqBlock) -> None:
        """Hand `block` over, which came when its last sample was there."""
        if block.source not in self._radios:
            if len(self._radios) >= _MAX_RADIOS:
                self._too_many_radios += 1
                return
            self._radios.add(block.source)
        if self._thread is None:
            self._thread = threading.Thread(target=self._estimate, name="estimate", daemon=True)
            self._thread.start()
        self.queue.put(block)

    def end(self) -> None:
        """No more will come: wait until all that was handed over is received."""
        self.queue.end()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End at once; what waits is let go."""
        self.queue.close()
        if self._thread is not None:
            self._thread.join(timeout=_JOIN_S)

    def told(self) -> IqTold:
        """What came of the IQ so far; what was heard is a moment old until the path has ended."""
        queue = self.queue
        return IqTold(
            self._heard,
            len(self._radios),
            self._too_many_radios,
            queue.missing_samples,
            queue.shed_samples,
            queue.shed_blocks,
            queue.shed_s,
        )

    def _estimate(self) -> None:
        looked_s = monotonic()
        try:
            while (block := self.queue.take(_JOINED_S)) is not None:
                if frames := list(self._estimator.receive(block)):
                    self._put(frames)
                if monotonic() - looked_s > _LOOK_S:
                    self._heard, looked_s = self._estimator.heard(), monotonic()
            self._heard = self._estimator.heard()
        except Exception as error:
            self.queue.close()
            self._failed(error)
