"""Screens that shade paths: the geometric blockage model (B) of 3GPP TR 38.901, clause 7.6.4.2, for traced paths.

A blocker is a rectangle that always turns to face the path. Each of its four edges adds a knife-edge term,
F = atan(+-pi/2 sqrt(pi/lambda (D1 + D2 - r))) / pi (eq. 7.6-30), with the ways D1, D2 from the path's two ends to the
edge, and its length r, all seen from above for the sides and from the side for top and bottom. The amplitude behind
it is 1 - (F_top + F_bottom) (F_left + F_right); the sign is + where the edge shades the path, and - for the nearer
edge of a screen that the path passes by. Of several screens the losses add up in dB.

The clause puts NLOS paths' sources infinitely far away. Here they are where the path's last mirror image stands, so
that a line of sight is only the simplest case. What is left out is, as there, the phase, and what screens reflect.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from sim.paths import REFRACTION, Columns
from sim.synthesis import carry_path

Real = npt.NDArray[np.float64]

_LEAST_M = 1e-9


@kernel
def edge_term(excess_m: float, is_near: bool, wavelength_m: float) -> float:
    """F of an edge over which a path is excess_m longer; is_near: of a screen beside the path, the nearer edge."""
    term = np.arctan(np.pi / 2 * np.sqrt(np.pi / wavelength_m * max(excess_m, 0.0))) / np.pi
    return float(-term if is_near else term)


@kernel
def edges(along_m: float, aside_m: float, size_m: float, way_m: float, wavelength_m: float) -> float:
    """F of both edges of a screen of size_m, in one view: its middle along_m on the way of way_m, and aside_m off it.

    0 where the screen does not stand between the ends.
    """
    if not 0.0 < along_m < way_m:
        return 0.0
    low, high = aside_m - size_m / 2, aside_m + size_m / 2
    rest_m = way_m - along_m
    low_m = np.sqrt(along_m * along_m + low * low) + np.sqrt(rest_m * rest_m + low * low) - way_m
    high_m = np.sqrt(along_m * along_m + high * high) + np.sqrt(rest_m * rest_m + high * high) - way_m
    return edge_term(low_m, low > 0.0, wavelength_m) + edge_term(high_m, high < 0.0, wavelength_m)


@kernel
def passed(end_m: Real, direction: Real, source_m: float, leg_m: float, screen: Real, wavelength_m: float) -> float:
    """Amplitude that a screen leaves of a path, next to one of its ends.

    end_m [3]: that end. direction [3]: unit vector along the path. source_m: where the path's other end seems to be.
    leg_m: how far it is straight; screens behind that do not count. screen [5]: middle x, y, z, width, height.
    """
    x, y, z = screen[0] - end_m[0], screen[1] - end_m[1], screen[2] - end_m[2]
    level = np.sqrt(direction[0] ** 2 + direction[1] ** 2)
    ahead_x, ahead_y = 1.0, 0.0
    if level > _LEAST_M:
        ahead_x, ahead_y = direction[0] / level, direction[1] / level
    ahead_m, aside_m = x * ahead_x + y * ahead_y, y * ahead_x - x * ahead_y
    along_m, above_m = ahead_m * level + z * direction[2], z * level - ahead_m * direction[2]
    if not along_m < leg_m:
        return 1.0
    sides = edges(ahead_m, aside_m, screen[3], source_m * level, wavelength_m)
    return 1.0 - sides * edges(along_m, above_m, screen[4], source_m, wavelength_m)


@kernel
def longest_leg(length_m: float, between_m: Real, direction: Real) -> float:
    """How far a path of length_m can be straight from one end on.

    between_m [3]: from that end to the other. direction [3]: unit vector along the path. From where it turns first the
    rest is no shorter than the straight way to the other end: it turns inside of an ellipsoid about both, and of one
    reflection on it.
    """
    square, ahead = 0.0, 0.0
    for axis in range(3):
        square += between_m[axis] ** 2
        ahead += between_m[axis] * direction[axis]
    return max(length_m * length_m - square, 0.0) / max(2.0 * (length_m - ahead), _LEAST_M)


@kernel
def shade(
    columns: Columns,
    first: int,
    step_m: Real,
    transmitter_m: Real,
    receiver_m: Real,
    screens: Real,
    wavelength_m: float,
    out: Real,
) -> None:
    """out [L]: amplitudes that screens [S, 5] leave of the paths from `first` on, of a receiver that moved by step_m.

    receiver_m [3]: where it is now. A path is shaded on the straight parts at its two ends.
    """
    departure, arrival, between_m = np.empty(3), np.empty(3), np.empty(3)
    for axis in range(3):
        between_m[axis] = transmitter_m[axis] - receiver_m[axis]
    for row in range(out.shape[0]):
        path = first + row
        _, length_m, far_m = carry_path(columns, path, step_m, departure)
        reach_m = 0.0
        for axis in range(3):
            arrival[axis] = columns.arrival[path, axis] * columns.reach_m[path] - step_m[axis]
            reach_m += arrival[axis] ** 2
        reach_m = max(np.sqrt(reach_m), _LEAST_M)
        for axis in range(3):
            arrival[axis] /= reach_m
        is_straight = columns.kind[path] & ~np.uint8(REFRACTION) == 0
        leg_m = length_m if is_straight else min(longest_leg(length_m, between_m, arrival), reach_m)
        amplitude = 1.0
        for screen in range(screens.shape[0]):
            amplitude *= passed(receiver_m, arrival, reach_m, leg_m, screens[screen], wavelength_m)
            if not is_straight:
                away_m = min(longest_leg(length_m, -between_m, departure), far_m)
                amplitude *= passed(transmitter_m, departure, far_m, away_m, screens[screen], wavelength_m)
        out[row] = amplitude
