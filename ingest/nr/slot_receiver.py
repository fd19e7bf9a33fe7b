"""From IQ to the channels of configured reference signals, slot by slot.

Needs to know when a frame starts; it then keeps time by itself. Samples are looked at where they lie: a block's slots
are cut out of the block, and only the one across the border is put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.delay_columns import DelayWindow
from ingest.nr.estimation import PortEstimator
from ingest.nr.ofdm import PRB_SUBCARRIERS, Carrier, OfdmDemodulator
from ingest.nr.slot_batch import PickTable, SlotBatch, make_batch
from ingest.nr.slot_estimate import Refusal, SlotEstimate
from ingest.nr.slot_plan import Reference, SlotPlan, Stream, plan_slot
from ingest.nr.streams import estimate_streams, stream_estimator

Complex64 = npt.NDArray[np.complex64]

SFN_COUNT = 1024

_BATCH = 40
"""Slots that are received together where they lie in one block: what is found is the same, at half the cost."""

_MOST_BATCHES = 512

_EARLIEST_CP, _LATEST_CP = -0.25, 1.25
"""Delays looked at, in cyclic prefixes after the nominal symbol start: timing advance errs to both sides."""


class ReceivedSlot(msgspec.Struct, frozen=True, eq=False):
    """What one stream of a slot gave. slot: counted from the frame in which reception began; frame_sample: of the
    stream, where the slot's frame starts."""

    stream: Stream
    slot: int
    frame_sample: int
    estimate: SlotEstimate | Refusal


class _HeldSlot:
    """The windows of a slot that lies across blocks, as far as they have come: all that is needed of it.

    starts [W]: in the stream. windows [A, W * fft], in `memory` where it is of that shape, and where each begins in it.
    """

    def __init__(self, starts: npt.NDArray[np.int64], antennas: int, fft: int, memory: Complex64 | None = None) -> None:
        shape = antennas, len(starts) * fft
        self.windows = memory if memory is not None and memory.shape == shape else np.empty(shape, np.complex64)
        self.places = np.arange(len(starts)) * fft
        # The slots of a cell that is followed may move a little meanwhile: these windows stay.
        self.end_sample = int(starts.max()) + fft if len(starts) else 0
        self._starts = starts
        self._fft = fft

    def add(self, samples: Complex64, first_sample: int) -> None:
        """Take what `samples`, which go on where the last ones ended, hold of the windows."""
        copy_windows(samples, self._starts - first_sample, self._fft, self.windows)


@kernel
def copy_windows(samples: Complex64, starts: npt.NDArray[np.int64], fft: int, windows: Complex64) -> None:
    """What samples [A, T] hold of windows [A, W * fft] that begin at starts [W], before or after them too."""
    for window in range(len(starts)):
        low, high = max(starts[window], 0), min(starts[window] + fft, samples.shape[1])
        if low < high:
            into = window * fft - starts[window]
            for antenna in range(samples.shape[0]):
                windows[antenna, into + low : into + high] = samples[antenna, low:high]


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
        self._batches: dict[tuple[int, int, int], SlotBatch] = {}
        self._tables: dict[tuple[object, ...], PickTable] = {}
        self._estimators: dict[tuple[object, ...], PortEstimator] = {}
        self._frame_samples = round(10e-3 * self.rate_hz)
        self._frame_period = max((getattr(signal, "frames", 1) for _, signal in self.references), default=1)
        slots = range(self.carrier.slots_per_frame)
        self._starts = [int(self._demodulator.windows(slot, (0,))[0]) for slot in slots]
        self._ends = [int(self._demodulator.windows(slot, (13,))[0]) + self._demodulator.fft for slot in slots]
        self._held: _HeldSlot | None = None
        self._memory: Complex64 | None = None
        self._antennas = 0
        self._next_sample = 0
        self._slot: int | None = None

    def follow(self, frame_start: int) -> None:
        """A frame starts at sample `frame_start`: what our frames are off by less than a prefix is drift and taken out.

        More is another frame structure or a wrong claim, and left alone.
        """
        off = (frame_start - self.frame_start + self._frame_samples // 2) % self._frame_samples
        off -= self._frame_samples // 2
        if abs(off) <= self._demodulator.fft // 16:
            self.frame_start += off

    def process(self, samples: Complex64, first_sample: int) -> Iterator[ReceivedSlot]:
        """What the slots that end in samples [A, T] hold; a jump in first_sample loses the slot that it cuts."""
        if first_sample != self._next_sample or self._antennas != len(samples) or self._slot is None:
            self._held = None
            self._slot = self._first_slot_after(first_sample)
        self._antennas = len(samples)
        self._next_sample = end_sample = first_sample + samples.shape[1]
        if self._held is not None:
            self._held.add(samples, first_sample)
            if max(self._end_of(self._slot), self._held.end_sample) > end_sample:
                return
            held, self._held = self._held, None
            yield from self._receive(held.windows, self._frame_sample(self._slot), self._slot, 1, held.places)
            self._slot += 1
        yield from self._slots(samples, first_sample)
        if self._start_of(self._slot) < end_sample:
            starts = self._frame_sample(self._slot) + self._plan(self._slot).windows
            self._held = _HeldSlot(starts, len(samples), self._demodulator.fft, self._memory)
            self._memory = self._held.windows
            self._held.add(samples, first_sample)

    def _slots(self, samples: Complex64, first_sample: int) -> Iterator[ReceivedSlot]:
        """The slots that lie in `samples` as a whole, some of them at a time."""
        assert self._slot is not None
        end_sample = first_sample + samples.shape[1]
        while self._end_of(self._slot) <= end_sample:
            count = 1
            while count < _BATCH and self._end_of(self._slot + count) <= end_sample:
                count += 1
            yield from self._receive(samples, first_sample, self._slot, count)
            self._slot += count

    def _receive(
        self, samples: Complex64, first_sample: int, first: int, count: int, places: npt.NDArray[np.int64] | None = None
    ) -> Iterator[ReceivedSlot]:
        """What `count` slots from `first` on hold, in their order: transformed together, each stream at once.

        places: where the windows of all slots start in `samples`, if not where their time says.
        """
        batch = self._batch(first, count)
        if places is None:
            places = batch.windows + (self._frame_sample(first) - first_sample)
        spectra = [self._demodulator.transform(samples, places[fold.which], 0.0, fold.residues) for fold in batch.folds]
        told = []
        for family in batch.families:
            received = [family.received(number, spectra) for number in range(len(family.streams))]
            times_s = (first + np.array(family.members)) * self.carrier.slot_s
            estimators = [self._estimator(stream) for stream in family.streams]
            told.append(estimate_streams(estimators, family.streams, received, times_s))
        for slot, streams in enumerate(batch.streams, first):
            frame_sample = self._frame_sample(slot)
            for stream, number, each, member in streams:
                estimate = told[number][each][member]
                if isinstance(estimate, Refusal):
                    self.refused[estimate.reason] += 1
                yield ReceivedSlot(stream, slot, frame_sample, estimate)
        for family in batch.families:
            for stream in family.streams:
                self._estimators[stream.key].catch_up()

    def _batch(self, first: int, count: int) -> SlotBatch:
        frames, slot_in_frame = divmod(first, self.carrier.slots_per_frame)
        key = (slot_in_frame, (self.frame + frames) % self._frame_period, count)
        if key not in self._batches:
            slots = range(first, first + count)
            starts = [self._frame_sample(slot) - self._frame_sample(first) for slot in slots]
            if len(self._batches) >= _MOST_BATCHES:
                self._batches.clear()
            self._batches[key] = make_batch([self._plan(slot) for slot in slots], starts, self._tables)
        return self._batches[key]

    def _frame_sample(self, slot: int) -> int:
        """The stream's sample at which the frame of `slot` starts."""
        return self.frame_start + slot // self.carrier.slots_per_frame * self._frame_samples

    def _plan(self, slot: int) -> SlotPlan:
        frames, slot_in_frame = divmod(slot, self.carrier.slots_per_frame)
        frame = (self.frame + frames) % SFN_COUNT
        key = (slot_in_frame, frame % self._frame_period)
        if key not in self._plans:
            self._plans[key] = plan_slot(self._demodulator, self.references, slot_in_frame, frame)
        return self._plans[key]

    def _estimator(self, stream: Stream) -> PortEstimator:
        if stream.key not in self._estimators:
            outputs_hz, window = output_tones_hz(stream, self.carrier), delay_window(self.carrier)
            self._estimators[stream.key] = stream_estimator(stream, outputs_hz, window)
        return self._estimators[stream.key]

    def _start_of(self, slot: int) -> int:
        """Where the first window of the slot starts."""
        return self._frame_sample(slot) + self._starts[slot % self.carrier.slots_per_frame]

    def _end_of(self, slot: int) -> int:
        """Where the last window of the slot has ended."""
        return self._frame_sample(slot) + self._ends[slot % self.carrier.slots_per_frame]

    def _first_slot_after(self, sample: int) -> int:
        """The first slot of which no window starts before `sample`."""
        slot = int((sample - self.frame_start) / (self.carrier.slot_s * self.rate_hz)) - 2
        while self._start_of(slot) < sample:
            slot += 1
        return slot


def delay_window(carrier: Carrier) -> DelayWindow:
    """Delays at which a carrier's channels are looked for."""
    return DelayWindow(_EARLIEST_CP * carrier.cp_s, _LATEST_CP * carrier.cp_s)


def output_tones_hz(stream: Stream, carrier: Carrier) -> npt.NDArray[np.float64]:
    """The middles of the resource blocks that a stream's pilots lie in, as offsets from the carrier."""
    half_hz = carrier.subcarriers / 2 * carrier.scs_hz
    block_hz = PRB_SUBCARRIERS * carrier.scs_hz
    blocks = np.unique(np.floor((stream.tones_hz + half_hz) / block_hz + 1e-9))
    return np.asarray((blocks + 0.5) * block_hz - half_hz - carrier.scs_hz / 2)
