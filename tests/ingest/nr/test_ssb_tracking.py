"""A followed cell is measured as well as a searched one, at any rate; its drift is known; a lost one is given up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.band import WidebandSpectrum
from ingest.nr.drift import DriftFilter
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb import SsbMeasurement
from ingest.nr.ssb_patterns import ssb_start_s
from ingest.nr.ssb_search import search_band
from ingest.nr.ssb_tracking import DECODE_EVERY, MAX_MISSED, SsbTracker, supports
from ingest.nr.stretch import Stretch
from tests.ingest.nr.broadcast import Broadcast
from tests.ingest.nr.signals import Ssb, block, capture, noise

RASTER_HZ = 3512.64e6
RATE_HZ = 7.68e6
PERIOD_S = 0.02
AHEAD_S = 1e-4
LENGTH_S = 4e-4
NO_TAIL = np.zeros((1, 0), np.complex64)

Sender = Callable[[int], Ssb]


def sender(**more: object) -> Sender:
    """The n-th block of a cell that sends every 20 ms, its frame number counting."""

    def nth(n: int) -> Ssb:
        settings = {"cfo_hz": 1300.0, "taps": ((0.0, 0.9), (3 / RATE_HZ, 0.43j)), "index_bar": 1, **more}
        return Ssb(
            pci=500,
            start_s=n * PERIOD_S + AHEAD_S,
            raster_hz=RASTER_HZ,
            said=Broadcast(sfn=(1022 + 2 * n) % 1024),
            **settings,
        )

    return nth


def piece(
    sent: Ssb | None, n: float, rng: np.random.Generator, rate_hz: float = RATE_HZ, center_hz: float = RASTER_HZ, **more
) -> Stretch:
    """A few symbols of the stream around where the n-th block is, heard in noise."""
    first_sample = round(n * PERIOD_S * rate_hz)
    samples = int(LENGTH_S * rate_hz)
    if sent is None:
        seen = noise(rng, 1, samples).astype(np.complex64)
    else:
        where = {"rate_hz": rate_hz, "center_hz": center_hz, "samples": samples, "first_sample": first_sample}
        seen = capture([sent], rng=rng, **{"snr_db": 20.0, **where, **more})
    return Stretch(NO_TAIL, seen, first_sample)


def searched(stretch: Stretch, rate_hz: float = RATE_HZ, center_hz: float = RASTER_HZ) -> tuple[float, SsbMeasurement]:
    spectrum = WidebandSpectrum(stretch.whole, rate_hz, center_hz, 30e3)
    (found,) = search_band(spectrum.band(RASTER_HZ), RASTER_HZ)
    return stretch.first_sample / rate_hz + found.first_sample / 7.68e6, found


def tracker_of(nth: Sender, rng: np.random.Generator, rate_hz: float = RATE_HZ, center_hz: float = RASTER_HZ, **more):
    time_s, found = searched(piece(nth(0), 0, rng, rate_hz, center_hz, **more), rate_hz, center_hz)
    return SsbTracker(found, time_s, rate_hz, center_hz)


@pytest.mark.kernel
@pytest.mark.parametrize("rate_hz", [7.68e6, 9.6e6, 15.36e6, 23.04e6, 30.72e6, 30e6, 46.08e6, 61.44e6])
@pytest.mark.parametrize("off_hz", [0.0, 7777.0])
def test_at_any_rate_it_measures_what_a_search_measures(
    rate_hz: float, off_hz: float, rng: np.random.Generator
) -> None:
    center_hz = RASTER_HZ - off_hz - (9.84e6 if rate_hz > 29e6 else 0.0)
    nth = sender(gain=(1.0, 0.5j))
    tracker = tracker_of(nth, rng, rate_hz, center_hz, snr_db=35.0)
    stretch = piece(nth(1), 1, rng, rate_hz, center_hz, snr_db=35.0)
    ((time_s, got),) = tracker.measure(stretch)
    expected_s, expected = searched(stretch, rate_hz, center_hz)
    assert time_s + got.delay_s == pytest.approx(expected_s + expected.delay_s, abs=5e-9)
    assert got.cfo_hz == pytest.approx(expected.cfo_hz, abs=15.0)
    assert got.snr_db == pytest.approx(expected.snr_db, abs=2.0)
    late = np.exp(2j * np.pi * got.tones_hz * (expected_s - time_s))
    likeness = np.vdot(got.ls * late, expected.ls) / np.linalg.norm(got.ls) / np.linalg.norm(expected.ls)
    assert abs(likeness) > 0.997
    assert np.linalg.norm(got.ls) == pytest.approx(np.linalg.norm(expected.ls), rel=0.02)


@pytest.mark.kernel
def test_timing_and_offset_are_followed(rng: np.random.Generator) -> None:
    """A sender whose clock is 3 ppm slow and whose carrier climbs 400 Hz a second, for two seconds."""
    still = sender()

    def nth(n: int) -> Ssb:
        seconds = n * PERIOD_S
        return Ssb(
            **{
                **still(n).__dict__,
                "start_s": still(n).start_s + 3e-6 * seconds,
                "cfo_hz": 1300.0 + 400.0 * seconds,
            }
        )

    tracker = tracker_of(nth, rng, snr_db=10.0)
    for n in range(1, 101):
        ((time_s, got),) = tracker.measure(piece(nth(n), n, rng, snr_db=10.0))
        if n > 30:
            assert time_s + got.delay_s - nth(n).start_s == pytest.approx(0.0, abs=2.5e-7)
            assert tracker.cfo_hz == pytest.approx(nth(n).cfo_hz, abs=60.0)
    assert tracker.drift_ppm == pytest.approx(3.0, abs=0.1)
    assert tracker.drift_s == pytest.approx(6e-6, abs=5e-8)


@pytest.mark.kernel
def test_the_frame_number_is_counted_on(rng: np.random.Generator) -> None:
    """Over the wrap at 1024, without reading the PBCH; and the frame's start stays where it is."""
    nth = sender()
    tracker = tracker_of(nth, rng)
    for n in range(1, 8):
        ((_, got),) = tracker.measure(piece(nth(n), n, rng))
        said = nth(n).said
        assert said is not None
        assert got.mib is not None
        assert (got.mib.sfn, got.half_frame) == (said.sfn, 0)
        assert tracker.timing is not None
        assert tracker.timing.sfn == said.sfn
        frame_start_s = nth(n).start_s - ssb_start_s("C", 8, 1)
        assert tracker.timing.frame_start_s == pytest.approx(frame_start_s, abs=1e-7)


@pytest.mark.kernel
def test_what_the_cell_says_is_read_again(rng: np.random.Generator) -> None:
    """A cell that starts anew counts its frames from elsewhere: known after `DECODE_EVERY` blocks at the latest."""
    nth = sender()
    tracker = tracker_of(nth, rng)
    told = []
    for n in range(1, DECODE_EVERY + 3):
        changed = Ssb(**{**nth(n).__dict__, "said": Broadcast(sfn=(500 + 2 * n) % 1024)})
        ((_, got),) = tracker.measure(piece(changed, n, rng))
        assert got.mib is not None
        told.append(got.mib.sfn == (500 + 2 * n) % 1024)
    assert told == [False] * (DECODE_EVERY - 1) + [True] * 3


@pytest.mark.kernel
def test_the_period_is_learnt(rng: np.random.Generator) -> None:
    """At first a block may come in every half frame; then only the period's instants are looked at."""
    nth = sender()
    tracker = tracker_of(nth, rng)
    assert tracker.period_s == 5e-3
    assert tracker.learning
    for quarter in range(1, 60):
        n = quarter / 4
        sent = nth(int(n)) if n.is_integer() else None
        found = tracker.measure(piece(sent, n, rng))
        assert len(found) == n.is_integer()
    assert tracker.period_s == PERIOD_S
    assert not tracker.learning
    assert tracker.missed == 0


@pytest.mark.kernel
def test_the_period_is_learnt_across_missing_samples(rng: np.random.Generator) -> None:
    """The second block that is heard comes 47 periods after the first: that is no period."""
    nth = sender()
    tracker = tracker_of(nth, rng)
    heard = [len(tracker.measure(piece(nth(n), n, rng))) for n in (47, 48, 49, 50, 51)]
    assert heard == [1] * 5
    assert tracker.period_s == PERIOD_S
    assert not tracker.learning


class Watched(Stretch):
    """Tells which samples were asked for."""

    asked = 0

    def take(self, start: int, stop: int) -> npt.NDArray[np.complex64]:
        self.asked += stop - start
        return super().take(start, stop)


@pytest.mark.kernel
def test_where_no_block_is_due_nothing_is_looked_at(rng: np.random.Generator) -> None:
    nth = sender()
    tracker = tracker_of(nth, rng)
    for n in range(1, 10):
        tracker.measure(piece(nth(n), n, rng))
    assert tracker.period_s == PERIOD_S
    idle = Watched(NO_TAIL, noise(rng, 1, 100_000).astype(np.complex64), round((9 * PERIOD_S + 1e-3) * RATE_HZ))
    assert tracker.measure(idle) == []
    assert idle.asked == 0
    due = piece(nth(10), 10, rng)
    watched = Watched(NO_TAIL, due.whole, due.first_sample)
    assert len(tracker.measure(watched)) == 1
    assert watched.asked < 1.01 * 4 * 274


@pytest.mark.kernel
def test_a_cell_that_goes_is_lost(rng: np.random.Generator) -> None:
    nth = sender()
    tracker = tracker_of(nth, rng)
    for n in range(1, 10):
        tracker.measure(piece(nth(n), n, rng))
    for n in range(10, 10 + MAX_MISSED):
        assert not tracker.lost
        assert tracker.measure(piece(None, n, rng)) == []
        assert tracker.missed == n - 9
    assert tracker.lost
    assert tracker.measure(piece(nth(30), 30, rng)) == []


@pytest.mark.kernel
def test_missing_samples_are_no_misses(rng: np.random.Generator) -> None:
    nth = sender()
    tracker = tracker_of(nth, rng)
    for n in (*range(1, 10), 40, 41):
        assert len(tracker.measure(piece(nth(n), n, rng))) == 1
    assert tracker.missed == 0


@pytest.mark.kernel
@pytest.mark.parametrize("snr_db", [-6.0, -3.0])
def test_a_weak_cell_is_not_lost(snr_db: float, rng: np.random.Generator) -> None:
    """Found while it was strong, followed below the noise."""
    nth = sender()
    tracker = tracker_of(nth, rng)
    for n in range(1, 60):
        ((time_s, _),) = tracker.measure(piece(nth(n), n, rng, snr_db=snr_db))
        assert time_s - nth(n).start_s == pytest.approx(0.0, abs=6e-7)  # half a cyclic prefix is 1.2 µs
    assert tracker.cfo_hz == pytest.approx(1300.0, abs=400.0)


@pytest.mark.kernel
def test_noise_and_other_cells_are_not_taken_for_the_block(rng: np.random.Generator) -> None:
    nth = sender()
    tracker = tracker_of(nth, rng)
    for n in range(1, 150):
        tracker.missed = 0
        assert tracker.measure(piece(None, n, rng)) == []
    other = Ssb(pci=501, start_s=150 * PERIOD_S + AHEAD_S, raster_hz=RASTER_HZ, cfo_hz=1300.0, said=Broadcast())
    assert tracker.measure(piece(other, 150, rng)) == []


@pytest.mark.kernel
@pytest.mark.parametrize("damage", [0.0, 1e38, 1e-38, np.nan, np.inf])
def test_absurd_samples_are_a_miss(damage: float, rng: np.random.Generator) -> None:
    nth = sender()
    tracker = tracker_of(nth, rng)
    absurd = np.full((1, int(LENGTH_S * RATE_HZ)), damage, np.complex64)
    assert tracker.measure(Stretch(NO_TAIL, absurd, round(PERIOD_S * RATE_HZ))) == []
    assert tracker.missed == 1
    assert len(tracker.measure(piece(nth(2), 2, rng))) == 1


@pytest.mark.parametrize(
    ("rate_hz", "scs_hz", "able"),
    [(46.08e6, 30e3, True), (30e6, 30e3, True), (20e6, 30e3, False), (3.84e6, 30e3, False)],
)
def test_rates(rate_hz: float, scs_hz: float, able: bool) -> None:
    assert supports(rate_hz, scs_hz) == able


@pytest.mark.kernel
def test_a_rate_that_cannot_be_tracked_is_refused(rng: np.random.Generator) -> None:
    time_s, found = searched(piece(sender()(0), 0, rng))
    with pytest.raises(ValueError, match="no whole multiple"):
        SsbTracker(found, time_s, 20e6, RASTER_HZ)


def stream(rate_hz: float, seconds: float, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    nth = sender()
    sent = [nth(n) for n in range(int(seconds / PERIOD_S))]
    return capture(sent, rate_hz=rate_hz, center_hz=RASTER_HZ, samples=int(seconds * rate_hz), snr_db=15.0, rng=rng)


@pytest.mark.parametrize("rate_hz", [7.68e6, 8e6])
@pytest.mark.parametrize("block_s", [1e-3, 3.3e-3, 10e-3])
def test_every_block_of_a_stream_comes_once(rate_hz: float, block_s: float, rng: np.random.Generator) -> None:
    """Tracked, and at 8 MS/s searched; however the stream is cut."""
    samples = stream(rate_hz, 0.2, rng)
    receiver = NrReceiver()
    size = int(block_s * rate_hz)
    frames = [
        frame
        for first in range(0, samples.shape[1], size)
        for frame in receiver.process(
            block(samples[:, first : first + size], rate_hz=rate_hz, center_hz=RASTER_HZ, first_sample=first)
        )
    ]
    assert {frame.user for frame in frames} == {"pci500.ssb1"}
    expected = [n * PERIOD_S + AHEAD_S for n in range(10)]
    np.testing.assert_allclose([frame.t_ns * 1e-9 for frame in frames], expected, atol=5e-7)
    (cell,) = receiver.cells
    assert cell.seen == 10
    assert (cell.tracker is not None) == supports(rate_hz, 30e3)


@pytest.mark.kernel
def test_a_lost_cell_is_searched_for_again(rng: np.random.Generator) -> None:
    """It comes back at another time in its period and 5 kHz off, as after a restart."""
    receiver = NrReceiver()
    users = []
    for n in range(60):
        there = n < 12 or n >= 30
        away_s = 0.0 if n < 30 else 3.7e-3
        moved = {"start_s": n * PERIOD_S + AHEAD_S + away_s, "cfo_hz": 1300.0 + 5e3 * (n >= 30)}
        sent = Ssb(**{**sender()(n).__dict__, **moved})
        first_sample = round((n * PERIOD_S + away_s) * RATE_HZ)
        samples = capture(
            [sent] if there else [],
            rate_hz=RATE_HZ,
            center_hz=RASTER_HZ,
            samples=4000,
            snr_db=15.0,
            rng=rng,
            first_sample=first_sample,
        )
        one = block(samples, rate_hz=RATE_HZ, center_hz=RASTER_HZ, first_sample=first_sample)
        users += [n for frame in receiver.process(one)]
    assert users == [*range(12), *range(30, 60)]


@pytest.mark.kernel
def test_a_cell_long_unseen_is_searched_for_again(rng: np.random.Generator) -> None:
    """Three seconds of samples are missing: its blocks are no longer where they were expected."""
    tracker = tracker_of(sender(), rng)
    assert len(tracker.measure(piece(sender()(1), 1, rng))) == 1
    assert tracker.measure(piece(sender()(150), 150, rng)) == []
    assert tracker.lost


def test_a_drift_filter_is_the_kalman_filter(rng: np.random.Generator) -> None:
    """Against the matrix form written out."""
    ours = DriftFilter(1.0, 0.3, 0.2, (2.0, 0.5))
    x, p = np.array([1.0, 0.0]), np.diag([2.0, 0.5])
    for _ in range(50):
        elapsed, measured, variance = rng.uniform(0.1, 2.0), rng.normal(), rng.uniform(0.1, 3.0)
        step = np.array([[1.0, elapsed], [0.0, 1.0]])
        x, p = step @ x, step @ p @ step.T + np.diag([0.3, 0.2]) * elapsed
        gain = p[:, 0] / (p[0, 0] + variance)
        x, p = x + gain * (measured - x[0]), p - np.outer(gain, p[0])
        ours.predict(elapsed)
        ours.correct(measured, variance)
        np.testing.assert_allclose([ours.value, ours.rate], x, rtol=1e-9)
