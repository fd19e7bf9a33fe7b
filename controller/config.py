"""The configuration: a TOML file, every key checked, defaults for what is left out.

Environment variables `TWINBEAM_<TABLE>__<KEY>` override the file. Paths are relative to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from controller.beamforming import PRECODERS
from controller.config_receiver import Finite, ReceiverTable, Table
from controller.covariance import Real
from controller.error_statistics import LearningRule
from ingest.endpoints import Endpoint, check_endpoint, is_loopback
from ingest.errors import TwinbeamError, UsageRefused
from ingest.settings_file import read_toml, refusal
from ingest.stream_uri import check_stream, is_stream

Seconds = Annotated[float, Field(gt=0, le=3600)]


class SiteTable(Table):
    """Where the twin is. bundle: path of a `twin.h5`, or the name of a site we ship; "" for a site without a twin."""

    bundle: str = ""


class TwinTable(Table):
    """Tracing of users while they move. site: the site file, "" for the `site.toml` beside the bundle. trace_hz: traces
    a second at most. trace_samples: rays of each; left out, as many as the site file says of its twin. stale_after_s:
    how old the newest trace may become."""

    live: bool = False
    site: str = ""
    trace_hz: Annotated[float, Field(ge=1e-3, le=1000)] = 10.0
    trace_samples: Annotated[int, Field(ge=1000, le=10**8)] | None = None
    stale_after_s: Seconds = 1.0

    @model_validator(mode="after")
    def _traced_before_stale(self) -> TwinTable:
        if self.stale_after_s < 1 / self.trace_hz:
            raise ValueError(f"stale_after_s {self.stale_after_s} is sooner than the next trace at {self.trace_hz} Hz")
        return self


class SourceTable(Table):
    """Where frames come from: anything `ingest.open_source` takes. rate_hz and center_hz for raw IQ files and
    streams of bare samples."""

    uri: str = ""
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    center_hz: Annotated[float, Field(ge=0)] | None = None


class EmitTable(Table):
    """Where decisions go. bind: endpoint of the decision publisher, "" for none."""

    bind: str = "tcp://127.0.0.1:5558"
    remote: bool = False

    @field_validator("bind")
    @classmethod
    def _is_endpoint(cls, bind: str) -> str:
        if bind:
            try:
                check_endpoint(Endpoint(bind, bind=True, remote=True))
            except TwinbeamError as error:
                raise ValueError(error.what) from None
        return bind


class BlockTable(Table):
    """The coherence block. deadline_s: from the first frame of a block to its decision. lead_s: from measurement to the
    middle of the decision's time on air. hold_blocks: how long the last feasible design may be held."""

    period_s: Annotated[float, Field(ge=1e-4, le=3600)] = 10e-3
    deadline_s: Seconds = 6e-3
    lead_s: Annotated[float, Field(ge=0, le=3600)] = 7e-3
    hold_blocks: Annotated[int, Field(ge=0)] = 20
    stale_after_s: Seconds = 0.2

    @model_validator(mode="after")
    def _deadline_inside_block(self) -> BlockTable:
        if self.deadline_s > self.period_s:
            raise ValueError(f"deadline_s {self.deadline_s} is later than period_s {self.period_s}")
        return self


class LinkTable(Table):
    """The link budget. power_dbm and noise_dbm say what frames are in (path gain): leave both out where frames are not
    calibrated, then power is 1 and noise is what frames measured."""

    power_dbm: Finite | None = None
    noise_dbm: Finite | None = None
    rate_target_bps_hz: Annotated[float, Field(gt=0, le=30)] = 1.0
    rate_targets_bps_hz: dict[str, Annotated[float, Field(gt=0, le=30)]] = Field(default_factory=dict)
    max_users: Annotated[int, Field(ge=1, le=64)] = 8

    @model_validator(mode="after")
    def _both_or_none(self) -> LinkTable:
        if (self.power_dbm is None) != (self.noise_dbm is None):
            raise ValueError("power_dbm and noise_dbm belong together: give both or none")
        return self

    def power_w(self) -> float:
        """Transmit power budget."""
        return 1.0 if self.power_dbm is None else watts(self.power_dbm)

    def noise_w(self, measured: Real) -> Real:
        """Downlink noise power per user, given what their frames `measured` [K] on the uplink."""
        return measured if self.noise_dbm is None else np.full(len(measured), watts(self.noise_dbm))

    def rate_targets(self, users: tuple[str, ...]) -> Real:
        """Rate target of each user in bit/s/Hz. Shape [K]."""
        return np.array([self.rate_targets_bps_hz.get(user, self.rate_target_bps_hz) for user in users], np.float64)


class LearningTable(Table):
    """How the twin's error is learnt; see `controller.error_statistics.LearningRule`. relative_error_db: error over
    channel power assumed before anything was learnt."""

    relative_error_db: Annotated[float, Field(ge=-60, le=20)] = -3.0
    prior_weight: Annotated[float, Field(ge=0)] = 4.0
    memory: Annotated[float, Field(ge=10)] = 2000.0
    rank: Annotated[int, Field(ge=1, le=64)] = 8
    enough: Annotated[float, Field(ge=1)] = 30.0
    coverage: Annotated[float, Field(gt=1)] = 3.0
    window: Annotated[float, Field(ge=1)] = 30.0

    def rule(self) -> LearningRule:
        return LearningRule(self.prior_weight, self.memory, self.rank, self.enough, self.coverage, self.window)


class ZonesTable(Table):
    """Where errors are alike: one zone for the whole site, or square cells."""

    method: Literal["whole-site", "grid"] = "whole-site"
    cell_m: Annotated[float, Field(gt=0)] = 20.0
    max_zones: Annotated[int, Field(ge=1, le=4096)] = 64


class DesignTable(Table):
    """What turns beliefs into a precoder and phases. robust_solver: "none" until one is installed."""

    precoder: str = "rzf"
    robust_solver: str = "none"
    ris: Literal["align", "fixed"] = "align"
    ris_update_blocks: Annotated[int, Field(ge=1)] = 20
    ris_sweeps: Annotated[int, Field(ge=1, le=100)] = 3

    @field_validator("precoder")
    @classmethod
    def _known_precoder(cls, name: str) -> str:
        if name not in PRECODERS:
            raise ValueError(f"unknown precoder; known: {', '.join(PRECODERS)}")
        return name

    @field_validator("robust_solver")
    @classmethod
    def _known_solver(cls, name: str) -> str:
        if name != "none":
            raise ValueError("no robust solver is installed; known: none")
        return name


class ModelsTable(Table):
    """Learnt models by path: csi_codecs are ONNX files, each with its manifest beside it."""

    csi_codecs: tuple[str, ...] = ()


class JournalTable(Table):
    """The journal. folder: where runs are recorded, "" for no journal."""

    folder: str = ""


class HttpTable(Table):
    """Live page and /metrics. port 0 takes a free one; enabled = false serves neither."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8600
    remote: bool = False

    @model_validator(mode="after")
    def _loopback_unless_remote(self) -> HttpTable:
        if not self.remote and not is_loopback(self.host):
            raise ValueError(f"host {self.host} would serve other hosts; use 127.0.0.1, or set remote = true")
        return self


class Config(BaseSettings):
    """A whole configuration."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="TWINBEAM_", env_nested_delimiter="__", env_ignore_empty=True
    )

    READS_ENVIRONMENT: ClassVar[bool] = True

    site: SiteTable = SiteTable()
    twin: TwinTable = TwinTable()
    source: SourceTable = SourceTable()
    receiver: ReceiverTable = ReceiverTable()
    emit: EmitTable = EmitTable()
    block: BlockTable = BlockTable()
    link: LinkTable = LinkTable()
    learning: LearningTable = LearningTable()
    zones: ZonesTable = ZonesTable()
    design: DesignTable = DesignTable()
    models: ModelsTable = ModelsTable()
    journal: JournalTable = JournalTable()
    http: HttpTable = HttpTable()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings) if cls.READS_ENVIRONMENT else (init_settings,)


class RecordedConfig(Config):
    """A configuration in which the environment has no say: of a run that is over, or of the demo."""

    READS_ENVIRONMENT: ClassVar[bool] = False


def load_config(path: Path) -> Config:
    """The configuration at `path`; `UsageRefused` says in one line what is wrong with it."""
    config = config_from(read_toml(path), where=str(path))
    return resolve_paths(config, path.parent)


def config_from(tables: dict[str, Any], *, where: str) -> Config:
    """A configuration from TOML tables."""
    try:
        config = Config(**tables)
    except ValidationError as error:
        raise refusal(Config, error, where) from None
    except TypeError:
        raise UsageRefused("top-level keys must be tables", where=where, mend="as [block], [link], …") from None
    if is_stream(config.source.uri):
        check_stream(config.source.uri, config.source.rate_hz, config.source.center_hz)
    config.receiver.settings()
    if config.twin.live and not config.site.bundle:
        raise UsageRefused("[twin] live without a twin", where=where, mend="name its bundle in [site] bundle")
    if config.emit.bind:
        check_endpoint(Endpoint(config.emit.bind, bind=True, remote=config.emit.remote))
    return config


def resolve_paths(config: Config, folder: Path) -> Config:
    """`config` with paths relative to `folder` made absolute."""

    def resolved(value: str) -> str:
        return str((folder / value).resolve()) if value else value

    source = config.source
    if source.uri and "://" not in source.uri:
        source = source.model_copy(update={"uri": resolved(source.uri)})
    site = config.site
    if "/" in site.bundle or site.bundle.endswith(".h5"):
        site = site.model_copy(update={"bundle": resolved(site.bundle)})
    twin = config.twin.model_copy(update={"site": resolved(config.twin.site)})
    models = config.models.model_copy(update={"csi_codecs": tuple(resolved(path) for path in config.models.csi_codecs)})
    journal = config.journal.model_copy(update={"folder": resolved(config.journal.folder)})
    calibrations = tuple(resolved(path) for path in config.receiver.antenna_calibrations)
    receiver = config.receiver.model_copy(update={"antenna_calibrations": calibrations})
    return config.model_copy(
        update={
            "source": source,
            "site": site,
            "twin": twin,
            "receiver": receiver,
            "models": models,
            "journal": journal,
        }
    )


def watts(dbm: float) -> float:
    """Power in watt of a level in dBm."""
    return float(10.0 ** (dbm / 10.0 - 3.0))
