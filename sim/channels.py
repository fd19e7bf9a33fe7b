"""Paths to channels: direct and cascaded, at any position near the grid and on any tones.

Row channels throughout: h [N] is what the user receives from antenna n. Between grid points every path is carried
along from its virtual source, the mirror image that it seems to come from: its length changes exactly for line of
sight and specular reflection, and so does the phase, which is what matters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from sim.bundle import PathTable, SiteBundle
from sim.site import Panel, Ris

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_CARRIER = np.zeros(1)
"""Tone offsets of the carrier alone."""


@kernel
def carry_paths(
    gain: Complex,
    length_m: Real,
    departure: Real,
    arrival: Real,
    kind: npt.NDArray[np.uint8],
    step_m: Real,
    out_gain: Complex,
    out_length_m: Real,
    out_departure: Real,
) -> None:
    """Paths [L] of a receiver after it moved by `step_m` [3].

    The virtual source stays where it is, at arrival * length from the old position. Free-space gain goes with the
    inverse length. A line-of-sight path leaves towards the new position; others keep their departure.
    """
    for path in range(gain.shape[0]):
        x = arrival[path, 0] * length_m[path] - step_m[0]
        y = arrival[path, 1] * length_m[path] - step_m[1]
        z = arrival[path, 2] * length_m[path] - step_m[2]
        length = max(np.sqrt(x * x + y * y + z * z), 1e-3)
        out_length_m[path] = length
        out_gain[path] = gain[path] * (length_m[path] / length)
        if kind[path] == 0:
            out_departure[path, 0] = -x / length
            out_departure[path, 1] = -y / length
            out_departure[path, 2] = -z / length
        else:
            for axis in range(3):
                out_departure[path, axis] = departure[path, axis]


@kernel
def _panel_phases(
    direction: Real, up: Real, left: Real, rows: int, columns: int, step_rad: float
) -> tuple[complex, complex, complex]:
    """Phase of a panel's first element towards a unit vector, and the factors from row to row and column to column."""
    along_up, along_left = 0.0, 0.0
    for axis in range(3):
        along_up += direction[axis] * up[axis]
        along_left += direction[axis] * left[axis]
    first = np.exp(0.5j * step_rad * ((rows - 1) * along_up + (columns - 1) * along_left))
    return first, np.exp(-1j * step_rad * along_up), np.exp(-1j * step_rad * along_left)


@kernel
def steer_panel(directions: Real, up: Real, left: Real, rows: int, columns: int, step_rad: float, out: Complex) -> None:
    """out[l, e] = exp(j k r_e . u_l): response of a panel's elements r_e to unit vectors u [L, 3].

    Elements stand row by row from the top, left to right, `step_rad` = k times their spacing apart; so the response is
    a product of a row's and a column's phase, each a geometric series.
    """
    for path in range(directions.shape[0]):
        at_row, down, right = _panel_phases(directions[path], up, left, rows, columns, step_rad)
        element = 0
        for _ in range(rows):
            here = at_row
            for _ in range(columns):
                out[path, element] = here
                here *= right
                element += 1
            at_row *= down


@kernel
def tone_gains(gain: Complex, length_m: Real, carrier_hz: float, tones_hz: Real, out: Complex) -> None:
    """out[l, s] = gain_l exp(-j 2 pi (f_c + f_s) length_l / c)."""
    for path in range(gain.shape[0]):
        delay_s = length_m[path] / 299_792_458.0
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


@kernel
def sum_panel(
    coefficient: Complex,
    directions: Real,
    up: Real,
    left: Real,
    rows: int,
    columns: int,
    step_rad: float,
    out: Complex,
) -> None:
    """out[e] = sum_l coefficient_l exp(j k r_e . u_l): `steer_panel` summed over the paths, without its matrix."""
    out[:] = 0.0
    for path in range(directions.shape[0]):
        first, down, right = _panel_phases(directions[path], up, left, rows, columns, step_rad)
        at_row = coefficient[path] * first
        element = 0
        for _ in range(rows):
            here = at_row
            for _ in range(columns):
                out[element] += here
                here *= right
                element += 1
            at_row *= down


class _Elements:
    """The elements of a panel, ready to respond: its axes are worked out once."""

    def __init__(self, panel: Panel | None) -> None:
        self.panel = panel
        self.count = panel.elements if panel is not None else 0
        axes = panel.rotation().T.copy() if panel is not None else np.eye(3)
        self.boresight, self._left, self._up = axes
        self._step_rad = 2 * np.pi * panel.spacing_wavelengths if panel is not None else 0.0

    def response(self, directions: Real) -> Complex:
        """Phases of the elements towards unit vectors [L, 3]. Shape [L, count]."""
        out = np.empty((len(directions), self.count), np.complex128)
        if self.panel is not None:
            rows, columns = self.panel.rows, self.panel.columns
            steer_panel(directions, self._up, self._left, rows, columns, self._step_rad, out)
        return out

    def summed(self, coefficient: Complex, directions: Real) -> Complex:
        """sum_l coefficient_l response_l over paths [L]. Shape [count]."""
        out = np.empty(self.count, np.complex128)
        if self.panel is not None:
            rows, columns = self.panel.rows, self.panel.columns
            sum_panel(coefficient, directions, self._up, self._left, rows, columns, self._step_rad, out)
        return out

    def amplitude(self, directions: Real) -> Real:
        """Element pattern of a RIS towards unit vectors [L, 3]; 1 for other panels, whose pattern was traced."""
        if isinstance(self.panel, Ris):
            return self.panel.amplitude(directions @ self.boresight)
        return np.ones(len(directions))


class SiteChannels:
    """Channels of a bundle. `antennas` is N, `elements` M (0 without a RIS), `bs_ris` [M, N] the fixed first hop."""

    def __init__(self, bundle: SiteBundle) -> None:
        site, hop = bundle.site, bundle.bs_ris
        self.bundle = bundle
        self.carrier_hz = site.carrier_hz
        self._bs, self._ris = _Elements(site.bs), _Elements(site.ris)
        self.antennas, self.elements = self._bs.count, self._ris.count
        self._hop_gain = hop.gain * self._ris.amplitude(hop.arrival)
        self._hop_length_m = hop.length_m
        self._hop_bs = self._bs.response(hop.departure)
        self._hop_ris = self._ris.response(hop.arrival)
        at_carrier = self._tone_gains(self._hop_gain, hop.length_m, _CARRIER)[:, 0]
        self.bs_ris = (self._hop_ris.T * at_carrier) @ self._hop_bs

    def nearest(self, position_m: npt.ArrayLike) -> tuple[int, float]:
        """The grid point next to a position, and how far it is in metres."""
        position = np.asarray(position_m, np.float64)
        index = nearest_point(self.bundle.positions_m, position)
        return index, float(np.linalg.norm(self.bundle.positions_m[index] - position))

    def array_response(self, directions: Real) -> Complex:
        """Phases of the base station's antennas towards unit vectors [L, 3]. Shape [L, N]."""
        return self._bs.response(np.ascontiguousarray(directions, np.float64))

    def direct(self, position_m: npt.ArrayLike) -> Complex:
        """h [N] from the base station to a user at the carrier."""
        gain, length_m, departure = self._carried(self.bundle.bs_user, position_m)
        return self._bs.summed(self._tone_gains(gain, length_m, _CARRIER)[:, 0].copy(), departure)

    def direct_cfr(self, position_m: npt.ArrayLike, tones_hz: Real) -> Complex:
        """h [N, S] from the base station to a user; tones_hz [S] are offsets from the carrier."""
        gain, length_m, departure = self._carried(self.bundle.bs_user, position_m)
        return np.asarray(self._bs.response(departure).T @ self._tone_gains(gain, length_m, tones_hz))

    def ris(self, position_m: npt.ArrayLike) -> Complex:
        """g [M] from the RIS to a user at the carrier."""
        gain, length_m, departure = self._carried(self.bundle.ris_user, position_m)
        at_carrier = self._tone_gains(gain * self._ris.amplitude(departure), length_m, _CARRIER)[:, 0]
        return self._ris.summed(at_carrier.copy(), departure)

    def cascade(self, position_m: npt.ArrayLike) -> Complex:
        """[h ; diag(g) H_br] [M+1, N] at the carrier: paper P1's Upsilon (eq. 5)."""
        rows = np.empty((self.elements + 1, self.antennas), np.complex128)
        rows[0] = self.direct(position_m)
        if self.elements:
            np.multiply(self.ris(position_m)[:, None], self.bs_ris, out=rows[1:])
        return rows

    def effective_cfr(self, position_m: npt.ArrayLike, theta: Complex, tones_hz: Real) -> Complex:
        """h + g diag(theta) H_br on every tone. theta [M]; shape [N, S]."""
        out = self.direct_cfr(position_m, tones_hz)
        if self.elements:
            gain, length_m, leaving = self._ris_paths(position_m)
            # What the RIS passes from first-hop path q to second-hop path p; delays of the two hops add up.
            coupling = (leaving * np.asarray(theta)) @ self._hop_ris.T
            second = self._tone_gains(gain, length_m, tones_hz)
            first = self._tone_gains(self._hop_gain, self._hop_length_m, tones_hz)
            out += self._hop_bs.T @ ((coupling.T @ second) * first)
        return out

    def _ris_paths(self, position_m: npt.ArrayLike) -> tuple[Complex, Real, Complex]:
        """Gain with the element pattern, length, and element response [L, M] of the paths from the RIS to a user."""
        gain, length_m, departure = self._carried(self.bundle.ris_user, position_m)
        return gain * self._ris.amplitude(departure), length_m, self._ris.response(departure)

    def _carried(self, table: PathTable, position_m: npt.ArrayLike) -> tuple[Complex, Real, Real]:
        """Gain, length and departure of the nearest grid point's paths, carried to the position."""
        position = np.asarray(position_m, np.float64)
        index = nearest_point(self.bundle.positions_m, position)
        rows = table.rows(index)
        count = rows.stop - rows.start
        gain, length_m, departure = np.empty(count, np.complex128), np.empty(count), np.empty((count, 3))
        carry_paths(
            table.gain[rows],
            table.length_m[rows],
            table.departure[rows],
            table.arrival[rows],
            table.kind[rows],
            position - self.bundle.positions_m[index],
            gain,
            length_m,
            departure,
        )
        return gain, length_m, departure

    def _tone_gains(self, gain: Complex, length_m: Real, tones_hz: npt.ArrayLike) -> Complex:
        """Baseband coefficient [L, S] of paths on every tone."""
        tones = np.asarray(tones_hz, np.float64)
        out = np.empty((len(gain), len(tones)), np.complex128)
        tone_gains(gain, length_m, self.carrier_hz, tones, out)
        return out
