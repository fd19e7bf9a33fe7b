"""Paths of many links in one table: what tracers make, bundles keep, trackers carry along and channels are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SPECULAR, DIFFUSE, REFRACTION, DIFFRACTION = 1, 2, 4, 8
"""Kinds of interaction as bits, as Sionna RT has them; a path without any is a line of sight."""


class Columns(NamedTuple):
    """What of a `PathTable` moves with a receiver, as kernels take it; shapes as there."""

    gain: npt.NDArray[np.complex128]
    length_m: npt.NDArray[np.float64]
    departure: npt.NDArray[np.float64]
    arrival: npt.NDArray[np.float64]
    kind: npt.NDArray[np.uint8]
    reach_m: npt.NDArray[np.float64]
    mirror: npt.NDArray[np.float64]


@dataclass(frozen=True)
class PathTable:
    """Paths of many links, one after another. Link i owns rows offsets[i] to offsets[i+1].

    offsets [links+1]. gain [L] complex128: passband coefficient without the phase of its length, element patterns of
    traced antennas included. length_m [L]. departure, arrival [L, 3]: unit vectors that leave the transmitter and
    the receiver along the path. kind [L]: bit set of interactions, 0 for line of sight.

    How a path moves with its receiver: reach_m [L] is how far behind the receiver the wave seems to come from, which
    is all of the length where it was only mirrored, else the way from the last wall that scattered or edge that bent
    it. mirror [L, 3, 3] is the product of the reflections, departure = -mirror @ arrival; zero where departure stays.
    """

    offsets: npt.NDArray[np.int64]
    gain: npt.NDArray[np.complex128]
    length_m: npt.NDArray[np.float64]
    departure: npt.NDArray[np.float64]
    arrival: npt.NDArray[np.float64]
    kind: npt.NDArray[np.uint8]
    reach_m: npt.NDArray[np.float64]
    mirror: npt.NDArray[np.float64]

    @property
    def links(self) -> int:
        return len(self.offsets) - 1

    @property
    def paths(self) -> int:
        return len(self.gain)

    @property
    def columns(self) -> Columns:
        """The paths as kernels take them."""
        return Columns(self.gain, self.length_m, self.departure, self.arrival, self.kind, self.reach_m, self.mirror)

    def rows(self, link: int) -> slice:
        """The rows of `link`."""
        return slice(int(self.offsets[link]), int(self.offsets[link + 1]))

    def link(self, link: int) -> PathTable:
        """A table of this link alone."""
        rows = np.arange(self.offsets[link], self.offsets[link + 1])
        return self.chosen(rows, np.array([0, len(rows)], np.int64))

    def chosen(self, rows: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> PathTable:
        """Some of the rows, dealt out to links anew."""
        return PathTable(offsets, *(getattr(self, name)[rows] for name in COLUMNS[1:]))


COLUMNS = tuple(field.name for field in fields(PathTable))


def empty_table(links: int) -> PathTable:
    """A table of links without paths."""
    return PathTable(
        offsets=np.zeros(links + 1, np.int64),
        gain=np.zeros(0, np.complex128),
        length_m=np.zeros(0),
        departure=np.zeros((0, 3)),
        arrival=np.zeros((0, 3)),
        kind=np.zeros(0, np.uint8),
        reach_m=np.zeros(0),
        mirror=np.zeros((0, 3, 3)),
    )


def joined(tables: Sequence[PathTable]) -> PathTable:
    """The links of all tables, one table's after another's."""
    if not tables:
        return empty_table(0)
    before = np.cumsum([0, *(table.paths for table in tables[:-1])])
    offsets = [table.offsets[1:] + start for table, start in zip(tables, before, strict=True)]
    return PathTable(
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        *(np.concatenate([getattr(table, name) for table in tables]) for name in COLUMNS[1:]),
    )


def merged(table: PathTable, other: PathTable) -> PathTable:
    """The paths of both tables, which are of the same links."""
    both = joined([table, other])
    owner = np.concatenate([np.repeat(np.arange(one.links), np.diff(one.offsets)) for one in (table, other)])
    return both.chosen(np.argsort(owner, kind="stable"), table.offsets + other.offsets)


def within(table: PathTable, kept: npt.NDArray[np.bool_]) -> PathTable:
    """The table without the paths that are not `kept` [L]."""
    before = np.concatenate([[0], np.cumsum(kept)])
    return table.chosen(np.flatnonzero(kept), before[table.offsets])


def strongest(table: PathTable, count: int, floor_db: float) -> PathTable:
    """At most `count` paths of each link, strongest first, without those `floor_db` below the strongest."""
    power = np.abs(table.gain) ** 2
    kept = []
    for link in range(table.links):
        rows = table.rows(link)
        order = rows.start + np.argsort(-power[rows], kind="stable")[:count]
        least = power[rows].max(initial=0.0) * 10 ** (floor_db / 10)
        kept.append(order[(power[order] > 0) & (power[order] >= least)])
    offsets = np.cumsum([0, *(len(rows) for rows in kept)])
    return table.chosen(np.concatenate([np.zeros(0, np.int64), *kept]), offsets.astype(np.int64))
