"""Finds virtual scatterers in what a twin leaves of measured links.

They are found one by one, in many users' channels at once. A point is first looked for where each link on its own has
energy at its delay and departure, then with fields in step over patches of links that grow, until all of them agree on
where it is to a fraction of a wavelength; then all points are refined in turn. Kept is what predicts links that the
search has not seen, which then help to tell where it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.calibration.scatterer_fit import Residuals, ScattererFit
from sim.calibration.scatterers import Scatterer, Scatterers
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
_PEAKS = 8
"""Places that are looked at more closely."""
_PATCHES_M = (15.0, 50.0, np.inf)
"""Of links whose fields are in step, after patches of `_FIRST_PATCH_M`; within each a point is looked for anew."""
_FIRST_PATCH_M = 5.0


def _box(x: int, y: int, z: int) -> Real:
    """So many places in each direction, from -1 to 1. [P, 3]."""
    return np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (x, y, z)), indexing="ij"), axis=-1).reshape(-1, 3)


_AROUND = _box(13, 13, 13)
_FINELY, _FINE_M = _box(41, 41, 13), np.array([0.8, 0.8, 1.5])
"""A scatterer amid users is where it is to half a wavelength, as soon as any of them are in step."""

_PATIENCE = 5
"""So many searches in a row may find nothing that helps the links that validate."""
_EVERY = 4
"""Scatterers are refined all together after so many new ones."""
_NEAREST_M = 0.1
_CHUNK = 20_000


def find_scatterers(
    fitted: Residuals, validating: Residuals, arrays: SiteArrays, array_m: Real, *, most: int
) -> Scatterers:
    """At most `most` scatterers that explain the `fitted` links and predict the `validating` ones.

    arrays, array_m: the base station's array and where its middle is.
    """
    search = _Search(fitted, arrays, array_m)
    best, least = search.found(), search.energy_left(validating, search.found())
    idle = 0
    while len(search.points) < most and idle < _PATIENCE:
        idle = 0 if search.add(validating) else idle + 1
        if len(search.points) % _EVERY == 0:
            search.refine(1)
        left = search.energy_left(validating, search.found())
        if left < least:
            best, least = search.found(), left
    search.points = list(best.points)
    search.refine(3)
    if search.energy_left(validating, search.found()) < least:
        best = search.found()
    return _of_all(_pruned(best, validating, search), fitted, validating, search)


def _of_all(found: Scatterers, fitted: Residuals, validating: Residuals, search: _Search) -> Scatterers:
    """The same points fitted to the links that validate as well: more places tell where they are and who sees them."""
    both = replace(
        fitted,
        positions_m=np.concatenate([fitted.positions_m, validating.positions_m]),
        residual=np.concatenate([fitted.residual, validating.residual]),
    )
    last = ScattererFit(both, search.arrays, search.array_m)
    seen = np.ones(len(last.left))
    last.points = [replace(point, visible=seen) for point in found.points]
    last.refine(3)
    return last.found()


def _pruned(found: Scatterers, validating: Residuals, search: _Search) -> Scatterers:
    """Without those that the links that validate are better off without."""
    least = search.energy_left(validating, found)
    for point in found.points:
        without = replace(found, points=tuple(other for other in found.points if other is not point))
        left = search.energy_left(validating, without)
        if left < least:
            found, least = without, left
    return found


class _Search(ScattererFit):
    """Looks for further points in what those found so far leave."""

    def __init__(self, links: Residuals, arrays: SiteArrays, array_m: Real) -> None:
        super().__init__(links, arrays, array_m)
        self.wave = 2 * np.pi / self.wavelength_m
        self._banned: list[Real] = []
        bandwidth_hz = float(np.max(links.tones_hz) - np.min(links.tones_hz)) or 1e6
        self.resolution_m = SPEED_OF_LIGHT_M_S / bandwidth_hz
        self.grid_m = self._grid()

    def add(self, validating: Residuals) -> bool:
        """Take in the point that helps the links that validate most, of a few that explain much; whether there was one.

        Where there is none, their places are not tried again.
        """
        profiles, step_m = self._profiles()
        peaks_m = self._peaks(profiles, step_m)
        places_m = [self._closer(place_m, profiles, step_m) for place_m in peaks_m]
        before, least, best = self.points, self.energy_left(validating, self.found()), None
        for place_m in places_m:
            point = self.descended(Scatterer(place_m, 0.0, np.ones(len(self.left))))
            self.points = [*before, point]
            left = self.energy_left(validating, self.found())
            if left < least:
                best, least = point, left
        if best is None:
            self.points = before
            self._banned.extend(peaks_m)
            return False
        self.points = [*before, best]
        self.left -= self.field(best)
        return True

    def _profiles(self) -> tuple[Complex, float]:
        """What is left over the length of the way [K, D, N], and the step [m]."""
        step_m = self.resolution_m / _PROFILE_STEPS
        far_m = np.max(np.linalg.norm(self.grid_m - self.array_m, axis=1)) + np.linalg.norm(np.ptp(self.grid_m, axis=0))
        ways_m = np.arange(int(far_m / step_m) + 2) * step_m
        turns = np.exp(2j * np.pi / SPEED_OF_LIGHT_M_S * np.outer(self.links.tones_hz, ways_m))
        profiles = np.swapaxes(self.left @ turns, 1, 2)
        return np.ascontiguousarray(profiles), step_m

    def _peaks(self, profiles: Complex, step_m: float) -> Real:
        """The places of the grid that explain most, apart from each other."""
        alone = np.arange(len(self.left))
        energy = self._explained(self.grid_m, profiles, step_m, alone, alone)
        places: list[Real] = []
        for index in np.argsort(-energy):
            place_m = self.grid_m[index]
            apart = all(np.linalg.norm(place_m - other) > self.resolution_m for other in places)
            if apart and all(np.linalg.norm(place_m - other) > self._grid_step_m for other in self._banned):
                places.append(place_m)
            if len(places) == _PEAKS:
                break
        return np.array(places)

    def _closer(self, place_m: Real, profiles: Complex, step_m: float) -> Real:
        """Around a place of the grid, the one that explains most with fields in step over ever more links."""
        alone = np.arange(len(self.left))
        half_m = np.array([self._grid_step_m, self._grid_step_m, _HEIGHT_STEP_M])
        for _ in range(2):
            place_m = self._best(place_m + _AROUND * half_m, profiles, step_m, alone, alone)
            half_m = half_m / 4
        order, patches = self._patches(_FIRST_PATCH_M)
        place_m = self._best(place_m + _FINELY * _FINE_M, profiles, step_m, order, patches)
        half_m = 2 * _FINE_M / np.array([20, 20, 6])
        for patch_m in _PATCHES_M:
            for _ in range(2):
                place_m = self._best(place_m + _AROUND * half_m, profiles, step_m, order, patches)
                half_m = half_m / 3
            order, patches = self._patches(patch_m)
            half_m = 5 * half_m
        return self._best(place_m + _AROUND * half_m, profiles, step_m, order, patches)

    def _best(self, places_m: Real, profiles: Complex, step_m: float, order: Index, patches: Index) -> Real:
        """Of places [P, 3], the one that explains most."""
        energy = self._explained(places_m, profiles, step_m, order, patches)
        return np.asarray(places_m[int(np.argmax(energy))])

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

    def _explained(self, places_m: Real, profiles: Complex, step_m: float, order: Index, patches: Index) -> Real:
        receivers_m, weights = self.links.positions_m[order], self.weights()[order]
        profiles = profiles[order]
        energy = np.empty(len(places_m))
        for start in range(0, len(places_m), _CHUNK):
            some_m = np.ascontiguousarray(places_m[start : start + _CHUNK])
            out_m = some_m - self.array_m
            before_m = np.maximum(np.linalg.norm(out_m, axis=1), _NEAREST_M)
            responses = self.arrays.response(out_m / before_m[:, None], before_m)
            part = energy[start : start + _CHUNK]
            explained(responses, before_m, some_m, receivers_m, profiles, step_m, patches, weights, self.wave, part)
        return energy

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
