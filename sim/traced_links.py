"""From the arrays that Sionna RT fills with paths to a `PathTable`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import TwinbeamError
from sim.paths import DIFFRACTION, DIFFUSE, SPECULAR, PathTable
from sim.site import SPEED_OF_LIGHT_M_S

Real = npt.NDArray[np.float64]
Kinds = npt.NDArray[np.uint8]
Losses = Callable[[Real], Real]
"""Amplitude factors [L] of paths by their corners [L, V, 3], transmitter and receiver included."""

_AT_ONCE = 50_000
"""Paths whose losses are looked at in one go."""


@dataclass(frozen=True)
class Chains:
    """Where paths [L] go. kinds [L, depth]: of each interaction, 0 after the last; vertices_m [L, depth, 3]."""

    kinds: Kinds
    vertices_m: Real
    source_m: Real
    receivers_m: Real
    """Ends of the paths, [3] and [L, 3]."""


@dataclass(frozen=True)
class _Solved:
    """What the solver gives of R receivers: kinds [R, P, depth], vertices_m [R, P, depth, 3], ends [3] and [R, 3]."""

    kinds: Kinds
    vertices_m: npt.NDArray[np.float32]
    source_m: Real
    targets_m: Real

    def chains(self, rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]) -> Chains:
        """The paths of these receivers and numbers."""
        return Chains(
            self.kinds[rows], self.vertices_m[rows].astype(np.float64), self.source_m, self.targets_m[rows[0]]
        )


def paths_to_table(
    paths: Any, receivers: int, strongest: int, wanted: int | None = None, losses: Losses | None = None
) -> PathTable:
    """Paths from one transmitter to the first receivers, of single antennas, as solved by Sionna RT.

    strongest: so many of each link at most, strongest first. Rough walls make a hundred thousand of them, of which all
    that follows would take gigabytes. wanted: bit of an interaction that a path must have, None for all of them.
    losses: what the paths meet beside the scene.
    """
    valid = np.array(paths.valid).astype(bool)[:receivers, 0]
    kinds = np.moveaxis(np.array(paths.interactions).astype(np.uint8)[:, :receivers, 0], 0, -1)
    if wanted is not None:
        valid &= np.any(kinds & wanted, axis=-1)
    real, imaginary = (np.array(part, np.float32)[:receivers, 0, 0, 0] for part in paths.a)
    gain = np.where(valid, real.astype(np.float64) + 1j * imaginary, 0.0)
    solved = _Solved(
        kinds,
        np.moveaxis(np.array(paths.vertices, np.float32)[:, :receivers, 0], 0, -2),
        np.array(paths.sources, np.float64).reshape(3, -1)[:, 0],
        np.array(paths.targets, np.float64).reshape(3, -1)[:, :receivers].T,
    )
    if losses is not None:
        every = np.nonzero(valid)
        for start in range(0, len(every[0]), _AT_ONCE):
            few = every[0][start : start + _AT_ONCE], every[1][start : start + _AT_ONCE]
            gain[few] *= losses(corners(solved.chains(few)))
    power = np.where(valid, gain.real**2 + gain.imag**2, -1.0)
    order = np.argsort(-power, axis=1, kind="stable")[:, :strongest]
    kept = np.take_along_axis(valid, order, axis=1)
    rows = np.nonzero(kept)[0], order[kept]
    departure = _unit(np.array(paths.theta_t)[:receivers, 0][rows], np.array(paths.phi_t)[:receivers, 0][rows])
    arrival = _unit(np.array(paths.theta_r)[:receivers, 0][rows], np.array(paths.phi_r)[:receivers, 0][rows])
    length_m = np.array(paths.tau, np.float64)[:receivers, 0][rows] * SPEED_OF_LIGHT_M_S
    chains = solved.chains(rows)
    reach_m, mirror = motion(chains, length_m)
    return PathTable(
        offsets=np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64),
        gain=gain[rows],
        length_m=length_m,
        departure=departure,
        arrival=arrival,
        kind=np.bitwise_or.reduce(chains.kinds, axis=1),
        reach_m=reach_m,
        mirror=mirror,
    )


def corners(chains: Chains) -> Real:
    """Where paths turn, from transmitter to receiver; the receiver again where they turn less often. [L, depth + 2, 3].

    Raises `TwinbeamError` where the tracer gave no places.
    """
    count, depth = chains.kinds.shape
    inside = chains.kinds > 0
    if not np.isfinite(chains.vertices_m[inside]).all():
        raise TwinbeamError("Sionna RT gave a path without places", mend="another version of sionna-rt, see pyproject")
    points = np.empty((count, depth + 2, 3))
    points[:, 0] = chains.source_m
    points[:, 1:-1] = np.where(inside[:, :, None], chains.vertices_m, chains.receivers_m[:, None])
    points[:, -1] = chains.receivers_m
    return points


def motion(chains: Chains, length_m: Real) -> tuple[Real, Real]:
    """reach_m [L] and mirror [L, 3, 3] of paths, as `PathTable` has them.

    A reflection turns directions by I - 2 n n^T for the wall's normal n, which lies along the difference of the
    directions after and before. Waves pass walls without a change of direction in Sionna RT.
    """
    count, depth = chains.kinds.shape
    points = corners(chains)
    ways = np.diff(points, axis=1)
    lengths_m = np.linalg.norm(ways, axis=2)
    directions = ways / np.maximum(lengths_m, 1e-12)[:, :, None]
    reach_m = length_m.copy()
    mirror = np.tile(np.eye(3), (count, 1, 1))
    for step in range(depth):
        kinds = chains.kinds[:, step]
        anew = (kinds & (DIFFUSE | DIFFRACTION)) > 0
        reach_m[anew] = lengths_m[anew, step + 1 :].sum(axis=1)
        mirror[anew] = 0.0
        turned = (kinds & SPECULAR) > 0
        normal = directions[turned, step + 1] - directions[turned, step]
        scale = 2.0 / np.maximum(np.sum(normal**2, axis=1), 1e-12)
        through = np.einsum("lij,lj->li", mirror[turned], normal) * scale[:, None]
        mirror[turned] -= through[:, :, None] * normal[:, None]
    return reach_m, mirror


def _unit(theta: npt.NDArray[Any], phi: npt.NDArray[Any]) -> Real:
    """Unit vectors of zenith angle theta and azimuth phi. Shape [..., 3]."""
    theta, phi = theta.astype(np.float64), phi.astype(np.float64)
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
