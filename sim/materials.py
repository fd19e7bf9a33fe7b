"""What things are made of: ITU materials by name, the choices of paper P3, and OpenStreetMap's words for them.

A name is `itu_` and a material of Recommendation ITU-R P.2040, whose permittivity and conductivity Sionna RT knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Preset = Literal["MC1", "MC2", "MC3"]

ITU_MATERIALS = frozenset(
    "itu_" + name
    for name in (
        "asphalt_concrete",
        "brick",
        "carpet_tile",
        "ceiling_board",
        "chipboard",
        "concrete",
        "glass",
        "marble",
        "medium_dry_ground",
        "metal",
        "plasterboard",
        "plywood",
        "vacuum",
        "very_dry_ground",
        "vinyl_tile",
        "wet_ground",
        "wood",
    )
)
"""The materials of ITU-R P.2040-4, table 3, as Sionna RT 2.2 has them. Each is known in some bands only.

Floorboard and clear acrylic are missing: Sionna RT loads a scene at 3.5 GHz, where it refuses them.
"""

THICKNESS_M = 0.1
"""Of every wall, as in the scenes that come with Sionna RT: waves are reflected by a slab, not by a half-space."""


@dataclass(frozen=True)
class Surfaces:
    """A material name for each kind of surface."""

    ground: str
    wall: str
    roof: str


PRESETS: Mapping[Preset, Surfaces] = {
    "MC1": Surfaces(ground="itu_concrete", wall="itu_marble", roof="itu_metal"),
    "MC2": Surfaces(ground="itu_concrete", wall="itu_marble", roof="itu_wood"),
    "MC3": Surfaces(ground="itu_concrete", wall="itu_brick", roof="itu_wood"),
}
"""Paper P3, table II."""

# Stone is none of the ITU's materials but marble; plaster is thin, so what lies behind it counts.
_TAGS = {
    "itu_brick": "brick bricks clay plaster roof_tiles tile tiles",
    "itu_concrete": "cement cement_block concrete eternit panel reinforced_concrete",
    "itu_wood": "thatch timber timber_framing wood",
    "itu_glass": "glass mirror",
    "itu_metal": "aluminium copper metal metal_plates metal_sheet sheet_metal steel tin zinc",
    "itu_marble": "granite limestone marble masonry sandstone slate stone",
    "itu_asphalt_concrete": "asphalt bitumen tar_paper",
}
TAG_MATERIALS: Mapping[str, str] = {tag: name for name, tags in _TAGS.items() for tag in tags.split()}
"""Values of OpenStreetMap's keys `building:material` and `roof:material` (as its wiki lists them) to material names."""


def material_of_tag(tag: object, more: Mapping[str, str]) -> str | None:
    """The material that a tag's value means, None where nobody knows. more: what comes before `TAG_MATERIALS`."""
    if not isinstance(tag, str):
        return None
    word = tag.strip().lower().replace(" ", "_").replace("-", "_")
    if word in more:
        return more[word]
    if word in TAG_MATERIALS:
        return TAG_MATERIALS[word]
    name = word if word.startswith("itu_") else "itu_" + word
    return name if name in ITU_MATERIALS else None
