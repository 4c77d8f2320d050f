"""The migrations are applied once, whole, in order, and only where nothing surprising is found."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from luthien.store.migrate import (
    PRISMA_LOCK,
    MigrationError,
    migrate,
    migrations_folder,
    pending,
    read_migrations,
)
from tests.playbook import eventually

NAMES = [migration.name for migration in read_migrations(migrations_folder())]
TABLES = {"conversation_calls", "conversation_events", "conversation_quarantine"}


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small migrations in Prisma's layout."""
    write_migration(tmp_path, "1_one", "CREATE TABLE one (id int);")
    write_migration(tmp_path, "2_two", "CREATE TABLE two (id int);\nALTER TABLE one ADD COLUMN two int;")
    return tmp_path


def write_migration(folder: Path, name: str, script: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "migration.sql").write_text(script)


def tables(conn: psycopg.Connection[Any]) -> set[str]:
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    return {name for (name,) in conn.execute(query)}


def books(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM _prisma_migrations ORDER BY started_at").fetchall()


class TestWhatIsApplied:
    def test_an_empty_database_gets_every_migration_and_then_none_is_pending(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        assert pending(conn) == NAMES
        assert migrate(database) == NAMES
        assert pending(conn) == []
        assert tables(conn) >= TABLES

    def test_a_second_run_does_nothing(self, database: str, conn: psycopg.Connection[Any]) -> None:
        migrate(database)
        before = books(conn)
        assert migrate(database) == []
        assert books(conn) == before

    def test_the_books_are_as_prisma_keeps_them(self, database: str, conn: psycopg.Connection[Any]) -> None:
        migrate(database)
        for entry, migration in zip(books(conn), read_migrations(migrations_folder()), strict=True):
            assert str(UUID(entry["id"])) == entry["id"]
            assert entry["migration_name"] == migration.name
            assert entry["checksum"] == migration.checksum
            assert entry["finished_at"] >= entry["started_at"]
            assert (entry["applied_steps_count"], entry["logs"], entry["rolled_back_at"]) == (1, None, None)

    def test_tables_of_others_are_left_alone(self, database: str, conn: psycopg.Connection[Any]) -> None:
        conn.execute("CREATE TABLE theirs AS SELECT 1 AS id")
        assert migrate(database) == NAMES
        assert conn.execute("SELECT id FROM theirs").fetchall() == [(1,)]

    def test_only_what_is_new_is_applied_and_in_order(
        self, database: str, conn: psycopg.Connection[Any], folder: Path
    ) -> None:
        lines: list[str] = []
        assert migrate(database, folder=folder) == ["1_one", "2_two"]
        write_migration(folder, "3_three", "CREATE TABLE three (id int);")
        assert migrate(database, folder=folder, progress=lines.append) == ["3_three"]
        assert lines == ["applying migration 3_three"]
        assert tables(conn) == {"one", "two", "three", "_prisma_migrations"}

    def test_the_schema_is_the_first_of_the_search_path(self, database: str, conn: psycopg.Connection[Any]) -> None:
        conn.execute("CREATE SCHEMA elsewhere")
        dsn = make_conninfo(database, options="-c search_path=elsewhere")
        assert migrate(dsn) == NAMES
        assert tables(conn) == set()
        with psycopg.connect(dsn) as inside:
            assert pending(inside) == []

    def test_pending_reads_on_a_connection_with_any_row_factory(self, database: str) -> None:
        with psycopg.connect(database, row_factory=dict_row) as conn:
            assert pending(conn) == NAMES
            conn.rollback()
            migrate(database)
            assert pending(conn) == []

    def test_migrations_of_a_newer_version_are_not_pending(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        migrate(database)
        conn.execute(
            "INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at)"
            " VALUES ('x', 'x', '9_x', now())"
        )
        assert pending(conn) == []

    def test_a_statement_timeout_of_the_role_does_not_stop_a_migration(self, database: str, tmp_path: Path) -> None:
        write_migration(tmp_path, "1_slow", "SELECT pg_sleep(0.5);")
        assert migrate(make_conninfo(database, options="-c statement_timeout=100"), folder=tmp_path) == ["1_slow"]


class TestWhatIsRefused:
    def test_an_edited_migration(self, database: str, folder: Path) -> None:
        migrate(database, folder=folder)
        write_migration(folder, "1_one", "CREATE TABLE one (id int); ")
        with pytest.raises(MigrationError, match="1_one is not the one that was applied"):
            migrate(database, folder=folder)

    def test_migrations_that_this_version_does_not_know(self, database: str, folder: Path) -> None:
        migrate(database, folder=folder)
        with pytest.raises(MigrationError, match="does not know: 1_one, 2_two"):
            migrate(database)

    def test_a_migration_that_was_begun_and_did_not_finish(
        self, database: str, conn: psycopg.Connection[Any], folder: Path
    ) -> None:
        migrate(database, folder=folder)
        conn.execute("UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name = '2_two'")
        with pytest.raises(MigrationError, match=r"2_two was begun.*resolve --rolled-back 2_two"):
            migrate(database, folder=folder)

    def test_one_that_was_rolled_back_is_applied_again(
        self, database: str, conn: psycopg.Connection[Any], folder: Path
    ) -> None:
        migrate(database, folder=folder)
        conn.execute(
            "UPDATE _prisma_migrations SET finished_at = NULL, rolled_back_at = now(), checksum = 'of another file'"
            " WHERE migration_name = '2_two'"
        )
        conn.execute("DROP TABLE two; ALTER TABLE one DROP COLUMN two")
        assert migrate(database, folder=folder) == ["2_two"]
        assert len(books(conn)) == 3

    def test_a_user_who_may_not_create_is_told_what_to_grant(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        role = f"guest_{uuid4().hex}"
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'guest'").format(sql.Identifier(role)))
        try:
            with pytest.raises(MigrationError, match=rf"{role} may not .*permission denied.*GRANT CREATE ON SCHEMA"):
                migrate(make_conninfo(database, user=role, password="guest"))
            assert tables(conn) == set()
        finally:
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def test_a_user_who_may_not_read_the_books_is_told_what_to_grant(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        migrate(database)
        role = sql.Identifier(f"guest_{uuid4().hex}")
        conn.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            conn.execute(sql.SQL("SET ROLE {}").format(role))
            with pytest.raises(MigrationError, match="may not read _prisma_migrations: GRANT SELECT"):
                pending(conn)
        finally:
            conn.execute("RESET ROLE")
            conn.execute(sql.SQL("DROP ROLE {}").format(role))

    def test_a_database_that_is_not_utf8(self, postgres_dsn: str) -> None:
        name = f"latin_{uuid4().hex}"
        with psycopg.connect(postgres_dsn, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").format(
                    sql.Identifier(name)
                )
            )
            try:
                with pytest.raises(MigrationError, match="encoding is LATIN1"):
                    migrate(make_conninfo(postgres_dsn, dbname=name))
            finally:
                conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))

    def test_an_address_that_cannot_be_read_is_not_repeated(self) -> None:
        """libpq's own message holds the whole address, password included."""
        with pytest.raises(MigrationError) as caught:
            migrate("postgresql://luthien:s3cret@[::1")
        assert "s3cret" not in f"{caught.value}{caught.value.__cause__}"

    def test_an_address_of_prismas_kind_with_what_to_say_instead(self, database: str) -> None:
        with pytest.raises(MigrationError, match=re.escape("say ?options=-c%20search_path%3DNAME")):
            migrate("postgresql://luthien:s3cret@127.0.0.1:1/x?schema=elsewhere")
        parts = conninfo_to_dict(database)
        address = "postgresql://{user}:{password}@{host}:{port}/{dbname}?options=-c%20search_path%3Dpublic"
        assert migrate(address.format(**parts)) == NAMES

    def test_a_server_that_is_not_there(self) -> None:
        with pytest.raises(MigrationError, match="cannot connect to Postgres"):
            migrate("postgresql://luthien:s3cret@127.0.0.1:1/x")


class TestWhatFails:
    def test_a_migration_that_fails_leaves_nothing_and_those_before_it_stay(
        self, database: str, conn: psycopg.Connection[Any], folder: Path
    ) -> None:
        write_migration(folder, "3_bad", "CREATE TABLE three (id int);\nCREATE TABLE four (id nonsense);")
        with pytest.raises(MigrationError, match=r'3_bad failed: type "nonsense" does not exist \(line 2'):
            migrate(database, folder=folder)
        assert tables(conn) == {"one", "two", "_prisma_migrations"}
        write_migration(folder, "3_bad", "CREATE TABLE three (id int);")
        assert migrate(database, folder=folder) == ["3_bad"]

    def test_a_table_of_the_same_name_stops_the_first_migration_whole(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        conn.execute("CREATE TABLE conversation_quarantine (theirs int)")
        with pytest.raises(MigrationError, match='relation "conversation_quarantine" already exists'):
            migrate(database)
        assert tables(conn) == {"conversation_quarantine"}

    def test_a_migrator_killed_in_the_middle_leaves_nothing(
        self, database: str, conn: psycopg.Connection[Any], tmp_path: Path
    ) -> None:
        write_migration(tmp_path, "1_half", "CREATE TABLE half (id int);\nSELECT pg_advisory_lock(1);")
        conn.execute("SELECT pg_advisory_lock(1)")
        migrator = start_migrator(database, tmp_path)
        wait_until_in_the_middle(conn)
        migrator.send_signal(signal.SIGKILL)
        migrator.communicate()
        conn.execute("SELECT pg_advisory_unlock(1)")
        write_migration(tmp_path, "1_half", "CREATE TABLE half (id int);")
        assert migrate(database, folder=tmp_path) == ["1_half"]
        assert len(books(conn)) == 1

    def test_what_cannot_run_in_a_transaction_is_recorded_as_prisma_records_it(
        self, database: str, conn: psycopg.Connection[Any], folder: Path
    ) -> None:
        write_migration(folder, "3_index", "-- Beside the writers.\nCREATE INDEX CONCURRENTLY i ON one (id);")
        assert migrate(database, folder=folder) == ["1_one", "2_two", "3_index"]
        write_migration(folder, "4_bad", "CREATE INDEX CONCURRENTLY j ON one (no_such_column);")
        with pytest.raises(MigrationError, match="4_bad failed"):
            migrate(database, folder=folder)
        entry = books(conn)[-1]
        assert (entry["finished_at"], entry["applied_steps_count"]) == (None, 0)
        assert "no_such_column" in entry["logs"]
        with pytest.raises(MigrationError, match="4_bad was begun and did not finish"):
            migrate(database, folder=folder)


class TestTwoAtOnce:
    def test_of_four_processes_one_migrates_and_none_fails(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        migrators = [start_migrator(database, migrations_folder()) for _ in range(4)]
        said = [migrator.communicate(timeout=60)[0].strip() for migrator in migrators]
        assert [migrator.returncode for migrator in migrators] == [0] * 4
        assert sorted(said) == [str(NAMES), "[]", "[]", "[]"]
        assert len(books(conn)) == len(NAMES)

    def test_prismas_own_lock_is_waited_for(self, database: str, conn: psycopg.Connection[Any]) -> None:
        lines: list[str] = []
        waits = threading.Event()

        def note(line: str) -> None:
            lines.append(line)
            waits.set()

        conn.execute("SELECT pg_advisory_lock(%s)", (PRISMA_LOCK,))
        thread = threading.Thread(target=migrate, args=(database,), kwargs={"progress": note}, name="migrator")
        thread.start()
        assert waits.wait(30)
        assert tables(conn) == set()
        conn.execute("SELECT pg_advisory_unlock(%s)", (PRISMA_LOCK,))
        thread.join(30)
        assert lines == [
            "another process is migrating this database: waiting for it",
            *(f"applying migration {name}" for name in NAMES),
        ]

    def test_the_wait_for_the_lock_has_an_end(self, database: str, conn: psycopg.Connection[Any]) -> None:
        conn.execute("SELECT pg_advisory_lock(%s)", (PRISMA_LOCK,))
        with pytest.raises(
            MigrationError, match=re.escape("another process has been migrating this database for 0.3 s")
        ):
            migrate(database, lock_wait_s=0.3)

    def test_an_index_is_built_concurrently_while_another_migrator_waits(self, database: str, folder: Path) -> None:
        """Postgres waits for every older snapshot: a migrator that waited in SQL would be waited for in turn."""
        write_migration(folder, "3_index", "CREATE INDEX CONCURRENTLY i ON one (id);")
        migrators = [start_migrator(database, folder) for _ in range(3)]
        assert [migrator.wait(timeout=60) for migrator in migrators] == [0] * 3
        for migrator in migrators:
            migrator.communicate()


class TestWhereTheyAre:
    ROOT = Path(__file__).parents[3]

    def installed(self, site: Path) -> subprocess.CompletedProcess[str]:
        """Asks a copy of the package in another place."""
        program = "from luthien.store.migrate import migrations_folder; print(migrations_folder())"
        return subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_the_build_puts_them_inside_the_package_and_there_they_are_found(self, tmp_path: Path) -> None:
        build = tomllib.loads((self.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
        shutil.copytree(self.ROOT / "src" / "luthien", tmp_path / "luthien")
        for source, target in build["targets"]["wheel"]["force-include"].items():
            shutil.copytree(self.ROOT / source, tmp_path / target)
        found = Path(self.installed(tmp_path).stdout.strip())
        assert found == tmp_path / "luthien" / "prisma" / "control_plane" / "migrations"
        assert read_migrations(found) == read_migrations(migrations_folder())

    def test_a_package_without_them_says_so(self, tmp_path: Path) -> None:
        shutil.copytree(self.ROOT / "src" / "luthien", tmp_path / "luthien")
        assert "this installation of Luthien is not whole" in self.installed(tmp_path).stderr


def start_migrator(dsn: str, folder: Path) -> subprocess.Popen[str]:
    program = "import sys; from pathlib import Path; from luthien.store.migrate import migrate; "
    program += "print(migrate(sys.argv[1], folder=Path(sys.argv[2])))"
    return subprocess.Popen([sys.executable, "-c", program, dsn, str(folder)], stdout=subprocess.PIPE, text=True)


def wait_until_in_the_middle(conn: psycopg.Connection[Any]) -> None:
    """Until a migrator waits for the lock that its migration asks for."""
    query = (
        "SELECT FROM pg_locks JOIN pg_database AS here ON here.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND objid = 1 AND NOT granted"
    )
    assert eventually(lambda: conn.execute(query).fetchall(), bool), "the migrator never came to its lock"
