"""The site file: what a user says once about a place, its arrays and its RIS.

Coordinates are the scene's: metres, x east, y north, z up. Angles are degrees: yaw turns counter-clockwise from x,
pitch downwards. An array looks along its own x axis; its rows stand on z, its columns on y.
"""

from __future__ import annotations

import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ingest.errors import UsageRefused
from ingest.settings_file import read_toml, validated
from sim.fidelity.knobs import Metres as Metres
from sim.fidelity.knobs import PositionSettings, Table
from sim.fidelity.knobs import Vector as Point
from sim.fidelity.settings import FidelitySettings
from sim.materials import ITU_MATERIALS, PRESETS, Preset, Surfaces
from sim.trace_settings import Material as Material
from sim.trace_settings import TraceSettings as TraceSettings

SPEED_OF_LIGHT_M_S = 299_792_458.0

Degrees = Annotated[float, Field(ge=-1e6, le=1e6)]


class Mount(Table):
    """Where something stands and where it looks."""

    position_m: Point
    yaw_deg: Degrees = 0.0
    pitch_deg: Degrees = 0.0

    def rotation(self) -> npt.NDArray[np.float64]:
        """Own axes as columns of a [3, 3] matrix: boresight, left (along columns), up (along rows)."""
        yaw, pitch = np.radians(self.yaw_deg), np.radians(self.pitch_deg)
        boresight = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        left = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        return np.stack([boresight, left, np.cross(boresight, left)], axis=1)


class Panel(Mount):
    """A planar array of rows x columns elements, spaced in wavelengths of the site's carrier."""

    rows: Annotated[int, Field(ge=1, le=256)] = 1
    columns: Annotated[int, Field(ge=1, le=256)] = 1
    spacing_wavelengths: Annotated[float, Field(gt=0, le=10)] = 0.5

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    def element_positions_m(self, wavelength_m: float) -> npt.NDArray[np.float64]:
        """Element positions relative to the panel's middle, row by row from the top, left to right. [elements, 3]."""
        up = ((self.rows - 1) / 2 - np.arange(self.rows)) * self.spacing_wavelengths * wavelength_m
        left = ((self.columns - 1) / 2 - np.arange(self.columns)) * self.spacing_wavelengths * wavelength_m
        axes = self.rotation()
        grid = up[:, None, None] * axes[:, 2] + left[None, :, None] * axes[:, 1]
        return grid.reshape(-1, 3)


class BaseStation(Panel):
    """The transmit array. pattern: Sionna RT's name of the element pattern.

    field_of_view_deg: opening angle of the cone about boresight that the array serves; 360 is all around.
    """

    pattern: Literal["iso", "dipole", "hw_dipole", "tr38901"] = "tr38901"
    field_of_view_deg: Annotated[float, Field(gt=0, le=360)] = 360.0

    def sees(self, directions: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which unit vectors [L, 3] from the array lie in its field of view (paper P5, section VII-D). Shape [L]."""
        if self.field_of_view_deg == 360.0:
            return np.ones(len(directions), np.bool_)
        cosine = np.clip(directions @ self.rotation()[:, 0], -1.0, 1.0)
        return np.asarray(np.arccos(cosine) <= np.radians(self.field_of_view_deg / 2))


class ElementState(Table):
    """What an element in one of its states makes of a wave, as it was measured: gain_db at most 0, and phase_deg."""

    gain_db: Annotated[float, Field(le=0, ge=-60)] = 0.0
    phase_deg: Degrees


class Ris(Panel):
    """A reconfigurable intelligent surface.

    Power pattern of an element: gamma cos^(2q)(angle) towards the front, nothing behind. gamma = 4 pi s^2 is the gain
    of the aperture (s wavelengths)^2 that an element fills, and 2q = gamma / 2 - 1 makes the pattern radiate what it
    is fed: gamma = pi and q = 0.285 for s = 1/2 (S. W. Ellingson, "Path loss in reconfigurable intelligent
    surface-enabled channels", IEEE PIMRC 2021). `efficiency_db` is what one reflection loses beside.

    states: those that an element has, as measured; none for elements that take any phase and lose nothing by it.
    """

    efficiency_db: Annotated[float, Field(le=0, ge=-60)] = 0.0
    states: Annotated[tuple[ElementState, ...], Field(max_length=256)] = ()

    @model_validator(mode="after")
    def _more_than_one(self) -> Ris:
        if len(self.states) == 1:
            raise ValueError("an element of one state cannot be steered; leave states out, or give two")
        return self

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without states where there are none: a site that was hashed before there were any is the same ever after."""
        return {name: value for name, value in told(self).items() if name != "states" or self.states}

    @property
    def coefficients(self) -> npt.NDArray[np.complex128]:
        """What the states make of a wave [Q]; none where an element takes any phase."""
        gains = np.array([10 ** (state.gain_db / 20) for state in self.states])
        turns = np.radians([state.phase_deg for state in self.states])
        # in the precision in which they are told to a panel, so that what is designed is what is set
        return np.asarray((gains * np.exp(1j * turns)).astype(np.complex64), np.complex128)

    def realised(self, theta: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """What the panel does when it is told theta [M]: each element takes its nearest state."""
        states = self.coefficients
        return theta if not len(states) else states[np.argmin(np.abs(theta[:, None] - states), axis=1)]

    @property
    def peak(self) -> float:
        """Amplitude pattern of an element at boresight. A reflection passes it twice, each with half the loss."""
        return float(np.sqrt(self._gamma) * 10 ** (self.efficiency_db / 40))

    @property
    def half_exponent(self) -> float:
        """q of the amplitude pattern peak * cos^q."""
        return max(self._gamma / 2 - 1, 0.0) / 2

    @property
    def _gamma(self) -> float:
        return float(4 * np.pi * self.spacing_wavelengths**2)


class UserArea(Table):
    """The grid of user positions: outdoor points of a rectangle, `spacing_m` apart, `height_m` over its ground.

    places_m: more positions (x, y), each of which has to be outdoors.
    """

    corner_m: tuple[Metres, Metres]
    size_m: tuple[Annotated[float, Field(gt=0, le=1e6)], Annotated[float, Field(gt=0, le=1e6)]]
    spacing_m: Annotated[float, Field(ge=1e-3, le=1e6)] = 2.0
    height_m: Annotated[float, Field(ge=0, le=1e6)] = 1.5
    places_m: Annotated[tuple[tuple[Metres, Metres], ...], Field(max_length=100_000)] = ()

    @model_validator(mode="after")
    def _not_endless(self) -> UserArea:
        count = (self.size_m[0] / self.spacing_m + 1) * (self.size_m[1] / self.spacing_m + 1)
        if count > 1e6:
            raise ValueError(f"{count:.0f} grid points; enlarge spacing_m")
        return self

    def grid_m(self) -> npt.NDArray[np.float64]:
        """All points of the rectangle, indoors and out, then the places. Shape [points, 3]."""
        axes = [
            corner + self.spacing_m * np.arange(int(size / self.spacing_m + 1e-9) + 1)
            for corner, size in zip(self.corner_m, self.size_m, strict=True)
        ]
        flat = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        return self._lifted(np.concatenate([flat, np.reshape(self.places_m, (-1, 2))]))

    def named_places_m(self) -> npt.NDArray[np.float64]:
        """The places alone. Shape [places, 3]."""
        return self._lifted(np.reshape(np.asarray(self.places_m, np.float64), (-1, 2)))

    def _lifted(self, flat_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack([flat_m, np.full(len(flat_m), self.height_m)])


_WORLD = {"max_depth": 5, "diffraction": True, "scattering": 0.3, "max_paths": 32}
"""What the world has that the twin leaves out, unless its table says otherwise."""


class Geo(Table):
    """How a GeoJSON scene's footprints become buildings.

    coordinates: longitude and latitude in degrees (RFC 7946), or metres, x east, y north. origin: where the site's
    (0, 0) lies, in the file's coordinates; left out, it is the footprints' centroid, or (0, 0) of a file in metres.
    Heights: the property `height`, else `building:levels` times storey_m, else default_height_m.
    """

    coordinates: Literal["lonlat", "metres"] = "lonlat"
    origin: tuple[Annotated[float, Field(ge=-1e8, le=1e8)], Annotated[float, Field(ge=-1e8, le=1e8)]] | None = None
    default_height_m: Annotated[float, Field(gt=0, le=1000)] = 10.0
    storey_m: Annotated[float, Field(gt=0, le=20)] = 3.0
    ground_margin_m: Annotated[float, Field(ge=0, le=10_000)] = 100.0


class SurfaceMaterials(Table):
    """What surfaces of a GeoJSON or PLY scene are made of instead of what the preset says.

    tags: material names for values of the properties `building:material` and `roof:material`.
    """

    ground: str | None = None
    wall: str | None = None
    roof: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> SurfaceMaterials:
        for name in (self.ground, self.wall, self.roof, *self.tags.values()):
            if name is not None and name not in ITU_MATERIALS:
                raise ValueError(f"no material '{name}'; there are {', '.join(sorted(ITU_MATERIALS))}")
        return self


class Site(Table):
    """A whole site file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    scene: str
    carrier_hz: Annotated[float, Field(ge=1e8, le=1e12)]
    bs: BaseStation
    ris: Ris | None = None
    users: UserArea
    twin: FidelitySettings = FidelitySettings()
    world: FidelitySettings = FidelitySettings.model_validate(_WORLD)
    materials: dict[str, Material] = Field(default_factory=dict)
    world_materials: dict[str, Material] = Field(default_factory=dict)
    geo: Geo = Geo()
    material_preset: Preset = "MC1"
    surfaces: SurfaceMaterials = SurfaceMaterials()

    @field_validator("world", mode="before")
    @classmethod
    def _beyond_the_twin(cls, given: Any) -> Any:
        return {**_WORLD, **given} if isinstance(given, dict) else given

    @field_validator("twin", "world", mode="before")
    @classmethod
    def _with_all_knobs(cls, given: Any) -> Any:
        return FidelitySettings.of(given) if isinstance(given, TraceSettings) else given

    @field_validator("twin")
    @classmethod
    def _foretells_channels(cls, twin: FidelitySettings) -> FidelitySettings:
        """What a twin would not obey is refused."""
        if names := twin.hardware.on_signals:
            raise ValueError(f"hardware.{names[0]} acts on signals; a twin has none, only [world] does")
        if twin.position.correlation_s != PositionSettings().correlation_s:
            raise ValueError("position.correlation_s acts over time; a twin's error stays, only that of [world] drifts")
        return twin

    @property
    def wavelength_m(self) -> float:
        return SPEED_OF_LIGHT_M_S / self.carrier_hz

    def seen_with(self, knobs: FidelitySettings) -> Site:
        """The site with the field of view of a knob, where it is turned."""
        return self.model_copy(update={"bs": seeing(self.bs, knobs)})

    def surface_materials(self) -> Surfaces:
        """Materials of ground, walls and roofs of a GeoJSON or PLY scene that say nothing themselves."""
        preset, own = PRESETS[self.material_preset], self.surfaces
        return Surfaces(own.ground or preset.ground, own.wall or preset.wall, own.roof or preset.roof)


def seeing(bs: BaseStation, knobs: FidelitySettings) -> BaseStation:
    """The base station with the field of view of a knob, where it is turned."""
    opening_deg = knobs.hardware.field_of_view_deg
    return bs if opening_deg is None else bs.model_copy(update={"field_of_view_deg": opening_deg})


def sites_folder() -> Path:
    """Where the sites that come with twinbeam lie."""
    return Path(str(resources.files("sim"))) / "sites"


def site_path(name_or_path: str) -> Path:
    """The site file that a user means: a path, a folder that holds `site.toml`, or the name of a site we ship."""
    path = Path(name_or_path)
    if os.path.isdir(name_or_path):  # unlike Path.is_dir, False for what no file system can hold
        return path / "site.toml"
    if path.suffix == ".toml":
        return path
    shipped = sites_folder() / name_or_path / "site.toml"
    if os.path.isfile(shipped):
        return shipped
    known = ", ".join(sorted(folder.name for folder in sites_folder().iterdir() if (folder / "site.toml").is_file()))
    raise UsageRefused("no such site", where=name_or_path, mend=f"a path to a site.toml, or one of: {known}")


def load_site(path: Path) -> Site:
    """The site file at `path`; `UsageRefused` names the first thing wrong with it."""
    return validated(Site, read_toml(path), str(path))


def site_digest(site: Site) -> str:
    """What identifies a site: sha256 of its canonical JSON."""
    return hashlib.sha256(site.model_dump_json().encode()).hexdigest()
