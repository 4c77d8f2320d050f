"""Whole days go, with everything in them, and nothing younger; nobody else notices."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.store import retention
from luthien.store.call_filter import EVERY_CALL
from luthien.store.migrate import migrate
from luthien.store.partitions import PartitionKeeper, day_range
from luthien.store.retention import (
    StoredDay,
    expired_days,
    first_kept_day,
    prune,
    repair,
    stored_days,
    strays,
)
from luthien.store.search import of_list
from luthien.store.sql import query
from luthien.store.windows import NEWEST
from luthien.store.write import prepare, write_batch
from tests.acceptance.commands import luthien
from tests.integration.store.rows import TABLES, insert_everywhere
from tests.playbook import eventually
from tests.records import call_at, whole_call

KEEP = timedelta(days=3)

Conn = psycopg.Connection[Any]

pytestmark = pytest.mark.usefixtures("same_day")


@pytest.fixture
def conn(record_database: str) -> Iterator[Conn]:
    with psycopg.connect(record_database, autocommit=True) as conn:
        yield conn


def ago(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days)


def edges(day: date) -> list[UUID]:
    """The first and the last id of a day."""
    first, end = day_range(day)
    return [first, UUID(int=end.int - 1)]


def make_days(conn: Conn, *days_ago: int) -> None:
    """The partitions of these days, with a call at each end of each day."""
    for number in days_ago:
        PartitionKeeper().ensure(conn, [ago(number)])
        for call_id in edges(ago(number)):
            insert_everywhere(conn, call_id)


def ids(conn: Conn, table: str) -> list[UUID]:
    query = sql.SQL("SELECT call_id FROM {} ORDER BY 1").format(sql.Identifier(table))
    return [call_id for (call_id,) in conn.execute(query)]


def partitions(conn: Conn) -> set[str]:
    return {
        name for (name,) in conn.execute(r"SELECT relname FROM pg_class WHERE relname ~ '^conversation.*_\d{8}$'")
    }


def days(found: Iterator[StoredDay] | list[StoredDay] | tuple[StoredDay, ...]) -> list[date]:
    return [each.day for each in found]


def any_done(others: Iterable[Future[None]]) -> bool:
    return any(other.done() for other in others)


@contextmanager
def holding(dsn: str, statement: str) -> Iterator[None]:
    """Somebody's transaction that has run a statement and stays open."""
    with psycopg.connect(dsn) as conn:
        conn.execute(statement.encode())
        yield
        conn.rollback()


@pytest.mark.parametrize(
    ("now", "first"),
    [
        (datetime(2026, 11, 22, 0, 0, 0, tzinfo=UTC), date(2026, 10, 23)),
        (datetime(2026, 11, 22, 23, 59, 59, 999_999, tzinfo=UTC), date(2026, 10, 23)),
        (datetime(2026, 11, 22, 1, 0, tzinfo=UTC).astimezone(), date(2026, 10, 23)),
    ],
)
def test_a_day_is_kept_while_any_of_it_is_younger(now: datetime, first: date) -> None:
    keep = timedelta(days=30)
    assert first_kept_day(keep, now) == first
    youngest_dropped = datetime(first.year, first.month, first.day, tzinfo=UTC)
    assert now - youngest_dropped >= keep


def test_a_clock_that_was_never_set_keeps_everything() -> None:
    assert first_kept_day(timedelta(days=30), datetime(1970, 1, 2, tzinfo=UTC)) == date(1970, 1, 1)


class TestPruning:
    def test_drops_exactly_the_days_that_are_older_from_every_table(self, conn: Conn) -> None:
        make_days(conn, 0, 2, 3, 4, 5, 40)
        pruned = prune(conn, KEEP)
        assert days(pruned.dropped) == [ago(40), ago(5), ago(4)]
        assert (pruned.put_off, pruned.strays) == ((), 0)
        for table in TABLES:
            assert ids(conn, table) == [call_id for number in (3, 2, 0) for call_id in edges(ago(number))]
        assert partitions(conn) == {f"{table}_{ago(number):%Y%m%d}" for table in TABLES for number in (0, 2, 3)}

    def test_a_second_time_drops_nothing(self, conn: Conn) -> None:
        make_days(conn, 1, 9)
        assert days(prune(conn, KEEP).dropped) == [ago(9)]
        assert prune(conn, KEEP) == retention.Pruned((), (), 0)

    def test_says_what_went(self, conn: Conn) -> None:
        make_days(conn, 9)
        conn.execute("ANALYZE")
        [day] = prune(conn, KEEP).dropped
        assert day.calls == 2
        assert day.size_bytes > 3 * 8192

    def test_forgets_no_table_that_comes_later(self, conn: Conn) -> None:
        day, (first, end) = ago(9), day_range(ago(9))
        make_days(conn, 9)
        conn.execute("CREATE TABLE conversation_later (call_id uuid PRIMARY KEY) PARTITION BY RANGE (call_id)")
        conn.execute(
            f"CREATE TABLE conversation_later_{day:%Y%m%d} PARTITION OF conversation_later"
            f" FOR VALUES FROM ('{first}') TO ('{end}')".encode()
        )
        prune(conn, KEEP)
        assert partitions(conn) == set()

    def test_leaves_a_day_that_was_detached(self, conn: Conn) -> None:
        make_days(conn, 9)
        name = f"conversation_calls_{ago(9):%Y%m%d}"
        conn.execute(f"ALTER TABLE conversation_calls DETACH PARTITION {name}".encode())
        assert days(prune(conn, KEEP).dropped) == [ago(9)]
        assert partitions(conn) == {name}

    def test_deletes_what_is_older_from_the_default_partitions(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "_STRAYS_AT_ONCE", 2)
        for call_id in [UUID(int=1), *edges(ago(9)), *edges(ago(4)), *edges(ago(3))]:
            insert_everywhere(conn, call_id)
        assert prune(conn, KEEP).strays == 5 * len(TABLES)
        for table in TABLES:
            assert ids(conn, table) == edges(ago(3))

    def test_what_was_set_aside_for_an_impossible_id_is_as_old_as_its_quarantine(self, conn: Conn) -> None:
        future = UUID(int=2**128 - 1)
        for hours in (1, 5 * 24):
            conn.execute(
                "INSERT INTO conversation_quarantine (call_id, sequence, record_sha256, reason, quarantined_at)"
                " VALUES (%s, %s, '', 'implausible', now() - make_interval(hours => %s))",
                (future, hours, hours),
            )
        assert prune(conn, KEEP).strays == 1
        assert conn.execute("SELECT sequence FROM conversation_quarantine").fetchall() == [(1,)]

    @pytest.mark.parametrize(("days_ago", "keep_days"), [(3, 3), (0, 1), (-1, 1), (9, 0), (9, -9)])
    def test_postgres_refuses_a_day_that_is_not_older_by_its_own_clock(
        self, conn: Conn, days_ago: int, keep_days: int
    ) -> None:
        """So that a machine whose clock runs a month ahead does not drop the whole record."""
        make_days(conn, 0, 3, 9)
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="not older"):
            conn.execute(query("drop_day"), (ago(days_ago), keep_days))
        assert len(partitions(conn)) == 3 * len(TABLES)

    def test_a_dry_run_names_the_same_days_and_drops_none(self, conn: Conn) -> None:
        make_days(conn, 1, 4, 9)
        assert days(expired_days(conn, KEEP)) == [ago(9), ago(4)]
        assert days(stored_days(conn)) == [ago(9), ago(4), ago(1)]
        assert days(prune(conn, KEEP).dropped) == [ago(9), ago(4)]

    def test_ends_when_the_time_is_up(self, conn: Conn) -> None:
        make_days(conn, 1, 4, 9)
        insert_everywhere(conn, edges(ago(20))[0])
        pruned = prune(conn, KEEP, within_s=0.0)
        assert (days(pruned.dropped), days(pruned.put_off), pruned.strays) == ([], [ago(9), ago(4)], len(TABLES))


class TestOthers:
    def test_who_read_for_long_put_a_day_off_and_keep_nobody_else_waiting(
        self, record_database: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "_PAUSE_S", 0.0)
        make_days(conn, 1, 8, 9)
        with (
            holding(record_database, "SELECT count(*) FROM conversation_calls"),
            ThreadPoolExecutor(1) as pool,
            psycopg.connect(record_database, autocommit=True, options="-c lock_timeout=5s") as other,
        ):
            pruning = pool.submit(prune, conn, KEEP, attempts=3)
            while not pruning.done():
                other.execute("SELECT call_id FROM conversation_calls ORDER BY call_id DESC LIMIT 1")
            pruned = pruning.result()
        assert (days(pruned.dropped), days(pruned.put_off)) == ([], [ago(9), ago(8)])
        assert days(prune(conn, KEEP).dropped) == [ago(9), ago(8)]

    def test_who_write_and_read_meanwhile_see_no_error_and_lose_nothing(
        self, record_database: str, conn: Conn
    ) -> None:
        expired = range(4, 34)
        make_days(conn, 0, *expired)
        written: list[UUID] = []
        read: list[int] = []
        stop = threading.Event()

        def write() -> None:
            with psycopg.connect(record_database, autocommit=True) as mine:
                prepare(mine)
                while not stop.is_set():
                    call = whole_call()
                    assert write_batch(mine, call).stored == len(call)
                    written.append(call[0].call_id)

        def look() -> None:
            with psycopg.connect(record_database, autocommit=True) as mine:
                while not stop.is_set():
                    whole = of_list(EVERY_CALL, UUID(int=0), NEWEST, 50)
                    listed = mine.execute(query("list_calls"), whole)
                    for call_id, *_ in listed.fetchall():
                        mine.execute(query("get_call"), {"call_id": call_id})
                        mine.execute(query("get_events"), {"call_id": call_id}).fetchall()
                    read.append(1)

        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(job) for job in (write, write, look, look)]
            eventually(lambda: any_done(others) or (len(written) > 20 and len(read) > 5), bool)
            assert not any_done(others)
            pruned = prune(conn, KEEP, attempts=100)
            so_far, read_so_far = len(written), len(read)
            eventually(lambda: any_done(others) or (len(written) > so_far + 20 and len(read) > read_so_far + 5), bool)
            assert not any_done(others)
            stop.set()
            for other in others:
                other.result()
        assert len(pruned.dropped) == len(expired)
        assert set(ids(conn, "conversation_calls")) == {*written, *edges(ago(0))}
        assert len(ids(conn, "conversation_events")) == 7 * len(written) + 2

    def test_who_prune_at_once_drop_each_day_once(self, record_database: str, conn: Conn) -> None:
        make_days(conn, 0, *range(4, 12))
        insert_everywhere(conn, edges(ago(20))[0])
        together = threading.Barrier(4)

        def run(_: int) -> retention.Pruned:
            with psycopg.connect(record_database, autocommit=True) as mine:
                together.wait()
                return prune(mine, KEEP, attempts=100)

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(run, range(4)))
        assert sorted(day for each in results for day in days(each.dropped)) == [ago(n) for n in range(11, 3, -1)]
        assert [each.put_off for each in results] == [()] * 4
        assert sum(each.strays for each in results) == len(TABLES)
        assert days(stored_days(conn)) == [ago(0)]


class TestRights:
    @pytest.fixture
    def role(self, record_database: str, conn: Conn) -> Iterator[str]:
        """The DSN of a role that may read and write the record and owns nothing."""
        role = sql.Identifier(f"writer_{uuid4().hex}")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'writer'").format(role))
        for table in TABLES:
            conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON {} TO {}").format(sql.Identifier(table), role))
        yield make_conninfo(record_database, user=role.as_string().strip('"'), password="writer")
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))

    def test_who_owns_no_table_sees_what_strayed_and_may_not_prune(self, role: str, conn: Conn) -> None:
        make_days(conn, 9)
        insert_everywhere(conn, edges(ago(8))[0])
        with psycopg.connect(role, autocommit=True) as mine:
            assert sum(each.rows for each in strays(mine)) == len(TABLES)
            assert days(expired_days(mine, KEEP)) == [ago(9)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                prune(mine, KEEP)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                mine.execute(query("drop_strays"), (1, 1))
        assert len(partitions(conn)) == len(TABLES)

    def test_who_may_execute_the_functions_prunes_the_record_and_not_its_own_tables(
        self, role: str, conn: Conn
    ) -> None:
        make_days(conn, 1, 9)
        insert_everywhere(conn, edges(ago(8))[0])
        with psycopg.connect(role, autocommit=True) as mine:
            identifier = sql.Identifier(mine.info.user)
            granted = "GRANT EXECUTE ON FUNCTION luthien_drop_day, luthien_drop_strays TO {}"
            conn.execute(sql.SQL(granted).format(identifier))
            mine.execute("CREATE TEMP TABLE conversation_calls_default (call_id uuid)")
            mine.execute("INSERT INTO conversation_calls_default VALUES (%s)", (UUID(int=0),))
            mine.execute("SET search_path = public, pg_temp")
            pruned = prune(mine, KEEP)
            assert mine.execute("SELECT count(*) FROM pg_temp.conversation_calls_default").fetchall() == [(1,)]
        assert (days(pruned.dropped), pruned.strays) == ([ago(9)], len(TABLES))


class TestRepairing:
    def test_moves_every_row_into_the_partition_of_its_day(self, conn: Conn) -> None:
        call_ids = [call_id for number in (5, 0, -1) for call_id in edges(ago(number))]
        for call_id in call_ids:
            insert_everywhere(conn, call_id)
        assert sum(each.rows for each in strays(conn)) == 6 * len(TABLES)
        assert repair(conn, None) == []
        assert strays(conn) == []
        for table in TABLES:
            assert ids(conn, table) == call_ids
        assert len(partitions(conn)) == 3 * len(TABLES)

    def test_leaves_what_is_older_than_retention_to_pruning(self, conn: Conn) -> None:
        for number in (1, 9):
            insert_everywhere(conn, edges(ago(number))[0])
        left = repair(conn, KEEP)
        assert {(each.table, each.day, each.rows) for each in left} == {(table, ago(9), 1) for table in TABLES}
        assert days(stored_days(conn)) == [ago(1)]

    def test_leaves_a_day_that_was_detached(self, conn: Conn) -> None:
        make_days(conn, 1)
        conn.execute(f"ALTER TABLE conversation_calls DETACH PARTITION conversation_calls_{ago(1):%Y%m%d}".encode())
        conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (edges(ago(1))[0],))
        assert [(each.table, each.day) for each in repair(conn, None)] == [("conversation_calls", ago(1))]

    def test_makes_no_days_of_a_time_that_has_not_come(self, conn: Conn) -> None:
        """Records with such ids are set aside in quarantine, and are where they should be."""
        for call_id in (UUID(int=2**128 - 1), edges(ago(-400))[0]):
            conn.execute(
                "INSERT INTO conversation_quarantine (call_id, sequence, record_sha256, reason)"
                " VALUES (%s, 0, '', 'implausible')",
                (call_id,),
            )
        assert strays(conn) == []
        assert repair(conn, None) == []
        assert stored_days(conn) == []


class TestTheCommands:
    @staticmethod
    def run(dsn: str, data_dir: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        with luthien(*arguments, data_dir=data_dir, DATABASE_URL=dsn, **environment) as command:
            return command.wait(), command.output

    def test_prune_says_what_it_would_drop_and_then_what_it_dropped(
        self, record_database: str, conn: Conn, data_dir: Path
    ) -> None:
        make_days(conn, 1, 4, 9)
        conn.execute("ANALYZE")
        status, said = self.run(record_database, data_dir, "prune", "--keep", "3d", "--dry-run")
        assert status == 0
        assert f"would drop {ago(9)}: about 2 calls" in said
        assert "2 days would be dropped, about 4 calls, " in said
        assert len(partitions(conn)) == 3 * len(TABLES)
        status, said = self.run(record_database, data_dir, "prune", LUTHIEN_KEEP="3d")
        assert status == 0
        assert f"dropped {ago(4)}: about 2 calls" in said
        assert f"kept from {ago(3)}" in said
        assert days(stored_days(conn)) == [ago(1)]
        assert self.run(record_database, data_dir, "prune", "--keep", "3d") == (0, "nothing is older than 3 days")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--keep", "12h"], "--keep must be one or more whole days"),
            (["--keep", "soon"], "--keep must be a number of days"),
            ([], "Say --keep 30d, or set LUTHIEN_KEEP"),
        ],
    )
    def test_prune_wants_to_be_told_how_long_in_whole_days(
        self, record_database: str, data_dir: Path, arguments: list[str], message: str
    ) -> None:
        status, said = self.run(record_database, data_dir, "prune", *arguments)
        assert (status, message in said) == (1, True), said

    def test_repair_says_what_it_moved_and_what_it_left(
        self, record_database: str, conn: Conn, data_dir: Path
    ) -> None:
        assert self.run(record_database, data_dir, "repair") == (0, "the default partitions are empty")
        for number in (1, 9):
            insert_everywhere(conn, edges(ago(number))[0])
        status, said = self.run(record_database, data_dir, "repair", LUTHIEN_KEEP="3d")
        assert status == 1
        assert f"{len(TABLES)} rows moved from the default partitions" in said
        assert f"conversation_events, {ago(9)}: 1 rows" in said
        assert self.run(record_database, data_dir, "repair") == (
            0,
            f"{len(TABLES)} rows moved from the default partitions",
        )

    def test_a_database_that_is_behind_is_said_to_be(self, database: str, data_dir: Path) -> None:
        for arguments in (["prune", "--keep", "3d"], ["repair"]):
            status, said = self.run(database, data_dir, *arguments)
            assert (status, said) == (1, "luthien: the database's schema is behind: run `luthien migrate`")


def test_pruning_works_in_the_schema_of_the_record(database: str) -> None:
    elsewhere = make_conninfo(database, options="-c search_path=elsewhere")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA elsewhere")
    migrate(elsewhere)
    with psycopg.connect(elsewhere, autocommit=True) as conn:
        make_days(conn, 1, 9)
        insert_everywhere(conn, call_at((datetime.now(UTC) - timedelta(days=8)).timestamp()))
        pruned = prune(conn, KEEP)
        assert (days(pruned.dropped), pruned.strays) == ([ago(9)], len(TABLES))
        assert days(stored_days(conn)) == [ago(1)]
