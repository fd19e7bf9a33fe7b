"""Whole sets by the command line: killed at every turn they are the same, and hold the channels of Sionna RT."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sim.bundle import file_digest
from sim.channels import SiteChannels
from sim.fidelity.array_errors import element_errors
from sim.fidelity.knobs import HardwareSettings
from sim.site import load_site
from sim.tracer import trace_site
from tests.processes import PATIENCE_S, call, command, last_json
from tests.sim.datasets.specs import spec_file

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

SHARDS = 7


@dataclass(frozen=True)
class Whole:
    """A set that was made in one go, by one worker: folder of the specification, what `--json` said, its files."""

    folder: Path
    told: dict[str, Any]
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("street")
    spec_file(folder)
    ended = call("dataset", "make", "street.toml", "--workers", "1", "--json", folder=folder)
    assert ended.returncode == 0, ended.stderr
    return Whole(folder, last_json(ended.stdout), contents(folder / "street"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shards_in(folder: Path) -> int:
    return len(list(folder.glob("shard-*.h5")))


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that make batches for a maker."""
    children = _read(Path(f"/proc/{process.pid}/task/{process.pid}/children")).split()
    return [int(child) for child in children if b"spawn_main" in _read(Path(f"/proc/{int(child)}/cmdline"))]


def actors_of(process: subprocess.Popen[str]) -> list[int]:
    """The Ray actors that make batches, in the cluster that a maker started: they descend from it."""
    found, generation = [], [process.pid]
    while generation:
        paths = [path for pid in generation for path in Path(f"/proc/{pid}/task").glob("*/children")]
        generation = [int(child) for path in paths for child in _read(path).split()]
        found += [pid for pid in generation if _read(Path(f"/proc/{pid}/cmdline")).startswith(b"ray::Workshop")]
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


class Making:
    """A maker in the background, of the set in `folder`/`out`."""

    def __init__(self, folder: Path, out: str, *options: str) -> None:
        self.out = folder / out
        self.process = subprocess.Popen(
            command("dataset", "make", "street.toml", "--out", out, "--json", *options),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something, or for the maker's end."""
        give_up = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and not happened():
            assert time.monotonic() < give_up
            time.sleep(0.005)

    def until_shards(self, count: int) -> None:
        self.until(lambda: shards_in(self.out) >= count)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal, or let it end by itself: exit code, stdout, stderr."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


def test_the_report_is_of_what_lies_there(whole: Whole) -> None:
    told, folder = whole.told, whole.folder / "street"
    assert (told["samples"], told["shards"], told["made"], told["unreached"]) == (400, SHARDS, 400, 0)
    assert told["sha256"] == file_digest(folder / "manifest.json")
    assert told["bytes"] == sum(len(content) for content in whole.files.values())
    assert told["samples_per_s"] == pytest.approx(400 / told["seconds"], rel=0.01)
    assert 0 < told["trace_ms"]["p50"] <= told["trace_ms"]["p99"] < 1e3 * told["seconds"]
    assert (told["workers"], told["deaths"]) == (1, 0)
    assert set(whole.files) == {"manifest.json", *(f"shard-{number:05}.h5" for number in range(SHARDS))}


def test_killed_again_and_again_it_is_the_same_set(whole: Whole, rng: np.random.Generator) -> None:
    """SIGKILL at once, SIGKILL after a shard, Ctrl-C after another one, then one of two workers: four starts."""
    early = Making(whole.folder, "killed", "--workers", "1")
    time.sleep(rng.uniform(0.2, 1.5))
    assert early.end(signal.SIGKILL)[0] == -signal.SIGKILL

    late = Making(whole.folder, "killed", "--workers", "1")
    late.until_shards(1)
    time.sleep(rng.uniform(0.0, 0.02))
    late.end(signal.SIGKILL)
    kept = shards_in(whole.folder / "killed")
    assert 1 <= kept < SHARDS

    stopped = Making(whole.folder, "killed", "--workers", "1")
    stopped.until_shards(kept + 1)
    code, out, err = stopped.end(signal.SIGINT)
    assert (code, out) == (1, "")
    assert f"{64 * kept} of 400 samples are there already" in err or f"{64 * (kept - 1)} of 400 samples" in err
    assert "twinbeam: killed: stopped, " in err
    assert "(the same command goes on)" in err.splitlines()[-1]
    assert "Traceback" not in err

    last = Making(whole.folder, "killed", "--workers", "2")
    last.until(lambda: bool(workers_of(last.process)))
    os.kill(workers_of(last.process)[0], signal.SIGKILL)
    code, out, err = last.end()
    assert code == 0, err
    told = last_json(out)
    assert told["deaths"] == 1
    assert "a worker died and was replaced" in err
    assert told["made"] < 400
    assert contents(whole.folder / "killed") == whole.files


def test_a_set_that_is_there_is_looked_through_and_kept(whole: Whole) -> None:
    ended = call("dataset", "make", "street.toml", "--json", folder=whole.folder)
    told = last_json(ended.stdout)
    assert told["made"] == 0
    assert "samples_per_s" not in told
    assert told["sha256"] == whole.told["sha256"]
    assert contents(whole.folder / "street") == whole.files


def test_workers_that_always_die_are_given_up(whole: Whole) -> None:
    making = Making(whole.folder, "deadly", "--workers", "1")
    while making.process.poll() is None:
        for worker in workers_of(making.process):
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.01)
    code, _, err = making.end()
    assert code == 1
    assert "twinbeam: batch 0: 3 workers died at it, the last with code -9 (" in err


def test_what_a_worker_finds_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    spec_file(tmp_path, {"scene": "nowhere"})
    ended = call("dataset", "make", "street.toml", "--workers", "2", "--json", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "no bundled scene 'nowhere'" in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `cluster`)")
def test_ray_makes_the_same_set_also_when_an_actor_is_killed(whole: Whole) -> None:
    making = Making(whole.folder, "ray", "--ray", "local")
    making.until(lambda: bool(actors_of(making.process)))
    os.kill(actors_of(making.process)[0], signal.SIGKILL)
    code, out, err = making.end()
    assert code == 0, err
    assert (last_json(out)["workers"], last_json(out)["deaths"]) == (2, 1)
    assert contents(whole.folder / "ray") == whole.files


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `cluster`)")
def test_no_cluster_at_an_address_is_told(whole: Whole) -> None:
    ended = call("dataset", "make", "street.toml", "--ray", "nonsense", "--out", "none", folder=whole.folder)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "--ray nonsense: no Ray cluster" in ended.stderr


def test_channels_are_those_that_sionna_computes(tmp_path: Path) -> None:
    """One antenna: its responses and taps are Sionna RT's own, computed from its own paths."""
    import sionna.rt as rt

    alone = {"bs": {"position_m": [-30.0, 0.0, 20.0], "yaw_deg": 5.0, "pitch_deg": 10.0}}
    taps = {"taps": 10, "bandwidth_hz": 50e6, "before": 2}
    traced = {"samples": 20000, "max_depth": 2, "max_paths": 1000}
    spec_file(tmp_path, alone, samples=64, cir=taps, trace=traced, positions={"draw": "tracks", "track_samples": 16})
    ended = call("dataset", "make", "street.toml", "--json", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads((tmp_path / "street" / "manifest.json").read_bytes())
    with h5py.File(tmp_path / "street" / "shard-00000.h5") as file:
        made = {name: file[name][:] for name in file}
    np.testing.assert_array_equal(made["track"], np.arange(64) // 16)

    scene = rt.load_scene(rt.scene.simple_street_canyon)
    scene.frequency = 2e9
    scene.tx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="tr38901", polarization="V")
    scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    scene.add(rt.Transmitter("tx", [-30.0, 0.0, 20.0], orientation=np.radians([5.0, 10.0, 0.0]).tolist()))
    for index, position in enumerate(made["position_m"]):
        scene.add(rt.Receiver(f"rx{index}", position.tolist()))
    solver = rt.PathSolver(deterministic=True)
    paths = solver(scene, max_depth=2, samples_per_src=20000, refraction=False, seed=1)
    tones_hz = np.array(manifest["tones_hz"], np.float32)
    cfr = np.asarray(paths.cfr(tones_hz, normalize_delays=False, out_type="numpy")).reshape(64, 1, 4)
    floor = 2e-3 * np.abs(cfr).max(axis=(1, 2), keepdims=True)  # weak paths are left out of sets
    # Sionna takes phases in single precision: over 100 m and at 2 GHz its error is some 1e-3.
    assert np.all(np.abs(made["cfr"] - cfr) < 5 * floor)
    wanted = np.asarray(paths.taps(50e6, -2, 7, normalize_delays=True, out_type="numpy")).reshape(64, 1, 10)
    carrier = np.exp(2j * np.pi * 2e9 * made["delay_s"])[:, None, None]  # Sionna takes it off together with the delay
    assert np.all(np.abs(made["cir"] * carrier - wanted) < 5 * floor)
    np.testing.assert_allclose(
        made["delay_s"], np.min(np.where(paths.tau.numpy() >= 0, paths.tau.numpy(), 1.0), axis=-1).ravel(), rtol=1e-6
    )


def test_cascades_are_those_of_a_bundle_at_its_grid(tmp_path: Path) -> None:
    """But for what knobs do to them: elements that differ, and users who are not where they are said to be."""
    knobs = {"hardware.mismatch_phase_deg": 30.0, "position.sigma_m": 0.2}
    traced = {"samples": 20000, "max_depth": 2, **knobs}
    spec_file(tmp_path, samples=10, cfr=None, cascade={}, trace=traced, positions={"draw": "grid"})
    assert call("dataset", "make", "street.toml", folder=tmp_path).returncode == 0
    site = load_site(tmp_path / "site.toml")
    channels = SiteChannels(trace_site(site, site.twin, world=False, folder=tmp_path))
    with h5py.File(tmp_path / "street" / "shard-00000.h5") as file:
        positions_m, cascades = file["position_m"][:], file["cascade"][:]
    assert cascades.shape == (10, 5, 6)
    off_m = np.random.default_rng([1, 0]).normal(scale=0.2, size=(64, 3))[:10]
    phases = element_errors(HardwareSettings(mismatch_phase_deg=30.0), 6)
    for position_m, cascade in zip(positions_m - off_m, cascades, strict=True):
        assert channels.nearest(position_m)[1] < 1e-6
        wanted = channels.cascade(position_m) * phases
        for row, other in zip(cascade, wanted, strict=True):
            np.testing.assert_allclose(row, other, atol=2e-3 * np.abs(other).max())
