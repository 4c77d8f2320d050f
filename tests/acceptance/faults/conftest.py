"""What the scenarios share: a Postgres of their own to be stopped, a provider, and a place to say what was found."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.store.migrate import migrate
from tests.acceptance.faults import figures
from tests.acceptance.faults.deployment import Deployment
from tests.acceptance.faults.form import FORM
from tests.acceptance.faults.postgres import PostgresServer, postgres_server
from tests.acceptance.faults.provider import provider_process


@pytest.fixture(scope="package")
def _server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(_server: PostgresServer) -> Iterator[PostgresServer]:
    """Runs when the test begins, and again when it has ended, whatever was done to it."""
    yield _server
    _server.start()


@pytest.fixture(scope="package")
def provider_url() -> Iterator[str]:
    with provider_process() as url:
        yield url


@pytest.fixture
def deployment(_server: PostgresServer, provider_url: str, data_dir: Path) -> Deployment:
    """A database with the current schema and no calls, and all that a gateway needs to serve."""
    name = f"faults_{uuid.uuid4().hex}"
    with psycopg.connect(_server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = make_conninfo(_server.dsn, dbname=name)
    migrate(dsn)
    return Deployment(data_dir, dsn, provider_url)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if figures.lines:
        terminalreporter.section(f"faults ({FORM.name})")
        for _, line in sorted(figures.lines):
            terminalreporter.write_line(line)
