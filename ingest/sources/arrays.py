"""Arrays by name in `.npz`, `.h5` and `.mat` files, read slice by slice.

What lies uncompressed in an `.npz`, and everything in HDF5 (`.h5`, MATLAB v7.3), streams; what does not is loaded
whole, up to a limit. Nothing is unpickled, and a file that refers to other files is refused. MATLAB v7.3 stores the
axes in reverse order, which is undone here.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.sources.mat_file import read_mat

Array = npt.NDArray[Any]
Result = TypeVar("Result")
MAX_WHOLE_BYTES = 2 << 30
"""The largest array that is loaded whole."""

_MAX_COMPRESSION, _ALWAYS_BYTES = 1100, 1 << 20
"""Deflate makes no more than 1032 bytes of one. HDF5 makes any number of a data set whose chunks are not there."""


class Arrays(ABC):
    """Arrays by name. All methods raise `InputRefused` for whatever is wrong with the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...] | None:
        """The array's shape; None where there is none of this name."""

    @abstractmethod
    def read(self, name: str, axis: int = 0, start: int = 0, stop: int | None = None) -> Array:
        """The part start … stop along one axis, all of the others."""

    def close(self) -> None:  # noqa: B027 - not every file stays open
        """Give back what is open."""

    def refused(self, what: str, mend: str = "") -> InputRefused:
        return InputRefused(what, where=str(self.path), mend=mend)

    def guarded(self, work: Callable[[], Result]) -> Result:
        """The result of `work`; whatever another library's parser raises is the file's fault."""
        try:
            return work()
        except InputRefused:
            raise
        except OSError as error:
            raise self.refused(f"cannot be read: {error.strerror or str(error)[:120]}") from None
        except Exception as error:
            raise self.refused(f"cannot be read: {str(error)[:120] or repr(error)}") from None


def open_arrays(path: Path) -> Arrays:
    """The arrays in a file, by its content."""
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    if head.startswith(b"PK"):
        return _Npz(path)
    if b"\x89HDF\r\n\x1a\n" in (head[:8], head[512:520]):
        return _Hdf5(path)
    found = read_mat(path)
    return _Loaded(path, {name: value for name, value in found.items() if isinstance(value, np.ndarray)})


class _Loaded(Arrays):
    """Arrays that are in memory."""

    def __init__(self, path: Path, arrays: dict[str, Array]) -> None:
        super().__init__(path)
        self._arrays = arrays

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._arrays[name].shape if name in self._arrays else None

    def read(self, name: str, axis: int = 0, start: int = 0, stop: int | None = None) -> Array:
        values = self._arrays[name]
        return values[(slice(None),) * axis + (slice(start, stop),)] if values.ndim else values


@dataclass(frozen=True)
class _Member:
    """One array of an `.npz`; offset: its first byte in the file, None where it is compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int | None


class _Npz(Arrays):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._whole: dict[str, Array] = {}
        self._members = self.guarded(self._list)

    def _list(self) -> dict[str, _Member]:
        found = {}
        with self.path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    found[info.filename.removesuffix(".npy")] = self._member(archive, info, file)
        return found

    def _member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: IO[bytes]) -> _Member:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # LZMA takes gigabytes for a dictionary where a damaged head says so; NumPy writes neither it nor bzip2.
            raise self.refused(f"'{info.filename}' is packed in another way than NumPy does", "use np.savez")
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(member)
            begin = member.tell()
        if dtype.hasobject:
            raise self.refused(f"'{info.filename}' holds Python objects, which are never loaded")
        count = 1
        for size in shape:
            count *= size
        if begin + count * dtype.itemsize != info.file_size:
            raise self.refused(f"'{info.filename}' is not as long as it says", "the file is damaged; copy it again")
        if info.compress_type != zipfile.ZIP_STORED:
            return _Member(shape, dtype, fortran, None)
        file.seek(info.header_offset)
        head = file.read(30)
        names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        return _Member(shape, dtype, fortran, info.header_offset + 30 + names + begin)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._members[name].shape if name in self._members else None

    def read(self, name: str, axis: int = 0, start: int = 0, stop: int | None = None) -> Array:
        return self.guarded(lambda: self._read(name, axis, start, stop))

    def _read(self, name: str, axis: int, start: int, stop: int | None) -> Array:
        member = self._members[name]
        if not member.shape:
            return self._load(name, member)
        stop = member.shape[axis] if stop is None else stop
        shape = (*member.shape[:axis], stop - start, *member.shape[axis + 1 :])
        rows = member.shape[:axis]
        if member.offset is None or (member.fortran and axis != len(member.shape) - 1) or (len(rows) > 1):
            whole = self._load(name, member)
            return whole[(slice(None),) * axis + (slice(start, stop),)]
        if member.fortran:
            return self._piece(member, start * _count(rows), _count(shape)).reshape(shape, order="F")
        behind = _count(member.shape[axis + 1 :])
        parts = [
            self._piece(member, (row * member.shape[axis] + start) * behind, (stop - start) * behind)
            for row in range(_count(rows))
        ]
        return np.concatenate(parts).reshape(shape) if parts else np.empty(shape, member.dtype)

    def _piece(self, member: _Member, first: int, count: int) -> Array:
        assert member.offset is not None
        with self.path.open("rb") as file:
            file.seek(member.offset + first * member.dtype.itemsize)
            data = file.read(count * member.dtype.itemsize)
        if len(data) < count * member.dtype.itemsize:
            raise self.refused("became shorter while it was read")
        return np.frombuffer(data, member.dtype)

    def _load(self, name: str, member: _Member) -> Array:
        if name not in self._whole:
            if _count(member.shape) * member.dtype.itemsize > MAX_WHOLE_BYTES:
                limit = f"{MAX_WHOLE_BYTES >> 30} GiB"
                raise self.refused(f"'{name}' is compressed or in Fortran order and over {limit}", "use np.savez")
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
                self._whole[name] = np.lib.format.read_array(file, allow_pickle=False)
        return self._whole[name]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


class _Hdf5(Arrays):
    def __init__(self, path: Path) -> None:
        import h5py

        super().__init__(path)
        self._h5py = h5py
        self._file = self.guarded(lambda: h5py.File(path, "r"))

    def _dataset(self, name: str) -> Any:
        """The dataset itself, in this very file; None where there is none."""
        link = self._file.get(name, getlink=True) if name in self._file else None
        if link is None:
            return None
        dataset = self._file[name] if isinstance(link, self._h5py.HardLink) else None
        if not isinstance(dataset, self._h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise self.refused(f"'{name}' is no array of its own", "links and external data are not followed")
        if dataset.nbytes > max(_MAX_COMPRESSION * dataset.id.get_storage_size(), _ALWAYS_BYTES):
            raise self.refused(f"'{name}' of shape {dataset.shape} is not there, or not all", "write its numbers")
        return dataset

    def shape(self, name: str) -> tuple[int, ...] | None:
        def find() -> tuple[int, ...] | None:
            dataset = self._dataset(name)
            if dataset is None:
                return None
            shape = tuple(dataset.shape or ())
            return shape[::-1] if "MATLAB_class" in dataset.attrs else shape

        return self.guarded(find)

    def read(self, name: str, axis: int = 0, start: int = 0, stop: int | None = None) -> Array:
        def part() -> Array:
            dataset = self._dataset(name)
            if not dataset.shape:
                return np.asarray(dataset[()])
            matlab = "MATLAB_class" in dataset.attrs
            at = dataset.ndim - 1 - axis if matlab else axis
            values = np.asarray(dataset[(slice(None),) * at + (slice(start, stop),)])
            if matlab and dataset.attrs["MATLAB_class"] in (b"char", "char"):
                values = np.array([chr(code) for code in values.reshape(-1)])
            return values.T if matlab else values

        return self.guarded(part)

    def close(self) -> None:
        self._file.close()
