"""The simulated testbed on the wire: a process of its own that speaks to the controller as a radio would."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from ingest import wire
from ingest.clock import MonotonicClock
from ingest.endpoints import Endpoint, open_socket
from ingest.errors import InputRefused
from ingest.memory import keep_freed_memory
from ingest.messages import BlockDecision
from ingest.topics import TOPICS
from sim.bundle import load_bundle
from sim.channels import SiteChannels
from sim.emulator_push import EmulatorOutput, Snapshot, Stream, check_streams
from sim.iq_testbed import IqTestbed
from sim.testbed import Testbed, TestbedSettings

_WELCOME_S = 60.0


@dataclass(frozen=True)
class Wiring:
    """Where the testbed sends its frames, where it hears decisions, and what a welcome there looks like.

    emulators: channel emulators that follow the true channels.
    """

    frames: Endpoint
    decisions: Endpoint
    welcome: bytes
    emulators: tuple[Stream, ...] = ()


def run_testbed(
    world: Path, settings: TestbedSettings, wiring: Wiring, blocks: int | None, deadline_s: float, *, iq: bool = False
) -> None:
    """Play `blocks` blocks (None: until the parent process is gone), each `settings.period_s` of wall-clock time.

    A decision that is not there `deadline_s` after the block's measurements is not used. iq: what is measured is sent
    as a radio hears it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends us
    keep_freed_memory()
    parent = os.getppid()
    testbed = (IqTestbed if iq else Testbed)(SiteChannels(load_bundle(world)), settings)
    output = emulator_output(testbed, wiring.emulators) if wiring.emulators else None
    with zmq.Context() as context:
        frames = open_socket(context, zmq.PUSH, wiring.frames)
        decisions = open_socket(context, zmq.SUB, wiring.decisions)
        decisions.setsockopt(zmq.SUBSCRIBE, TOPICS[BlockDecision.TOPIC].prefix)
        decisions.setsockopt(zmq.SUBSCRIBE, wiring.welcome)
        try:
            _await_welcome(decisions, parent)
            _play(testbed, frames, decisions, blocks, deadline_s, parent, output)
        except InputRefused as refusal:
            raise SystemExit(str(refusal)) from None
        finally:
            frames.close(linger=500)
            decisions.close()
            if output is not None:
                output.close()


def check_demo(world: Path, settings: TestbedSettings, emulators: Sequence[Stream], *, iq: bool = False) -> None:
    """Refuse, before anything runs, a scenario, knobs or emulators that do not fit. Raises as `Testbed` does."""
    channels = SiteChannels(load_bundle(world))
    check_streams(emulators, settings.users, channels.antennas)
    (IqTestbed if iq else Testbed)(channels, settings)


def emulator_output(testbed: Testbed, emulators: Sequence[Stream]) -> EmulatorOutput:
    """Emulators that add the noise of the testbed's base station, against a user who sends with all power."""
    settings = testbed.settings
    noise_db = settings.bs_noise_dbm - settings.user_power_dbm
    return EmulatorOutput(emulators, testbed.latest_s, float(10 ** (noise_db / 20)))


def _await_welcome(decisions: zmq.Socket[bytes], parent: int) -> None:
    """Wait until the controller has our subscription; before that its decisions would be lost."""
    give_up = time.monotonic() + _WELCOME_S
    while time.monotonic() < give_up and os.getppid() == parent:
        if decisions.poll(100):
            decisions.recv_multipart()
            return
    raise SystemExit("the controller did not answer")


def _play(
    testbed: Testbed,
    frames: zmq.Socket[bytes],
    decisions: zmq.Socket[bytes],
    blocks: int | None,
    deadline_s: float,
    parent: int,
    output: EmulatorOutput | None,
) -> None:
    clock = MonotonicClock()
    period_ns = round(testbed.settings.period_s * 1e9)
    next_ns = clock.now_ns()
    while (blocks is None or testbed.block < blocks) and os.getppid() == parent:
        time.sleep(max(next_ns - clock.now_ns(), 0) / 1e9)
        # A block that begins late is followed by a whole one: the world does not catch up in a burst.
        next_ns = max(next_ns, clock.now_ns() - period_ns) + period_ns
        messages = testbed.measure(clock.now_ns())
        if output is not None:
            output.offer(Snapshot(*testbed.links()))
        sent_ns = clock.now_ns()  # what the world took to be worked out is not the controller's time
        for message in messages:
            frames.send_multipart(wire.encode(message))
        decision = _decision_for(testbed.block, decisions, sent_ns + round(deadline_s * 1e9))
        for outcome in testbed.transmit(decision, clock.now_ns()):
            frames.send_multipart(wire.encode(outcome))


def _decision_for(block: int, decisions: zmq.Socket[bytes], until_ns: int) -> BlockDecision | None:
    """The decision for `block`; None where it does not come in time. Decisions for other blocks are too late to use."""
    clock = MonotonicClock()
    while True:
        left_ms = (until_ns - clock.now_ns()) / 1e6
        if not decisions.poll(max(int(left_ms), 0)):
            return None
        received = decisions.recv_multipart()
        if len(received) < 2:
            continue
        message = wire.decode(received)
        if isinstance(message, BlockDecision) and message.block >= block:
            return message if message.block == block else None
