"""Paths to channels: direct and cascaded, at any position near the grid and on any tones.

Row channels throughout: h [N] is what the user receives from antenna n. Between grid points every path is carried
along from its virtual source, the mirror image that it seems to come from: its length changes exactly for line of
sight and specular reflection, and so does the phase, which is what matters.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from sim.bundle import SiteBundle
from sim.fidelity.array_errors import element_errors
from sim.fidelity.knobs import HardwareSettings
from sim.paths import PathTable
from sim.site import Panel, Ris, Site
from sim.synthesis import (
    Elements,
    carry_paths,
    nearest_point,
    pattern,
    stack_cascades,
    steer,
    sum_links,
    tone_gains,
)

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_CARRIER = np.zeros(1)
"""Tone offsets of the carrier alone."""


def panel_elements(panel: Panel | None) -> Elements:
    """A panel as kernels take it; none has no elements. The pattern of antennas was traced, that of a RIS was not."""
    if panel is None:
        return Elements(np.zeros(3), np.zeros(3), np.zeros(3), 0, 0, 0.0, 0.0, 0.0, False)
    boresight, left, up = panel.rotation().T.copy()
    peak, half_exponent = (panel.peak, panel.half_exponent) if isinstance(panel, Ris) else (1.0, 0.0)
    step_rad = 2 * np.pi * panel.spacing_wavelengths
    return Elements(
        up, left, boresight, panel.rows, panel.columns, step_rad, peak, half_exponent, isinstance(panel, Ris)
    )


class SiteArrays:
    """The arrays of a site, and channels from them along given paths.

    bs_ris_paths: the one link of the first hop. `antennas` is N, `elements` M (0 without a RIS), `bs_ris` [M, N] the
    first hop at the carrier. plane_waves: leave the bend of the waves over an array out, as Sionna RT's synthetic
    arrays do. hardware: of which the mismatch of the base station's elements counts here. In all methods user k stands
    steps_m[k] [3] from where link links[k] of its table ends.
    """

    def __init__(
        self,
        site: Site,
        bs_ris_paths: PathTable,
        *,
        plane_waves: bool = False,
        hardware: HardwareSettings | None = None,
    ) -> None:
        self.carrier_hz = site.carrier_hz
        self._wave = 2 * np.pi / site.wavelength_m
        self._plane_waves = plane_waves
        self._bs, self._ris = panel_elements(site.bs), panel_elements(site.ris)
        self.antennas = site.bs.elements
        self.elements = site.ris.elements if site.ris else 0
        self._errors = None if hardware is None or not hardware.mismatch else element_errors(hardware, self.antennas)
        hop = bs_ris_paths
        self._hop_gain, self._hop_length_m = hop.gain, hop.length_m
        over_hop = np.zeros((hop.paths, self.elements, self.antennas), np.complex128)
        if site.ris is not None:
            offsets_m = [panel.element_positions_m(site.wavelength_m) for panel in (site.bs, site.ris)]
            for path in range(hop.paths):
                over_hop[path] = self._over_hop(hop, path, *offsets_m)
        if self._errors is not None:
            over_hop *= self._errors
        at_carrier = self._tone_gains(hop.gain, hop.length_m, _CARRIER)[:, 0]
        self.bs_ris: Complex = np.ascontiguousarray(np.tensordot(at_carrier, over_hop, 1))
        # [M, Q N], so that one product takes all paths of the first hop
        self._hop: Complex = over_hop.swapaxes(0, 1).reshape(self.elements, hop.paths * self.antennas)

    def with_hop(self, gain: Complex) -> SiteArrays:
        """The same arrays where the paths of the first hop have other gains [Q]."""
        other = copy.copy(self)
        over_hop = self._hop.reshape(self.elements, len(gain), self.antennas)
        other._hop_gain = gain
        at_carrier = self._tone_gains(gain, self._hop_length_m, _CARRIER)[:, 0]
        other.bs_ris = np.ascontiguousarray(np.tensordot(over_hop, at_carrier, (1, 0)))
        return other

    def response(self, directions: Real, far_m: Real | None = None) -> Complex:
        """Phases of the base station's antennas towards unit vectors [L, 3]. Shape [L, N].

        far_m [L]: how far off the waves end; None for plane waves.
        """
        bends = np.zeros(len(directions)) if far_m is None else 0.5 / (self._wave * far_m)
        found = self._steered(directions, bends, self._bs, self.antennas)
        return found if self._errors is None else found * self._errors

    def per_path(self, bs_user: PathTable, tones_hz: Real) -> tuple[Complex, Complex]:
        """Every path of a table on its own: phases [L, N] of the base station's antennas, coefficients [L, S] on tones.

        h of a link on tone s is the sum of their products over its paths.
        """
        at_rest, paths = np.zeros(3), slice(0, bs_user.paths)
        return self._carried(bs_user, paths, at_rest, self._bs, self.antennas, tones_hz)

    def direct(self, bs_user: PathTable, links: Index, steps_m: Real) -> Complex:
        """h [K, N] from the base station at the carrier."""
        out = np.zeros((len(links), self.antennas), np.complex128)
        self.add_direct(bs_user, links, steps_m, np.ones(len(links)), out)
        return out

    def over_ris(self, ris_user: PathTable, links: Index, steps_m: Real) -> Complex:
        """g [K, M] from the RIS at the carrier."""
        out = np.zeros((len(links), self.elements), np.complex128)
        self.add_over_ris(ris_user, links, steps_m, np.ones(len(links)), out)
        return out

    def add_direct(self, bs_user: PathTable, links: Index, steps_m: Real, weights: Real, out: Complex) -> None:
        """Add weights [K] times h to out [K, N]."""
        table, plane = bs_user, self._plane_waves
        into = out if self._errors is None else np.zeros_like(out)
        sum_links(table.columns, table.offsets, links, steps_m, weights, self.carrier_hz, plane, self._bs, into)
        if self._errors is not None:
            out += into * self._errors

    def add_over_ris(self, ris_user: PathTable, links: Index, steps_m: Real, weights: Real, out: Complex) -> None:
        """Add weights [K] times g to out [K, M]."""
        table, plane = ris_user, self._plane_waves
        sum_links(table.columns, table.offsets, links, steps_m, weights, self.carrier_hz, plane, self._ris, out)

    def cascades(self, bs_user: PathTable, ris_user: PathTable, links: Index, steps_m: Real) -> Complex:
        """[h ; diag(g) H_br] [K, M+1, N] at the carrier: paper P1's Upsilon (eq. 5)."""
        out = np.empty((len(links), self.elements + 1, self.antennas), np.complex128)
        direct = self.direct(bs_user, links, steps_m)
        stack_cascades(direct, self.over_ris(ris_user, links, steps_m), self.bs_ris, out)
        return out

    def direct_cfr(self, bs_user: PathTable, links: Index, steps_m: Real, tones_hz: Real) -> Complex:
        """h [K, N, S] from the base station; tones_hz [S] are offsets from the carrier."""
        out = np.empty((len(links), self.antennas, len(tones_hz)), np.complex128)
        for user, (link, step_m) in enumerate(zip(links, steps_m, strict=True)):
            rows = bs_user.rows(int(link))
            leaving, on_tones = self._carried(bs_user, rows, step_m, self._bs, self.antennas, tones_hz)
            out[user] = leaving.T @ on_tones
        return out if self._errors is None else out * self._errors[:, None]

    def effective_cfr(
        self, bs_user: PathTable, ris_user: PathTable, links: Index, steps_m: Real, theta: Complex, tones_hz: Real
    ) -> Complex:
        """h + g diag(theta) H_br [K, N, S] on every tone. theta [M]."""
        out = self.direct_cfr(bs_user, links, steps_m, tones_hz)
        if self.elements:
            first = self._tone_gains(self._hop_gain, self._hop_length_m, tones_hz)
            for user, (link, step_m) in enumerate(zip(links, steps_m, strict=True)):
                rows = ris_user.rows(int(link))
                leaving, second = self._carried(ris_user, rows, step_m, self._ris, self.elements, tones_hz)
                # Delays of the two hops add up, so each path of the first hop goes with each of the second.
                coupling = ((leaving * np.asarray(theta)) @ self._hop).reshape(len(leaving), len(first), self.antennas)
                per_hop = coupling.transpose(1, 2, 0) @ second
                out[user] += np.einsum("qns,qs->ns", per_hop, first)
        return out

    def _over_hop(self, hop: PathTable, path: int, bs_m: Real, ris_m: Real) -> Complex:
        """What a path of the first hop is from each antenna to each element, to the one between the middles. [M, N].

        bs_m [N, 3], ris_m [M, 3]: the elements about their middles. A reflection shows the array mirrored.
        """
        departure, arrival, reach_m = hop.departure[path], hop.arrival[path], hop.reach_m[path]
        if self._plane_waves:
            phases = self._wave * np.add.outer(ris_m @ arrival, bs_m @ departure)
            return np.asarray(pattern(self._ris, arrival) * np.exp(1j * phases))
        if hop.mirror[path].any():
            ways_m = reach_m * arrival + bs_m @ hop.mirror[path] - ris_m[:, None]
            lengths_m = np.linalg.norm(ways_m, axis=2)
            amplitudes = reach_m / lengths_m * self._patterns(ways_m / lengths_m[:, :, None])
            return np.asarray(amplitudes * np.exp(-1j * self._wave * (lengths_m - reach_m)))
        # As far as the wall or edge that scattered it ways depend on the antenna, from there on the element.
        far_m = hop.length_m[path] - reach_m
        before_m, ways_m = np.linalg.norm(far_m * departure - bs_m, axis=1), reach_m * arrival - ris_m
        after_m = np.linalg.norm(ways_m, axis=1)
        amplitudes = self._patterns(ways_m / after_m[:, None]) * reach_m / after_m
        phases = self._wave * (np.add.outer(after_m, before_m) - reach_m - far_m)
        return np.asarray(np.outer(amplitudes, far_m / before_m) * np.exp(-1j * phases))

    def _patterns(self, directions: Real) -> Real:
        """Amplitude pattern of RIS elements towards unit vectors [..., 3]. Shape [...]."""
        flat = [pattern(self._ris, direction) for direction in directions.reshape(-1, 3)]
        return np.array(flat).reshape(directions.shape[:-1])

    def _carried(
        self, table: PathTable, rows: slice, step_m: Real, elements: Elements, count: int, tones_hz: Real
    ) -> tuple[Complex, Complex]:
        """A panel's responses [L, count] to some paths, carried `step_m` on, and their gains on tones [L, S]."""
        paths = rows.stop - rows.start
        gain, length_m, far_m = np.empty(paths, np.complex128), np.empty(paths), np.empty(paths)
        departure = np.empty((paths, 3))
        carry_paths(table.columns, rows.start, step_m, gain, length_m, departure, far_m)
        bends = np.zeros(paths) if self._plane_waves else 0.5 / (self._wave * far_m)
        return self._steered(departure, bends, elements, count), self._tone_gains(gain, length_m, tones_hz)

    def _steered(self, directions: Real, bends: Real, elements: Elements, count: int) -> Complex:
        out = np.empty((len(directions), count), np.complex128)
        steer(np.ascontiguousarray(directions, np.float64), bends, elements, out)
        return out

    def _tone_gains(self, gain: Complex, length_m: Real, tones_hz: npt.ArrayLike) -> Complex:
        """Baseband coefficient [L, S] of paths on every tone."""
        tones = np.asarray(tones_hz, np.float64)
        out = np.empty((len(gain), len(tones)), np.complex128)
        tone_gains(gain, length_m, self.carrier_hz, tones, out)
        return out


class SiteChannels:
    """Channels of a bundle, at any position by way of the nearest grid point.

    `antennas` is N, `elements` M (0 without a RIS), `bs_ris` [M, N] the fixed first hop at the carrier.
    """

    def __init__(self, bundle: SiteBundle, *, plane_waves: bool = False) -> None:
        self.bundle = bundle
        hardware = bundle.settings.hardware
        self.arrays = SiteArrays(bundle.site, bundle.bs_ris, plane_waves=plane_waves, hardware=hardware)
        self.carrier_hz = self.arrays.carrier_hz
        self.antennas, self.elements, self.bs_ris = self.arrays.antennas, self.arrays.elements, self.arrays.bs_ris

    def nearest(self, position_m: npt.ArrayLike) -> tuple[int, float]:
        """The grid point next to a position, and how far it is in metres."""
        links, steps_m = self._near(position_m)
        return int(links[0]), float(np.linalg.norm(steps_m[0]))

    def array_response(self, directions: Real) -> Complex:
        """Phases of the base station's antennas towards unit vectors [L, 3]. Shape [L, N]."""
        return self.arrays.response(directions)

    def direct(self, position_m: npt.ArrayLike) -> Complex:
        """h [N] from the base station to a user at the carrier."""
        return np.asarray(self.arrays.direct(self.bundle.bs_user, *self._near(position_m))[0])

    def direct_cfr(self, position_m: npt.ArrayLike, tones_hz: Real) -> Complex:
        """h [N, S] from the base station to a user; tones_hz [S] are offsets from the carrier."""
        return np.asarray(self.arrays.direct_cfr(self.bundle.bs_user, *self._near(position_m), tones_hz)[0])

    def ris(self, position_m: npt.ArrayLike) -> Complex:
        """g [M] from the RIS to a user at the carrier."""
        return np.asarray(self.arrays.over_ris(self.bundle.ris_user, *self._near(position_m))[0])

    def cascade(self, position_m: npt.ArrayLike) -> Complex:
        """[h ; diag(g) H_br] [M+1, N] at the carrier: paper P1's Upsilon (eq. 5)."""
        bundle = self.bundle
        return np.asarray(self.arrays.cascades(bundle.bs_user, bundle.ris_user, *self._near(position_m))[0])

    def effective_cfr(self, position_m: npt.ArrayLike, theta: Complex, tones_hz: Real) -> Complex:
        """h + g diag(theta) H_br on every tone. theta [M]; shape [N, S]."""
        bundle = self.bundle
        near = self._near(position_m)
        return np.asarray(self.arrays.effective_cfr(bundle.bs_user, bundle.ris_user, *near, theta, tones_hz)[0])

    def _near(self, position_m: npt.ArrayLike) -> tuple[Index, Real]:
        """The nearest grid point's link [1] and the step [1, 3] from there."""
        position = np.asarray(position_m, np.float64)
        index = nearest_point(self.bundle.positions_m, position)
        return np.array([index]), (position - self.bundle.positions_m[index])[None]
