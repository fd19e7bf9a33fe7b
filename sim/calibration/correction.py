"""What a calibration puts right that no site file can say, and the file beside it that keeps it: `correction.json`.

Whoever traces users of the twin afterwards applies it: bundles and the live tracer. Data sets leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from sim.calibration.scatterers import Scatterer, Scatterers
from sim.calibration.walls import WallGains
from sim.paths import PathTable, merged, within
from sim.site import Site, site_digest

Real = npt.NDArray[np.float64]

FILE = "correction.json"
_SCHEMA = "twinbeam.correction/1"
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Correction:
    """Gains of walls, and scatterers that the array at array_m [3] sees."""

    walls: WallGains
    scatterers: Scatterers
    array_m: Real
    wavelength_m: float

    def applied(self, table: PathTable, receivers_m: Real) -> PathTable:
        """A table of paths from the base station to receivers_m [K, 3] with what is put right."""
        mended = replace(table, gain=table.gain * self.walls.of(table, receivers_m))
        points = self.scatterers.table(self.array_m, receivers_m, self.wavelength_m)
        return merged(mended, within(points, points.gain != 0))


_Place = tuple[float, float, float]
_Complex = tuple[float, float]


class _Wall(msgspec.Struct):
    source_m: _Place
    gain: _Complex


class _Point(msgspec.Struct):
    position_m: _Place
    gain: _Complex
    visible: list[Annotated[float, msgspec.Meta(ge=0, le=1)]]


class _File(msgspec.Struct):
    schema: str
    site_sha256: str
    array_m: _Place
    wavelength_m: Annotated[float, msgspec.Meta(gt=0)]
    walls: list[_Wall]
    seen_from_m: list[_Place]
    scatterers: list[_Point]


def save_correction(correction: Correction, site: Site, folder: Path) -> None:
    """Write it beside the site file in `folder` of the `site` that it belongs to."""
    walls, scatterers = correction.walls, correction.scatterers
    file = _File(
        schema=_SCHEMA,
        site_sha256=site_digest(site),
        array_m=_place(correction.array_m),
        wavelength_m=correction.wavelength_m,
        walls=[
            _Wall(_place(source), (float(gain.real), float(gain.imag)))
            for source, gain in zip(walls.sources_m, walls.gain, strict=True)
        ],
        seen_from_m=[_place(place) for place in scatterers.seen_from_m],
        scatterers=[
            _Point(_place(point.position_m), (float(point.gain.real), float(point.gain.imag)), point.visible.tolist())
            for point in scatterers.points
        ],
    )
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1))


def load_correction(site: Site, folder: Path) -> Correction | None:
    """The correction beside the site file in `folder`; None where there is none.

    Raises `InputRefused` where it is none or belongs to another site.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    mend = "twinbeam twin calibrate, or take it away"
    if path.stat().st_size > _MAX_BYTES:
        raise InputRefused("far too large for a correction", where=str(path), mend=mend)
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (msgspec.DecodeError, OSError) as error:
        raise InputRefused(f"no correction: {error}", where=str(path), mend=mend) from None
    if file.schema != _SCHEMA:
        raise InputRefused(f"schema {file.schema!r} is not {_SCHEMA!r}", where=str(path), mend=mend)
    if file.site_sha256 != site_digest(site):
        raise InputRefused("belongs to another state of the site", where=str(path), mend=mend)
    if any(len(point.visible) != len(file.seen_from_m) or not file.seen_from_m for point in file.scatterers):
        raise InputRefused("a scatterer's visibility is not that of the places", where=str(path), mend=mend)
    return Correction(
        WallGains(
            np.array([wall.source_m for wall in file.walls]).reshape(-1, 3),
            np.array([complex(*wall.gain) for wall in file.walls], np.complex128),
        ),
        Scatterers(
            tuple(
                Scatterer(np.array(point.position_m), complex(*point.gain), np.array(point.visible))
                for point in file.scatterers
            ),
            np.array(file.seen_from_m).reshape(-1, 3),
        ),
        np.array(file.array_m),
        file.wavelength_m,
    )


def _place(values: Real) -> _Place:
    x, y, z = (float(value) for value in values)
    return x, y, z
