"""`twinbeam convert`: what it writes opens in other tools, comes back as it was, and nothing is lost untold."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import sigmf
from scipy.io import loadmat
from typer.testing import CliRunner

from ingest.convert import convert
from ingest.errors import InputRefused, UsageRefused
from ingest.journal import JournalWriter
from ingest.messages import ChannelFrame, IqBlock
from ingest.sources import Source, open_source
from tests.ingest.test_sources_sigmf import capture, metadata, recording
from tests.random_channels import budget, complex_normal, frame
from twinbeam import app

RAW: dict[str, Any] = {"rate_hz": 1e6, "center_hz": 3.5e9}
BLOCK = 20_000


def samples_of(source: Source) -> npt.NDArray[np.complex64]:
    return np.concatenate([block.samples for block in source if isinstance(block, IqBlock)], axis=1)


def frames(source: Source) -> list[ChannelFrame]:
    return [message for message in source if isinstance(message, ChannelFrame)]


def left_in(folder: Path, *names: str) -> None:
    """Nothing is left behind in the folder but these."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def iq_file(folder: Path, rng: np.random.Generator, antennas: int = 1, samples: int = BLOCK + 5) -> tuple[Path, Any]:
    """A raw capture with a side-car, full scale at most one, and its samples [A, T]."""
    recorded = (0.2 * complex_normal(rng, antennas, samples)).astype(np.complex64)
    recorded.T.tofile(folder / "in.cf32")
    (folder / "in.cf32.json").write_text(json.dumps(RAW | {"channels": antennas}))
    return folder / "in.cf32", recorded


@pytest.mark.parametrize("antennas", [1, 3])
def test_sigmf_opens_in_the_sigmf_package(antennas: int, tmp_path: Path, rng: np.random.Generator) -> None:
    path, recorded = iq_file(tmp_path, rng, antennas)
    told = convert(open_source(str(path)), tmp_path / "out.sigmf-meta")
    theirs = sigmf.fromfile(str(tmp_path / "out"))
    theirs.validate()
    assert theirs.sample_rate == 1e6
    assert theirs.get_captures()[0]["core:frequency"] == 3.5e9
    read = theirs.read_samples()
    np.testing.assert_array_equal(np.atleast_2d(read.T), recorded)
    data = (tmp_path / "out.sigmf-data").read_bytes()
    assert theirs.get_global_field("core:sha512") == told["sha512"] == hashlib.sha512(data).hexdigest()
    assert (told["samples"], told["antennas"], told["clipped"], told["gaps"]) == (BLOCK + 5, antennas, 0, 0)
    assert told["peak"] == pytest.approx(np.abs(recorded.view(np.float32)).max(), abs=1e-6)
    np.testing.assert_array_equal(samples_of(open_source(told["to"])), recorded)


def test_whole_numbers_are_rounded_and_clipping_is_counted(tmp_path: Path) -> None:
    values = np.array([0.5 - 0.25j, 1.0 + 0j, -1.0 - 1j, 1.5j, 1.4 / 32768, 1.6j / 32768], np.complex64)
    values.tofile(tmp_path / "in.cf32")
    told = convert(open_source(str(tmp_path / "in.cf32"), **RAW), tmp_path / "out.sigmf-meta", sample_format="sc16")
    stored = np.fromfile(tmp_path / "out.sigmf-data", "<i2").reshape(-1, 2)
    assert stored.tolist() == [[16384, -8192], [32767, 0], [-32768, -32768], [0, 32767], [1, 0], [0, 2]]
    assert (told["clipped"], told["peak"], told["sample_format"]) == (2, 1.5, "sc16")
    theirs = sigmf.fromfile(str(tmp_path / "out"))
    np.testing.assert_allclose(theirs.read_samples(), stored[:, 0] / 32768 + 1j * stored[:, 1] / 32768, atol=1e-7)


def test_scaling_keeps_strong_samples_whole(tmp_path: Path) -> None:
    (np.array([3, -4j]) * 100).astype(np.complex64).tofile(tmp_path / "in.cf32")
    source = open_source(str(tmp_path / "in.cf32"), **RAW)
    told = convert(source, tmp_path / "out.sc16", scale=1 / 400)
    assert told["clipped"] == 0
    np.testing.assert_allclose(samples_of(open_source(told["to"]))[0], [0.75, -1j], atol=1 / 32768)


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".cf32", ".sc16", ".npz", ".h5", ".mat"])
@pytest.mark.parametrize("antennas", [1, 2])
def test_iq_comes_back_as_it_was(suffix: str, antennas: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """16-bit samples survive every format exactly, with their gaps."""
    counts = rng.integers(-32768, 32768, (antennas, BLOCK + 50, 2)).astype("<i2")
    counts.transpose(1, 0, 2).tofile(tmp_path / "in.sc16")
    car = RAW | {"channels": antennas, "gaps": [[0, 5], [100, 7], [BLOCK + 7, 1000]]}
    (tmp_path / "in.sc16.json").write_text(json.dumps(car))
    told = convert(open_source(str(tmp_path / "in.sc16")), tmp_path / f"out{suffix}")
    assert (told["gaps"], told["missing_samples"], told["clipped"]) == (2, 1007, 0)
    again = convert(open_source(told["to"]), tmp_path / "again.sc16")
    assert (tmp_path / "again.sc16").read_bytes() == (tmp_path / "in.sc16").read_bytes()
    assert json.loads((tmp_path / "again.sc16.json").read_text()) == car | {"format": "sc16"}
    assert again["missing_samples"] == 1007


def test_gaps_and_frequencies_in_sigmf(tmp_path: Path) -> None:
    notes = [
        {"core:sample_start": 2, "core:sample_count": 3, "core:label": "burst", "core:comment": "a"},
        {"core:sample_start": 12, "core:label": "tail"},
    ]
    captures = [
        capture(0, 1e9, datetime="2025_06_19T11:19:00.037"),
        capture(10, 1e9, global_index=510),
        capture(20, 2e9, global_index=520),
    ]
    meta = metadata(captures=captures, annotations=notes)
    path = recording(tmp_path, meta, np.arange(30).astype("<c8").tobytes(), name="in")
    told = convert(open_source(str(path)), tmp_path / "out.sigmf-meta")
    written = json.loads((tmp_path / "out.sigmf-meta").read_text())
    assert written["captures"] == [
        {
            "core:sample_start": 0,
            "core:global_index": 0,
            "core:frequency": 1e9,
            "core:datetime": "2025-06-19T11:19:00.037Z",
        },
        {"core:sample_start": 10, "core:global_index": 510, "core:frequency": 1e9},
        {"core:sample_start": 20, "core:global_index": 520, "core:frequency": 2e9},
    ]
    places = [
        tuple(note[f"core:{key}"] for key in ("sample_start", "sample_count", "label"))
        for note in written["annotations"]
    ]
    assert places == [(2, 3, "burst"), (10, 1, "gap"), (12, 18, "tail")]
    assert "500 samples are missing" in written["annotations"][1]["core:comment"]
    assert (told["gaps"], told["missing_samples"], told["annotations"]) == (1, 500, 3)
    again = convert(open_source(told["to"]), tmp_path / "again.sigmf-meta")
    assert json.loads((tmp_path / "again.sigmf-meta").read_text()) == written
    assert again["sha512"] == told["sha512"]


def test_dropped_blocks_become_gaps(tmp_path: Path) -> None:
    recorded = np.ones(3 * BLOCK, np.complex64)
    recorded[BLOCK + 9] = np.nan
    recorded.tofile(tmp_path / "in.cf32")
    told = convert(open_source(str(tmp_path / "in.cf32"), **RAW), tmp_path / "out.sigmf-meta")
    assert (told["samples"], told["missing_samples"], told["rejected"]) == (2 * BLOCK, BLOCK, {"non_finite": 1})


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".mat", ".cf32"])
def test_several_frequencies_fit_only_into_sigmf(suffix: str, tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(captures=[capture(0, 1e9), capture(5, 2e9)]), name="in")
    with pytest.raises(InputRefused, match="2 centre frequencies"):
        convert(open_source(str(path)), tmp_path / f"out{suffix}")
    left_in(tmp_path, "in.sigmf-meta", "in.sigmf-data")


def channel_source(folder: Path, rng: np.random.Generator, count: int = 600) -> tuple[Path, Any]:
    """An array of channels that no other tool of ours wrote, and the arrays."""
    arrays = {
        "cfr": complex_normal(rng, count, 3, 5).astype(np.complex64), "tones_hz": np.arange(5) * 30e3,
        "noise_power": rng.uniform(0.01, 0.1, count), "t_ns": np.arange(count) * 1000 + 2**53 + 1,
        "block": np.arange(count), "user": np.array([f"ue{n % 2}" for n in range(count)]),
        "position_m": np.where(np.arange(count)[:, None] % 3, rng.normal(size=(count, 3)), np.nan),
    }  # fmt: skip
    np.savez(folder / "in.npz", **arrays)
    return folder / "in.npz", arrays


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".mat", ".mcap"])
def test_channels_come_back_as_they_were(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path, _ = channel_source(tmp_path, rng)
    before = frames(open_source(str(path)))
    told = convert(open_source(str(path)), tmp_path / f"out{suffix}")
    assert told.get("frames", told.get("messages")) == 600
    after = frames(open_source(told["to"]))
    assert len(after) == 600
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.cfr, other.cfr)
        assert (one.user, one.block, one.t_ns, one.noise_power) == (
            other.user,
            other.block,
            other.t_ns,
            other.noise_power,
        )
        assert one.position_m == other.position_m


def test_arrays_open_in_numpy_h5py_and_scipy(tmp_path: Path, rng: np.random.Generator) -> None:
    path, arrays = channel_source(tmp_path, rng, 4)
    for suffix in (".npz", ".h5", ".mat"):
        convert(open_source(str(path)), tmp_path / f"out{suffix}")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as npz:
        np.testing.assert_array_equal(npz["cfr"], arrays["cfr"])
        assert npz["user"].tolist() == ["ue0", "ue1", "ue0", "ue1"]
    with h5py.File(tmp_path / "out.h5") as h5:
        np.testing.assert_array_equal(h5["cfr"][:], arrays["cfr"])
        assert h5["user"][1] == b"ue1"
    mat = loadmat(tmp_path / "out.mat")
    np.testing.assert_array_equal(mat["cfr"], arrays["cfr"])
    np.testing.assert_array_equal(mat["t_ns"][0], arrays["t_ns"])
    iq_path, recorded = iq_file(tmp_path, rng, 2)
    for suffix in (".npz", ".h5", ".mat"):
        convert(open_source(str(iq_path)), tmp_path / f"iq{suffix}")
    with np.load(tmp_path / "iq.npz", allow_pickle=False) as npz:
        np.testing.assert_array_equal(npz["iq"], recorded)
        assert npz["rate_hz"] == 1e6
    with h5py.File(tmp_path / "iq.h5") as h5:
        np.testing.assert_array_equal(h5["iq"][:], recorded)
    np.testing.assert_array_equal(loadmat(tmp_path / "iq.mat")["iq"], recorded)


def journal(path: Path, *messages: Any) -> Path:
    with JournalWriter(path, {"config": ""}) as writer:
        for message in messages:
            writer.write(message)
    return path


def test_what_a_journal_has_besides_channels_is_counted(tmp_path: Path, rng: np.random.Generator) -> None:
    plain = frame(complex_normal(rng, 1, 4))
    path = journal(tmp_path / "in.mcap", budget(0), plain, budget(1))
    told = convert(open_source(str(path)), tmp_path / "out.h5")
    assert (told["frames"], told["left_out"]) == (1, {"budget": 2})
    copied = convert(open_source(str(path)), tmp_path / "copy.mcap")
    assert (copied["messages"], copied["left_out"]) == (3, {})
    assert len(list(open_source(str(tmp_path / "copy.mcap")))) == 3


def test_frames_that_arrays_have_no_place_for(tmp_path: Path, rng: np.random.Generator) -> None:
    cascade = journal(tmp_path / "in.mcap", frame(complex_normal(rng, 5, 4), cascade=True))
    with pytest.raises(InputRefused, match="no plain channel"):
        convert(open_source(str(cascade)), tmp_path / "out.npz")
    mixed = journal(tmp_path / "mixed.mcap", frame(complex_normal(rng, 1, 4)), frame(complex_normal(rng, 1, 3)))
    with pytest.raises(InputRefused, match="other antennas or tones"):
        convert(open_source(str(mixed)), tmp_path / "out.npz")
    nothing = journal(tmp_path / "nothing.mcap", budget(0))
    with pytest.raises(InputRefused, match="no channel to write"):
        convert(open_source(str(nothing)), tmp_path / "out.npz")
    left_in(tmp_path, "in.mcap", "mixed.mcap", "nothing.mcap")


@pytest.mark.parametrize(
    ("target", "options", "word"),
    [
        ("out.mcap", {}, "a journal holds no IQ"),
        ("out.wav", {}, "no name that says"),
        ("out", {}, "no name that says"),
        (".sigmf-meta", {}, "no name"),
        ("out.cf32", {"sample_format": "sc16"}, "holds cf32, not sc16"),
        ("out.npz", {"sample_format": "sc16"}, "complex64, not sc16"),
        ("out.sigmf-meta", {"sample_format": "mp3"}, "unknown sample format"),
        ("out.sigmf-meta", {"scale": 0.0}, "scale 0.0"),
        ("out.sigmf-meta", {"scale": float("nan")}, "scale nan"),
        ("none/out.cf32", {}, "cannot be written"),
        ("folder.cf32", {}, "is a directory"),
    ],
)
def test_asks_that_contradict_themselves(
    target: str, options: dict[str, Any], word: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    path, _ = iq_file(tmp_path, rng)
    (tmp_path / "folder.cf32").mkdir()
    with pytest.raises(UsageRefused, match=word):
        convert(open_source(str(path)), tmp_path / target, **options)
    left_in(tmp_path, "in.cf32", "in.cf32.json", "folder.cf32")


@pytest.mark.parametrize(
    ("target", "options", "word"),
    [
        ("out.cf32", {}, "holds IQ, but the source has channels"),
        ("out.sigmf-meta", {}, "holds IQ, but the source has channels"),
        ("out.h5", {"scale": 2.0}, "no sample format or scale"),
        ("out.mcap", {"sample_format": "sc16"}, "no sample format or scale"),
        ("out.h5", {"find_cells": True}, "no IQ to find cells in"),
    ],
)
def test_asks_that_do_not_suit_channels(
    target: str, options: dict[str, Any], word: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    path, _ = channel_source(tmp_path, rng, 3)
    with pytest.raises(UsageRefused, match=word):
        convert(open_source(str(path)), tmp_path / target, **options)
    left_in(tmp_path, "in.npz")


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".cf32", ".npz", ".h5", ".mat", ".mcap"])
def test_nothing_is_replaced_unless_it_is_asked_for(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path, _ = channel_source(tmp_path, rng, 3) if suffix == ".mcap" else iq_file(tmp_path, rng)
    target = tmp_path / f"out{suffix}"
    target.write_bytes(b"dear")
    names = [each.name for each in tmp_path.iterdir()]
    with pytest.raises(UsageRefused, match="exists already"):
        convert(open_source(str(path)), target)
    assert target.read_bytes() == b"dear"
    left_in(tmp_path, *names)
    convert(open_source(str(path)), target, force=True)
    assert target.read_bytes() != b"dear"


def test_a_file_may_replace_itself(tmp_path: Path) -> None:
    path = recording(tmp_path, metadata(), np.full(10, 0.5).astype("<c8").tobytes())
    convert(open_source(str(path)), path, sample_format="sc16", force=True)
    np.testing.assert_array_equal(samples_of(open_source(str(path)))[0], np.full(10, 0.5))


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".sc16", ".npz", ".h5", ".mat"])
def test_a_source_that_fails_on_the_way_leaves_nothing(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path, recorded = iq_file(tmp_path, rng, samples=3 * BLOCK)
    source = open_source(str(path))
    with path.open("r+b") as file:
        file.truncate(8 * BLOCK + 800)
    with pytest.raises(InputRefused, match="became shorter"):
        convert(source, tmp_path / f"out{suffix}")
    left_in(tmp_path, "in.cf32", "in.cf32.json")
    assert recorded.shape == (1, 3 * BLOCK)


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".sc16", ".npz", ".h5"])
def test_a_full_disk_is_told(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """A limit on the size of files stands for the end of the disk."""
    path, _ = iq_file(tmp_path, rng, samples=20 * BLOCK)
    code = f"""
import resource, signal
from pathlib import Path
from ingest.convert import convert
from ingest.errors import TwinbeamError
from ingest.sources import open_source
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    convert(open_source({str(path)!r}), Path({str(tmp_path / f"out{suffix}")!r}))
except TwinbeamError as error:
    print(type(error).__name__, error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("TwinbeamError"), (ended.stdout, ended.stderr)
    assert "cannot be written" in ended.stdout
    left_in(tmp_path, "in.cf32", "in.cf32.json")


CONVERT_SOME = """
import resource
from pathlib import Path
from ingest.convert import convert
from ingest.sources import open_source
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(open_source({small!r}, rate_hz=46.08e6, center_hz=0.0), Path({target!r}), force=True)
before = peak()
told = convert(open_source({large!r}, rate_hz=46.08e6, center_hz=0.0), Path({target!r}), force=True)
print(told["samples"], (peak() - before) // 1024)
"""


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".npz", ".h5"])
def test_memory_does_not_grow_with_the_length(suffix: str, tmp_path: Path) -> None:
    for name, samples in (("small.sc16", 2_000_000), ("large.sc16", 40_000_000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(4 * samples)
    code = CONVERT_SOME.format(
        small=str(tmp_path / "small.sc16"), large=str(tmp_path / "large.sc16"), target=str(tmp_path / f"out{suffix}")
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    samples, grown_mib = (int(part) for part in ended.stdout.split())
    assert samples == 40_000_000
    assert grown_mib < 64


def test_a_mat_that_would_be_too_large(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sinks.array_writer._MAX_MAT_BYTES", 1000)
    path, _ = iq_file(tmp_path, rng)
    with pytest.raises(UsageRefused, match=r"convert to \.h5"):
        convert(open_source(str(path)), tmp_path / "out.mat")
    left_in(tmp_path, "in.cf32", "in.cf32.json")


def test_a_stream_has_no_end_to_convert(tmp_path: Path) -> None:
    source = open_source(f"zmq+ipc://{tmp_path}/in?bind=1&socket=pull")
    with pytest.raises(UsageRefused, match="no end"):
        convert(source, tmp_path / "out.sigmf-meta")
    source.close()


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["convert", *words])
    return result.exit_code, result.stdout, result.stderr


def test_the_command(tmp_path: Path, rng: np.random.Generator) -> None:
    path, recorded = iq_file(tmp_path, rng)
    target = str(tmp_path / "out.sigmf-meta")
    code, stdout, _ = run(str(path), target, "--to-format", "sc16", "--json")
    told = json.loads(stdout.splitlines()[-1])
    assert (code, told["samples"], told["clipped"], told["from_format"]) == (0, recorded.shape[1], 0, "raw-iq/cf32")
    assert (told["from"], told["to"], told["left_out"], told["rejected"]) == (str(path), target, {}, {})
    code, _, stderr = run(str(path), target)
    assert code == 2
    assert stderr.strip().endswith("exists already (name a new file, or --force)")
    assert run(str(path), target, "--force")[0] == 0
    assert run(str(path), str(tmp_path / "x.npz"), "--rate-hz", "2e6")[0] == 2
    assert run(str(tmp_path / "none.cf32"), target)[0] == 3


@pytest.mark.data
def test_a_recorded_cell_is_noted(data: Path, tmp_path: Path) -> None:
    path = data / "nr-iq" / "n78_x300_46.08Msps_3502.8MHz.cf32"
    source = open_source(str(path), rate_hz=46.08e6, center_hz=3502.8e6)
    told = convert(source, tmp_path / "n78.sigmf-meta", sample_format="sc16", find_cells=True)
    assert told["cells"] == ["pci500.ssb0"]
    theirs = sigmf.fromfile(str(tmp_path / "n78"))
    (note,) = theirs.get_annotations()
    assert note["core:label"] == "pci500.ssb0"
    assert 0 < note["core:sample_start"] < 460_800
    assert note["core:sample_count"] == round(4 * 15 / 14 / 30e3 * 46.08e6)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows"),
    [("wifi-csi/intel5300_0x5_64_3000.dat", 1000), ("deepmimo/indianapolis_original_28GHz/BS3_UE_0-6320.mat", 3000)],
)
def test_recorded_channels_become_arrays(name: str, rows: int, data: Path, tmp_path: Path) -> None:
    told = convert(open_source(str(data / name)), tmp_path / "out.h5")
    assert told["frames"] > rows
    assert len(frames(open_source(told["to"]))) == told["frames"]
