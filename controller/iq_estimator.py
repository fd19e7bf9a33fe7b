"""IQ blocks in, numbered channel frames out, for any number of radios."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import msgspec

from controller.cells import cell_summary, reference_summaries
from controller.coherence import RadioBlocks
from controller.config import Config
from controller.iq_told import Heard
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb_receiver import RESEARCH_S


class IqEstimator:
    """A receiver for every radio that is heard, by its name in `receivers`; a single thread may call it.

    live: searches for cells go on beside the stream; a recording is received alike however fast the machine is.
    """

    def __init__(self, config: Config, *, live: bool) -> None:
        self.receivers: dict[str, NrReceiver] = {}
        self._live = live
        self._settings = config.receiver.settings()
        self._calibrations = config.receiver.calibrations()
        self._research_s = (config.receiver.search_again_s or inf) if live else RESEARCH_S
        self._blocks = RadioBlocks(config.block.period_s)

    def receive(self, block: IqBlock) -> Iterator[ChannelFrame]:
        """The frames of what ends in `block`, which came when its last sample was there."""
        if block.source not in self.receivers:
            self.receivers[block.source] = NrReceiver(
                self._settings, research_s=self._research_s, live=self._live, calibrations=self._calibrations
            )
        stamped = _stamped_at_its_start(block)
        for frame in self.receivers[block.source].process(stamped):
            time_s = block.first_sample / block.rate_hz + (frame.t_ns - stamped.t_ns) * 1e-9
            number = self._blocks.number(block.source, block.epoch, time_s)
            yield msgspec.structs.replace(frame, block=number)

    def heard(self) -> Heard:
        """What was heard so far."""
        found = Heard([cell_summary(cell) for receiver in self.receivers.values() for cell in receiver.cells], {}, {})
        for radio, receiver in self.receivers.items():
            if receiver.references is not None:
                found.references[radio] = reference_summaries(receiver.references)
            if (phases := receiver.antennas.summary()) is not None:
                found.antenna_phases[radio] = phases
        return found


def _stamped_at_its_start(block: IqBlock) -> IqBlock:
    """`block` stamped with the time of its first sample."""
    duration_ns = round(block.samples.shape[1] / block.rate_hz * 1e9)
    return msgspec.structs.replace(block, t_ns=max(block.t_ns - duration_ns, 0))
