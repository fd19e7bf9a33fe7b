"""IQ blocks as interleaved samples, counted: how many, how many clipped, how strong, and what is missing between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.messages import IqBlock
from ingest.sources.samples import FORMATS, SampleFormat

_PIECE_SAMPLES = 1 << 16


@dataclass(frozen=True)
class Run:
    """Samples without a gap at one frequency: their first number, their place in the file, what is missing before."""

    number: int
    place: int
    center_hz: float
    missing: int


class Encoder:
    """Turns blocks into bytes. All blocks must be of one rate and number of antennas, in the order of their numbers."""

    def __init__(self, format_name: str, scale: float, where: str) -> None:
        self.format: SampleFormat = FORMATS[format_name]
        self.samples = self.clipped = 0
        self.peak = 0.0
        self.runs: list[Run] = []
        self.first: IqBlock | None = None
        self._scale = np.float32(scale)
        self._where = where
        self._next = 0

    @property
    def missing(self) -> int:
        """Samples that are missing between those that were taken."""
        return sum(run.missing for run in self.runs)

    def encode(self, block: IqBlock) -> list[npt.NDArray[Any]]:
        """The block's samples [T, A, 2] in pieces of components, ready to be written."""
        self._follow(block)
        samples = block.samples.astype(np.complex64, copy=False)
        self.samples += samples.shape[1]
        return [
            self._components(samples[:, first : first + _PIECE_SAMPLES])
            for first in range(0, samples.shape[1], _PIECE_SAMPLES)
        ]

    def _follow(self, block: IqBlock) -> None:
        """Begin a new run where samples are missing or the frequency changes."""
        first = self.first = self.first or block
        if (block.rate_hz, block.samples.shape[0]) != (first.rate_hz, first.samples.shape[0]):
            raise InputRefused("its rate or number of antennas changes on the way", where=self._where)
        if self.runs and block.first_sample < self._next:
            raise InputRefused(f"goes back to sample {block.first_sample}", where=self._where)
        missing = block.first_sample - self._next if self.runs else 0
        if not self.runs or missing or self.runs[-1].center_hz != block.center_hz:
            self.runs.append(Run(block.first_sample, self.samples, block.center_hz, missing))
        self._next = block.first_sample + block.samples.shape[1]

    def _components(self, samples: npt.NDArray[np.complex64]) -> npt.NDArray[Any]:
        """Interleaved components of the file's type; whole numbers are rounded, and clipped at full scale."""
        pairs = np.ascontiguousarray(samples.T).view(np.float32)
        if self._scale != 1:
            pairs = pairs * self._scale
        self.peak = max(self.peak, float(pairs.max()), -float(pairs.min()))
        target = np.dtype(self.format.component)
        if target.kind == "f":
            found: npt.NDArray[Any] = pairs.astype(target, copy=False)
            return found
        counts = np.rint(pairs * np.float32(self.format.full_scale))
        least, most = -self.format.full_scale, self.format.full_scale - 1
        over = (counts < least) | (counts > most)
        if over.any():
            self.clipped += int(over.reshape(-1, 2).any(axis=1).sum())
            np.clip(counts, least, most, out=counts)
        rounded: npt.NDArray[Any] = counts.astype(target)
        return rounded

    def counts(self) -> dict[str, Any]:
        """The counters, for a report."""
        first = self.first
        return {
            "samples": self.samples,
            "antennas": first.samples.shape[0] if first else 0,
            "sample_format": self.format.name,
            "gaps": sum(run.missing > 0 for run in self.runs),
            "missing_samples": self.missing,
            "clipped": self.clipped,
            "peak": round(self.peak, 6),
        }

    def only_center_hz(self) -> float:
        """The one frequency of all samples, for files that can hold one only."""
        frequencies = {run.center_hz for run in self.runs}
        if len(frequencies) != 1:
            raise InputRefused(
                f"has {len(frequencies)} centre frequencies", where=self._where, mend="convert it to .sigmf-meta"
            )
        return frequencies.pop()

    def gaps(self) -> list[tuple[int, int]]:
        """(place in the file, samples missing before it)."""
        first = self.runs[0].number if self.runs else 0
        begin = [(0, first)] if first else []
        return begin + [(run.place, run.missing) for run in self.runs if run.missing]

    def place_of(self, number: int) -> int:
        """Where in the file the sample of a running number is, or the next one that is there."""
        for run in reversed(self.runs):
            if number >= run.number:
                behind = self.runs[self.runs.index(run) + 1 :]
                return min(run.place + number - run.number, behind[0].place if behind else self.samples)
        return 0
