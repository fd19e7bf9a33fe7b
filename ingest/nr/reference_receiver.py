"""IQ blocks in, channel frames of the configured reference signals out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import log10

import numpy as np
import numpy.typing as npt

from ingest.messages import MAX_NAME, ChannelFrame, IqBlock, no_array
from ingest.nr.antenna_phases import AntennaPhases
from ingest.nr.csi_rs import CsiRs, TrackingRs
from ingest.nr.estimation import Refusal, SlotEstimate
from ingest.nr.ofdm import PRB_SUBCARRIERS
from ingest.nr.references import ReferenceSettings
from ingest.nr.slot_receiver import ReceivedSlot, SlotReceiver, output_tones_hz


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

    antennas: calibrates and watches them. heard: per user. refused: slots without an estimate, by reason.
    """

    settings: ReferenceSettings
    antennas: AntennaPhases = field(default_factory=AntennaPhases)
    heard: dict[str, Heard] = field(default_factory=dict, init=False)
    refused: Counter[str] = field(default_factory=Counter, init=False)
    _slots: SlotReceiver | None = field(default=None, init=False)
    _tones: dict[tuple[object, ...], npt.NDArray[np.float64]] = field(default_factory=dict, init=False)
    _seq: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        # Precoders of a PDSCH change; what is sent without one comes from where a base station stands.
        self._still = {name for name, signal in self.settings.signals if isinstance(signal, CsiRs | TrackingRs)}

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
        stream, carrier = received.stream, self.settings.carrier
        tones_hz = self._tones.get(stream.key)
        if tones_hz is None:
            tones_hz = self._tones[stream.key] = output_tones_hz(stream, carrier)
        slot_s = received.slot % carrier.slots_per_frame * carrier.slot_s
        time_s = received.first_sample / block.rate_hz + slot_s
        late_ns = round((time_s - block.first_sample / block.rate_hz) * 1e9)
        if len(estimate.ls) > 1:
            watch, still = self.antennas.watch, stream.name in self._still
            watch.look(stream.key, stream.name, time_s, estimate.cfr[0], stands_still=still)
            watch.symbols(stream.key, time_s, stream.times_s, estimate.ls)
        taps = estimate.taps.shape[2]
        tap_s = 1.0 / (PRB_SUBCARRIERS * carrier.scs_hz * taps) if taps else None
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
            undone = self.antennas.undo(
                estimate.cfr[index], estimate.taps[index], stream.key, carrier.carrier_hz + tones_hz, time_s
            )
            yield ChannelFrame(
                source=f"nr.{block.source}"[:MAX_NAME],
                epoch=block.epoch,
                seq=self._seq - 1,
                t_ns=max(block.t_ns + late_ns, 0),
                user=user,
                block=max(received.slot, 0),
                domain="effective",
                noise_power=error_power * undone.error_gain,
                snr_db=snr_db,
                carrier_hz=carrier.carrier_hz,
                cfo_hz=estimate.cfo_hz,
                delay_spread_s=float(estimate.delay_spread_s[index]),
                doppler_hz=estimate.doppler_hz,
                k_factor_db=None if estimate.k_factor_db is None else float(estimate.k_factor_db[index]),
                confidence=estimate.confidence,
                phases=undone.phases,
                cfr=undone.cfr[None],
                tones_hz=tones_hz,
                ris_patterns=no_array(1, 0),
                beams=no_array(0, estimate.cfr.shape[1]),
                cir=undone.cir,
                tap_s=tap_s,
            )
