"""The path of IQ: a thread of its own that makes channel frames of what the receiving thread hands over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

import msgspec

from controller.cells import cell_summary, reference_summaries
from controller.coherence import CoherenceBlocks
from controller.config import Config
from controller.log import logger
from ingest.iq_queue import IqQueue
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb_receiver import RESEARCH_S

_MAX_RADIOS = 16
_TELL_S = 10.0
_JOIN_S = 5.0
_JOINED_S = 5e-3
"""Blocks of a stream that is behind are received together up to this length: a batch of slots, half a frame."""


class IqPath:
    """Estimates channels of IQ in a thread that starts with the first block.

    put: takes the frames, in that thread. failed: told when estimation broke down. sheds: whoever sends does not wait;
    IQ that estimation is too slow for is let go. live: searches for cells go on beside the stream; a recording is
    received alike however fast the machine is.
    """

    def __init__(
        self,
        config: Config,
        put: Callable[[ChannelFrame], None],
        failed: Callable[[Exception], None],
        *,
        sheds: bool,
        live: bool,
    ) -> None:
        self.queue = IqQueue(sheds=sheds)
        self.too_many_radios = 0
        self._live = live
        self._settings = config.receiver.settings()
        self._calibrations = config.receiver.calibrations()
        self._research_s = (config.receiver.search_again_s or inf) if live else RESEARCH_S
        self._put, self._failed = put, failed
        self._blocks = CoherenceBlocks(config.block.period_s)
        self._receivers: dict[str, NrReceiver] = {}
        self._thread: threading.Thread | None = None
        self._phases: dict[str, tuple[bool, int]] = {}
        self._told: tuple[float, float] = (-_TELL_S, 0.0)

    @property
    def receivers(self) -> dict[str, NrReceiver]:
        """Of every radio that was heard."""
        return dict(self._receivers)

    def offer(self, block: IqBlock) -> None:
        """Hand `block` over, which came when its last sample was there."""
        if block.source not in self._receivers:
            if len(self._receivers) >= _MAX_RADIOS:
                self.too_many_radios += 1
                return
            self._receivers[block.source] = NrReceiver(self._settings, live=self._live, calibrations=self._calibrations)
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

    def tell(self) -> None:
        """Log what is new: IQ that was shed, every few seconds at most, and antennas whose phases drift or jump."""
        for radio, receiver in self.receivers.items():
            watch = receiver.antennas.watch
            state = (watch.rates_hz is not None, len(watch.jumps))
            if state != self._phases.get(radio, (False, 0)):
                self._phases[radio] = state
                logger().warning("the phases between antennas", radio=radio, **(receiver.antennas.summary() or {}))
        now_s, shed_s = monotonic(), self.queue.shed_s
        told_s, told_shed_s = self._told
        if shed_s > told_shed_s and now_s - told_s >= _TELL_S:
            logger().warning(
                "estimation cannot keep up with the IQ that comes in: whole blocks are shed",
                shed_ms=round((shed_s - told_shed_s) * 1e3),
                shed_ms_in_all=round(shed_s * 1e3),
                mend="fewer antennas, a lower rate, fewer signals, or sc16 on the wire",
            )
            self._told = now_s, shed_s

    def summary(self) -> dict[str, Any]:
        """What came of the IQ, in the fields of CLI-JSON; nothing where none came."""
        if not (receivers := self.receivers):
            return {}
        counts = {"lost_samples": self.queue.missing_samples, "shed_samples": self.queue.shed_samples}
        found: dict[str, Any] = {name: count for name, count in counts.items() if count}
        found["cells"] = [cell_summary(cell) for receiver in receivers.values() for cell in receiver.cells]
        by_radio: dict[str, dict[str, Any]] = {"references": {}, "antenna_phases": {}}
        for radio, receiver in receivers.items():
            if receiver.references is not None:
                by_radio["references"][radio] = reference_summaries(receiver.references)
            if (phases := receiver.antennas.summary()) is not None:
                by_radio["antenna_phases"][radio] = phases
        return found | {name: told for name, told in by_radio.items() if told}

    def _estimate(self) -> None:
        try:
            while (block := self.queue.take(_JOINED_S)) is not None:
                for frame in self._receivers[block.source].process(_stamped_at_its_start(block)):
                    self._put(self._blocks.numbered(frame))
        except Exception as error:
            self.queue.close()
            self._failed(error)


def _stamped_at_its_start(block: IqBlock) -> IqBlock:
    """`block` stamped with the time of its first sample."""
    duration_ns = round(block.samples.shape[1] / block.rate_hz * 1e9)
    return msgspec.structs.replace(block, t_ns=max(block.t_ns - duration_ns, 0))
