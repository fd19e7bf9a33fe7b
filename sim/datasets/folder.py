"""The folder that a set grows in: what is in it is always whole, and what is not ours is never touched.

A shard is written beside its place, brought to the disk and renamed; then a line of the journal says its hash. The
manifest comes last and takes the journal's place. Whatever moment the power goes, the next start keeps the shards
whose hashes hold and redoes the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ingest.errors import TwinbeamError, UsageRefused
from sim.bundle import file_digest
from sim.datasets.shards import SCHEMA, manifest_file, shard_name
from sim.datasets.spec import Plan

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
_JOURNAL_SCHEMA = "twinbeam.dataset-journal/1"
_PARTIAL = ".partial"
_SHARD = re.compile(r"shard-(\d{5,})\.h5(\.partial)?")


class DatasetFolder:
    """A folder held by one maker. entries: of the shards that are there and whole, by number."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self._plan = path, plan
        self.entries: dict[int, dict[str, Any]] = {}
        self.damaged: list[str] = []
        self.complete = False
        self._read()

    def add(self, shard: int, content: bytes, entry: dict[str, Any]) -> None:
        """Put a shard in its place, then note it."""
        self._put(shard_name(shard), content)
        with (self.path / JOURNAL).open("ab") as journal:
            journal.write(_line({"shard": shard, **entry}))
            journal.flush()
            os.fsync(journal.fileno())
        self.entries[shard] = entry

    def finish(self) -> Path:
        """Write the manifest of all shards, which ends the set; its path."""
        content = manifest_file(self._plan, [self.entries[shard] for shard in range(self._plan.spec.shards)])
        self._put(MANIFEST, content)
        with suppress(FileNotFoundError):
            (self.path / JOURNAL).unlink()
        for shard in range(self._plan.spec.shards):
            with suppress(FileNotFoundError):
                (self.path / (shard_name(shard) + _PARTIAL)).unlink()
        return self.path / MANIFEST

    def _read(self) -> None:
        """Take over what an earlier start left, or begin anew in an empty folder."""
        manifest, journal = self.path / MANIFEST, self.path / JOURNAL
        if manifest.exists():
            noted = self._of_manifest(manifest)
        elif journal.exists():
            noted = self._of_journal(journal)
        else:
            self._refuse_strangers()
            noted = {}
        self._refuse_further_shards()
        for shard, entry in noted.items():
            if self._is_whole(entry):
                self.entries[shard] = entry
            else:
                self.damaged.append(entry["file"])
        self.complete = manifest.exists() and len(self.entries) == self._plan.spec.shards
        if not self.complete:  # also where the last line was torn
            lines = [_line({"schema": _JOURNAL_SCHEMA, "identity": self._plan.identity()})]
            lines += [_line({"shard": shard, **entry}) for shard, entry in sorted(self.entries.items())]
            self._put(JOURNAL, b"".join(lines))

    def _of_manifest(self, path: Path) -> dict[int, dict[str, Any]]:
        try:
            manifest = json.loads(path.read_bytes())
            if manifest["schema"] != SCHEMA:
                raise ValueError(manifest["schema"])
            identity = {key: manifest[key] for key in self._plan.identity()}
            noted = {shard: _entry(entry, shard) for shard, entry in enumerate(manifest["shards"])}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageRefused(
                f"is no manifest of ours: {error}", where=str(path), mend="another folder by --out"
            ) from None
        self._refuse_change(identity)
        return noted

    def _of_journal(self, path: Path) -> dict[int, dict[str, Any]]:
        """Shards by the journal; a line that is torn, and what follows it, counts for nothing."""
        lines = path.read_bytes().split(b"\n")
        try:
            head = json.loads(lines[0])
            if head["schema"] != _JOURNAL_SCHEMA:
                raise ValueError(head["schema"])
            identity = head["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageRefused(
                f"is no journal of ours: {error}", where=str(path), mend="another folder by --out"
            ) from None
        self._refuse_change(identity)
        noted = {}
        for line in lines[1:-1]:
            try:
                read = json.loads(line)
                noted[read["shard"]] = _entry(read, read["shard"])
            except (ValueError, KeyError, TypeError, AttributeError):
                break
        return noted

    def _refuse_change(self, before: Any) -> None:
        changed = first_difference(before, self._plan.identity())
        if changed:
            mend = f"what it was before, another folder by --out, or delete {self.path}"
            raise UsageRefused(f"holds a set with {changed}", where=str(self.path), mend=mend)

    def _refuse_strangers(self) -> None:
        """A folder that is no set's has to be empty, but for what a start leaves that is killed at once."""
        for path in sorted(self.path.iterdir()):
            if path.name != JOURNAL + _PARTIAL:
                text = f"is not empty, and no data set of ours: it holds {path.name}"
                raise UsageRefused(text, where=str(self.path), mend="another folder by --out")

    def _refuse_further_shards(self) -> None:
        """Who reads shard-*.h5 would take them for a part of the set."""
        for path in sorted(self.path.iterdir()):
            match = _SHARD.fullmatch(path.name)
            if match and (int(match[1]) >= self._plan.spec.shards or not path.is_file()):
                raise UsageRefused("is no part of this set", where=str(path), mend="move it away")

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        path = self.path / entry["file"]
        whole = path.is_file() and path.stat().st_size == entry["bytes"] and file_digest(path) == entry["sha256"]
        return bool(whole)

    def _put(self, name: str, content: bytes) -> None:
        """A file that is whole or not there, also when the power goes."""
        partial = self.path / (name + _PARTIAL)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path / name)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def held_folder(path: Path, plan: Plan) -> Iterator[DatasetFolder]:
    """The folder at `path`, made if need be and held so that no other maker works in it.

    Raises `UsageRefused` where it holds another set or other things, `TwinbeamError` where the disk fails.
    """
    try:
        path.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise UsageRefused("no such folder", where=str(path.parent), mend="make it, or name another by --out") from None
    except (FileExistsError, NotADirectoryError):
        raise UsageRefused("is a file", where=str(path), mend="name a folder by --out") from None
    except OSError as error:
        raise TwinbeamError(f"cannot be written: {error.strerror}", where=str(path)) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mend = "wait for it, or name another folder by --out"
            raise UsageRefused("another process is making a set here", where=str(path), mend=mend) from None
        yield DatasetFolder(path, plan)
    except OSError as error:
        where = str(error.filename or path)
        raise TwinbeamError(
            f"cannot be written: {error.strerror}", where=where, mend="the same command goes on"
        ) from None
    finally:
        os.close(handle)


def first_difference(before: Any, now: Any, where: str = "") -> str:
    """What differs first between two JSON values, told; "" where nothing does."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            told = first_difference(before.get(key), now.get(key), f"{where}.{key}" if where else key)
            if told:
                return told
        return ""
    return "" if before == now else f"{where} = {json.dumps(before)[:80]}, not {json.dumps(now)[:80]}"


def _entry(read: dict[str, Any], shard: int) -> dict[str, Any]:
    """A shard's entry as the manifest has it; `ValueError`, `KeyError` or `TypeError` where it is none."""
    if read["file"] != shard_name(shard):
        raise ValueError(read["file"])
    names = ("file", "sha256", "bytes", "first_sample", "samples", "unreached", "in_sight", "power")
    return {name: read[name] for name in names}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode() + b"\n"
