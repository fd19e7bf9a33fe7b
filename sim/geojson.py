"""Reads building footprints with heights from GeoJSON (RFC 7946): where each stands, how high, and made of what.

Longitude and latitude become metres on a local plane: x east, y north about the origin (`Plane`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from ingest.errors import InputRefused, UsageRefused
from sim.materials import Surfaces, material_of_tag
from sim.site import Geo, Site

Real = npt.NDArray[np.float64]

GRID_M = 1e-3
"""Outlines are rounded to this, so that what should touch does."""

MIN_AREA_M2 = 1e-2
"""What covers less ground is no building."""

_FARTHEST_M = 8_000.0
"""How far a building may lie from the origin: the plane is flat, and in single precision points a millimetre apart
are two only so far."""

_MAX_BYTES = 1 << 28
_MAX_HEIGHT_M = 1000.0
_EQUATOR_M, _FLATTENING = 6_378_137.0, 1 / 298.257223563  # WGS 84
_ECCENTRICITY2 = _FLATTENING * (2 - _FLATTENING)
_NUMBER = r"(\d+(?:[.,]\d+)?)"
_METRES = re.compile(rf"{_NUMBER}\s*(?:m|metres?|meters?)?")
_FEET = re.compile(rf"{_NUMBER}\s*(?:'|ft|feet)(?:\s*{_NUMBER}\s*\")?")


@dataclass(frozen=True)
class Footprint:
    """One building. outline: shapely Polygon or MultiPolygon in metres; it fills low_m to high_m over the ground."""

    name: str
    outline: Any
    low_m: float
    high_m: float
    wall: str
    roof: str


@dataclass(frozen=True)
class Footprints:
    """A file's buildings. origin: where (0, 0) is, in the file's coordinates. repaired: outlines that crossed
    themselves. passed_over: features that are no buildings. unknown_materials: values of material tags that mean
    nothing here, so that the preset holds."""

    buildings: tuple[Footprint, ...]
    origin: tuple[float, float]
    repaired: int
    passed_over: int
    unknown_materials: tuple[str, ...]


@dataclass(frozen=True)
class Plane:
    """The plane that touches the WGS 84 ellipsoid at longitude and latitude `origin` [degrees]."""

    origin: tuple[float, float]

    def metres(self, lonlat: Real) -> Real:
        """East and north [n, 2] of longitudes and latitudes [n, 2]; how far the Earth bends away below is left out."""
        x, y, z = (_earth_centred(lonlat) - _earth_centred(np.array([self.origin]))).T
        lon, lat = np.radians(self.origin)
        east = -np.sin(lon) * x + np.cos(lon) * y
        north = -np.sin(lat) * (np.cos(lon) * x + np.sin(lon) * y) + np.cos(lat) * z
        return np.stack([east, north], axis=1)

    def lonlat(self, metres: Real) -> tuple[float, float]:
        """About the longitude and latitude of a point near the origin, by the ellipsoid's radii there."""
        lat = np.radians(self.origin[1])
        shrunk = 1 - _ECCENTRICITY2 * np.sin(lat) ** 2
        across_m = _EQUATOR_M / np.sqrt(shrunk)
        along_m = _EQUATOR_M * (1 - _ECCENTRICITY2) / shrunk**1.5
        east, north = np.degrees(metres[0] / (across_m * np.cos(lat))), np.degrees(metres[1] / along_m)
        return round(float(self.origin[0] + east), 7), round(float(self.origin[1] + north), 7)


def _earth_centred(lonlat: Real) -> Real:
    """Earth-centred coordinates [n, 3] of points on the ellipsoid."""
    lon, lat = np.radians(lonlat).T
    across_m = _EQUATOR_M / np.sqrt(1 - _ECCENTRICITY2 * np.sin(lat) ** 2)
    up = across_m * (1 - _ECCENTRICITY2) * np.sin(lat)
    return np.stack([across_m * np.cos(lat) * np.cos(lon), across_m * np.cos(lat) * np.sin(lon), up], axis=1)


def read_footprints(path: Path, site: Site) -> Footprints:
    """The buildings of the GeoJSON file at `path`, heights and materials by the site's rules.

    Raises `UsageRefused` (no such file) or `InputRefused`, which names the feature that cannot be used.
    """
    features = list(_features(_document(path), str(path)))
    # A file of OpenStreetMap holds parks and streets too; a file of nothing but outlines says `building` nowhere.
    tagged = any("building" in properties for _, properties, _ in features)
    chosen = [
        (geometry, properties, f"{path}: {name}", name)
        for geometry, properties, name in features
        if geometry.get("type") in ("Polygon", "MultiPolygon")
        and (properties.get("building") not in (None, "no") if tagged else True)
    ]
    if not chosen:
        raise InputRefused("holds no building outline", where=str(path), mend="Polygon or MultiPolygon features")
    rings = [_polygons(geometry, site.geo, where) for geometry, _, where, _ in chosen]
    origin, to_metres = _placed(rings, site.geo)
    buildings, repaired, unknown = [], 0, set()
    for polygons, (_, properties, where, name) in zip(rings, chosen, strict=True):
        outline, mended = _outline([[to_metres(ring) for ring in polygon] for polygon in polygons], where)
        repaired += mended
        low_m, high_m = _heights(properties, site.geo, where)
        wall, roof, strange = _surfaces(properties, site)
        unknown |= strange
        buildings.append(Footprint(name, outline, low_m, high_m, wall, roof))
    passed_over = len(features) - len(chosen)
    return Footprints(tuple(buildings), origin, repaired, passed_over, tuple(sorted(unknown)))


def _document(path: Path) -> dict[str, Any]:
    """The file's JSON object."""
    where = str(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputRefused(f"larger than {_MAX_BYTES >> 20} MiB", where=where, mend="cut it to the site")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageRefused(
            "no such scene file", where=where, mend="a GeoJSON file, relative to the site file"
        ) from None
    except OSError as error:
        raise UsageRefused(f"cannot be read: {error.strerror}", where=where) from None
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"is not JSON: {error}", where=where, mend="see RFC 7946") from None
    if not isinstance(document, dict):
        raise InputRefused("is not GeoJSON: no object", where=where, mend="see RFC 7946")
    crs = json.dumps(document.get("crs") or "CRS84")
    if "CRS84" not in crs and not re.search(r"EPSG:+4326\b", crs):
        mend = 'export it as WGS 84, or as metres with [geo] coordinates = "metres" and without crs'
        raise InputRefused(f"crs {crs[:80]} is not longitude and latitude", where=where, mend=mend)
    return document


def _features(document: dict[str, Any], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Geometry, properties and name of every feature; a bare geometry is a feature without properties."""
    kind = document.get("type")
    if kind == "FeatureCollection":
        features = document.get("features")
    else:
        features = [document if kind == "Feature" else {"geometry": document, "properties": {}}]
    if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
        raise InputRefused("is not GeoJSON: no list of features", where=where, mend="see RFC 7946")
    for index, feature in enumerate(features):
        geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
        if not isinstance(geometry, dict) or not isinstance(properties, dict):
            raise InputRefused(f"feature {index + 1} is no GeoJSON feature", where=where, mend="see RFC 7946")
        own = [properties.get("name"), feature.get("id"), properties.get("@id"), properties.get("id")]
        name = next((str(one)[:60] for one in own if isinstance(one, str | int) and str(one)), "")
        yield geometry, properties, f"building {index + 1}" + (f" ({name})" if name else "")


def _polygons(geometry: dict[str, Any], geo: Geo, where: str) -> list[list[Real]]:
    """Polygons of rings of points [n, 2], in the file's coordinates, each ring without its closing point."""
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise InputRefused("an outline without coordinates", where=where, mend="remove the feature")
    found = []
    for polygon in polygons:
        if not isinstance(polygon, list) or not polygon:
            raise InputRefused("an outline without rings", where=where, mend="remove the feature")
        found.append([_ring(ring, geo, where) for ring in polygon])
    return found


def _ring(ring: Any, geo: Geo, where: str) -> Real:
    try:
        points = np.array([[x, y] for x, y, *_ in ring], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise InputRefused("a ring that is no list of positions", where=where, mend="see RFC 7946") from None
    if not np.isfinite(points).all():
        raise InputRefused("a position that is not finite", where=where, mend="see RFC 7946")
    if geo.coordinates == "lonlat" and np.any(np.abs(points) > [180.0, 90.0]):
        lon, lat = points[np.argmax(np.max(np.abs(points) / [180.0, 90.0], axis=1))]
        mend = 'longitude comes first; metres need [geo] coordinates = "metres"'
        raise InputRefused(f"({lon:g}, {lat:g}) is no longitude and latitude", where=where, mend=mend)
    if len(points) > 1 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    if len(np.unique(points, axis=0)) < 3:
        raise InputRefused("a ring of fewer than three points", where=where, mend="remove the ring or the feature")
    return points


def _placed(rings: list[list[list[Real]]], geo: Geo) -> tuple[tuple[float, float], Any]:
    """The origin in the file's coordinates, and a function from them to metres."""
    if geo.coordinates == "metres":
        origin = geo.origin or (0.0, 0.0)
        return origin, lambda points: points - np.array(origin)
    if geo.origin is not None:
        if abs(geo.origin[0]) > 180 or abs(geo.origin[1]) > 90:
            raise UsageRefused(f"{geo.origin} is no longitude and latitude", where="[geo] origin", mend="lon, lat")
        return geo.origin, Plane(geo.origin).metres
    first = rings[0][0][0][0]
    near = Plane((float(first[0]), float(first[1])))
    outer = [shapely.Polygon(near.metres(polygon[0])) for polygons in rings for polygon in polygons]
    weights = np.array([outline.area for outline in outer])
    centres = np.array([[outline.centroid.x, outline.centroid.y] for outline in outer])
    middle = np.average(centres, axis=0, weights=weights if weights.sum() > 0 else None)
    origin = near.lonlat(middle)
    return origin, Plane(origin).metres


def _outline(polygons: list[list[Real]], where: str) -> tuple[Any, bool]:
    """The outline on the grid, and whether it had to be repaired."""
    farthest_m = max(float(np.abs(ring).max()) for polygon in polygons for ring in polygon)
    if farthest_m > _FARTHEST_M:
        mend = f"longitude comes first; see [geo] origin; a site reaches {_FARTHEST_M / 1000:.0f} km at most"
        raise InputRefused(f"lies {farthest_m / 1000:.0f} km from the origin", where=where, mend=mend)
    parts = [shapely.Polygon(polygon[0], polygon[1:]) for polygon in polygons]
    given = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    mended = not given.is_valid
    whole = shapely.make_valid(given, method="structure", keep_collapsed=False) if mended else given
    outline = shapely.set_precision(whole, GRID_M)
    if outline.geom_type not in ("Polygon", "MultiPolygon") or outline.area < MIN_AREA_M2:
        raise InputRefused(f"covers {outline.area:.3g} m²: no building", where=where, mend="mend its outline")
    return outline, mended


def _heights(properties: dict[str, Any], geo: Geo, where: str) -> tuple[float, float]:
    """Where the building begins and ends over the ground [m]."""
    high_m = _length(properties, "height", where)
    if high_m is None:
        levels = _length(properties, "building:levels", where)
        high_m = geo.default_height_m if levels is None else levels * geo.storey_m
    low_m = _length(properties, "min_height", where)
    if low_m is None:
        low_m = (_length(properties, "building:min_level", where) or 0.0) * geo.storey_m
    if not 0 <= low_m < high_m <= _MAX_HEIGHT_M:
        what = f"reaches from {low_m:g} to {high_m:g} m over the ground"
        raise InputRefused(what, where=where, mend="mend height, building:levels or min_height")
    return low_m, high_m


def _length(properties: dict[str, Any], key: str, where: str) -> float | None:
    """A length in metres, as OpenStreetMap writes them: a number, `12 m`, `40'` or `40'6"`; None where it says none."""
    given = properties.get(key)
    if given is None or given == "":
        return None
    if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < 1e6:
        return float(given)
    if isinstance(given, str):
        text = given.strip().lower()
        if metres := _METRES.fullmatch(text):
            return float(metres[1].replace(",", "."))
        if feet := _FEET.fullmatch(text):
            inches = float((feet[2] or "0").replace(",", "."))
            return 0.3048 * (float(feet[1].replace(",", ".")) + inches / 12)
    raise InputRefused(f"{key} is {str(given)[:40]!r}", where=where, mend="a number of metres")


def _surfaces(properties: dict[str, Any], site: Site) -> tuple[str, str, set[str]]:
    """Materials of walls and roof, and tags that mean none."""
    rule: Surfaces = site.surface_materials()
    strange: set[str] = set()

    def tagged(key: str, otherwise: str) -> str:
        tag = properties.get(key)
        found = material_of_tag(tag, site.surfaces.tags)
        if found is None and tag is not None:
            strange.add(f"{key}={str(tag)[:40]}")
        return found or otherwise

    return tagged("building:material", rule.wall), tagged("roof:material", rule.roof), strange
