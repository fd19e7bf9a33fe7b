"""How Sionna RT orders the antennas of an array, against how we do."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.site import Panel


def in_our_order(array: Any, panel: Panel) -> list[int]:
    """For each of our elements, row by row from the top left, the Sionna element that stands there."""
    theirs = np.array(array.normalized_positions).T  # in wavelengths: x to the front, y to the left, z up
    upright = panel.model_copy(update={"yaw_deg": 0.0, "pitch_deg": 0.0})
    ours = upright.element_positions_m(1.0)
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    assert distance.min(axis=1).max() < 1e-5
    return [int(one) for one in distance.argmin(axis=1)]
