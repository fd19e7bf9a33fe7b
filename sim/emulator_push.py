"""The testbed's true channels out to channel emulators, from a thread of its own: the testbed never waits for them.

`twinbeam demo --emulator tcp://127.0.0.1:5555?user=0&antenna=3` sets one emulator of Sionna-RK to the channel of a user
at an antenna (`sim.emulator_output` has the protocol). Named without antennas, a user's emulators take them in order.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ingest.endpoints import Endpoint, check_endpoint, flag_of, is_loopback, split_uri
from ingest.errors import TwinbeamError, UsageRefused
from sim.emulator_output import EmulatorConfig, EmulatorPeer, cir_request, first_delay
from sim.iq_radio import FewTones
from sim.stage import Link

Complex = npt.NDArray[np.complex128]

_OPTIONS = ("user", "antenna", "rms", "remote")
_LOUDEST = 10.0
"""Noise in the emulated link is no stronger than this times its signal: a link is down long before."""

_AGAIN_S = 1.0
_SAMPLE_MOST = 32767.0


@dataclass(frozen=True)
class Stream:
    """One emulator: its address, whose channel it is set to, and at which antenna.

    rms: of the samples in the emulated link. With it the emulator adds noise, so much that the SNR is what the
    testbed's base station has; 0 for none.
    """

    address: str
    user: int
    antenna: int
    rms: float


@dataclass(frozen=True)
class Snapshot:
    """True paths of all users and the RIS state [M] at one moment."""

    links: tuple[Link, ...]
    theta: Complex


def parse_streams(uris: Sequence[str]) -> list[Stream]:
    """Emulators as users name them; `UsageRefused` says what is wrong with one."""
    streams: list[Stream] = []
    taken: Counter[int] = Counter()
    for uri in uris:
        address, options = split_uri(uri, "", _OPTIONS)
        check_endpoint(Endpoint(address, bind=False))
        host = urlsplit(address).hostname or ""
        if address.startswith("tcp:") and not flag_of(options, "remote", uri) and not is_loopback(host):
            mend = f"a channel emulator here, or {uri}{'&' if options else '?'}remote=1 if it is meant"
            raise UsageRefused("is another host", where=uri, mend=mend)
        user = int(_number(options, "user", 0, 63, uri))
        antenna = int(_number(options, "antenna", taken[user], 65535, uri))
        taken[user] = max(taken[user], antenna + 1)
        stream = Stream(address, user, antenna, _number(options, "rms", 0, _SAMPLE_MOST, uri, whole=False))
        for other in streams:
            if other.address == address:
                raise UsageRefused("is named twice", where=uri, mend="one emulator filters one stream")
        streams.append(stream)
    return streams


def check_streams(streams: Sequence[Stream], users: int, antennas: int) -> None:
    """`UsageRefused` where a stream is of a user or an antenna that there is not."""
    for stream in streams:
        for name, value, count in (("user", stream.user, users), ("antenna", stream.antenna, antennas)):
            if value >= count:
                raise UsageRefused(f"there is no {name} {value}", where=stream.address, mend=f"0 to {count - 1}")


def _number(options: dict[str, str], name: str, default: int, most: float, uri: str, *, whole: bool = True) -> float:
    told = options.get(name)
    if told is None:
        return default
    try:
        value = float(int(told) if whole else float(told))
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise UsageRefused(f"{name}={told}", where=uri, mend=f"{name}=0 to {name}={most:g}")
    return value


class EmulatorOutput:
    """Keeps emulators at the newest channels that were offered; what is offered meanwhile is passed over.

    latest_s: when the last path may arrive. noise: amplitude of the noise over that of a user's signal, at a channel of
    one. told: takes one line, when an emulator cannot be reached, and when it is back. `pushed` counts what
    every emulator took.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        latest_s: float,
        noise: float,
        told: Callable[[str], None] | None = None,
        timeout_s: float = 0.25,
    ) -> None:
        self._streams, self._latest_s, self._noise = streams, latest_s, noise
        self._told = told or _on_stderr
        self._timeout_s = timeout_s
        self.pushed: Counter[str] = Counter()
        self._newest: Snapshot | None = None
        self._news, self._ended = threading.Condition(), False
        self._configs: dict[str, EmulatorConfig] = {}
        self._again_s: dict[str, float] = {}
        self._tones: dict[EmulatorConfig, FewTones] = {}
        self._thread = threading.Thread(target=self._push_on, name="emulators", daemon=True)
        self._thread.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Let emulators have this next. Returns at once."""
        with self._news:
            self._newest = snapshot
            self._news.notify()

    def close(self) -> None:
        """End the thread, which may take as long as an emulator may take to answer."""
        with self._news:
            self._ended = True
            self._news.notify()
        self._thread.join(timeout=2 * self._timeout_s * len(self._streams))

    def _push_on(self) -> None:
        peers = {one.address: EmulatorPeer(one.address, self._timeout_s) for one in self._streams}
        try:
            while (snapshot := self._next()) is not None:
                for user in sorted({one.user for one in self._streams}):
                    self._push_user(user, snapshot, peers)
        finally:
            for peer in peers.values():
                peer.close()

    def _next(self) -> Snapshot | None:
        """The newest snapshot that was not pushed yet; None in the end."""
        with self._news:
            while self._newest is None and not self._ended:
                self._news.wait()
            newest, self._newest = self._newest, None
            return None if self._ended else newest

    def _push_user(self, user: int, snapshot: Snapshot, peers: dict[str, EmulatorPeer]) -> None:
        """Set the emulators of a user, all with the same delay left out, so that antennas stay in step."""
        streams = [one for one in self._streams if one.user == user and self._known(one, peers[one.address])]
        for config in dict.fromkeys(self._configs[one.address] for one in streams):
            alike = [one for one in streams if self._configs[one.address] == config]
            tones = self._tones_of(config)
            few = snapshot.links[user].effective_cfr(snapshot.theta, tones.few_hz)
            cfr = tones.spread(few[[one.antenna for one in alike]])
            first = first_delay(cfr)
            for row, stream in zip(cfr, alike, strict=True):
                scaling = stream.rms * self._noise
                try:
                    request = cir_request(config, row, scaling, stream.rms * _LOUDEST, first)
                    peers[stream.address].send(request)
                except (TwinbeamError, ValueError) as error:
                    self._lost(stream, error)
                else:
                    self.pushed[stream.address] += 1

    def _known(self, stream: Stream, peer: EmulatorPeer) -> bool:
        """Whether the emulator is there and has told its numerology; who did not answer is asked again later."""
        address = stream.address
        if address in self._configs:
            return True
        if time.monotonic() < self._again_s.get(address, 0.0):
            return False
        try:
            self._configs[address] = peer.config()
        except TwinbeamError as error:
            self._lost(stream, error)
            return False
        if self._again_s.pop(address, None) is not None:
            self._told(f"{address}: answers again")
        return True

    def _lost(self, stream: Stream, error: Exception) -> None:
        self._configs.pop(stream.address, None)
        if stream.address not in self._again_s:
            where = "" if isinstance(error, TwinbeamError) else f"{stream.address}: "
            self._told(f"{where}{error}; asked again every {_AGAIN_S:g} s")
        self._again_s[stream.address] = time.monotonic() + _AGAIN_S

    def _tones_of(self, config: EmulatorConfig) -> FewTones:
        if config not in self._tones:
            self._tones[config] = FewTones(config.tones_hz, self._latest_s)
        return self._tones[config]


def _on_stderr(line: str) -> None:
    sys.stderr.write(f"twinbeam: emulator {line}\n")
    sys.stderr.flush()
