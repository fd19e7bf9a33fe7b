"""Sudden steps of the phases between antennas, which a radio makes and no channel does.

A step of more than 0.7 rad between two looks that are at most 50 ms apart, amid looks of the same size: 16 with small
steps before and 4 after. A channel that fades is small where its phase is quick; one that is blocked changes in size.
It counts where a transmitter that stands still shows it, or two users by as much, and none stays quiet meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_QUIET_COSINE, _JUMP_RAD = 0.94, 0.7
_QUIET_BEFORE, _QUIET_AFTER = 16, 4
_LONGEST_LAG_S, _TOGETHER_S = 0.05, 0.25
_ALIKE_RAD, _ALIKE_SIZE = 0.3, 1.5
_COMPARED = 8

_FAINT = 0.02
"""An antenna that hears so little of a signal, against the reference, has no say."""


@dataclass(frozen=True, eq=False)
class Jump:
    """A step of the phases [A] against the first antenna at time_s, as one transmitter showed it."""

    time_s: float
    step_rad: Real
    transmitter: str
    stands_still: bool

    def is_like(self, other: Jump) -> bool:
        """Whether two transmitters showed one and the same."""
        apart = np.angle(np.exp(1j * (self.step_rad - other.step_rad)))
        return abs(self.time_s - other.time_s) <= _TOGETHER_S and bool(np.all(np.abs(apart) < _ALIKE_RAD))


@dataclass
class JumpWatch:
    """The steps of one transmitter's antennas from look to look. quiet_since_s: since when they are small."""

    transmitter: str
    stands_still: bool
    time_s: float
    quiet_since_s: float = field(init=False)
    _quiet: int = field(default=0, init=False)
    _sizes: deque[Real] = field(default_factory=lambda: deque(maxlen=_COMPARED), init=False)
    _before: list[Real] = field(default_factory=list, init=False)
    _pending: Jump | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.quiet_since_s = self.time_s

    def skip(self, time_s: float) -> None:
        """What came at time_s cannot be compared with what was before."""
        self.time_s = self.quiet_since_s = time_s
        self._quiet, self._pending = 0, None
        self._sizes.clear()

    def step(self, product: Complex, sizes: Real, both: Real, time_s: float) -> Jump | None:
        """What came of two looks [A] in a row, the later at time_s: their product and its size `both`; sizes: of the
        later. A jump is told once it is known for one, some looks later."""
        lag_s, self.time_s = time_s - self.time_s, time_s
        heard = sizes > _FAINT * sizes.max()
        if np.all((product.real >= _QUIET_COSINE * both) | ~heard):
            self._quiet += 1
            self._sizes.append(sizes)
            if self._pending is not None and self._quiet == _QUIET_AFTER:
                found, self._pending = self._pending, None
                return found if _is_steady([*self._before, *self._sizes], heard) else None
            return None
        before, quiet = list(self._sizes), self._quiet
        self.skip(time_s)
        steps = np.where(heard, np.angle(product), 0.0)
        if quiet >= _QUIET_BEFORE and np.abs(steps).max() > _JUMP_RAD and lag_s <= _LONGEST_LAG_S:
            self._pending = Jump(time_s, steps - steps[0], self.transmitter, self.stands_still)
            self._before = before
            self._sizes.append(sizes)
        return None

    def saw_none_at(self, time_s: float) -> bool:
        """Whether this one was quiet all around time_s."""
        return self.quiet_since_s < time_s - _TOGETHER_S and time_s + _TOGETHER_S / 4 < self.time_s


def _is_steady(sizes: list[Real], heard: npt.NDArray[np.bool_]) -> bool:
    """Whether looks are of one size on all antennas that are heard."""
    found = np.array(sizes)[:, heard]
    return bool(np.all(found.max(axis=0) < _ALIKE_SIZE * found.min(axis=0)))


@dataclass
class JumpCourt:
    """Weighs what transmitters claim. jumps: those that are the radio's."""

    jumps: list[Jump] = field(default_factory=list, init=False)
    _claims: list[Jump] = field(default_factory=list, init=False)

    def claim(self, claim: Jump, others: Iterable[JumpWatch]) -> bool:
        """Whether `claim` makes for a jump of the radio that was not known yet."""
        self._claims = [one for one in self._claims if claim.time_s - one.time_s <= 2 * _TOGETHER_S]
        backed = claim.stands_still or any(
            one.transmitter != claim.transmitter and one.is_like(claim) for one in self._claims
        )
        self._claims.append(claim)
        if not backed or any(one.saw_none_at(claim.time_s) for one in others if one.transmitter != claim.transmitter):
            return False
        if any(abs(known.time_s - claim.time_s) <= _TOGETHER_S for known in self.jumps[-1:]):
            return False
        self.jumps.append(claim)
        return True
