"""One set of knobs for all of fidelity: a site's world and its twin are two settings of the same knobs."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sim.fidelity.knobs import FoliageSettings, GeometrySettings, HardwareSettings, PositionSettings
from sim.materials import ITU_MATERIALS
from sim.trace_settings import Material, TraceSettings


class FidelitySettings(TraceSettings):
    """The four aspects of paper P5, section IV-C: geometry, materials, ray tracing (inherited) and hardware.

    materials: overrides by name. building_material: all that is not ground is of this ITU material, as where P5,
    section VII-D, takes everything for concrete or for drywall (`itu_plasterboard`). drop_repeats: leave out
    reflections that Sionna RT finds twice (`sim.fidelity.doubles`); None does where buildings are moved or rebuilt.
    """

    geometry: GeometrySettings = GeometrySettings()
    foliage: FoliageSettings = FoliageSettings()
    hardware: HardwareSettings = HardwareSettings()
    position: PositionSettings = PositionSettings()
    materials: dict[str, Material] = Field(default_factory=dict)
    building_material: str | None = None
    drop_repeats: bool | None = None

    @classmethod
    def of(cls, settings: TraceSettings) -> FidelitySettings:
        """Settings with all knobs; those that only trace leave them off."""
        return settings if isinstance(settings, FidelitySettings) else cls(**settings.model_dump())

    @property
    def without_repeats(self) -> bool:
        """Whether repeated paths are to be taken out."""
        return self.geometry.changes if self.drop_repeats is None else self.drop_repeats

    @model_validator(mode="after")
    def _known_material(self) -> Self:
        if self.building_material is not None and self.building_material not in ITU_MATERIALS:
            raise ValueError(f"no material '{self.building_material}'; there are {', '.join(sorted(ITU_MATERIALS))}")
        return self

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without knobs that are off: what was written, or hashed, before there was a knob is so ever after."""
        off = FidelitySettings.model_construct()
        return {
            name: value
            for name, value in told(self).items()
            if name in TraceSettings.model_fields or getattr(self, name) != getattr(off, name)
        }
