"""The geometry knobs together: from a scene's meshes to those of a less faithful scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.fidelity.buildings import find_buildings, shifted, shifts_m
from sim.fidelity.knobs import GeometrySettings
from sim.fidelity.reconstruction import rebuilt
from sim.meshes import Mesh


def apply_geometry(
    meshes: Sequence[Mesh], settings: GeometrySettings, rng: np.random.Generator | None = None
) -> list[Mesh]:
    """The meshes, in order, with buildings rebuilt and moved; the same objects where no knob is turned.

    rng: of the shifts, by default one seeded with `settings.seed`, as point clouds always are. Raises what
    `find_buildings` and `rebuilt` raise.
    """
    if not settings.shifts and settings.reconstruction is None:
        return list(meshes)
    labels = find_buildings(meshes, settings.fixed)
    moved_m = shifts_m(settings, labels.buildings, rng or np.random.default_rng(settings.seed))
    found = list(meshes)
    if settings.shifts:
        found = shifted(found, labels, moved_m)
    if settings.reconstruction is not None:
        found = rebuilt(found, labels, settings.reconstruction, settings.seed)
    return found
