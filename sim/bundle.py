"""The site bundle: ray-traced paths of a site on a grid of user positions, in one HDF5 file.

`twin.h5` and `world.h5` are two bundles of the same site, traced with different settings. Paths are kept as geometry
and passband gain, so that carrier offset, array and RIS are applied afterwards (`sim.channels`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ingest.errors import InputRefused, UsageRefused
from sim.site import Site, TraceSettings

SCHEMA = "twinbeam.site-bundle/1"
LINKS = ("bs_user", "bs_ris", "ris_user")


@dataclass(frozen=True)
class PathTable:
    """Paths of many links, one after another. Link i owns rows offsets[i] to offsets[i+1].

    offsets [links+1]. gain [L] complex128: passband coefficient without the phase of its length, element patterns of
    traced antennas included. length_m [L]. departure, arrival [L, 3]: unit vectors that leave the transmitter and
    the receiver along the path. kind [L]: bit set of interactions, 0 for line of sight (see `KINDS`).
    """

    offsets: npt.NDArray[np.int64]
    gain: npt.NDArray[np.complex128]
    length_m: npt.NDArray[np.float64]
    departure: npt.NDArray[np.float64]
    arrival: npt.NDArray[np.float64]
    kind: npt.NDArray[np.uint8]

    @property
    def links(self) -> int:
        return len(self.offsets) - 1

    @property
    def paths(self) -> int:
        return len(self.gain)

    def rows(self, link: int) -> slice:
        """The rows of `link`."""
        return slice(int(self.offsets[link]), int(self.offsets[link + 1]))


KINDS = {1: "specular", 2: "diffuse", 4: "refraction", 8: "diffraction"}


@dataclass(frozen=True)
class SiteBundle:
    """Everything traced of a site. positions_m [P, 3] is the user grid; link i of `*_user` is position i.

    bs_ris is a table of one link; it and ris_user have no rows where the site has no RIS. sha256 identifies the file
    it was read from, "" before it is saved.
    """

    site: Site
    settings: TraceSettings
    positions_m: npt.NDArray[np.float64]
    bs_user: PathTable
    bs_ris: PathTable
    ris_user: PathTable
    made_with: dict[str, str]
    sha256: str = ""


def save_bundle(bundle: SiteBundle, path: Path) -> None:
    """Write `bundle`, replacing what was there only when the new file is whole."""
    partial = path.with_name(path.name + ".partial")
    with h5py.File(partial, "w", track_order=True, libver="latest") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["site"] = bundle.site.model_dump_json()
        file.attrs["settings"] = bundle.settings.model_dump_json()
        file.attrs["made_with"] = json.dumps(bundle.made_with, sort_keys=True)
        _write(file, "positions_m", bundle.positions_m)
        for name in LINKS:
            table: PathTable = getattr(bundle, name)
            group = file.create_group(name, track_order=True)
            _write(group, "offsets", table.offsets)
            _write(group, "gain", table.gain.astype(np.complex64))
            _write(group, "length_m", table.length_m)
            _write(group, "departure", table.departure.astype(np.float32))
            _write(group, "arrival", table.arrival.astype(np.float32))
            _write(group, "kind", table.kind)
    partial.replace(path)


def _write(group: Any, name: str, values: npt.NDArray[Any]) -> None:
    if values.size:
        group.create_dataset(name, data=values, compression="gzip", compression_opts=9, shuffle=True)
    else:
        group.create_dataset(name, data=values)


def load_bundle(path: Path) -> SiteBundle:
    """The bundle at `path`; `InputRefused` when it is not one or contradicts itself."""
    where = str(path)
    try:
        digest = file_digest(path)
        with h5py.File(path, "r") as file:
            schema = str(file.attrs.get("schema", ""))
            if schema != SCHEMA:
                raise InputRefused(f"schema {schema!r} is not {SCHEMA!r}", where=where, mend="twinbeam twin build")
            bundle = SiteBundle(
                site=Site.model_validate_json(file.attrs["site"]),
                settings=TraceSettings.model_validate_json(file.attrs["settings"]),
                positions_m=np.asarray(file["positions_m"], np.float64),
                bs_user=_read_table(file["bs_user"]),
                bs_ris=_read_table(file["bs_ris"]),
                ris_user=_read_table(file["ris_user"]),
                made_with=json.loads(file.attrs["made_with"]),
                sha256=digest,
            )
    except FileNotFoundError:
        raise UsageRefused("no such bundle", where=where, mend="make it: twinbeam twin build SITE") from None
    except (OSError, KeyError, ValueError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefused(f"is not a site bundle: {reason}", where=where, mend="twinbeam twin build SITE") from None
    _check(bundle, where)
    return bundle


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_table(group: Any) -> PathTable:
    return PathTable(
        offsets=np.asarray(group["offsets"], np.int64),
        gain=np.asarray(group["gain"], np.complex128),
        length_m=np.asarray(group["length_m"], np.float64),
        departure=np.asarray(group["departure"], np.float64).reshape(-1, 3),
        arrival=np.asarray(group["arrival"], np.float64).reshape(-1, 3),
        kind=np.asarray(group["kind"], np.uint8),
    )


def _check(bundle: SiteBundle, where: str) -> None:
    """Refuse tables that do not fit each other or hold numbers that are none."""
    users = bundle.positions_m.shape[0]
    if bundle.positions_m.shape != (users, 3) or users == 0 or not np.isfinite(bundle.positions_m).all():
        raise InputRefused("positions are empty or not finite", where=where, mend="twinbeam twin build SITE")
    expected = {"bs_user": users, "bs_ris": 1, "ris_user": users}
    for name, links in expected.items():
        table: PathTable = getattr(bundle, name)
        count = table.paths
        arrays = (table.gain, table.length_m, table.departure, table.arrival)
        whole = table.links == links and table.offsets[0] == 0 and table.offsets[-1] == count
        lengths = {len(table.length_m), len(table.departure), len(table.arrival), len(table.kind), count}
        if not whole or len(lengths) != 1 or np.any(np.diff(table.offsets) < 0):
            raise InputRefused(f"table {name} contradicts itself", where=where, mend="twinbeam twin build SITE")
        if not all(np.isfinite(array).all() for array in arrays):
            raise InputRefused(f"table {name} holds NaN", where=where, mend="twinbeam twin build SITE")
