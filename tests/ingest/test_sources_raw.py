"""Raw IQ with a side-car, UHD's files of several channels, files that grow, and memory that does not."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.sources import IqFileSource, Source, open_source
from tests.random_channels import complex_normal

RAW: dict[str, Any] = {"rate_hz": 1e6, "center_hz": 3.5e9}
BLOCK = 20_000
CAR = RAW | {"format": "sc16"}


def blocks(source: Source) -> list[IqBlock]:
    return [block for block in source if isinstance(block, IqBlock)]


def capture(path: Path, samples: int = 10, **car: Any) -> Path:
    """An sc16 file that counts up, and its side-car."""
    np.arange(2 * samples, dtype="<i2").tofile(path)
    path.with_name(path.name + ".json").write_text(json.dumps(CAR | car))
    return path


def refused(path: Path, *words: str, kind: type[TwinbeamError] = InputRefused, **options: Any) -> None:
    with pytest.raises(TwinbeamError) as refusal:
        open_source(str(path), **options)
    assert type(refusal.value) is kind
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_side_car_says_what_the_samples_are(tmp_path: Path) -> None:
    source = open_source(str(capture(tmp_path / "usrp_samples.dat", start="2026-11-23T09:00:00Z")))
    assert (source.info.format, source.info.rate_hz, source.info.center_hz) == ("raw-iq/sc16", 1e6, 3.5e9)
    assert (source.info.samples, source.info.antennas, source.info.start) == (10, 1, "2026-11-23T09:00:00Z")
    (block,) = blocks(source)
    np.testing.assert_array_equal(block.samples[0], (np.arange(0, 20, 2) + 1j * np.arange(1, 20, 2)) / 32768)


def test_a_side_car_in_toml_and_uhd_names(tmp_path: Path) -> None:
    np.ones(8, "<c8").tofile(tmp_path / "a.bin")
    (tmp_path / "a.bin.toml").write_text('rate_hz = 2e6\ncenter_hz = 1_842_500_000\nformat = "fc32"\nchannels = 2\n')
    source = open_source(str(tmp_path / "a.bin"))
    assert (source.info.format, source.info.antennas, source.info.samples) == ("raw-iq/cf32", 2, 4)
    assert source.info.center_hz == 1.8425e9


def test_gaps_of_a_side_car_are_counted_exactly(tmp_path: Path) -> None:
    source = open_source(str(capture(tmp_path / "a.dat", 30, gaps=[[10, 500], [25, 7]])))
    receiver = NrReceiver()
    found = blocks(source)
    for block in found:
        list(receiver.process(block))
    assert [(block.first_sample, block.samples.shape[1]) for block in found] == [(0, 10), (510, 15), (532, 5)]
    assert receiver.gaps == 507
    assert [(note.first_sample, note.label) for note in source.info.annotations] == [(510, "gap"), (532, "gap")]
    assert found[1].samples[0, 0] == complex(20, 21) / 32768


def test_a_gap_before_the_first_sample_shifts_the_numbers(tmp_path: Path) -> None:
    (block,) = blocks(open_source(str(capture(tmp_path / "a.dat", gaps=[[0, 100]]))))
    assert (block.first_sample, block.t_ns) == (100, 100_000)


@pytest.mark.parametrize(
    ("car", "word"),
    [
        (b"{", "is no side-car"),
        (b"[]", "is no side-car"),
        (b'{"rate_hz": NaN}', "NaN"),
        (b'{"rate_hz": "fast"}', "rate_hz"),
        (b'{"rate": 1}', "rate"),
        (b'{"channels": 0}', "channels"),
        (b'{"channels": 1e30}', "channels"),
        (b'{"format": "cf16"}', "unknown format 'cf16'"),
        (b'{"gaps": [[5]]}', "gaps"),
        (b'{"gaps": [[5, 0]]}', "gaps"),
        (b'{"gaps": [[5, 1], [5, 1]]}', "rising"),
        (b'{"gaps": [[7, 1], [5, 1]]}', "rising"),
        (b'{"gaps": [[1, 1152921504606846976], [2, 1152921504606846976]]}', "absurdly"),
        (b'{"gaps": [[10, 1]]}', "gap at sample 10"),
        (b"\xff\xfe", "is no side-car"),
        (b"[" * 100_000, "is no side-car"),
    ],
    ids=lambda value: value[:30].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_a_side_car_that_is_none(car: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sc16"
    np.arange(20, dtype="<i2").tofile(path)
    (tmp_path / "a.sc16.json").write_bytes(car)
    refused(path, word, **RAW)


def test_a_side_car_that_is_contradicted(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.dat")
    refused(path, "--rate-hz 2000000.0", "side-car says 1000000.0", kind=UsageRefused, rate_hz=2e6)
    refused(path, "--center-hz", kind=UsageRefused, center_hz=1e9)
    refused(path, "--format cf32", "sc16", kind=UsageRefused, format_name="cf32")
    assert open_source(str(path), **RAW, format_name="sc16").info.samples == 10


def test_uhd_files_of_several_channels_are_antennas(tmp_path: Path) -> None:
    """As UHD's txrx_loopback_to_file names them: a.00.dat, a.01.dat, a.02.dat for a.dat."""
    for channel in range(3):
        (np.arange(BLOCK + 5) + 1j * channel).astype("<c8").tofile(tmp_path / f"a.{channel:02d}.dat")
    source = open_source(str(tmp_path / "a.dat"), format_name="cf32", **RAW)
    assert (source.info.antennas, source.info.samples) == (3, BLOCK + 5)
    samples = np.concatenate([block.samples for block in blocks(source)], axis=1)
    np.testing.assert_array_equal(samples, np.arange(BLOCK + 5) + 1j * np.arange(3)[:, None])
    one = open_source(str(tmp_path / "a.01.dat"), format_name="cf32", **RAW)
    assert one.info.antennas == 1
    assert blocks(one)[0].samples[0, 2] == 2 + 1j


def test_uhd_files_with_a_side_car_of_their_common_name(tmp_path: Path) -> None:
    for channel in range(2):
        np.arange(20, dtype="<i2").tofile(tmp_path / f"a.{channel:02d}.dat")
    (tmp_path / "a.dat.json").write_text(json.dumps(CAR))
    assert open_source(str(tmp_path / "a.dat")).info.antennas == 2


def test_uhd_files_of_different_length(tmp_path: Path) -> None:
    for channel in range(2):
        np.ones(5 + channel, "<c8").tofile(tmp_path / f"a.{channel:02d}.cf32")
    refused(tmp_path / "a.cf32", "differ in length", **RAW)


def write_slowly(path: Path, pieces: list[bytes]) -> threading.Thread:
    """Appends one piece after the other, from a thread of its own."""

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
                time.sleep(0.03)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_file_that_grows_is_followed(tmp_path: Path, rng: np.random.Generator) -> None:
    recorded = complex_normal(rng, 2 * BLOCK + 77).astype("<c8")
    path = tmp_path / "a.cf32"
    path.touch()
    data = recorded.tobytes()
    cuts = [0, 3, 100_001, 8 * BLOCK + 1, len(data) - 4, len(data)]
    source = open_source(str(path), follow=True, idle_s=2.0, **RAW)
    writer = write_slowly(path, [data[a:b] for a, b in pairwise(cuts)])
    found = blocks(source)
    writer.join()
    assert [block.samples.shape[1] for block in found] == [BLOCK, BLOCK, 77]
    assert [block.first_sample for block in found] == [0, BLOCK, 2 * BLOCK]
    np.testing.assert_array_equal(np.concatenate([block.samples for block in found], axis=1)[0], recorded)
    assert not source.rejected


def test_a_followed_file_that_ends_inside_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.cf32"
    path.write_bytes(bytes(8 * 5 + 3))
    source = open_source(str(path), follow=True, idle_s=0.1, **RAW)
    assert [block.samples.shape for block in blocks(source)] == [(1, 5)]
    assert dict(source.rejected) == {"truncated_end": 1}


def test_a_followed_file_is_let_go_when_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a.cf32").write_bytes(bytes(80))
    source = open_source(str(tmp_path / "a.cf32"), follow=True, idle_s=600.0, **RAW)
    threading.Timer(0.1, source.close).start()
    assert sum(block.samples.shape[1] for block in blocks(source)) in (0, 10)


def test_what_cannot_be_followed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", iq=np.ones(4, complex), rate_hz=1e6, center_hz=0)
    refused(tmp_path / "a.npz", "cannot be followed", kind=UsageRefused, follow=True)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.cf32"
    np.ones(3 * BLOCK, "<c8").tofile(path)
    messages = iter(open_source(str(path), **RAW))
    next(messages)
    with path.open("r+b") as file:
        file.truncate(8 * BLOCK + 800)
    with pytest.raises(InputRefused, match="became shorter"):
        next(messages)


def in_a_process(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


READ_SOME = """
import resource
from ingest.sources import open_source
source = open_source({name!r}, rate_hz=46.08e6, center_hz=3.5e9)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = 0
for block in source:
    read += block.samples.nbytes
    if read > {bytes}:
        break
print(source.info.samples, read, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("suffix", [".cf32", ".sc16"])
def test_a_file_of_a_hundred_gigabytes_streams_in_constant_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"sparse{suffix}"
    with path.open("wb") as file:
        try:
            file.truncate(100 << 30)
        except OSError as error:
            pytest.skip(f"no sparse file of this size here: {error}")
    samples, read, grown_mib = (
        int(part) for part in in_a_process(READ_SOME.format(name=str(path), bytes=300 << 20)).split()
    )
    assert samples == (100 << 30) // (8 if suffix == ".cf32" else 4)
    assert read > 300 << 20
    assert grown_mib < 64


def test_blocks_of_many_antennas_fit_into_a_message(tmp_path: Path) -> None:
    path = tmp_path / "a.sc8"
    path.write_bytes(bytes(2 * 512 * 40_000))
    (tmp_path / "a.sc8.json").write_text(json.dumps({"channels": 512, "rate_hz": 1e6, "center_hz": 1e9}))
    source = open_source(str(path))
    assert isinstance(source, IqFileSource)
    shapes = [block.samples.shape for block in blocks(source)]
    assert {shape[0] for shape in shapes} == {512}
    assert sum(shape[1] for shape in shapes) == 40_000
    assert max(8 * 512 * shape[1] for shape in shapes) <= 60 << 20


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    np.ones(3 * BLOCK, "<c8").tofile(tmp_path / "a.cf32")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else limit
    for _ in range(20):
        source = open_source(str(tmp_path / "a.cf32"), **RAW)
        next(iter(source))
        source.close()
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else limit
    assert after <= before + 1
