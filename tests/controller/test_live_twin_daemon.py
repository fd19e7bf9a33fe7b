"""A daemon whose twin is traced by Sionna RT beside it: users are followed, and the tracer may be killed."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from controller.config import Config
from controller.replay import Replay
from ingest.journal import JournalReader
from ingest.messages import TwinFrame
from ingest.sources.journal import JournalSource
from sim.bundle import SiteBundle, save_bundle
from sim.site import load_site
from tests.processes import Running, children_of, last_json, running
from tests.random_channels import complex_normal
from tests.sim.hand_made import line_of_sight

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

SITE = """
name = "canyon"
scene = "simple_street_canyon"
carrier_hz = 2e9
[bs]
position_m = [-30.0, 0.0, 20.0]
yaw_deg = 5.0
pitch_deg = 10.0
columns = 4
[users]
corner_m = [0.0, -3.0]
size_m = [12.0, 6.0]
[twin]
max_depth = 1
"""

# Death is told at once; else a busy machine has all the time it needs.
RUN = """
[site]
bundle = "twin.h5"
[twin]
live = true
trace_samples = 1000
stale_after_s = 60.0
[source]
uri = "walk.npz"
[emit]
bind = ""
[block]
period_s = 0.05
deadline_s = 0.05
stale_after_s = 5.0
[link]
max_users = 2
[journal]
folder = "journals"
[http]
enabled = false
"""


def site_in(folder: Path) -> None:
    """A site and its twin, of lines of sight alone, which is enough to start from."""
    (folder / "site.toml").write_text(SITE)
    site = load_site(folder / "site.toml")
    places_m = site.users.grid_m()
    sights = line_of_sight(np.array(site.bs.position_m), places_m, site.wavelength_m)
    nothing = sights.link(0).chosen(np.zeros(0, np.int64), np.zeros(2, np.int64))
    none = nothing.chosen(np.zeros(0, np.int64), np.zeros(len(places_m) + 1, np.int64))
    save_bundle(SiteBundle(site, site.twin, places_m, sights, nothing, none, {}), folder / "twin.h5")
    (folder / "run.toml").write_text(RUN)


def record_a_walk(folder: Path) -> None:
    """Two users' channels every 50 ms for ten minutes, each from a centimetre further on."""
    frames = np.arange(2 * 12_000)
    blocks, users = frames // 2, frames % 2
    cfr = 1e-4 * complex_normal(np.random.default_rng(5), len(frames), 4, 1)
    positions_m = np.column_stack([1.0 + 0.01 * (blocks % 500), -1.0 + users, np.full(len(frames), 1.5)])
    names = np.array(["ue0", "ue1"])[users]
    told = {"user": names, "position_m": positions_m, "time_s": 0.05 * blocks, "block": blocks}
    np.savez(folder / "walk.npz", cfr=cfr, tones_hz=np.zeros(1), noise_power=np.float64(1e-12), **told)


def said(run: Running, event: str) -> int:
    return sum(line["event"] == event for line in run.log)


def tracer_of(run: Running) -> int:
    """The process of the tracer: the one that lets all others go first."""
    (tracer,) = (one for one in children_of(run.process.pid) if os.getpriority(os.PRIO_PROCESS, one) > 0)
    return tracer


def test_a_killed_tracer_costs_a_line_and_comes_back(tmp_path: Path) -> None:
    site_in(tmp_path)
    record_a_walk(tmp_path)
    with running("run", "run.toml", "--json", folder=tmp_path) as run:
        run.until(lambda: said(run, "twin fresh") == 1 or run.process.poll() is not None, "a trace")
        tracer = tracer_of(run)
        os.kill(tracer, signal.SIGKILL)
        run.until(lambda: said(run, "twin stale") == 1 or run.process.poll() is not None, "a line")
        run.until(lambda: said(run, "twin fresh") == 2 or run.process.poll() is not None, "the next tracer's trace")
        another = tracer_of(run)
        assert another != tracer
        code, out = run.end(signal.SIGTERM)
    assert code == 0
    assert run.other == []
    assert said(run, "twin stale") == 1
    (line,) = (line for line in run.log if line["event"] == "twin stale")
    assert line["why"] == "the tracer is dead: the tracer has died with code -9"
    assert line["where"] == str(tmp_path / "site.toml")
    assert not Path(f"/proc/{another}").exists(), "it ends with the daemon"
    told = last_json(out)
    twin = told["twin"]
    assert (twin["deaths"], twin["stale"], twin["stale_times"]) == (1, False, 1)
    assert twin["traces"] >= 1
    assert twin["stale_s"] > 0
    assert told["ladder"].get("linear", 0) > 10
    traces = [one for one in JournalReader(tmp_path / told["journal"]) if isinstance(one, TwinFrame)]
    assert len(traces) >= twin["traces"], "the last one may have met no block"
    assert {one.epoch for one in traces} == {0, 1}
    assert all(one.users == ("ue0", "ue1") and (one.bs_paths >= 2).all() for one in traces), "sight, ground and walls"
    again = Replay(JournalSource(tmp_path / told["journal"]), Config()).run()
    assert (again["decisions_sha256"], again["differs_from_record"]) == (told["decisions_sha256"], 0)
    assert again["twin"]["traces"] == twin["traces"]
