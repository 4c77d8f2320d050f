"""The reports: what a reader sees, what it does not, whom the command refuses, and which days a report looks into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from luthien.cli import cli
from luthien.exchange import call_time_ms, new_call_id
from luthien.store.migrate import migrate, migrations_folder
from luthien.store.partitions import PartitionKeeper
from luthien.store.reports import REPORTS, ReaderError, grant_reader
from tests.records import call_at

Conn = psycopg.Connection[Any]
SECRET = "sesame-4711"
DAYS = [date(2026, 11, day) for day in range(18, 23)]
_FILLING = """
    INSERT INTO conversation_calls
        (call_id, outcome, error_type, error_message, policies, records_emitted, records_stored)
    VALUES (%(id)s, 'blocked', 'blocked', %(secret)s, '[{"name": "redact"}, 3]', 3, 2);
    INSERT INTO conversation_events
        (call_id, sequence, event_type, recorded_at, payload, payload_is_jsonb_safe, attributes)
    VALUES (%(id)s, 0, 'policy_decision', now(), %(payload)s, true, %(attributes)s);
    INSERT INTO conversation_quarantine (call_id, sequence, record_sha256, reason, error, payload, attributes)
    VALUES (%(id)s, 1, '', 'x', %(secret)s, %(payload)s, %(secret)s);
    INSERT INTO conversation_search (call_id, document, algo) VALUES (%(id)s, to_tsvector(%(secret)s), 1);
    INSERT INTO conversation_changes
        (call_id, number, side, op_id, action, kind, part, before_ptr, after_ptr, path)
    VALUES (%(id)s, 0, 'request', 'r1', 'add', 'text', 'message', %(secret)s, %(secret)s, '/…');
    INSERT INTO conversation_decisions
        (call_id, sequence, recorded_at, side, policy, version, action, changed, shadow)
    VALUES (%(id)s, 0, now(), 'request', 'redact', '1', 'block', false, false);
    INSERT INTO conversation_processes (process_id, host, stats)
    VALUES (%(id)s, 'host', jsonb_build_object('stored', 3, 'trouble', %(secret)s::text))
"""


@pytest.fixture
def conn(module_record_database: str) -> Iterator[Conn]:
    with psycopg.connect(module_record_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def role(conn: Conn) -> Iterator[str]:
    """A role that may log in and do nothing else, with a name that needs quotes."""
    yield from made_role(conn)


def made_role(conn: Conn) -> Iterator[str]:
    role = f'Re"ader {uuid4().hex[:8]}'
    name = sql.Identifier(role)
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'reader'").format(name))
    yield role
    conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
    conn.execute(sql.SQL("DROP ROLE {}").format(name))


def as_role(dsn: str, role: str) -> str:
    return make_conninfo(dsn, user=role, password="reader")


@pytest.fixture
def reader(module_record_database: str, role: str) -> Iterator[Conn]:
    grant_reader(module_record_database, role)
    with psycopg.connect(as_role(module_record_database, role), autocommit=True) as mine:
        yield mine


@pytest.fixture
def filled(conn: Conn) -> Iterator[UUID]:
    """The id of a call, which is gone afterwards."""
    call_id = fill(conn)
    yield call_id
    for table in in_schema(conn, "p") + ["conversation_processes"]:
        conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


def fill(conn: Conn) -> UUID:
    """A call with a secret wherever a payload may be, or be quoted."""
    call_id = new_call_id()
    attributes = json.dumps({"luthien.policy.name": "redact", "luthien.policy.reason": SECRET})
    given = {"id": call_id, "secret": SECRET, "payload": SECRET.encode(), "attributes": attributes}
    for statement in _FILLING.split(";"):
        conn.execute(statement.encode(), given)
    return call_id


def in_schema(conn: Conn, kinds: str) -> list[str]:
    asked = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind::text = ANY(%s)"
    return [name for (name,) in conn.execute(asked, (list(kinds),))]


class TestWhatAReaderSees:
    def test_every_report_and_no_payload(self, reader: Conn, filled: UUID) -> None:
        told = ""
        for report in REPORTS:
            rows = reader.execute(sql.SQL("SELECT row_to_json(r)::text FROM {} AS r").format(sql.Identifier(report)))
            found = "\n".join(row for (row,) in rows)
            assert found, report
            told += found
        assert told.count(str(filled)) >= 4
        assert SECRET not in told
        assert '"policies":["redact"]' in told
        assert '"is_complete":false' in told
        assert '"stats":{"stored": 3}' in told

    @pytest.mark.usefixtures("filled")
    def test_no_table_and_no_other_view(self, conn: Conn, reader: Conn) -> None:
        others = set(in_schema(conn, "rpvm")) - set(REPORTS)
        assert {"conversation_events", "conversation_events_json", "conversation_search_default"} <= others
        for name in others:
            for statement in ("SELECT * FROM {}", "SELECT count(*) FROM {}", "DELETE FROM {}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def test_it_writes_to_no_report(self, reader: Conn) -> None:
        for report in REPORTS:
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
                reader.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(report)))

    def test_no_function_that_tells_or_changes_anything(self, reader: Conn) -> None:
        for function in (
            "luthien_found('a', gen_random_uuid(), gen_random_uuid(), true, 10)",
            "luthien_changed_after('1', gen_random_uuid(), 10)",
            "luthien_unindexed(ARRAY[gen_random_uuid()], ARRAY[true])",
            "luthien_create_day(current_date)",
            "luthien_drop_day(date '2020-01-01', 1)",
            "luthien_drop_strays(1, 1)",
            "pg_read_file('postgresql.conf')",
            "pg_ls_dir('.')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"SELECT {function}".encode())

    def test_the_functions_that_it_may_run_are_known(self, reader: Conn) -> None:
        """A new one tells nothing, or is taken from PUBLIC."""
        asked = """
            SELECT proname FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(oid, 'EXECUTE')
        """
        assert {name for (name,) in reader.execute(asked)} == {
            "luthien_first_id",
            "luthien_is_alive",
            "luthien_tables",
            "luthien_partitions",
            "luthien_strays",  # how many rows of which day lie in a default partition
            "luthien_found",  # with the rights of whoever asks
            "luthien_changed_after",  # as well
        }

    @pytest.mark.usefixtures("filled")
    def test_what_anybody_may_do_who_can_log_in(self, conn: Conn, reader: Conn) -> None:
        """The names of things, sizes and settings; not what is in columns, nor what others ask."""
        conn.execute("ANALYZE")
        assert reader.execute("SELECT count(*) > 5 FROM pg_class WHERE relname LIKE 'conversation%'").fetchone() == (
            True,
        )
        assert reader.execute("SELECT count(*) FROM pg_stats WHERE tablename LIKE 'conversation%'").fetchone() == (0,)
        others = "SELECT DISTINCT query FROM pg_stat_activity WHERE usename <> current_user AND query <> ''"
        assert reader.execute(others.encode()).fetchall() == [("<insufficient privilege>",)]
        for forbidden in (
            "CREATE TABLE mine (id int)",
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE SCHEMA mine",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "ALTER TABLE conversation_calls ADD COLUMN mine int",
            "SELECT * FROM pg_authid",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(forbidden.encode())
        reader.execute("CREATE TEMPORARY TABLE mine (id int)")


class TestTheCommand:
    def run(self, dsn: str, role: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["migrate", "--reader", role], env={"DATABASE_URL": dsn})
        return result.exit_code, str(result.exception or result.output).strip()

    def test_migrates_and_grants_as_often_as_it_is_run(self, database: str) -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            for role in made_role(conn):
                assert self.run(database, role)[1].endswith(
                    f"{len(known())} migrations applied\n{role} may read the reports"
                )
                for _ in range(2):
                    assert self.run(database, role) == (0, f"the schema is up to date\n{role} may read the reports")
                with psycopg.connect(as_role(database, role)) as mine:
                    mine.execute("SELECT * FROM report_calls")

    def test_a_later_migration_takes_nothing_away_and_adds_nothing(
        self, record_database: str, role: str, tmp_path: Path
    ) -> None:
        grant_reader(record_database, role)
        folder = tmp_path / "migrations"
        shutil.copytree(migrations_folder(), folder)
        (folder / "30000101000000_more").mkdir()
        (folder / "30000101000000_more" / "migration.sql").write_text(
            "CREATE TABLE conversation_more (id int);\n"
            'CREATE OR REPLACE VIEW "report_decisions" AS SELECT *, 1 AS more FROM "conversation_decisions";\n'
        )
        assert migrate(record_database, folder=folder) == ["30000101000000_more"]
        with psycopg.connect(as_role(record_database, role), autocommit=True) as mine:
            for _ in range(2):
                mine.execute("SELECT more FROM report_decisions")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    mine.execute("SELECT * FROM conversation_more")
                grant_reader(record_database, role)
        with psycopg.connect(record_database, autocommit=True) as owner:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))

    def test_refuses_a_role_that_there_is_not(self, module_record_database: str) -> None:
        with pytest.raises(ReaderError, match='there is no role no one: CREATE ROLE "no one" LOGIN'):
            grant_reader(module_record_database, "no one")

    def test_refuses_who_is_not_the_owner(self, module_record_database: str, conn: Conn, role: str) -> None:
        for other in made_role(conn):
            with pytest.raises(ReaderError, match=f"{other} does not own the reports: run this as "):
                grant_reader(as_role(module_record_database, other), role)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("ALTER ROLE {} SUPERUSER", "may read every table"),
            ("GRANT pg_read_all_data TO {}", "may read every table"),
            ("GRANT SELECT ON conversation_events TO {}", "has rights to conversation_events"),
            ("GRANT SELECT (payload) ON conversation_quarantine TO {}", "has rights to conversation_quarantine"),
            ("GRANT INSERT ON conversation_calls_default TO {}", "has rights to conversation_calls_default"),
        ],
    )
    def test_refuses_a_role_that_may_do_more(
        self, module_record_database: str, conn: Conn, role: str, given: str, said: str
    ) -> None:
        conn.execute(sql.SQL(given).format(sql.Identifier(role)))
        with pytest.raises(ReaderError, match=said):
            grant_reader(module_record_database, role)

    def test_refuses_a_database_without_reports(self, database: str, conn: Conn, role: str) -> None:
        with pytest.raises(ReaderError, match=r"there is no report_calls, .*: run `luthien migrate` first"):
            grant_reader(database, role)


def known() -> list[Path]:
    return [*migrations_folder().glob("*/migration.sql")]


class TestTheRange:
    @pytest.mark.parametrize(
        "at",
        [
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2026, 11, 22, 15, 30, 0, 123_456, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ],
    )
    def test_begins_with_the_first_id_of_the_millisecond(self, conn: Conn, at: datetime) -> None:
        [(first,)] = conn.execute("SELECT luthien_first_id(%s)", (at,))
        assert call_time_ms(first) == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        assert first.int & ((1 << 80) - 1) == 0

    def test_a_call_of_a_time_is_in_its_range_and_not_in_the_next(self, conn: Conn) -> None:
        call_id = call_at(1_763_800_000.5)
        asked = "SELECT luthien_first_id(to_timestamp(%s)) <= %s AND luthien_first_id(to_timestamp(%s)) > %s"
        assert conn.execute(asked, (1_763_800_000.5, call_id, 1_763_800_000.501, call_id)).fetchone() == (True,)

    def test_knows_times_before_and_after_all_calls(self, conn: Conn) -> None:
        for at, expected in (
            ("-infinity", 0),
            ("1969-12-31", 0),
            ("infinity", 2**128 - 1),
            ("20000-01-01", 2**128 - 1),
        ):
            assert conn.execute("SELECT luthien_first_id(%s::timestamptz)", (at,)).fetchone() == (UUID(int=expected),)

    @pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
    def test_is_the_same_in_every_time_zone(self, conn: Conn, zone: str) -> None:
        conn.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
        assert conn.execute("SELECT luthien_first_id('2026-11-22T15:30:00.5Z')").fetchone() == (
            UUID(int=int(datetime(2026, 11, 22, 15, 30, 0, 500_000, tzinfo=UTC).timestamp() * 1000) << 80),
        )

    @pytest.mark.parametrize("report", ["report_calls", "report_decisions", "report_changes"])
    def test_looks_into_its_days_only_and_never_where_payloads_are(
        self, conn: Conn, reader: Conn, report: str
    ) -> None:
        PartitionKeeper().ensure(conn, DAYS)
        statement = (
            f"EXPLAIN (FORMAT JSON, VERBOSE) SELECT * FROM {report}"  # noqa: S608
            " WHERE call_id >= luthien_first_id('2026-11-20T23:00:00Z')"
            " AND call_id < luthien_first_id('2026-11-21T01:00:00Z')"
        )
        conn.execute("SET enable_seqscan = off")
        [(plan,)] = conn.execute(statement.encode())
        read = {node["Relation Name"] for node in nodes(plan[0]["Plan"]) if "Relation Name" in node}
        table = report.replace("report_", "conversation_")
        assert read == {f"{table}_20261120", f"{table}_20261121"}
        with pytest.raises(psycopg.errors.UndefinedColumn):
            reader.execute(f"SELECT payload FROM {report}".encode())  # noqa: S608


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.usefixtures("filled")
def test_partitions_are_told_with_their_days_and_sizes(conn: Conn, reader: Conn) -> None:
    PartitionKeeper().ensure(conn, DAYS[:1])
    conn.execute("ANALYZE")
    asked = "SELECT * FROM report_partitions WHERE table_name = 'conversation_calls'"
    found = reader.execute(asked).fetchall()
    told = {name: (table, day, size > 0, default) for table, name, day, size, _, default in found}
    assert told["conversation_calls_20261118"] == ("conversation_calls", DAYS[0], True, False)
    assert told["conversation_calls_default"] == ("conversation_calls", None, True, True)
    assert sum(rows for *_, rows, _ in found) == 1


def test_rights_to_changes_are_rights_to_decisions(database: str, tmp_path: Path) -> None:
    """Whoever indexed before the migration still does, and whoever recorded still may."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations_folder(), folder, ignore=shutil.ignore_patterns("*_reports"))
    migrate(database, folder=folder)
    with psycopg.connect(database, autocommit=True) as conn:
        for role in made_role(conn):
            name = sql.Identifier(role)
            conn.execute(sql.SQL("GRANT SELECT, INSERT, DELETE ON conversation_changes TO {}").format(name))
            conn.execute(sql.SQL("GRANT SELECT, INSERT ON conversation_calls TO {}").format(name))
            migrate(database)
            with psycopg.connect(as_role(database, role), autocommit=True) as mine:
                mine.execute("DELETE FROM conversation_decisions")
                mine.execute("SELECT luthien_unindexed(ARRAY[gen_random_uuid()], ARRAY[true])")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    mine.execute("UPDATE conversation_decisions SET policy = ''")
