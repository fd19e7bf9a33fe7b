"""A stream that is received in a process of its own: what it refuses, what it fails with, and how it ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import zmq

from controller.config import config_from
from controller.live_receiver import LiveReceiver
from ingest.antenna_calibration import SCHEMA
from ingest.errors import TwinbeamError, UsageRefused
from tests.ingest.nr.signals import block
from tests.ingest.test_zmq_stream import Sender
from tests.random_channels import complex_normal, frame


def receiver_of(uri: str, **receiver: object) -> LiveReceiver:
    return LiveReceiver(config_from({"source": {"uri": uri}, "receiver": receiver}, where="test"))


def test_what_comes_in_comes_over(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = Sender(context, zmq.PUSH, f"ipc://{tmp_path}/frames")
    receiver = receiver_of(f"zmq+{sender.address}?socket=pull")
    sent = [frame(complex_normal(np.random.default_rng(n), 1, 4), user="ue0", block=n, seq=n) for n in (0, 1, 3)]
    for one in sent[:-1]:
        sender.send(one)
    sender.send([b"channel", b"{", b""])  # before the last, upon which the receiver is closed
    sender.send(sent[-1])
    came = []
    for message in receiver:
        came.append(message)
        if len(came) == len(sent):
            receiver.close()
    receiver.end()
    for one, other in zip(came, sent, strict=True):
        assert (one.seq, one.t_ns > 0) == (other.seq, True)
        np.testing.assert_array_equal(one.cfr, other.cfr)
    assert (receiver.gaps, receiver.rejected) == (1, {"header": 1})
    sender.close()
    context.destroy(linger=0)


def test_what_cannot_be_opened_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(UsageRefused, match=r"(?i)no such file"):
        receiver_of(f"zmq+ipc://{tmp_path}/nowhere/radio?bind=1&socket=pull")


def test_what_breaks_down_there_is_raised_here(tmp_path: Path) -> None:
    """A calibration of two antennas, and a radio of one: found out when the first block is there."""
    path = tmp_path / "antennas.json"
    path.write_text(json.dumps({"schema": SCHEMA, "gains_db": [0.0, -3.0], "phases_rad": [0.0, 1.2]}))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = Sender(context, zmq.PUSH, f"ipc://{tmp_path}/radio")
    receiver = receiver_of(f"zmq+{sender.address}?socket=pull", antenna_calibrations=(str(path),))
    sender.send(block(np.ones((1, 1000), np.complex64), rate_hz=7.68e6, center_hz=3512.64e6))
    with pytest.raises(UsageRefused, match=r"of 2 antennas, radio .* has 1"):
        list(receiver)
    receiver.end()
    sender.close()
    context.destroy(linger=0)


def test_what_is_not_read_is_not_shed(tmp_path: Path) -> None:
    """Until somebody takes over what is received, nothing is; a process that is never read ends all the same."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = Sender(context, zmq.PUSH, f"ipc://{tmp_path}/radio")
    receiver = receiver_of(f"zmq+{sender.address}?socket=pull")
    samples = np.ones((1, 7680), np.complex64)
    for number in range(20):
        one = block(samples, rate_hz=7.68e6, center_hz=3512.64e6, first_sample=number * 7680, seq=number)
        sender.send(one)
    assert not receiver._connection.poll(0.5)
    receiver.close()
    receiver.end()
    assert receiver._process.exitcode == 0
    sender.close()
    context.destroy(linger=0)


def test_a_process_that_dies_is_told_in_one_line(tmp_path: Path) -> None:
    receiver = receiver_of(f"zmq+ipc://{tmp_path}/radio?bind=1&socket=pull")
    pid = receiver._process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TwinbeamError, match=r"exit code -9: the process that receives has died \(start again"):
        list(receiver)
    receiver.end()
