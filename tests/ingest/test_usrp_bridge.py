"""The bridge from UHD to our wire, as the process that it is, against a radio of paper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.messages import IqBlock
from ingest.sources import ZmqSource
from tests.ingest.stream_peers import PATIENCE_S, joined, patience, rows, until

BRIDGE = Path(__file__).parents[2] / "deploy" / "usrp_bridge.py"
FAKE = Path(__file__).parent / "fake_uhd"
PYTHON = os.environ.get("TWINBEAM_USRP_PYTHON", sys.executable)
"""What runs the bridge; `make test-interop` lets the system's Python do it."""

RATE_HZ = 1e6


@contextmanager
def bridge(events: list[dict[str, Any]], *options: str, **script: Any) -> Iterator[subprocess.Popen[str]]:
    """The bridge with a radio to which `events` happen."""
    environment = os.environ | {"PYTHONPATH": str(FAKE), "FAKE_UHD": json.dumps({"events": events, **script})}
    arguments = ["--rate-hz", str(RATE_HZ), "--center-hz", "3.5e9", *options]
    process = subprocess.Popen([PYTHON, str(BRIDGE), *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        assert process.stderr is not None
        process.stderr.close()


def ended(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> dict[str, Any]:
    """Stops the bridge; what it did."""
    process.send_signal(number)
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait(PATIENCE_S) == 0, told
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def received(
    tmp_path: Path, events: list[dict[str, Any]], samples: int, *options: str, **script: Any
) -> tuple[list[IqBlock], dict[str, Any], ZmqSource]:
    """What a source makes of `events`, and what the bridge says of them."""
    address = f"ipc://{tmp_path}/iq"
    source = ZmqSource(f"zmq+{address}?socket=pull&bind=1")
    push = ("--endpoint", address, "--connect", "--socket", "push")
    with patience(source), bridge(events, *push, *options, **script) as process:
        blocks = until(iter(source), samples)
        told = ended(process)
    return blocks, told, source


EVENTS: dict[str, tuple[list[dict[str, Any]], list[tuple[int, int]], dict[str, int]]] = {
    "none": ([{"samples": 5000}], [(0, 5000)], {}),
    "overflow": ([{"samples": 2500}, {"overflow": 700}, {"samples": 2000}], [(0, 2500), (3200, 2000)], {"overflow": 1}),
    "overflows": (
        [{"samples": 10}, {"overflow": 0}, {"samples": 10}, {"overflow": 5}, {"overflow": 5}, {"samples": 10}],
        [(0, 20), (30, 10)],
        {"overflow": 3},
    ),
    "timeout": ([{"samples": 500}, {"timeout": 1}, {"samples": 500}], [(0, 1000)], {}),
    "late": ([{"late": 1}, {"samples": 1000}], [(0, 1000)], {"late": 1}),
    "broken chain": ([{"samples": 100}, {"error": "broken_chain"}, {"samples": 100}], [(0, 200)], {"broken_chain": 1}),
    "bad packet": ([{"samples": 100}, {"error": "bad_packet"}, {"samples": 100}], [(0, 200)], {"bad_packet": 1}),
    "misaligned": ([{"samples": 100}, {"error": "alignment"}, {"samples": 100}], [(0, 200)], {"alignment": 1}),
    "no time": ([{"samples": 100}, {"untimed": 1500}, {"samples": 100}], [(0, 1700)], {}),
    "clock set back": (
        [{"samples": 1000}, {"clock_s": -1e-3}, {"samples": 1000}, {"samples": 500}],
        [(0, 1000), (0, 1500)],
        {"clock_step": 1},
    ),
    "clock set forward": ([{"samples": 100}, {"clock_s": 2.0}, {"samples": 100}], [(0, 100), (2_000_100, 100)], {}),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_what_happens_to_the_radio_is_told_exactly(kind: str, tmp_path: Path) -> None:
    events, expected, errors = EVENTS[kind]
    total = sum(count for _, count in expected)
    blocks, told, source = received(tmp_path, events, total)
    assert [(first, count) for _, first, count in rows(blocks)] == expected
    assert [int(number) for number in np.rint(joined(blocks)[0].real * 32768)] == sent_by(events)
    assert told["samples"] == total
    assert told["lost"] == sum(
        after - first - count for (first, count), (after, _) in pairwise(expected) if after > first
    )
    assert {name: count for name, count in told["errors"].items() if name != "timeout"} == errors
    assert (dict(source.rejected), source.gaps, told["unsent"]) == ({}, 0, 0)
    assert source.sequence.restarts == errors.get("clock_step", 0)


def sent_by(events: list[dict[str, Any]]) -> list[int]:
    """The numbers that the fake radio writes into its samples."""
    at, written = 0, []
    for event in events:
        count = event.get("samples", event.get("untimed", 0))
        written += [n % 30000 for n in range(at, at + count)]
        at += count + event.get("overflow", 0)
    return written


@pytest.mark.parametrize(("name", "sample_bytes"), [("sc16", 4), ("cf32", 8)])
def test_coherent_channels_and_both_formats(name: str, sample_bytes: int, tmp_path: Path) -> None:
    options = ("--channels", "0,2", "--format", name, "--block-ms", "2", "--source", "x300", "--antenna", "RX2")
    tuned = ("--bandwidth-hz", "8e5", "--subdev", "A:0 B:0", "--clock-source", "external", "--time-source", "external")
    blocks, told, _ = received(tmp_path, [{"samples": 4100}], 4100, *options, *tuned, rate_hz=1.0002e6)
    assert told["rate_hz"] == 1.0002e6
    samples = joined(blocks)
    np.testing.assert_array_equal(samples * 32768, [np.arange(4100), np.arange(4100) + 2j])
    assert {(block.source, block.rate_hz, block.center_hz) for block in blocks} == {("x300", 1.0002e6, 3.5e9)}
    assert {block.full_scale for block in blocks} == ({32768.0} if sample_bytes == 4 else {None})
    assert [block.seq for block in blocks] == list(range(len(blocks)))
    assert max(block.samples.shape[1] for block in blocks) == 2000


def test_it_does_not_wait_for_those_who_do_not_listen(tmp_path: Path) -> None:
    """A bridge that waits makes the radio overflow; messages that nobody takes are numbered all the same."""
    push = ("--endpoint", f"ipc://{tmp_path}/nobody", "--connect", "--socket", "push")
    with bridge([{"samples": 200_000}], *push) as process:
        assert process.stderr is not None
        while "timeout" not in process.stderr.readline():
            pass
        told = ended(process, signal.SIGINT)
    assert told["messages"] == 200
    assert 0 < told["unsent"] < 200
    assert told["samples"] == 200_000


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--args", "type=none"], 1, "No devices found"),
        (["--endpoint", "tcp://256.0.0.1:1"], 1, ""),
        (["--channels", "a"], 2, "--channels takes numbers"),
        (["--rate-hz", "-1"], 2, "must be positive"),
        (["--format", "f32"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(options: list[str], code: int, words: str) -> None:
    with bridge([], *options) as process:
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(PATIENCE_S) == code
    assert words in told.splitlines()[-1]
    assert "Traceback" not in told
