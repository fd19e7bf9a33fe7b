"""SigMF beyond one recording: collections, archives, headers, annotations, and callers who contradict the metadata.

Collections and archives are written by the `sigmf` package itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sigmf import SigMFCollection, SigMFFile

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import IqBlock
from ingest.sources import open_source
from ingest.sources.base import Annotation
from tests.ingest.test_sources_sigmf import BLOCK, blocks, capture, metadata, recording
from tests.random_channels import complex_normal


def refused(uri: str | Path, *words: str, kind: type[TwinbeamError] = InputRefused, **options: Any) -> None:
    with pytest.raises(TwinbeamError) as refusal:
        open_source(str(uri), **options)
    assert type(refusal.value) is kind, refusal.value
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def antenna(folder: Path, number: int, samples: Any, **settings: Any) -> Path:
    """One antenna's recording, written by the sigmf package."""
    name = folder / f"antenna-{number}"
    samples.astype("<c8").tofile(f"{name}.sigmf-data")
    described = {"core:datatype": "cf32_le", "core:sample_rate": 1e6, "core:version": "1.2.0"} | settings
    theirs = SigMFFile(data_file=f"{name}.sigmf-data", global_info=described)
    theirs.add_capture(0, metadata={"core:frequency": 3.5e9, "core:datetime": "2026-11-23T06:00:00Z"})
    theirs.tofile(f"{name}.sigmf-meta", overwrite=True)
    return Path(f"{name}.sigmf-meta")


def collection(folder: Path, metas: list[Path]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SigMFCollection(metafiles=[str(meta) for meta in metas], base_path=str(folder))
        theirs.tofile(str(folder / "array.sigmf-collection"))
    return folder / "array.sigmf-collection"


def test_a_collection_of_the_sigmf_package_is_coherent_antennas(tmp_path: Path, rng: np.random.Generator) -> None:
    recorded = complex_normal(rng, 4, BLOCK + 9).astype(np.complex64)
    path = collection(tmp_path, [antenna(tmp_path, number, row) for number, row in enumerate(recorded)])
    source = open_source(str(path))
    assert (source.info.antennas, source.info.samples, source.info.format) == (4, BLOCK + 9, "sigmf/cf32")
    np.testing.assert_array_equal(np.concatenate([block.samples for block in blocks(source)], axis=1), recorded)
    alone = open_source(f"{path}?recording=antenna-2")
    np.testing.assert_array_equal(blocks(alone)[0].samples[0], recorded[2, :BLOCK])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"core:sample_rate": 2e6}, "rates, frequencies or gaps differ"),
        ({"core:datatype": "cf64_le"}, "datatypes differ"),
    ],
)
def test_recordings_that_do_not_belong_together(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    metas = [antenna(tmp_path, 0, np.ones(4)), antenna(tmp_path, 1, np.ones(4), **change)]
    refused(collection(tmp_path, metas), "not coherent", word, "recording=antenna-0")


def test_recordings_of_different_length(tmp_path: Path) -> None:
    metas = [antenna(tmp_path, number, np.ones(4 + number)) for number in range(2)]
    refused(collection(tmp_path, metas), "differ in length")


def test_recordings_that_begin_at_different_times(tmp_path: Path) -> None:
    metas = [antenna(tmp_path, number, np.ones(4)) for number in range(2)]
    text = metas[1].read_text().replace("06:00:00", "06:00:01")
    metas[1].write_text(text)
    refused(collection(tmp_path, metas), "begin at different times")


def test_a_collection_whose_metadata_was_changed(tmp_path: Path) -> None:
    metas = [antenna(tmp_path, number, np.ones(4)) for number in range(2)]
    path = collection(tmp_path, metas)
    metas[1].write_text(metas[1].read_text() + " ")
    refused(path, "sha512", "collection")


def streams(path: Path, *names: Any) -> Path:
    path.write_text(json.dumps({"collection": {"core:version": "1.2.0", "core:streams": list(names)}}))
    return path


@pytest.mark.parametrize("name", ["../run", "sub/run", "/etc/run", "..\\run", "C:\\data\\run"])
def test_a_collection_never_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    """A recording is looked for beside the collection, whatever path to it is told."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    recording(tmp_path, metadata())
    recording(tmp_path / "folder" / "sub", metadata())
    path = streams(tmp_path / "folder" / "a.sigmf-collection", {"name": name})
    refused(path, f"{tmp_path / 'folder' / 'run.sigmf-meta'}: is missing")
    recording(tmp_path / "folder", metadata())
    assert open_source(str(path)).info.samples == 10


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "/", "a\0b", 7, None, ["run"]])
def test_a_stream_without_a_name(name: Any, tmp_path: Path) -> None:
    recording(tmp_path, metadata())
    refused(streams(tmp_path / "a.sigmf-collection", {"name": name}), "has no name")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "JSON"),
        (b"[]", "collection"),
        (b'{"collection": 5}', "collection"),
        (b'{"collection": {"core:version": "1.2.0"}}', "of 0 recordings"),
        (b'{"collection": {"core:version": "1.2.0", "core:streams": 3}}', "of 0 recordings"),
        (b'{"collection": {"core:version": "1.2.0", "core:streams": [[]]}}', "no name"),
        (b'{"collection": {"core:version": "1.2.0", "core:streams": [{"name": "none"}]}}', "is missing"),
    ],
)
def test_a_collection_that_is_none(content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "a.sigmf-collection").write_bytes(content)
    if content:
        refused(tmp_path / "a.sigmf-collection", word)
    else:
        refused(tmp_path / "a.sigmf-collection", "is empty")


def test_a_collection_that_names_a_recording_twice(tmp_path: Path) -> None:
    recording(tmp_path, metadata())
    refused(streams(tmp_path / "a.sigmf-collection", {"name": "run"}, ["run", None]), "twice")


def test_an_archive_of_the_sigmf_package(tmp_path: Path, rng: np.random.Generator) -> None:
    recorded = complex_normal(rng, BLOCK + 3).astype(np.complex64)
    meta = antenna(tmp_path, 0, recorded)
    theirs = SigMFFile(metadata=json.loads(meta.read_text()), data_file=str(meta.with_suffix(".sigmf-data")))
    theirs.archive(name=str(tmp_path / "packed.sigmf"))
    meta.unlink()
    meta.with_suffix(".sigmf-data").unlink()
    source = open_source(str(tmp_path / "packed.sigmf"))
    assert (source.info.samples, source.info.rate_hz) == (BLOCK + 3, 1e6)
    np.testing.assert_array_equal(np.concatenate([block.samples for block in blocks(source)], axis=1)[0], recorded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.sigmf"], "nothing is unpacked"


def archive(path: Path, members: dict[str, bytes], **tar: Any) -> Path:
    with tarfile.open(path, tar.pop("mode", "w")) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


PACKED = {"run/run.sigmf-meta": json.dumps(metadata()).encode(), "run/run.sigmf-data": bytes(80)}


def test_hostile_names_in_an_archive_do_no_harm(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.sigmf", {f"../../{name}": content for name, content in PACKED.items()})
    assert open_source(str(path)).info.samples == 10
    assert [each.name for each in tmp_path.iterdir()] == ["a.sigmf"]


def test_a_checksum_in_an_archive(tmp_path: Path) -> None:
    for data, whole in ((bytes(80), True), (bytes(79) + b"\1", False)):
        meta = json.dumps(metadata(sha512=hashlib.sha512(bytes(80)).hexdigest())).encode()
        path = archive(tmp_path / f"{whole}.sigmf", {"r.sigmf-meta": meta, "r.sigmf-data": data})
        if whole:
            assert open_source(str(path)).info.samples == 10
        else:
            refused(path, "sha512")


def test_an_archive_of_several_recordings(tmp_path: Path) -> None:
    other = {name.replace("run", "two"): content for name, content in PACKED.items()}
    path = archive(tmp_path / "a.sigmf", PACKED | other)
    assert open_source(str(path)).info.antennas == 2
    assert open_source(f"{path}?recording=two").info.antennas == 1
    refused(f"{path}?recording=three", "no recording 'three'", "it has run, two")


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"readme": b"text"}, "without a recording"),
        ({"run.sigmf-meta": PACKED["run/run.sigmf-meta"]}, "data file is missing"),
        (PACKED | {"run/run.sigmf-meta": b"{"}, "JSON"),
        (PACKED | {"run/run.sigmf-data": bytes(81)}, "whole number"),
    ],
)
def test_an_archive_that_is_not_whole(members: dict[str, bytes], word: str, tmp_path: Path) -> None:
    refused(archive(tmp_path / "a.sigmf", members), word)


def test_an_archive_that_is_compressed_cut_or_none(tmp_path: Path) -> None:
    refused(archive(tmp_path / "gz.sigmf", PACKED, mode="w:gz"), "no SigMF archive", "unpack")
    whole = archive(tmp_path / "whole.sigmf", PACKED).read_bytes()
    (tmp_path / "cut.sigmf").write_bytes(whole[: whole.rindex(b"\0" * 80) - 9_000])
    refused(tmp_path / "cut.sigmf", "cut.sigmf")
    (tmp_path / "noise.sigmf").write_bytes(np.random.default_rng(1).bytes(5000))
    refused(tmp_path / "noise.sigmf", "no SigMF archive")


def test_headers_and_trailers_between_the_samples(tmp_path: Path) -> None:
    """core:header_bytes lie before a capture's first sample, core:trailing_bytes behind the last one."""
    captures = [capture(0, header_bytes=7), capture(4, 1e9, header_bytes=3)]
    data = b"h" * 7 + np.arange(4).astype("<c8").tobytes() + b"hhh" + np.arange(4, 9).astype("<c8").tobytes() + b"tt"
    source = open_source(str(recording(tmp_path, metadata(captures=captures, trailing_bytes=2), data)))
    assert source.info.samples == 9
    found = blocks(source)
    assert [(block.first_sample, block.center_hz) for block in found] == [(0, 3.5e9), (4, 1e9)]
    np.testing.assert_array_equal(np.concatenate([block.samples[0] for block in found]), np.arange(9))


def test_annotations_are_passed_on_where_the_blocks_count_them(tmp_path: Path) -> None:
    captures = [capture(100, global_index=1100), capture(105, global_index=1205)]
    notes = [
        {"core:sample_start": 101, "core:sample_count": 2, "core:label": "SSB"},
        {"core:sample_start": 106, "core:comment": "after the gap"},
    ]
    meta = metadata(captures=captures, annotations=notes, offset=100)
    source = open_source(str(recording(tmp_path, meta)))
    assert source.info.annotations == (Annotation(1101, 2, "SSB"), Annotation(1206, None, "", "after the gap"))
    assert [block.first_sample for block in blocks(source)] == [1100, 1205]


@pytest.mark.parametrize("date", ["2026-11-23T06:00:00Z", "2025_06_19T11:19:00.037", "2025", "yesterday"])
def test_times_of_any_writing(date: str, tmp_path: Path) -> None:
    """What the schema lets pass is passed on; OAI's is not ISO-8601."""
    path = recording(tmp_path, metadata(captures=[capture(0, datetime=date)]))
    if date == "yesterday":
        refused(path, "core:datetime")
    else:
        assert open_source(str(path)).info.start == date


def test_who_contradicts_the_metadata(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata())
    assert open_source(str(path), rate_hz=1e6, center_hz=3.5e9).info.samples == 10
    refused(path, "--rate-hz 2e+06", "the file says 1e+06", kind=UsageRefused, rate_hz=2e6)
    refused(path, "--center-hz", kind=UsageRefused, center_hz=3.6e9)
    refused(path, "--rate-hz", kind=UsageRefused, rate_hz=float("nan"))


def test_who_tells_what_the_metadata_does_not(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(sample_rate=None, captures=[capture(0, None)]))
    source = open_source(str(path), rate_hz=2e6, center_hz=1e9)
    assert (source.info.rate_hz, source.info.center_hz) == (2e6, 1e9)
    refused(path, "sample rate 0.1 Hz", kind=UsageRefused, rate_hz=0.1, center_hz=1e9)


def test_a_recording_that_grows_is_followed(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(), b"")
    with (tmp_path / "run.sigmf-data").open("ab") as file:
        np.ones(5, "<c8").tofile(file)
    source = open_source(str(path), follow=True, idle_s=0.2)
    assert [block.samples.shape for block in blocks(source)] == [(1, 5)]


def later(path: Path, *contents: str) -> threading.Thread:
    """Writes the file anew with each of `contents`, from a thread of its own."""

    def write() -> None:
        for content in contents:
            time.sleep(0.1)
            path.write_text(content)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def followed(path: Path, *contents: str) -> list[tuple[int, int, float]]:
    """First sample, number of samples and centre frequency of the blocks of a recording that is being made, whose
    metadata becomes each of `contents` once the first block was read."""
    source = iter(open_source(str(path), follow=True, idle_s=1.5))
    found = [next(source)]
    writer = later(path, *contents)
    found += list(source)
    writer.join()
    return [(one.first_sample, one.samples.shape[1], one.center_hz) for one in found if isinstance(one, IqBlock)]


def test_metadata_that_is_not_whole_yet_is_waited_for(tmp_path: Path) -> None:
    whole = json.dumps(metadata())
    path = recording(tmp_path, b"")
    writer = later(path, whole[:50], whole)
    source = open_source(str(path), follow=True, idle_s=1.5)
    assert [block.samples.shape for block in blocks(source)] == [(1, 10)]
    writer.join()


def test_metadata_that_never_comes_is_missed(tmp_path: Path) -> None:
    path = recording(tmp_path, b'{"global": ')
    refused(path, "is not SigMF JSON", follow=True, idle_s=0.1)


def test_captures_that_are_told_while_the_recording_grows(tmp_path: Path) -> None:
    """Half-written metadata is passed over; the gap and the retuning that the whole one tells of come to be."""
    path = recording(tmp_path, metadata(), bytes(8 * (BLOCK + 100)))
    now = json.dumps(metadata(captures=[capture(0), capture(BLOCK + 50, 3.6e9, global_index=BLOCK + 950)]))
    assert followed(path, now[:70], now) == [(0, BLOCK, 3.5e9), (BLOCK, 50, 3.5e9), (BLOCK + 950, 50, 3.6e9)]


def test_a_capture_that_is_told_too_late_begins_with_the_next_block(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(), bytes(8 * (BLOCK + 100)))
    now = json.dumps(metadata(captures=[capture(0), capture(BLOCK - 50, global_index=BLOCK + 450)]))
    assert followed(path, now) == [(0, BLOCK, 3.5e9), (BLOCK + 500, 100, 3.5e9)]


@pytest.mark.parametrize(
    "change",
    [
        metadata(sample_rate=2e6),
        metadata(datatype="ci16_le"),
        metadata(captures=[capture(0, 3.6e9)]),
        metadata(captures=[capture(0), capture(BLOCK, header_bytes=8)]),
    ],
    ids=["rate", "datatype", "frequency", "header"],
)
def test_what_was_read_already_is_not_told_anew(change: dict[str, Any], tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(), bytes(8 * (BLOCK + 5)))
    with pytest.raises(InputRefused, match="its metadata changed"):
        followed(path, json.dumps(change))


def test_a_recording_that_grows_has_no_checksum_yet(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(sha512="0" * 128))
    refused(path, "sha512")
    source = open_source(str(path), follow=True, idle_s=0.1)
    assert [block.samples.shape for block in blocks(source)] == [(1, 10)]


def test_options_that_nobody_knows(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata())
    refused(f"{path}?antenna=1", "unknown option 'antenna'", "recording", kind=UsageRefused)
    refused(f"{path}?recording=a&recording=b", "twice", kind=UsageRefused)
    refused(f"{path}?recording=other", "no recording 'other'")
