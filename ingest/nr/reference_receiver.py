"""IQ blocks in, channel frames of the configured reference signals out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import log10
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.messages import MAX_NAME, ChannelFrame, IqBlock, no_array
from ingest.nr.estimation import Refusal, SlotEstimate
from ingest.nr.ofdm import PRB_SUBCARRIERS
from ingest.nr.references import ReferenceSettings
from ingest.nr.slot_receiver import ReceivedSlot, SlotReceiver, output_tones_hz

Phases = Literal["calibrated", "uncalibrated", "drifting"]


@dataclass
class Heard:
    """What was heard of one user over all its slots. snr_db, snr_lmmse_db: of the last one."""

    slots: int = 0
    snr_db: float = -np.inf
    snr_lmmse_db: float = -np.inf
    cfo_hz: float = 0.0


@dataclass
class ReferenceReceiver:
    """Follows `settings.signals` in one radio's stream once it knows when frames start (`align`).

    heard: per user. refused: slots without an estimate, by reason.
    """

    settings: ReferenceSettings
    heard: dict[str, Heard] = field(default_factory=dict, init=False)
    refused: Counter[str] = field(default_factory=Counter, init=False)
    _slots: SlotReceiver | None = field(default=None, init=False)
    _tones: dict[tuple[object, ...], npt.NDArray[np.float64]] = field(default_factory=dict, init=False)
    _seq: int = field(default=0, init=False)

    @property
    def is_aligned(self) -> bool:
        return self._slots is not None

    def align(self, frame_start: int, frame: int, rate_hz: float, center_hz: float) -> None:
        """System frame `frame` starts at the stream's sample `frame_start`."""
        settings = self.settings
        self._slots = SlotReceiver(
            settings.carrier, settings.signals, rate_hz, center_hz, frame_start, frame, self.refused
        )

    def follow(self, frame_start: int) -> None:
        """A frame starts at the stream's sample `frame_start`, as the cell's clock has it: slots move along with it."""
        if self._slots is not None:
            self._slots.follow(frame_start)

    def restart(self) -> None:
        """Another stream begins: nothing is known of its time, and the channel is another one."""
        self._slots = None

    def process(self, block: IqBlock) -> Iterator[ChannelFrame]:
        """The frames of the slots that end in `block`, in the order of their time; none before `align`."""
        if self._slots is None:
            return
        for received in self._slots.process(block.samples, block.first_sample):
            if not isinstance(received.estimate, Refusal):
                yield from self._frames(block, received, received.estimate)

    def _frames(self, block: IqBlock, received: ReceivedSlot, estimate: SlotEstimate) -> Iterator[ChannelFrame]:
        stream = received.stream
        tones_hz = self._tones.get(stream.key)
        if tones_hz is None:
            tones_hz = self._tones[stream.key] = output_tones_hz(stream, self.settings.carrier)
        late_ns = round((received.first_sample - block.first_sample) / block.rate_hz * 1e9)
        taps = estimate.taps.shape[2]
        tap_s = 1.0 / (PRB_SUBCARRIERS * self.settings.carrier.scs_hz * taps) if taps else None
        for index, port in enumerate(stream.ports):
            user = f"{stream.name}.{port}"
            error_power = max(float(estimate.error_power[index]), 1e-30)
            snr_db = float(estimate.snr_db[index])
            heard = self.heard.setdefault(user, Heard())
            heard.slots += 1
            heard.snr_db = snr_db
            heard.snr_lmmse_db = snr_db + 10.0 * log10(estimate.noise_power / error_power)
            heard.cfo_hz = estimate.cfo_hz
            self._seq += 1
            yield ChannelFrame(
                source=f"nr.{block.source}"[:MAX_NAME],
                epoch=block.epoch,
                seq=self._seq - 1,
                t_ns=max(block.t_ns + late_ns, 0),
                user=user,
                block=max(received.slot, 0),
                domain="effective",
                noise_power=error_power,
                snr_db=snr_db,
                carrier_hz=self.settings.carrier.carrier_hz,
                cfo_hz=estimate.cfo_hz,
                delay_spread_s=float(estimate.delay_spread_s[index]),
                doppler_hz=estimate.doppler_hz,
                confidence=estimate.confidence,
                phases="uncalibrated",
                cfr=estimate.cfr[index][None],
                tones_hz=tones_hz,
                ris_patterns=no_array(1, 0),
                beams=no_array(0, estimate.cfr.shape[1]),
                cir=estimate.taps[index],
                tap_s=tap_s,
            )
