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
from ingest.nr.ofdm import PRB_SUBCARRIERS
from ingest.nr.references import ReferenceSettings
from ingest.nr.slot_estimate import Refusal, SlotEstimate
from ingest.nr.slot_plan import Stream
from ingest.nr.slot_receiver import ReceivedSlot, SlotReceiver, output_tones_hz

_NO_RIS = no_array(1, 0)


@dataclass
class Heard:
    """What was heard of one user over all its slots. snr_db, snr_lmmse_db: of the last one."""

    slots: int = 0
    snr_db: float = -np.inf
    snr_lmmse_db: float = -np.inf
    cfo_hz: float = 0.0


@dataclass(frozen=True, eq=False)
class _Known:
    """What is the same in all frames of a stream. no_beams [0, A]."""

    users: tuple[tuple[str, Heard], ...]
    tones_hz: npt.NDArray[np.float64]
    frequencies_hz: npt.NDArray[np.float64]
    tap_s: float | None
    no_beams: npt.NDArray[np.complex64]


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
    _known: dict[tuple[object, ...], _Known] = field(default_factory=dict, init=False)
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
        known = self._known.get(stream.key)
        if known is None or known.no_beams.shape[1] != estimate.cfr.shape[1]:
            known = self._known[stream.key] = self._known_of(stream, estimate)
        time_s = received.frame_sample / block.rate_hz + received.slot % carrier.slots_per_frame * carrier.slot_s
        t_ns = max(block.t_ns + round((time_s - block.first_sample / block.rate_hz) * 1e9), 0)
        if len(estimate.ls) > 1:
            watch = self.antennas.watch
            watch.look(stream.key, stream.name, time_s, estimate.cfr[0], stands_still=stream.name in self._still)
            watch.symbols(stream.key, time_s, stream.times_s, estimate.ls)
        source = f"nr.{block.source}"[:MAX_NAME]
        for index, (user, heard) in enumerate(known.users):
            error_power = max(float(estimate.error_power[index]), 1e-30)
            snr_db = float(estimate.snr_db[index])
            heard.slots += 1
            heard.snr_db = snr_db
            heard.snr_lmmse_db = snr_db + 10.0 * log10(estimate.noise_power / error_power)
            heard.cfo_hz = estimate.cfo_hz
            self._seq += 1
            undone = self.antennas.undo(
                estimate.cfr[index], estimate.taps[index], stream.key, known.frequencies_hz, time_s
            )
            yield ChannelFrame(
                source=source,
                epoch=block.epoch,
                seq=self._seq - 1,
                t_ns=t_ns,
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
                tones_hz=known.tones_hz,
                ris_patterns=_NO_RIS,
                beams=known.no_beams,
                cir=undone.cir,
                tap_s=known.tap_s,
            )

    def _known_of(self, stream: Stream, estimate: SlotEstimate) -> _Known:
        carrier, taps = self.settings.carrier, estimate.taps.shape[2]
        tones_hz = output_tones_hz(stream, carrier)
        users = [f"{stream.name}.{port}" for port in stream.ports]
        return _Known(
            users=tuple((user, self.heard.setdefault(user, Heard())) for user in users),
            tones_hz=tones_hz,
            frequencies_hz=carrier.carrier_hz + tones_hz,
            tap_s=1.0 / (PRB_SUBCARRIERS * carrier.scs_hz * taps) if taps else None,
            no_beams=no_array(0, estimate.cfr.shape[1]),
        )
