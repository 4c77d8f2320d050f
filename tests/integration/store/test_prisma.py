"""Prisma's own engine agrees: schema.prisma is sound, the migrations build it, and the books are in order.

The engine is the WebAssembly build that Prisma publishes; tests/prisma holds a script that puts questions to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from luthien.store.migrate import PRISMA_LOCK, migrate, migrations_folder, pending, read_migrations
from luthien.store.partitions import PartitionKeeper
from tests.node import NODE, installed

ROOT = Path(__file__).parents[3]
CONTROL_PLANE = ROOT / "prisma" / "control_plane"

Ask = Callable[..., dict[str, Any]]

NAMES = [migration.name for migration in read_migrations(migrations_folder())]
IN_ORDER = {"editedMigrationNames": [], "failedMigrationNames": [], "hasMigrationsTable": True, "history": None}


@pytest.fixture(scope="session")
def script() -> Path:
    """The script, in a folder where its packages are installed."""
    return installed(ROOT / "tests" / "prisma") / "check.mjs"


@pytest.fixture
def ask(script: Path, database: str) -> Ask:
    """Puts one question about the database; a refusal of the engine is a CalledProcessError."""

    def ask(command: str, folder: Path = CONTROL_PLANE) -> dict[str, Any]:
        question: list[str | Path] = [NODE, script, command, folder]
        done = subprocess.run(question, env=address(database), stdout=subprocess.PIPE, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return ask


def address(dsn: str) -> dict[str, str]:
    """A DSN as the environment variables that every client of Postgres knows."""
    parts = conninfo_to_dict(dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {variable: str(parts[name]) for name, variable in names.items() if name in parts}


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def migrated(database: str, conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A database as it is in use: migrated by Luthien, with some days."""
    migrate(database)
    PartitionKeeper().ensure(conn, [date(2026, 11, 22), date(2026, 11, 23)])
    return conn


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of the control plane whose schema.prisma says something else."""
    folder = tmp_path / "control_plane"
    shutil.copytree(CONTROL_PLANE, folder)
    text = (folder / "schema.prisma").read_text()
    assert old in text
    (folder / "schema.prisma").write_text(text.replace(old, new, 1))
    return folder


class TestTheSchema:
    def test_is_valid_and_formatted(self, ask: Ask) -> None:
        assert ask("validate") == {"valid": True}
        assert ask("format") == {"formatted": True}

    def test_would_be_found_invalid_or_unformatted(self, ask: Ask, tmp_path: Path) -> None:
        with pytest.raises(subprocess.CalledProcessError):
            ask("validate", edited(tmp_path / "1", "@db.Uuid", "@db.Nonsense"))
        assert ask("format", edited(tmp_path / "2", "sequence  ", "sequence ")) == {"formatted": False}

    @pytest.mark.usefixtures("migrated")
    def test_is_what_the_migrations_build(self, ask: Ask) -> None:
        """The days' partitions and all that Prisma has no words for are no difference to it."""
        assert ask("drift") == {"drifted": False, "summary": "No difference detected.\n"}

    @pytest.mark.parametrize(
        ("change", "seen"),
        [
            ("ALTER TABLE conversation_calls DROP COLUMN policies CASCADE", "Added column `policies`"),
            ("ALTER TABLE conversation_calls ADD COLUMN more int", "Removed column `more`"),
            ("ALTER TABLE conversation_calls ALTER stages_stored TYPE bigint", "Altered column `stages_stored`"),
            ("ALTER TABLE conversation_events ALTER trace_id SET NOT NULL", "Altered column `trace_id`"),
            ("ALTER TABLE conversation_events ALTER attributes DROP DEFAULT", "default changed"),
            ("DROP INDEX conversation_calls_session_id_call_id_idx", "Added index"),
            ("ALTER INDEX conversation_calls_session_id_call_id_idx RENAME TO other", "Renamed index"),
            ("ALTER TABLE conversation_quarantine DROP CONSTRAINT conversation_quarantine_pkey", "primary key"),
            ("DROP TABLE conversation_quarantine", "Added tables"),
        ],
    )
    def test_any_difference_is_reported(
        self, ask: Ask, migrated: psycopg.Connection[Any], change: str, seen: str
    ) -> None:
        migrated.execute(change.encode())
        answer = ask("drift")
        assert answer["drifted"]
        assert seen.lower() in answer["summary"].lower()

    @pytest.mark.usefixtures("migrated")
    def test_a_field_that_no_migration_makes_is_reported(self, ask: Ask, tmp_path: Path) -> None:
        folder = edited(tmp_path, "  outcome   ", "  other String?\n  outcome   ")
        assert "Added column `other`" in ask("drift", folder)["summary"]


class TestTheBooks:
    @pytest.mark.usefixtures("migrated")
    def test_prisma_finds_what_luthien_migrated_up_to_date(self, ask: Ask) -> None:
        assert ask("status") == IN_ORDER
        assert ask("deploy") == {"appliedMigrationNames": []}

    def test_prisma_sees_no_reason_to_reset_what_luthien_migrated(
        self, ask: Ask, migrated: psycopg.Connection[Any]
    ) -> None:
        """It applies the migrations to a shadow database and compares."""
        assert ask("dev") == {"action": {"tag": "createMigration"}}
        migrated.execute("ALTER TABLE conversation_calls DROP COLUMN policies CASCADE")
        assert ask("dev")["action"]["tag"] == "reset"

    def test_luthien_finds_what_prisma_migrated_up_to_date(
        self, ask: Ask, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        assert ask("deploy") == {"appliedMigrationNames": NAMES}
        assert pending(conn) == []
        assert migrate(database) == []
        assert ask("drift")["drifted"] is False

    def test_both_make_the_same_books(self, ask: Ask, database: str, conn: psycopg.Connection[Any]) -> None:
        query = "SELECT migration_name, checksum, applied_steps_count, logs, rolled_back_at FROM _prisma_migrations"
        shape = "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute WHERE attnum > 0"
        shape += " AND attrelid = '_prisma_migrations'::regclass ORDER BY attnum"
        ask("deploy")
        by_prisma = conn.execute(query).fetchall(), conn.execute(shape.encode()).fetchall()
        conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        migrate(database)
        assert (conn.execute(query).fetchall(), conn.execute(shape.encode()).fetchall()) == by_prisma

    def test_prisma_notices_what_luthien_would_refuse(self, ask: Ask, migrated: psycopg.Connection[Any]) -> None:
        migrated.execute("UPDATE _prisma_migrations SET checksum = 'of another file'")
        assert ask("status") == IN_ORDER | {"editedMigrationNames": NAMES}
        migrated.execute("UPDATE _prisma_migrations SET finished_at = NULL")
        assert ask("status")["failedMigrationNames"] == NAMES

    def test_prisma_waits_for_the_lock_that_luthien_holds(
        self, script: Path, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        waiting = "SELECT FROM pg_locks JOIN pg_database ON database = pg_database.oid WHERE NOT granted"
        waiting += " AND locktype = 'advisory' AND datname = current_database()"
        conn.execute("SELECT pg_advisory_lock(%s)", (PRISMA_LOCK,))
        with subprocess.Popen([NODE, script, "deploy", CONTROL_PLANE], env=address(database)) as prisma:
            while not conn.execute(waiting.encode()).fetchall():
                assert prisma.poll() is None
            assert pending(conn) == NAMES
            conn.execute("SELECT pg_advisory_unlock(%s)", (PRISMA_LOCK,))
            assert prisma.wait(60) == 0
        assert pending(conn) == []
