"""What a scene is read from: a set must not go on where its houses have changed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ingest.errors import UsageRefused
from sim.bundle import file_digest

_NAMED = re.compile(rb'value\s*=\s*"([^"]+)"')


def scene_digest(scene: str, folder: Path) -> str:
    """sha256 over the scene's file and the files that it names; "" of a scene that comes with Sionna RT.

    Raises `UsageRefused` where `scene` is a path and nothing is there.
    """
    path = folder / scene
    if not Path(scene).suffix:
        return ""
    if not path.is_file():
        raise UsageRefused("no such scene file", where=str(path), mend="see `scene` in the site file")
    files = {path}
    if path.suffix == ".xml":
        named = {path.parent / found.decode(errors="replace") for found in _NAMED.findall(path.read_bytes())}
        files |= {file for file in named if file.is_file()}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(os.path.relpath(file, folder).encode())
        digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()
