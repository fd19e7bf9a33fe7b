"""Whether the antennas of a radio have clocks that run together: told by what all transmitters show alike.

Antennas on clocks of their own turn against each other steadily, and for every transmitter by as much. A user who moves
turns them too, but not for long, nor as others do; a transmitter that stands still (an SSB's) says most. What it takes
to call antennas drifting, beside a rate that is clear of its scatter:

- a transmitter that stands still and none of its kind in contradiction; or
- three users in agreement over 20 turns: users side by side may turn through the array's lobes together; or
- one user over 300 turns, to a thousandth: 25 m at 3.5 GHz, which nobody walks or drives so steadily.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ingest.nr.phase_jumps import Jump, JumpCourt, JumpWatch
from ingest.nr.phase_series import Rate, RateSeries, joined

Complex = npt.NDArray[np.complexfloating]
Real = npt.NDArray[np.float64]

_CLEAR, _STILL_CLEAR, _LEAST_TURNS = 30.0, 10.0, 3.0
"""Standard errors, and turns seen, of a rate that fading does not make: scatterers that antennas weigh differently turn
phases steadily for seconds, and a channel that hardly moves turns less than once for as long as it remembers. Fewer
errors keep a rotation that was found already."""

_USERS, _USERS_TURNS = 3, 20.0
_STEADY_TURNS, _STEADY_ERROR = 300.0, 1e-3
_AGREE, _CONTRADICT = 4.0, 6.0
"""Standard errors within which rates agree, and beyond which they contradict."""

_LEAST_LAG_S = 4.9e-3
"""Looks at one signal follow each other no faster: they cost some 50 us."""

_SHORTER = 0.75
_LONGEST_GAP_S = 5.0
_MOST_SIGNALS = 64


@dataclass
class _Signal:
    """What is known of one signal. look [A]: the last one, and its sizes."""

    steps: JumpWatch
    look: npt.NDArray[np.complex128]
    sizes: Real
    between: RateSeries | None = None
    within: RateSeries | None = None
    rate: Rate | None = None


@dataclass
class PhaseWatch:
    """Follows the phases between A antennas of one radio.

    rates_hz [A]: how fast they turn against the first antenna's where they drift; None where nothing says so.
    """

    rates_hz: Real | None = field(default=None, init=False)
    _court: JumpCourt = field(default_factory=JumpCourt, init=False)
    _signals: dict[Hashable, _Signal] = field(default_factory=dict, init=False)
    _reference: int = field(default=0, init=False)

    @property
    def jumps(self) -> list[Jump]:
        """The steps of the phases that the radio made."""
        return self._court.jumps

    @property
    def transmitters(self) -> int:
        """How many tell of the phases' rates."""
        return len({one.steps.transmitter for one in self._signals.values() if one.rate is not None})

    def restart(self) -> None:
        """Another stream begins: nothing is known of its antennas."""
        self.rates_hz = None
        self._court = JumpCourt()
        self._signals.clear()

    def look(
        self, key: Hashable, transmitter: str, time_s: float, channel: Complex, *, stands_still: bool = False
    ) -> None:
        """Take in channel [A, S] that one signal `key` of a transmitter had at time_s of the stream."""
        if not self._signals:
            self._reference = int(np.argmax(np.abs(channel).mean(axis=1)))
        known = self._signals.get(key)
        if known is not None and 0 <= time_s - known.steps.time_s < _LEAST_LAG_S:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            seen = np.asarray(channel @ channel[self._reference].conj(), np.complex128)
        if not np.all(np.isfinite(seen)):
            return
        if known is None or len(known.look) != len(seen) or not 0 < time_s - known.steps.time_s < _LONGEST_GAP_S:
            if known is not None or len(self._signals) < _MOST_SIGNALS:
                self._signals[key] = _Signal(JumpWatch(transmitter, stands_still, time_s), seen, np.abs(seen))
            return
        self._compare(known, seen, time_s)

    def _compare(self, known: _Signal, seen: npt.NDArray[np.complex128], time_s: float) -> None:
        """Hold a look against the last one, where that is as long ago as usual."""
        lag_s = time_s - known.steps.time_s
        before, known.look = known.look, seen
        sizes_before, known.sizes = known.sizes, np.abs(seen)
        if known.between is None or lag_s < _SHORTER * known.between.lag_s:
            known.between = RateSeries(lag_s, len(seen))
        if not known.between.fits(lag_s):
            known.steps.skip(time_s)
            return
        product, both = seen * before.conj(), known.sizes * sizes_before
        jump = known.steps.step(product, known.sizes, both, time_s)
        if jump is not None:
            self._court.claim(jump, (one.steps for one in self._signals.values()))
        if known.between.add(product / np.maximum(known.sizes, sizes_before).clip(1e-150) ** 2, lag_s, time_s):
            self._judge(known)

    def symbols(self, key: Hashable, time_s: float, times_s: Real, received: Complex) -> None:
        """Take in received [A, L, S]: what symbols at times_s [L] of a slot at time_s showed of a signal looked at.

        The first and the last are compared.
        """
        known = self._signals.get(key)
        if known is None or len(times_s) < 2 or len(known.look) != len(received) or known.steps.time_s != time_s:
            return
        lag_s = float(times_s[-1] - times_s[0])
        if known.within is None:
            known.within = RateSeries(lag_s, len(received))
        early, late = (received[:, symbol] @ received[self._reference, symbol].conj() for symbol in (0, -1))
        product = _product(np.asarray(early, np.complex128), np.asarray(late, np.complex128))
        if known.within.add(product, lag_s, known.steps.time_s) and known.between is None:
            self._judge(known)

    def _judge(self, known: _Signal) -> None:
        """Judge every antenna anew by what one signal tells now."""
        coarse, fine = (
            (one.rate() if one is not None and one.is_enough else None) for one in (known.between, known.within)
        )
        known.rate = joined(coarse, fine)
        now_s = known.steps.time_s
        told = [
            one for one in self._signals.values() if one.rate is not None and now_s - one.steps.time_s < _LONGEST_GAP_S
        ]
        clear = _CLEAR if self.rates_hz is None else _STILL_CLEAR
        drifting = [_common_rate([_say(one, antenna, clear) for one in told]) for antenna in range(len(known.look))]
        if all(one is None for one in drifting):
            self.rates_hz = None
            return
        rates_hz = np.array([one or 0.0 for one in drifting])
        self.rates_hz = rates_hz - rates_hz[0]


def _product(before: Complex, after: Complex) -> npt.NDArray[np.complex128]:
    """after times conj(before), as large as they are alike in size: at most 1, less around a fade."""
    size = np.maximum(np.abs(before), np.abs(after))
    return np.asarray(after * before.conj() / np.maximum(size, 1e-150) ** 2, np.complex128)


@dataclass(frozen=True)
class _Say:
    """What one signal says of one antenna."""

    transmitter: str
    stands_still: bool
    hz: float
    error_hz: float
    turns: float
    lag_s: float
    is_sure: bool

    def apart(self, other: _Say) -> float:
        """How far the two are apart, in standard errors, apart from rounds that looks so far from each other miss."""
        round_hz = 1.0 / max(self.lag_s, other.lag_s)
        off_hz = self.hz - other.hz
        off_hz -= round(off_hz / round_hz) * round_hz
        return float(abs(off_hz) / np.hypot(self.error_hz, other.error_hz))


def _common_rate(says: list[_Say]) -> float | None:
    """The rate [Hz] at which an antenna turns against the reference for all; None where it need not be the radio."""
    still, moving = ([one for one in says if one.stands_still is kind] for kind in (True, False))
    if sure := [one for one in still if one.is_sure]:
        lead = max(sure, key=_clearness)
        if any(one.apart(lead) > _CONTRADICT for one in still):
            return None
        return _resolved(lead, [one for one in moving if one.is_sure and one.apart(lead) < _AGREE])
    sure = [one for one in moving if one.is_sure]
    if not sure:
        return None
    lead = max(sure, key=_clearness)
    if any(one.apart(lead) > _CONTRADICT for one in says):
        return None
    agreed = [one for one in sure if one.apart(lead) < _AGREE and one.turns > _USERS_TURNS]
    if len({one.transmitter for one in agreed}) >= _USERS:
        return _resolved(lead, agreed)
    if lead.turns > _STEADY_TURNS and lead.error_hz < _STEADY_ERROR * abs(lead.hz):
        return lead.hz
    return None


def _say(signal: _Signal, antenna: int, clear: float) -> _Say:
    rate = signal.rate
    assert rate is not None
    hz = float(rate.hz[antenna])
    turns = abs(hz) * rate.span_s
    error_hz = float(rate.error_hz[antenna])
    sure = abs(hz) > clear * error_hz and turns > _LEAST_TURNS
    steps = signal.steps
    return _Say(steps.transmitter, steps.stands_still, hz, error_hz, turns, rate.lag_s, sure)


def _clearness(say: _Say) -> float:
    return abs(say.hz) / say.error_hz


def _resolved(lead: _Say, others: list[_Say]) -> float:
    """The lead's rate with the rounds that its looks miss, by whose looks follow each other most closely."""
    finest = min([lead, *others], key=lambda one: one.lag_s)
    return lead.hz + round((finest.hz - lead.hz) * lead.lag_s) / lead.lag_s
