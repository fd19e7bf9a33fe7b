"""What fuzzing found, one test each: files that took gigabytes for themselves, or let out more than a refusal."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from controller.assembly import pipeline_from_journal
from controller.codec import OnnxDecoder
from controller.config import RecordedConfig, load_config
from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.sources import open_source
from ingest.sources.tfrecord import Damaged, masked_crc, read_records
from sim.bundle import load_bundle, save_bundle, seal
from tests.controller.test_codec import CODEWORD, linear_model, shipped
from tests.ingest.test_sources_arrays import as_h5
from tests.ingest.test_sources_deepmimo import random_paths, scenario
from tests.sim.hand_made import random_bundle

IQ = {"iq": np.ones((2, 40), np.complex64), "rate_hz": 1e6, "center_hz": 1e9}


def refused(work: Callable[[], Any], word: str, kind: type[TwinbeamError] = InputRefused) -> None:
    with pytest.raises(kind, match=word) as refusal:
        work()
    assert "\n" not in str(refusal.value)


def test_a_collection_of_names_that_no_file_can_have(tmp_path: Path) -> None:
    path = tmp_path / "a.sigmf-collection"
    streams = [{"name": "\ud800", "hash": "0"}]
    path.write_text(json.dumps({"collection": {"core:version": "1.2.0", "core:streams": streams}}))
    refused(lambda: open_source(str(path)), "no file has such a name")


def test_a_record_that_is_longer_than_its_file(tmp_path: Path) -> None:
    """Its length has a good checksum; `read` would make room for all of it."""
    head = struct.pack("<Q", 200 << 20)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(head + struct.pack("<I", masked_crc(head)) + b"data")
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            (found,) = read_records(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(found, Damaged)
    assert (str(found), found.lost) == ("truncated_end", True)


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (2, 200_000_000)])
def test_an_array_whose_numbers_are_not_in_the_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = as_h5(tmp_path, {key: value for key, value in IQ.items() if key != "iq"})
    with h5py.File(path, "a") as file:
        file.create_dataset("iq", shape, "<c8", chunks=(1, 1000), compression="gzip")
    refused(lambda: open_source(str(path)), "is not there, or not all")


def test_an_array_of_zeros_is_there_however_small_it_is_packed(tmp_path: Path) -> None:
    path = as_h5(tmp_path, {key: value for key, value in IQ.items() if key != "iq"})
    with h5py.File(path, "a") as file:
        file.create_dataset("iq", data=np.zeros((2, 1_000_000), np.complex64), compression="gzip", compression_opts=9)
    assert path.stat().st_size < 100_000
    assert open_source(str(path)).info.samples == 1_000_000


def test_a_bundle_of_numbers_that_are_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "twin.h5"
    save_bundle(random_bundle(np.random.default_rng(1)), path)
    with h5py.File(path, "a") as file:
        del file["bs_user/gain"]
        file["bs_user"].create_dataset("gain", (300_000_000,), "<c8", chunks=(1000,))
    seal(path)
    refused(lambda: load_bundle(path), "holds 300000000 numbers")


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null"])
def test_a_journal_that_names_a_device_as_its_bundle(place: str) -> None:
    config = RecordedConfig.model_validate({"site": {"bundle": place}}).model_dump_json()
    refused(lambda: pipeline_from_journal({"config": config}, "journal"), "not a regular file")


@pytest.mark.parametrize("gaps", [np.array([[b"x", b"y"]]), np.array([[np.nan, 1.0]]), np.array([[1j, 2]])])
def test_gaps_that_are_no_numbers(gaps: Any, tmp_path: Path) -> None:
    refused(lambda: open_source(str(as_h5(tmp_path, IQ | {"gaps": gaps}))), "'gaps' of type")


def test_gaps_beyond_all_numbers(tmp_path: Path) -> None:
    refused(lambda: open_source(str(as_h5(tmp_path, IQ | {"gaps": np.array([[1e300, 1.0]])}))), "a gap of")


def test_an_npz_in_a_packing_that_asks_for_gigabytes(tmp_path: Path) -> None:
    """A damaged head of LZMA names a dictionary of 4 GiB."""
    good, path = tmp_path / "good.npz", tmp_path / "a.npz"
    np.savez(good, **IQ)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_LZMA)
    refused(lambda: open_source(str(path)), "packed in another way")


def test_numbers_that_their_class_does_not_hold(tmp_path: Path) -> None:
    """A matrix of 16-bit class whose element says that it is stored as doubles, which are NaN."""
    path = tmp_path / "a.mat"
    savemat(path, {"iq": np.ones((1, 8), np.int16)})
    content = path.read_bytes()
    short = struct.pack("<II", 3, 16) + np.ones(8, "<i2").tobytes()
    assert content.count(short) == 1
    (whole,) = struct.unpack_from("<I", content, 132)
    wide = struct.pack("<II", 9, 64) + np.full(8, np.nan).tobytes()
    path.write_bytes(content[:132] + struct.pack("<I", whole + 48) + content[136:].replace(short, wide))
    refused(lambda: open_source(str(path), rate_hz=1e6, center_hz=1e9), "'iq' is real")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("element", [136, 152])
def test_flags_and_sizes_that_are_no_whole_numbers(element: int, value: float, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"iq": np.ones((1, 8))})
    content = bytearray(path.read_bytes())
    struct.pack_into("<IId", content, element, 9, 8, value)
    path.write_bytes(content)
    refused(lambda: open_source(str(path), rate_hz=1e6, center_hz=1e9), "no whole number")


def test_a_signal_of_a_kind_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('receiver = {references = [{name = "a", kind = []}]}\n')
    refused(lambda: load_config(path), "unknown kind", UsageRefused)


def test_channels_that_are_asked_for_too_large(tmp_path: Path) -> None:
    path = scenario(tmp_path, [random_paths(np.random.default_rng(1), 2)])
    asked = f"{path}?shape=1024x1024&subcarriers=65536&selected=0:"
    refused(lambda: open_source(asked), "times 65536 subcarriers are over", UsageRefused)


def test_a_user_of_more_paths_than_can_be_added_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = scenario(tmp_path, [random_paths(rng, 9_000), random_paths(rng, 2)])
    source = open_source(f"{path}?shape=64x64")
    assert [frame.seq for frame in source] == [0]
    assert source.rejected == {"too_many_paths": 1}


@pytest.mark.parametrize("uri", ["zmq+ipc:///run/a\udc80", "zmq+ipc:///run/a\0b?bind=1", "srsran+ipc://\udcff"])
def test_an_address_that_cannot_be_written(uri: str) -> None:
    refused(lambda: open_source(uri, rate_hz=1e6, center_hz=1e9), "characters that no address has", UsageRefused)


@pytest.mark.parametrize("name", ["codeword", "antennas", "tones"])
def test_a_codec_of_a_size_that_no_memory_holds(name: str, tmp_path: Path) -> None:
    content = linear_model(np.ones((CODEWORD, 24), np.float32))
    path = shipped(tmp_path, content, **{name: 6_000_000_000_000})
    assert hashlib.sha256(path.read_bytes()).hexdigest() in path.with_suffix(".json").read_text()
    refused(lambda: OnnxDecoder(path), f"'{name}'")
