"""Configurations: what is left out has a default, what is wrong is told in one line with the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.config import Config, config_from, load_config
from ingest.errors import UsageRefused


def load(folder: Path, text: str) -> Config:
    path = folder / "twinbeam.toml"
    path.write_text(text)
    return load_config(path)


def test_an_empty_file_is_a_configuration(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[block]\ndedline_s = 0.004", ["block.dedline_s", "deadline_s"]),
        ("[blok]\nperiod_s = 0.01", ["blok", "block"]),
        ("[block]\nperiod_s = 'soon'", ["block.period_s"]),
        ("[block]\nperiod_s = nan", ["block.period_s"]),
        ("[block]\nperiod_s = -1.0", ["block.period_s"]),
        ("[block]\nperiod_s = 0.005\ndeadline_s = 0.006", ["block", "deadline_s"]),
        ("[link]\npower_dbm = 30.0", ["link", "noise_dbm"]),
        ("[link]\npower_dbm = inf\nnoise_dbm = -90.0", ["link.power_dbm"]),
        ("[link]\nmax_users = 0", ["link.max_users"]),
        ("[link.rate_targets_bps_hz]\nue0 = -1.0", ["link.rate_targets_bps_hz.ue0"]),
        ("[design]\nprecoder = 'rfz'", ["design.precoder", "rzf"]),
        ("[design]\nrobust_solver = 'ccp'", ["design.robust_solver", "none"]),
        ("[zones]\nmethod = 'voronoi'", ["zones.method", "grid"]),
        ("[learning]\nrank = 1.5", ["learning.rank"]),
        ("[http]\nhost = '0.0.0.0'", ["http", "remote"]),
        ("[http]\nport = 65536", ["http.port"]),
        ("[twin]\nlive = true", ["[twin] live", "[site] bundle"]),
        ("[twin]\ntrace_hz = 0.5", ["twin", "stale_after_s"]),
        ("[emit]\nbind = 'udp://127.0.0.1:1'", ["emit.bind"]),
        ("[emit]\nbind = 'tcp://0.0.0.0:5558'", ["tcp://0.0.0.0:5558", "remote"]),
        ("[source]\nuri = 'zmq+tcp://127.0.0.1:5557?sokcet=pull'", ["sokcet", "socket"]),
        ("block = 3", ["block"]),
        ("[block\nperiod_s = 1", ["twinbeam.toml"]),
        ("period_s = 1", ["period_s"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(UsageRefused) as refusal:
        load(tmp_path, text)
    line = str(refusal.value)
    assert "\n" not in line
    assert all(word in line for word in told), line


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageRefused, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "twinbeam.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageRefused, match=r"twinbeam\.toml"):
        load_config(path)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "[site]\nbundle = 'hall/twin.h5'\n[source]\nuri = 'walk.sigmf-meta'\n[models]\ncsi_codecs = ['c.onnx']\n"
        "[journal]\nfolder = 'runs'\n[receiver]\nantenna_calibrations = ['array.json']\n",
    )
    assert config.site.bundle == str(tmp_path / "hall" / "twin.h5")
    assert config.source.uri == str(tmp_path / "walk.sigmf-meta")
    assert config.models.csi_codecs == (str(tmp_path / "c.onnx"),)
    assert config.receiver.antenna_calibrations == (str(tmp_path / "array.json"),)
    assert config.journal.folder == str(tmp_path / "runs")


def test_names_of_sites_and_streams_are_no_paths(tmp_path: Path) -> None:
    config = load(tmp_path, "[site]\nbundle = 'munich'\n[source]\nuri = 'zmq+tcp://127.0.0.1:5557'\n")
    assert config.site.bundle == "munich"
    assert config.source.uri == "zmq+tcp://127.0.0.1:5557"


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINBEAM_HTTP__PORT", "9000")
    config = load(tmp_path, "[http]\nport = 8700\nenabled = false\n")
    assert config.http.port == 9000
    assert not config.http.enabled


def test_a_wrong_environment_variable_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINBEAM_HTTP__PORT", "many")
    with pytest.raises(UsageRefused, match=r"http\.port"):
        load(tmp_path, "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TABLES = st.sampled_from([*Config.model_fields, "nonsense"])
KEYS = st.sampled_from(sorted({key for one in Config().model_dump().values() for key in one})) | st.text(max_size=8)


@given(st.dictionaries(TABLES, st.dictionaries(KEYS, VALUES, max_size=4) | VALUES, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tables_make_a_configuration_or_one_line(tables: dict[str, object]) -> None:
    try:
        config = config_from(tables, where="tables")
    except UsageRefused as refusal:
        line = str(refusal)
    else:
        line = ""
        assert config.block.deadline_s <= config.block.period_s
    assert "\n" not in line
    assert len(line) < 600
