"""`doctor`: looks at the machine and says what is missing and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from controller.config import HttpTable
from controller.page.server import listen
from ingest.errors import TwinbeamError
from sim.bundle import load_bundle
from sim.llvm import ENVIRONMENT, MEND, OLDEST_MAJOR, find_libllvm
from sim.site import sites_folder

EXTRAS: dict[str, tuple[str, ...]] = {
    "twin": ("sionna.rt", "shapely", "trimesh", "matplotlib"),
    "geometry": ("open3d",),
    "train": ("torch", "onnx", "onnxscript", "sklearn", "kmedoids", "matplotlib"),
    "reference": ("cvxpy", "scs", "clarabel"),
    "csi": ("csiread",),
    "tensorflow": ("tensorflow",),
    "cluster": ("ray",),
}
_LATE_WAKE_S = 2e-3
_LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. mend: what to do about it, "" where nothing need be done."""

    what: str
    state: Literal["ok", "warn", "fail"]
    mend: str = ""


def examine() -> list[Finding]:
    """Everything worth knowing before a run."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _packages,
        _extras,
        _libllvm,
        _kernel_cache,
        _sites,
        _page_port,
        _disk,
        _wake_up,
        _cores,
    )
    return [finding for check in checks for finding in check()]


def _python() -> list[Finding]:
    shown = ".".join(str(part) for part in sys.version_info[:3])
    return [Finding(f"Python {shown}", "ok")]


def _packages() -> list[Finding]:
    found = []
    for name in ("numpy", "scipy", "numba", "pyzmq", "onnxruntime", "mcap", "h5py"):
        try:
            found.append(Finding(f"{name} {version(name)}", "ok"))
        except PackageNotFoundError:
            found.append(Finding(f"{name} is missing", "fail", "pip install twinbeam"))
    return found


def _extras() -> list[Finding]:
    found = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _importable(module)]
        if missing:
            mend = f"pip install 'twinbeam[{extra}]', if you need it"
            found.append(Finding(f"extra {extra}: no {', '.join(missing)}", "warn", mend))
        else:
            found.append(Finding(f"extra {extra}", "ok"))
    return found


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _libllvm() -> list[Finding]:
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        state: Literal["ok", "fail"] = "ok" if Path(chosen).is_file() else "fail"
        return [Finding(f"libLLVM {chosen} by {ENVIRONMENT}", state, "" if state == "ok" else f"unset it, or {MEND}")]
    found = find_libllvm()
    if found is None:
        return [Finding("no libLLVM: sites cannot be traced", "warn", MEND)]
    path, major = found
    if major < OLDEST_MAJOR:
        return [Finding(f"libLLVM {major} ({path}) aborts on AVX-512 machines", "fail", MEND)]
    return [Finding(f"libLLVM {major} ({path})", "ok")]


def _kernel_cache() -> list[Finding]:
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__")
    folder.mkdir(parents=True, exist_ok=True) if os.access(folder.parent, os.W_OK) else None
    if os.access(folder, os.W_OK):
        return [Finding("compiled kernels are kept between runs", "ok")]
    return [Finding(f"{folder} is not writable: kernels may be compiled anew", "warn", "set NUMBA_CACHE_DIR")]


def _sites() -> list[Finding]:
    found = []
    for path in sorted(sites_folder().glob("*/*.h5")):
        name = f"site bundle {path.parent.name}/{path.name}"
        try:
            bundle = load_bundle(path)
            found.append(Finding(f"{name}: {len(bundle.positions_m)} positions", "ok"))
        except TwinbeamError as error:
            found.append(Finding(f"{name}: {error.what}", "fail", error.mend))
    return found


def _page_port() -> list[Finding]:
    table = HttpTable()
    try:
        listen(table).close()
        return [Finding(f"port {table.port} is free for the page", "ok")]
    except TwinbeamError as error:
        return [Finding(f"port {table.port}: {error.what}", "warn", "--port, or [http] port")]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    shown = f"{free / (1 << 30):.1f} GiB free here for journals"
    if free < _LEAST_FREE_BYTES:
        return [Finding(shown, "warn", "free some, or set [journal] folder elsewhere")]
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd()):
            return [Finding(shown, "ok")]
    except OSError:
        return [Finding("this folder is not writable", "warn", "set [journal] folder elsewhere")]


def _wake_up() -> list[Finding]:
    late_s = []
    for _ in range(100):
        begun = time.monotonic()
        time.sleep(1e-3)
        late_s.append(time.monotonic() - begun - 1e-3)
    worst_s = sorted(late_s)[98]
    shown = f"the machine wakes up {worst_s * 1e3:.2f} ms late (1 in 100)"
    if worst_s > _LATE_WAKE_S:
        return [Finding(shown, "warn", "a quieter machine, or blocks longer than that by far")]
    return [Finding(shown, "ok")]


def _cores() -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return [Finding("one core", "warn", "two or more, so that receiving and deciding do not wait for each other")]
    return [Finding(f"{cores} cores", "ok")]
