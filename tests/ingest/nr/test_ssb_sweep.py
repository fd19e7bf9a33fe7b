"""Searching beside a live stream: the same cells as at once, a little later, and the stream never waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic, sleep

import numpy as np
import pytest

from ingest.messages import ChannelFrame, IqBlock
from ingest.nr import ssb_receiver, ssb_sweep
from ingest.nr.receiver import NrReceiver
from ingest.nr.ssb_sweep import SideSweep
from ingest.nr.stretch import Stretch
from tests.ingest.nr.signals import Ssb, block, capture

RATE_HZ, CENTER_HZ, RASTER_HZ = 15.36e6, 3502.8e6, 3501.12e6
PERIOD_S, BLOCK_S = 20e-3, 2e-3
PATIENCE_S = 60.0


def stream(
    rng: np.random.Generator, seconds: float, pcis: tuple[int, ...] = (500,), gain: tuple[complex, ...] = (1.0,)
) -> Iterator[IqBlock]:
    """SSBs of the cells every 20 ms, in blocks of 2 ms."""
    length = round(BLOCK_S * RATE_HZ)
    for number in range(round(seconds / BLOCK_S)):
        first_s = number * BLOCK_S
        starts_s = [4.3e-3 + PERIOD_S * count for count in range(round(seconds / PERIOD_S) + 1)]
        ssbs = [
            Ssb(pci, start_s + 150e-6 * index, RASTER_HZ, index_bar=index, gain=gain)
            for index, pci in enumerate(pcis)
            for start_s in starts_s
            if first_s - 1e-3 < start_s < first_s + BLOCK_S
        ]
        first = number * length
        samples = capture(ssbs, rate_hz=RATE_HZ, center_hz=CENTER_HZ, samples=length, snr_db=None, first_sample=first)
        parts = rng.normal(scale=0.5, size=(2, len(gain), length))
        samples = samples + parts[0] + 1j * parts[1]
        yield block(samples.astype(np.complex64), rate_hz=RATE_HZ, center_hz=CENTER_HZ, first_sample=first, seq=number)


def searching() -> bool:
    return any(thread.name == "search" for thread in threading.enumerate())


def taken(receiver: NrReceiver, blocks: list[IqBlock]) -> list[ChannelFrame]:
    """The frames of `blocks`, which come as slowly as the searches beside them need."""
    found = []
    for one in blocks:
        found += list(receiver.process(one))
        until_s = monotonic() + PATIENCE_S
        while searching() and monotonic() < until_s:
            sleep(1e-3)
    return found


def test_a_cell_is_found_beside_the_stream_and_then_followed(rng: np.random.Generator) -> None:
    blocks = list(stream(rng, 0.2))
    receiver = NrReceiver(live=True)
    frames = taken(receiver, blocks)
    at_once = NrReceiver()
    expected = [frame for one in blocks for frame in at_once.process(one)]
    assert [cell.key for cell in receiver.cells] == [cell.key for cell in at_once.cells]
    assert receiver.cells[0].measurement.pci == 500
    assert len(expected) == 10
    # The first one came with the search's copy; of those that passed until it was done, none was heard twice.
    assert len(frames) == len({frame.t_ns for frame in frames}) >= 9
    assert {frame.user for frame in frames} == {"pci500.ssb0"}
    times_s = np.array([frame.t_ns for frame in frames]) * 1e-9
    np.testing.assert_allclose(times_s, 4.3e-3 + PERIOD_S * np.arange(10), atol=1e-6)


def test_the_stream_does_not_wait_for_a_search(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    may_end, sweep = threading.Event(), ssb_sweep.sweep

    def slow(*arguments: object) -> object:
        assert may_end.wait(PATIENCE_S)
        return sweep(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ssb_sweep, "sweep", slow)
    blocks = list(stream(rng, 0.8))
    receiver = NrReceiver(live=True)
    passed = [frame for one in blocks[:300] for frame in receiver.process(one)]
    assert passed == []
    assert searching()
    may_end.set()
    # What was found half a second ago is sought anew at its place, as nobody knows the clock's drift yet.
    frames = taken(receiver, blocks[300:])
    assert len(frames) >= 6
    assert min(frame.t_ns for frame in frames) >= blocks[300].t_ns - round(PERIOD_S * 1e9)


def test_several_antennas_take_turns_and_the_cell_is_heard_by_all(rng: np.random.Generator) -> None:
    """The first one is deaf, the next one hears the cell; one antenna alone never makes a frame."""
    receiver = NrReceiver(live=True)
    frames = taken(receiver, list(stream(rng, 0.3, gain=(0.0, 1.0, 1j))))
    assert len(frames) >= 6
    assert {frame.antennas for frame in frames} == {3}
    assert receiver.ssb._sweeps == 2
    by_one = NrReceiver(live=True)
    frames = taken(by_one, list(stream(rng, 0.3, gain=(1.0, 0.0, 1j))))
    assert len(frames) >= 6
    assert {frame.antennas for frame in frames} == {3}
    assert by_one.ssb._sweeps == 1


def test_a_further_cell_is_found_by_a_later_search(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(ssb_receiver, "_SEARCH_REST", 0.0)
    alone, together = list(stream(rng, 0.8)), list(stream(rng, 0.8, pcis=(500, 77)))
    receiver = NrReceiver(live=True, research_s=0.1)
    frames = taken(receiver, alone[:60] + together[60:])
    assert {cell.measurement.pci for cell in receiver.cells} == {500, 77}
    assert len({(frame.user, frame.t_ns) for frame in frames}) == len(frames)
    assert sum(frame.user == "pci500.ssb0" for frame in frames) == 40
    assert sum(frame.user == "pci77.ssb1" for frame in frames) >= 4


def test_a_new_stream_discards_what_was_sought_in_the_old_one(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    may_end, sweep = threading.Event(), ssb_sweep.sweep

    def slow(*arguments: object) -> object:
        assert may_end.wait(PATIENCE_S)
        return sweep(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ssb_sweep, "sweep", slow)
    blocks = list(stream(rng, 0.04))
    receiver = NrReceiver(live=True)
    for one in blocks:
        assert list(receiver.process(one)) == []
    assert searching()
    silent = block(
        np.zeros((1, len(blocks[0].samples[0])), np.complex64),
        rate_hz=RATE_HZ,
        center_hz=CENTER_HZ + 1e6,
        first_sample=0,
    )
    assert list(receiver.process(silent)) == []
    may_end.set()
    while searching():
        sleep(1e-3)
    assert list(receiver.process(silent)) == []
    assert receiver.cells == []


def test_samples_of_a_search_lie_without_a_gap() -> None:
    aside = SideSweep()
    aside.begin(RATE_HZ, CENTER_HZ, 4e-3)
    tail = np.zeros((1, 0), np.complex64)
    some = np.zeros((1, round(2e-3 * RATE_HZ)), np.complex64)
    aside.hear(Stretch(tail, some, 0))
    aside.hear(Stretch(tail, some, 3 * some.shape[1]))
    aside.hear(Stretch(tail, some, 4 * some.shape[1]))
    assert aside.found() is None
    assert not searching()
    aside.hear(Stretch(tail, some, 5 * some.shape[1]))
    until_s = monotonic() + PATIENCE_S
    while (found := aside.found()) is None and monotonic() < until_s:
        sleep(1e-3)
    assert found == []
    assert aside.idle
    assert aside.took_s > 0


def test_a_failure_of_the_search_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> object:
        raise ArithmeticError("lost the plot")

    monkeypatch.setattr(ssb_sweep, "sweep", fails)
    aside = SideSweep()
    aside.begin(RATE_HZ, CENTER_HZ, 1e-3)
    aside.hear(Stretch(np.zeros((1, 0), np.complex64), np.zeros((1, 60_000), np.complex64), 0))
    aside.close()
    with pytest.raises(ArithmeticError, match="lost the plot"):
        aside.found()
