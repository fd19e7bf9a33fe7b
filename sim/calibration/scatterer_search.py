"""Finds virtual scatterers in what a twin leaves of measured links.

They are found one by one, in many users' channels at once. A point is first looked for where each link
on its own has energy at its delay and departure, then with fields in step over patches of links that grow, until all
of them agree on where it is to a fraction of a wavelength; then all points are refined in turn. Kept is what predicts
links that the search has not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from sim.calibration.scatterers import Scatterer, Scatterers, point_table
from sim.calibration.search_kernel import explained
from sim.channels import SiteArrays
from sim.site import SPEED_OF_LIGHT_M_S

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Index = npt.NDArray[np.int64]

_MARGIN_M = 15.0
"""Scatterers stand no further outside of the box around array and users."""
_HEIGHT_STEP_M = 3.0
_ABOVE_M = 4.0
_PROFILE_STEPS = 16
"""Of a profile, to the resolution of the bandwidth."""
_PEAKS = 6
"""Places that are looked at more closely."""
_PATCHES_M = (0.0, 5.0, 15.0, 50.0, np.inf)
_AROUND = np.stack(np.meshgrid(*[np.linspace(-1, 1, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
_NEIGHBOURS = 4
_DIFFERENCE_M = 1e-4
_STEPS = 12
_PATIENCE = 4
"""So many scatterers in a row may do nothing for the links that validate."""
_EVERY = 4
"""Scatterers are refined all together after so many new ones."""
_NEAREST_M = 0.1
_CHUNK = 20_000


@dataclass(frozen=True)
class Residuals:
    """What the twin leaves of K links: residual [K, N, S] at positions_m [K, 3] on tones_hz [S]."""

    positions_m: Real
    residual: Complex
    tones_hz: Real

    def chosen(self, kept: npt.NDArray[np.bool_]) -> Residuals:
        """Some of the links."""
        return replace(self, positions_m=self.positions_m[kept], residual=self.residual[kept])


def find_scatterers(
    fitted: Residuals,
    validating: Residuals,
    arrays: SiteArrays,
    array_m: Real,
    *,
    most: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scatterers:
    """At most `most` scatterers that explain the `fitted` links and predict the `validating` ones.

    arrays, array_m: the base station's array and where its middle is. progress(done, most) after each.
    """
    search = _Search(fitted, arrays, array_m)
    best, least = search.found(), search.energy_left(validating, search.found())
    idle = 0
    for number in range(most):
        search.add()
        if (number + 1) % _EVERY == 0:
            search.refine(1)
        found = search.found()
        left = search.energy_left(validating, found)
        idle = 0 if left < 0.995 * least else idle + 1
        if left < least:
            best, least = found, left
        progress(number + 1, most)
        if idle >= _PATIENCE:
            break
    search.points = list(best.points)
    search.refine(3)
    if search.energy_left(validating, search.found()) < least:
        best = search.found()
    return _pruned(best, validating, search)


def _pruned(found: Scatterers, validating: Residuals, search: _Search) -> Scatterers:
    """Without those that the links that validate are better off without."""
    least = search.energy_left(validating, found)
    for point in found.points:
        without = replace(found, points=tuple(other for other in found.points if other is not point))
        left = search.energy_left(validating, without)
        if left < least:
            found, least = without, left
    return found


class _Search:
    """Scatterers found so far, and what they leave."""

    def __init__(self, links: Residuals, arrays: SiteArrays, array_m: Real) -> None:
        order = np.lexsort(np.floor(links.positions_m[:, :2] / 5.0).T)
        self.links = replace(links, positions_m=links.positions_m[order], residual=links.residual[order])
        self.arrays, self.array_m = arrays, array_m
        self.points: list[Scatterer] = []
        self.left = self.links.residual.copy()
        self.wave = 2 * np.pi * arrays.carrier_hz / SPEED_OF_LIGHT_M_S
        self.wavelength_m = SPEED_OF_LIGHT_M_S / arrays.carrier_hz
        self._neighbours = (
            cKDTree(self.links.positions_m)
            .query(self.links.positions_m, k=min(_NEIGHBOURS, len(order)))[1]
            .reshape(len(order), -1)
        )
        bandwidth_hz = float(np.max(links.tones_hz) - np.min(links.tones_hz)) or 1e6
        self.resolution_m = SPEED_OF_LIGHT_M_S / bandwidth_hz
        self.grid_m = self._grid()

    def found(self) -> Scatterers:
        """Those found so far."""
        return Scatterers(tuple(self.points), self.links.positions_m)

    def energy_left(self, links: Residuals, found: Scatterers) -> float:
        """Sum over links of what is left of each, relative to its residual before; nothing is lost by one bad link."""
        table = found.table(self.array_m, links.positions_m, self.wavelength_m)
        left = links.residual.copy()
        phases, tones = self.arrays.per_path(table, links.tones_hz)
        for link in range(table.links):
            rows = table.rows(link)
            left[link] -= phases[rows].T @ tones[rows]
        return float(np.sum(np.abs(left) ** 2))

    def add(self) -> None:
        """Find the point that explains most of what is left, and take it out."""
        weights = self._weights()
        profiles, step_m = self._profiles(weights)
        tried = [self._closer(place_m, profiles, step_m) for place_m in self._peaks(profiles, step_m)]
        gained = [self._gained(place_m) for place_m in tried]
        best = tried[int(np.argmax(gained))]
        point = self._descended(Scatterer(best, 0.0, np.ones(len(self.left))))
        self.points.append(point)
        self.left -= self._field(point)

    def refine(self, rounds: int) -> None:
        """Fit every point again to what all others leave."""
        self.left = self.links.residual - sum((self._field(point) for point in self.points), np.zeros(1))
        for _ in range(rounds):
            for index, point in enumerate(self.points):
                self.left += self._field(point)
                self.points[index] = self._descended(point)
                self.left -= self._field(self.points[index])

    def _weights(self) -> Real:
        """Of links: one that is loud for other reasons counts for no more than others."""
        energy = np.sum(np.abs(self.left) ** 2, axis=(1, 2))
        return np.asarray(1.0 / np.maximum(energy, 0.1 * np.median(energy) + 1e-300))

    def _profiles(self, weights: Real) -> tuple[Complex, float]:
        """Residuals over the length of the way [K, D, N], scaled by root weights, and the step [m]."""
        step_m = self.resolution_m / _PROFILE_STEPS
        far_m = np.max(np.linalg.norm(self.grid_m - self.array_m, axis=1)) + np.linalg.norm(np.ptp(self.grid_m, axis=0))
        ways_m = np.arange(int(far_m / step_m) + 2) * step_m
        turns = np.exp(2j * np.pi / SPEED_OF_LIGHT_M_S * np.outer(self.links.tones_hz, ways_m))
        profiles = np.sqrt(weights)[:, None, None] * np.swapaxes(self.left @ turns, 1, 2)
        return np.ascontiguousarray(profiles), step_m

    def _peaks(self, profiles: Complex, step_m: float) -> Real:
        """The places of the grid that explain most, apart from each other."""
        energy = self._explained(self.grid_m, profiles, step_m, np.arange(len(self.left)))
        places: list[Real] = []
        for index in np.argsort(-energy):
            place_m = self.grid_m[index]
            if all(np.linalg.norm(place_m - other) > self.resolution_m for other in places):
                places.append(place_m)
            if len(places) == _PEAKS:
                break
        return np.array(places)

    def _closer(self, place_m: Real, profiles: Complex, step_m: float) -> Real:
        """Around a place of the grid, the one that explains most with fields in step over ever more links."""
        half_m = np.array([self._grid_step_m, self._grid_step_m, _HEIGHT_STEP_M])
        for patch_m in _PATCHES_M:
            order, patches = self._patches(patch_m)
            for _ in range(3):
                places_m = place_m + _AROUND * half_m
                energy = self._explained(places_m, profiles[order], step_m, patches, order)
                place_m = places_m[int(np.argmax(energy))]
                half_m = 0.5 * half_m
            half_m = 3.0 * half_m
        return place_m

    def _patches(self, patch_m: float) -> tuple[Index, Index]:
        """Links in the order of their patches, squares of ground patch_m wide, and the patch of each."""
        count = len(self.left)
        if patch_m == 0.0:
            return np.arange(count), np.arange(count)
        squares = np.floor(self.links.positions_m[:, :2] / patch_m).astype(np.int64) if np.isfinite(patch_m) else None
        if squares is None:
            return np.arange(count), np.zeros(count, np.int64)
        owner = np.unique(squares, axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(owner, kind="stable")
        return order, owner[order]

    def _explained(
        self, places_m: Real, profiles: Complex, step_m: float, patches: Index, order: Index | None = None
    ) -> Real:
        receivers_m = self.links.positions_m if order is None else self.links.positions_m[order]
        energy = np.empty(len(places_m))
        for start in range(0, len(places_m), _CHUNK):
            some_m = np.ascontiguousarray(places_m[start : start + _CHUNK])
            out_m = some_m - self.array_m
            before_m = np.maximum(np.linalg.norm(out_m, axis=1), _NEAREST_M)
            responses = self.arrays.response(out_m / before_m[:, None], before_m)
            part = energy[start : start + _CHUNK]
            explained(
                responses,
                before_m,
                some_m,
                np.ascontiguousarray(receivers_m),
                profiles,
                step_m,
                patches,
                self.wave,
                part,
            )
        return energy

    def _gained(self, place_m: Real) -> float:
        """Energy that a point there takes out of what is left, with the gain that is best for it."""
        inner, norms, weights = *self._products(place_m), self._weights()
        return float(np.abs(np.sum(weights * inner)) ** 2 / max(float(np.sum(weights * norms)), 1e-300))

    def _unit(self, place_m: Real) -> tuple[Complex, Complex]:
        """Phases [K, N] and coefficients [K, S] of a scatterer of gain 1 at a place."""
        point = Scatterer(place_m, 1.0, np.ones(len(self.left)))
        table = point_table(point, self.array_m, self.links.positions_m, self.wavelength_m)
        return self.arrays.per_path(table, self.links.tones_hz)

    def _field(self, point: Scatterer) -> Complex:
        phases, tones = self._unit(point.position_m)
        return np.asarray(phases[:, :, None] * (point.gain * point.visible[:, None] * tones)[:, None, :])

    def _products(self, place_m: Real) -> tuple[Complex, Real]:
        """Inner products of a unit scatterer's channels with what is left [K], and their energies [K]."""
        phases, tones = self._unit(place_m)
        inner = np.einsum("kn,kns,ks->k", phases.conj(), self.left, tones.conj(), optimize=True)
        norms = np.sum(np.abs(phases) ** 2, axis=1) * np.sum(np.abs(tones) ** 2, axis=1)
        return inner, norms

    def _descended(self, point: Scatterer) -> Scatterer:
        """Position, gain and visibility that leave least, from those of `point`, which is not taken out of `left`."""
        place_m, visible = point.position_m, point.visible
        weights = self._weights()
        damping = 1e-3
        gain, energy = self._best_gain(place_m, visible * weights)
        for _ in range(_STEPS):
            gradient, curvature = self._slopes(place_m, gain, visible * weights)
            moved = place_m + np.linalg.solve(curvature + damping * np.diag(np.diag(curvature) + 1e-300), gradient)
            new_gain, new_energy = self._best_gain(moved, visible * weights)
            if new_energy > energy:
                done = new_energy - energy < 1e-6 * energy
                place_m, gain, energy, damping = moved, new_gain, new_energy, max(damping / 10, 1e-9)
                if done:
                    break
            else:
                damping *= 10
                if damping > 1e6:
                    break
        visible = self._seen(place_m, gain)
        if visible.any():
            gain, _ = self._best_gain(place_m, visible * weights)
        return Scatterer(place_m, gain, visible)

    def _best_gain(self, place_m: Real, weights: Real) -> tuple[complex, float]:
        """The gain that leaves least of weighted links, and the energy that it takes out."""
        inner, norms = self._products(place_m)
        total, norm = np.sum(weights * inner), max(float(np.sum(weights * norms)), 1e-300)
        return complex(total / norm), float(np.abs(total) ** 2 / norm)

    def _slopes(self, place_m: Real, gain: complex, weights: Real) -> tuple[Real, Real]:
        """Gradient [3] and curvature [3, 3] of the fit by the place, the gain following it."""
        roots = np.sqrt(weights)
        here = self._weighted(place_m, gain, roots)
        columns = []
        for axis in range(3):
            moved = place_m.copy()
            moved[axis] += _DIFFERENCE_M
            columns.append((self._weighted(moved, gain, roots) - here) / _DIFFERENCE_M)
        basis = here / gain if gain else here
        energy = max(float(np.vdot(basis, basis).real), 1e-300)
        columns = [column - basis * (np.vdot(basis, column) / energy) for column in columns]
        difference = (roots[:, None, None] * self.left).reshape(-1) - here
        slopes = np.stack(columns)
        return np.real(slopes.conj() @ difference), np.real(slopes.conj() @ slopes.T)

    def _weighted(self, place_m: Real, gain: complex, roots: Real) -> Complex:
        phases, tones = self._unit(place_m)
        return np.asarray(phases[:, :, None] * (gain * roots[:, None] * tones)[:, None, :]).reshape(-1)

    def _seen(self, place_m: Real, gain: complex) -> Real:
        """1 for links that a point leaves quieter, judged together with the links next to them."""
        inner, norms = self._products(place_m)
        share = 2 * np.real(np.conj(gain) * inner) / np.maximum(np.abs(gain) ** 2 * norms, 1e-300) - 1
        return np.asarray((np.clip(share, -2.0, 2.0)[self._neighbours].mean(axis=1) > 0).astype(np.float64))

    @property
    def _grid_step_m(self) -> float:
        return min(max(self.resolution_m / 2, 0.5), 5.0)

    def _grid(self) -> Real:
        """Places [P, 3] in and around the box of array and users."""
        ends = np.concatenate([self.links.positions_m, self.array_m[None]])
        low, high = ends.min(axis=0) - _MARGIN_M, ends.max(axis=0) + _MARGIN_M
        low[2], high[2] = self.links.positions_m[:, 2].min() - 1.0, ends[:, 2].max() + _ABOVE_M
        steps_m = (self._grid_step_m, self._grid_step_m, _HEIGHT_STEP_M)
        axes = [np.arange(a, b + step, step) for a, b, step in zip(low, high, steps_m, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
