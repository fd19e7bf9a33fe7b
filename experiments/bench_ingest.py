"""How fast IQ becomes channel frames (`twinbeam bench ingest`): from a file, over ZeroMQ, and one slot at a time.

The signal is `ingest_signal`'s: SSBs tracked, a PUSCH over 106 PRBs (51 at 30.72 MS/s) in every slot with two DMRS
symbols, estimated by LMMSE. Beside it runs, on the same samples, the receiver that one would write first: all 14
symbols transformed, least squares at the pilots, linear interpolation over frequency; it tracks nothing.

The result, as `--json` prints it, has `file`, `slot_us` and `zmq`; the functions below say what is in them.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from experiments.bench_zmq import run_zmq
from experiments.ingest_signal import Ring, make_ring
from ingest.messages import ChannelFrame
from ingest.nr.ofdm import SYMBOLS_PER_SLOT, OfdmDemodulator
from ingest.nr.receiver import NrReceiver
from ingest.nr.references import ReferenceSettings
from ingest.nr.slot_estimate import SlotEstimate
from ingest.nr.slot_receiver import SlotReceiver
from ingest.nr.warm_up import warm_up
from ingest.sources import open_source

RATE_HZ, PRBS = 46.08e6, 106
_FILE_SECONDS = (0.1, 1.0, 4.0, 16.0)
_SLOT_ANTENNAS = 4
_SLOTS_WARM = 400

Told = Callable[[int, int | None], None]


def run_bench(*, quick: bool, seed: int, progress: Told) -> dict[str, Any]:
    """All parts; quick: shorter signals and streams of 5 s."""
    steps = 3
    progress(0, steps)
    with _one_core():
        file = bench_file(_FILE_SECONDS[:2] if quick else _FILE_SECONDS, seed)
        progress(1, steps)
        slot = bench_slots(1000 if quick else 10_000, seed)
    progress(2, steps)
    found = {"seed": seed, "quick": quick, "file": file, "slot_us": slot, "zmq": run_zmq(quick=quick, seed=seed)}
    progress(3, steps)
    return found


@contextmanager
def _one_core() -> Iterator[None]:
    """Everything in this thread on one core, the garbage collector resting."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        os.sched_setaffinity(0, allowed)


def settings_of(ring: Ring) -> ReferenceSettings:
    return ReferenceSettings(ring.carrier, (("pusch", ring.signal),))


def bench_file(seconds: tuple[float, ...], seed: int) -> dict[str, Any]:
    """A raw complex64 file of one antenna at 46.08 MS/s to channel frames, the search for the cell included.

    real_time_factor: of the longest file; against: of all (`samples`, `seconds`, `real_time_factor`, `frames`).
    stage_us: per slot of the longest file, `read`, `ssb` (search and tracking) and `references`. baseline: real-time
    factor of the plain receiver on the same file, and `ratio` of ours to it.
    """
    ring = make_ring(RATE_HZ, PRBS, 1, seed)
    warm_up(settings_of(ring))
    rows = []
    with tempfile.TemporaryDirectory(prefix="twinbeam-") as folder:
        path = Path(folder) / "capture.cf32"
        for length_s in seconds:
            with path.open("wb") as file:
                for _ in range(round(length_s / 20e-3)):
                    file.write(ring.samples.tobytes())
                file.flush()
                os.fsync(file.fileno())  # what is still being written to a disk would be measured too
            row, stages_us = _receive_file(path, ring, length_s)
            rows.append(row)
        plain_s = _plain_file(path, ring)
    factor = seconds[-1] / plain_s
    return {
        "real_time_factor": rows[-1]["real_time_factor"],
        "against": rows,
        "stage_us": stages_us,
        "baseline": {"real_time_factor": round(factor, 2), "ratio": round(rows[-1]["real_time_factor"] / factor, 3)},
    }


def _receive_file(path: Path, ring: Ring, seconds: float) -> tuple[dict[str, Any], dict[str, float]]:
    receiver = NrReceiver(settings_of(ring))
    spent = {"read": 0.0, "ssb": 0.0, "references": 0.0}
    track = receiver.ssb.process

    def tracked(*arguments: Any) -> Any:
        begun_s = perf_counter()
        found = track(*arguments)
        spent["ssb"] += perf_counter() - begun_s
        return found

    receiver.ssb.process = tracked  # type: ignore[method-assign]
    frames: list[ChannelFrame] = []
    begun_s = before_s = perf_counter()
    for block in open_source(str(path), rate_hz=ring.rate_hz, center_hz=ring.center_hz):
        spent["read"] += perf_counter() - before_s
        frames += list(receiver.process(block))  # type: ignore[arg-type]
        before_s = perf_counter()
    took_s = perf_counter() - begun_s
    spent["references"] = took_s - spent["read"] - spent["ssb"]
    slots = seconds / 0.5e-3
    row = {
        "samples": round(seconds * ring.rate_hz),
        "seconds": seconds,
        "real_time_factor": round(seconds / took_s, 2),
        "frames": len(frames),
        "slots": round(slots),
    }
    return row, {name: round(value / slots * 1e6, 2) for name, value in spent.items()}


class PlainReceiver:
    """The baseline: every symbol of a slot transformed, least squares, linear interpolation. It is told the timing."""

    def __init__(self, ring: Ring) -> None:
        self._demodulator = OfdmDemodulator(ring.carrier, ring.rate_hz, ring.center_hz)
        self._all = np.arange(ring.carrier.subcarriers)
        self._slots = [self._slot(ring, slot) for slot in range(ring.carrier.slots_per_frame)]

    def _slot(self, ring: Ring, slot: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.complex64], Any]:
        symbols = range(SYMBOLS_PER_SLOT)
        windows = self._demodulator.windows(slot, symbols)
        (group,) = ring.signal.pilots(ring.carrier, slot)
        return windows, self._demodulator.coefficients(slot, symbols, self._all), group

    def receive(self, frame: npt.NDArray[np.complex64], slot: int) -> npt.NDArray[np.complex64]:
        """The channel [A, subcarriers] in a slot of `frame` [A, T]."""
        windows, coefficients, group = self._slots[slot]
        fft = self._demodulator.fft
        cut = np.stack([frame[:, start : start + fft] for start in windows], axis=1)
        elements = scipy.fft.fft(cut, axis=2)[..., self._demodulator.bins(self._all)] * coefficients
        pilots = elements[:, group.symbols][..., group.subcarriers] / group.values[0]
        mean = pilots.mean(axis=1)
        return np.stack([np.interp(self._all, group.subcarriers, row) for row in mean])


def _plain_file(path: Path, ring: Ring) -> float:
    """Seconds that the plain receiver takes for the file, reading included."""
    plain = PlainReceiver(ring)
    frame_samples = round(10e-3 * ring.rate_hz)
    begun_s = perf_counter()
    with path.open("rb") as file:
        while len(read := file.read(8 * frame_samples)) == 8 * frame_samples:
            frame = np.frombuffer(read, np.complex64)[None]
            for slot in range(ring.carrier.slots_per_frame):
                plain.receive(frame, slot)
    return perf_counter() - begun_s


def bench_slots(count: int, seed: int) -> dict[str, Any]:
    """A slot of four antennas at 46.08 MS/s, which comes in blocks of a slot that begin in the middle of one.

    p50, p99: from the block to the slot's estimate. all: until the next block can come, what is learnt from the slot
    included. baseline: the plain receiver's, which has the slot in one piece.
    """
    ring = make_ring(RATE_HZ, PRBS, _SLOT_ANTENNAS, seed)
    length, first = ring.slot_samples, ring.slot_samples // 3
    receiver = SlotReceiver(ring.carrier, settings_of(ring).signals, ring.rate_hz, ring.center_hz, 0)
    pieces = [ring.from_slot(first + n * length, length) for n in range(40)]
    plain, frame = PlainReceiver(ring), ring.from_slot(0, 20 * length)
    ours_s, all_s, plain_s, estimated = [], [], [], 0
    for n in range(_SLOTS_WARM + count):
        begun_s = perf_counter()
        slots = receiver.process(pieces[n % 40], first + n * length)
        found = list(islice(slots, 1))
        ours_s.append(perf_counter() - begun_s)
        found += list(slots)
        all_s.append(perf_counter() - begun_s)
        begun_s = perf_counter()
        plain.receive(frame, n % 20)
        plain_s.append(perf_counter() - begun_s)
        if n >= _SLOTS_WARM:
            estimated += sum(isinstance(one.estimate, SlotEstimate) for one in found)
    ours, theirs = ours_s[_SLOTS_WARM:], plain_s[_SLOTS_WARM:]
    return {
        **_percentiles_us(ours),
        "all": _percentiles_us(all_s[_SLOTS_WARM:]),
        "antennas": _SLOT_ANTENNAS,
        "slots": count,
        "estimated": estimated,
        "baseline": {**_percentiles_us(theirs), "ratio_p50": round(float(np.median(theirs) / np.median(ours)), 2)},
    }


def _percentiles_us(seconds: list[float]) -> dict[str, float]:
    return {f"p{point}": round(float(np.percentile(seconds, point)) * 1e6, 1) for point in (50, 99)}
