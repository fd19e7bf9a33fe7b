"""SigMF recordings: read as their metadata says, and nothing is believed that the data file does not bear out."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sigmf import SigMFFile

from ingest.errors import InputRefused
from ingest.messages import IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.sources import Source, open_source
from ingest.sources.sigmf import DATATYPES
from tests.random_channels import complex_normal

RATE_HZ = 1e6
BLOCK = 20_000


def metadata(*, captures: list[dict[str, Any]] | None = None, annotations: Any = (), **settings: Any) -> dict[str, Any]:
    """A valid description of one capture at 3.5 GHz; settings replace or, where they are None, remove."""
    described = {"datatype": "cf32_le", "sample_rate": RATE_HZ, "version": "1.2.0"} | settings
    return {
        "global": {f"core:{key}": value for key, value in described.items() if value is not None},
        "captures": [capture(0)] if captures is None else captures,
        "annotations": list(annotations),
    }


def capture(start: int, frequency: float | None = 3.5e9, **more: Any) -> dict[str, Any]:
    fields = {"sample_start": start, "frequency": frequency} | more
    return {f"core:{key}": value for key, value in fields.items() if value is not None}


def recording(folder: Path, meta: Any, data: bytes | None = bytes(80), name: str = "run") -> Path:
    """Writes both files and returns the metadata's path. meta: JSON, or the very bytes of the file."""
    path = folder / f"{name}.sigmf-meta"
    path.write_bytes(meta if isinstance(meta, bytes) else json.dumps(meta).encode())
    if data is not None:
        (folder / f"{name}.sigmf-data").write_bytes(data)
    return path


def blocks(source: Source) -> list[IqBlock]:
    found = list(source)
    assert all(isinstance(block, IqBlock) for block in found)
    return found


def refused(path: Path, *words: str, where: Path | None = None) -> None:
    """Opening `path` raises InputRefused in one line that begins with `where` and has all `words`."""
    with pytest.raises(InputRefused) as refusal:
        open_source(str(path))
    assert refusal.value.exit_code == 3
    text = str(refusal.value)
    assert text.startswith(f"{where or path}: ")
    assert "\n" not in text
    assert len(text) < 700
    for word in words:
        assert word in text


def test_a_recording_of_the_sigmf_package(tmp_path: Path, rng: np.random.Generator) -> None:
    recorded = complex_normal(rng, BLOCK + 100).astype(np.complex64)
    recorded.tofile(tmp_path / "theirs.sigmf-data")
    theirs = SigMFFile(
        data_file=str(tmp_path / "theirs.sigmf-data"),
        global_info={"core:datatype": "cf32_le", "core:sample_rate": 2e6, "core:version": "1.2.0"},
    )
    theirs.add_capture(0, metadata={"core:frequency": 1.8425e9, "core:datetime": "2026-11-23T06:00:00Z"})
    theirs.add_annotation(10, 20, metadata={"core:label": "SSB"})
    theirs.tofile(str(tmp_path / "theirs.sigmf-meta"))
    source = open_source(str(tmp_path / "theirs.sigmf-meta"))
    assert (source.info.format, source.info.rate_hz, source.info.center_hz) == ("sigmf/cf32", 2e6, 1.8425e9)
    assert (source.info.samples, source.info.antennas) == (BLOCK + 100, 1)
    (block,) = blocks(source)
    np.testing.assert_array_equal(block.samples, recorded[None])


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".sigmf-data"])
def test_either_file_names_the_recording(suffix: str, tmp_path: Path) -> None:
    recording(tmp_path, metadata())
    assert open_source(str(tmp_path / f"run{suffix}")).info.samples == 10


def test_their_common_stem_names_the_recording(tmp_path: Path) -> None:
    recording(tmp_path, metadata())
    assert open_source(str(tmp_path / "run"), format_name="sigmf").info.samples == 10


@pytest.mark.parametrize(
    ("datatype", "component", "full_scale"),
    [
        ("cf32_le", "<f4", 1),
        ("cf32_be", ">f4", 1),
        ("cf64_le", "<f8", 1),
        ("cf64_be", ">f8", 1),
        ("ci16_le", "<i2", 32768),
        ("ci16_be", ">i2", 32768),
        ("ci8", "i1", 128),
        ("ci32_le", "<i4", 2**31),
        ("ci32_be", ">i4", 2**31),
    ],
)
def test_every_datatype(datatype: str, component: str, full_scale: float, tmp_path: Path) -> None:
    numbers = np.array([1, -2, 100, 64, -128, 127])
    path = recording(tmp_path, metadata(datatype=datatype), numbers.astype(component).tobytes())
    (block,) = blocks(open_source(str(path)))
    expected = (numbers[0::2] + 1j * numbers[1::2]) / full_scale
    np.testing.assert_array_equal(block.samples, expected[None].astype(np.complex64))


def test_no_datatype_is_untested() -> None:
    (parameters,) = (mark for mark in test_every_datatype.pytestmark if mark.name == "parametrize")
    assert {row[0] for row in parameters.args[1]} == set(DATATYPES)


def test_captures_with_frequencies_of_their_own(tmp_path: Path) -> None:
    captures = [capture(5, 1e9), capture(BLOCK + 10, 2e9), capture(BLOCK + 13, 3e9)]
    recorded = np.arange(BLOCK + 20).astype(np.complex64)
    source = open_source(str(recording(tmp_path, metadata(captures=captures), recorded.tobytes())))
    found = [(block.first_sample, block.samples.shape[1], block.center_hz) for block in blocks(source)]
    assert found == [(5, BLOCK, 1e9), (BLOCK + 5, 5, 1e9), (BLOCK + 10, 3, 2e9), (BLOCK + 13, 7, 3e9)]
    assert [block.t_ns for block in blocks(source)][:2] == [5_000, 20_005_000]
    assert all(block.samples[0, 0] == block.first_sample for block in blocks(source))


def test_several_channels(tmp_path: Path) -> None:
    recorded = np.arange(12).astype(np.complex64)
    source = open_source(str(recording(tmp_path, metadata(num_channels=3), recorded.tobytes())))
    assert (source.info.antennas, source.info.samples) == (3, 4)
    np.testing.assert_array_equal(blocks(source)[0].samples, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])


def test_samples_that_the_radio_lost_leave_a_gap(tmp_path: Path) -> None:
    """core:global_index: 500 samples were lost before the second capture."""
    captures = [capture(0, global_index=1000), capture(10, global_index=1510)]
    source = open_source(str(recording(tmp_path, metadata(captures=captures), np.ones(30, "c8").tobytes())))
    found = blocks(source)
    assert [(block.first_sample, block.t_ns) for block in found] == [(1000, 1_000_000), (1510, 1_510_000)]
    receiver = NrReceiver()
    for block in found:
        list(receiver.process(block))
    assert receiver.gaps == 500


def test_a_part_of_a_longer_recording(tmp_path: Path) -> None:
    """core:offset: all places in the metadata count from the start of the whole recording."""
    annotations = [{"core:sample_start": 1002, "core:sample_count": 8}]
    meta = metadata(captures=[capture(1000), capture(1004, 1e9)], annotations=annotations, offset=1000)
    source = open_source(str(recording(tmp_path, meta)))
    assert [(block.samples.shape[1], block.center_hz) for block in blocks(source)] == [(4, 3.5e9), (6, 1e9)]
    refused(recording(tmp_path, metadata(captures=[capture(999)], offset=1000)), "sample 999")


def test_a_data_file_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "samples.dat").write_bytes(bytes(80))
    assert open_source(str(recording(tmp_path, metadata(dataset="samples.dat"), None))).info.samples == 10


def test_a_recording_that_is_a_link_as_a_whole(tmp_path: Path) -> None:
    """As git-annex keeps them: metadata and data both links into a store."""
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    recording(tmp_path / "store", metadata())
    for suffix in ("meta", "data"):
        (tmp_path / "here" / f"run.sigmf-{suffix}").symlink_to(tmp_path / "store" / f"run.sigmf-{suffix}")
    assert open_source(str(tmp_path / "here" / "run.sigmf-meta")).info.samples == 10


def test_a_checksum_that_is_right(tmp_path: Path) -> None:
    checksum = hashlib.sha512(bytes(80)).hexdigest()
    assert open_source(str(recording(tmp_path, metadata(sha512=checksum)))).info.samples == 10
    assert open_source(str(recording(tmp_path, metadata(sha512=checksum.upper())))).info.samples == 10


def test_a_checksum_that_is_wrong(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(sha512=hashlib.sha512(b"other").hexdigest()))
    refused(path, "sha512", "copy it again", where=tmp_path / "run.sigmf-data")


@pytest.mark.parametrize(
    "meta",
    [
        metadata(annotations=[{"core:sample_start": 8, "core:sample_count": 3}]),
        metadata(annotations=[{"core:sample_start": 10}]),
        metadata(captures=[capture(0), capture(10)]),
    ],
)
def test_data_that_ends_too_early(meta: dict[str, Any], tmp_path: Path) -> None:
    refused(recording(tmp_path, meta), "ends at sample 10", "speaks of 11", where=tmp_path / "run.sigmf-data")


@pytest.mark.parametrize(("data", "channels"), [(bytes(79), 1), (bytes(80), 3)])
def test_data_that_ends_inside_a_sample(data: bytes, channels: int, tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(num_channels=channels), data)
    refused(path, "whole number", where=tmp_path / "run.sigmf-data")


def test_data_that_is_empty(tmp_path: Path) -> None:
    refused(recording(tmp_path, metadata(), b""), "is empty", where=tmp_path / "run.sigmf-data")


def test_data_that_is_missing(tmp_path: Path) -> None:
    refused(recording(tmp_path, metadata(), None), "is missing", "beside", where=tmp_path / "run.sigmf-data")
    refused(recording(tmp_path, metadata(dataset="a.dat"), None), "is missing", where=tmp_path / "a.dat")


def test_metadata_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run.sigmf-data").write_bytes(bytes(80))
    refused(tmp_path / "run.sigmf-data", "is missing", ".sigmf-meta", where=tmp_path / "run.sigmf-meta")


def test_folders_instead_of_files(tmp_path: Path) -> None:
    (tmp_path / "run.sigmf-meta").mkdir()
    refused(tmp_path / "run.sigmf-meta", "cannot be read: Is a directory")
    path = recording(tmp_path, metadata(), None, name="other")
    (tmp_path / "other.sigmf-data").mkdir()
    refused(path, "is missing", where=tmp_path / "other.sigmf-data")


@pytest.mark.parametrize("escape", ["../secret.dat", "sub/inside.dat", "..", ".", "link.dat", "loop.dat", "a\0b.dat"])
def test_a_data_file_elsewhere(escape: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.dat").write_bytes(bytes(80))
    (folder / "sub" / "inside.dat").write_bytes(bytes(80))
    (folder / "link.dat").symlink_to(tmp_path / "secret.dat")
    (folder / "loop.dat").symlink_to(folder / "loop.dat")
    refused(recording(folder, metadata(dataset=escape), None), "dataset")


def test_a_data_file_by_its_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "secret.dat").write_bytes(bytes(80))
    (tmp_path / "folder").mkdir()
    refused(recording(tmp_path / "folder", metadata(dataset=str(tmp_path / "secret.dat")), None), "dataset")


def test_a_data_file_of_an_endless_name(tmp_path: Path) -> None:
    refused(recording(tmp_path, metadata(dataset="x" * 300), None), "x" * 20, where=tmp_path / ("x" * 300))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know(number: str, tmp_path: Path) -> None:
    text = json.dumps(metadata()).replace("1000000.0", number)
    refused(recording(tmp_path, text.encode()), f"{number} is not a JSON number")


@pytest.mark.parametrize(
    "number", ["0", "-1e6", "0.5", "1e11", "1e400", "9" * 400, '"1e6"', "true", "[1e6]"], ids=lambda text: text[:8]
)
def test_a_rate_that_no_radio_has(number: str, tmp_path: Path) -> None:
    text = json.dumps(metadata()).replace("1000000.0", number)
    refused(recording(tmp_path, text.encode()), "rate")


@pytest.mark.parametrize("number", ["-1", "1e13", "1e400", "9" * 400, '"3e9"'], ids=lambda text: text[:8])
def test_a_frequency_that_no_radio_has(number: str, tmp_path: Path) -> None:
    text = json.dumps(metadata()).replace("3500000000.0", number)
    refused(recording(tmp_path, text.encode()), "frequency")


@pytest.mark.parametrize("start", ["-1", "0.5", "1e400", '"0"', str(2**63), "9" * 400], ids=lambda text: text[:8])
def test_a_capture_that_starts_nowhere(start: str, tmp_path: Path) -> None:
    text = json.dumps(metadata()).replace('"core:sample_start": 0', f'"core:sample_start": {start}')
    refused(recording(tmp_path, text.encode()), "sample_start")


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    text = json.dumps(metadata(num_channels=2)).replace('_start": 0', '_start": 0.0').replace('els": 2', 'els": 2.0')
    assert open_source(str(recording(tmp_path, text.encode()))).info.antennas == 2


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        (metadata(sample_rate=None), "core:sample_rate"),
        (metadata(captures=[capture(0, None)]), "core:frequency"),
        (metadata(captures=[]), "core:frequency"),
        (metadata(datatype=None), "core:datatype"),
        (metadata(version=None), "core:version"),
        (metadata(datatype="rf32_le"), "'rf32_le' is not read"),
        (metadata(datatype="cu8"), "'cu8' is not read"),
        (metadata(datatype="cf32"), "'cf32' is not read"),
        (metadata(datatype="cf32_leX"), "'cf32_leX' is not read"),
        (metadata(datatype="mp3"), "core:datatype"),
        (metadata(num_channels=0), "num_channels"),
        (metadata(num_channels=2**62), "whole number"),
        (metadata(sha512="abc"), "sha512"),
        (metadata(captures=[capture(5), capture(3)]), "ordering"),
        (metadata(captures=[capture(0, global_index=10), capture(5, global_index=9)]), "overlaps"),
        (metadata(captures=[capture(0), capture(5, global_index=2**62)]), "global_index"),
        (metadata(captures=[capture(0, header_bytes=4)]), "whole number"),
        (metadata(trailing_bytes=4), "whole number"),
        (metadata(metadata_only=True), "without data"),
        (metadata() | {"more": 1}, "more"),
        ({"global": {}}, "captures"),
        ({}, "required"),
        ([], "object"),
        ("text", "object"),
        (17, "object"),
        (None, "object"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value)[:40] if isinstance(value, str) else "meta",
)
def test_metadata_that_does_not_do(meta: Any, word: str, tmp_path: Path) -> None:
    path = recording(tmp_path, meta)
    where = tmp_path / "run.sigmf-data" if word == "whole number" else path
    refused(path, word, where=where)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"\x89PNG\r\n\x1a\n",
        b"[" * 100_000,
        b'{"global":' * 50_000,
        b'{"global": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "open", "utf-16", "png", "deep list", "deep object", "long number"],
)
def test_metadata_that_is_not_json(content: bytes, tmp_path: Path) -> None:
    refused(recording(tmp_path, content), "is not SigMF JSON")


def test_nesting_that_json_can_read(tmp_path: Path) -> None:
    deep: Any = 0
    for _ in range(300):
        deep = [deep]
    meta = metadata()
    meta["global"]["somebody:deep"] = deep
    assert open_source(str(recording(tmp_path, meta))).info.samples == 10


def test_metadata_of_absurd_size(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata())
    with path.open("r+b") as file:
        file.truncate(65 << 20)
    refused(path, "over 64 MiB")


def test_a_block_with_nan_is_dropped_and_counted(tmp_path: Path) -> None:
    recorded = np.ones(2 * BLOCK, np.complex64)
    recorded[7] = np.nan
    source = open_source(str(recording(tmp_path, metadata(), recorded.tobytes())))
    assert [block.first_sample for block in blocks(source)] == [BLOCK]
    assert dict(source.rejected) == {"non_finite": 1}


@pytest.mark.parametrize("name", [".", "/", ".sigmf-meta"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InputRefused, match="no recording's name"):
        open_source(name, format_name="sigmf")


def test_the_folder_given_as_a_recording(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as refusal:
        open_source(str(tmp_path), format_name="sigmf")
    assert "is missing" in str(refusal.value)
