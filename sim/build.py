"""`twin build`: from a site file to its bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from ingest.errors import UsageRefused
from sim.bundle import file_digest, save_bundle
from sim.site import load_site, site_path


def build_bundle(
    name_or_path: str, *, world: bool, out: Path | None, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Trace the site and write its bundle; the fields of CLI-JSON."""
    path = site_path(name_or_path)
    site = load_site(path)
    target = out or path.with_name("world.h5" if world else "twin.h5")
    if not target.parent.is_dir():
        raise UsageRefused("no such folder", where=str(target.parent), mend="make it, or name another by --out")
    from sim.tracer import trace_site

    begun = perf_counter()
    bundle = trace_site(site, site.world if world else site.twin, world=world, folder=path.parent, progress=progress)
    save_bundle(bundle, target)
    return {
        "site": site.name,
        "positions": len(bundle.positions_m),
        "paths": bundle.bs_user.paths + bundle.bs_ris.paths + bundle.ris_user.paths,
        "seconds": round(perf_counter() - begun, 3),
        "bytes": target.stat().st_size,
        "sha256": file_digest(target),
        "bundle": str(target),
    }
