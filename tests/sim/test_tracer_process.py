"""The tracer beside us: it answers what was asked last, survives its own death, and says why it cannot."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from ingest.errors import UsageRefused
from sim.fidelity.position import user_offsets_m
from sim.paths import COLUMNS
from sim.site import load_site
from sim.tracer_process import LiveTracer
from sim.tracker import Trace

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

SITE = """
name = "canyon"
scene = "{scene}"
carrier_hz = 2e9
[bs]
position_m = [-30.0, 0.0, 20.0]
yaw_deg = 5.0
pitch_deg = 10.0
rows = 1
columns = 4
[ris]
position_m = [10.0, 8.0, 6.0]
yaw_deg = -120.0
rows = 2
columns = 2
[users]
corner_m = [0.0, -3.0]
size_m = [12.0, 6.0]
[twin]
max_depth = 2
samples = 5000
[twin.position]
sigma_m = 0.5
"""
PLACES_M = np.array([[0.0, -3.0, 1.5], [6.0, 2.0, 1.5], [11.0, -1.0, 1.5]])
PATIENCE_S = 180.0
Found = TypeVar("Found")


@contextmanager
def running(folder: Path, scene: str = "simple_street_canyon") -> Iterator[LiveTracer]:
    (folder / "site.toml").write_text(SITE.format(scene=scene))
    tracer = LiveTracer(folder / "site.toml", most_users=3)
    try:
        yield tracer
    finally:
        tracer.close()


def waited(ask: Callable[[], Found | None]) -> Found:
    """What `ask` gives, once it does."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if (found := ask()) is not None:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing came")


def is_ready(tracer: LiveTracer) -> Callable[[], bool | None]:
    def ask() -> bool | None:
        tracer.newest()
        return tracer.status == "ready" or None

    return ask


def pid_of(tracer: LiveTracer) -> int:
    assert tracer._process is not None
    assert tracer._process.pid is not None
    return tracer._process.pid


def same(one: Trace, other: Trace) -> bool:
    tables = [(getattr(one, name), getattr(other, name)) for name in ("bs_user", "ris_user")]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for a, b in tables for name in COLUMNS)


def test_it_traces_dies_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path) as tracer:
        tracer.ask(1, ("forgotten",), PLACES_M[:1])
        tracer.ask(2, ("a", "b", "c"), PLACES_M)
        first = waited(tracer.newest)
        assert (first.t_ns, first.users) == (2, ("a", "b", "c"))
        assert first.bs_user.links == 3
        assert first.bs_user.paths > 3
        assert tracer.trace_s > 0

        os.kill(pid_of(tracer), signal.SIGKILL)
        waited(lambda: tracer.newest() or tracer.status == "dead" or None)
        assert tracer.deaths == 1
        assert "died with code -9" in tracer.last_failure
        tracer.ask(3, ("a", "b", "c"), PLACES_M)  # asked of a dead one, answered by the next
        again = waited(tracer.newest)
        assert again.t_ns == 3
        assert same(first, again)
        assert tracer.deaths == 1
        with pytest.raises(ValueError, match="4 users"):
            tracer.ask(4, ("a", "b", "c", "d"), np.zeros((4, 3)))


def test_what_is_traced_beside_us_is_what_is_traced_here(tmp_path: Path) -> None:
    from sim.tracer import SceneTracer

    with running(tmp_path) as tracer:
        tracer.ask(0, ("a", "b"), PLACES_M[:2])
        found = waited(tracer.newest)
    site = load_site(tmp_path / "site.toml")
    here = SceneTracer.load(site, site.twin, world=False, folder=tmp_path, batch=3)
    assert site.ris is not None
    # A twin that errs about positions says of a user's place what is so beside it.
    beside_m = PLACES_M[:2] - user_offsets_m(site.twin.position, ("a", "b"))
    assert np.abs(beside_m - PLACES_M[:2]).max() > 0.1
    tables: dict[str, Any] = {
        "bs_user": here.trace(site.bs, site.bs.pattern, beside_m),
        "ris_user": here.trace(site.ris, "iso", beside_m),
    }
    assert same(found, Trace(0, ("a", "b"), PLACES_M[:2], **tables))


def test_a_scene_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    with running(tmp_path, scene="nowhere.xml") as tracer:
        waited(lambda: tracer.newest() or tracer.status == "dead" or None)
        assert "no such scene file" in tracer.last_failure
        assert "\n" not in tracer.last_failure
        assert tracer.deaths == 1
        tracer.ask(0, ("a",), PLACES_M[:1])
        assert tracer.newest() is None


def test_a_site_file_that_is_not_there_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageRefused):
        LiveTracer(tmp_path / "none.toml")
