"""Fuzz targets: what users write or are given with a journal, a site or a model, and the twin itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zmq

from controller.assembly import pipeline_from_journal
from controller.codec import OnnxDecoder
from controller.config import RecordedConfig, load_config
from ingest.endpoints import Endpoint, open_socket, parse_endpoint
from ingest.sources import open_source
from ingest.stream_uri import check_stream, is_stream, parse_gnuradio, parse_srsran
from sim.bundle import load_bundle, save_bundle
from sim.site import load_site, sites_folder
from tests.fuzz import formats_made
from tests.fuzz.mutate import Mutator, change_json, change_toml, toml, with_words
from tests.fuzz.targets import Ready, Target
from tests.ingest.test_sources_deepmimo import random_paths, scenario
from tests.sim.hand_made import random_bundle

_REFERENCES = [
    {"name": "a", "kind": "pusch", "prbs": [1, 2, 3], "hopping": "neither", "transform_precoding": True},
    {"name": "b", "kind": "pdsch", "config_type": 2, "length": 2},
    {"name": "c", "kind": "srs", "c_srs": 1, "comb": 4, "period_slots": 10, "offset_slots": 3},
    {"name": "d", "kind": "csi-rs", "row": 4, "frequency_bits": "010", "density": 1.0},
    {"name": "e", "kind": "trs", "slot_count": 2, "n_id": 7},
]
_CONFIGURATION = {
    "site": {"bundle": "munich"},
    "source": {"uri": "gnuradio+tcp://127.0.0.1:5555", "rate_hz": 7.68e6, "center_hz": 3.5e9},
    "receiver": {"scs_hz": 30e3, "prbs": 11, "carrier_hz": 3.5e9, "frame_start_s": 0.0, "references": _REFERENCES[:1]},
    "emit": {"bind": "tcp://127.0.0.1:5558", "remote": False},
    "block": {"period_s": 0.01, "deadline_s": 0.006, "hold_blocks": 3},
    "link": {"power_dbm": 30.0, "noise_dbm": -90.0, "rate_targets_bps_hz": {"ue0": 2.0}, "max_users": 4},
    "learning": {"rank": 4, "window": 30.0},
    "zones": {"method": "grid", "cell_m": 10.0},
    "design": {"precoder": "rzf", "ris": "align"},
    "models": {"csi_codecs": ["codec.onnx"]},
    "journal": {"folder": "journals"},
    "http": {"enabled": True, "host": "127.0.0.1", "port": 0},
}


def _written(name: str, read: Callable[[Path], object], seeds: list[bytes], mutate: Mutator, cost: int = 1) -> Target:
    """A target whose inputs are a file of that name."""

    def prepare(folder: Path) -> Ready:
        path = folder / name

        def execute(data: bytes) -> object:
            path.write_bytes(data)
            return read(path)

        return Ready(execute, seeds, mutate)

    return Target(name, prepare, cost)


def _configurations() -> list[bytes]:
    return [toml(_CONFIGURATION).encode()] + [
        toml({"receiver": {"prbs": 24, "references": [reference]}}).encode() for reference in _REFERENCES
    ]


def _recorded(_: Path) -> Ready:
    """The configuration in a journal, up to the pipeline that is made of it."""
    told = {"link": _CONFIGURATION["link"], "zones": _CONFIGURATION["zones"], "receiver": _CONFIGURATION["receiver"]}
    good = RecordedConfig.model_validate(told).model_dump_json()

    def execute(data: bytes) -> object:
        return pipeline_from_journal({"config": data.decode("utf-8", "replace")}, "journal")

    return Ready(execute, [good.encode()], change_json)


def _bundle(folder: Path) -> Ready:
    path = folder / "twin.h5"
    save_bundle(random_bundle(np.random.default_rng(3)), path)
    good = path.read_bytes()
    mutate = formats_made.hdf5(path, seal=True)

    def execute(data: bytes) -> object:
        path.write_bytes(data)
        return load_bundle(path)

    return Ready(execute, [good], mutate)


def _manifest(folder: Path) -> Ready:
    """The manifest of a codec; the model beside it is a good one."""
    from tests.controller.test_codec import ANTENNAS, CODEWORD, TONES, linear_model

    model = linear_model(np.ones((CODEWORD, 2 * ANTENNAS * TONES), np.float32))
    (folder / "codec.onnx").write_bytes(model)
    told = {
        "schema": "twinbeam.codec/1", "name": "linear", "sha256": hashlib.sha256(model).hexdigest(),
        "codeword": CODEWORD, "antennas": ANTENNAS, "tones": TONES, "scale": 2.0, "nmse_db": -20.0,
        "data": "none", "commit": "0",
    }  # fmt: skip

    def execute(data: bytes) -> object:
        (folder / "codec.json").write_bytes(data)
        return OnnxDecoder(folder / "codec.onnx")

    return Ready(execute, [json.dumps(told).encode()], change_json)


_WORDS = (
    "gnuradio+", "srsran+", "zmq+", "tcp://", "ipc://", "udp://", "127.0.0.1", "[::1]", "[", "]", ":", ":5555",
    ":99999", ":0", "?", "&", "=", "#", "@", "/", "*", "%00", "%", "rate_hz=", "center_hz=", "1e6", "nan", "inf",
    "1e400", "block_ms=", "format=", "antennas=", "tags=1", "key=", "socket=pull", "bind=1", "remote=1", "port1=",
    "port3=7", "\0", "é", "٣", "x" * 200, "9" * 30,
)  # fmt: skip


def _stream_uri(_: Path) -> Ready:
    """The address of a stream; one that passes is connected to, where that reaches nobody else."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def execute(data: bytes) -> object:
        uri = data.decode("utf-8", "surrogateescape")
        if not is_stream(uri):
            return None
        check_stream(uri, 1e6)
        if uri.startswith("gnuradio+"):
            found = [parse_gnuradio(uri, 1e6).endpoint.address]
        elif uri.startswith("srsran+"):
            found = list(parse_srsran(uri, 1e6).addresses)
        else:
            found = [parse_endpoint(uri).address]
        for address in found:
            if address.startswith(("ipc://", "tcp://127.0.0.1:", "tcp://[::1]:")):
                open_socket(context, zmq.SUB, Endpoint(address, bind=False)).close()
        return found

    seeds = [
        b"zmq+tcp://127.0.0.1:5555?socket=pull&bind=1",
        b"zmq+ipc:///run/none?remote=1",
        b"gnuradio+tcp://127.0.0.1:5555?rate_hz=46.08e6&center_hz=3.5e9&format=sc16&antennas=4&tags=1&key=a",
        b"srsran+tcp://127.0.0.1:2000?center_hz=1e9&rate_hz=1e6&port1=2001&port2=2002&block_ms=5",
    ]
    return Ready(execute, seeds, with_words(*_WORDS), lambda: context.destroy(linger=0))


def _options(folder: Path) -> Ready:
    """What stands behind a file's name."""
    path = scenario(folder, [random_paths(np.random.default_rng(7), 2)])

    def execute(data: bytes) -> int:
        source = open_source(f"{path}?{data.decode('utf-8', 'surrogateescape')}")
        return sum(1 for _ in source)

    seeds = [
        b"shape=4x2&spacing=0.5&rotation=0,0,-135&subcarriers=64&bandwidth_hz=50e6&selected=0:8&users=0:100&walk=1",
        b"selected=0:64:8&carrier_hz=3.5e9",
    ]
    words = (
        *_WORDS,
        "shape=",
        "1024x1024",
        "selected=0:",
        "subcarriers=65536",
        "users=",
        "rotation=",
        ":",
        ",",
        "x",
        "-1",
    )
    return Ready(execute, seeds, with_words(*words))


SETTINGS = [
    _written("configuration.toml", load_config, _configurations(), change_toml, cost=4),
    Target("recorded configuration", _recorded),
    _written("site.toml", load_site, [(sites_folder() / "munich" / "site.toml").read_bytes()], change_toml),
    Target("site bundle", _bundle, cost=10),
    Target("codec manifest", _manifest),
    Target("stream uri", _stream_uri),
    Target("file options", _options),
]
