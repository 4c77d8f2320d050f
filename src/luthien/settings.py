"""Every setting, from the environment: this module alone reads it."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from luthien.errors import ConfigError

Network = IPv4Network | IPv6Network

_MOST_DAYS = 10_000
_HOURS = {"h": 1, "d": 24, "w": 24 * 7}


def whole_days(text: str) -> timedelta:
    """How long the record is kept, as `30d`, `4w` or `48h`; ValueError unless it is one or more whole days."""
    match = re.fullmatch(r"(\d{1,6})([hdw])", text.strip())
    if match is None:
        raise ValueError("must be a number of days, as in 30d")
    days, rest = divmod(int(match[1]) * _HOURS[match[2]], 24)
    if rest or not days:
        raise ValueError("must be one or more whole days, as in 30d: the record is dropped a day at a time")
    if days > _MOST_DAYS:
        raise ValueError(f"must be at most {_MOST_DAYS} days; calls are kept for ever if nothing is said")
    return timedelta(days=days)


def _whole_days(value: object) -> object:
    return whole_days(value) if isinstance(value, str) else value


def _default_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("luthien", appauthor=False))


class Settings(BaseSettings):
    """Frozen once read. Each field is documented in docs/settings.md; a test fails when one is not."""

    model_config = SettingsConfigDict(
        env_prefix="LUTHIEN_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 lets the system choose."""
    config: Path = Path("luthien.yaml")
    """The file that names upstreams and policies. Without one: the public providers, and no policy."""
    reload: bool = True
    """Whether a changed configuration is taken while Luthien runs; SIGHUP asks for that in any case."""
    data_dir: Path = Field(default_factory=_default_data_dir)
    """Where `luthien up` keeps its database and its token."""
    debug_token: SecretStr | None = None
    """What one signs in to the debug pages with. `luthien up` makes one; `luthien serve` wants it given."""
    trusted_networks: Annotated[tuple[Network, ...], NoDecode] = (
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1/128"),
    )
    """Callers whose `traceparent` is joined instead of linked: networks, separated by commas."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 32 * 1024 * 1024
    """The largest request or response body, in bytes; a larger request is answered with 413."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """How long connecting to a provider may take, in seconds."""
    read_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a provider may be silent, in seconds; a stream may last as long as it likes."""
    pool_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """How long a call may wait for a free connection to a provider, in seconds."""
    max_connections: Annotated[int, Field(gt=0)] = 2000
    """Connections to providers at once."""
    grace_s: Annotated[float, Field(gt=0)] = 10.0
    """How long open calls may take to finish when Luthien is stopped, in seconds; then they are ended."""
    record: bool = True
    """Whether calls are recorded at all; off only to measure what the record costs."""
    index: bool = True
    """Whether this process indexes calls for searches; off where others do."""
    receipt_deadline_ms: Annotated[float, Field(gt=0)] = 250.0
    """How long a call may wait for its record to be safe, in milliseconds, before it goes on without."""
    spool: bool = True
    """Whether records are on a local disk until the database has them; without, a crash loses what waits."""
    checkpoint_s: Annotated[float, Field(gt=0)] = 5.0
    """How often an open stream records what has passed since the last time, in seconds."""
    keep_alive_s: Annotated[float, Field(gt=0)] = 15.0
    """How long a client may hear nothing while policies hold its stream, in seconds; then a keep-alive is sent."""
    spool_dir: Path | None = None
    """Where records wait for the database, on a local disk; without it, `spool` in the data directory."""
    spool_max_bytes: Annotated[int, Field(gt=0)] = 1024 * 1024 * 1024
    """How many bytes of that disk each process may use."""
    spool_sync: bool = False
    """Whether records wait until the disk has them, and so survive a loss of power; costs a disk flush a call."""
    queue_max_records: Annotated[int, Field(gt=0)] = 20_000
    """How many records may wait in memory."""
    queue_max_bytes: Annotated[int, Field(gt=0)] = 256 * 1024 * 1024
    """How many bytes of records may wait in memory."""
    batch_max_records: Annotated[int, Field(gt=0)] = 500
    """How many records are written at once."""
    batch_max_bytes: Annotated[int, Field(gt=0)] = 16 * 1024 * 1024
    """How many bytes of records are written at once."""
    batch_max_age_ms: Annotated[float, Field(ge=0)] = 100.0
    """How long a record may wait for others to be written with, in milliseconds."""
    keep: Annotated[timedelta | None, BeforeValidator(_whole_days)] = None
    """How long calls are kept, as `30d`; older days are dropped. Without it nothing ever is."""
    tempo_url: str | None = None
    """Where Tempo answers, for the spans on a call's page. Without it Grafana is asked, if that is set."""
    grafana_url: str | None = None
    """The Grafana that pages link to, and through which Tempo is asked unless its own address is set."""
    grafana_token: SecretStr | None = None
    """A service account's token for that; without it, Grafana is asked as anybody."""
    tempo_datasource: str = "tempo"
    """The uid of Grafana's data source for Tempo."""
    log_level: str = "INFO"
    """The lowest level that is logged: DEBUG, INFO, WARNING, ERROR."""
    log_format: Annotated[str, Field(pattern="^(json|text)$")] = "json"
    """`json`, one object a line, or `text` for people."""

    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "database_url")
    )
    """The Postgres to record into; with it set, `luthien up` embeds none."""

    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
    )
    otlp_traces_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp_traces_endpoint"),
    )
    otlp_metrics_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otlp_metrics_endpoint"),
    )
    otlp_compression: str | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_COMPRESSION", "otlp_compression")
    )
    otlp_timeout: str | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TIMEOUT", "otlp_timeout")
    )
    otlp_protocol: str = Field(
        default="http/protobuf",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_PROTOCOL", "otlp_protocol"),
    )
    traces_exporter: str = Field(
        default="otlp", validation_alias=AliasChoices("OTEL_TRACES_EXPORTER", "traces_exporter")
    )
    metrics_exporter: str = Field(
        default="otlp", validation_alias=AliasChoices("OTEL_METRICS_EXPORTER", "metrics_exporter")
    )
    prometheus_host: str = Field(
        default="localhost", validation_alias=AliasChoices("OTEL_EXPORTER_PROMETHEUS_HOST", "prometheus_host")
    )
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=9464, validation_alias=AliasChoices("OTEL_EXPORTER_PROMETHEUS_PORT", "prometheus_port")
    )
    traces_sampler: str = Field(
        default="parentbased_always_on",
        validation_alias=AliasChoices("OTEL_TRACES_SAMPLER", "traces_sampler"),
    )
    traces_sampler_arg: str | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_TRACES_SAMPLER_ARG", "traces_sampler_arg")
    )
    max_queued_spans: Annotated[int, Field(gt=0)] = Field(
        default=2048, validation_alias=AliasChoices("OTEL_BSP_MAX_QUEUE_SIZE", "max_queued_spans")
    )
    service_name: str = Field(default="luthien", validation_alias=AliasChoices("OTEL_SERVICE_NAME", "service_name"))

    @field_validator("tempo_url", "grafana_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        # Pages link there: nothing but a web address may become a link.
        if value is not None and not re.match(r"https?://[^/\s]", value):
            raise ValueError("must be an address that begins with http:// or https://")
        return value

    @field_validator("trusted_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip() and part.strip() != "none"]
        return value

    @field_validator("traces_exporter")
    @classmethod
    def _exports_traces_to(cls, value: str) -> str:
        _exporters(value, ("otlp", "console"))
        return value

    @field_validator("metrics_exporter")
    @classmethod
    def _exports_metrics_to(cls, value: str) -> str:
        _exporters(value, ("otlp", "prometheus", "console"))
        return value

    @property
    def traces_exporters(self) -> frozenset[str]:
        return _listed(self.traces_exporter)

    @property
    def metrics_exporters(self) -> frozenset[str]:
        return _listed(self.metrics_exporter)

    @property
    def exports_traces(self) -> bool:
        """Over OTLP."""
        return "otlp" in self.traces_exporters and bool(self.otlp_endpoint or self.otlp_traces_endpoint)

    @property
    def exports_metrics(self) -> bool:
        """Over OTLP."""
        return "otlp" in self.metrics_exporters and bool(self.otlp_endpoint or self.otlp_metrics_endpoint)


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _exporters(text: str, known: tuple[str, ...]) -> None:
    chosen = _listed(text)
    if chosen - {*known, "none"} or ("none" in chosen and len(chosen) > 1):
        raise ValueError(f"must be a list, separated by commas, of {', '.join(known)}; or none")


def read_settings() -> Settings:
    """The settings as the environment has them.

    Raises:
        ConfigError: names every variable that is wrong, and how.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"  {_variable(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise ConfigError("\n".join(["these settings are wrong:", *lines])) from None


def from_environment(name: str) -> str | None:
    """A variable that the configuration file names, for a secret that is not to stand there."""
    return os.environ.get(name)


def _variable(loc: tuple[int | str, ...]) -> str:
    name = str(loc[0])
    return name if name.isupper() else f"LUTHIEN_{name.upper()}"
