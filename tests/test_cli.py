"""The command line: every bad input is one line and the right exit code, every `--json` one line of JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.processes import call
from twinbeam import app

RUNNER = CliRunner()
SAMPLES = (np.arange(2000) / 2000).astype("<f4")


def invoke(*arguments: str) -> tuple[int, str, str]:
    """A command in this process: exit code, stdout, stderr. Any exception but a planned exit fails the test."""
    result = RUNNER.invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def raw(folder: Path, content: bytes = SAMPLES.tobytes(), name: str = "capture.cf32") -> list[str]:
    (folder / name).write_bytes(content)
    return [str(folder / name), "--rate-hz", "1e6", "--center-hz", "3.5e9"]


def sigmf(folder: Path, content: bytes = SAMPLES.tobytes(), rate: str = "1e6", **settings: Any) -> list[str]:
    (folder / "walk.sigmf-data").write_bytes(content)
    meta = {
        "global": {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": 1e6, **settings},
        "captures": [{"core:sample_start": 0, "core:frequency": 3.5e9}],
        "annotations": [{"core:sample_start": 0, "core:sample_count": 1000}],
    }
    text = json.dumps(meta).replace('"core:sample_rate": 1000000.0', f'"core:sample_rate": {rate}')
    (folder / "walk.sigmf-meta").write_text(text)
    return [str(folder / "walk.sigmf-meta")]


def escape(folder: Path) -> list[str]:
    inside = folder / "recording"
    inside.mkdir()
    (folder / "secret.sigmf-data").write_bytes(SAMPLES.tobytes())
    return sigmf(inside, **{"core:dataset": "../secret.sigmf-data"})


def written(folder: Path, name: str, content: bytes) -> list[str]:
    (folder / name).write_bytes(content)
    return [str(folder / name)]


BAD_INPUTS: dict[str, tuple[Callable[[Path], list[str]], int, str]] = {
    "SigMF that is cut": (lambda f: sigmf(f, SAMPLES.tobytes()[:4000]), 3, r"500.*1000.*truncated"),
    "SigMF cut inside a sample": (lambda f: sigmf(f, SAMPLES.tobytes()[:-3]), 3, r"truncated"),
    "SigMF with another sha512": (lambda f: sigmf(f, **{"core:sha512": "0" * 128}), 3, r"sha512"),
    "SigMF that leads elsewhere": (escape, 3, r"core:dataset"),
    "SigMF with a NaN rate": (lambda f: sigmf(f, rate="NaN"), 3, r"NaN"),
    "SigMF with an infinite rate": (lambda f: sigmf(f, rate="1e999"), 3, r"sample.rate|inf"),
    "SigMF without data": (lambda f: written(f, "x.sigmf-meta", b"{}"), 3, r"x\.sigmf-meta"),
    "an empty raw file": (lambda f: raw(f, b""), 3, r"empty"),
    "a raw file cut inside a sample": (lambda f: raw(f, SAMPLES.tobytes()[:-1]), 3, r"truncated|whole number"),
    "a raw file with a NaN rate": (lambda f: [*raw(f)[:1], "--rate-hz", "nan", "--center-hz", "1e9"], 2, r"rate"),
    "a raw file without a rate": (lambda f: raw(f)[:1], 2, r"--rate-hz"),
    "a file of unknown format": (lambda f: written(f, "capture.xyz", b"hello"), 3, r"capture\.xyz"),
    "an empty CSI log": (lambda f: written(f, "log.dat", b""), 3, r"empty"),
    "a CSI log that is none": (lambda f: written(f, "log.dat", b"\x00" * 400), 3, r"log\.dat"),
    "an empty journal": (lambda f: written(f, "run.mcap", b""), 3, r"run\.mcap"),
    "a journal that is none": (lambda f: written(f, "run.mcap", b"hello world" * 30), 3, r"run\.mcap"),
    "no such file": (lambda f: [str(f / "nowhere.cf32"), "--rate-hz", "1e6", "--center-hz", "1e9"], 3, r"nowhere"),
    "a folder": (lambda f: [str(f)], 3, r"director|folder"),
    "an unknown format name": (lambda f: [*raw(f), "--format", "cf16"], 2, r"cf16"),
    "a stream": (lambda f: ["zmq+tcp://127.0.0.1:1"], 3, r"twinbeam run"),
    "a configuration with a misspelt key": (
        lambda f: [*raw(f), "--config", written(f, "c.toml", b"[block]\ndedline_s = 1")[0]],
        2,
        r"dedline_s.*deadline_s",
    ),
}


@pytest.mark.parametrize("what", BAD_INPUTS)
def test_a_bad_input_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    made, expected, told = BAD_INPUTS[what]
    code, out, err = invoke("replay", *made(tmp_path), "--json")
    assert code == expected, err
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("twinbeam: ")
    assert re.search(told, err), err
    assert "Traceback" not in err


def test_non_finite_samples_are_dropped_and_counted(tmp_path: Path) -> None:
    samples = np.zeros(2 * 60_000, "<f4")
    samples[1001] = np.nan
    code, out, _ = invoke("replay", *raw(tmp_path, samples.tobytes()), "--json")
    told = json.loads(out)
    assert code == 0
    assert told["rejected"] == {"non_finite": 1}
    assert told["samples"] < 60_000


def test_a_good_recording_without_a_cell_is_no_failure(tmp_path: Path) -> None:
    content = SAMPLES.tobytes()
    code, out, err = invoke(
        "replay", *sigmf(tmp_path, content, **{"core:sha512": hashlib.sha512(content).hexdigest()}), "--json"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["format"] == "sigmf/cf32"
    assert told["samples"] == 1000
    assert told["cells"] == []
    assert told["decisions"] == 0


def test_several_files_make_a_list(tmp_path: Path) -> None:
    one = raw(tmp_path)
    code, out, _ = invoke("replay", one[0], *one, "--json")
    assert code == 0
    assert [found["samples"] for found in json.loads(out)["files"]] == [1000, 1000]


def test_without_json_a_person_reads_fields(tmp_path: Path) -> None:
    code, out, _ = invoke("replay", *raw(tmp_path))
    assert code == 0
    assert "samples: 1000" in out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay"], "Missing argument"),
        (["replay", "a.cf32", "--speed", "0"], "--speed"),
        (["demo", "--blocks", "0"], "--blocks"),
        (["demo", "--sight", "munich"], "--sight"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_usage_is_exit_code_2(arguments: list[str], told: str) -> None:
    code, out, err = invoke(*arguments)
    assert code == 2
    assert out == ""
    assert told in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--site", "atlantis"], "atlantis"),
        (["demo", "--scenario", "atlantis"], "one of: quad/street"),
        (["demo", "--scenario", "quad/street", "--users", "2"], "3 tracks for 2 users"),
        (["demo", "--emulator", "tcp://10.0.0.2:5555"], "is another host"),
        (["demo", "--emulator", "tcp://127.0.0.1:5555?antenna=16"], "there is no antenna 16"),
        (["twin", "build", "atlantis"], "atlantis"),
        (["run", "nowhere.toml"], "nowhere.toml"),
        (["check", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_what_does_not_exist_is_told_in_one_line(arguments: list[str], told: str) -> None:
    code, _, err = invoke(*arguments)
    assert code in (2, 3)
    assert len(err.splitlines()) == 1
    assert told in err


def test_check_reads_all_that_a_configuration_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[site]\nbundle = 'munich'\n[source]\nuri = 'zmq+tcp://127.0.0.1:5557'\n")
    code, out, _ = invoke("check", str(path), "--json")
    assert code == 0
    told = json.loads(out)
    assert told["valid"] is True
    assert (told["antennas"], told["ris_elements"]) == (16, 256)
    source = "[source]\nuri = 'zmq+tcp://127.0.0.1:5557'\n"
    path.write_text(source + "[site]\nbundle = 'gone.h5'\n")
    code, _, err = invoke("check", str(path))
    assert code == 2
    assert "gone.h5" in err
    path.write_text(source + "[models]\ncsi_codecs = ['gone.onnx']\n")
    assert invoke("check", str(path))[0] == 3
    path.write_text("[source]\nuri = 'gone.sigmf-meta'\n")
    assert invoke("check", str(path))[0] == 3
    path.write_text("")
    assert invoke("check", str(path))[0] == 2, "a daemon without a source would not start"


def test_antennas_are_calibrated_and_a_replay_uses_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=(40_000, 2)).view(np.complex128)
    capture = sigmf(tmp_path, (common * [1.0, 0.5j]).astype("<c8").tobytes(), **{"core:num_channels": 2})
    target = tmp_path / "antennas.json"
    code, out, err = invoke("calibrate-antennas", *capture, str(target), "--bands", "1", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["phases_rad"] == pytest.approx([0.0, np.pi / 2], abs=1e-3)
    assert json.loads(target.read_text())["gains_db"][0] > 0
    code, _, err = invoke("calibrate-antennas", *capture, str(target))
    assert code == 3
    assert len(err.splitlines()) == 1
    config = tmp_path / "run.toml"
    config.write_text("[receiver]\nantenna_calibrations = ['antennas.json']\n")
    code, out, _ = invoke("replay", *capture, "--config", str(config), "--json")
    assert code == 0
    assert json.loads(out)["antenna_phases"] == {"phases": "calibrated", "told_by": 0}
    target.write_text('{"schema": "twinbeam.antennas/1", "gains_db": [0, 0, 0], "phases_rad": [0, 0, 0]}')
    code, _, err = invoke("replay", *capture, "--config", str(config), "--json")
    assert code == 2
    assert "3 antennas" in err
    target.write_text("{}")
    code, _, err = invoke("replay", *capture, "--config", str(config), "--json")
    assert code == 3
    assert len(err.splitlines()) == 1


def test_doctor_finds_and_mends() -> None:
    code, out, _ = invoke("doctor", "--json")
    findings = json.loads(out)["findings"]
    assert code == (1 if any(one["state"] == "fail" for one in findings) else 0)
    assert {one["state"] for one in findings} <= {"ok", "warn", "fail"}
    assert all(one["mend"] for one in findings if one["state"] != "ok")
    assert any("munich/twin.h5" in one["what"] and one["state"] == "ok" for one in findings)


def test_every_command_has_help() -> None:
    for arguments in (
        [],
        ["demo"],
        ["run"],
        ["replay"],
        ["calibrate-antennas"],
        ["check"],
        ["doctor"],
        ["twin", "build"],
    ):
        code, out, _ = invoke(*arguments, "--help")
        assert code == 0
        assert "Usage" in out


def test_the_command_line_runs_as_a_module(tmp_path: Path) -> None:
    ended = call("replay", "nowhere.cf32", folder=tmp_path)
    assert ended.returncode in (2, 3)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
