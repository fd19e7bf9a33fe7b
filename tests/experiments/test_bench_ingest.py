"""The ingest bench: its signal is what it says, its baseline estimates the same channel, and a short run has it all."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from experiments import bench_zmq
from experiments.bench_ingest import PlainReceiver, bench_file, bench_slots, settings_of
from experiments.ingest_signal import PCI, Ring, make_ring
from ingest.messages import IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.nr.slot_estimate import SlotEstimate
from ingest.nr.slot_receiver import SlotReceiver


@pytest.fixture(scope="module")
def ring() -> Ring:
    return make_ring(15.36e6, 11, 2, seed=5)


def block(ring: Ring, number: int) -> IqBlock:
    length = ring.samples.shape[1]
    return IqBlock(
        source="radio",
        epoch=0,
        seq=number,
        t_ns=number * 20_000_000,
        rate_hz=ring.rate_hz,
        center_hz=ring.center_hz,
        first_sample=number * length,
        samples=ring.samples,
    )


def test_the_ring_is_a_cell_and_a_pusch_without_a_seam(ring: Ring) -> None:
    receiver = NrReceiver(settings_of(ring))
    frames = [frame for number in range(6) for frame in receiver.process(block(ring, number))]
    (cell,) = receiver.cells
    assert (cell.measurement.pci, cell.seen) == (PCI, 6)
    assert cell.mib is not None
    users = [frame.user for frame in frames]
    assert users.count("pusch.0") >= 6 * 40 - 1
    assert receiver.references is not None
    assert not receiver.references.refused
    assert all(frame.snr_db > 12 for frame in frames)
    assert all(frame.antennas == 2 for frame in frames)


def test_the_ring_fits_into_16_bits(ring: Ring) -> None:
    assert np.max(np.abs(ring.samples.view(np.float32))) < 1
    levels = np.sqrt(np.mean(np.abs(ring.samples) ** 2, axis=1))
    np.testing.assert_allclose(levels.mean(), 1 / 8, rtol=0.5)


def test_the_baseline_estimates_the_same_channel(ring: Ring) -> None:
    settings = settings_of(ring)
    receiver = SlotReceiver(ring.carrier, settings.signals, ring.rate_hz, ring.center_hz, 0)
    ours = [received.estimate for received in receiver.process(ring.samples, 0)][-1]
    assert isinstance(ours, SlotEstimate)
    theirs = PlainReceiver(ring).receive(ring.from_slot(20 * ring.slot_samples, 20 * ring.slot_samples), 19)
    in_blocks = theirs.reshape(2, -1, 12).mean(axis=2)
    alike = np.vdot(ours.cfr[0], in_blocks) / np.linalg.norm(ours.cfr) / np.linalg.norm(in_blocks)
    assert ours.cfr.shape == (1, *in_blocks.shape)
    assert alike.real > 0.98


def test_a_short_run() -> None:
    file = bench_file((0.1,), 1)
    assert file["real_time_factor"] > 0
    (row,) = file["against"]
    assert (row["samples"], row["slots"]) == (4_608_000, 200)
    assert row["frames"] >= 200
    assert set(file["stage_us"]) == {"read", "ssb", "references"}
    assert file["baseline"]["ratio"] == pytest.approx(
        row["real_time_factor"] / file["baseline"]["real_time_factor"], rel=0.1
    )
    slot = bench_slots(50, 1)
    assert slot["estimated"] == 50
    assert 0 < slot["p50"] <= slot["p99"]


@pytest.mark.skipif(sys.platform != "linux", reason="ipc sockets")
def test_a_stream_to_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate that any machine sustains: nothing is lost, and slots are estimated."""
    monkeypatch.setattr(bench_zmq, "RATE_HZ", 15.36e6)
    monkeypatch.setattr(bench_zmq, "PRBS", 11)
    monkeypatch.setattr(bench_zmq, "_WARM_UP_S", 4.0)
    run: dict[str, Any] = bench_zmq._run(1, "sc16", 3.0, 1)
    assert (run["unsent"], run["lost"], run["lost_samples"]) == (0, 0, 0)
    assert run["gbytes_per_s"] == pytest.approx(15.36e6 * 4 / 1e9, rel=0.1)
    assert run["frames"] > 0
    assert run["blocks"] > 0


@pytest.mark.parametrize(
    ("change", "sustained"),
    [
        ({}, True),
        ({"lost": 1}, False),
        ({"lost_samples": 1}, False),
        ({"shed_samples": 1}, False),
        ({"frames": 119_000}, False),
    ],
)
def test_what_counts_as_sustained(change: dict[str, int], sustained: bool) -> None:
    told = {"blocks": 6000, "missed": 0, "latency_ms": {}}
    counted = {"lost": 0, "lost_samples": 0, "shed_samples": 0, "frames": 122_900, **change}
    sent = {"gbytes": 58.9, "took_s": 60.0, "unsent": 0, "late_s": 0.01}
    assert bench_zmq._judged(told, counted, sent, [], 4, "cf32", 60.0)["sustained"] == sustained
    late = bench_zmq._judged(told, counted, sent | {"late_s": 3.0}, [], 4, "cf32", 60.0)
    unsent = bench_zmq._judged(told, counted, sent | {"unsent": 2}, ["estimation cannot keep up"], 4, "cf32", 60.0)
    assert (late["sustained"], unsent["sustained"], unsent["said_so"]) == (False, False, 1)
