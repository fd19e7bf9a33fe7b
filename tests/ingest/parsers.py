"""Every parser of files, for tests that feed it bytes nobody meant it to get.

`PARSERS` are (name, read): `read(path)` opens the file and takes everything out of it. On any bytes whatever it gives
the number of messages or raises `TwinbeamError`; anything else is a bug. `seed(name, folder)` writes a good file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat

from ingest.journal import JournalWriter
from ingest.sources import open_source
from ingest.sources.side_car import find_side_car
from tests.ingest import test_sources_dichasus as dichasus
from tests.ingest import test_sources_oai as oai
from tests.ingest.test_sources_csi import random_csi, record, report
from tests.ingest.test_sources_deepmimo import random_paths, scenario
from tests.ingest.test_sources_sigmf import metadata, recording
from tests.ingest.test_sources_sigmf_sets import PACKED, archive, streams
from tests.ingest.test_sources_wifi import DEVICES, atheros, log_of, numbers
from tests.random_channels import budget

Read = Callable[[Path], int]
_RAW: dict[str, Any] = {"rate_hz": 1e6, "center_hz": 1e9}
_MOST = 10_000


def _reader(**options: Any) -> Read:
    def read(path: Path) -> int:
        source = open_source(str(path), **options)
        try:
            return sum(1 for _, _ in zip(range(_MOST), source, strict=False))
        finally:
            source.close()

    return read


def _side_car(path: Path) -> int:
    """`path` is the side-car; the file it stands beside has the same name without `.json` or `.toml`."""
    return 0 if find_side_car(path.with_suffix("")) is None else 1


_SUFFIX = {
    "raw cf32": ".cf32", "raw sc16": ".sc16", "side-car json": ".raw.json", "side-car toml": ".raw.toml",
    "sigmf metadata": ".sigmf-meta", "sigmf collection": ".sigmf-collection", "sigmf archive": ".sigmf",
    "oai metadata": ".sigmf-meta", "intel5300": ".dat", "atheros": ".dat", "picoscenes": ".csi",
    "dichasus": ".tfrecords", "deepmimo": ".mat", "npz iq": ".npz", "npz channels": ".npz", "mat iq": ".mat",
    "h5 iq": ".h5", "h5 channels": ".h5", "journal": ".mcap", "any contents": "",
}  # fmt: skip

PARSERS: list[tuple[str, Read]] = [
    ("raw cf32", _reader(**_RAW)),
    ("raw sc16", _reader(**_RAW)),
    ("side-car json", _side_car),
    ("side-car toml", _side_car),
    ("sigmf metadata", _reader()),
    ("sigmf collection", _reader()),
    ("sigmf archive", _reader()),
    ("oai metadata", _reader()),
    ("intel5300", _reader(format_name="intel5300")),
    ("atheros", _reader(format_name="atheros")),
    ("picoscenes", _reader(format_name="picoscenes")),
    ("dichasus", _reader()),
    ("deepmimo", _reader(format_name="deepmimo")),
    ("npz iq", _reader()),
    ("npz channels", _reader()),
    ("mat iq", _reader()),
    ("h5 iq", _reader()),
    ("h5 channels", _reader()),
    ("journal", _reader()),
    ("any contents", _reader()),
]
NATIVE = ("h5 iq", "h5 channels")
"""Parsed by a C library (HDF5) that may itself fail on hostile bytes: run these in a process of their own."""


def seed(name: str, folder: Path) -> Path:
    """A small good file for the parser `name`, with whatever must stand beside it; returns what `read` is given."""
    rng = np.random.default_rng(7)
    path = folder / f"seed{_SUFFIX[name]}"
    iq = {"iq": np.ones((2, 40), np.complex64), "rate_hz": 1e6, "center_hz": 1e9, "gaps": np.array([[20, 5]])}
    channels = {"cfr": np.ones((3, 2, 4), complex), "tones_hz": np.arange(4.0), "noise_power": 0.1}
    if name.startswith("raw") or name == "any contents":
        np.ones(40, np.complex64).tofile(path)
    elif name.startswith("side-car"):
        text = 'rate_hz = 1e6\nchannels = 2\ngaps = [[5, 6]]\nformat = "sc16"\n'
        car = {"rate_hz": 1e6, "center_hz": 1e9, "format": "sc16", "channels": 2, "gaps": [[5, 6]]}
        path.write_text(json.dumps(car) if path.suffix == ".json" else text)
        path.with_suffix("").write_bytes(bytes(80))
    elif name == "sigmf metadata":
        return recording(folder, metadata(annotations=[{"core:sample_start": 1}]), name="seed")
    elif name == "sigmf collection":
        recording(folder, metadata())
        return streams(path, {"name": "run"})
    elif name == "sigmf archive":
        return archive(path, PACKED)
    elif name == "oai metadata":
        return oai.write(folder, "raw-ce-fd-data", oai.estimates(oai.a_channel(rng)))
    elif name == "intel5300":
        path.write_bytes(b"".join(record(report(random_csi(rng, 2, 1))) for _ in range(3)))
    elif name == "atheros":
        path.write_bytes(b"".join(atheros(numbers(rng, 10, 2, 1, 56)) for _ in range(3)))
    elif name == "picoscenes":
        path.write_bytes(b"".join(log_of(device, 2, numbers(rng, 8, a, s, t)) for device, _, a, s, t in DEVICES))
    elif name == "dichasus":
        types = dichasus.message_types()
        path.write_bytes(b"".join(dichasus.a_record(types, rng, n)[0] for n in range(2)))
    elif name == "deepmimo":
        return scenario(folder, [random_paths(rng, 2), random_paths(rng, 1)])
    elif name.startswith("npz"):
        np.savez(path, **(iq if name == "npz iq" else channels))
    elif name == "mat iq":
        savemat(path, iq)
    elif name.startswith("h5"):
        with h5py.File(path, "w") as file:
            for key, value in (iq if name == "h5 iq" else channels).items():
                file[key] = value
    elif name == "journal":
        with JournalWriter(path, {"config": ""}) as writer:
            writer.write(budget(0))
    return path
