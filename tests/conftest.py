"""What tests share: a real Postgres, started once, and a database of its own for each test that wants one."""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from tests.playbook import Gateway, ScriptedProvider, running_gateway

# How properties are tried: however slow or busy the machine is.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_DAY_S = 86_400


def pytest_sessionfinish() -> None:
    if (browser := sys.modules.get("tests.browser")) is not None:
        browser.close_browser()


@contextmanager
def _reachable_directory() -> Iterator[Path]:
    """A temporary directory that others can enter, as the account must that runs Postgres for root."""
    with tempfile.TemporaryDirectory(prefix="luthien-test-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def same_day() -> None:
    """For tests that say which day it is, in UTC: none of them begins in the last minute of one."""
    left_s = _DAY_S - time.time() % _DAY_S
    if left_s < 60:
        time.sleep(left_s)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory for a Luthien of the test's own."""
    with _reachable_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """A running server, as its superuser."""
    with _reachable_directory() as directory, embedded_postgres(directory / "postgres") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def migrated_template(postgres_dsn: str) -> str:
    """The name of a database with the current schema, to be cloned."""
    name = "luthien_template"
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    migrate(make_conninfo(postgres_dsn, dbname=name))
    return name


def _database(postgres_dsn: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(create)
    yield make_conninfo(postgres_dsn, dbname=name)
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[str]:
    """The DSN of an empty database, dropped afterwards."""
    yield from _database(postgres_dsn, "template1")


@pytest.fixture
def record_database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """The DSN of a database with the current schema and no calls, dropped afterwards."""
    yield from _database(postgres_dsn, migrated_template)


@pytest.fixture(scope="module")
def module_record_database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """Like `record_database`, for all tests of a module."""
    yield from _database(postgres_dsn, migrated_template)


@pytest.fixture(scope="module")
def empty_record_database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """The same, in which no test of the module records anything."""
    yield from _database(postgres_dsn, migrated_template)


@pytest.fixture(scope="session")
def shared_record_database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """The same for all tests that want one, each of which must tell its own calls from theirs."""
    yield from _database(postgres_dsn, migrated_template)


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[ScriptedProvider]:
    """Like `provider`, for all tests of a module."""
    scripted = ScriptedProvider()
    yield scripted
    scripted.close()


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A provider whose every byte the test decides."""
    scripted = ScriptedProvider()
    yield scripted
    scripted.close()


@pytest.fixture
def gateway(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    """A gateway without policies, in front of the scripted provider."""
    with running_gateway(record_database, provider.url) as running:
        yield running
