"""Live runs: `run` from a configuration, and `demo`, which brings its own simulated testbed."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.assembly import build_pipeline, bundle_path, live_site_file, twinbeam_version, warm_up
from controller.config import Config, RecordedConfig
from controller.daemon import Daemon
from controller.emit import WELCOME, DecisionPublisher
from controller.interrupts import ignoring_interrupts
from controller.iq_demo import receiver_tables
from controller.live_receiver import LiveReceiver
from controller.live_twin import LiveTwin, TracerStarter
from controller.log import logger
from controller.metrics import Metrics, TwinMetrics
from controller.page.feed import PageFeed, page_channels
from controller.page.server import PageServer
from controller.page.site_plan import site_plan
from controller.prior import TwinPrior
from controller.session import Session
from ingest.clock import MonotonicClock
from ingest.endpoints import Endpoint
from ingest.errors import TwinbeamError, UsageRefused
from ingest.journal import JournalWriter
from ingest.nr.warm_up import warm_up as warm_up_receiver
from ingest.sources import IqFileSource, Source, ZmqSource, open_source
from ingest.sources.journal import JournalSource
from ingest.stream_uri import is_stream
from sim.emulator_push import Stream
from sim.scenario import Scenario
from sim.testbed import TestbedSettings
from sim.testbed_process import Wiring, check_demo, run_testbed

DEMO_SPEED_M_S = 0.35
"""How fast the demo's users stroll: 0.08 wavelengths a block."""

DEMO_TWIN = {"live": True, "trace_hz": 2.0, "trace_samples": 20_000, "stale_after_s": 2.0}
"""How the demo's twin is traced: users stroll, and world and controller need the cores too."""


def run_daemon(config: Config, *, blocks: int | None, start_tracer: TracerStarter | None = None) -> dict[str, Any]:
    """Run the configured daemon to its end; what it did, in the fields of CLI-JSON.

    start_tracer: what `[twin] live` traces with.
    """
    if not is_stream(config.source.uri):
        source = live_source(config)
        if isinstance(source, IqFileSource):
            warm_up_receiver(config.receiver.settings())
        return _run(config, source, blocks, start_tracer)
    receiver = LiveReceiver(config)
    try:
        return _run(config, receiver, blocks, start_tracer)
    finally:
        receiver.end()


def _run(config: Config, source: Source, blocks: int | None, start_tracer: TracerStarter | None) -> dict[str, Any]:
    with _running(config, source, "twinbeam", blocks, start_tracer) as daemon:
        asyncio.run(daemon.run())
    return daemon.summary()


def live_source(config: Config) -> Source:
    """The configured source; `UsageRefused` where there is none to run from."""
    if not config.source.uri:
        raise UsageRefused("no source", where="[source] uri", mend="name a stream or file, as zmq+tcp://127.0.0.1:5557")
    source = open_source(config.source.uri, rate_hz=config.source.rate_hz, center_hz=config.source.center_hz)
    if isinstance(source, JournalSource):
        raise UsageRefused("a journal is not a live source", where=config.source.uri, mend="twinbeam replay JOURNAL")
    return source


@dataclass(frozen=True)
class DemoSettings:
    """What `demo` can be told."""

    site: str = "munich"
    blocks: int | None = None
    seed: int = 1
    users: int = 3
    port: int = 8600
    journal_folder: str = "journals"
    page: bool = True
    iq: bool = False
    live_twin: bool = False
    scenario: Scenario = field(default_factory=Scenario)
    emulators: tuple[Stream, ...] = ()


def run_demo(settings: DemoSettings, start_tracer: TracerStarter | None = None) -> dict[str, Any]:
    """Controller, simulated testbed and page in one; the testbed is a process of its own on the real wire.

    start_tracer: what a live twin is traced with.
    """
    twin = bundle_path(settings.site)
    world = twin.with_name("world.h5")
    if not world.is_file():
        raise UsageRefused(
            "has no world to walk in", where=str(world), mend=f"twinbeam twin build {settings.site} --world"
        )
    with tempfile.TemporaryDirectory(prefix="twinbeam-") as folder:
        frames, decisions = f"ipc://{folder}/frames", f"ipc://{folder}/decisions"
        receiver = receiver_tables(twin, settings.users, settings.seed, Path(folder)) if settings.iq else {}
        config = _demo_config(settings, decisions, f"zmq+{frames}?socket=pull&bind=1", receiver)
        testbed = TestbedSettings(
            users=settings.users,
            seed=settings.seed,
            period_s=config.block.period_s,
            lead_s=config.block.lead_s,
            speed_m_s=DEMO_SPEED_M_S,
            rate_target_bps_hz=config.link.rate_target_bps_hz,
            scenario=settings.scenario,
        )
        check_demo(world, testbed, settings.emulators, iq=settings.iq)
        wiring = Wiring(Endpoint(frames, bind=False), Endpoint(decisions, bind=False), WELCOME, settings.emulators)
        source = LiveReceiver(config) if settings.iq else ZmqSource(Endpoint(frames, bind=True, socket="pull"))
        title = f"demo: {settings.site}"
        with _ending(source), _running(config, source, title, settings.blocks, start_tracer) as daemon:
            process = multiprocessing.get_context("spawn").Process(
                target=run_testbed,
                args=(world, testbed, wiring, None, config.block.deadline_s),
                kwargs={"iq": settings.iq},
                name="testbed",
                daemon=True,
            )
            with ignoring_interrupts():
                process.start()
            watch = daemon.watch

            def watch_testbed() -> None:
                watch()
                if not process.is_alive():
                    raise TwinbeamError(f"the simulated testbed has died with code {process.exitcode}")

            daemon.watch = watch_testbed
            try:
                asyncio.run(daemon.run())
            finally:
                process.terminate()
                process.join(timeout=5.0)
    return daemon.summary()


@contextmanager
def _ending(source: Source) -> Iterator[None]:
    """Sees the process of a source to its end, where it has one."""
    try:
        yield
    finally:
        if isinstance(source, LiveReceiver):
            source.end()


def _demo_config(settings: DemoSettings, decisions: str, source: str, receiver: dict[str, Any]) -> Config:
    """The demo's configuration: blocks of 20 ms and strolling users, so that two cores carry world and controller."""
    return RecordedConfig.model_validate(
        {
            "site": {"bundle": settings.site},
            "twin": DEMO_TWIN if settings.live_twin else {},
            "source": {"uri": source},
            "receiver": receiver,
            "emit": {"bind": decisions},
            "block": {"period_s": 20e-3, "deadline_s": 15e-3, "lead_s": 17e-3},
            "link": {
                "power_dbm": 33.0,
                "noise_dbm": -94.0,
                "rate_target_bps_hz": 1.0,
                "max_users": settings.users,
            },
            "zones": {"method": "grid", "cell_m": 20.0},
            "journal": {"folder": settings.journal_folder},
            "http": {"enabled": settings.page, "port": settings.port},
        }
    )


@contextmanager
def _running(
    config: Config, source: Source, title: str, blocks: int | None, start_tracer: TracerStarter | None
) -> Iterator[Daemon]:
    """A daemon with everything around it open; all of it is closed in the end, whatever happens."""
    with ExitStack() as stack:
        stack.callback(source.close)
        pipeline, metadata = build_pipeline(config)
        metrics = Metrics(twinbeam_version())
        channels = page_channels(pipeline.prior)
        zone_m = config.zones.cell_m if config.zones.method == "grid" else None
        feed = PageFeed(title, config.block.deadline_s * 1e3, channels, plan=site_plan(channels, zone_m))
        publisher = None
        if config.emit.bind:
            publisher = DecisionPublisher(Endpoint(config.emit.bind, bind=True, remote=config.emit.remote))
            stack.callback(publisher.close)
        server = PageServer(config.http, feed, metrics) if config.http.enabled else None
        if server is not None:
            stack.callback(server.close)
        warm_up(pipeline)
        journal = None
        if config.journal.folder:
            journal = JournalWriter(_journal_path(Path(config.journal.folder)), metadata)
            stack.callback(journal.close)
        session = Session(pipeline, journal)
        twin = _live_twin(config, session, metrics, start_tracer)
        if twin is not None:
            stack.callback(twin.close)
        daemon = Daemon(
            config=config,
            session=session,
            source=source,
            clock=MonotonicClock(),
            metrics=metrics,
            publisher=publisher,
            page=feed,
            twin=twin,
            blocks=blocks,
        )
        if server is not None:
            server.start()
            daemon.watch = server.check
        log = logger()
        log.info("ready", run=title, page=server.url if server is not None else None, source=source.info.where)
        yield daemon
        log.info("done", decisions=daemon.session.report.decisions, missed=daemon.session.report.missed)


def _live_twin(
    config: Config, session: Session, metrics: Metrics, start_tracer: TracerStarter | None
) -> LiveTwin | None:
    """The twin that is traced live, its tracer started; None where it is not to be."""
    prior = session.pipeline.prior
    if not config.twin.live or start_tracer is None or not isinstance(prior, TwinPrior):
        return None
    site_file = live_site_file(config, prior.channels.bundle)
    tracer = start_tracer(site_file, config.link.max_users, config.twin.trace_samples)
    return LiveTwin(config, session, prior, tracer, site_file, MonotonicClock(), TwinMetrics(metrics.registry))


def _journal_path(folder: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    return folder / f"{stamp}Z.mcap"
