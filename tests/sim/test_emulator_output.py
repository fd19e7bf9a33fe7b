"""Impulse responses for channel emulators: against a peer that does to them what the real one's C code does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zmq

from ingest.errors import InputRefused, UsageRefused
from sim.channels import SiteChannels
from sim.emulator_output import EmulatorConfig, EmulatorPeer, cir_request, push
from tests.sim.hand_made import free_space_bundle

Complex = npt.NDArray[np.complex128]
CONFIG = EmulatorConfig(64, 14, fft_size=512, subcarrier_spacing=30e3, frequency=3.5e9)


def printed(fields: dict[str, object]) -> bytes:
    """JSON as cJSON_Print lays it out: a tab before each name and after each colon; numbers by %1.15g."""

    def value(one: object) -> str:
        return json.dumps(one) if isinstance(one, str) else f"{one:1.15g}"

    return ("{\n" + ",\n".join(f'\t"{name}":\t{value(one)}' for name, one in fields.items()) + "\n}").encode()


class Peer(threading.Thread):
    """What plugins/channel_emulation/zmq_loader does with requests: a buffer of 128 KiB, lengths checked, floats of
    single precision, delays of 16 bits. answer: what is said instead, where something is."""

    def __init__(self, address: str, answer: bytes | None = None) -> None:
        super().__init__(daemon=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.bind(address)
        self._answer = answer
        self._ended = threading.Event()
        self.requests: list[bytes] = []
        self.norms = self.taps = self.delays = np.zeros(0)

    def run(self) -> None:
        while not self._ended.is_set():
            if self._socket.poll(20):
                request = self._socket.recv()[: 128 << 10]
                self.requests.append(request)
                self._socket.send(self._answer or self._answered(request))
        self._socket.close(linger=0)

    def end(self) -> None:
        self._ended.set()
        self.join(timeout=5.0)
        self._context.term()

    def _answered(self, request: bytes) -> bytes:
        told: dict[str, Any] = json.loads(request)
        if told["msg_type"] == "config_req":
            return printed(
                {
                    "msg_type": "config_res",
                    "num_taps": CONFIG.num_taps,
                    "num_ofdm_symbols_per_slot": CONFIG.num_ofdm_symbols_per_slot,
                    "fft_size": CONFIG.fft_size,
                    "subcarrier_spacing": CONFIG.subcarrier_spacing,
                    "frequency": CONFIG.frequency,
                }
            )
        assert told["msg_type"] == "cir"
        symbols, taps = CONFIG.num_ofdm_symbols_per_slot, CONFIG.num_taps
        if len(told["norms"]) != symbols:
            details = f"Expected {symbols} norms, got {len(told['norms'])}"
            return printed({"msg_type": "error", "error": "Norms array size mismatch", "details": details})
        assert len(told["taps"]) == 2 * symbols * taps
        assert len(told["tap_indices"]) == symbols * taps
        self.norms = np.array(told["norms"], np.float32)
        pairs = np.array(told["taps"], np.float32).reshape(symbols, taps, 2)
        self.taps = pairs[..., 0] + 1j * pairs[..., 1]
        self.delays = np.array(told["tap_indices"], np.float64).astype(np.uint16).reshape(symbols, taps)
        return printed({"msg_type": "cir_ack"})

    def filtered(self, x: Complex, symbol: int) -> Complex:
        """The emulator's sum over taps, without noise; delays of 256 and more are passed over."""
        y = np.zeros(len(x), np.complex128)
        for tap, delay in zip(self.taps[symbol], self.delays[symbol], strict=True):
            if delay < 256:
                y += tap * np.concatenate([np.zeros(delay), x[: len(x) - delay]])
        return y


@contextmanager
def peers(folder: Path, count: int = 1, answer: bytes | None = None) -> Iterator[tuple[list[Peer], list[EmulatorPeer]]]:
    with ExitStack() as stack:
        theirs, ours = [], []
        for number in range(count):
            address = f"ipc://{folder}/emulator{number}"
            theirs.append(Peer(address, answer))
            theirs[-1].start()
            stack.callback(theirs[-1].end)
            ours.append(stack.enter_context(EmulatorPeer(address, timeout_s=10.0)))
        yield theirs, ours


def channel_of(world: SiteChannels, antennas: int) -> Complex:
    """The first antennas' channels [P, fft_size] to a user in free space, over its RIS too."""
    position_m = world.bundle.positions_m[3]
    return world.effective_cfr(position_m, np.ones(world.elements), CONFIG.tones_hz)[:antennas]


def test_it_asks_for_the_numerology(tmp_path: Path) -> None:
    with peers(tmp_path) as (theirs, ours):
        assert ours[0].config() == CONFIG
        assert theirs[0].requests == [b'{"msg_type":"config_req"}']


def test_a_request_is_these_bytes() -> None:
    """A path of one sample and half the strength behind another, in a slot of two symbols."""
    config = EmulatorConfig(3, 2, 32, 30e3, 3.5e9)
    turns = np.exp(-2j * np.pi * config.tones_hz / (32 * 30e3))
    request = cir_request(config, 2 * turns**2 + 1j * turns**3, 0.5, 2.0)
    strong, weak = "0.894427,0.0,0.0,0.447214", "16,17"
    assert (
        request
        == (
            '{"msg_type":"cir","sigma_scaling":0.5,"sigma_max":2.0,"norms":[2.23607,2.23607],'
            f'"taps":[{strong},0.0,0.0,{strong},0.0,0.0],"tap_indices":[{weak},0,{weak},0]' + "}"
        ).encode()
    )


def test_signals_come_out_as_the_channel_has_them(tmp_path: Path, rng: np.random.Generator) -> None:
    """OFDM symbols through the peer's filters against the channel on the tones, all antennas alike in delay."""
    world = SiteChannels(free_space_bundle())
    cfr = channel_of(world, 3)
    used = np.abs(CONFIG.tones_hz) < 0.4 * CONFIG.fft_size * CONFIG.subcarrier_spacing
    cfr = cfr * used  # what no path can be, but what a carrier within the band is
    spectrum = used * (rng.normal(size=512) + 1j * rng.normal(size=512))
    symbol = np.fft.ifft(np.fft.ifftshift(spectrum))
    with peers(tmp_path, 3) as (theirs, ours):
        push(ours, cfr, sigma_scaling=0.0, sigma_max=1.0)
        late = []
        for row, peer in zip(cfr, theirs, strict=True):
            received = np.fft.fftshift(np.fft.fft(peer.filtered(np.tile(symbol, 2), 5)[512:]))
            expected = row * spectrum / peer.norms[5]
            # All delays are moved by the same whole number of samples: found for the first, the same for all.
            shifts = [np.exp(-2j * np.pi * np.arange(-256, 256) * shift / 512) for shift in range(-32, 32)]
            errors = [float(np.sum(np.abs(received - expected * shift) ** 2)) for shift in shifts]
            late.append(int(np.argmin(errors)))
            assert min(errors) < 10**-2.5 * np.sum(np.abs(expected) ** 2)
            assert np.all(np.diff(np.abs(peer.taps), axis=1)[:, :-1] <= 1e-6)
            np.testing.assert_allclose(np.linalg.norm(peer.taps, axis=1), 1.0, rtol=1e-5)
        assert len(set(late)) == 1


def test_a_peer_that_refuses_or_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    wrong = EmulatorConfig(64, 7, 512, 30e3, 3.5e9)
    with peers(tmp_path) as (_, ours), pytest.raises(InputRefused, match="Norms array size mismatch Expected 14 norms"):
        ours[0].send(cir_request(wrong, np.ones(512, np.complex128), 1.0, 1.0))
    for answer in (b"\xff", b"[]", b'{"msg_type": "nrx_ack"}', b'{"msg_type": "config_res", "num_taps": "many"}'):
        with peers(tmp_path, answer=answer) as (_, ours), pytest.raises(InputRefused) as refusal:
            ours[0].config()
        assert "\n" not in str(refusal.value)
    with EmulatorPeer(f"ipc://{tmp_path}/nobody", timeout_s=0.1) as peer:
        for _ in range(2):  # the first question, never answered, does not keep the second from being asked
            with pytest.raises(InputRefused, match="no answer within 100 ms"):
                peer.config()
    with pytest.raises(UsageRefused):
        EmulatorPeer("udp://somewhere")


def test_what_an_emulator_would_cut_off_is_not_sent() -> None:
    config = EmulatorConfig(256, 28, 2048, 30e3, 3.5e9)
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="at most 131072"):
        cir_request(config, rng.normal(size=(28, 2048)) + 0j, 1.0, 1.0)
    with pytest.raises(ValueError, match="a channel of shape"):
        cir_request(config, np.ones(100, np.complex128), 1.0, 1.0)


def test_no_channel_at_all_is_silence() -> None:
    told = json.loads(cir_request(CONFIG, np.zeros(512, np.complex128), 1.0, 2.0))
    assert set(told["taps"]) == {0.0}
    assert min(told["norms"]) > 0  # noise is divided by it


def test_as_many_emulators_as_rows(tmp_path: Path) -> None:
    with peers(tmp_path) as (_, ours), pytest.raises(ValueError, match="2 rows for 1 emulators"):
        push(ours, np.ones((2, 512), np.complex128), 1.0, 1.0)
