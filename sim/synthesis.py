"""Kernels from paths to channels: paths are carried along with their receivers, panels steered, tones summed.

Between traces every path keeps its virtual source, the mirror image that it seems to come from. For a line of sight
and for reflections that is exact: length, phase, and where it leaves the transmitter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from sim.paths import DIFFRACTION, DIFFUSE, Columns
from sim.site import SPEED_OF_LIGHT_M_S

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_NEAREST_M = 1e-3
_NO_DIRECTION = 1e-12
"""No receiver comes nearer to a source; who stands on it leaves the departure as it was."""


class Elements(NamedTuple):
    """A panel of elements, row by row from the top, left to right: its axes, and `step_rad` = k times their spacing.

    Each has the amplitude pattern peak * cos^half_exponent of the angle from boresight, in front only; or peak
    everywhere.
    """

    up: Real
    left: Real
    boresight: Real
    rows: int
    columns: int
    step_rad: float
    peak: float
    half_exponent: float
    front_only: bool


@kernel
def carry_path(columns: Columns, path: int, step_m: Real, departure: Real) -> tuple[complex, float, float]:
    """Gain, length and transmitter's reach of one path after its receiver moved by `step_m` [3]; fills `departure` [3].

    The virtual source stays at arrival * reach from the old position. Gain goes with the inverse reach; behind an edge
    with 1 / sqrt(s (s + s')) for the ways s from and s' to it (geometrical theory of diffraction, Keller 1962). The
    transmitter's reach is how far from it the path seems to end: what `reach_m` is to the receiver.
    """
    reach, before = columns.reach_m[path], columns.length_m[path]
    arrival, mirror = columns.arrival[path], columns.mirror[path]
    x = arrival[0] * reach - step_m[0]
    y = arrival[1] * reach - step_m[1]
    z = arrival[2] * reach - step_m[2]
    new = max(np.sqrt(x * x + y * y + z * z), _NEAREST_M)
    length = before - reach + new
    spread = reach / new
    far = length
    if columns.kind[path] & (DIFFUSE | DIFFRACTION):
        far = max(before - reach, _NEAREST_M)
        if not columns.kind[path] & DIFFUSE:
            spread = np.sqrt(spread * before / length)
    dx, dy, dz = arrival[0] - x / new, arrival[1] - y / new, arrival[2] - z / new
    square = 0.0
    for axis in range(3):
        departure[axis] = columns.departure[path, axis] + mirror[axis, 0] * dx + mirror[axis, 1] * dy
        departure[axis] += mirror[axis, 2] * dz
        square += departure[axis] ** 2
    for axis in range(3):
        if square > _NO_DIRECTION:
            departure[axis] /= np.sqrt(square)
        else:
            departure[axis] = columns.departure[path, axis]
    return columns.gain[path] * spread, length, far


@kernel
def carry_paths(
    columns: Columns,
    first: int,
    step_m: Real,
    out_gain: Complex,
    out_length_m: Real,
    out_departure: Real,
    out_far_m: Real,
) -> None:
    """`carry_path` of the paths from `first` on, as many as the outputs [L], [L], [L, 3], [L] hold."""
    for path in range(out_gain.shape[0]):
        out_gain[path], out_length_m[path], out_far_m[path] = carry_path(
            columns, first + path, step_m, out_departure[path]
        )


@kernel
def pattern(elements: Elements, direction: Real) -> float:
    """Amplitude of an element towards a unit vector."""
    if not elements.front_only:
        return elements.peak
    boresight = elements.boresight
    cosine = direction[0] * boresight[0] + direction[1] * boresight[1] + direction[2] * boresight[2]
    if cosine <= 0.0:
        return 0.0
    return float(elements.peak * cosine**elements.half_exponent)


@kernel
def add_steered(coefficient: complex, direction: Real, bend: float, elements: Elements, work: Real, sums: Real) -> None:
    """Add to sums [2, E], real and imaginary, what elements at r_e see of a wave from or to the direction u [3].

    bend = 1 / (2 k L) for a wave that is bent by its way L, 0 for a plane wave, which is exp(j k r_e . u). Of the way
    |L u - r_e| this takes phases to second order and amplitudes, those of the elements' pattern too, to first order of
    r / L: a row's, a column's, and for the phase of their product a factor per column from each row to the next.
    work [4, columns].
    """
    up, left = 0.0, 0.0
    for axis in range(3):
        up += direction[axis] * elements.up[axis]
        left += direction[axis] * elements.left[axis]
    step, rows, columns = elements.step_rad, elements.rows, elements.columns
    # Seen from an element, u . boresight grows by the share u . r / L too, as r lies in the panel.
    curl, fall = bend * step * step, 2.0 * bend * step * (1.0 + elements.half_exponent)
    a, b = (columns - 1) / 2, (rows - 1) / 2
    across, along = curl * (1.0 - left * left), curl * (1.0 - up * up)
    cross = 2.0 * curl * up * left
    here = np.exp(1j * (step * a * left - across * a * a + cross * a * b))
    right = np.exp(1j * (across * (2.0 * a - 1.0) - step * left - cross * b))
    bent = np.exp(-2j * across)
    turn, less = np.exp(-1j * cross * a), np.exp(1j * cross)
    for column in range(columns):
        amplitude = 1.0 + fall * (a - column) * left
        work[0, column], work[1, column] = amplitude * here.real, amplitude * here.imag
        work[2, column], work[3, column] = turn.real, turn.imag
        here *= right
        right *= bent
        turn *= less
    here = coefficient * np.exp(1j * (step * b * up - along * b * b))
    right = np.exp(1j * (along * (2.0 * b - 1.0) - step * up))
    bent = np.exp(-2j * along)
    for row in range(rows):
        amplitude = 1.0 + fall * (b - row) * up
        x, y = amplitude * here.real, amplitude * here.imag
        first = row * columns
        for column in range(columns):
            u, v = work[0, column], work[1, column]
            sums[0, first + column] += x * u - y * v
            sums[1, first + column] += x * v + y * u
        if cross != 0.0:
            for column in range(columns):
                u, v, c, s = work[0, column], work[1, column], work[2, column], work[3, column]
                work[0, column] = u * c - v * s
                work[1, column] = u * s + v * c
        here *= right
        right *= bent


@kernel
def steer(directions: Real, bends: Real, elements: Elements, out: Complex) -> None:
    """out[l, e]: what a panel's elements see of waves of unit amplitude from unit vectors [L, 3]; bends [L]."""
    work, sums = np.empty((4, elements.columns)), np.empty((2, out.shape[1]))
    for path in range(directions.shape[0]):
        sums[:] = 0.0
        amplitude = complex(pattern(elements, directions[path]))
        add_steered(amplitude, directions[path], bends[path], elements, work, sums)
        for element in range(out.shape[1]):
            out[path, element] = complex(sums[0, element], sums[1, element])


@kernel
def sum_links(
    columns: Columns,
    offsets: Index,
    links: Index,
    steps_m: Real,
    weights: Real,
    carrier_hz: float,
    is_plane: bool,
    elements: Elements,
    out: Complex,
) -> None:
    """Add to out [K, E] weights[k] times the channel at the carrier from a panel to receiver k.

    Receiver k stands steps_m[k] from where links[k] ends.
    """
    departure, work, sums = np.empty(3), np.empty((4, elements.columns)), np.empty((2, out.shape[1]))
    wave = 2.0 * np.pi * carrier_hz / SPEED_OF_LIGHT_M_S
    for user in range(links.shape[0]):
        sums[:] = 0.0
        for path in range(offsets[links[user]], offsets[links[user] + 1]):
            gain, length, far = carry_path(columns, path, steps_m[user], departure)
            turns = carrier_hz * (length / SPEED_OF_LIGHT_M_S)
            coefficient = gain * pattern(elements, departure) * np.exp(-2j * np.pi * (turns - np.floor(turns)))
            bend = 0.0 if is_plane else 0.5 / (wave * far)
            add_steered(coefficient, departure, bend, elements, work, sums)
        for element in range(out.shape[1]):
            out[user, element] += weights[user] * complex(sums[0, element], sums[1, element])


@kernel
def stack_cascades(direct: Complex, over_ris: Complex, hop: Complex, out: Complex) -> None:
    """out [K, M+1, N] = [h ; diag(g) H_br] of every user: direct h [K, N], over_ris g [K, M], hop H_br [M, N]."""
    for user in range(out.shape[0]):
        out[user, 0] = direct[user]
        for element in range(hop.shape[0]):
            factor = over_ris[user, element]
            for antenna in range(hop.shape[1]):
                out[user, element + 1, antenna] = factor * hop[element, antenna]


@kernel
def tone_gains(gain: Complex, length_m: Real, carrier_hz: float, tones_hz: Real, out: Complex) -> None:
    """out[l, s] = gain_l exp(-j 2 pi (f_c + f_s) length_l / c)."""
    for path in range(gain.shape[0]):
        delay_s = length_m[path] / SPEED_OF_LIGHT_M_S
        for tone in range(tones_hz.shape[0]):
            turns = (carrier_hz + tones_hz[tone]) * delay_s
            out[path, tone] = gain[path] * np.exp(-2j * np.pi * (turns - np.floor(turns)))


@kernel
def nearest_point(points_m: Real, position_m: Real) -> int:
    """Index of the row of points_m [P, 3] nearest to position_m [3]; of equally near ones the first."""
    best, best_distance = 0, np.inf
    for index in range(points_m.shape[0]):
        distance = 0.0
        for axis in range(3):
            step = points_m[index, axis] - position_m[axis]
            distance += step * step
        if distance < best_distance:
            best, best_distance = index, distance
    return best
