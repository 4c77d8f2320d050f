"""The commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from luthien import __version__
from luthien.app import build_app
from luthien.debug.signin import new_token
from luthien.errors import ConfigError, LuthienError
from luthien.server import Server, WorkerConfig, Workers, address_of, listen, server_options, sign_in_link
from luthien.settings import Settings, read_settings
from luthien.store.migrate import migrate as apply_migrations
from luthien.telemetry.logs import configure_logging

cli = typer.Typer(
    name="luthien",
    help="An OpenTelemetry-native control gateway for LLM traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.command()
def up() -> None:
    """Run everything on this machine: Postgres (unless DATABASE_URL is set), gateway and debug pages."""
    settings = _text_logs(read_settings())
    with local_settings(settings) as settings, listen(settings) as listener:
        address = address_of(listener)

        def say() -> None:
            _say("Luthien is up.")
            _say(f"  OpenAI clients:     OPENAI_BASE_URL={address}/v1")
            _say(f"  Anthropic clients:  ANTHROPIC_BASE_URL={address}")
            _say(f"  Debug pages:        {sign_in_link(address, settings)}")

        Server(build_app(settings).asgi, settings, say).run(sockets=[listener])


@cli.command()
def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="Leave after the calls; status 0 if all is well.")] = False,
) -> None:
    """Run `up` with a small real model and an example policy, make four calls, and show what became of them."""
    from luthien.demo.run import check_installed, run_demo

    check_installed()
    settings = _text_logs(read_settings())
    with local_settings(settings) as settings:
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
        config = WorkerConfig("luthien.app:create_app", factory=True, workers=workers, **server_options(settings))
        Workers(config, [listener]).run()


@cli.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to run at any time, from several places at once."""
    settings = read_settings()
    if settings.database_url is None:
        raise ConfigError("DATABASE_URL is not set: which database is to be migrated?")
    applied = apply_migrations(settings.database_url.get_secret_value(), progress=_say)
    _say(f"{len(applied)} migrations applied" if applied else "the schema is up to date")


@cli.command()
def version() -> None:
    """Print the version."""
    _say(__version__)


@contextmanager
def local_settings(settings: Settings) -> Iterator[Settings]:
    """The settings with a migrated database and a debug token in them, both made here where none is given."""
    with _database(settings) as dsn:
        apply_migrations(dsn, progress=_say)
        token = settings.debug_token or SecretStr(_kept_token(settings.data_dir / "debug-token"))
        yield settings.model_copy(update={"database_url": SecretStr(dsn), "debug_token": token})


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    from luthien.store.embedded import embedded_postgres  # Unix only, and what `serve` never needs

    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with embedded_postgres(settings.data_dir / "postgres", progress=_say) as dsn:
        yield dsn


def _kept_token(path: Path) -> str:
    """The token in that file, which only its owner can read; made when there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(new_token())
    except FileExistsError:
        pass
    token = path.read_text().strip()
    if not token:
        raise ConfigError(f"{path} is empty: remove it, and Luthien makes a new token")
    return token


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
