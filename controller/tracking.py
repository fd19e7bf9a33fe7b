"""From looks to beliefs: prior -> posterior of each user, and what its zone learns on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from controller.belief import ChannelBelief, Conditioning, condition
from controller.covariance import Complex, LowRankDiagonal, Real
from controller.error_statistics import (
    ErrorStatistics,
    LearningRule,
    freshness,
    judge,
    learn_coherence,
    learn_from_full,
    learn_from_partial,
)
from controller.looks import Look
from controller.mailbox import MAX_USERS
from controller.prior import Prior
from controller.zones import WHOLE_SITE, ZoneMap

_RESIDUAL_MEMORY = 0.05
_FORECAST_EVERY = 4
"""A forecast is tested at one look of so many at a user: coherence changes slowly, and the test costs as much as a
look. Counted per user, so that no rhythm of the measurements escapes it."""

_SURPRISE = 10.0
"""An innovation this many times stronger than expected does not belong to what a young zone has seen."""

_LEAST_RESOLVED = 1e-12
"""Channel power below this share of the error's counts as this much: a silent user has a residual of 120 dB."""

_ABSENT_STALENESSES = 10.0
"""A user not heard of for this many times the time after which its last look is stale has left."""

_MAX_TRACKS = 2 * MAX_USERS
"""Last looks that are kept, whole and partial ones; of more, the oldest are forgotten."""

_OUTLIER = 30.0
"""Normalised innovation squared beyond which a look is an outlier (of Gaussian errors one in exp(30) entries)."""

_IN_A_ROW = 1.5
"""Looks less than this many usual intervals apart follow each other."""


@dataclass(frozen=True)
class UserTrack:
    """What the last look at a user left behind.

    gain [R, N]: posterior minus prior mean. covariance: of the error before the look. conditioning: what a partial look
    said of it, None for a whole one. residual: innovation over channel power, running. interval_s: usual time between
    looks, None before there were two. followers: how many looks have followed the one before at the usual interval.
    """

    look: Look
    zone: str
    gain: Complex
    covariance: LowRankDiagonal
    conditioning: Conditioning | None
    residual: float
    interval_s: float | None
    followers: int = 0

    @property
    def residual_db(self) -> float:
        return float(10 * np.log10(max(self.residual, 1e-12)))


@dataclass(frozen=True)
class Knowledge:
    """All that is known of the site's channels. users: the last look at each, whole ones (True) and partial apart."""

    prior: Prior
    zones: Mapping[str, ErrorStatistics] = field(default_factory=dict)
    users: Mapping[tuple[str, bool], UserTrack] = field(default_factory=dict)


@dataclass(frozen=True)
class Tracker:
    """How knowledge grows: which zone a place belongs to, and how its statistics are learnt."""

    zone_map: ZoneMap
    rule: LearningRule
    max_zones: int

    def observe(self, knowledge: Knowledge, look: Look) -> Knowledge:
        """Condition the belief of the look's user on it, then let its zone learn from the innovation."""
        twin = knowledge.prior.mean(look.user, look.position_m)
        noise = look.observation.noise_power
        zone = self._zone(knowledge, look)
        statistics = self._statistics(knowledge, zone, look, twin)
        before = knowledge.users.get((look.user, look.whole))
        if before is not None and before.zone != zone:
            before = None
        steps = _steps_since(before, look, knowledge)
        coherence = statistics.coherence**steps
        predicted = look.of(twin + statistics.mean)
        forecast = look.of(before.gain) if before is not None else None
        reference = predicted if forecast is None else predicted + coherence * forecast
        innovation = _in_phase(look.measured, reference) - predicted
        conditioning = None
        if look.whole:
            gain, nis = statistics.covariance.gain_white(innovation, noise)
            error_power = _error_power(statistics.covariance, look)
        else:
            conditioning = condition(statistics.covariance, look.observation, innovation)
            gain, nis = conditioning.gain, conditioning.nis
            error_power = float(np.trace(conditioning.spread).real) / innovation.size
        share = error_power / (error_power + noise)
        fresh = 1.0 if before is None else freshness(coherence * share)
        # Of one look a zone that knows its error learns no more than of a strong one; many of them are a drift.
        known = statistics.taught >= self.rule.enough
        tempered = min(1.0, float(np.sqrt(_OUTLIER / nis))) if known and nis > 0 else 1.0
        if conditioning is None:
            learnt = learn_from_full(statistics, self.rule, tempered * innovation, noise, fresh)
        else:
            seen = replace(conditioning, gain=tempered * gain)
            learnt = learn_from_partial(statistics, self.rule, seen, tempered * innovation, fresh)
        learnt = judge(learnt, self.rule, tempered**2 * nis, fresh)
        followers = 0 if before is None else before.followers + (steps < _IN_A_ROW)
        if before is not None and followers > before.followers and followers % _FORECAST_EVERY == 0:
            surprise = _forecast_nis(before, statistics, coherence, look, innovation)
            learnt = learn_coherence(learnt, surprise, share)
        track = UserTrack(
            look=look,
            zone=zone,
            gain=gain,
            covariance=statistics.covariance,
            conditioning=conditioning,
            residual=_running_residual(before, innovation, look.measured),
            interval_s=_running_interval(before, look),
            followers=followers,
        )
        return replace(
            knowledge,
            zones={**knowledge.zones, zone: learnt},
            users=_remembered({**knowledge.users, (look.user, look.whole): track}),
        )

    def _statistics(self, knowledge: Knowledge, zone: str, look: Look, twin: Complex) -> ErrorStatistics:
        """What is known of the zone; a new zone, or a young one that is much surprised, is sized by the look."""
        statistics = knowledge.zones.get(zone)
        if statistics is not None and statistics.taught >= self.rule.enough:
            return statistics
        if statistics is not None:
            innovation = _in_phase(look.measured, look.of(twin)) - look.of(twin)
            expected = _error_power(statistics.covariance, look) + look.observation.noise_power
            if float(np.mean(np.abs(innovation) ** 2)) < _SURPRISE * expected:
                return statistics
        assumed = knowledge.prior.error_variances(twin, look.observation.noise_power)
        sized = LowRankDiagonal.white(_fitted_to_look(assumed, look, twin))
        if statistics is None:
            return ErrorStatistics.begin(np.zeros_like(twin), sized)
        wider = statistics.covariance.plus(sized)
        return replace(statistics, moments=wider, covariance=wider, noise_power=0.0)

    def _zone(self, knowledge: Knowledge, look: Look) -> str:
        """The look's zone; when there are too many already, the one for the whole site."""
        name = self.zone_map.zone_of(look.position_m)
        if name in knowledge.zones or len(knowledge.zones) < self.max_zones:
            return name
        return WHOLE_SITE


def _remembered(users: dict[tuple[str, bool], UserTrack]) -> dict[tuple[str, bool], UserTrack]:
    """`users` without the oldest where there are too many: users come and go, and each holds whole channels."""
    while len(users) > _MAX_TRACKS:
        del users[min(users, key=lambda key: (users[key].look.t_ns, key))]
    return users


def newest_tracks(knowledge: Knowledge, now_ns: int, stale_after_s: float, max_users: int) -> dict[str, UserTrack]:
    """The tracks to design from, by user name: not stale, the most recently heard where there are too many.

    Of two looks in the same block the partial one counts: it saw the RIS as it is set.
    """
    newest: dict[str, UserTrack] = {}
    for (name, _), track in sorted(knowledge.users.items(), key=lambda item: item[0]):
        look, other = track.look, newest.get(name)
        if now_ns - look.t_ns > stale_after_s * 1e9:
            continue
        if other is None or (look.t_ns > other.look.t_ns and look.block != other.look.block):
            newest[name] = track
    chosen = sorted(newest, key=lambda name: (-newest[name].look.t_ns, name))[:max_users]
    return {name: newest[name] for name in sorted(chosen)}


def tracks_of(knowledge: Knowledge, users: tuple[str, ...]) -> dict[str, UserTrack]:
    """The newest track of each of `users` that is known, however old."""
    tracks = newest_tracks(knowledge, 0, math.inf, len(knowledge.users))
    return {user: tracks[user] for user in users if user in tracks}


def without_absent(knowledge: Knowledge, now_ns: int, stale_after_s: float) -> Knowledge:
    """`knowledge` without the tracks of users that have left."""
    oldest_ns = now_ns - round(_ABSENT_STALENESSES * stale_after_s * 1e9)
    kept = {key: track for key, track in knowledge.users.items() if track.look.t_ns >= oldest_ns}
    return knowledge if len(kept) == len(knowledge.users) else replace(knowledge, users=kept)


def belief_of(knowledge: Knowledge, track: UserTrack, now_ns: int, lead_s: float) -> ChannelBelief:
    """The belief `lead_s` after now: twin at the position ahead + mean error + what still holds of the last look.

    The error is taken for an AR(1) process, stationary in its zone, with the zone's coherence per look interval.
    """
    statistics = knowledge.zones[track.zone]
    ahead_s = max((now_ns - track.look.t_ns) * 1e-9, 0.0) + lead_s
    interval_s = _usual_interval_s(knowledge, track)
    steps = ahead_s / interval_s if interval_s else 1.0
    coherence = statistics.coherence**steps
    twin = knowledge.prior.mean(track.look.user, track.look.position_after(ahead_s))
    return _carried(track, statistics, coherence, twin + statistics.mean + coherence * track.gain)


def _carried(track: UserTrack, statistics: ErrorStatistics, coherence: float, mean: Complex) -> ChannelBelief:
    """The belief with this mean after the track's look has lost all but `coherence` of its hold."""
    if track.conditioning is not None:
        return ChannelBelief(mean, track.covariance, track.conditioning, coherence**2)
    left = track.covariance.posterior_white(track.look.observation.noise_power).scaled(coherence**2)
    return ChannelBelief(mean, left.plus(statistics.covariance.scaled(1.0 - coherence**2)))


def _fitted_to_look(variances: Real, look: Look, twin: Complex) -> Real:
    """Assumed error variances [R, N] of a zone, brought to the size of the error that a look shows.

    Direct and cascaded rows are sized apart where the whole channel was seen, else together.
    """
    innovation = _in_phase(look.measured, look.of(twin)) - look.of(twin)
    noise = look.observation.noise_power
    if not look.whole:
        expected = float(np.mean((np.abs(look.observation.patterns) ** 2) @ variances))
        return variances * _size_ratio(innovation, expected, noise)
    fitted = variances.copy()
    for rows in (slice(0, 1), slice(1, None)):
        if fitted[rows].size:
            fitted[rows] *= _size_ratio(innovation[rows], float(np.mean(fitted[rows])), noise)
    return fitted


def _size_ratio(innovation: Complex, expected: float, noise_power: float) -> float:
    """Seen over expected error power; what noise hides is taken for a tenth of the noise."""
    seen = float(np.mean(np.abs(innovation) ** 2)) - noise_power
    return max(seen, 0.1 * noise_power) / max(expected, 1e-300)


def _error_power(covariance: LowRankDiagonal, look: Look) -> float:
    """Mean power that an error of this covariance has in one entry of what the look sees."""
    if look.whole:
        return float(np.mean(covariance.variances))
    return float(np.mean((np.abs(look.observation.patterns) ** 2) @ covariance.variances))


def _forecast_nis(
    before: UserTrack, statistics: ErrorStatistics, coherence: float, look: Look, innovation: Complex
) -> float:
    """Normalised innovation squared of a look against what the look before made of the belief."""
    surprise = innovation - coherence * look.of(before.gain)
    belief = _carried(before, statistics, coherence, statistics.mean)
    noise = look.observation.noise_power
    if look.whole:
        return belief.covariance.gain_white(surprise, noise)[1]
    covariance = belief.seen(look.observation.patterns, look.observation.beams)
    flat = surprise.ravel()
    solved = np.linalg.solve(covariance + noise * np.eye(len(flat)), flat)
    return float(np.vdot(flat, solved).real) / len(flat)


def _steps_since(before: UserTrack | None, look: Look, knowledge: Knowledge) -> float:
    """Time since the last look of this kind, in the user's usual interval between looks of any kind."""
    interval_s = None if before is None else _usual_interval_s(knowledge, before)
    if before is None or not interval_s:
        return 1.0
    return max((look.t_ns - before.look.t_ns) * 1e-9 / interval_s, 0.0)


def _usual_interval_s(knowledge: Knowledge, track: UserTrack) -> float | None:
    """Time between the looks at a track's user that coherence is counted in: partial ones, whole where there are none.

    None before there were two.
    """
    return knowledge.users.get((track.look.user, False), track).interval_s


def _in_phase(measured: Complex, reference: Complex) -> Complex:
    """`measured` turned so that its common phase agrees with `reference`.

    A user's oscillator adds an unknown phase to every measurement. No design depends on it; errors must not either.
    """
    product = complex(np.vdot(reference, measured))
    return measured if product == 0 else np.asarray(measured * (product.conjugate() / abs(product)))


def _running_residual(before: UserTrack | None, innovation: Complex, measured: Complex) -> float:
    error, power = float(np.sum(np.abs(innovation) ** 2)), float(np.sum(np.abs(measured) ** 2))
    now = error / max(power, _LEAST_RESOLVED * error, 1e-300)
    return now if before is None else before.residual + _RESIDUAL_MEMORY * (now - before.residual)


def _running_interval(before: UserTrack | None, look: Look) -> float | None:
    if before is None:
        return None
    elapsed_s = (look.t_ns - before.look.t_ns) * 1e-9
    if elapsed_s <= 0 or before.interval_s is None:
        return elapsed_s if elapsed_s > 0 else before.interval_s
    return before.interval_s + 0.1 * (min(elapsed_s, 4 * before.interval_s) - before.interval_s)
