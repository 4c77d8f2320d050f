"""Every setting, from the environment: this module alone reads it."""

from __future__ import annotations

import errno
import os
import re
import stat
from datetime import timedelta
from importlib.metadata import entry_points
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from luthien.errors import ConfigError
from luthien.headers import read_headers
from luthien.hosts import HostPattern
from luthien.otel import OtelSettings
from luthien.otlp import SIGNALS

Network = IPv4Network | IPv6Network

_MOST_DAYS = 10_000
_MOST_SECRET_BYTES = 64 * 1024
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


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets from files: `LUTHIEN_DEBUG_TOKEN_FILE` names the one that holds `LUTHIEN_DEBUG_TOKEN`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        is_secret = "SecretStr" in str(field.annotation)
        return _from_file(_variable_of(field_name, field)) if is_secret else None, field_name, False

    def __call__(self) -> dict[str, object]:
        fields = self.settings_cls.model_fields.items()
        found = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: secret for name, secret in found.items() if secret is not None}


class Settings(OtelSettings):
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
    propagate_to: Annotated[tuple[HostPattern, ...], NoDecode] = ()
    """Hosts that are sent a `traceparent`, providers and webhooks: separated by commas; nobody by default."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 32 * 1024 * 1024
    """The largest request or response body, in bytes; a larger request is answered with 413."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """How long connecting to a provider may take, in seconds."""
    read_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a provider may be silent, in seconds; a stream may last as long as it likes."""
    write_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a client may take nothing of its response, in seconds; then it is taken to have hung up."""
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
    tempo_headers: SecretStr | None = None
    """Headers for Tempo, as `name=value` and separated by commas: its tenant, or credentials for a hosted one."""
    tempo_timeout_s: Annotated[float, Field(gt=0, le=30)] = 2.0
    """How long Tempo may take to answer for one call, in seconds."""
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
    log_calls: Annotated[str, Field(pattern="^(unusual|all|none)$")] = "unusual"
    """Which calls leave a line when they end: those that are not completed, all, or none."""
    export_loggers: Annotated[tuple[str, ...], NoDecode] = ()
    """Loggers whose lines are exported as well as Luthien's own, separated by commas."""

    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "database_url")
    )
    """The Postgres to record into; with it set, `luthien up` embeds none."""

    @field_validator("tempo_url", "grafana_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        # Pages link there: nothing but a web address may become a link.
        if value is not None and not re.match(r"https?://[^/\s]", value):
            raise ValueError("must be an address that begins with http:// or https://")
        return value

    @field_validator("tempo_headers")
    @classmethod
    def _are_tempo_headers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_headers(value.get_secret_value())
        return value

    @field_validator("propagate_to", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(HostPattern.parse(part) for part in value.split(",") if part.strip())
        return value

    @field_validator("trusted_networks", "export_loggers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip() and part.strip() != "none"]
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)


def read_settings() -> Settings:
    """The settings as the environment has them.

    Raises:
        ConfigError: names every variable that is wrong, and how.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [
            f"  {_variable(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise ConfigError("\n".join(["these settings are wrong:", *lines])) from None
    for signal in SIGNALS:
        if settings.has_endpoint(signal):
            settings.otlp(signal)
    return settings


_PROPAGATOR_PACKAGES = {
    "b3": "opentelemetry-propagator-b3",
    "b3multi": "opentelemetry-propagator-b3",
    "jaeger": "opentelemetry-propagator-jaeger",
    "ottrace": "opentelemetry-propagator-ot-trace",
    "xray": "opentelemetry-propagator-aws-xray",
}


def check_propagators() -> None:
    """To be called before OpenTelemetry is imported, which would end the import over it.

    Raises:
        ConfigError: `OTEL_PROPAGATORS` names one that is not installed.
    """
    said = os.environ.get("OTEL_PROPAGATORS")
    installed = {each.name for each in entry_points(group="opentelemetry_propagator")}
    for name in map(str.strip, said.split(",") if said else ()):
        if name.lower() == "none":
            return
        if name not in installed:
            known = ", ".join(sorted(installed))
            package = _PROPAGATOR_PACKAGES.get(name)
            todo = f"; install {package}" if package else ""
            raise ConfigError(
                f"these settings are wrong:\n  OTEL_PROPAGATORS: {name!r} is none of {known}, none{todo}"
            )


def from_environment(name: str) -> str | None:
    """A variable that the configuration file names, for a secret that is not to stand there.

    It may be in a file, whose path is in the variable of that name with `_FILE` behind it.

    Raises:
        ConfigError: the file cannot be read, or the variable is set as well.
    """
    secret = _from_file(name)
    return os.environ.get(name) if secret is None else secret


def _from_file(name: str) -> str | None:
    """The secret in the file that `{name}_FILE` names, without the white space around it; None without one."""
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    if os.environ.get(name):
        raise ConfigError(f"{name} and {name}_FILE are both set: which is meant?")
    try:
        secret = _text_of(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{name}_FILE: cannot read {path}: {reason}") from None
    if not secret:
        raise ConfigError(f"{name}_FILE: {path} is empty")
    if not secret.isprintable():
        raise ConfigError(
            f"{name}_FILE: {path} is not one secret: it has more lines, or characters that cannot be seen"
        )
    return secret


def _text_of(path: str) -> str:
    """What a file says, which is not long. A pipe is refused: it would be waited for, and is empty the second time.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        content = file.read(_MOST_SECRET_BYTES + 1)
    if len(content) > _MOST_SECRET_BYTES:
        raise OSError(errno.EFBIG, "it is too long for a secret")
    return content.decode("utf-8-sig")


def _variable_of(name: str, field: FieldInfo) -> str:
    """The environment variable that a field is read from."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"LUTHIEN_{name.upper()}"


def _variable(loc: tuple[int | str, ...]) -> str:
    name = str(loc[0])
    return name if name.isupper() else f"LUTHIEN_{name.upper()}"
