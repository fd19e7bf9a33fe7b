"""What was measured: channels from the base station's antennas to users at known places, and how they are divided.

Links are divided by place, squares of ground at a time, so that what is held out is a place where nothing was measured
that the fit has seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Mask = npt.NDArray[np.bool_]

Phase = Literal["free", "told"]

_FEWEST = 20
"""Links without which nothing is fitted."""

_TONE_TOLERANCE_HZ = 1.0


@dataclass(frozen=True)
class MeasuredLinks:
    """K links. positions_m [K, 3], cfr [K, N, S] from N antennas on tones_hz [S], noise_power [K] per entry.

    names [K]: user and block of each, where it has them.
    """

    positions_m: Real
    cfr: Complex
    tones_hz: Real
    noise_power: Real
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.positions_m)

    @property
    def power(self) -> Real:
        """Energy of every link's channel [K]."""
        return np.asarray(np.sum(np.abs(self.cfr) ** 2, axis=(1, 2)))

    def chosen(self, kept: Mask | npt.NDArray[np.int64]) -> MeasuredLinks:
        """Some of the links."""
        names = tuple(np.array(self.names)[kept]) if self.names else ()
        return MeasuredLinks(self.positions_m[kept], self.cfr[kept], self.tones_hz, self.noise_power[kept], names)


def links_of(frames: Iterable[ChannelFrame], antennas: int, carrier_hz: float, where: str) -> MeasuredLinks:
    """The direct links that channel frames hold; raises `InputRefused` where they do not suit the site.

    Taken are frames with a position, of the antennas themselves, without a RIS in them: cascades' direct row, or
    effective channels that were seen without a RIS. Others are passed over; when too few are left it is told why.
    """
    places, channels, noise, names, tones = [], [], [], [], None
    passed_over = {"without a position": 0, "seen over a RIS": 0, "of beams": 0, "on other tones": 0}
    for frame in frames:
        if frame.position_m is None:
            passed_over["without a position"] += 1
        elif frame.domain == "effective" and frame.ris_patterns.shape[1]:
            passed_over["seen over a RIS"] += 1
        elif frame.beams.size:
            passed_over["of beams"] += 1
        else:
            _check(frame, antennas, carrier_hz, where)
            tones = frame.tones_hz if tones is None else tones
            if len(tones) != len(frame.tones_hz) or np.abs(tones - frame.tones_hz).max() > _TONE_TOLERANCE_HZ:
                passed_over["on other tones"] += 1
                continue
            places.append(frame.position_m)
            channels.append(np.asarray(frame.cfr[0], np.complex128))
            noise.append(frame.noise_power)
            names.append(f"{frame.user}:{frame.block}")
    if len(places) < _FEWEST:
        why = ", ".join(f"{count} {what}" for what, count in passed_over.items() if count) or "nothing else"
        raise InputRefused(f"{len(places)} links to calibrate by, and {why}", where=where, mend=f"at least {_FEWEST}")
    cfr = np.array(channels)
    if not np.isfinite(cfr).all() or not cfr.any(axis=(1, 2)).all():
        raise InputRefused("a channel that is zero or not finite", where=where, mend="leave it out")
    return MeasuredLinks(np.array(places), cfr, np.array(tones, np.float64), np.array(noise), tuple(names))


def _check(frame: ChannelFrame, antennas: int, carrier_hz: float, where: str) -> None:
    if frame.cfr.shape[1] != antennas:
        what = f"channels of {frame.cfr.shape[1]} antennas, the site's array has {antennas}"
        raise InputRefused(what, where=where, mend="rows and columns of [bs]")
    if frame.carrier_hz is not None and abs(frame.carrier_hz - carrier_hz) > 1e-3 * carrier_hz:
        what = f"carrier {frame.carrier_hz:g} Hz, the site's is {carrier_hz:g} Hz"
        raise InputRefused(what, where=where, mend="carrier_hz of the site file")


@dataclass(frozen=True)
class Division:
    """Masks [K]: links that are fitted, that choose among fits, and that nothing but the verdict sees."""

    fitted: Mask
    validating: Mask
    held_out: Mask


def divided_by_place(positions_m: Real, *, square_m: float, seed: int) -> Division:
    """Half the squares of ground are fitted, a quarter validate and a quarter are held out.

    Raises `InputRefused` where all places lie in fewer than four squares.
    """
    squares = np.floor(positions_m[:, :2] / square_m).astype(np.int64)
    known, owner = np.unique(squares, axis=0, return_inverse=True)
    if len(known) < 4:
        mend = "links from more places, or smaller squares (--square-m)"
        raise InputRefused(f"all links lie in {len(known)} squares of {square_m:g} m", mend=mend)
    order = np.random.default_rng(seed).permutation(len(known))
    part = np.empty(len(known), np.int64)
    part[order] = np.arange(len(known)) % 4
    of_link = part[owner.reshape(-1)]
    return Division(of_link < 2, of_link == 2, of_link == 3)


def turned(measured: Complex, predicted: Complex, phase: Phase) -> Complex:
    """measured [K, N, S], each link turned to the phase of what is predicted for it where its own is not `told`.

    A radio's oscillators leave the phase of every link open.
    """
    if phase == "told":
        return measured
    inner = np.sum(np.conj(measured) * predicted, axis=(1, 2))
    turn = np.where(np.abs(inner) > 0, inner, 1.0)
    return np.asarray(measured * (turn / np.abs(turn))[:, None, None])


def relative_residuals(links: MeasuredLinks, predicted: Complex, phase: Phase) -> Real:
    """Energy of measured minus predicted over that of measured, of every link [K]."""
    difference = turned(links.cfr, predicted, phase) - predicted
    return np.asarray(np.sum(np.abs(difference) ** 2, axis=(1, 2)) / links.power)


def aligned_residuals(links: MeasuredLinks, predicted: Complex) -> Real:
    """As `relative_residuals` where each prediction is first turned and scaled to what was measured [K]: its shape."""
    inner = np.abs(np.sum(np.conj(links.cfr) * predicted, axis=(1, 2))) ** 2
    energy = np.sum(np.abs(predicted) ** 2, axis=(1, 2)) * links.power
    return np.asarray(1.0 - inner / np.where(energy > 0, energy, 1.0))
