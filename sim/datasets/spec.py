"""The specification of a data set: which site, how faithfully traced, where users stand, and what is kept of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ingest.errors import TwinbeamError, UsageRefused
from ingest.settings_file import read_toml, validated
from sim.datasets.scene_files import scene_digest
from sim.fidelity.knobs import PositionSettings
from sim.fidelity.settings import FidelitySettings
from sim.site import Site, load_site, site_path

BATCH = 64
"""Samples traced together. What the tracer finds may depend on who shares a batch, so batches never change."""

PACKAGES = ("twinbeam", "sionna-rt", "mitsuba", "drjit", "numpy")
"""Whose versions decide on the bytes of a set."""

_LARGEST_SHARD_BYTES = 1 << 30
_MEND_SIONNA = "pip install 'twinbeam[twin]'"

Bandwidth = Annotated[float, Field(gt=0, le=1e11)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Trace(BaseModel):
    """The site's `[twin]` or `[world]` table, and what is different from it: any key of those tables."""

    model_config = ConfigDict(extra="allow", frozen=True)

    like: Literal["twin", "world"] = "twin"


class Positions(_Table):
    """Where users stand, outdoors in the site's user area.

    draw: points of its grid, any with the same chance; or anywhere; or along straight tracks of `track_samples` points
    `step_m` apart, which lie in the area as a whole.
    """

    draw: Literal["grid", "uniform", "tracks"] = "uniform"
    track_samples: Annotated[int, Field(ge=2, le=4096)] = 64
    step_m: Annotated[float, Field(gt=0, le=1000)] = 0.5


class Cfr(_Table):
    """The channel on `tones` tones spread evenly over the bandwidth."""

    tones: Annotated[int, Field(ge=1, le=8192)]
    bandwidth_hz: Bandwidth

    @property
    def tones_hz(self) -> npt.NDArray[np.float64]:
        """Offsets from the carrier. Shape [tones]."""
        return np.asarray((np.arange(self.tones) - self.tones // 2) * (self.bandwidth_hz / self.tones), np.float64)


class Cir(_Table):
    """The channel's impulse response sampled at the bandwidth; tap number `before` is at the earliest path."""

    taps: Annotated[int, Field(ge=1, le=8192)]
    bandwidth_hz: Bandwidth
    before: Annotated[int, Field(ge=0, le=1024)] = 4


class Cascade(_Table):
    """The cascade over the RIS at the carrier; it has no settings."""


class DatasetSpec(_Table):
    """A whole specification file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    site: str
    samples: Annotated[int, Field(ge=1, le=10**8)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    shard_samples: Annotated[int, Field(ge=BATCH, le=10**6, multiple_of=BATCH)] = 1024
    normalise: Literal["none", "set", "sample"] = "none"
    trace: Trace = Trace()
    positions: Positions = Positions()
    cfr: Cfr | None = None
    cir: Cir | None = None
    cascade: Cascade | None = None

    @model_validator(mode="after")
    def _keeps_something(self) -> DatasetSpec:
        if self.cfr is None and self.cir is None and self.cascade is None:
            raise ValueError("nothing to keep; add a table [cfr], [cir] or [cascade]")
        return self

    @property
    def shards(self) -> int:
        return -(-self.samples // self.shard_samples)

    def shard_range(self, shard: int) -> range:
        """The samples of a shard."""
        return range(shard * self.shard_samples, min((shard + 1) * self.shard_samples, self.samples))


@dataclass(frozen=True)
class Plan:
    """A specification with everything that it names. folder: where the site's scene is looked for.

    scene_sha256: of the files that the scene is read from, "" of one that comes with Sionna RT.
    """

    spec: DatasetSpec
    site: Site
    settings: FidelitySettings
    folder: Path
    scene_sha256: str
    made_with: dict[str, str]

    @property
    def world(self) -> bool:
        """Whether the site's `world_materials` apply."""
        return self.spec.trace.like == "world"

    @property
    def channels(self) -> dict[str, tuple[int, ...]]:
        """The complex arrays to keep, and a sample's shape in each."""
        spec, antennas = self.spec, self.site.bs.elements
        shapes: dict[str, tuple[int, ...]] = {}
        if spec.cfr is not None:
            shapes["cfr"] = (antennas, spec.cfr.tones)
        if spec.cir is not None:
            shapes["cir"] = (antennas, spec.cir.taps)
        if spec.cascade is not None and self.site.ris is not None:
            shapes["cascade"] = (self.site.ris.elements + 1, antennas)
        return shapes

    def identity(self) -> dict[str, Any]:
        """All that decides on the bytes of the set, as JSON has it."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "site": self.site.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "scene_sha256": self.scene_sha256,
            "made_with": self.made_with,
        }


def load_plan(path: Path) -> Plan:
    """The specification at `path` and the site that it names.

    Raises `UsageRefused` or `InputRefused` where one of them cannot serve, `TwinbeamError` without Sionna RT.
    """
    spec = validated(DatasetSpec, read_toml(path), str(path))
    site_file = _site_file(spec.site, path.parent)
    site = load_site(site_file)
    base = site.world if spec.trace.like == "world" else site.twin
    settings = validated(FidelitySettings, {**base.model_dump(), **(spec.trace.model_extra or {})}, f"{path} [trace]")
    _refuse_unused(settings, f"{path} [trace]")
    folder = site_file.parent.resolve()
    plan = Plan(spec, site, settings, folder, scene_digest(site.scene, folder), installed_versions())
    if spec.cascade is not None and site.ris is None:
        raise UsageRefused("the site has no [ris] to cascade over", where=str(path), mend="leave [cascade] out")
    size = 8 * spec.shard_samples * sum(int(np.prod(shape)) for shape in plan.channels.values())
    if size > _LARGEST_SHARD_BYTES:
        raise UsageRefused(f"shards of {size / 1e9:.1f} GB", where=str(path), mend="a smaller shard_samples")
    return plan


def _refuse_unused(settings: FidelitySettings, where: str) -> None:
    """A set holds channels of a moment: what acts on signals or over time would not be obeyed."""
    if names := settings.hardware.on_signals:
        what = f"hardware.{names[0]} acts on signals, not on channels"
        raise UsageRefused(what, where=where, mend="hardware = {} in [trace]")
    if settings.position.correlation_s != PositionSettings().correlation_s:
        raise UsageRefused("position.correlation_s acts over time", where=where, mend="position = {} in [trace]")


def _site_file(name: str, beside: Path) -> Path:
    """A site's path starts from the specification; a name is that of a site we ship."""
    near = beside / name
    return site_path(str(near) if near.exists() or near.suffix == ".toml" else name)


def installed_versions() -> dict[str, str]:
    """Of the packages that decide on the bytes; `TwinbeamError` where one is missing."""
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise TwinbeamError(f"data sets need {error.name}", mend=_MEND_SIONNA) from None


def json_digest(canonical: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(canonical.encode()).hexdigest()
