"""What TensorFlow writes is what the DICHASUS reader reads: framing, checksums, examples, tensors, order of tones."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ingest.messages import ChannelFrame
from ingest.sources import open_source
from tests.processes import PATIENCE_S, call, last_json

HERE = Path(__file__).parent
TENSORFLOW_PYTHON = HERE.parents[1] / ".venv-tensorflow" / "bin" / "python"
RECORDS, ANTENNAS, TONES = 5, 32, 1024


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A file that TensorFlow wrote, and what it wrote."""
    rng = np.random.default_rng(1)
    spread = rng.normal(size=(2, RECORDS, ANTENNAS, 4))
    delays = np.exp(-2j * np.pi * np.outer(np.arange(4), np.arange(TONES)) / TONES)
    arrays = {
        "csi": ((spread[0] + 1j * spread[1]) @ delays).astype(np.complex64),
        "position_m": rng.normal(size=(RECORDS, 3)),
        "snr_db": rng.uniform(10, 30, (RECORDS, ANTENNAS)).astype(np.float32),
        "time_s": np.arange(RECORDS) * 0.048 + 12.0,
        "age_s": np.array([0.0, 0.01, 50.0, 0.02, 0.0]),
    }
    folder = tmp_path_factory.mktemp("dichasus")
    np.savez(folder / "arrays.npz", **arrays)
    command = [str(TENSORFLOW_PYTHON), str(HERE / "write_dichasus.py"), "arrays.npz", "dichasus-cf02.tfrecords"]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=folder, env=quiet, timeout=PATIENCE_S, check=True)
    return folder / "dichasus-cf02.tfrecords", arrays


def test_every_number_comes_through(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = written
    source = open_source(str(path))
    frames = list(source)
    assert not source.rejected
    assert len(frames) == RECORDS
    for n, frame in enumerate(frames):
        assert isinstance(frame, ChannelFrame)
        np.testing.assert_array_equal(frame.cfr[0], np.fft.fftshift(arrays["csi"][n], axes=1))
        assert frame.position_m == (None if arrays["age_s"][n] > 1 else tuple(arrays["position_m"][n]))
        power = np.mean(np.abs(arrays["csi"][n].astype(np.complex128)) ** 2, axis=1)
        noise = np.mean(power * 10 ** (-arrays["snr_db"][n].astype(np.float64) / 10))
        np.testing.assert_allclose(frame.noise_power, noise, rtol=1e-5)
        assert frame.t_ns == pytest.approx(arrays["time_s"][n] * 1e9, rel=1e-6)


def test_replay_runs_on_it(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = written
    ended = call("replay", str(path), "--json", folder=path.parent)
    assert ended.returncode == 0, ended.stderr
    told = last_json(ended.stdout)
    assert (told["frames"], told["antennas"]) == (RECORDS, ANTENNAS), json.dumps(told)
