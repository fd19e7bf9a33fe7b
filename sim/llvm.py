"""Which libLLVM Sionna RT's just-in-time compiler uses on the CPU.

Dr.Jit takes the first one it finds. Versions 14 and 15 abort the whole process on machines with AVX-512, so the
newest one is chosen here, before Sionna RT is first imported.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ingest.errors import TwinbeamError

ENVIRONMENT = "DRJIT_LIBLLVM_PATH"
OLDEST_MAJOR = 16
MEND = "apt-get install libllvm19"

_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
)
_LLVM_FOLDERS = "/usr/lib/llvm-*/lib"
_NAME = re.compile(r"libLLVM(?:-|\.so\.)(\d+)(?:\.(\d+))?(?:\.so.*)?$")


def find_libllvm() -> tuple[Path, int] | None:
    """The newest libLLVM on this machine and its major version; None when there is none."""
    folders = [Path(folder) for folder in _FOLDERS] + sorted(Path("/").glob(_LLVM_FOLDERS.lstrip("/")))
    found: list[tuple[int, int, Path]] = []
    for folder in folders:
        for path in folder.glob("libLLVM*"):
            match = _NAME.match(path.name)
            if match:
                found.append((int(match[1]), int(match[2] or 0), path))
    if not found:
        return None
    major, _, path = max(found, key=lambda one: (one[0], one[1], str(one[2])))
    return path, major


def choose_libllvm() -> Path:
    """Point Dr.Jit at the newest libLLVM, unless the user chose one; `TwinbeamError` when none will do."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        if not Path(chosen).is_file():
            raise TwinbeamError(f"{ENVIRONMENT} names no file", where=chosen, mend=f"unset it, or {MEND}")
        return Path(chosen)
    found = find_libllvm()
    if found is None:
        raise TwinbeamError("Sionna RT needs libLLVM and there is none", where="libLLVM", mend=MEND)
    path, major = found
    if major < OLDEST_MAJOR:
        raise TwinbeamError(f"libLLVM {major} makes Sionna RT abort on AVX-512 machines", where=str(path), mend=MEND)
    os.environ[ENVIRONMENT] = str(path)
    return path
