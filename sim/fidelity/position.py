"""Users believed to be where they are not: in the testbed over time, in a bundle once and for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import numpy.typing as npt

from sim.bundle import SiteBundle
from sim.fidelity.knobs import PositionSettings
from sim.mobility import PositionError

Real = npt.NDArray[np.float64]


def position_error(settings: PositionSettings, rng: np.random.Generator) -> PositionError:
    """The error of one user's positions over time."""
    return PositionError(settings.sigma_m, settings.correlation_s, rng)


def position_offsets_m(settings: PositionSettings, users: int, rng: np.random.Generator | None = None) -> Real:
    """Error of each user's position, Gaussian per axis; one for all with `common`. Shape [users, 3].

    rng: by default one seeded with `settings.seed`.
    """
    generator = rng or np.random.default_rng(settings.seed)
    errors = settings.sigma_m * generator.normal(size=(1 if settings.common else users, 3))
    return np.array(np.broadcast_to(errors, (users, 3)))


def user_offsets_m(settings: PositionSettings, users: Sequence[str]) -> Real:
    """An error for each user that stays with its name, or one for all with `common`. Shape [users, 3]."""
    if settings.common:
        return position_offsets_m(settings, len(users))
    rngs = [np.random.default_rng([settings.seed, crc32(user.encode())]) for user in users]
    return np.reshape([position_offsets_m(settings, 1, rng)[0] for rng in rngs], (-1, 3))


def misplaced(bundle: SiteBundle, settings: PositionSettings, rng: np.random.Generator | None = None) -> SiteBundle:
    """The bundle with every grid point said to be elsewhere than it was traced; paths stay what they are."""
    if not settings.sigma_m:
        return bundle
    offsets = position_offsets_m(settings, len(bundle.positions_m), rng)
    return replace(bundle, positions_m=bundle.positions_m + offsets)
