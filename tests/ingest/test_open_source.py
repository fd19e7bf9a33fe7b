"""`open_source` finds out what a file is by its name, else by its contents, and says plainly what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.journal import JournalWriter
from ingest.sources import IntelCsiSource, IqFileSource, JournalSource, ZmqSource, open_source
from tests.ingest.test_sources_csi import random_csi, record, report
from tests.ingest.test_sources_sigmf import metadata, recording
from tests.random_channels import budget

RAW = {"rate_hz": 1e6, "center_hz": 1e9}


def csi_log(path: Path) -> Path:
    path.write_bytes(record(bytes(40), 0xC1) + record(report(random_csi(np.random.default_rng(1), 2, 1))))
    return path


def journal(path: Path) -> Path:
    with JournalWriter(path, {"config": ""}) as writer:
        writer.write(budget(0))
    return path


def samples(path: Path) -> Path:
    np.ones(10, np.complex64).tofile(path)
    return path


def told(uri: str, kind: type[TwinbeamError]) -> str:
    with pytest.raises(TwinbeamError) as refusal:
        open_source(uri)
    assert type(refusal.value) is kind
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_by_suffix(tmp_path: Path) -> None:
    assert isinstance(open_source(str(samples(tmp_path / "a.cf32")), **RAW), IqFileSource)
    assert isinstance(open_source(str(journal(tmp_path / "a.mcap"))), JournalSource)
    assert isinstance(open_source(str(recording(tmp_path, metadata()))), IqFileSource)


@pytest.mark.parametrize("name", ["log.dat", "log", "log.bin", "log.mcap.old"])
def test_by_content(name: str, tmp_path: Path) -> None:
    assert isinstance(open_source(str(csi_log(tmp_path / name))), IntelCsiSource)
    (tmp_path / name).unlink()
    assert isinstance(open_source(str(journal(tmp_path / name))), JournalSource)


def test_by_option(tmp_path: Path) -> None:
    csi = csi_log(tmp_path / "log.cf32")
    assert isinstance(open_source(str(csi), format_name="intel5300"), IntelCsiSource)
    assert isinstance(open_source(str(journal(tmp_path / "log.dat")), format_name="journal"), JournalSource)
    assert isinstance(open_source(str(samples(tmp_path / "log.x")), format_name="cf32", **RAW), IqFileSource)


@pytest.mark.parametrize("start", ["file://", "file://localhost"])
def test_by_file_uri(start: str, tmp_path: Path) -> None:
    path = samples(tmp_path / "with space.cf32")
    source = open_source(start + str(path).replace(" ", "%20"), **RAW)
    assert source.info.where == str(path)


def test_names_that_look_like_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("what?.cf32", "a#b.cf32", "50%.cf32", "c:d.cf32", "-.cf32", "ü.cf32"):
        assert open_source(str(samples(Path(name))), **RAW).info.where == name


def test_a_stream_is_opened_and_closed_without_being_read(tmp_path: Path) -> None:
    source = open_source(f"zmq+ipc://{tmp_path}/in?bind=1&socket=pull")
    assert isinstance(source, ZmqSource)
    assert source.info.where == f"ipc://{tmp_path}/in"
    source.close()
    assert list(source) == []


@pytest.mark.parametrize("uri", ["http://host/a.cf32", "tcp://127.0.0.1:5555", "zmq://127.0.0.1:1", "s3://a/b.cf32"])
def test_other_schemes(uri: str) -> None:
    assert told(uri, UsageRefused).startswith(f"{uri}: unknown kind of source")


def test_an_address_that_is_none() -> None:
    assert "needs a host and a port" in told("zmq+tcp://127.0.0.1", UsageRefused)


@pytest.mark.parametrize(
    "name", ["none.cf32", "none", "none.mcap", "x" * 300 + ".cf32", "a/b/none.dat", "zero\0byte.cf32"]
)
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    assert told(str(tmp_path / name), InputRefused).endswith("no such file")


@pytest.mark.parametrize("name", ["folder", "folder.cf32", "folder.mcap"])
def test_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert told(str(tmp_path / name), InputRefused) == f"{tmp_path / name}: is a directory (name a file in it)"


@pytest.mark.parametrize("name", ["a.cf32", "a.mcap", "a.dat", "a"])
def test_an_empty_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert "is empty" in told(str(tmp_path / name), InputRefused)


@pytest.mark.parametrize("content", [b"\xbb", b"text", bytes(1000), b"\0\x05\xbbabcd\0\x05\x11abcd", b"\0\x01\xbb"])
def test_contents_that_say_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    line = told(str(tmp_path / "file"), InputRefused)
    assert line.startswith(f"{tmp_path / 'file'}: unknown format")
    assert "--format sigmf|intel5300|" in line


@pytest.mark.parametrize(("name", "word"), [("a.mcap", "damaged"), ("a.sigmf-meta", "JSON")])
def test_contents_that_belie_the_name(name: str, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something else altogether")
    assert word in told(str(tmp_path / name), InputRefused)


@pytest.mark.data
def test_the_recorded_captures_open(data: Path) -> None:
    for path in (data / "nr-iq").rglob("*.cf32"):
        source = open_source(str(path), rate_hz=46.08e6, center_hz=3.5e9)
        assert source.info.samples == path.stat().st_size // 8
    assert open_source(str(data / "wifi-csi" / "intel5300_0x5_64_3000.dat")).info.format == "intel5300"
