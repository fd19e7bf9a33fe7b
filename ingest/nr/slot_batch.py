"""Slots that are received together: which windows to transform, and which of their bins go to which estimator.

Runs of as many slots that begin with the same one of the signals' period are alike, so that this too is made once and
then only looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.nr.slot_plan import SlotPlan, Stream, pick

Complex64 = npt.NDArray[np.complex64]
Integers = npt.NDArray[np.int64]


class PickTable:
    """What `pick` needs of one stream in each of the slots that differ, a row each: it goes through slots by itself."""

    def __init__(self, stream: Stream) -> None:
        self.span = stream.span
        self.picks = np.empty((0, len(stream.picks)), np.int64)
        self.bins = np.empty((0, len(stream.bins)), np.int64)
        self.coefficients = np.empty((0, *stream.coefficients.shape), np.complex64)
        self._rows: dict[Stream, int] = {}

    def row(self, stream: Stream) -> int:
        """The row of `stream`, which is the same in another slot."""
        if stream not in self._rows:
            row = self._rows[stream] = len(self._rows)
            if row == len(self.picks):
                more = max(row, 1)
                self.picks, self.bins, self.coefficients = (
                    np.concatenate([each, np.empty((more, *each.shape[1:]), each.dtype)])
                    for each in (self.picks, self.bins, self.coefficients)
                )
            self.picks[row], self.bins[row], self.coefficients[row] = stream.picks, stream.bins, stream.coefficients
        return self._rows[stream]


@dataclass(frozen=True, eq=False)
class Fold:
    """Windows that are transformed alike. residues: of `SlotPlan`. which [W]: of the batch's windows."""

    residues: tuple[int, ...] | None
    which: Integers


@dataclass(frozen=True, eq=False)
class Part:
    """Where the slots of a family lie in one fold's spectrum. targets [m]: their numbers in the family; begins [m]:
    their first windows; rows: for each stream their rows [m] in its table."""

    fold: int
    targets: Integers
    begins: Integers
    rows: list[Integers]


@dataclass(frozen=True, eq=False)
class Family:
    """Streams that share elements, and are estimated together. members [n]: slots of the batch that hold them; parts:
    where they are found; tables: of each stream."""

    streams: list[Stream]
    tables: list[PickTable]
    members: list[int]
    parts: list[Part]

    def received(self, number: int, spectra: Sequence[Complex64]) -> Complex64:
        """What the folds' `spectra` hold of a stream. Shape [n, A, L / span, S]."""
        table = self.tables[number]
        symbols, pilots = table.coefficients.shape[1:]
        found = np.empty((len(self.members), len(spectra[0]), symbols // table.span, pilots), np.complex64)
        for part in self.parts:
            pick(
                spectra[part.fold],
                part.begins,
                part.rows[number],
                part.targets,
                table.picks,
                table.bins,
                table.coefficients,
                table.span,
                found,
            )
        return found


@dataclass(frozen=True, eq=False)
class SlotBatch:
    """windows [W]: where they start after the first slot's frame. streams: of each slot, and where what is told of them
    lies: family, stream and member in it."""

    windows: Integers
    folds: list[Fold]
    families: list[Family]
    streams: list[list[tuple[Stream, int, int, int]]]


def make_batch(
    plans: Sequence[SlotPlan], frame_samples: Sequence[int], tables: dict[tuple[object, ...], PickTable]
) -> SlotBatch:
    """Of slots with `plans` whose frames start at frame_samples, counted from the first one's.

    tables: of all streams that were ever received, by their keys; new ones are added.
    """
    offsets = np.cumsum([0, *(len(plan.symbols) for plan in plans)])
    windows = [plan.windows + start for plan, start in zip(plans, frame_samples, strict=True)]
    kinds = list(dict.fromkeys(plan.residues for plan in plans if plan.symbols))
    folds, begins, fold_of = [], [0] * len(plans), [0] * len(plans)
    for number, residues in enumerate(kinds):
        members = [index for index, plan in enumerate(plans) if plan.symbols and plan.residues == residues]
        which = [np.arange(offsets[index], offsets[index + 1]) for index in members]
        folds.append(Fold(residues, np.concatenate(which)))
        starts = np.cumsum([0, *(len(each) for each in which)])[:-1].tolist()
        for start, index in zip(starts, members, strict=True):
            begins[index], fold_of[index] = start, number
    holding: dict[tuple[object, ...], list[int]] = {}
    for index, plan in enumerate(plans):
        for elements in dict.fromkeys(stream.elements for stream in plan.streams):
            holding.setdefault(elements, []).append(index)
    families = [_family(plans, elements, members, fold_of, begins, tables) for elements, members in holding.items()]
    places = [
        {
            stream.key: (number, each, family.members.index(index))
            for number, family in enumerate(families)
            if index in family.members
            for each, stream in enumerate(family.streams)
        }
        for index in range(len(plans))
    ]
    streams = [
        [(stream, *place[stream.key]) for stream in plan.streams] for plan, place in zip(plans, places, strict=True)
    ]
    return SlotBatch(np.concatenate(windows), folds, families, streams)


def _family(
    plans: Sequence[SlotPlan],
    elements: tuple[object, ...],
    members: list[int],
    fold_of: list[int],
    begins: list[int],
    tables: dict[tuple[object, ...], PickTable],
) -> Family:
    """The streams with `elements` in the slots `members`."""
    streams = [[stream for stream in plans[index].streams if stream.elements == elements] for index in members]
    firsts = streams[0]
    mine = [tables.setdefault(stream.key, PickTable(stream)) for stream in firsts]
    parts = []
    for fold in dict.fromkeys(fold_of[index] for index in members):
        targets = [target for target, index in enumerate(members) if fold_of[index] == fold]
        rows = [
            np.array([table.row(streams[target][number]) for target in targets]) for number, table in enumerate(mine)
        ]
        first_windows = np.array([begins[members[target]] for target in targets])
        parts.append(Part(fold, np.array(targets), first_windows, rows))
    return Family(firsts, mine, members, parts)
