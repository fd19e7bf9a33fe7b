"""Emulators follow the testbed's true channels, and a testbed does not wait for those that do not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from ingest.errors import UsageRefused
from sim.channels import SiteChannels
from sim.emulator_push import EmulatorOutput, Snapshot, Stream, check_streams, parse_streams
from sim.stage import Stage
from sim.testbed import Testbed, TestbedSettings
from tests.sim.hand_made import free_space_bundle
from tests.sim.test_emulator_output import CONFIG, Peer


def test_streams_are_named_by_address_user_and_antenna() -> None:
    assert parse_streams(
        ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556?rms=500", "tcp://[::1]:7?user=1", "ipc:///run/x?antenna=5"]
    ) == [
        Stream("tcp://127.0.0.1:5555", 0, 0, 0.0),
        Stream("tcp://127.0.0.1:5556", 0, 1, 500.0),
        Stream("tcp://[::1]:7", 1, 0, 0.0),
        Stream("ipc:///run/x", 0, 5, 0.0),
    ]
    assert parse_streams(["tcp://10.0.0.2:5555?remote=1"])[0].address == "tcp://10.0.0.2:5555"


@pytest.mark.parametrize(
    ("uris", "told"),
    [
        (["tcp://10.0.0.2:5555"], r"is another host \(a channel emulator here, or tcp://10.0.0.2:5555\?remote=1"),
        (["tcp://emulator:5555?user=1"], r"user=1&remote=1"),
        (["udp://127.0.0.1:5"], "unknown transport"),
        (["127.0.0.1:5555"], "no transport|unknown transport"),
        (["tcp://127.0.0.1:5555?antena=1"], "unknown option 'antena'"),
        (["tcp://127.0.0.1:5555?user=-1"], "user=-1"),
        (["tcp://127.0.0.1:5555?rms=nan"], "rms=nan"),
        (["tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555?antenna=2"], "named twice"),
    ],
)
def test_what_is_wrong_with_an_emulator_is_told_in_one_line(uris: list[str], told: str) -> None:
    with pytest.raises(UsageRefused, match=told) as refusal:
        parse_streams(uris)
    assert "\n" not in str(refusal.value)


def test_users_and_antennas_that_are_not_there_are_refused() -> None:
    check_streams(parse_streams(["tcp://127.0.0.1:1?user=2&antenna=5"]), 3, 6)
    with pytest.raises(UsageRefused, match="there is no user 3"):
        check_streams(parse_streams(["tcp://127.0.0.1:1?user=3"]), 3, 6)
    with pytest.raises(UsageRefused, match="there is no antenna 6"):
        check_streams(parse_streams(["tcp://127.0.0.1:1?antenna=6"]), 3, 6)


def until(reached: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_emulators_have_the_true_channels_of_a_block(tmp_path: Path) -> None:
    """Three antennas of one user and one of another: taps and norms give back the channels on the tones."""
    world = SiteChannels(free_space_bundle())
    testbed = Testbed(world, TestbedSettings())
    testbed.measure(0)
    list(testbed.transmit(None, 0))
    snapshot = Snapshot(*testbed.links())
    wanted = [(1, 0), (1, 1), (1, 2), (0, 4)]
    streams = [Stream(f"ipc://{tmp_path}/e{k}", user, antenna, 500.0) for k, (user, antenna) in enumerate(wanted)]
    with ExitStack() as stack:
        peers = [Peer(stream.address) for stream in streams]
        for peer in peers:
            peer.start()
            stack.callback(peer.end)
        output = EmulatorOutput(streams, testbed.latest_s, 1e-6, timeout_s=10.0)
        stack.callback(output.close)
        output.offer(snapshot)
        until(lambda: len(output.pushed) == len(streams))
        used = np.abs(CONFIG.tones_hz) < 0.3 * CONFIG.fft_size * CONFIG.subcarrier_spacing
        late_s = 1 / (CONFIG.fft_size * CONFIG.subcarrier_spacing)
        for group in ([0, 1, 2], [3]):
            errors = []
            for shift in range(-32, 32):  # what all antennas of a user have in common
                error = power = 0.0
                for index in group:
                    peer, (user, antenna) = peers[index], wanted[index]
                    ways = np.outer(CONFIG.tones_hz, (peer.delays[0].astype(np.float64) + shift) * late_s)
                    found = peer.norms[0] * np.exp(-2j * np.pi * ways) @ peer.taps[0]
                    truth = snapshot.links[user].effective_cfr(snapshot.theta, CONFIG.tones_hz)[antenna]
                    error += float(np.sum(np.abs(found - truth)[used] ** 2))
                    power += float(np.sum(np.abs(truth)[used] ** 2))
                errors.append(error / power)
            assert min(errors) < 10**-2.5
        told = [peer.requests[-1] for peer in peers]
        assert all(b'"sigma_scaling":0.0005,"sigma_max":5000.0' in request for request in told)


def test_it_goes_on_without_an_emulator_and_finds_it_when_it_comes(tmp_path: Path) -> None:
    streams = [Stream(f"ipc://{tmp_path}/{name}", 0, antenna, 0.0) for antenna, name in enumerate(("here", "gone"))]
    stage, lines = Stage(SiteChannels(free_space_bundle())), []
    snapshot = Snapshot((stage.link(np.array([13.0, -4.0, 1.5])),), np.ones(4, np.complex128))
    here, late = Peer(streams[0].address), Peer(streams[1].address)
    here.start()
    output = EmulatorOutput(streams, stage.latest_s, 1e-6, told=lines.append, timeout_s=0.2)
    try:

        def offered_until(address: str, count: int) -> None:
            def reached() -> bool:
                output.offer(snapshot)
                return output.pushed[address] >= count

            until(reached)

        begun = time.perf_counter()
        for _ in range(1000):
            output.offer(snapshot)
        assert time.perf_counter() - begun < 10, "an offer does not wait for anyone"
        offered_until(streams[0].address, 3)
        until(lambda: bool(lines))
        assert "no answer within 200 ms" in lines[0]
        late.start()
        offered_until(streams[1].address, 3)
        assert len(lines) == 2
        assert lines[1].endswith("answers again")
    finally:
        output.close()
        here.end()
        if late.is_alive():
            late.end()
