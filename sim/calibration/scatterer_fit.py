"""Fits scatterers whose places are known to within a wavelength: place, gain, and who sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from sim.calibration.scatterers import Scatterer, Scatterers, point_table
from sim.channels import SiteArrays
from sim.site import SPEED_OF_LIGHT_M_S

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_NEIGHBOURS = 4
_DIFFERENCE_M = 1e-4
_STEPS = 12


@dataclass(frozen=True)
class Residuals:
    """What the twin leaves of K links: residual [K, N, S] at positions_m [K, 3] on tones_hz [S]."""

    positions_m: Real
    residual: Complex
    tones_hz: Real

    def chosen(self, kept: npt.NDArray[np.bool_]) -> Residuals:
        """Some of the links."""
        return replace(self, positions_m=self.positions_m[kept], residual=self.residual[kept])


class ScattererFit:
    """Scatterers found so far, `points`, and what they leave of links, `left` [K, N, S].

    arrays, array_m: the base station's array and where its middle is.
    """

    def __init__(self, links: Residuals, arrays: SiteArrays, array_m: Real) -> None:
        order = np.lexsort(np.floor(links.positions_m[:, :2] / 5.0).T)
        self.links = replace(links, positions_m=links.positions_m[order], residual=links.residual[order])
        self.arrays, self.array_m = arrays, array_m
        self.points: list[Scatterer] = []
        self.left = self.links.residual.copy()
        self.wavelength_m = SPEED_OF_LIGHT_M_S / arrays.carrier_hz
        places_m = self.links.positions_m
        self._neighbours = cKDTree(places_m).query(places_m, k=min(_NEIGHBOURS, len(order)))[1].reshape(len(order), -1)

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

    def refine(self, rounds: int) -> None:
        """Fit every point again to what all others leave."""
        self.left = self.links.residual - sum((self.field(point) for point in self.points), np.zeros(1))
        for _ in range(rounds):
            for index, point in enumerate(self.points):
                self.left += self.field(point)
                self.points[index] = self.descended(point)
                self.left -= self.field(self.points[index])

    def weights(self) -> Real:
        """Of links: one that is loud for other reasons counts for no more than others."""
        energy = np.sum(np.abs(self.left) ** 2, axis=(1, 2))
        return np.asarray(1.0 / np.maximum(energy, 0.1 * np.median(energy) + 1e-300))

    def _unit(self, place_m: Real) -> tuple[Complex, Complex]:
        """Phases [K, N] and coefficients [K, S] of a scatterer of gain 1 at a place."""
        point = Scatterer(place_m, 1.0, np.ones(len(self.left)))
        table = point_table(point, self.array_m, self.links.positions_m, self.wavelength_m)
        return self.arrays.per_path(table, self.links.tones_hz)

    def field(self, point: Scatterer) -> Complex:
        phases, tones = self._unit(point.position_m)
        return np.asarray(phases[:, :, None] * (point.gain * point.visible[:, None] * tones)[:, None, :])

    def _products(self, place_m: Real) -> tuple[Complex, Real]:
        """Inner products of a unit scatterer's channels with what is left [K], and their energies [K]."""
        phases, tones = self._unit(place_m)
        inner = np.einsum("kn,kns,ks->k", phases.conj(), self.left, tones.conj(), optimize=True)
        norms = np.sum(np.abs(phases) ** 2, axis=1) * np.sum(np.abs(tones) ** 2, axis=1)
        return inner, norms

    def descended(self, point: Scatterer) -> Scatterer:
        """Position, gain and visibility that leave least, from those of `point`, which is not taken out of `left`."""
        place_m, visible = point.position_m, point.visible
        weights = self.weights()
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
