"""Files of arrays, one of which grows while it is written: `.npz`, `.h5`, `.mat`.

HDF5 grows by itself. An `.npz` says an array's length before its numbers, so these wait in a second file beside it. A
`.mat` of version 5 has no way to grow, and is held in memory up to a limit.
"""

from __future__ import annotations

import shutil
import zipfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import UsageRefused
from ingest.sinks.base import NewFile, told

Array = npt.NDArray[Any]
_MAX_MAT_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 19


def array_writer(path: Path, name: str, *, growing_axis: int, force: bool) -> ArrayWriter:
    """A writer by the suffix of `path`, for the array `name` that grows along one axis."""
    kinds: dict[str, type[ArrayWriter]] = {".npz": _NpzWriter, ".mat": _MatWriter}
    return kinds.get(path.suffix.lower(), _Hdf5Writer)(path, name, growing_axis, force)


class ArrayWriter(ABC):
    """`append` takes rows [n, ...] of the array; growing_axis 1 says that a row is a column of what is stored."""

    def __init__(self, path: Path, name: str, growing_axis: int, force: bool) -> None:
        self.path = path
        self._name = name
        self._across = growing_axis == 1
        self._rows = 0
        self._new = NewFile(path, force=force)

    @abstractmethod
    def append(self, rows: Array) -> None:
        """Take more rows; all of them have the same shape behind the first axis."""

    @abstractmethod
    def finish(self, others: dict[str, Array]) -> None:
        """Write the other arrays and make the file appear."""

    def give_up(self) -> None:
        self._new.drop()


class _Hdf5Writer(ArrayWriter):
    def __init__(self, path: Path, name: str, growing_axis: int, force: bool) -> None:
        import h5py

        super().__init__(path, name, growing_axis, force)
        with told(path):
            self._file: Any = h5py.File(self._new.file, "w")
        self._dataset: Any = None

    def append(self, rows: Array) -> None:
        values = rows.T if self._across else rows
        with told(self.path):
            if self._dataset is None:
                self._dataset = self._create(rows)
            end = self._rows + rows.shape[0]
            self._dataset.resize(end, axis=1 if self._across else 0)
            if self._across:
                self._dataset[:, self._rows : end] = values
            else:
                self._dataset[self._rows : end] = values
        self._rows = end

    def _create(self, rows: Array) -> Any:
        inner = rows.shape[1:]
        chunk = max(_CHUNK_BYTES // max(rows.itemsize * int(np.prod(inner)), 1), 1)
        shape, most, chunks = (0, *inner), (None, *inner), (chunk, *inner)
        if self._across:
            shape, most, chunks = shape[::-1], most[::-1], chunks[::-1]
        return self._file.create_dataset(self._name, shape, rows.dtype, maxshape=most, chunks=chunks)

    def finish(self, others: dict[str, Array]) -> None:
        with told(self.path):
            for name, value in others.items():
                self._file[name] = np.char.encode(value, "utf-8") if value.dtype.kind == "U" else value
            self._file.close()
        self._new.keep()

    def give_up(self) -> None:
        with suppress(Exception):  # it cannot write what is left, and nobody wants it
            self._file.close()
        super().give_up()


class _NpzWriter(ArrayWriter):
    def __init__(self, path: Path, name: str, growing_axis: int, force: bool) -> None:
        super().__init__(path, name, growing_axis, force)
        try:
            self._waiting = NewFile(path.with_name(path.name + ".rows"), force=True)
        except BaseException:
            self._new.drop()
            raise
        self._inner: tuple[int, ...] = ()
        self._dtype = np.dtype(np.complex64)

    def append(self, rows: Array) -> None:
        self._inner, self._dtype = rows.shape[1:], rows.dtype
        with told(self.path):
            self._waiting.file.write(np.ascontiguousarray(rows).data)
        self._rows += rows.shape[0]

    def finish(self, others: dict[str, Array]) -> None:
        shape = (self._rows, *self._inner)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": self._across,
            "shape": shape[::-1] if self._across else shape,
        }
        with told(self.path), zipfile.ZipFile(self._new.file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(f"{self._name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                self._waiting.file.seek(0)
                shutil.copyfileobj(self._waiting.file, member, 1 << 20)
            for name, value in others.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)
        self._waiting.drop()
        self._new.keep()

    def give_up(self) -> None:
        self._waiting.drop()
        super().give_up()


class _MatWriter(ArrayWriter):
    def __init__(self, path: Path, name: str, growing_axis: int, force: bool) -> None:
        super().__init__(path, name, growing_axis, force)
        self._parts: list[Array] = []
        self._bytes = 0

    def append(self, rows: Array) -> None:
        self._bytes += rows.nbytes
        if self._bytes > _MAX_MAT_BYTES:
            raise UsageRefused(
                f"a .mat holds at most {_MAX_MAT_BYTES >> 30} GiB", where=str(self.path), mend="convert to .h5, or .npz"
            )
        self._parts.append(rows.copy())

    def finish(self, others: dict[str, Array]) -> None:
        from scipy.io import savemat

        rows = np.concatenate(self._parts)
        with told(self.path):
            savemat(self._new.file, {self._name: rows.T if self._across else rows, **others}, oned_as="row")
        self._new.keep()
