"""Applies the migrations in prisma/control_plane, and keeps the books that Prisma keeps.

`prisma migrate deploy` and `luthien migrate` may both be used on one database: they take the same advisory lock and
read and write the same `_prisma_migrations` (docs/decisions/0002-prisma.md). Both need a connection of their own: an
advisory lock belongs to a session, which a pooler in transaction mode does not give.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg.rows import tuple_row

from luthien.errors import StoreError

PRISMA_LOCK = 72707369
"""The advisory lock that Prisma's engine takes before it migrates."""

MINIMUM_SERVER_VERSION = 150000
"""The first Postgres with `security_invoker` views."""

_NEEDS_NO_TRANSACTION = re.compile(rb"(?im)^\s*(CREATE|DROP|REINDEX)\b[^;]*\bCONCURRENTLY\b")

_CREATE_BOOKS = """
    CREATE TABLE IF NOT EXISTS _prisma_migrations (
        id varchar(36) PRIMARY KEY,
        checksum varchar(64) NOT NULL,
        finished_at timestamptz,
        migration_name varchar(255) NOT NULL,
        logs text,
        rolled_back_at timestamptz,
        started_at timestamptz NOT NULL DEFAULT now(),
        applied_steps_count integer NOT NULL DEFAULT 0
    )
"""
_BEGIN = "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES (%s, %s, %s)"
_FINISH = "UPDATE _prisma_migrations SET finished_at = clock_timestamp(), applied_steps_count = 1 WHERE id = %s"
_FAIL = "UPDATE _prisma_migrations SET logs = %s WHERE id = %s"
_READ_BOOKS = """
    SELECT migration_name, checksum, finished_at IS NOT NULL
    FROM _prisma_migrations WHERE rolled_back_at IS NULL ORDER BY started_at
"""

_Connection = psycopg.Connection[tuple[Any, ...]]


class MigrationError(StoreError):
    """The schema could not be brought up to date; the message says who must do what."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One folder of the migrations: its name, which orders it, and its SQL."""

    name: str
    sql: bytes

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql).hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the books that was not rolled back."""

    name: str
    checksum: str
    is_finished: bool


def _say_nothing(line: str) -> None:
    del line


def migrate(
    dsn: str,
    *,
    progress: Callable[[str], None] = _say_nothing,
    folder: Path | None = None,
    lock_wait_s: float = 60.0,
) -> list[str]:
    """Applies what is pending, oldest first, and returns the names; raises MigrationError.

    Each migration is one transaction together with its line in the books, so one that fails, or is killed, leaves
    nothing. The exception is what Postgres refuses to run in a transaction (`CONCURRENTLY`): as with Prisma, its line
    is left unfinished and stops every later run until somebody has looked. `progress` is given a line for people
    before each step that may take long.
    """
    known = read_migrations(folder or migrations_folder())
    with connect(dsn, "luthien migrate") as conn:
        _check_server(conn)
        _take_lock(conn, progress, lock_wait_s)
        entries = _read_books(conn)
        _refuse_surprises(known, entries)
        todo = _without(known, entries)
        for migration in todo:
            progress(f"applying migration {migration.name}")
            _apply(conn, migration)
    return [migration.name for migration in todo]


def pending(conn: psycopg.Connection[Any]) -> list[str]:
    """The migrations of this version that the database lacks, oldest first; one small read.

    Migrations of a newer version do not count: while that is rolled out, this one goes on serving.
    """
    return [migration.name for migration in _without(_packaged(), _read_books(conn))]


def migrations_folder() -> Path:
    """Where the migrations are: inside the package in a wheel, at the root of the project in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for parent in (package, package.parents[1]):
        folder = parent / "prisma" / "control_plane" / "migrations"
        if (folder / "migration_lock.toml").is_file():
            return folder
    raise MigrationError(f"no migrations beside {package}: this installation of Luthien is not whole")


def read_migrations(folder: Path) -> tuple[Migration, ...]:
    """The migrations in a folder of Prisma's layout, in the order in which they apply."""
    files = sorted(folder.glob("*/migration.sql"), key=lambda file: file.parent.name)
    return tuple(Migration(file.parent.name, file.read_bytes()) for file in files)


@cache
def _packaged() -> tuple[Migration, ...]:
    return read_migrations(migrations_folder())


def connect(dsn: str, name: str) -> _Connection:
    """A connection for a command, which may take its time; raises MigrationError."""
    try:
        conn = psycopg.connect(dsn, autocommit=True, client_encoding="UTF8", fallback_application_name=name)
    except psycopg.ProgrammingError as error:
        # Not chained: libpq may quote the whole address, with its password.
        message = "the database's address is not one that Postgres's library understands"
        if 'parameter: "schema"' in str(error):
            message += " (?schema=NAME is Prisma's; say ?options=-c%20search_path%3DNAME)"
        raise MigrationError(message) from None
    except psycopg.Error as error:
        raise MigrationError(f"cannot connect to Postgres: {error}") from error
    conn.execute("SET statement_timeout = 0")
    return conn


def _check_server(conn: _Connection) -> None:
    if conn.info.server_version < MINIMUM_SERVER_VERSION:
        raise MigrationError(f"Postgres 15 or newer is needed, this is {conn.info.server_version // 10000}")
    encoding = conn.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise MigrationError(f"the database's encoding is {encoding}; create one with ENCODING 'UTF8'")


def _take_lock(conn: _Connection, progress: Callable[[str], None], wait_s: float) -> None:
    """Held until the connection closes.

    Asks again and again rather than wait inside Postgres: a waiting statement holds a snapshot, for which a
    `CREATE INDEX CONCURRENTLY` of the lock's owner would wait in turn.
    """
    deadline = time.monotonic() + wait_s
    told = False
    while not _value(conn, "SELECT pg_try_advisory_lock(%s)", PRISMA_LOCK):
        if time.monotonic() >= deadline:
            raise MigrationError(f"another process has been migrating this database for {wait_s:g} s")
        if not told:
            progress("another process is migrating this database: waiting for it")
            told = True
        time.sleep(0.1)


def _read_books(conn: psycopg.Connection[Any]) -> list[_Entry]:
    if _value(conn, "SELECT to_regclass('_prisma_migrations')") is None:
        return []
    try:
        with conn.cursor(row_factory=tuple_row) as cursor:
            return [_Entry(*row) for row in cursor.execute(_READ_BOOKS)]
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(f"{conn.info.user} may not read _prisma_migrations: GRANT SELECT on it") from error


def _value(conn: psycopg.Connection[Any], query: LiteralString, *parameters: object) -> object:
    with conn.cursor(row_factory=tuple_row) as cursor:
        [(value,)] = cursor.execute(query, parameters)
    return value


def _without(known: Sequence[Migration], entries: Sequence[_Entry]) -> list[Migration]:
    finished = {entry.name for entry in entries if entry.is_finished}
    return [migration for migration in known if migration.name not in finished]


def _refuse_surprises(known: Sequence[Migration], entries: Sequence[_Entry]) -> None:
    checksums = {migration.name: migration.checksum for migration in known}
    if unknown := [entry.name for entry in entries if entry.name not in checksums]:
        raise MigrationError(
            f"the database has migrations that this version does not know: {', '.join(unknown)}. It was migrated by a"
            " newer Luthien, or it is another application's: then give Luthien a database of its own"
        )
    if unfinished := [entry.name for entry in entries if not entry.is_finished]:
        raise MigrationError(
            f"migration {unfinished[0]} was begun and did not finish. See what it left in the database and remove it,"
            f" then run `prisma migrate resolve --rolled-back {unfinished[0]}`, or set rolled_back_at in its row of"
            " _prisma_migrations, and migrate again"
        )
    if changed := [entry.name for entry in entries if entry.checksum != checksums[entry.name]]:
        raise MigrationError(
            f"migration {changed[0]} is not the one that was applied, their checksums differ: restore its file"
            " (an applied migration is never edited, a new one is added)"
        )


def _apply(conn: _Connection, migration: Migration) -> None:
    try:
        if _NEEDS_NO_TRANSACTION.search(migration.sql):
            _apply_in_steps(conn, migration)
        else:
            with conn.transaction():
                entry_id = _begin(conn, migration)
                conn.execute(migration.sql, prepare=False)
                conn.execute(_FINISH, (entry_id,))
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            f"{conn.info.user} may not apply migration {migration.name}: {error.diag.message_primary}. Migrate as the"
            f" owner of database {conn.info.dbname}, or GRANT CREATE ON SCHEMA to this user"
        ) from error
    except psycopg.Error as error:
        raise MigrationError(f"migration {migration.name} failed: {_explain(error, migration)}") from error


def _apply_in_steps(conn: _Connection, migration: Migration) -> None:
    entry_id = _begin(conn, migration)
    try:
        conn.execute(migration.sql, prepare=False)
    except psycopg.Error as error:
        if not conn.broken:
            conn.execute(_FAIL, (str(error), entry_id))
        raise
    conn.execute(_FINISH, (entry_id,))


def _begin(conn: _Connection, migration: Migration) -> str:
    entry_id = str(uuid4())
    conn.execute(_CREATE_BOOKS)
    conn.execute(_BEGIN, (entry_id, migration.checksum, migration.name))
    return entry_id


def _explain(error: psycopg.Error, migration: Migration) -> str:
    message = error.diag.message_primary or str(error).strip()
    if error.diag.statement_position is None:
        return message
    before = migration.sql.decode()[: int(error.diag.statement_position)]
    return f"{message} (line {before.count(chr(10)) + 1} of its SQL)"
