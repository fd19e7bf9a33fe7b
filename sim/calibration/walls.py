"""Gains of walls: what reflects over the same walls seems to come from one point, and errs alike for all users.

Such paths share their virtual source, whoever receives them. One complex factor of each source makes up for what its
walls are that no material says: a facade of windows, thickness, a centimetre of place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sim.calibration.links import MeasuredLinks, Phase, relative_residuals, turned
from sim.paths import DIFFRACTION, DIFFUSE, PathTable

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Index = npt.NDArray[np.int64]

_SAME_M = 0.05
"""Virtual sources no further apart are one."""

_FEWEST_LINKS = 5
"""A source that fewer links see keeps its gain."""

_STRENGTHS = 10.0 ** np.arange(-2.0, 1.1)
"""Of the pull towards 1, in units of a source's mean energy; links that validate choose."""


_STEPS = 3
"""Links' phases and weights follow the gains."""


@dataclass(frozen=True)
class WallGains:
    """Factors gain [F] of the paths that seem to come from sources_m [F, 3]."""

    sources_m: Real
    gain: Complex

    def of(self, table: PathTable, receivers_m: Real) -> Complex:
        """The factor of every path [L]: 1 where its source is none of these. receivers_m [K, 3] of the links."""
        found = np.ones(table.paths, np.complex128)
        mirrored, places_m = virtual_sources(table, receivers_m)
        if len(self.gain) and len(mirrored):
            away_m, nearest = cKDTree(self.sources_m).query(places_m)
            near = away_m <= 2 * _SAME_M
            found[mirrored[near]] = self.gain[nearest[near]]
        return found


NO_WALLS = WallGains(np.zeros((0, 3)), np.zeros(0, np.complex128))


def virtual_sources(table: PathTable, receivers_m: Real) -> tuple[Index, Real]:
    """Paths that were only mirrored or passed through walls [I], and where they seem to come from [I, 3]."""
    mirrored = np.flatnonzero((table.kind & (DIFFUSE | DIFFRACTION)) == 0)
    owner = np.repeat(np.arange(table.links), np.diff(table.offsets))
    return mirrored, receivers_m[owner[mirrored]] + table.arrival[mirrored] * table.length_m[mirrored, None]


def fit_walls(
    table: PathTable,
    parts: tuple[Complex, Complex],
    links: MeasuredLinks,
    fitted: npt.NDArray[np.bool_],
    validating: npt.NDArray[np.bool_],
    phase: Phase,
) -> WallGains:
    """Factors that explain the `fitted` links, drawn towards 1 as strongly as the `validating` ones like it.

    table, parts: the twin's paths to all links, and antennas' phases [L, N] and coefficients [L, S] of each.
    """
    mirrored, places_m = virtual_sources(table, links.positions_m)
    if not len(mirrored):
        return NO_WALLS
    owner = np.repeat(np.arange(table.links), np.diff(table.offsets))
    pairs = cKDTree(places_m).query_pairs(_SAME_M, output_type="ndarray")
    edges = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(mirrored),) * 2)
    count, source = connected_components(edges, directed=False)
    seen = np.unique(np.stack([source, owner[mirrored]])[:, fitted[owner[mirrored]]], axis=1)
    enough = np.bincount(seen[0], minlength=count) >= _FEWEST_LINKS
    if not enough.any():
        return NO_WALLS
    of_source = np.where(enough, np.cumsum(enough) - 1, -1)[source]
    number = np.full(table.paths, -1)
    number[mirrored] = of_source
    kept = of_source >= 0
    members = np.bincount(of_source[kept])
    sources_m = np.stack([np.bincount(of_source[kept], places_m[kept, axis]) / members for axis in range(3)], axis=1)
    return _Fit(table, parts, links, number, phase).chosen(sources_m, fitted, validating)


@dataclass
class _Fit:
    """Links as sums over sources: number [L] is the source of a path, -1 for none."""

    table: PathTable
    parts: tuple[Complex, Complex]
    links: MeasuredLinks
    number: Index
    phase: Phase

    def chosen(self, sources_m: Real, fitted: npt.NDArray[np.bool_], validating: npt.NDArray[np.bool_]) -> WallGains:
        count = len(sources_m)
        best = NO_WALLS
        plain = self._predicted(np.ones(count, np.complex128))
        least = float(np.mean(np.minimum(relative_residuals(self.links, plain, self.phase)[validating], 1.0)))
        for strength in _STRENGTHS:
            gain, predicted = np.ones(count, np.complex128), plain
            for _ in range(_STEPS):
                curvature, gradient = self._normal(predicted, fitted, count)
                pull = strength * np.real(np.diag(curvature)).mean()
                step = np.linalg.solve(curvature + pull * np.eye(count), gradient - pull * (gain - 1.0))
                gain = np.asarray(gain + step, np.complex128)
                predicted = self._predicted(gain)
            residuals = relative_residuals(self.links, predicted, self.phase)[validating]
            cost = float(np.mean(np.minimum(residuals, 1.0)))
            if cost < least:
                best, least = WallGains(sources_m, gain), cost
        return best

    def _normal(self, predicted: Complex, fitted: npt.NDArray[np.bool_], count: int) -> tuple[Complex, Complex]:
        """Curvature [F, F] and gradient [F] where channels are `predicted`; links weighted as in `physical`."""
        residuals = relative_residuals(self.links, predicted, self.phase)
        spread = max(float(np.median(residuals[fitted])), 1e-6)
        weights = fitted / (1.0 + residuals / spread) / self.links.power
        difference = turned(self.links.cfr, predicted, self.phase) - predicted
        curvature, gradient = np.zeros((count, count), np.complex128), np.zeros(count, np.complex128)
        for link in np.flatnonzero(fitted):
            numbers, columns = self._of_sources(int(link))
            curvature[np.ix_(numbers, numbers)] += weights[link] * (columns.conj() @ columns.T)
            gradient[numbers] += weights[link] * (columns.conj() @ difference[link].reshape(-1))
        return curvature, gradient

    def _of_sources(self, link: int) -> tuple[Index, Complex]:
        """What each source gives a link, flat: numbers [I] and channels [I, N S]."""
        rows = self.table.rows(link)
        of_path = self.number[rows]
        numbers = np.unique(of_path[of_path >= 0])
        phases, tones = (part[rows] for part in self.parts)
        columns = [(phases[of_path == one].T @ tones[of_path == one]).reshape(-1) for one in numbers]
        width = phases.shape[1] * tones.shape[1]
        return numbers, np.array(columns, np.complex128).reshape(len(numbers), width)

    def _predicted(self, gain: Complex) -> Complex:
        phases, tones = self.parts
        factor = np.where(self.number >= 0, gain[self.number], 1.0)
        out = np.empty_like(self.links.cfr)
        for link in range(self.table.links):
            rows = self.table.rows(link)
            out[link] = phases[rows].T @ (tones[rows] * factor[rows, None])
        return out
