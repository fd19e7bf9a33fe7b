"""Replays: the pace they keep or lose, files that grow, gaps, memory, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from controller.config import config_from
from controller.lateness import Lateness
from controller.replay import Replay
from ingest.journal import JournalWriter
from ingest.messages import ChannelFrame
from ingest.sources import IqFileSource, open_source
from ingest.sources.iq_file import Segment, iq_info
from ingest.sources.samples import SampleReader, Samples
from tests.ingest.nr.signals import Ssb, capture
from tests.processes import last_json, running
from tests.random_channels import budget
from twinbeam import _interrupted, _progress, app

RUNNER = CliRunner()
RATE_HZ, RASTER_HZ = 7.68e6, 3512.64e6
MS = 1_000_000
RAW = ["--rate-hz", "1e6", "--center-hz", "3.5e9"]
BLOCK = 20_000


def replayed(*arguments: str) -> tuple[dict[str, Any], str]:
    """A replay in this process: what it tells as JSON, and stderr."""
    result = RUNNER.invoke(app, ["replay", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return last_json(result.stdout), result.stderr


def zeros(folder: Path, samples: int) -> str:
    (folder / "a.cf32").write_bytes(bytes(8 * samples))
    return str(folder / "a.cf32")


def lateness(late_ms: list[float], speed: float = 1.0, period_ms: float = 10.0) -> Lateness:
    """Of messages that come every `period_ms` of the recording."""
    told = Lateness(speed)
    for n, late in enumerate(late_ms):
        told.add(round(late * MS), round(n * period_ms * MS))
    return told


def test_lateness_of_messages_and_how_many_were_later_than_a_period() -> None:
    told = lateness([0, 0, 12, 4, 0, 30, 15, 0, 0, 0])
    assert told.summary()["late_ms"] == pytest.approx({"p50": 0.0, "p99": 30.0, "max": 30.0}, rel=0.012, abs=1e-3)
    assert told.summary()["late_messages"] == 3
    assert told.fell_behind == ""


def test_a_period_is_shorter_at_a_higher_speed() -> None:
    assert lateness([0, 4, 4], speed=2.0).late == 0
    assert lateness([0, 4, 4], speed=4.0).late == 2


def test_messages_of_one_moment_share_their_period() -> None:
    told = Lateness(1.0)
    for recorded_ns in (0, 0, 10 * MS, 10 * MS):
        told.add(2 * MS, recorded_ns)
    assert told.late == 0


def test_who_needs_longer_than_a_period_cannot_keep_up() -> None:
    """Each of 101 messages takes 15 ms: the last one, due at 1 s, comes half a second late."""
    told = lateness([5.0 * n for n in range(101)])
    assert told.fell_behind == "0.5 s late at the end, at 0.67 of real time"
    assert told.summary()["kept_up"] is False
    asked = lateness([10.0 * n for n in range(101)], speed=2.0)
    assert asked.fell_behind == "1 s late at the end, at 0.67 of real time, 2 asked for"


def test_who_falls_behind_at_the_end_only_is_told_if_it_is_far_behind() -> None:
    assert lateness([0.0] * 80 + [20.0] * 20).fell_behind == ""
    assert lateness([0.0] * 80 + [60.0 * n for n in range(20)]).fell_behind.startswith("1.14 s late")


def test_nothing_recorded_is_no_lateness() -> None:
    assert lateness([]).fell_behind == ""
    assert lateness([7.0]).summary()["kept_up"]


def test_at_speed_1_a_recording_takes_its_time_and_says_how_late_it_was(tmp_path: Path) -> None:
    name = zeros(tmp_path, 10 * BLOCK)
    begun = time.monotonic()
    told, err = replayed(name, *RAW, "--speed", "1")
    assert time.monotonic() - begun > 0.18, "the last of ten blocks of 20 ms is due after 180 ms"
    assert told["late_ms"].keys() == {"p50", "p99", "max"}
    assert 0 <= told["late_ms"]["p50"] <= told["late_ms"]["max"]
    assert told["kept_up"] is not ("cannot keep up" in err)


def test_without_a_speed_nothing_is_late(tmp_path: Path) -> None:
    told, err = replayed(zeros(tmp_path, BLOCK), *RAW)
    assert not {"late_ms", "late_messages", "kept_up", "stopped"} & told.keys()
    assert err == ""


def test_a_replay_that_cannot_keep_up_says_so_in_one_line(tmp_path: Path) -> None:
    name = zeros(tmp_path, 50 * BLOCK)
    told, err = replayed(name, *RAW, "--speed", "1e6")
    assert told["kept_up"] is False
    assert told["late_messages"] > 25
    (line,) = err.splitlines()
    assert line.startswith(f"twinbeam: {name}: cannot keep up: ")
    assert "of real time, 1e+06 asked for" in line


def test_a_file_that_grows_is_played_to_its_end(tmp_path: Path, rng: np.random.Generator) -> None:
    """Pieces that end inside samples are put together; what is cut at the very end is counted."""
    path = tmp_path / "a.cf32"
    path.touch()
    data = rng.normal(size=2 * (3 * BLOCK + 77)).astype("<f4").tobytes() + b"cut"

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            for first in range(0, len(data), 100_003):
                file.write(data[first : first + 100_003])
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    told, _ = replayed(str(path), *RAW, "--follow", "--idle-s", "1")
    writer.join()
    assert told["samples"] == 3 * BLOCK + 77
    assert told["rejected"] == {"truncated_end": 1}
    assert told["gaps"] == 0


def test_what_does_not_grow_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run.mcap").write_bytes(b"\x89MCAP0\r\n")
    result = RUNNER.invoke(app, ["replay", str(tmp_path / "run.mcap"), "--follow"], catch_exceptions=False)
    assert result.exit_code == 2
    assert "only raw IQ and SigMF" in result.stderr


def test_ctrl_c_ends_a_followed_file_with_a_report(tmp_path: Path) -> None:
    name = zeros(tmp_path, 2 * BLOCK)
    with running("replay", name, *RAW, "--follow", "--idle-s", "600", "--json", folder=tmp_path) as started:
        files = Path(f"/proc/{started.process.pid}/fd")
        if not files.is_dir():
            pytest.skip("no /proc here to see the file opened")
        started.until(lambda: any(os.path.realpath(file) == name for file in files.iterdir()), "the first block")
        code, out = started.end(signal.SIGINT)
    told = json.loads(out)
    assert code == 0
    assert told["stopped"] is True
    assert told["samples"] == 2 * BLOCK


def test_the_second_ctrl_c_is_none_of_ours() -> None:
    stopped: list[bool] = []

    def interrupt_twice() -> None:
        with _interrupted(lambda: stopped.append(True)):
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped == [True]
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_wait_for_the_next_message_ends_when_stopped(tmp_path: Path) -> None:
    """The second block is due in 20 000 s."""
    source = open_source(zeros(tmp_path, 3 * BLOCK), rate_hz=1e6, center_hz=3.5e9)
    with closing(source):
        replay = Replay(source, config_from({}, where="test"), speed=1e-6)
        replay.progress = lambda done, total: threading.Timer(0.1, replay.stop).start()
        told = replay.run()
    assert told["samples"] == BLOCK
    assert told["stopped"] is True


def progress_of(source: Any) -> tuple[list[tuple[float, float | None]], dict[str, Any]]:
    seen: list[tuple[float, float | None]] = []
    with closing(source):
        told = Replay(source, config_from({}, where="test"), progress=lambda *now: seen.append(now)).run()
    return seen, told


def test_progress_is_a_share_of_what_there_is(tmp_path: Path) -> None:
    name = zeros(tmp_path, 2 * BLOCK + 5)
    seen, _ = progress_of(open_source(name, rate_hz=1e6, center_hz=3.5e9))
    assert seen == [(0.02, 0.040005), (0.04, 0.040005), (0.040005, 0.040005)]
    grows, _ = progress_of(open_source(name, rate_hz=1e6, center_hz=3.5e9, follow=True, idle_s=0.1))
    assert [total for _, total in grows] == [None] * 3


def test_progress_of_frames_and_of_a_journal(tmp_path: Path, rng: np.random.Generator) -> None:
    cfr = rng.normal(size=(5, 1, 8)) + 1j * rng.normal(size=(5, 1, 8))
    np.savez(tmp_path / "a.npz", cfr=cfr, tones_hz=np.arange(8) * 1e5)
    seen, _ = progress_of(open_source(str(tmp_path / "a.npz")))
    assert seen == [(n + 1, 5) for n in range(5)]
    journal = JournalWriter(tmp_path / "run.mcap", {})
    for n in range(400):
        journal.write(budget(n))
        journal.catch_up()
    journal.close()
    reader = open_source(str(tmp_path / "run.mcap")).reader  # type: ignore[attr-defined]
    shares = [reader.progress() for _ in reader]
    size = (tmp_path / "run.mcap").stat().st_size
    assert {total for _, total in shares} == {size}
    assert [done for done, _ in shares] == sorted(done for done, _ in shares)
    assert 0 < shares[0][0] <= shares[-1][0] <= size


@pytest.mark.parametrize("as_json", [False, True])
def test_the_bar_is_for_a_person_who_watches(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    updates: list[dict[str, Any]] = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, **now: updates.append(now))
    with _progress("a.cf32", as_json) as told:
        told(3.0, 12.0)
    assert updates == ([] if as_json else [{"completed": 3.0, "total": 12.0}])


def ssb_at(*start_s: float) -> list[Ssb]:
    return [Ssb(pci=77, start_s=start, raster_hz=RASTER_HZ) for start in start_s]


@pytest.mark.parametrize("missing", [0, 400])
def test_a_gap_within_an_ssb_leaves_it_out_and_is_counted(
    missing: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Three SSBs, the second one cut by a capture that begins 400 samples after the one before ends."""
    sent = ssb_at(5e-3, 25e-3, 45e-3)
    samples = capture(sent, rate_hz=RATE_HZ, center_hz=RASTER_HZ, samples=460_800, snr_db=20.0, rng=rng)[0]
    at = round(25.05e-3 * RATE_HZ)
    np.delete(samples, slice(at, at + missing)).astype("<c8").tofile(tmp_path / "run.sigmf-data")
    later = {"core:sample_start": at, "core:global_index": at + missing, "core:frequency": RASTER_HZ}
    meta = {
        "global": {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": RATE_HZ},
        "captures": [{"core:sample_start": 0, "core:global_index": 0, "core:frequency": RASTER_HZ}, later],
        "annotations": [],
    }
    (tmp_path / "run.sigmf-meta").write_text(json.dumps(meta))
    told, _ = replayed(str(tmp_path / "run.sigmf-meta"))
    assert told["gaps"] == missing
    assert told["samples"] == 460_800 - missing
    assert told["frames"] == (2 if missing else 3)
    assert [cell["pci"] for cell in told["cells"]] == [77]


class Loop(SampleReader):
    """Samples [1, L] again and again, `times` times."""

    def __init__(self, samples: npt.NDArray[np.complex64], times: int) -> None:
        self.channels = 1
        self.samples = samples.shape[1] * times
        self._period = samples

    def fill(self, start: int, out: Samples) -> bool:
        length = self._period.shape[1]
        for first in range(0, out.shape[1], length):
            assert (start + first) % length == 0
            out[:, first : first + length] = self._period[:, : out.shape[1] - first]
        return True


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def proc() -> None:
    if not Path("/proc/self/statm").is_file():
        pytest.skip("no /proc here to read this process's memory from")


def test_a_cell_that_is_followed_for_long_takes_no_more_memory(proc: None, rng: np.random.Generator) -> None:
    """A hundred and eighty SSBs behind the first twenty, with a decision each."""
    samples = capture(ssb_at(5e-3), rate_hz=RATE_HZ, center_hz=RASTER_HZ, samples=153_600, snr_db=20.0, rng=rng)
    reader, segments = Loop(samples, 200), (Segment(0, RASTER_HZ),)
    source = IqFileSource(reader, segments, iq_info("raw-iq/cf32", "loop", reader, RATE_HZ, segments))
    resident: list[float] = []
    told = Replay(source, config_from({}, where="test"), progress=lambda *_: resident.append(resident_mib())).run()
    assert told["frames"] == told["decisions"] == 200
    assert resident[-1] - resident[20] < 8


REPLAY_SOME = """
import os, sys
from pathlib import Path
from controller.config import config_from
from controller.replay import Replay
from ingest.sources import open_source

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

seen = []
def told(done, total):
    seen.append(resident_mib())
    if done * 1e6 * 8 > 400 << 20:
        replay.stop()

replay = Replay(open_source(sys.argv[1], rate_hz=1e6, center_hz=3.5e9), config_from({}, where="test"), progress=told)
found = replay.run()
print(found["samples"], max(seen[len(seen) // 4:]) - seen[len(seen) // 4])
"""


def test_the_length_of_a_file_costs_no_memory(proc: None, tmp_path: Path) -> None:
    """20 GB, of which 400 MiB are played."""
    with (tmp_path / "sparse.cf32").open("wb") as file:
        try:
            file.truncate(20 * 10**9)
        except OSError as error:
            pytest.skip(f"no sparse file of this size here: {error}")
    ended = subprocess.run(
        [sys.executable, "-c", REPLAY_SOME, str(tmp_path / "sparse.cf32")], capture_output=True, text=True, check=True
    )
    samples, grown_mib = (float(part) for part in ended.stdout.split())
    assert 8 * samples > 400 << 20
    assert grown_mib < 8


def test_frames_of_a_recording_without_iq_have_a_pace_too(tmp_path: Path, rng: np.random.Generator) -> None:
    cfr = rng.normal(size=(5, 1, 8)) + 1j * rng.normal(size=(5, 1, 8))
    np.savez(tmp_path / "a.npz", cfr=cfr, tones_hz=np.arange(8) * 1e5, time_s=np.arange(5) * 0.05)
    assert all(isinstance(frame, ChannelFrame) for frame in open_source(str(tmp_path / "a.npz")))
    begun = time.monotonic()
    told, _ = replayed(str(tmp_path / "a.npz"), "--speed", "1")
    assert time.monotonic() - begun > 0.2
    assert told["frames"] == 5
    assert "late_ms" in told
