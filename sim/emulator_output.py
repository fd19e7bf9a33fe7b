"""Channels out to a running link: impulse responses for channel emulators as in Sionna-RK (`cir_zmq`), over ZeroMQ.

Such an emulator sits in a base station's software radio and filters each slot's samples, y = sum_l h[l] x[n - d[l]] +
noise. It answers JSON on a REP socket: `config_req` tells numerology and number of taps, `cir` sets taps and noise for
every symbol of a slot. One emulator filters one stream: a MIMO channel takes as many of them as it has rows.

The protocol was read in plugins/channel_emulation/zmq_loader of NVlabs/sionna-rk (Apache-2.0), 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from ingest.endpoints import Endpoint, check_endpoint
from ingest.errors import InputRefused

Complex = npt.NDArray[np.complex128]

MAX_DELAY = 256
"""Taps at this delay in samples, or a later one, are passed over by the emulator."""

MAX_BYTES = 128 << 10
"""Of a request: what is longer the emulator cuts off."""

_EARLY = 16
"""Samples that the first path is put after the first tap: a path between two samples rings before itself too."""

_NEAR_STRONGEST = 0.01
_DIGITS = 6
_LEAST_NORM = 1e-30


class EmulatorConfig(msgspec.Struct, frozen=True):
    """What an emulator says of itself. subcarrier_spacing, frequency: in Hz."""

    num_taps: int
    num_ofdm_symbols_per_slot: int
    fft_size: int
    subcarrier_spacing: float
    frequency: float

    @property
    def tones_hz(self) -> npt.NDArray[np.float64]:
        """All bins of its transform as offsets from `frequency`, ascending. Shape [fft_size]."""
        return np.asarray((np.arange(self.fft_size) - self.fft_size // 2) * self.subcarrier_spacing, np.float64)


Answer = TypeVar("Answer", bound=msgspec.Struct)


class _Answer(msgspec.Struct, frozen=True):
    msg_type: str
    error: str = ""
    details: str = ""


class EmulatorPeer:
    """One emulator at a ZeroMQ address. `InputRefused` where it does not answer in timeout_s, or refuses."""

    def __init__(self, address: str, timeout_s: float = 1.0) -> None:
        check_endpoint(Endpoint(address, bind=False))
        self._address = address
        self._timeout_ms = round(timeout_s * 1e3)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        # An answer that never came must not keep the next question from being asked.
        for option, value in ((zmq.LINGER, 0), (zmq.REQ_RELAXED, 1), (zmq.REQ_CORRELATE, 1)):
            self._socket.setsockopt(option, value)
        self._socket.connect(address)

    def __enter__(self) -> EmulatorPeer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        self._context.term()

    def config(self) -> EmulatorConfig:
        """What the emulator is set to."""
        found = self._asked(msgspec.json.encode({"msg_type": "config_req"}), "config_res", EmulatorConfig)
        if min(found.num_taps, found.num_ofdm_symbols_per_slot, found.fft_size, found.subcarrier_spacing) <= 0:
            raise self._refused(f"says it has {found}")
        return found

    def send(self, request: bytes) -> None:
        """Set what `cir_request` made."""
        self._asked(request, "cir_ack", _Answer)

    def _asked(self, request: bytes, expected: str, kind: type[Answer]) -> Answer:
        """The answer to `request`, which is to be of type `expected`."""
        self._socket.send(request)
        if not self._socket.poll(self._timeout_ms):
            raise self._refused(f"no answer within {self._timeout_ms} ms")
        answer = self._socket.recv()
        try:
            told = msgspec.json.decode(answer, type=_Answer)
            if told.msg_type == "error":
                raise self._refused(f"refuses: {told.error} {told.details}".strip())
            if told.msg_type != expected:
                raise self._refused(f"answers {told.msg_type!r} for {expected!r}")
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._refused(f"answers nonsense: {error}") from None

    def _refused(self, what: str) -> InputRefused:
        return InputRefused(what, where=self._address, mend="is a channel emulator of Sionna-RK running there?")


def cir_request(
    config: EmulatorConfig, cfr: Complex, sigma_scaling: float, sigma_max: float, first: int | None = None
) -> bytes:
    """The request that sets one stream's channel for all symbols of the coming slots.

    cfr [fft_size], or [symbols, fft_size], on `config.tones_hz`. sigma_scaling: noise under a channel of norm one,
    sigma_max: the most of it. Taps are sent with norm one, the strongest first; how strong the channel is shows in the
    noise that the emulator adds. first: delay in samples that is left out, the first path's where not given. Raises
    ValueError where the shape does not fit, or the request is longer than emulators read.
    """
    symbols = config.num_ofdm_symbols_per_slot
    if cfr.shape not in ((config.fft_size,), (symbols, config.fft_size)):
        raise ValueError(f"a channel of shape {cfr.shape} for {symbols} symbols of {config.fft_size} tones")
    responses = _responses(np.atleast_2d(cfr))
    first = first_path(responses) if first is None else first
    responses = np.roll(responses, _EARLY - first, axis=1)[:, :MAX_DELAY]
    norms, taps, delays = [], [], []
    for row in responses:
        strongest = np.argsort(-np.abs(row), kind="stable")[: config.num_taps]
        norms.append(max(float(np.linalg.norm(row[strongest])), _LEAST_NORM))
        found = np.round(row[strongest] / norms[-1], _DIGITS)
        strongest = strongest[found != 0]
        spare = config.num_taps - len(strongest)
        taps.append(np.pad(found[found != 0], (0, spare)).view(np.float64) + 0.0)  # never -0.0
        delays.append(np.pad(strongest, (0, spare)))
    repeats = symbols // len(norms)
    request = msgspec.json.encode(
        {
            "msg_type": "cir",
            "sigma_scaling": sigma_scaling,
            "sigma_max": sigma_max,
            "norms": [float(f"{norm:.{_DIGITS}g}") for norm in norms] * repeats,
            "taps": np.concatenate(taps).tolist() * repeats,
            "tap_indices": np.concatenate(delays).tolist() * repeats,
        }
    )
    if len(request) > MAX_BYTES:
        raise ValueError(f"{config.num_taps} taps of {symbols} symbols make {len(request)} bytes, at most {MAX_BYTES}")
    return request


def push(peers: Sequence[EmulatorPeer], cfr: Complex, sigma_scaling: float, sigma_max: float) -> None:
    """Set a MIMO channel: cfr [P, fft_size] on the peers' tones, an emulator for each row; all are delayed alike.

    Raises ValueError where rows and emulators, or these among themselves, differ.
    """
    configs = [peer.config() for peer in peers]
    if len(peers) != len(cfr) or len(set(configs)) > 1:
        raise ValueError(f"{len(cfr)} rows for {len(peers)} emulators of {len(set(configs))} kinds")
    first = first_delay(cfr) if len(cfr) else 0
    requests = [
        cir_request(config, row, sigma_scaling, sigma_max, first) for config, row in zip(configs, cfr, strict=True)
    ]
    for peer, request in zip(peers, requests, strict=True):
        peer.send(request)


def first_delay(cfr: Complex) -> int:
    """The delay in samples that channels [P, fft_size] on an emulator's tones have in common: their first path's."""
    return first_path(_responses(cfr))


def first_path(responses: Complex) -> int:
    """The first sample of impulse responses [P, T] that is near the strongest, all together; they go round."""
    powers = np.sum(np.abs(responses) ** 2, axis=0)
    return int(np.flatnonzero(powers >= _NEAR_STRONGEST * powers.max())[0]) if powers.any() else 0


def _responses(cfr: Complex) -> Complex:
    """Impulse responses [P, fft_size] of channels on ascending tones."""
    return np.asarray(np.fft.ifft(np.fft.ifftshift(cfr, axes=1), axis=1))
