"""twinbeam: the door. Each command imports what it needs when it is called, so that none is slow to start.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 input refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# One thread for linear algebra, said once and before NumPy is imported: a step must not wait for threads to gather.
for _library in ("OPENBLAS", "MKL", "OMP"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import typer

from ingest.errors import TwinbeamError
from ingest.memory import keep_freed_memory

keep_freed_memory()  # before there are threads

if TYPE_CHECKING:
    from sim.tracer_process import LiveTracer

app = typer.Typer(
    name="twinbeam",
    help="A real-time base-station controller that steers a transmit array and a RIS from a digital twin of its site.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
twin_app = typer.Typer(help="The site's twin.", no_args_is_help=True)
app.add_typer(twin_app, name="twin")
dataset_app = typer.Typer(help="Data sets of channels, drawn from a traced site.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")
bench_app = typer.Typer(help="Measurements behind the documents' figures.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")]
Blocks = Annotated[int | None, typer.Option(min=1, help="End after so many decisions.")]


@contextmanager
def _told() -> Iterator[None]:
    """Tell a failure in one line and end with its exit code."""
    try:
        yield
    except TwinbeamError as error:
        typer.echo(f"twinbeam: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def _print(result: dict[str, Any], as_json: bool) -> None:
    """The result of a command: one line of JSON, or a line per field."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    for key, value in result.items():
        typer.echo(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}")


def _begin_live() -> None:
    """Logs to stderr; SIGTERM ends in order, before the loop takes it over as well."""
    from controller.log import configure_logging

    configure_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _start_tracer(site_file: Path, most_users: int, samples: int | None) -> LiveTracer:
    """The tracer of a live twin. It is passed in, for the controller may know no tracer."""
    from sim.tracer_process import LiveTracer

    return LiveTracer(site_file, most_users, samples=samples)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    blocks: Blocks = None,
    json: Json = False,
) -> None:
    """Run the daemon that CONFIG describes, until Ctrl-C."""
    with _told():
        from controller.config import load_config
        from controller.live import run_daemon

        _begin_live()
        _print(run_daemon(load_config(config), blocks=blocks, start_tracer=_start_tracer), json)


@app.command()
def demo(
    site: Annotated[
        str | None, typer.Option(help="A site we ship, or the path of its twin.h5; munich, or the scenario's.")
    ] = None,
    blocks: Blocks = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated world.")] = 1,
    users: Annotated[
        int | None, typer.Option(min=1, max=16, help="Users that walk through it; 3, or as the scenario has tracks.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the live page, 0 for a free one.")] = 8600,
    page: Annotated[bool, typer.Option(help="Serve the live page.")] = True,
    journal: Annotated[str, typer.Option(help='Folder of journals, "" for none.')] = "journals",
    iq: Annotated[bool, typer.Option("--iq", help="Send IQ of SSB and DMRS, not channels.")] = False,
    live_twin: Annotated[
        bool, typer.Option("--live-twin", help="Trace the users while they walk (extra twin).")
    ] = False,
    scenario: Annotated[
        str | None, typer.Option(help="TOML file of tracks, blockers and changes, or one we ship: quad/street.")
    ] = None,
    emulator: Annotated[
        list[str] | None,
        typer.Option(help="tcp://127.0.0.1:5555?user=0&antenna=0: a channel emulator to set; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Controller, simulated testbed and live page in one, until Ctrl-C: nothing else is needed."""
    with _told():
        from controller.live import DemoSettings, run_demo
        from sim.emulator_push import parse_streams
        from sim.scenario import Scenario, load_scenario, scenario_path

        played = Scenario() if scenario is None else load_scenario(scenario_path(scenario))
        emulators = tuple(parse_streams(emulator or ()))
        _begin_live()
        settings = DemoSettings(
            site=site or played.site or "munich",
            blocks=blocks,
            seed=seed,
            users=users or max(3, len(played.tracks)),
            port=port,
            page=page,
            journal_folder=journal,
            iq=iq,
            live_twin=live_twin,
            scenario=played,
            emulators=emulators,
        )
        _print(run_demo(settings, _start_tracer), json)


@app.command()
def replay(
    files: Annotated[list[str], typer.Argument(help="SigMF, raw IQ, CSI log or journal.")],
    rate_hz: Annotated[float | None, typer.Option(help="Sample rate of raw IQ.")] = None,
    center_hz: Annotated[float | None, typer.Option(help="Centre frequency of raw IQ.")] = None,
    format: Annotated[str | None, typer.Option(help="Where the suffix does not tell.")] = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-3, help="Recorded seconds per second; as fast as can be.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration to decide by; journals bring their own.")] = None,
    find_dmrs: Annotated[
        bool, typer.Option("--find-dmrs", help="Search IQ for DMRS with nothing told; seconds per millisecond.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="IQ is still being written; play until it rests.")] = False,
    idle_s: Annotated[float, typer.Option(min=0.1, help="A followed file that rests for so long has ended.")] = 5.0,
    json: Json = False,
) -> None:
    """Play recordings through receiver and controller. Ctrl-C ends it with a report of what was played."""
    with _told():
        from controller.config import config_from, load_config
        from controller.replay import Replay
        from ingest.sources import open_source

        settings = load_config(config) if config else config_from({}, where="defaults")
        results = []
        for name in files:
            source = open_source(
                name, format_name=format, rate_hz=rate_hz, center_hz=center_hz, follow=follow, idle_s=idle_s
            )
            with closing(source), _progress(name, json) as told:
                played = Replay(source, settings, speed, told, find_dmrs)
                with _interrupted(played.stop):
                    results.append(played.run())
            if played.lateness is not None and (behind := played.lateness.fell_behind):
                typer.echo(f"twinbeam: {name}: cannot keep up: {behind}", err=True)
            if results[-1].get("stopped"):
                break
        _print(results[0] if len(results) == 1 else {"files": results}, json)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Recording of any kind, its options behind a '?'.")],
    target: Annotated[Path, typer.Argument(help="NAME.sigmf-meta, .cf32, .sc16, .npz, .h5, .mat or .mcap.")],
    rate_hz: Annotated[float | None, typer.Option(help="Sample rate of IQ that does not tell it.")] = None,
    center_hz: Annotated[float | None, typer.Option(help="Centre frequency of IQ that does not tell it.")] = None,
    format: Annotated[str | None, typer.Option(help="What SOURCE is, where nothing tells.")] = None,
    to_format: Annotated[str | None, typer.Option(help="Sample format of TARGET: cf32, cf64, sc16 or sc8.")] = None,
    scale: Annotated[float, typer.Option(help="What samples are multiplied by.")] = 1.0,
    follow: Annotated[bool, typer.Option("--follow", help="SOURCE is still being written; wait for its end.")] = False,
    idle_s: Annotated[float, typer.Option(min=0.1, help="A followed file that rests for so long has ended.")] = 5.0,
    find_cells: Annotated[bool, typer.Option("--find-cells", help="Note the NR cells that are heard.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace TARGET if it exists.")] = False,
    json: Json = False,
) -> None:
    """Write SOURCE, a recording of any kind, as TARGET; a report says what was written, clipped and missing."""
    with _told():
        from ingest.convert import convert as convert_to
        from ingest.sources import open_source

        opened = open_source(
            source, format_name=format, rate_hz=rate_hz, center_hz=center_hz, follow=follow, idle_s=idle_s
        )
        with closing(opened), _progress(source) as told:
            result = convert_to(
                opened,
                target,
                sample_format=to_format,
                scale=scale,
                force=force,
                find_cells=find_cells,
                progress=told,
            )
        _print(result, json)


@app.command("calibrate-antennas")
def calibrate_antennas(
    capture: Annotated[str, typer.Argument(help="IQ of all antennas, fed with one signal through a splitter.")],
    target: Annotated[Path, typer.Argument(help="The calibration, a JSON file.")],
    rate_hz: Annotated[float | None, typer.Option(help="Sample rate of raw IQ.")] = None,
    center_hz: Annotated[float | None, typer.Option(help="Centre frequency of raw IQ.")] = None,
    format: Annotated[str | None, typer.Option(help="Where the suffix does not tell.")] = None,
    bands: Annotated[int, typer.Option(min=1, max=64, help="Frequencies to measure at, at most.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Replace TARGET if it exists.")] = False,
    json: Json = False,
) -> None:
    """Measure how antennas differ in gain and phase, for `[receiver] antenna_calibrations`."""
    with _told():
        from ingest.antenna_calibration import write_calibration
        from ingest.measure_antennas import measure_antennas
        from ingest.sources import open_source

        source = open_source(capture, format_name=format, rate_hz=rate_hz, center_hz=center_hz)
        with closing(source), _progress(capture) as told:
            calibration, report = measure_antennas(source, bands=bands, progress=told)
        write_calibration(target, calibration, force=force)
        _print(report | {"calibration": str(target)}, json)


@app.command()
def check(config: Annotated[Path, typer.Argument(help="TOML configuration.")], json: Json = False) -> None:
    """Read CONFIG and everything it names, and say whether a daemon would start."""
    with _told():
        from controller.assembly import build_pipeline, live_site_file
        from controller.config import load_config
        from controller.live import live_source
        from controller.prior import TwinPrior

        settings = load_config(config)
        live_source(settings).close()
        settings.receiver.calibrations()
        pipeline, metadata = build_pipeline(settings)
        found: dict[str, Any] = {"config": str(config), "valid": True, "codecs": sorted(pipeline.decoders)}
        if settings.twin.live and isinstance(pipeline.prior, TwinPrior):
            found["live_site"] = str(live_site_file(settings, pipeline.prior.channels.bundle))
        if pipeline.prior is not None:
            found |= {"antennas": pipeline.prior.antennas, "ris_elements": pipeline.prior.rows - 1}
        _print(found | {key: value for key, value in metadata.items() if key != "config"}, json)


@app.command()
def doctor(json: Json = False) -> None:
    """Look at this machine and say what is missing and how to mend it."""
    from controller.doctor import examine

    findings = examine()
    if json:
        _print({"findings": [{"what": f.what, "state": f.state, "mend": f.mend} for f in findings]}, True)
    else:
        for finding in findings:
            typer.echo(f"{finding.state:5}{finding.what}" + (f"  ->  {finding.mend}" if finding.mend else ""))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


@twin_app.command("build")
def twin_build(
    site: Annotated[str, typer.Argument(help="Path of a site.toml, its folder, or the name of a site we ship.")],
    world: Annotated[bool, typer.Option("--world", help="Trace the testbed's world instead of the twin.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to; twin.h5 or world.h5 beside the site file.")] = None,
    json: Json = False,
) -> None:
    """Trace a site with Sionna RT (extra `twin`) into the bundle that the controller reads."""
    with _told():
        from sim.build import build_bundle

        with _progress(site) as told:
            result = build_bundle(site, world=world, out=out, progress=told)
        _print(result, json)


@twin_app.command("show")
def twin_show(
    site: Annotated[str, typer.Argument(help="Path of a site.toml, its folder, or the name of a site we ship.")],
    out: Annotated[Path | None, typer.Option(help="The PNG file; the site's name in the current folder.")] = None,
    zone_m: Annotated[float, typer.Option(min=0, max=1e6, help="Side of the zones to draw, 0 for none.")] = 20.0,
    world: Annotated[bool, typer.Option("--world", help="The testbed's world instead of the twin.")] = False,
    json: Json = False,
) -> None:
    """Draw a site from above: scene, arrays, zones, and what power its bundle has for users (extra `twin`)."""
    with _told():
        from sim.show import show_site

        _print(show_site(site, out=out, zone_m=zone_m, world=world), json)


@twin_app.command("calibrate")
def twin_calibrate(
    site: Annotated[str, typer.Argument(help="A site as for show, or a DeepMIMO scenario's BS<b>_UE_….mat.")],
    frames: Annotated[str, typer.Argument(help="Measured channel frames with positions: any source of frames.")],
    out: Annotated[Path | None, typer.Option(help="Folder; <site>-calibrated in the current one.")] = None,
    zone_m: Annotated[float, typer.Option(min=0.1, max=1e6, help="Side of the zones of the report.")] = 20.0,
    square_m: Annotated[float, typer.Option(min=0.1, max=1e6, help="Side of the squares that are held out.")] = 10.0,
    scatterers: Annotated[int, typer.Option(min=0, max=1000, help="The most virtual scatterers, 0 for none.")] = 40,
    told_phase: Annotated[
        bool, typer.Option("--told-phase", help="Channels' phases are absolute, not a radio's; they are fitted too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the division into fitted and held-out squares.")] = 1,
    json: Json = False,
) -> None:
    """Fit a site's twin to what was measured there (extra `twin`). Fails where held-out links get no better."""
    with _told():
        from sim.calibration.calibrating import Choices
        from sim.calibration.making import calibrate_site, refuse_worse

        choices = Choices("told" if told_phase else "free", square_m, scatterers, seed)
        with _progress("calibrate") as told:
            stages = iter(range(100))
            report = calibrate_site(
                site, frames, out=out, zone_m=zone_m, choices=choices, told=lambda stage: told(next(stages), None)
            )
        _print(report if json else {key: value for key, value in report.items() if key != "links"}, json)
        refuse_worse(report)


@dataset_app.command("make")
def dataset_make(
    spec: Annotated[Path, typer.Argument(help="TOML specification, see docs/datasets.md.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the set; its name in the current folder.")] = None,
    ray: Annotated[str | None, typer.Option(help='Address of a Ray cluster, "local" for one in place.')] = None,
    workers: Annotated[int | None, typer.Option(help="Processes or actors; one a core.")] = None,
    json: Json = False,
) -> None:
    """Make a data set (extra `twin`), or what is missing of it. Ctrl-C ends it; the same command goes on."""
    with _told():
        from sim.datasets.making import make_dataset

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _print(make_dataset(spec, out, ray=ray, workers=workers), json)


@bench_app.command("estimation")
def bench_estimation(
    quick: Annotated[bool, typer.Option("--quick", help="A few links and SNRs, about a minute.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of channels and noise.")] = 1,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables as in docs/ingest.md.")] = False,
    json: Json = False,
) -> None:
    """PUSCH channel estimates against Sionna's and a genie's (extra `train`)."""
    with _told():
        from experiments.bench_estimation import run_bench
        from experiments.estimation_report import tables

        with _progress("estimation") as told:
            result = run_bench(quick=quick, seed=seed, progress=told)
        if json:
            _print(result, True)
        else:
            typer.echo(tables(result, markdown=markdown))


@bench_app.command("ingest")
def bench_ingest(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter signals, about a minute.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of channels, data and noise.")] = 1,
    json: Json = False,
) -> None:
    """How fast IQ becomes channel frames: from a file, slot by slot, and over ZeroMQ beside its sender."""
    with _told():
        from experiments.bench_ingest import run_bench

        with _progress("ingest") as told:
            result = run_bench(quick=quick, seed=seed, progress=told)
        _print(result, json)


@bench_app.command("twin")
def bench_twin(
    site: Annotated[str, typer.Argument(help="A site with a RIS: a name, a folder or a site.toml.")] = "munich",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer drives, about a minute.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the drives.")] = 1,
    json: Json = False,
) -> None:
    """How well and how fast the twin follows users that drive, between traces ten times a second (extra `twin`)."""
    with _told():
        from experiments.bench_twin import run_bench

        with _progress("twin") as told:
            result = run_bench(site_name=site, quick=quick, seed=seed, progress=told)
        _print(result, json)


@bench_app.command("calibration")
def bench_calibration(
    quick: Annotated[bool, typer.Option("--quick", help="Without the scatterers that no model knows of.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of scatterers, noise and the links' division.")] = 1,
    json: Json = False,
) -> None:
    """What calibration gives back of a twin that is wrong on purpose, where nothing was measured (extra `twin`)."""
    with _told():
        from experiments.bench_calibration import run_bench

        with _progress("calibration") as told:
            stages = iter(range(100))
            result = run_bench(quick=quick, seed=seed, told=lambda stage: told(next(stages), None))
        _print(result, json)


@contextmanager
def _interrupted(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`, the next one ends the command as ever."""

    def once(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(what: str, as_json: bool = False) -> Iterator[Any]:
    """A progress bar on stderr where a person watches, else nothing. Yields a function of done and total."""
    if as_json or not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)


def main() -> None:
    """Entry point of the `twinbeam` command."""
    app()


if __name__ == "__main__":
    main()
