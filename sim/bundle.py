"""The site bundle: ray-traced paths of a site on a grid of user positions, in one HDF5 file.

`twin.h5` and `world.h5` are two bundles of the same site, traced with different settings. Paths are kept as geometry
and passband gain, so that carrier offset, array and RIS are applied afterwards (`sim.channels`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from ingest.errors import InputRefused, UsageRefused
from sim.fidelity.settings import FidelitySettings
from sim.paths import COLUMNS, PathTable
from sim.site import Site

SCHEMA = "twinbeam.site-bundle/2"
LINKS = ("bs_user", "bs_ris", "ris_user")

_STORED = {
    "positions_m": "<f8",
    "offsets": "<i8",
    "gain": "<c8",
    "length_m": "<f8",
    "departure": "<f4",
    "arrival": "<f4",
    "kind": "|u1",
    "reach_m": "<f8",
    "mirror": "<f4",
}
"""Types in the file; single precision where the tracer has no more."""

_TEXTS = TypeAdapter(dict[str, str])
_MAX_NUMBERS = 10**9
"""The most numbers in one array; a file that declares more would take all memory."""

_UNIT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class SiteBundle:
    """Everything traced of a site. positions_m [P, 3] is the user grid; link i of `*_user` is position i.

    bs_ris is a table of one link; it and ris_user have no rows where the site has no RIS. sha256 identifies the file
    it was read from, "" before it is saved.
    """

    site: Site
    settings: FidelitySettings
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
        _write(file, "positions_m", bundle.positions_m, _STORED["positions_m"])
        for name in LINKS:
            group = file.create_group(name, track_order=True)
            for column in COLUMNS:
                _write(group, column, getattr(getattr(bundle, name), column), _STORED[column])
    seal(partial)
    partial.replace(path)


def _write(group: Any, name: str, values: npt.NDArray[Any], dtype: str) -> None:
    stored = values.astype(dtype)
    if stored.size:
        group.create_dataset(name, data=stored, compression="gzip", compression_opts=9, shuffle=True)
    else:
        group.create_dataset(name, data=stored)


def seal(path: Path) -> None:
    """Append a line with the file's sha256. HDF5 does not read past its own end.

    What follows damaged pointers in the HDF5 library may be an endless loop, so damage must be found before it.
    """
    line = _seal_line(file_digest(path))
    with path.open("ab") as file:
        file.write(line)


def _seal_line(digest: str) -> bytes:
    return f"\n# twinbeam sha256 {digest}\n".encode()


_SEAL_BYTES = len(_seal_line("0" * 64))


def _unsealed(path: Path) -> str:
    """sha256 of the whole file; `ValueError` when its seal does not hold."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a journal may name anything; devices never end
        raise ValueError("not a regular file")
    body = hashlib.sha256()
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - _SEAL_BYTES
        file.seek(0)
        while left > 0:
            chunk = file.read(min(left, 1 << 20))
            if not chunk:
                break
            body.update(chunk)
            left -= len(chunk)
        line = file.read()
    if line != _seal_line(body.hexdigest()):
        raise ValueError("damaged, or not written by twinbeam")
    body.update(line)
    return body.hexdigest()


def load_bundle(path: Path) -> SiteBundle:
    """The bundle at `path`; `InputRefused` when it is not one or contradicts itself."""
    where = str(path)
    try:
        digest = _unsealed(path)
        with h5py.File(path, "r") as file:
            schema = str(file.attrs.get("schema", ""))
            if schema != SCHEMA:
                raise InputRefused(f"schema {schema!r} is not {SCHEMA!r}", where=where, mend="twinbeam twin build")
            bundle = SiteBundle(
                site=Site.model_validate_json(file.attrs["site"]),
                settings=FidelitySettings.model_validate_json(file.attrs["settings"]),
                positions_m=_read(file, "positions_m", 3),
                bs_user=_read_table(file["bs_user"]),
                bs_ris=_read_table(file["bs_ris"]),
                ris_user=_read_table(file["ris_user"]),
                made_with=_TEXTS.validate_json(file.attrs["made_with"]),
                sha256=digest,
            )
    except FileNotFoundError:
        raise UsageRefused("no such bundle", where=where, mend="make it: twinbeam twin build SITE") from None
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
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
        offsets=_read(group, "offsets"),
        gain=_read(group, "gain").astype(np.complex128),
        length_m=_read(group, "length_m"),
        departure=_read(group, "departure", 3).astype(np.float64),
        arrival=_read(group, "arrival", 3).astype(np.float64),
        kind=_read(group, "kind"),
        reach_m=_read(group, "reach_m"),
        mirror=_read(group, "mirror", 3, 3).astype(np.float64),
    )


def _read(group: Any, name: str, *columns: int) -> npt.NDArray[Any]:
    """The data set `name` of shape [rows, *columns], as it was stored."""
    stored = group[name]
    if stored.dtype != np.dtype(_STORED[name]) or stored.ndim != 1 + len(columns) or stored.shape[1:] != columns:
        raise ValueError(f"{name} is {stored.dtype} of shape {stored.shape}")
    # Deflate makes no more than 1032 bytes of one; of chunks that are not there, HDF5 makes any number.
    if stored.size > _MAX_NUMBERS or stored.nbytes > max(1100 * stored.id.get_storage_size(), 1 << 20):
        raise ValueError(f"{name} holds {stored.size} numbers")
    return np.asarray(stored[()])


def _check(bundle: SiteBundle, where: str) -> None:
    """Refuse tables that do not fit each other or hold numbers that are none."""
    users = len(bundle.positions_m)
    if users == 0 or not np.isfinite(bundle.positions_m).all():
        raise InputRefused("positions are empty or not finite", where=where, mend="twinbeam twin build SITE")
    expected = {"bs_user": users, "bs_ris": 1, "ris_user": users}
    for name, links in expected.items():
        wrong = _wrong_with(getattr(bundle, name), links)
        if wrong is not None:
            raise InputRefused(f"table {name} {wrong}", where=where, mend="twinbeam twin build SITE")


def _wrong_with(table: PathTable, links: int) -> str | None:
    """What is wrong with a table that should hold the paths of `links` links."""
    count = table.paths
    whole = table.links == links and table.offsets[0] == 0 and table.offsets[-1] == count
    lengths = {len(getattr(table, name)) for name in COLUMNS[1:]}
    if not whole or lengths != {count} or np.any(np.diff(table.offsets) < 0):
        return "contradicts itself"
    arrays = (table.gain, table.length_m, table.departure, table.arrival, table.reach_m, table.mirror)
    if not all(np.isfinite(array).all() for array in arrays):
        return "holds NaN"
    if np.any(table.length_m <= 0):
        return "holds paths without length"
    if np.any(table.reach_m < 0) or np.any(table.reach_m > table.length_m * (1 + _UNIT_TOLERANCE)):
        return "holds paths that come from further away than they are long"
    if np.any(np.abs(table.mirror) > 1 + _UNIT_TOLERANCE):
        return "holds reflections that are none"
    for directions in (table.departure, table.arrival):
        if np.any(np.abs(np.sum(directions**2, axis=1) - 1.0) > _UNIT_TOLERANCE):
            return "holds directions that are no unit vectors"
    return None
