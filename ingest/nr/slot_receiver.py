"""From IQ to the channels of configured reference signals, slot by slot.

Needs to know when a frame starts; it then keeps time by itself. Samples are looked at where they lie: a block's slots
are cut out of the block, and only the one across the border is put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ingest.nr.delay_prior import DelayWindow
from ingest.nr.estimation import PortEstimator, Refusal, SlotEstimate
from ingest.nr.ofdm import PRB_SUBCARRIERS, Carrier, OfdmDemodulator
from ingest.nr.slot_plan import Reference, SlotPlan, Stream, pick, plan_slot

Complex64 = npt.NDArray[np.complex64]

SFN_COUNT = 1024

_EARLIEST_CP, _LATEST_CP = -0.25, 1.25
"""Delays looked at, in cyclic prefixes after the nominal symbol start: timing advance errs to both sides."""


@dataclass(frozen=True)
class ReceivedSlot:
    """What one stream of a slot gave. slot: counted from the frame in which reception began."""

    stream: Stream
    slot: int
    first_sample: int
    estimate: SlotEstimate | Refusal


@dataclass
class SlotReceiver:
    """Receives `references` (name, signal) on `carrier` from A antennas at rate_hz tuned to center_hz.

    frame_start: the stream's sample in which system frame `frame` starts. refused: slots without an estimate, by
    reason.
    """

    carrier: Carrier
    references: Sequence[tuple[str, Reference]]
    rate_hz: float
    center_hz: float
    frame_start: int
    frame: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._demodulator = OfdmDemodulator(self.carrier, self.rate_hz, self.center_hz)
        self._plans: dict[tuple[int, int], SlotPlan] = {}
        self._estimators: dict[tuple[object, ...], PortEstimator] = {}
        self._frame_samples = round(10e-3 * self.rate_hz)
        self._frame_period = max((getattr(signal, "frames", 1) for _, signal in self.references), default=1)
        slots = range(self.carrier.slots_per_frame)
        self._starts = [int(self._demodulator.windows(slot, (0,))[0]) for slot in slots]
        self._ends = [int(self._demodulator.windows(slot, (13,))[0]) + self._demodulator.fft for slot in slots]
        self._held = np.zeros((0, 0), np.complex64)
        self._next_sample = 0
        self._slot: int | None = None

    def process(self, samples: Complex64, first_sample: int) -> Iterator[ReceivedSlot]:
        """What the slots that end in samples [A, T] hold; a jump in first_sample loses the slot that it cuts."""
        if first_sample != self._next_sample or len(self._held) != len(samples) or self._slot is None:
            self._held = samples[:, :0]
            self._slot = self._first_slot_after(first_sample)
        self._next_sample = first_sample + samples.shape[1]
        if self._held.shape[1]:
            missing = self._end_of(self._slot) - first_sample
            self._held = np.concatenate([self._held, samples[:, : max(missing, 0)]], axis=1)
            if missing > samples.shape[1]:
                return
            yield from self._slots(self._held, first_sample + max(missing, 0) - self._held.shape[1])
        yield from self._slots(samples, first_sample)
        kept = max(self._start_of(self._slot) - first_sample, 0)
        self._held = samples[:, kept:].copy()

    def _slots(self, samples: Complex64, first_sample: int) -> Iterator[ReceivedSlot]:
        """The slots that lie in `samples` as a whole."""
        assert self._slot is not None
        end_sample = first_sample + samples.shape[1]
        while self._end_of(self._slot) <= end_sample:
            yield from self._receive(samples, first_sample, self._slot)
            self._slot += 1

    def _receive(self, samples: Complex64, first_sample: int, slot: int) -> Iterator[ReceivedSlot]:
        frame, slot_in_frame = divmod(slot, self.carrier.slots_per_frame)
        plan = self._plan(slot_in_frame, (self.frame + frame) % SFN_COUNT)
        if not plan.symbols:
            return
        frame_start = self.frame_start + frame * self._frame_samples - first_sample
        spectrum = self._demodulator.transform(samples, frame_start + plan.windows, 0.0, plan.residues)
        for stream in plan.streams:
            received = pick(spectrum, stream.picks, stream.bins, stream.coefficients, stream.span)
            estimator = self._estimator(stream)
            estimate = estimator.estimate(received, slot * self.carrier.slot_s)
            if isinstance(estimate, Refusal):
                self.refused[estimate.reason] += 1
            yield ReceivedSlot(stream, slot, first_sample + int(frame_start), estimate)

    def _plan(self, slot_in_frame: int, frame: int) -> SlotPlan:
        key = (slot_in_frame, frame % self._frame_period)
        if key not in self._plans:
            self._plans[key] = plan_slot(self._demodulator, self.references, slot_in_frame, frame)
        return self._plans[key]

    def _estimator(self, stream: Stream) -> PortEstimator:
        if stream.key not in self._estimators:
            cp_s = self.carrier.cp_s
            window = DelayWindow(_EARLIEST_CP * cp_s, _LATEST_CP * cp_s)
            self._estimators[stream.key] = PortEstimator(
                stream.tones_hz, stream.covers, stream.times_s, output_tones_hz(stream, self.carrier), window
            )
        return self._estimators[stream.key]

    def _start_of(self, slot: int) -> int:
        """Where the first window of the slot starts."""
        frame, slot_in_frame = divmod(slot, self.carrier.slots_per_frame)
        return self.frame_start + frame * self._frame_samples + self._starts[slot_in_frame]

    def _end_of(self, slot: int) -> int:
        """Where the last window of the slot has ended."""
        frame, slot_in_frame = divmod(slot, self.carrier.slots_per_frame)
        return self.frame_start + frame * self._frame_samples + self._ends[slot_in_frame]

    def _first_slot_after(self, sample: int) -> int:
        """The first slot of which no window starts before `sample`."""
        slot = int((sample - self.frame_start) / (self.carrier.slot_s * self.rate_hz)) - 2
        while self._start_of(slot) < sample:
            slot += 1
        return slot


def output_tones_hz(stream: Stream, carrier: Carrier) -> npt.NDArray[np.float64]:
    """The middles of the resource blocks that a stream's pilots lie in, as offsets from the carrier."""
    half_hz = carrier.subcarriers / 2 * carrier.scs_hz
    block_hz = PRB_SUBCARRIERS * carrier.scs_hz
    blocks = np.unique(np.floor((stream.tones_hz + half_hz) / block_hz + 1e-9))
    return np.asarray((blocks + 0.5) * block_hz - half_hz - carrier.scs_hz / 2)
