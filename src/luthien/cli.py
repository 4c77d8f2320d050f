"""The commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import psycopg
import typer

from luthien import __version__
from luthien.app import App, build_app, configuration_of, create_app
from luthien.calls.command import calls
from luthien.debug.search.reindex import index_queued, queue_calls
from luthien.doctor.examination import examined, known_dsn
from luthien.doctor.finding import Finding, Level
from luthien.doctor.words import size
from luthien.errors import ConfigError, LuthienError, StoreError
from luthien.local import local_settings
from luthien.server import Server, address_of, listen, server_options, sign_in_link
from luthien.settings import Settings, read_settings, whole_days
from luthien.store.gateway_role import grant_gateway
from luthien.store.migrate import connect
from luthien.store.migrate import migrate as apply_migrations
from luthien.store.reports import grant_reader
from luthien.store.retention import StoredDay, expired_days, first_kept_day, strays
from luthien.store.retention import prune as run_prune
from luthien.store.retention import repair as run_repair
from luthien.telemetry.logs import configure_logging
from luthien.workers import WorkerConfig, Workers

_PRUNE_ATTEMPTS = 40
"""Ten seconds and more for each day."""

cli = typer.Typer(
    name="luthien",
    help="An OpenTelemetry-native control gateway for LLM traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(calls)


@cli.command()
def up() -> None:
    """Run everything on this machine: Postgres (unless DATABASE_URL is set), gateway and debug pages."""
    settings = _text_logs(read_settings())
    with local_settings(settings, _say) as settings, listen(settings) as listener:
        address = address_of(listener)
        configuration = configuration_of(settings)

        def say() -> None:
            _say("Luthien is up.")
            _say(f"  OpenAI clients:     OPENAI_BASE_URL={address}/v1")
            _say(f"  Anthropic clients:  ANTHROPIC_BASE_URL={address}")
            _say(f"  Debug pages:        {sign_in_link(address, settings)}")
            _say(f"  Configuration:      {configuration.described(settings.config)}")

        app = App(settings, configuration, settings.config)
        Server(app.asgi, settings, say).run(sockets=[listener])


@cli.command()
def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="Leave after the calls; status 0 if all is well.")] = False,
) -> None:
    """Run `up` with a small real model and example policies, make eight calls, and show what became of them."""
    from luthien.demo.run import check_installed, run_demo

    check_installed()
    settings = _text_logs(read_settings())
    if "log_calls" not in settings.model_fields_set:  # it tells of each call itself
        settings = settings.model_copy(update={"log_calls": "none"})
    with local_settings(settings, _say) as settings:
        raise typer.Exit(run_demo(settings, exit_after_calls=exit_, say=_say))


@cli.command()
def serve(
    workers: Annotated[int, typer.Option(min=1, help="Processes that serve.")] = 1,
) -> None:
    """Run the gateway and the debug pages for production: needs DATABASE_URL, and embeds nothing."""
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    build_app(settings)  # says now what is wrong, not once per worker
    with listen(settings) as listener:
        if workers == 1:
            Server(build_app(settings).asgi, settings, lambda: None).run(sockets=[listener])
            return
        config = WorkerConfig(partial(create_app, workers), factory=True, workers=workers, **server_options(settings))
        Workers(config, [listener]).run()


@cli.command()
def migrate(
    gateway: Annotated[
        str | None, typer.Option(help="Let this existing role, as a gateway's, record and read the record.")
    ] = None,
    reader: Annotated[
        str | None, typer.Option(help="Let this existing role, as Grafana's, read the reports, and nothing else.")
    ] = None,
) -> None:
    """Bring the database's schema up to date. Safe to run at any time, from several places at once."""
    settings = read_settings()
    if settings.database_url is None:
        raise ConfigError("DATABASE_URL is not set: which database is to be migrated?")
    dsn = settings.database_url.get_secret_value()
    applied = apply_migrations(dsn, progress=_say)
    _say(f"{len(applied)} migrations applied" if applied else "the schema is up to date")
    if gateway is not None:
        grant_gateway(dsn, gateway)
        _say(f"{gateway} may record")
    if reader is not None:
        grant_reader(dsn, reader)
        _say(f"{reader} may read the reports")


@cli.command()
def prune(
    keep: Annotated[
        str | None, typer.Option(help="How long calls are kept, as 30d; LUTHIEN_KEEP if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
) -> None:
    """Drop the days of the record that are older than that, and nothing younger. Calls go on meanwhile."""
    settings = read_settings()
    kept = _kept(keep, settings)
    with _operating(settings, "luthien prune") as conn:
        if dry_run:
            days = expired_days(conn, kept)
            for day in days:
                _say(f"would drop {_described(day)}")
            _say(_summary("would be dropped", days, kept))
            return
        pruned = run_prune(
            conn, kept, attempts=_PRUNE_ATTEMPTS, dropped=lambda day: _say(f"dropped {_described(day)}")
        )
        _say(_summary("dropped", pruned.dropped, kept))
        if pruned.strays:
            _say(f"{pruned.strays:,} rows dropped from the default partitions")
        if pruned.put_off:
            days_in_use = ", ".join(str(day.day) for day in pruned.put_off)
            raise StoreError(f"{days_in_use}: somebody kept these tables in use; run `luthien prune` again")


@cli.command()
def repair() -> None:
    """Move what is in the default partitions, where nothing should be, into the partitions of its days."""
    settings = read_settings()
    with _operating(settings, "luthien repair") as conn:
        before = sum(each.rows for each in strays(conn))
        left = run_repair(conn, settings.keep)
    moved = max(0, before - sum(each.rows for each in left))
    _say(f"{moved:,} rows moved from the default partitions" if before else "the default partitions are empty")
    if left:
        lines = [f"  {each.table}, {each.day or 'no date'}: {each.rows:,} rows" for each in left]
        reasons = "older than LUTHIEN_KEEP, of a day that was detached, or in use: then run `luthien repair` again"
        raise StoreError("\n".join(["these rows stay where they are:", *lines, f"They are {reasons}"]))


@cli.command()
def reindex(
    missing: Annotated[
        bool, typer.Option("--missing", help="Only calls that are not indexed, or by another version.")
    ] = False,
    later: Annotated[bool, typer.Option("--later", help="Leave the work to running gateways.")] = False,
) -> None:
    """Index calls anew, for searches. Calls go on meanwhile; who ends it early leaves the rest to gateways."""
    settings = read_settings()
    with _operating(settings, "luthien reindex") as conn:
        queued = queue_calls(conn, anew=not missing)
        _say(f"{queued:,} calls are to be indexed")
        if later:
            return
        for done, failed, left in index_queued(conn):
            _say(f"{done:,} indexed, {failed:,} could not be, {left} left")


@cli.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at everything and say how it is and what to do; changes nothing. Status 1 when there is a problem."""
    findings: list[Finding] = []
    for finding in examined():
        findings.append(finding)
        if not as_json:
            _say(str(finding))
    if as_json:
        _say(json.dumps([asdict(finding) for finding in findings], indent=2))
    raise typer.Exit(1 if any(finding.level is Level.PROBLEM for finding in findings) else 0)


@cli.command()
def version() -> None:
    """Print the version."""
    _say(__version__)


def _kept(keep: str | None, settings: Settings) -> timedelta:
    if keep is not None:
        try:
            return whole_days(keep)
        except ValueError as error:
            raise ConfigError(f"--keep {error}") from None
    if settings.keep is None:
        raise ConfigError("how long are calls to be kept? Say --keep 30d, or set LUTHIEN_KEEP")
    return settings.keep


def _described(day: StoredDay) -> str:
    return f"{day.day}: about {day.calls:,} calls, {size(day.size_bytes)}"


def _summary(what: str, days: Sequence[StoredDay], keep: timedelta) -> str:
    if not days:
        return f"nothing is older than {keep.days} days"
    calls, size_bytes = sum(day.calls for day in days), sum(day.size_bytes for day in days)
    return f"{len(days)} days {what}, about {calls:,} calls, {size(size_bytes)}; kept from {first_kept_day(keep)}"


@contextmanager
def _operating(settings: Settings, name: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the record, whose errors are said in words."""
    dsn = known_dsn(settings)
    if dsn is None:
        raise ConfigError("which database? DATABASE_URL is not set, and no `luthien up` runs here")
    with connect(dsn, name) as conn:
        try:
            yield conn
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
            raise StoreError("the database's schema is behind: run `luthien migrate`") from None
        except psycopg.errors.InsufficientPrivilege as error:
            said = error.diag.message_primary
            raise StoreError(
                f"{said}: use the role that migrated the database, or GRANT EXECUTE to this one"
            ) from None
        except psycopg.Error as error:
            raise StoreError(f"Postgres says: {error.diag.message_primary or error}") from error


def _text_logs(settings: Settings) -> Settings:
    """For commands that people watch: logs as text, unless they asked for something else."""
    if "log_format" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_format": "text"})
    configure_logging(settings.log_level, settings.log_format)
    return settings


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def main() -> None:
    """The console script: what Luthien says in words is shown without a traceback."""
    try:
        cli()
    except LuthienError as error:
        typer.echo(f"luthien: {error}", err=True)
        sys.exit(1)
