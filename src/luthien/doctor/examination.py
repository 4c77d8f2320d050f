"""Everything that is looked at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from luthien.config import Config
from luthien.doctor import database, network, otlp, spool, tracing
from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.errors import ConfigError, LuthienError
from luthien.gateway.configuration import Configuration, load_configuration
from luthien.gateway.keys import environment_variables
from luthien.settings import Settings, read_settings


def examined() -> Iterator[Finding]:
    """Looks at everything and changes nothing. What cannot be looked at costs no other check."""
    try:
        settings = read_settings()
    except ConfigError as error:
        yield problem("settings", _one_line(str(error)), "Nothing else can be looked at before")
        return
    yield from _examine(settings)


def _examine(settings: Settings) -> Iterator[Finding]:
    config = Config()
    try:
        loaded = load_configuration(settings.config, must_exist="config" in settings.model_fields_set)
        config = loaded.config
        yield from _configuration(settings, loaded)
    except ConfigError as error:
        yield problem("configuration", _one_line(str(error)))
    dsn = known_dsn(settings)
    yield from _database(settings, dsn)
    yield from spool.examine(settings, dsn)
    yield from network.providers(config, settings.connect_timeout_s)
    yield from otlp.receivers(settings)
    yield from tracing.examine(settings)


def _configuration(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    config = configuration.config
    yield ok("configuration", configuration.described(settings.config))
    if config.groups:
        yield ok("groups", f"{len(config.groups)}: {', '.join(group.name for group in config.groups)}")
    for said in configuration.warnings:
        yield warning("groups", said, "Put it further up")
    for said in configuration.notes:
        yield ok("streams", said)
    if config.keys:
        variables = len(environment_variables(config.keys))
        own = "accepted too" if config.accept_provider_keys else "not accepted"
        said = f"{len(config.keys)}, with all {variables} environment variables set; keys of providers are {own}"
        yield ok("gateway keys", said)
    has_token = settings.debug_token or (settings.data_dir / "debug-token").exists()
    if settings.database_url and not has_token:
        yield warning(
            "sign-in", "with `luthien serve` nobody can sign in to the debug pages", "Set LUTHIEN_DEBUG_TOKEN"
        )
    if not settings.record:
        yield warning("record", "calls are not recorded at all", "Unset LUTHIEN_RECORD")


def known_dsn(settings: Settings) -> str | None:
    """The database of these settings, or that of a `luthien up` which runs here; None when there is neither."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    from luthien.store.embedded import running_dsn  # Unix only, and what `serve` never needs

    return running_dsn(settings.data_dir / "postgres")


def _database(settings: Settings, dsn: str | None) -> Iterator[Finding]:
    if dsn is None:
        yield warning(
            "database",
            "DATABASE_URL is not set, and no `luthien up` runs here",
            "Its own database can be looked at while it runs; `luthien serve` needs DATABASE_URL",
        )
        return
    where = database.address(dsn)
    if where is None:
        # Not said in libpq's words: it may quote the whole address, with its password.
        yield problem("database", "DATABASE_URL is not an address", "In its password, / and @ are %2F and %40")
        return
    try:
        with database.connect(dsn) as conn:
            yield from database.examine(conn, settings)
    except (psycopg.Error, LuthienError) as error:
        yield problem(
            "database",
            f"{where} cannot be asked: {_one_line(str(error))}",
            "Calls are served meanwhile, and their records wait in the spool",
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())
