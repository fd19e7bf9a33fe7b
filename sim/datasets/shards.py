"""What a set is written as: HDF5 shards, and a manifest that says what they hold.

Bytes depend on contents alone: no times, no compression, a fixed version of the format.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sim.datasets.spec import Plan
from sim.site import site_digest

SCHEMA = "twinbeam.dataset/1"

_MEANINGS = {
    "cfr": ("channel from each antenna on each tone", "sample, antenna, tone"),
    "cir": ("channel taps from each antenna", "sample, antenna, tap"),
    "cascade": ("[h ; diag(g) H_br] at the carrier", "sample, 1 + RIS element, antenna"),
    "position_m": ("where the user stands, or is said to", "sample, x y z"),
    "paths": ("paths from base station to user; with 0 its channels are 0", "sample"),
    "los": ("1 with a line of sight", "sample"),
    "delay_s": ("delay of the earliest path, NaN without", "sample"),
    "track": ("number of the track", "sample"),
    "scale": ("what makes each channel's mean power 1, 0 without paths; not applied", "sample"),
}


def shard_name(shard: int) -> str:
    return f"shard-{shard:05}.h5"


def shard_file(plan: Plan, shard: int, batches: Sequence[dict[str, npt.NDArray[Any]]]) -> tuple[bytes, dict[str, Any]]:
    """A shard's bytes, and its entry in the manifest, of the arrays of its batches in order."""
    count = len(plan.spec.shard_range(shard))
    columns = {name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]}
    if plan.spec.normalise == "sample":
        columns |= {f"{name}_scale": _scales(columns[name]) for name in plan.channels}
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110"), track_order=True) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["name"] = plan.spec.name
        file.attrs["first_sample"] = plan.spec.shard_range(shard).start
        for name in sorted(columns):
            file.create_dataset(name, data=columns[name], track_times=False)
    content = image.getvalue()
    reached = columns["paths"] > 0
    return content, {
        "file": shard_name(shard),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "first_sample": plan.spec.shard_range(shard).start,
        "samples": count,
        "unreached": int(np.count_nonzero(~reached)),
        "in_sight": int(np.count_nonzero(columns["los"])),
        "power": {name: float(_powers(columns[name]).sum()) for name in plan.channels},
    }


def manifest_file(plan: Plan, entries: Sequence[dict[str, Any]]) -> bytes:
    """The manifest of a whole set: entries are its shards' in order."""
    counts = {name: sum(entry[name] for entry in entries) for name in ("samples", "unreached", "in_sight", "bytes")}
    spec = plan.spec
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "name": spec.name,
        "seed": spec.seed,
        **plan.identity(),
        "site_sha256": site_digest(plan.site),
        "counts": counts | {"shards": len(entries)},
        "arrays": _described(plan),
        "normalisation": _normalisation(plan, entries, counts["samples"] - counts["unreached"]),
        "shards": list(entries),
    }
    if spec.cfr is not None:
        manifest["tones_hz"] = spec.cfr.tones_hz.tolist()
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _described(plan: Plan) -> dict[str, Any]:
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {name: ("<c8", shape) for name, shape in plan.channels.items()}
    shapes |= {"position_m": ("<f8", (3,)), "paths": ("<i4", ()), "los": ("|u1", ()), "delay_s": ("<f8", ())}
    if plan.spec.positions.draw == "tracks":
        shapes["track"] = ("<i8", ())
    if plan.spec.normalise == "sample":
        shapes |= {f"{name}_scale": ("<f4", ()) for name in plan.channels}
    described = {}
    for name, (dtype, shape) in shapes.items():
        meaning, axes = _MEANINGS["scale" if name.endswith("_scale") else name]
        described[name] = {"dtype": dtype, "shape": list(shape), "axes": axes, "what": meaning}
    return described


def _normalisation(plan: Plan, entries: Sequence[dict[str, Any]], reached: int) -> dict[str, Any]:
    """What would make the channels' mean power 1. It is stated, and not applied."""
    kind = plan.spec.normalise
    if kind != "set" or reached == 0:
        return {"kind": kind, "applied": False}
    means = {name: sum(entry["power"][name] for entry in entries) / reached for name in plan.channels}
    return {
        "kind": kind,
        "applied": False,
        "scale": {name: mean**-0.5 if mean else 0.0 for name, mean in means.items()},
    }


def _powers(channels: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
    """Mean power of each sample's channel entries. Shape [n]."""
    flat = channels.reshape(len(channels), -1).astype(np.complex128)
    return np.asarray(np.mean(flat.real**2 + flat.imag**2, axis=1))


def _scales(channels: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    powers = _powers(channels)
    return np.where(powers > 0, 1 / np.sqrt(np.where(powers > 0, powers, 1.0)), 0.0).astype("<f4")
