"""Complex samples in files: their formats, and readers that fill a caller's array from any place in them.

A file is read, not mapped: memory stays constant however long it is, and a file that shrinks or a disk that fails is
an error to tell, where a map would end the process. Reading, conversion and the test for NaN go piece by piece, so that
each piece is still in the processor's cache when the next step wants it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.finite import all_finite

Samples = npt.NDArray[np.complex64]
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class SampleFormat:
    """How one complex sample lies in a file: the dtype of one component and what a full-scale value counts."""

    name: str
    component: str
    full_scale: float

    @property
    def sample_bytes(self) -> int:
        return 2 * np.dtype(self.component).itemsize

    @property
    def is_float(self) -> bool:
        return np.dtype(self.component).kind == "f"

    def to_complex64(self, components: npt.NDArray[Any]) -> Samples:
        """[..., 2 components] as complex64 of the same leading shape, full scale being 1."""
        pairs = np.empty(components.shape, np.float32)
        self.scale_into(components, pairs)
        return pairs.view(np.complex64)[..., 0]

    def scale_into(self, components: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        """Components as float32 in `out`, full scale being 1; beyond float32 is infinite."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            np.copyto(out, components, casting="unsafe")
            if self.full_scale != 1.0:
                out *= np.float32(1.0 / self.full_scale)


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


class SampleReader(ABC):
    """Random access to T samples of A coherent channels."""

    channels: int
    samples: int
    partial_bytes: int = 0

    @abstractmethod
    def fill(self, start: int, out: Samples) -> bool:
        """Samples start … start + n into `out` [A, n]; False where one of them is NaN or infinite."""

    def refresh(self) -> int:
        """How many samples there are now, where a file grows."""
        return self.samples

    def close(self) -> None:  # noqa: B027 - not every reader holds a file open
        """Give back what is open; reading opens it again."""


class InterleavedFile(SampleReader):
    """Interleaved samples of one file: sample 0 of every channel, sample 1 of every channel, ….

    headers: (sample, bytes) pairs in rising order, the bytes lying before that sample that are none. trailing_bytes
    follow the last sample. region: the part (first byte, bytes) of the file that is meant, as in an archive.
    growing: the file is still being written; it may be empty or end inside a sample.
    """

    def __init__(
        self,
        path: Path,
        sample_format: SampleFormat,
        channels: int = 1,
        *,
        headers: tuple[tuple[int, int], ...] = (),
        trailing_bytes: int = 0,
        region: tuple[int, int] | None = None,
        growing: bool = False,
    ) -> None:
        self.path = path
        self.channels = channels
        self.partial_bytes = 0
        self._format = sample_format
        self._frame_bytes = sample_format.sample_bytes * channels
        self._headers = headers
        self._region = region
        self._other_bytes = sum(size for _, size in headers) + trailing_bytes
        self._file: FileIO | None = None
        self.samples = 0
        self.refresh()
        if not growing:
            self._check_whole()
        self._scratch: npt.NDArray[np.uint8] | None = None
        self._work: npt.NDArray[np.float32] | None = None

    def refresh(self) -> int:
        whole, self.partial_bytes = divmod(max(self._size() - self._other_bytes, 0), self._frame_bytes)
        if whole < self.samples:
            raise InputRefused("became shorter while it was read", where=str(self.path))
        self.samples = whole
        return whole

    def _size(self) -> int:
        try:
            size = os.stat(self.path).st_size
        except (OSError, ValueError) as error:
            raise InputRefused(f"cannot be read: {_reason(error)}", where=str(self.path)) from None
        first, length = self._region or (0, size)
        return max(min(length, size - first), 0)

    def _check_whole(self) -> None:
        size = self._size()
        if size == 0:
            raise InputRefused("is empty", where=str(self.path), mend="give a capture with samples in it")
        if self.partial_bytes or not self.samples:
            raise InputRefused(
                f"{size} bytes are no whole number of {self._format.name} samples of {self.channels} channel(s)",
                where=str(self.path),
                mend="the file is truncated or of another format",
            )

    def fill(self, start: int, out: Samples) -> bool:
        try:
            if self._file is None:
                self._file = FileIO(self.path)
            first = self._region[0] if self._region else 0
            headers = sum(size for at, size in self._headers if at <= start)
            self._file.seek(first + start * self._frame_bytes + headers)
            if self.channels == 1 and self._format.component == "<f4" and out.flags.c_contiguous:
                return self._fill_directly(self._file, out)
            return self._fill_converted(self._file, out)
        except (OSError, ValueError) as error:
            raise InputRefused(f"cannot be read: {_reason(error)}", where=str(self.path)) from None

    def _fill_directly(self, file: FileIO, out: Samples) -> bool:
        """The file's bytes are the samples: nothing is copied but by the operating system."""
        into: Any = out.view(np.uint8).reshape(-1).data
        parts = out.view(np.float32)[0]
        finite = True
        for first in range(0, len(into), _PIECE_BYTES):
            piece = into[first : first + _PIECE_BYTES]
            self._read(file, piece)
            finite = finite and all_finite(parts[first // 4 : (first + len(piece)) // 4])
        return finite

    def _fill_converted(self, file: FileIO, out: Samples) -> bool:
        frames = max(_PIECE_BYTES // self._frame_bytes, 1)
        if self._scratch is None or self._work is None:
            self._scratch = np.empty(frames * self._frame_bytes, np.uint8)
            self._work = np.empty((frames, self.channels, 2), np.float32)
        finite = True
        for first in range(0, out.shape[1], frames):
            count = min(frames, out.shape[1] - first)
            read = self._scratch[: count * self._frame_bytes]
            self._read(file, read.data)
            work = self._work[:count]
            self._format.scale_into(read.view(self._format.component).reshape(work.shape), work)
            if self._format.is_float:
                finite = finite and all_finite(work.reshape(-1))
            out[:, first : first + count] = work.view(np.complex64)[..., 0].T
        return finite

    def _read(self, file: FileIO, into: memoryview) -> None:
        done = 0
        while done < len(into):
            count = file.readinto(into[done:])
            if not count:
                raise InputRefused("became shorter while it was read", where=str(self.path))
            done += count

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


class SideBySide(SampleReader):
    """Files that were recorded together, as the channels of one: each adds its own below those before it."""

    def __init__(self, readers: tuple[SampleReader, ...]) -> None:
        self._readers = readers
        self.channels = sum(reader.channels for reader in readers)
        self.samples = min(reader.samples for reader in readers)

    def refresh(self) -> int:
        self.samples = min(reader.refresh() for reader in self._readers)
        self.partial_bytes = max(reader.partial_bytes for reader in self._readers)
        return self.samples

    def fill(self, start: int, out: Samples) -> bool:
        row = 0
        finite = True
        for reader in self._readers:
            finite = reader.fill(start, out[row : row + reader.channels]) and finite
            row += reader.channels
        return finite

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


class SlicedArray(SampleReader):
    """Samples that some library hands over slice by slice.

    read(start, stop) gives [A, stop - start] of any complex type.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        read: Callable[[int, int], npt.NDArray[Any]],
    ) -> None:
        self.channels, self.samples = shape
        self._read = read

    def fill(self, start: int, out: Samples) -> bool:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            np.copyto(out, self._read(start, start + out.shape[1]), casting="unsafe")
        return all_finite(out.view(np.float32).reshape(-1))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
