"""IQ blocks in, channel frames out: joins the blocks of a stream and hands them to what measures reference signals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ingest.antenna_calibration import AntennaCalibration
from ingest.messages import MAX_NAME, ChannelFrame, IqBlock, no_array
from ingest.nr.antenna_phases import AntennaPhases
from ingest.nr.impulse import impulse_response
from ingest.nr.numerology import SSB_SUBCARRIERS
from ingest.nr.reference_receiver import ReferenceReceiver
from ingest.nr.references import ReferenceSettings
from ingest.nr.ssb import SsbMeasurement
from ingest.nr.ssb_receiver import RESEARCH_S, Cell, SsbReceiver
from ingest.nr.ssb_sweep import overlap_samples
from ingest.nr.stretch import Stretch

__all__ = ["Cell", "NrReceiver"]


class NrReceiver:
    """Turns a stream of `IqBlock`s of one radio into `ChannelFrame`s of the cells and reference signals it hears.

    `cells` holds what was found, the strongest first. `gaps` counts samples missing between blocks. references: what is
    received beside SSBs, once it is known when frames start. research_s: signal between searches for new cells while
    one is known. live: search beside the stream, which goes on meanwhile. calibrations: of antennas, which frames are
    freed of. antennas: what is known of their phases. Raises `UsageRefused` where a calibration does not fit the radio.
    """

    def __init__(
        self,
        references: ReferenceSettings | None = None,
        *,
        research_s: float = RESEARCH_S,
        live: bool = False,
        calibrations: tuple[AntennaCalibration, ...] = (),
    ) -> None:
        self.gaps = 0
        self.antennas = AntennaPhases(calibrations)
        self.ssb = SsbReceiver(research_s, aside=live)
        self.references = None if references is None else ReferenceReceiver(references, self.antennas)
        self._stream: tuple[str, int, float, float, int] | None = None
        self._next_sample = 0
        self._tail = np.zeros((0, 0), np.complex64)
        self._seq = 0

    @property
    def cells(self) -> list[Cell]:
        return self.ssb.cells

    def process(self, block: IqBlock) -> Iterator[ChannelFrame]:
        """The frames of the SSBs that end in `block`, in the order of their time, then those of its slots."""
        stretch = self._join(block)
        for time_s, found in self.ssb.process(stretch, block.rate_hz, block.center_hz):
            yield self._frame(block, time_s, found)
        if self.references is not None:
            self._keep_time(self.references, block)
            yield from self.references.process(block)

    def _keep_time(self, references: ReferenceReceiver, block: IqBlock) -> None:
        """Tell when frames start: as configured, else by the SSBs of the configured cell, whose clock is followed."""
        settings = references.settings
        if settings.frame_start_s is not None:
            if not references.is_aligned:
                start = round(settings.frame_start_s * block.rate_hz)
                references.align(start, settings.frame, block.rate_hz, block.center_hz)
            return
        time_s = block.first_sample / block.rate_hz
        for cell in self.cells:
            if cell.timing is not None and settings.pci in (None, cell.measurement.pci):
                number, start_s = ((cell.tracker and cell.tracker.timing) or cell.timing).frame_at(time_s)
                start = round(start_s * block.rate_hz)
                if references.is_aligned:
                    references.follow(start)
                else:
                    references.align(start, number or 0, block.rate_hz, block.center_hz)
                return

    def _join(self, block: IqBlock) -> Stretch:
        """The block's samples behind the end of what came before, so that an SSB across the border is whole."""
        samples = block.samples.astype(np.complex64, copy=False)
        stream = (block.source, block.epoch, block.rate_hz, block.center_hz, samples.shape[0])
        tail = np.zeros((samples.shape[0], 0), np.complex64)
        if stream == self._stream and block.first_sample == self._next_sample:
            tail = self._tail
        elif stream != self._stream or block.first_sample < self._next_sample:
            self.ssb.restart()
            self.antennas.begin(block.source, block.center_hz, samples.shape[0])
            if self.references is not None:
                self.references.restart()
        else:
            missing = max(block.first_sample - block.skipped - self._next_sample, 0)
            self.ssb.jump(burst_ended=missing == 0)
            self.gaps += missing
        stretch = Stretch(tail, samples, block.first_sample - tail.shape[1])
        self._stream = stream
        self._next_sample = stretch.end
        self._tail = stretch.last(overlap_samples(block.rate_hz, block.center_hz))
        return stretch

    def _frame(self, block: IqBlock, time_s: float, found: SsbMeasurement) -> ChannelFrame:
        self._seq += 1
        user = f"pci{found.pci}.ssb{found.ssb_index}"
        place = found.ssb_center_hz, found.pci
        if len(found.ls) > 1:
            sender = f"pci{found.pci} at {found.ssb_center_hz}"
            self.antennas.watch.look((user, place), sender, time_s, found.ls, stands_still=True)
        frequencies_hz = found.ssb_center_hz + found.tones_hz
        undone = self.antennas.undo(found.ls, impulse_response(found.ls), place, frequencies_hz, time_s)
        return ChannelFrame(
            source=f"nr.{block.source}"[:MAX_NAME],
            epoch=block.epoch,
            seq=self._seq - 1,
            t_ns=max(block.t_ns + round((time_s - block.first_sample / block.rate_hz) * 1e9), 0),
            user=user,
            block=self._seq - 1,
            domain="effective",
            noise_power=found.noise_power * undone.error_gain,
            snr_db=found.snr_db,
            carrier_hz=found.ssb_center_hz,
            cfo_hz=found.cfo_hz,
            tap_s=1.0 / (SSB_SUBCARRIERS * found.scs_hz),
            phases=undone.phases,
            cfr=undone.cfr[None],
            tones_hz=found.tones_hz,
            ris_patterns=no_array(1, 0),
            beams=no_array(0, found.ls.shape[0]),
            cir=undone.cir,
        )
