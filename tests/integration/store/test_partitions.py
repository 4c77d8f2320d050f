"""A day's partitions come into being once, in good time, and without standing in anybody's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.store.migrate import migrate
from luthien.store.partitions import PartitionKeeper, day_range
from tests.integration.store.rows import TABLES, insert_everywhere

DAY = date(2026, 11, 22)
PAYLOAD = b"\x00\xff" + b"payload " * 10_000


@pytest.fixture
def record(database: str) -> str:
    """The DSN of a migrated database without any day."""
    migrate(database)
    return database


@pytest.fixture
def conn(record: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(record, autocommit=True) as conn:
        yield conn


def ids(day: date, count: int = 1) -> list[UUID]:
    """Ids spread evenly over a day, its very first among them."""
    first, end = (bound.int for bound in day_range(day))
    return [UUID(int=first + (end - first) // count * n) for n in range(count)]


def insert_call(conn: psycopg.Connection[Any], call_id: UUID) -> None:
    conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (call_id,))


def places(conn: psycopg.Connection[Any], table: str = "conversation_calls") -> dict[UUID, str]:
    """In which partition each call's row lies."""
    query = sql.SQL("SELECT call_id, tableoid::regclass::text FROM {}").format(sql.Identifier(table))
    return dict(conn.execute(query).fetchall())


def create_day(conn: psycopg.Connection[Any], day: date) -> bool:
    [(made,)] = conn.execute("SELECT luthien_create_day(%s)", (day,))
    return bool(made)


def wait_patiently(conn: psycopg.Connection[Any]) -> None:
    """Lets days wait for each other as long as a busy machine takes; a deadlock is still found at once."""
    conn.execute("ALTER FUNCTION luthien_create_day SET lock_timeout = '60s'")


@contextmanager
def holding(dsn: str, query: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody's transaction that has run a query and stays open."""
    with psycopg.connect(dsn) as conn:
        conn.execute(query.encode())
        yield conn
        conn.rollback()


class TestADay:
    @pytest.mark.parametrize("table", TABLES)
    def test_holds_its_first_and_its_last_id_and_no_neighbours(
        self, conn: psycopg.Connection[Any], table: str
    ) -> None:
        create_day(conn, DAY)
        first, end = day_range(DAY)
        before, last = UUID(int=first.int - 1), UUID(int=end.int - 1)
        for call_id in (before, first, last, end):
            insert_everywhere(conn, call_id, PAYLOAD)
        own, default = f"{table}_20261122", f"{table}_default"
        assert places(conn, table) == {before: default, first: own, last: own, end: default}

    @pytest.mark.parametrize("day", [date(1970, 1, 1), date(2028, 2, 29), date(2033, 5, 18), date.max])
    @pytest.mark.parametrize("time_zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
    def test_is_the_same_range_in_python_and_in_sql_and_in_every_time_zone(
        self, record: str, day: date, time_zone: str
    ) -> None:
        with psycopg.connect(record, options=f"-c TimeZone={time_zone}", autocommit=True) as conn:
            create_day(conn, day)
            [(bounds,)] = conn.execute(
                "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass",
                (f"conversation_calls_{day:%Y%m%d}",),
            )
        first, end = day_range(day)
        assert bounds == f"FOR VALUES FROM ('{first}') TO ('{end}')"

    def test_is_made_once(self, conn: psycopg.Connection[Any]) -> None:
        assert create_day(conn, DAY)
        assert not create_day(conn, DAY)

    def test_has_the_keys_checks_and_indexes_of_its_table(self, conn: psycopg.Connection[Any]) -> None:
        create_day(conn, DAY)

        def shape(table: str) -> list[tuple[Any, ...]]:
            constraints = "SELECT contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
            columns = "SELECT indkey::text, indisunique, pg_get_expr(indpred, indrelid) FROM pg_index"
            return sorted(
                [
                    *conn.execute(constraints, (table,)),
                    *conn.execute(f"{columns} WHERE indrelid = %s::regclass", (table,)),
                ],
                key=str,
            )

        for table in TABLES:
            assert shape(f"{table}_20261122") == shape(table)
            assert shape(f"{table}_default") == shape(table)

    @pytest.mark.parametrize("day", ["1969-12-31", "10000-01-01", "infinity"])
    def test_that_no_call_id_can_be_of_is_refused(self, conn: psycopg.Connection[Any], day: str) -> None:
        with pytest.raises(psycopg.errors.DatetimeFieldOverflow):
            conn.execute("SELECT luthien_create_day(%s::date)", (day,))

    def test_that_is_half_there_is_completed(self, conn: psycopg.Connection[Any]) -> None:
        """So that a table that a later migration adds gets the days that exist already."""
        create_day(conn, DAY)
        conn.execute("DROP TABLE conversation_events_20261122")
        assert create_day(conn, DAY)
        insert_everywhere(conn, ids(DAY)[0], PAYLOAD)
        assert places(conn, "conversation_events") == {ids(DAY)[0]: "conversation_events_20261122"}

    def test_that_was_detached_is_left_alone(self, conn: psycopg.Connection[Any]) -> None:
        """An archived day does not come back; what comes late for it stays in the default partition."""
        create_day(conn, DAY)
        conn.execute("ALTER TABLE conversation_calls DETACH PARTITION conversation_calls_20261122")
        assert not create_day(conn, DAY)
        insert_call(conn, *ids(DAY))
        assert places(conn) == {ids(DAY)[0]: "conversation_calls_default"}


class TestTheDefaultPartition:
    def test_gives_up_the_rows_of_a_day_that_is_made(self, conn: psycopg.Connection[Any]) -> None:
        days = {call_id: DAY + timedelta(days=n) for n in (-1, 0, 1) for call_id in ids(DAY + timedelta(days=n), 7)}
        for call_id in days:
            insert_everywhere(conn, call_id, PAYLOAD)
        everything = {table: rows(conn, table) for table in TABLES}
        create_day(conn, DAY)
        for table in TABLES:
            assert rows(conn, table) == everything[table]
            assert places(conn, table) == {
                call_id: f"{table}_20261122" if day == DAY else f"{table}_default" for call_id, day in days.items()
            }

    def test_takes_the_rows_of_a_day_that_had_to_be_put_off_until_it_can_be_made(
        self, record: str, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A backup or a forgotten transaction that reads the default partition stops no writer."""
        now = 0.0
        keeper = PartitionKeeper(retry_after_s=60, clock=lambda: now)
        call_id = ids(DAY)[0]
        with holding(record, "SELECT count(*) FROM conversation_calls"):
            assert keeper.ensure(conn, [DAY]) == {DAY}
            insert_everywhere(conn, call_id, PAYLOAD)
        assert caplog.messages == ["partitions of 2026-11-22 put off: canceling statement due to lock timeout"]
        assert places(conn) == {call_id: "conversation_calls_default"}
        now = 60.0
        assert keeper.ensure(conn, [DAY]) == frozenset()
        assert places(conn) == {call_id: "conversation_calls_20261122"}


class TestOthers:
    def test_who_read_and_write_other_days_neither_wait_nor_are_waited_for(self, record: str) -> None:
        with psycopg.connect(record, autocommit=True) as conn:
            create_day(conn, DAY)
        call_id = ids(DAY)[0]
        reads = f"SELECT FROM conversation_calls WHERE call_id = '{call_id}'"
        with psycopg.connect(record) as writer, holding(record, reads), psycopg.connect(record) as maker:
            insert_call(writer, call_id)
            create_day(maker, DAY + timedelta(days=1))
            with psycopg.connect(record, options="-c lock_timeout=1s") as other:
                other.execute(reads.encode())
                insert_call(other, ids(DAY, 2)[1])
            maker.rollback()

    def test_who_make_the_same_days_at_once_all_succeed(self, record: str, conn: psycopg.Connection[Any]) -> None:
        wait_patiently(conn)
        days = [DAY + timedelta(days=n) for n in range(5)]
        together = threading.Barrier(6)

        def make(n: int) -> frozenset[date]:
            with psycopg.connect(record) as mine:
                together.wait()
                return PartitionKeeper().ensure(mine, days)

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(make, range(6))) == {frozenset()}
        assert partitions(conn) == {f"{table}_{day:%Y%m%d}" for table in TABLES for day in days}

    def test_who_wait_for_a_day_that_another_makes_find_it_made(
        self, record: str, conn: psycopg.Connection[Any]
    ) -> None:
        """Even one whose earlier attempt failed, and whose backend remembers that there was no such table."""
        wait_patiently(conn)
        conn.execute("SET statement_timeout = '500ms'")
        with (
            holding(record, "SELECT count(*) FROM conversation_events"),
            pytest.raises(psycopg.errors.QueryCanceled),
        ):
            create_day(conn, DAY)
        conn.execute("RESET statement_timeout")
        with psycopg.connect(record) as other, ThreadPoolExecutor(1) as pool:
            assert create_day(other, DAY)
            waiting = pool.submit(create_day, conn, DAY)
            while not other.execute("SELECT pg_blocking_pids(%s)", (conn.info.backend_pid,)).fetchall()[0][0]:
                pass
            other.commit()
            assert waiting.result() is False

    def test_who_write_into_a_day_while_it_is_made_lose_nothing(
        self, record: str, conn: psycopg.Connection[Any]
    ) -> None:
        """A row on its way to the default partition is refused once when the day appears before it arrives."""
        wait_patiently(conn)
        written: list[UUID] = []
        stop = threading.Event()

        def write(call_ids: list[UUID]) -> None:
            with psycopg.connect(record, autocommit=True) as mine:
                for call_id in call_ids:
                    try:
                        insert_call(mine, call_id)
                    except psycopg.errors.CheckViolation:
                        insert_call(mine, call_id)
                    written.append(call_id)
                    if stop.is_set():
                        return

        day_ids = ids(DAY, 40_000)
        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, day_ids[n::4]) for n in range(4)]
            while len(written) < 200:
                assert not any(writer.done() for writer in writers)
            assert PartitionKeeper().ensure(conn, [DAY]) == frozenset()
            so_far = len(written)
            while len(written) < so_far + 200:
                assert not any(writer.done() for writer in writers)
            stop.set()
            for writer in writers:
                writer.result()
        assert places(conn) == dict.fromkeys(written, "conversation_calls_20261122")


class TestRights:
    @pytest.fixture
    def writer(self, record: str, conn: psycopg.Connection[Any]) -> Iterator[str]:
        """The DSN of a role that may read and write the record and owns nothing."""
        role = sql.Identifier(f"writer_{uuid4().hex}")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'writer'").format(role))
        for table in TABLES:
            conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON {} TO {}").format(sql.Identifier(table), role))
        yield make_conninfo(record, user=role.as_string().strip('"'), password="writer")
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))

    def test_a_writer_that_owns_no_table_makes_days_once_it_may_execute_the_function(
        self, writer: str, conn: psycopg.Connection[Any]
    ) -> None:
        with psycopg.connect(writer) as mine:
            role = sql.Identifier(mine.info.user)
            conn.execute(sql.SQL("GRANT EXECUTE ON FUNCTION luthien_create_day TO {}").format(role))
            assert PartitionKeeper().ensure(mine, [DAY]) == frozenset()
            insert_everywhere(mine, ids(DAY)[0], PAYLOAD)
            mine.commit()
        assert places(conn) == {ids(DAY)[0]: "conversation_calls_20261122"}

    def test_without_that_right_its_rows_go_to_the_default_partition(
        self, writer: str, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        with psycopg.connect(writer) as mine:
            assert PartitionKeeper().ensure(mine, [DAY]) == {DAY}
            insert_everywhere(mine, ids(DAY)[0], PAYLOAD)
            mine.commit()
        assert "permission denied for function luthien_create_day" in caplog.text
        assert places(conn) == {ids(DAY)[0]: "conversation_calls_default"}

    def test_the_function_does_not_look_names_up_where_its_caller_says(
        self, writer: str, conn: psycopg.Connection[Any]
    ) -> None:
        """It runs with its owner's rights: a caller's own table of that name must not be taken for the record."""
        with psycopg.connect(writer, autocommit=True) as mine:
            role = sql.Identifier(mine.info.user)
            conn.execute(sql.SQL("GRANT EXECUTE ON FUNCTION luthien_create_day TO {}").format(role))
            mine.execute("CREATE TEMP TABLE conversation_events_default (call_id uuid, mine int)")
            mine.execute("CREATE TEMP TABLE conversation_calls (call_id uuid) PARTITION BY RANGE (call_id)")
            mine.execute("SET search_path = pg_temp, public")
            mine.execute("SELECT public.luthien_create_day(%s)", (DAY,))
        assert partitions(conn) == {f"{table}_20261122" for table in TABLES}

    def test_days_are_made_in_the_schema_of_the_record(self, database: str) -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("CREATE SCHEMA elsewhere")
            migrate(make_conninfo(database, options="-c search_path=elsewhere"))
            conn.execute("SELECT elsewhere.luthien_create_day(%s)", (DAY,))
            assert partitions(conn, "elsewhere") == {f"{table}_20261122" for table in TABLES}


def partitions(conn: psycopg.Connection[Any], schema: str = "public") -> set[str]:
    """The days' partitions; those of the default name are not counted."""
    query = """
        SELECT relname FROM pg_class
        WHERE relispartition AND relkind = 'r' AND relname !~ '_default$' AND relnamespace = %s::regnamespace
    """
    return {name for (name,) in conn.execute(query, (schema,))}


def rows(conn: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    query = sql.SQL("SELECT * FROM {} ORDER BY call_id").format(sql.Identifier(table))
    return conn.execute(query).fetchall()
