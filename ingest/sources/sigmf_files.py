"""The files of SigMF: which metadata belongs to which data, in a folder, a collection or an archive.

Metadata is valid by SigMF's schema when it leaves this module; what it says is judged in `sigmf.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from ingest.errors import InputRefused

_MAX_META_BYTES = 64 << 20
_MAX_STREAMS = 1024
_PIECE_BYTES = 1 << 20
META, DATA = ".sigmf-meta", ".sigmf-data"


@dataclass(frozen=True)
class Recording:
    """Valid metadata and where its data lies. where: what to name when the metadata is at fault.

    region: (first byte, bytes) of `data` that hold the samples; None for the whole file.
    """

    name: str
    meta: dict[str, Any]
    where: str
    data: Path
    region: tuple[int, int] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The metadata's `global` object."""
        settings: dict[str, Any] = self.meta["global"]
        return settings

    @property
    def captures(self) -> list[dict[str, Any]]:
        """The metadata's captures; where it has none, all samples are one."""
        return self.meta["captures"] or [{"core:sample_start": int(self.settings.get("core:offset", 0))}]

    def pieces(self) -> Iterator[bytes]:
        """The data's bytes, in pieces."""
        try:
            with self.data.open("rb") as file:
                first, left = self.region or (0, os.fstat(file.fileno()).st_size)
                file.seek(first)
                while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
                    yield piece
                    left -= len(piece)
        except OSError as error:
            raise InputRefused(f"cannot be read: {error.strerror}", where=str(self.data)) from None


def find_recording(path: Path) -> Recording:
    """The recording that `path` names by its metadata file, its data file or their common stem."""
    name = path.name
    if not name.removesuffix(META).removesuffix(DATA):
        raise InputRefused("is no recording's name", where=str(path), mend="a recording is NAME.sigmf-meta")
    for suffix in (META, DATA):
        name = name.removesuffix(suffix)
    meta_path = path.with_name(name + META)
    meta = _valid(_read(meta_path), str(meta_path))
    return Recording(name, meta, str(meta_path), _data_path(meta_path, meta["global"]))


def read_collection(path: Path) -> tuple[Recording, ...]:
    """The recordings of a `.sigmf-collection`, all of them beside it and unchanged since it was written.

    The `sigmf` package writes the whole path of a recording where it was given that, and OAI gives it: only the last
    part counts, so that a collection may be moved, and never leads out of its folder.
    """
    content = _parsed(_read(path), str(path))
    collection = content.get("collection") if isinstance(content, dict) else None
    if not isinstance(collection, dict) or not isinstance(collection.get("core:version"), str):
        raise InputRefused("is not a SigMF collection", where=str(path), mend="it needs 'collection' and core:version")
    streams = collection.get("core:streams")
    streams = streams if isinstance(streams, list) else []
    if not 1 <= len(streams) <= _MAX_STREAMS:
        raise InputRefused(f"a collection of {len(streams)} recordings", where=str(path))
    recordings = []
    for stream in streams:
        name, checksum = _stream(stream, str(path))
        recording = find_recording(path.with_name(name + META))
        if checksum is not None and hashlib.sha512(_read(Path(recording.where))).hexdigest() != checksum.lower():
            raise InputRefused(
                "its sha512 is not what the collection says",
                where=recording.where,
                mend="the metadata was changed; write the collection anew",
            )
        recordings.append(recording)
    if len({recording.name for recording in recordings}) < len(recordings):
        raise InputRefused("names a recording twice", where=str(path))
    return tuple(recordings)


def _stream(stream: Any, where: str) -> tuple[str, str | None]:
    """Name and checksum of one of `core:streams`: an object by SigMF 1.1 and later, a pair before."""
    name, checksum = None, None
    if isinstance(stream, dict):
        name, checksum = stream.get("name"), stream.get("hash")
    elif isinstance(stream, list) and stream:
        name, checksum = (*stream, None)[:2]
    base = PurePosixPath(name.replace("\\", "/")).name if isinstance(name, str) else ""
    if base in ("", "..") or "\0" in base or not (checksum is None or isinstance(checksum, str)):
        raise InputRefused("a stream of the collection has no name", where=where)
    return base, checksum


def read_archive(path: Path) -> tuple[Recording, ...]:
    """The recordings of a `.sigmf` archive, an uncompressed tar; data stays where it is."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = {each.name: each for each in _files(archive)}
            found = []
            for name, member in members.items():
                if not name.endswith(META):
                    continue
                where = f"{path}:{name}"
                if member.size > _MAX_META_BYTES:
                    raise InputRefused(f"metadata of over {_MAX_META_BYTES >> 20} MiB", where=where)
                extracted = archive.extractfile(member)
                meta = _valid(extracted.read() if extracted else b"", where)
                data = members.get(name.removesuffix(META) + DATA)
                if data is None or data.sparse is not None:
                    raise InputRefused("data file is missing", where=where, mend="the archive is not whole")
                region = (data.offset_data, data.size)
                found.append(Recording(PurePosixPath(name).name.removesuffix(META), meta, where, path, region))
            end = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError, MemoryError) as error:
        mend = "an archive is an uncompressed tar; unpack a compressed one, and name its .sigmf-meta"
        raise InputRefused(f"is no SigMF archive: {error}", where=str(path), mend=mend) from None
    if not found:
        raise InputRefused("is a SigMF archive without a recording", where=str(path))
    if len({each.name for each in found}) < len(found):
        raise InputRefused("has two recordings of one name", where=str(path), mend="unpack it")
    if any(sum(each.region or ()) > end for each in found):
        raise InputRefused("ends inside of its data", where=str(path), mend="the archive is truncated; copy it again")
    return tuple(found)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The plain files of an archive, at most so many that a hostile one ends."""
    for number, member in enumerate(archive):
        if number > 4 * _MAX_STREAMS:
            raise tarfile.ReadError("it has too many members")
        if member.isreg():
            yield member


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_META_BYTES:
            raise InputRefused(f"metadata of over {_MAX_META_BYTES >> 20} MiB", where=str(path))
        return path.read_bytes()
    except FileNotFoundError:
        mend = "a recording is a .sigmf-meta and a .sigmf-data"
        raise InputRefused("is missing", where=str(path), mend=mend) from None
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        reason = (error.strerror if isinstance(error, OSError) else None) or "no file has such a name"
        raise InputRefused(f"cannot be read: {reason}", where=str(path).encode("utf-8", "replace").decode()) from None


def _parsed(content: bytes, where: str) -> Any:
    """JSON, free of NaN and Infinity, which JSON does not know."""
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"is not SigMF JSON: {error}", where=where) from None


def _valid(content: bytes, where: str) -> dict[str, Any]:
    """A recording's metadata, valid by the schema and by the rules that `sigmf` adds to it."""
    import jsonschema
    from sigmf import validate

    meta = _parsed(content, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # undeclared extensions do not concern us
            validate.validate(meta)
    except jsonschema.ValidationError as error:
        key = "/".join(str(part) for part in error.absolute_path)
        raise InputRefused(f"breaks the SigMF schema at '{key}': {error.message[:120]}", where=where) from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputRefused(f"is not a SigMF recording: {error!r}", where=where) from None
    return dict(meta)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _data_path(meta_path: Path, settings: dict[str, Any]) -> Path:
    """The data file; `core:dataset` may name another one, in the recording's own folder only."""
    if settings.get("core:metadata_only"):
        raise InputRefused("is metadata alone, without data", where=str(meta_path))
    named = settings.get("core:dataset")
    path = meta_path.with_name(meta_path.name.removesuffix(META) + DATA)
    if named and not _lies_in(meta_path.parent, path := meta_path.parent / named):
        raise InputRefused(
            f"core:dataset {named!r} leads out of the recording's folder",
            where=str(meta_path),
            mend="put the data file beside its metadata",
        )
    if not os.path.isfile(path):
        raise InputRefused("data file is missing", where=str(path), mend="put it beside its metadata")
    return path


def _lies_in(folder: Path, path: Path) -> bool:
    """Whether `path` is a direct child of `folder`, links followed; no name that the system refuses is one."""
    try:
        return path.resolve().parent == folder.resolve()
    except (OSError, RuntimeError, ValueError):  # too long; links in a circle; a zero byte
        return False
