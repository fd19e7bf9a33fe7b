"""The twin that keeps up, without Sionna: traces go into the prior, come back from the journal, and their lack is told.

The tracer here answers from free space, where every path is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from controller.assembly import build_pipeline, live_site_file, warm_up
from controller.config import Config, RecordedConfig
from controller.live_twin import LiveTwin
from controller.mailbox import Inputs, Mailbox
from controller.metrics import TwinMetrics
from controller.page.feed import PageFeed
from controller.pipeline import TWIN_STALE, Pipeline
from controller.prior import TwinPrior
from controller.replay import Replay
from controller.session import Session
from controller.twin_frames import frame_of, trace_of
from ingest.clock import MonotonicClock
from ingest.errors import UsageRefused
from ingest.journal import JournalWriter, pack, unpack
from ingest.messages import Message, TwinFrame
from ingest.sources.journal import JournalSource
from ingest.wire import WireError
from sim.bundle import SiteBundle, save_bundle
from sim.channels import SiteArrays, SiteChannels
from sim.paths import COLUMNS
from sim.site import sites_folder
from sim.tracker import Trace, relative_error_db
from tests.random_channels import budget, complex_normal, frame
from tests.sim.hand_made import BS, RIS, SPEED_OF_LIGHT_M_S, free_space_bundle, line_of_sight, random_bundle

pytestmark = pytest.mark.kernel

Real = npt.NDArray[np.float64]
HERE = (11.3, -5.2, 1.5)
ELSEWHERE = (15.0, -4.1, 1.5)


def traced(positions_m: Real, *users: str, t_ns: int = 0) -> Trace:
    """A trace in free space."""
    wavelength_m = SPEED_OF_LIGHT_M_S / 3.5e9
    tables = [line_of_sight(np.array(panel.position_m), positions_m, wavelength_m) for panel in (BS, RIS)]
    return Trace(t_ns, users, positions_m, *tables)


def message(trace: Trace, errors_db: dict[str, float] | None = None, seq: int = 0) -> TwinFrame:
    return frame_of(trace, errors_db or {}, epoch=0, seq=seq, came_ns=trace.t_ns, trace_s=0.05)


def arrays(bundle: SiteBundle) -> SiteArrays:
    return SiteArrays(bundle.site, bundle.bs_ris)


def error_db(found: npt.NDArray[np.complex128], true: npt.NDArray[np.complex128]) -> float:
    return float(relative_error_db(found[None], true[None])[0])


def test_a_trace_as_a_message_is_the_trace(rng: np.random.Generator) -> None:
    bundle = random_bundle(rng)
    users = tuple(f"ue{index}" for index in range(len(bundle.positions_m)))
    trace = Trace(7, users, bundle.positions_m, bundle.bs_user, bundle.ris_user)
    sent = message(trace, {"ue0": -31.5, "ue1": -np.inf, "ue2": np.nan})
    assert sent.errors_db[:4] == (-31.5, -300.0, None, None)
    came = trace_of(unpack("twin", pack(sent)))  # type: ignore[arg-type]
    assert (came.t_ns, came.users) == (7, users)
    np.testing.assert_array_equal(came.positions_m, trace.positions_m)
    for name in ("bs_user", "ris_user"):
        for column in COLUMNS:
            ours, theirs = getattr(getattr(trace, name), column), getattr(getattr(came, name), column)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positions_m", np.zeros((2, 2))),
        ("errors_db", (None,)),
        ("bs_paths", np.array([1, 2], "<i2")),
        ("ris_paths", np.array([3, -1], "<i2")),
        ("bs_reach_m", np.zeros(2)),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(name: str, value: Any) -> None:
    good = message(traced(np.array([HERE, ELSEWHERE]), "a", "b"))
    unpack("twin", pack(good))
    with pytest.raises(WireError):
        unpack("twin", pack(msgspec.structs.replace(good, **{name: value})))


def test_the_prior_at_traced_places_is_what_the_arrays_make_of_the_paths(rng: np.random.Generator) -> None:
    """Of the bundle's own tables, given as traces of users at its places: the same cascades, to rounding."""
    bundle = random_bundle(rng)
    channels = SiteChannels(bundle)
    places = bundle.positions_m
    users = tuple(f"ue{index}" for index in range(len(places)))
    # Another bundle is behind it, so that nothing comes from there.
    other = replace(bundle, bs_user=random_bundle(rng).bs_user)
    prior = TwinPrior(SiteChannels(other), 0.5)
    pipeline = Pipeline.build(Config(), prior, {})
    trace = Trace(0, users, places, bundle.bs_user, bundle.ris_user)
    state, _ = pipeline.step(pipeline.start(), Inputs(twin=message(trace)), budget(0))
    assert state.knowledge is not None
    links = np.arange(len(places))
    wanted = arrays(bundle).cascades(bundle.bs_user, bundle.ris_user, links, np.zeros((len(places), 3)))
    for user, place, cascade in zip(users, places.tolist(), wanted, strict=True):
        found = state.knowledge.prior.mean(user, tuple(place))
        np.testing.assert_allclose(found, cascade, rtol=1e-9, atol=1e-12 * np.abs(cascade).max())
        np.testing.assert_allclose(cascade, channels.cascade(place), rtol=1e-12)
    assert prior.traced_ns is None, "who was there before knows nothing of it"


def test_a_user_is_followed_and_who_was_not_traced_has_the_grid() -> None:
    bundle = free_space_bundle()
    prior, channels = TwinPrior(SiteChannels(bundle), 0.5), SiteChannels(bundle)
    live = prior.after(message(traced(np.array([HERE]), "a", t_ns=5)))
    assert live.traced_ns == 5
    there = np.add(HERE, (0.9, 0.5, 0.0))
    truth = arrays(bundle).cascades(*_tables(traced(there[None], "a")), np.zeros(1, np.int64), np.zeros((1, 3)))[0]
    assert error_db(live.mean("a", tuple(there)), truth) < -50.0
    for user, place in (("a", None), ("b", HERE), ("b", ELSEWHERE)):
        np.testing.assert_array_equal(live.mean(user, place), prior.mean(user, place))
    # The trace is forgotten where the grid knows more; off the grid, where neither is near, the nearer of both counts.
    far = (HERE[0] + 3.0, HERE[1], HERE[2])
    np.testing.assert_array_equal(live.mean("a", far), channels.cascade(far))
    off, beyond = traced(np.array([[30.0, -5.0, 1.5]]), "a"), (33.0, -5.0, 1.5)
    louder = replace(off, bs_user=replace(off.bs_user, gain=3 * off.bs_user.gain))
    found, grids = prior.after(message(louder)).mean("a", beyond), channels.cascade(beyond)
    np.testing.assert_allclose(np.linalg.norm(found[0]), 3 * np.linalg.norm(grids[0]), rtol=1e-3)


def _tables(trace: Trace) -> tuple[Any, Any]:
    return trace.bs_user, trace.ris_user


def test_of_two_traces_in_one_block_the_newer_counts() -> None:
    box = Mailbox()
    for t_ns in (1, 2):
        box.put(message(traced(np.array([HERE]), "a", t_ns=t_ns)))
    drained = box.drain().twin
    assert drained is not None
    assert drained.asked_ns == 2
    assert box.dropped == {"superseded": 1}
    assert box.drain().twin is None


def live_config(folder: Path, **twin: Any) -> Config:
    """A configuration of the free-space site, its bundle and site file in `folder`."""
    bundle = free_space_bundle()
    save_bundle(bundle, folder / "twin.h5")
    tables = {name: getattr(bundle.site, name).model_dump() for name in ("bs", "ris", "users")}
    lines = [f'name = "small"\nscene = "nowhere"\ncarrier_hz = {bundle.site.carrier_hz}']
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [
            f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {_toml(value)}"
            for key, value in table.items()
        ]
    (folder / "site.toml").write_text("\n".join(lines))
    return RecordedConfig.model_validate(
        {
            "site": {"bundle": str(folder / "twin.h5")},
            "twin": {"live": True, **twin},
            "link": {"power_dbm": 30.0, "noise_dbm": -94.0},
            "design": {"ris": "align", "ris_update_blocks": 2},
        }
    )


def _toml(value: Any) -> str:
    return (
        str([list(one) if isinstance(one, tuple) else one for one in value]) if isinstance(value, tuple) else str(value)
    )


def measured(rng: np.random.Generator, block: int, user: str, place: tuple[float, float, float]) -> Message:
    """A noisy whole cascade of a user in free space."""
    bundle = free_space_bundle()
    truth = arrays(bundle).cascades(*_tables(traced(np.array([place]), user)), np.zeros(1, np.int64), np.zeros((1, 3)))[
        0
    ]
    noisy = truth + 1e-7 * complex_normal(rng, *truth.shape)
    return frame(noisy, user=user, block=block, t_ns=block * 10**7, cascade=True, noise_power=1e-14, position_m=place)


def played(config: Config, journal: Path, *, with_traces: bool) -> tuple[str, list[tuple[str, ...]]]:
    """A run of 20 blocks of two users that walk, traced every fourth: the hash of its decisions, and their notes."""
    pipeline, metadata = build_pipeline(config)
    warm_up(pipeline)
    rng, notes = np.random.default_rng(3), []
    with JournalWriter(journal, metadata) as writer:
        session = Session(pipeline, writer)
        for block in range(20):
            places = np.add([HERE, ELSEWHERE], (0.05 * block, 0.02 * block, 0.0))
            if with_traces and block % 4 == 1:
                told = {"a": -40.0, "b": -20.0} if block > 1 else {}
                session.put(message(traced(places, "a", "b", t_ns=block * 10**7), told, seq=block))
            for user, place in zip("ab", places.tolist(), strict=True):
                session.put(measured(rng, block, user, tuple(place)))
            notes.append(session.step(budget(block)).notes)
        return session.report.decisions_sha256, notes


def test_a_replay_takes_traces_from_the_journal(tmp_path: Path) -> None:
    config = live_config(tmp_path)
    live, _ = played(config, tmp_path / "live.mcap", with_traces=True)
    blind, _ = played(config, tmp_path / "blind.mcap", with_traces=False)
    assert live != blind, "traces matter"
    again = Replay(JournalSource(tmp_path / "live.mcap"), config).run()
    assert again["decisions_sha256"] == live
    assert again["differs_from_record"] == 0
    assert again["twin"]["traces"] == 5
    assert again["twin"]["tracker_error_db"] == {"median": -40, "p90": -20}
    assert again["twin"]["trace_ms"]["p50"] == pytest.approx(50.0, rel=0.012)
    assert "twin" not in Replay(JournalSource(tmp_path / "blind.mcap"), config).run()


def test_decisions_say_when_their_twin_is_stale(tmp_path: Path) -> None:
    config = live_config(tmp_path, stale_after_s=0.02, trace_hz=100.0)
    _, notes = played(config, tmp_path / "run.mcap", with_traces=True)
    stale = [block for block, told in enumerate(notes) if TWIN_STALE in told]
    assert stale == [block for block in range(20) if block == 0 or (block - 1) % 4 == 3], "30 ms after a trace"
    fixed = live_config(tmp_path).model_copy(update={"twin": Config().twin})
    _, notes = played(fixed, tmp_path / "fixed.mcap", with_traces=False)
    assert not any(TWIN_STALE in told for told in notes)


class FreeSpaceTracer:
    """Answers at once; `die` as a process does."""

    def __init__(self) -> None:
        self.status: Literal["starting", "ready", "dead"] = "ready"
        self.deaths, self.last_failure, self.trace_s = 0, "", 0.01
        self.closed = False
        self._asked: Trace | None = None

    def ask(self, t_ns: int, users: tuple[str, ...], positions_m: Real) -> None:
        self._asked = traced(positions_m, *users, t_ns=t_ns)

    def newest(self) -> Trace | None:
        if self.status == "dead":
            return None
        found, self._asked = self._asked, None
        return found

    def wait(self, longest_s: float) -> None:
        time.sleep(longest_s)

    def close(self) -> None:
        self.closed = True

    def die(self) -> None:
        self.status, self.last_failure = "dead", "the tracer has died with code -9"
        self.deaths += 1


def until(happened: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 60.0
    while not happened():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def test_users_are_traced_where_they_say_they_are_and_a_death_is_told_once(tmp_path: Path) -> None:
    config = live_config(tmp_path, trace_hz=200.0, stale_after_s=20.0)
    pipeline, _ = build_pipeline(config)
    session, clock, tracer, registry = Session(pipeline), MonotonicClock(), FreeSpaceTracer(), CollectorRegistry()
    assert isinstance(pipeline.prior, TwinPrior)
    twin = LiveTwin(config, session, pipeline.prior, tracer, tmp_path / "site.toml", clock, TwinMetrics(registry))
    page, came, failures = PageFeed("t", 6.0, None), [], []
    rng = np.random.default_rng(1)

    def step(block: int) -> None:
        for one in (measured(rng, block, "a", HERE), frame(complex_normal(rng, 5, 6), user="dumb", cascade=True)):
            session.put(msgspec.structs.replace(one, t_ns=clock.now_ns()))
        session.step(budget(block, t_ns=clock.now_ns()))

    with capture_logs() as logs:
        twin.start(came.extend, failures.append)
        step(0)
        until(lambda: len(came) >= 2)
        twin.attend(page)
        assert page.twin is not None
        assert page.twin["state"] == "fresh"
        tracer.die()
        twin.attend(page)
        twin.attend(page)
        assert page.twin["state"] == "stale"
        assert registry.get_sample_value("twinbeam_twin_stale") == 1
        tracer.status, before = "ready", len(came)
        step(1)
        until(lambda: len(came) > before)
        twin.attend(page)
        twin.close()
    first, second = came[:2]
    assert isinstance(first, TwinFrame)
    assert first.users == ("a",), "who tells no position cannot be traced"
    np.testing.assert_array_equal(first.positions_m, [HERE])
    assert first.errors_db == (None,)
    assert second.errors_db[0] < -100.0
    assert (first.epoch, came[-1].epoch) == (0, 1)
    assert first.asked_ns <= first.t_ns <= clock.now_ns()
    assert [line["event"] for line in logs] == ["twin fresh", "twin stale", "twin fresh"]
    assert logs[1]["why"] == "the tracer is dead: the tracer has died with code -9"
    assert logs[1]["where"] == str(tmp_path / "site.toml")
    assert logs[1]["mend"]
    assert registry.get_sample_value("twinbeam_twin_stale") == 0
    assert registry.get_sample_value("twinbeam_twin_tracer_deaths_total") == 1
    assert registry.get_sample_value("twinbeam_twin_trace_age_seconds") < 20.0  # type: ignore[operator]
    assert registry.get_sample_value("twinbeam_twin_tracker_error_ratio", {"of": "worst"}) < 1e-10  # type: ignore[operator]
    told = twin.summary()
    assert (told["stale"], told["stale_times"], told["deaths"]) == (False, 1, 1)
    assert tracer.closed
    assert not failures


def test_a_thread_that_fails_says_so(tmp_path: Path) -> None:
    class Broken(FreeSpaceTracer):
        def newest(self) -> Trace | None:
            raise ZeroDivisionError("defect")

    config = live_config(tmp_path)
    pipeline, _ = build_pipeline(config)
    assert isinstance(pipeline.prior, TwinPrior)
    metrics = TwinMetrics(CollectorRegistry())
    twin = LiveTwin(config, Session(pipeline), pipeline.prior, Broken(), tmp_path, MonotonicClock(), metrics)
    failures: list[Exception] = []
    twin.start(lambda messages: None, failures.append)
    until(lambda: bool(failures))
    twin.close()
    assert isinstance(failures[0], ZeroDivisionError)


def test_a_site_file_of_other_arrays_is_refused(tmp_path: Path) -> None:
    config = live_config(tmp_path)
    bundle = free_space_bundle()
    assert live_site_file(config, bundle) == tmp_path / "site.toml"
    named = live_config(tmp_path, site=str(sites_folder() / "munich" / "site.toml"))
    with pytest.raises(UsageRefused, match="another array") as refusal:
        live_site_file(named, bundle)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UsageRefused, match="no"):
        live_site_file(live_config(tmp_path, site=str(tmp_path / "no.toml")), bundle)
