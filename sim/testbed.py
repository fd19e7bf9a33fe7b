"""A simulated testbed: users walk through the world, are measured, are sent to, and report what they got.

`Testbed` is the world's side of the loop without sockets or clock. `sim.testbed_process` puts it on the wire.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import BlockDecision, ChannelFrame, Message, OutcomeFrame, Vector, no_array
from sim.channels import SiteChannels
from sim.fidelity.in_testbed import BaseStationChains, OnAir, position_errors
from sim.mobility import Walk
from sim.scenario import Scenario
from sim.stage import Link, open_stage, user_tracks
from sim.tracks import Mover, OnTrack

Complex = npt.NDArray[np.complex128]

TONES = 64
NO_DECISION = 2**63 - 1
"""`decision_seq` of outcomes from before the first decision: a number that no decision has."""

_LEAST_POWER_W = 1e-33


@dataclass(frozen=True)
class TestbedSettings:
    """What a simulated testbed is like.

    period_s: coherence block. lead_s: from the measurement to the middle of the time on air. sounding_every: blocks
    between two measurements of a whole cascade, which go round the users; 0 for none. position_sigma_m: what
    positioning errs by. scenario: who walks where, what comes in the way, and how the world changes.
    """

    __test__ = False

    users: int = 3
    seed: int = 1
    period_s: float = 10e-3
    lead_s: float = 7e-3
    speed_m_s: float = 1.4
    position_sigma_m: float = 0.02
    position_correlation_s: float = 2.0
    bandwidth_hz: float = 20e6
    user_power_dbm: float = 23.0
    bs_noise_dbm: float = -96.0
    pilot_gain_db: float = 9.0
    user_noise_dbm: float = -94.0
    rate_target_bps_hz: float = 1.0
    sounding_every: int = 4
    scenario: Scenario = field(default_factory=Scenario)


class Testbed:
    """Blocks of a simulated world. Per block: `measure`, then `transmit` what was decided.

    All of it is a function of the worlds' bundles, the settings and the decisions. `InputRefused` or `UsageRefused`
    where the scenario does not fit the world, or a knob of the world would not be obeyed.
    """

    __test__ = False
    SENDS_IQ = False

    def __init__(self, world: SiteChannels, settings: TestbedSettings) -> None:
        self.settings = settings
        self._world = open_stage(world, settings.scenario)
        self.block = 0
        self._seq: Counter[str] = Counter()
        rng = np.random.default_rng(settings.seed)
        self._walks = movers(world, settings, rng.spawn(settings.users))
        knobs, usual = world.bundle.settings, (settings.position_sigma_m, settings.position_correlation_s)
        self._errors = position_errors(knobs.position, settings.seed, usual, rng.spawn(settings.users))
        self._chains = BaseStationChains(knobs.hardware, world.antennas, settings.seed, iq=self.SENDS_IQ)
        self._noise_rng = rng.spawn(1)[0]
        self._tones_hz = np.asarray((np.arange(TONES) - TONES // 2) * (settings.bandwidth_hz / TONES), np.float64)
        self._scored_hz = np.zeros(1)
        self._ris = world.bundle.site.ris
        self._theta = self._realised(np.ones(world.elements, np.complex128))
        self._decision: BlockDecision | None = None
        self._on_air = OnAir.of(np.zeros((world.antennas, 0)), None)

    def _realised(self, theta: Complex) -> Complex:
        """What the RIS does when it is told theta [M]."""
        return theta if self._ris is None else self._ris.realised(theta)

    def user_name(self, index: int) -> str:
        return f"ue{index}"

    @property
    def latest_s(self) -> float:
        """When the last path of the world arrives."""
        return self._world.latest_s

    def links(self) -> tuple[tuple[Link, ...], Complex]:
        """The true paths of every user as of now, and the RIS state [M] on air. They do not change any more."""
        return tuple(self._world.link(walk.position_m) for walk in self._walks), self._theta

    def measure(self, t_ns: int) -> list[Message]:
        """Uplink measurements of the block that begins: every user's effective channel, one user's whole cascade."""
        messages: list[Message] = []
        sounding = self.settings.sounding_every
        turn, due = divmod(self.block, sounding) if sounding else (0, 1)
        sounded = turn % self.settings.users if due == 0 and self._world.elements else None
        for index in range(self.settings.users):
            if index == sounded:
                messages.append(self._sounding(index, t_ns))
            messages.append(self._uplink(index, t_ns))
        return messages

    def transmit(self, decision: BlockDecision | None, t_ns: int) -> Iterator[OutcomeFrame]:
        """The rest of the block: use `decision`, or go on with the last one where None came in time; users report.

        A decision without users or without theta leaves the antennas silent or the RIS as it is; `InputRefused` where
        it was made for another site. Ends the block: users have walked on when it returns its last outcome.
        """
        if decision is not None:
            self._check_fit(decision)
            self._decision = decision
            self._on_air = self._chains.on_air(decision.precoder)
            if decision.theta.size:
                self._theta = self._realised(decision.theta.astype(np.complex128))
        self._advance(self.settings.lead_s)
        for index in range(self.settings.users):
            yield self._outcome(index, t_ns)
        self._advance(self.settings.period_s - self.settings.lead_s)
        self.block += 1

    def _check_fit(self, decision: BlockDecision) -> None:
        """Refuse a decision for other antennas or another RIS: to use a part of it would be to ignore the rest."""
        antennas, elements = self._world.antennas, self._world.elements
        fits = decision.precoder.size == 0 or decision.precoder.shape[0] == antennas
        if not fits or decision.theta.size not in (0, elements):
            raise InputRefused(
                f"is for {decision.precoder.shape[0]} antennas and {decision.theta.size} RIS elements",
                where=f"decision for block {decision.block}",
                mend=f"the world has {antennas} and {elements}: controller and testbed need bundles of the same site",
            )

    def _advance(self, seconds: float) -> None:
        self._world.advance(seconds)
        self._chains.advance(seconds)
        for walk, error in zip(self._walks, self._errors, strict=True):
            walk.advance(seconds)
            error.advance(seconds)

    def _uplink(self, index: int, t_ns: int) -> ChannelFrame:
        channel = self._world.effective_cfr(self._walks[index].position_m, self._theta, self._tones_hz)
        noise_power = self._uplink_noise_power()
        measured = self._as_received(self._chains.channel(channel), noise_power)
        return self._frame(
            index,
            t_ns,
            domain="effective",
            noise_power=noise_power,
            cfr=measured[None],
            tones_hz=self._tones_hz,
            ris_patterns=self._theta[None].astype(np.complex64),
        )

    def _sounding(self, index: int, t_ns: int) -> ChannelFrame:
        """The whole cascade at the carrier, from M + 1 orthogonal RIS patterns whose noise averages out."""
        channel = self._world.cascade(self._walks[index].position_m)
        noise_power = self._uplink_noise_power() / channel.shape[0]
        return self._frame(
            index,
            t_ns,
            domain="cascade",
            noise_power=noise_power,
            cfr=self._as_received(self._chains.channel(channel[:, :, None]), noise_power),
            tones_hz=np.zeros(1),
            ris_patterns=no_array(channel.shape[0], 0),
        )

    def _frame(
        self,
        index: int,
        t_ns: int,
        *,
        domain: Literal["effective", "cascade"],
        noise_power: float,
        cfr: npt.NDArray[np.complexfloating],
        tones_hz: npt.NDArray[np.float64],
        ris_patterns: npt.NDArray[np.complexfloating],
    ) -> ChannelFrame:
        position_m, velocity_m_s = self._told(index)
        power = float(np.mean(np.abs(cfr) ** 2))
        return ChannelFrame(
            source="testbed",
            epoch=0,
            seq=self._next_seq(ChannelFrame.TOPIC),
            t_ns=t_ns,
            user=self.user_name(index),
            block=self.block,
            domain=domain,
            noise_power=noise_power,
            snr_db=float(10 * np.log10(max(power / noise_power, 1e-9))),
            carrier_hz=self._world.carrier_hz,
            position_m=position_m,
            velocity_m_s=velocity_m_s,
            cfr=cfr.astype(np.complex64),
            tones_hz=tones_hz,
            ris_patterns=ris_patterns,
            beams=no_array(0, cfr.shape[1]),
            cir=no_array(cfr.shape[1], 0),
        )

    def _told(self, index: int) -> tuple[Vector, Vector]:
        """Position and velocity of a user as its positioning service has them."""
        walk, error = self._walks[index], self._errors[index]
        x, y, z = (float(value) for value in walk.position_m + error.error_m)
        vx, vy, vz = (float(value) for value in walk.velocity_m_s)
        return (x, y, z), (vx, vy, vz)

    def _next_seq(self, topic: str) -> int:
        """Running number of a message in its topic."""
        self._seq[topic] += 1
        return self._seq[topic]

    def _uplink_noise_power(self) -> float:
        """Error variance of a channel entry: base-station noise over the power that the user's pilot was sent with."""
        settings = self.settings
        return float(10 ** ((settings.bs_noise_dbm - settings.user_power_dbm - settings.pilot_gain_db) / 10))

    def _as_received(self, channel: Complex, noise_power: float) -> Complex:
        """`channel` with the phase of a free-running oscillator and noise."""
        rng = self._noise_rng
        phase = np.exp(2j * np.pi * rng.random())
        noise = rng.normal(size=channel.shape) + 1j * rng.normal(size=channel.shape)
        return np.asarray(channel * phase + noise * np.sqrt(noise_power / 2))

    def _outcome(self, index: int, t_ns: int) -> OutcomeFrame:
        """What user `index` gets of the transmission that is on air."""
        noise_w = 10 ** (self.settings.user_noise_dbm / 10 - 3)
        name, decision = self.user_name(index), self._decision
        wanted_w = all_w = np.zeros(len(self._scored_hz))
        if decision is not None and decision.precoder.size:
            channel = self._world.effective_cfr(self._walks[index].position_m, self._theta, self._scored_hz)
            channel = self._chains.channel(channel)
            received_w = np.abs(self._on_air.precoder.T @ channel) ** 2
            all_w = received_w.sum(axis=0) + self._on_air.spilt_power(channel)
            wanted_w = received_w[decision.users.index(name)] if name in decision.users else wanted_w
        rate_bps_hz = float(np.mean(np.log1p(wanted_w / (all_w - wanted_w + noise_w)))) / math.log(2.0)
        sinr = math.expm1(rate_bps_hz * math.log(2.0))  # over several tones the one that gives the same rate
        return OutcomeFrame(
            source="testbed",
            epoch=0,
            seq=self._next_seq(OutcomeFrame.TOPIC),
            t_ns=t_ns,
            user=name,
            block=self.block,
            decision_seq=decision.seq if decision is not None else NO_DECISION,
            decision_epoch=decision.epoch if decision is not None else None,
            received_power_dbm=10 * math.log10(max(float(np.mean(all_w)), _LEAST_POWER_W)) + 30,
            sinr_db=10 * math.log10(max(sinr, 1e-30)),
            rate_bps_hz=rate_bps_hz,
            ack=rate_bps_hz >= self.settings.rate_target_bps_hz,
        )


def movers(world: SiteChannels, settings: TestbedSettings, rngs: Sequence[np.random.Generator]) -> list[Mover]:
    """The users, by their tracks or walking at random; `UsageRefused` where there are more tracks than users.

    Each has a generator [users] of its own, used or not, so that a track changes nothing for the others.
    """
    given = settings.scenario.tracks
    if len(given) > settings.users:
        mend = "more by --users, or leave tracks out"
        raise UsageRefused(f"{len(given)} tracks for {settings.users} users", where="[[tracks]]", mend=mend)
    grid, reach_m = world.bundle.positions_m, 1.5 * world.bundle.site.users.spacing_m
    tracks = user_tracks(settings.scenario, world.bundle)
    moving: list[Mover] = []
    for index, rng in enumerate(rngs):
        track = tracks[index] if index < len(tracks) else None
        own_m_s = given[index].speed_m_s if index < len(given) else None
        speed_m_s = settings.speed_m_s if own_m_s is None else own_m_s
        moving.append(OnTrack(track) if track is not None else Walk(grid, reach_m, speed_m_s, rng))
    return moving
