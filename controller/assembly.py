"""Puts a controller together from its configuration: twin, models, pipeline, and what a journal must know of them."""

from __future__ import annotations

import gc
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from controller.codec import CsiDecoder, OnnxDecoder
from controller.config import Config, RecordedConfig
from controller.mailbox import Inputs
from controller.pipeline import Pipeline
from controller.prior import Prior, TwinPrior, ZeroPrior
from controller.twin_frames import frame_of
from ingest.errors import InputRefused, UsageRefused
from ingest.messages import ChannelFrame, StepBudget, TwinFrame, no_array
from sim.bundle import SiteBundle, load_bundle
from sim.channels import SiteChannels
from sim.paths import joined
from sim.site import load_site, sites_folder
from sim.tracker import Trace

CONFIG_KEY, BUNDLE_KEY, VERSION_KEY = "config", "bundle_sha256", "version"
_WARM_UP_BLOCKS = 3


def twinbeam_version() -> str:
    """The installed version."""
    try:
        return version("twinbeam")
    except PackageNotFoundError:
        return "0+unknown"


def bundle_path(name: str) -> Path:
    """The twin that a configuration names: a path, or a site we ship."""
    path = Path(name)
    return path if path.suffix == ".h5" or "/" in name else sites_folder() / name / "twin.h5"


def build_pipeline(config: Config) -> tuple[Pipeline, dict[str, str]]:
    """The pipeline of `config`, and the metadata that its journal begins with."""
    metadata = {CONFIG_KEY: config.model_dump_json(), VERSION_KEY: twinbeam_version()}
    prior: Prior | None = None
    if config.site.bundle:
        bundle = load_bundle(bundle_path(config.site.bundle))
        prior = twin_prior(bundle, config)
        metadata[BUNDLE_KEY] = bundle.sha256
    decoders: dict[str, CsiDecoder] = {}
    for path in config.models.csi_codecs:
        decoder = OnnxDecoder(Path(path))
        decoders[decoder.manifest.name] = decoder
    return Pipeline.build(config, prior, decoders), metadata


def twin_prior(bundle: SiteBundle, config: Config) -> TwinPrior:
    """The prior that a bundle gives."""
    return TwinPrior(SiteChannels(bundle), 10 ** (config.learning.relative_error_db / 10))


def live_site_file(config: Config, bundle: SiteBundle) -> Path:
    """The site file that a live twin is traced from.

    `UsageRefused` where it is wrong, or has other arrays than the bundle, which the first hop is taken from.
    """
    path = Path(config.twin.site) if config.twin.site else bundle_path(config.site.bundle).with_name("site.toml")
    site, traced = load_site(path), bundle.site
    if (site.bs, site.ris, site.carrier_hz) != (traced.bs, traced.ris, traced.carrier_hz):
        raise UsageRefused(
            f"has another array, RIS or carrier than {config.site.bundle}", where=str(path), mend="twinbeam twin build"
        )
    return path


def pipeline_from_journal(metadata: dict[str, str], where: str) -> Pipeline:
    """The pipeline that a journal was written by; `InputRefused` when its twin is not the one that lies here."""
    try:
        config: Config = RecordedConfig.model_validate_json(metadata[CONFIG_KEY])
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputRefused(f"holds no configuration that this version reads: {reason}", where=where) from None
    pipeline, here = build_pipeline(config)
    if here.get(BUNDLE_KEY) != metadata.get(BUNDLE_KEY):
        raise InputRefused(
            f"was made with another twin than {config.site.bundle}",
            where=where,
            mend=f"bring back the bundle with sha256 {metadata.get(BUNDLE_KEY, '')[:12]}…",
        )
    return pipeline


def warm_up(pipeline: Pipeline) -> None:
    """Compile every kernel and touch every code path once, so that the first block is no slower than the rest.

    `step` is pure: what it returns here is thrown away. The garbage collector is told to leave alone what exists now.
    """
    prior = pipeline.prior if pipeline.prior is not None else ZeroPrior(3, 2, 1.0)
    position = None
    if isinstance(prior, TwinPrior):
        x, y, z = prior.channels.bundle.positions_m[0]
        position = (float(x), float(y), float(z))
    domains: tuple[Literal["effective", "cascade"], ...] = ("cascade", "effective")
    state = pipeline.start()
    for block in range(_WARM_UP_BLOCKS):
        frames = tuple(
            _made_up_frame(f"warm{user}", block, domain, prior, position)
            for user in range(2)
            for domain in (domains if prior.rows > 1 else domains[1:])
        )
        budget = StepBudget(
            source="warm",
            epoch=0,
            seq=block,
            t_ns=block * 10**7,
            block=block,
            rung="linear",
            iterations=1,
            lead_s=0.0,
        )
        twin = _made_up_trace(prior) if pipeline.config.twin.live and isinstance(prior, TwinPrior) else None
        state, _ = pipeline.step(state, Inputs(channels=frames, twin=twin), budget)
    gc.collect()
    gc.freeze()


def _made_up_trace(prior: TwinPrior) -> TwinFrame:
    """What the bundle has for its first place, as a trace of the users below."""
    bundle, users = prior.channels.bundle, ("warm0", "warm1")
    tables = [joined([table.link(0)] * len(users)) for table in (bundle.bs_user, bundle.ris_user)]
    trace = Trace(0, users, bundle.positions_m[[0, 0]], *tables)
    return frame_of(trace, {}, epoch=0, seq=0, came_ns=0, trace_s=0.0)


def _made_up_frame(
    user: str,
    block: int,
    domain: Literal["effective", "cascade"],
    prior: Prior,
    position: tuple[float, float, float] | None,
) -> ChannelFrame:
    """A frame of the site's shape; what it says does not matter."""
    rows = prior.rows if domain == "cascade" else 1
    rng = np.random.default_rng([block, len(user), rows])
    values = rng.normal(size=(2, rows, prior.antennas, 1))
    elements = 0 if domain == "cascade" else prior.rows - 1
    return ChannelFrame(
        source="warm",
        epoch=0,
        seq=block,
        t_ns=block * 10**7,
        user=user,
        block=block,
        domain=domain,
        noise_power=1e-12,
        snr_db=0.0,
        position_m=position,
        velocity_m_s=(0.0, 0.0, 0.0) if position else None,
        cfr=(1e-5 * (values[0] + 1j * values[1])).astype(np.complex64),
        tones_hz=np.zeros(1),
        ris_patterns=np.ones((rows, elements), np.complex64),
        beams=no_array(0, prior.antennas),
        cir=no_array(prior.antennas, 0),
    )
