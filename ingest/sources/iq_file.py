"""Raw IQ in a file: headerless interleaved samples, and what SigMF says about such a file.

A file is mapped, not loaded: a capture of any length streams through in blocks of constant size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import IqBlock
from ingest.sources.base import Source, SourceInfo

BLOCK_S = 20e-3
"""Length of a block: one default SSB period (38.213 clause 4.1), so that every block can hold an SSB."""


@dataclass(frozen=True)
class SampleFormat:
    """How one complex sample lies in a file: the dtype of one component and what a full-scale value counts."""

    name: str
    component: str
    full_scale: float

    @property
    def sample_bytes(self) -> int:
        return 2 * np.dtype(self.component).itemsize

    def to_complex64(self, components: npt.NDArray[np.generic]) -> npt.NDArray[np.complex64]:
        """[..., 2 components] as complex64 of the same leading shape, full scale being 1."""
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite, which the caller rejects
            pairs = components.astype(np.float32) / np.float32(self.full_scale)
        return pairs.view(np.complex64)[..., 0]


FORMATS: dict[str, SampleFormat] = {
    "cf32": SampleFormat("cf32", "<f4", 1.0),
    "cf64": SampleFormat("cf64", "<f8", 1.0),
    "sc16": SampleFormat("sc16", "<i2", 32768.0),
    "sc8": SampleFormat("sc8", "i1", 128.0),
}

SUFFIXES: dict[str, str] = {
    ".cf32": "cf32",
    ".fc32": "cf32",
    ".cfile": "cf32",
    ".cf64": "cf64",
    ".fc64": "cf64",
    ".sc16": "sc16",
    ".cs16": "sc16",
    ".ci16": "sc16",
    ".sc8": "sc8",
    ".cs8": "sc8",
}


@dataclass(frozen=True)
class Segment:
    """A run of samples tuned to one frequency: SigMF's `captures` entry, or a whole raw file.

    first_sample: its place in the file. lost_before: samples that the radio made and the file lacks up to there; the
    blocks' `first_sample` jumps over them, and the receiver counts the gap.
    """

    first_sample: int
    center_hz: float
    lost_before: int = 0


class IqFileSource(Source):
    """Yields an `IqBlock` for every `BLOCK_S` of an interleaved sample file; blocks with NaN are rejected."""

    def __init__(
        self,
        path: Path,
        sample_format: SampleFormat,
        rate_hz: float,
        segments: tuple[Segment, ...],
        *,
        antennas: int = 1,
        container: str = "raw-iq",
    ) -> None:
        self._data = _map_samples(path, sample_format, antennas)
        super().__init__(
            SourceInfo(
                format=f"{container}/{sample_format.name}",
                where=str(path),
                antennas=antennas,
                rate_hz=rate_hz,
                center_hz=segments[0].center_hz,
                samples=self._data.shape[0],
            )
        )
        self._sample_format = sample_format
        self._rate_hz = rate_hz
        self._segments = segments

    def __iter__(self) -> Iterator[IqBlock]:
        block = max(1, round(BLOCK_S * self._rate_hz))
        total = self._data.shape[0]
        ends = [segment.first_sample for segment in self._segments[1:]] + [total]
        seq = 0
        for segment, end in zip(self._segments, ends, strict=True):
            for start in range(segment.first_sample, end, block):
                number = start + segment.lost_before
                samples = self._sample_format.to_complex64(self._data[start : min(start + block, end)])
                if not np.isfinite(samples).all():
                    self.rejected["non_finite"] += 1
                    continue
                yield IqBlock(
                    source="file",
                    epoch=0,
                    seq=seq,
                    t_ns=round(number / self._rate_hz * 1e9),
                    rate_hz=self._rate_hz,
                    center_hz=segment.center_hz,
                    first_sample=number,
                    samples=np.ascontiguousarray(samples.T),
                )
                seq += 1


def open_raw_iq(path: Path, *, format_name: str | None, rate_hz: float | None, center_hz: float | None) -> Source:
    """A headerless IQ file; its rate and centre frequency must be told, its format too unless the suffix tells it."""
    name = format_name or SUFFIXES.get(path.suffix.lower(), "")
    if name not in FORMATS:
        raise UsageRefused(
            f"unknown sample format {name or path.suffix!r}",
            where=str(path),
            mend=f"--format {'|'.join(FORMATS)}",
        )
    for option, value in (("--rate-hz", rate_hz), ("--center-hz", center_hz)):
        if value is None:
            raise UsageRefused(f"a raw IQ file needs {option}", where=str(path), mend=f"add {option} 46.08e6, say")
    assert rate_hz is not None
    assert center_hz is not None
    check_rate_and_center(rate_hz, center_hz, where=str(path))
    return IqFileSource(path, FORMATS[name], rate_hz, (Segment(0, center_hz),))


def check_rate_and_center(rate_hz: float, center_hz: float, *, where: str) -> None:
    """Refuse rates and frequencies that no radio has, NaN among them."""
    if not 1.0 <= rate_hz <= 1e10:
        raise InputRefused(f"sample rate {rate_hz} Hz", where=where, mend="a finite rate in hertz, as 46.08e6")
    if not 0.0 <= center_hz <= 1e12:
        raise InputRefused(f"centre frequency {center_hz} Hz", where=where, mend="a finite frequency in hertz")


def _map_samples(path: Path, sample_format: SampleFormat, antennas: int) -> npt.NDArray[np.generic]:
    """The file as a read-only map [samples, antennas, 2]; refused when empty or cut inside a sample."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputRefused("is empty", where=str(path), mend="give a capture with samples in it")
        frame_bytes = sample_format.sample_bytes * antennas
        if size % frame_bytes:
            raise InputRefused(
                f"{size} bytes are no whole number of {sample_format.name} samples of {antennas} channel(s)",
                where=str(path),
                mend="the file is truncated or of another format",
            )
        return np.memmap(path, sample_format.component, "r", shape=(size // frame_bytes, antennas, 2))
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
