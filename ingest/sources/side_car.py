"""What stands beside a raw IQ file to say what its samples are: `capture.dat.json` or `capture.dat.toml`.

{"rate_hz": 46.08e6, "center_hz": 3.5028e9, "format": "sc16", "channels": 1,
 "gaps": [[460800, 1024]], "start": "2026-11-23T09:00:00Z"}

format: cf32, cf64, sc16 or sc8, or UHD's names of them. channels: interleaved in the file. gaps: [sample, missing]
pairs in rising order: before that sample of the file so many were lost, as on an overflow.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec

from ingest.errors import InputRefused
from ingest.sources.samples import FORMATS

_MAX_BYTES = 16 << 20
_MAX_GAP = 1 << 60
_UHD_NAMES = {"fc32": "cf32", "fc64": "cf64", "cs16": "sc16", "ci16": "sc16", "cs8": "sc8", "ci8": "sc8"}

Place = Annotated[int, msgspec.Meta(ge=0, le=_MAX_GAP)]
Missing = Annotated[int, msgspec.Meta(ge=1, le=_MAX_GAP)]


class SideCar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a side-car says; None is left to the caller."""

    rate_hz: float | None = None
    center_hz: float | None = None
    format: str | None = None
    channels: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    gaps: tuple[tuple[Place, Missing], ...] = ()
    start: str | None = None


def find_side_car(path: Path) -> SideCar | None:
    """The side-car of the raw IQ file `path`, None where there is none. Raises `InputRefused`."""
    for suffix in (".json", ".toml"):
        place = path.with_name(path.name + suffix)
        try:
            if not place.is_file():
                continue
            if place.stat().st_size > _MAX_BYTES:
                raise InputRefused(f"a side-car of over {_MAX_BYTES >> 20} MiB", where=str(place))
            return _parsed(place, place.read_bytes())
        except OSError as error:
            raise InputRefused(f"cannot be read: {error.strerror}", where=str(place)) from None
        except (ValueError, msgspec.ValidationError) as error:  # no JSON, no TOML, no UTF-8, a value of a wrong type
            raise InputRefused(f"is no side-car: {error}", where=str(place), mend="see docs/sources.md") from None
        except RecursionError:
            raise InputRefused("is no side-car: nested too deeply", where=str(place)) from None
    return None


def _parsed(place: Path, content: bytes) -> SideCar:
    if place.suffix == ".json":
        told = json.loads(content, parse_constant=_refuse_constant)
    else:
        told = tomllib.loads(content.decode())
    car = msgspec.convert(told, SideCar)
    if car.format is not None:
        name = _UHD_NAMES.get(car.format, car.format)
        if name not in FORMATS:
            raise InputRefused(f"unknown format '{car.format}'", where=str(place), mend=f"one of {', '.join(FORMATS)}")
        car = msgspec.structs.replace(car, format=name)
    places = [at for at, _ in car.gaps]
    if places != sorted(set(places)):
        raise InputRefused("its gaps are not in rising order", where=str(place))
    if sum(missing for _, missing in car.gaps) > _MAX_GAP:
        raise InputRefused("its gaps are absurdly long", where=str(place))
    return car


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
