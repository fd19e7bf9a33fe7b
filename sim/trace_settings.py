"""How faithfully paths are traced, and what of a scene's materials is overridden: tables of a site file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.fidelity.knobs import Table


class TraceSettings(Table):
    """The ray tracing of a twin or a world.

    max_paths: of a link, the strongest. floor_db: paths so far below the strongest of their link are left out.
    """

    max_depth: Annotated[int, Field(ge=0, le=10)] = 2
    samples: Annotated[int, Field(ge=1000, le=10**8)] = 10**6
    diffraction: bool = False
    scattering: Annotated[float, Field(ge=0, le=1)] = 0.0
    scattering_samples: Annotated[int, Field(ge=100, le=10**7)] = 10_000
    refraction: bool = False
    max_paths: Annotated[int, Field(ge=1, le=1000)] = 16
    floor_db: Annotated[float, Field(le=0, ge=-300)] = -50.0
    seed: Annotated[int, Field(ge=1)] = 1


class Material(Table):
    """Overrides of a scene material; what is left out stays as the scene has it."""

    relative_permittivity: Annotated[float, Field(ge=1)] | None = None
    conductivity_s_m: Annotated[float, Field(ge=0)] | None = None
