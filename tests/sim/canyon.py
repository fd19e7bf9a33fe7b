"""A tiny site in a scene that comes with Sionna RT: a street between six houses, two rows of three."""

from __future__ import annotations

from typing import Any

from sim.site import Site

CANYON: dict[str, Any] = {
    "name": "canyon",
    "scene": "simple_street_canyon",
    "carrier_hz": 2e9,
    "bs": {"position_m": [-30.0, 0.0, 20.0], "yaw_deg": 5.0, "pitch_deg": 10.0, "rows": 2, "columns": 3},
    "ris": {"position_m": [10.0, 8.0, 6.0], "yaw_deg": -120.0, "rows": 2, "columns": 2},
    "users": {"corner_m": [0.0, -3.0], "size_m": [12.0, 6.0], "spacing_m": 6.0},
    "twin": {"max_depth": 2, "samples": 20000, "max_paths": 1000},
    "world": {"max_depth": 2, "samples": 20000, "scattering_samples": 2000, "max_paths": 1000},
}


def canyon(**changes: Any) -> Site:
    """The site, with whole tables replaced."""
    return Site.model_validate({**CANYON, **changes})
