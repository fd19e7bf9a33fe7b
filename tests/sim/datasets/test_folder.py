"""What a killed start leaves is taken over, what changed or is not ours is refused; bytes depend on nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ingest.errors import UsageRefused
from sim.datasets.folder import DatasetFolder, held_folder
from sim.datasets.shards import shard_file, shard_name
from sim.datasets.spec import BATCH, Plan
from tests.sim.datasets.specs import block_of_the_page, plan


def arrays(of: Plan, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """A batch as a workshop makes it: random channels, one sample in eight out of reach."""
    rng = np.random.default_rng([of.spec.seed, batch])
    paths = rng.integers(0, 8, BATCH).astype("<i4")
    made: dict[str, np.ndarray[Any, Any]] = {
        "position_m": rng.normal(size=(BATCH, 3)),
        "paths": paths,
        "los": (paths > 5).astype(np.uint8),
        "delay_s": np.where(paths > 0, rng.random(BATCH), np.nan),
    }
    for name, shape in of.channels.items():
        channel = (rng.normal(size=(BATCH, *shape)) + 1j * rng.normal(size=(BATCH, *shape))) * 1e-5
        made[name] = np.where(paths.reshape(-1, *([1] * len(shape))) > 0, channel, 0).astype("<c8")
    return made


def fill(folder: Path, of: Plan, shards: range | None = None) -> None:
    """Add those shards that are missing; the whole set is finished."""
    folder.mkdir(exist_ok=True)
    with held_folder(folder, of) as place:
        for shard in shards or range(of.spec.shards):
            if shard not in place.entries:
                place.add(shard, *shard_file(of, shard, [arrays(of, shard)]))
        if len(place.entries) == of.spec.shards:
            place.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    return plan(tmp_path, normalise="sample", cir={"taps": 3, "bandwidth_hz": 1e7})


def test_a_set_holds_what_its_manifest_says(tmp_path: Path, made: Plan) -> None:
    fill(tmp_path / "set", made)
    files = contents(tmp_path / "set")
    manifest = json.loads(files.pop("manifest.json"))
    assert set(files) == {entry["file"] for entry in manifest["shards"]} == {f"shard-{n:05}.h5" for n in range(7)}
    assert manifest["counts"]["samples"] == made.spec.samples == sum(entry["samples"] for entry in manifest["shards"])
    unreached = 0
    for entry in manifest["shards"]:
        assert hashlib.sha256(files[entry["file"]]).hexdigest() == entry["sha256"]
        with h5py.File(tmp_path / "set" / entry["file"]) as file:
            assert file.attrs["first_sample"] == entry["first_sample"]
            assert set(file) == set(manifest["arrays"])
            for name, told in manifest["arrays"].items():
                assert file[name].dtype == np.dtype(told["dtype"])
                assert file[name].shape == (entry["samples"], *told["shape"])
                assert len(told["axes"].split(", ")) == file[name].ndim or name == "position_m"
            wanted = arrays(made, entry["first_sample"] // BATCH)
            np.testing.assert_array_equal(file["cfr"][:], wanted["cfr"][: entry["samples"]])
            reached = file["paths"][:] > 0
            scaled = file["cfr"][:][reached] * file["cfr_scale"][:][reached][:, None, None]
            np.testing.assert_allclose(np.mean(np.abs(scaled) ** 2, axis=(1, 2)), 1.0, rtol=1e-5)
            assert not file["cfr_scale"][:][~reached].any()
            unreached += int((~reached).sum())
    assert manifest["counts"]["unreached"] == unreached > 0
    assert manifest["tones_hz"] == [-10e6, -5e6, 0.0, 5e6]
    assert manifest["normalisation"] == {"applied": False, "kind": "sample"}
    assert manifest["spec"]["seed"] == manifest["seed"] == 5


def test_the_factor_of_a_set_is_stated(tmp_path: Path) -> None:
    made = plan(tmp_path, normalise="set")
    fill(tmp_path / "set", made)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_bytes())
    channels = np.concatenate([arrays(made, batch)["cfr"] for batch in range(7)])[:400]
    reached = np.concatenate([arrays(made, batch)["paths"] for batch in range(7)])[:400] > 0
    scale = manifest["normalisation"]["scale"]["cfr"]
    assert np.mean(np.abs(channels[reached] * scale) ** 2) == pytest.approx(1.0)


def test_a_set_is_read_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path, normalise="set")
    fill(tmp_path / "munich-csi", made)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block_of_the_page("python"), names)
    last = np.concatenate([arrays(made, 6)["cfr"]])[:16][arrays(made, 6)["paths"][:16] > 0]
    np.testing.assert_allclose(names["channels"], names["scale"] * last, rtol=1e-6)


def test_order_and_interruptions_leave_no_trace(tmp_path: Path, made: Plan) -> None:
    fill(tmp_path / "whole", made)
    for shards in (range(3, 5), range(6, 7), range(2)):
        fill(tmp_path / "parts", made, shards)
        assert (tmp_path / "parts" / "journal.jsonl").exists()
    (tmp_path / "parts" / "shard-00002.h5.partial").write_bytes(b"torn")
    fill(tmp_path / "parts", made)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


class PowerCut(BaseException):
    """Nothing after it happens."""


def cut(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The power goes at step `at` of those that reach the disk; half of what was written since the last is there."""
    steps = iter(range(at, -1, -1))
    safe: dict[int, int] = {}
    fsync = os.fsync

    def fsync_or_cut(handle: int) -> None:
        state = os.fstat(handle)
        if next(steps) == 0:
            if stat.S_ISREG(state.st_mode):
                before = safe.get(state.st_ino, 0)
                os.truncate(handle, (before + state.st_size) // 2)
            raise PowerCut
        fsync(handle)
        safe[state.st_ino] = state.st_size

    def or_cut(step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(path: Path, *rest: Any) -> Any:
            if next(steps) == 0:
                raise PowerCut
            return step(path, *rest)

        return taken

    monkeypatch.setattr(os, "fsync", fsync_or_cut)
    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, or_cut(getattr(Path, name)))


@pytest.mark.parametrize("finished", [False, True])
def test_whatever_step_it_is_killed_at_it_goes_on(finished: bool, tmp_path: Path) -> None:
    """Each step that reaches the disk, once from an empty folder and once where a finished set lacks a shard."""
    made = plan(tmp_path, samples=150)
    fill(tmp_path / "whole", made)
    for at in range(100):
        folder = tmp_path / f"cut{at}"
        if finished:
            shutil.copytree(tmp_path / "whole", folder)
            (folder / shard_name(1)).unlink()
        with pytest.MonkeyPatch.context() as monkeypatch:
            cut(monkeypatch, at)
            try:
                fill(folder, made)
                break
            except PowerCut:
                pass
        fill(folder, made)
        assert contents(folder) == contents(tmp_path / "whole"), at
    assert at > 10


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_torn_journal_line_costs_a_shard_and_no_more(kept: int, tmp_path: Path, made: Plan) -> None:
    """The power went while the last line was written; the shard itself was whole."""
    fill(tmp_path / "set", made, range(3))
    journal = tmp_path / "set" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    assert set(DatasetFolder(tmp_path / "set", made).entries) == {0, 1}
    fill(tmp_path / "set", made)
    fill(tmp_path / "whole", made)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("finished", [False, True])
def test_damaged_and_missing_shards_are_told_and_redone(finished: bool, tmp_path: Path, made: Plan) -> None:
    fill(tmp_path / "set", made, None if finished else range(5))
    (tmp_path / "set" / shard_name(1)).unlink()
    damaged = bytearray((tmp_path / "set" / shard_name(3)).read_bytes())
    damaged[2000] ^= 1
    (tmp_path / "set" / shard_name(3)).write_bytes(damaged)
    place = DatasetFolder(tmp_path / "set", made)
    assert sorted(place.damaged) == ["shard-00001.h5", "shard-00003.h5"]
    assert not place.complete
    fill(tmp_path / "set", made)
    fill(tmp_path / "whole", made)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert DatasetFolder(tmp_path / "set", made).complete


def test_killed_between_manifest_and_the_journal_s_end(tmp_path: Path, made: Plan) -> None:
    fill(tmp_path / "set", made, range(6))
    journal = (tmp_path / "set" / "journal.jsonl").read_bytes()
    fill(tmp_path / "set", made)
    whole = contents(tmp_path / "set")
    (tmp_path / "set" / "journal.jsonl").write_bytes(journal)
    fill(tmp_path / "set", made)
    assert contents(tmp_path / "set") == whole


def test_killed_before_the_journal_was_there(tmp_path: Path, made: Plan) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "journal.jsonl.partial").write_bytes(b'{"sch')
    fill(tmp_path / "set", made)
    fill(tmp_path / "whole", made)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_specification_is_refused(finished: bool, tmp_path: Path, made: Plan) -> None:
    fill(tmp_path / "set", made, None if finished else range(2))
    before = contents(tmp_path / "set")
    changed = plan(tmp_path, normalise="sample", cir={"taps": 4, "bandwidth_hz": 1e7})
    with pytest.raises(UsageRefused, match=r"spec\.cir\.taps = 3, not 4 \(.*--out.*delete") as refusal:
        fill(tmp_path / "set", changed)
    assert "\n" not in str(refusal.value)
    assert contents(tmp_path / "set") == before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", b"mine", "is not empty, and no data set of ours: it holds notes.txt"),
        ("shard-00000.h5", b"mine", "is not empty"),
        ("journal.jsonl", b"mine", "is no journal of ours"),
        ("journal.jsonl", b'{"schema": "other"}\n', "is no journal of ours"),
        ("journal.jsonl", b"", "is no journal of ours"),
        ("manifest.json", b"{}", "is no manifest of ours"),
        ("manifest.json", b"[1]", "is no manifest of ours"),
    ],
)
def test_what_is_not_ours_is_refused_and_stays(
    name: str, content: bytes, told: str, tmp_path: Path, made: Plan
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(UsageRefused, match=told):
        fill(tmp_path / "set", made)
    assert contents(tmp_path / "set") == {name: content}


def test_other_files_beside_a_set_are_left_alone(tmp_path: Path, made: Plan) -> None:
    fill(tmp_path / "set", made, range(2))
    (tmp_path / "set" / "notes.txt").write_bytes(b"mine")
    fill(tmp_path / "set", made)
    assert contents(tmp_path / "set")["notes.txt"] == b"mine"
    (tmp_path / "set" / "shard-00007.h5").write_bytes(b"mine")
    with pytest.raises(UsageRefused, match=r"shard-00007\.h5: is no part of this set"):
        fill(tmp_path / "set", made)
    assert (tmp_path / "set" / "shard-00007.h5").read_bytes() == b"mine"


def test_one_maker_at_a_time(tmp_path: Path, made: Plan) -> None:
    with (
        held_folder(tmp_path / "set", made),
        pytest.raises(UsageRefused, match="another process is making a set here"),
        held_folder(tmp_path / "set", made),
    ):
        pass
    fill(tmp_path / "set", made)


def test_no_place_for_a_set_is_told(tmp_path: Path, made: Plan) -> None:
    (tmp_path / "file").write_bytes(b"")
    for where, told in (("file", "is a file"), ("none/set", "no such folder"), ("file/set", "is a file")):
        with pytest.raises(UsageRefused, match=told), held_folder(tmp_path / where, made):
            pass
