"""One set of knobs for all of fidelity: a site's world and its twin are two settings of the same knobs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sim.fidelity.knobs import FoliageSettings, GeometrySettings, HardwareSettings, PositionSettings
from sim.materials import ITU_MATERIALS
from sim.site import Material, TraceSettings


class FidelitySettings(TraceSettings):
    """The four aspects of paper P5, section IV-C: geometry, materials, ray tracing (inherited) and hardware.

    materials: overrides by name. building_material: all that is not ground is of this ITU material, as where P5,
    section VII-D, takes everything for concrete or for drywall (`itu_plasterboard`).
    """

    geometry: GeometrySettings = GeometrySettings()
    foliage: FoliageSettings = FoliageSettings()
    hardware: HardwareSettings = HardwareSettings()
    position: PositionSettings = PositionSettings()
    materials: dict[str, Material] = Field(default_factory=dict)
    building_material: str | None = None

    @model_validator(mode="after")
    def _known_material(self) -> Self:
        if self.building_material is not None and self.building_material not in ITU_MATERIALS:
            raise ValueError(f"no material '{self.building_material}'; there are {', '.join(sorted(ITU_MATERIALS))}")
        return self
