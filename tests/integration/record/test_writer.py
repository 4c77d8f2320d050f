"""The writer thread with a real Postgres that really goes away, and a network that breaks in every way."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from luthien.exchange import StageRecord, new_call_id
from luthien.record import writer as writer_module
from luthien.record.queue import RecordQueue
from luthien.record.stats import RecordStats
from luthien.record.writer import BatchLimits, RecordWriter, backoffs
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from luthien.store.write import prepare
from luthien.telemetry.conventions import CALL_ID
from tests.records import call_at, keys, record, whole_call
from tests.tcp_proxy import TcpProxy, proxy_to

DEADLINE_S = 30.0
QUICK = BatchLimits(max_records=50, max_bytes=4 * 1024 * 1024, max_age_s=0.005)


@pytest.fixture(scope="module")
def shared_database(postgres_dsn: str, migrated_template: str) -> str:
    """One for all tests here; it goes with its server."""
    execute(
        postgres_dsn,
        f"CREATE DATABASE test_writer TEMPLATE {migrated_template}",
        "ALTER DATABASE test_writer SET synchronous_commit = off",
    )
    return make_conninfo(postgres_dsn, dbname="test_writer")


@pytest.fixture
def record_database(shared_database: str) -> str:
    """A database with the current schema and no calls."""
    execute(
        shared_database,
        "TRUNCATE conversation_calls, conversation_events, conversation_quarantine",
        "DROP FUNCTION IF EXISTS fail() CASCADE",
        "DROP SEQUENCE IF EXISTS failures",
    )
    return shared_database


@pytest.fixture
def proxy(record_database: str) -> Iterator[TcpProxy]:
    with proxy_to(record_database) as proxy:
        yield proxy


@contextmanager
def writing(
    dsn: str, queue: RecordQueue | None = None, limits: BatchLimits = QUICK, **how: Any
) -> Iterator[tuple[RecordQueue, RecordWriter]]:
    """A writer at work; stopped at the end, whatever came of it."""
    queue = queue or RecordQueue(100_000, 10**9)
    writer = RecordWriter(queue, dsn, limits, **how)
    writer.start()
    try:
        yield queue, writer
    finally:
        writer.stop(DEADLINE_S)


def eventually(fact: Callable[[], object]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.005)


def all_settled(queue: RecordQueue) -> RecordStats:
    """The accounts, once nothing waits any more."""
    eventually(lambda: queue.stats().unsaved == 0)
    return queue.stats()


def stored_keys(dsn: str) -> list[tuple[UUID, int]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT call_id, sequence FROM conversation_events ORDER BY 1, 2").fetchall()


def fetch(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(statement.encode()).fetchall()


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("luthien-record")]


def fails_first(dsn: str, sqlstate: str, times: int, table: str = "conversation_events") -> None:
    """Makes Postgres refuse the first so many inserts of rows, with that error."""
    execute(
        dsn,
        "CREATE SEQUENCE failures",
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('failures') <= {times}"
        f" THEN RAISE EXCEPTION 'as told' USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$",
        f"CREATE TRIGGER fail BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail()",
    )


class TestTheWriter:
    def test_stores_what_is_submitted_and_says_so(self, record_database: str) -> None:
        calls = [whole_call() for _ in range(100)]
        with writing(record_database) as (queue, _):
            for call in calls:
                for each in call:
                    queue.submit([each])
            stats = all_settled(queue)
        assert (stats.appended, stats.stored, stats.replayed, stats.dropped) == (700, 700, 0, {})
        assert stored_keys(record_database) == sorted(key for call in calls for key in keys(call))
        rows = "SELECT records_stored, records_emitted, outcome, count(*) FROM conversation_calls GROUP BY 1, 2, 3"
        assert fetch(record_database, rows) == [(7, 7, "completed", 100)]

    def test_counts_a_replay_and_changes_nothing(self, record_database: str) -> None:
        records = whole_call()
        with writing(record_database) as (queue, _):
            queue.submit(records)
            all_settled(queue)
            before = fetch(record_database, "SELECT * FROM conversation_calls")
            queue.submit(records)
            stats = all_settled(queue)
        assert (stats.stored, stats.replayed, stats.dropped) == (7, 7, {})
        assert fetch(record_database, "SELECT * FROM conversation_calls") == before

    def test_writes_a_record_that_is_larger_than_a_batch(self, record_database: str) -> None:
        payload = random.Random(3).randbytes(3_000_000)
        limits = BatchLimits(10, 1_000_000, 0.005)
        with writing(record_database, limits=limits) as (queue, _):
            queue.submit([record(), record(payload=payload), record()])
            assert all_settled(queue).stored == 3
        sizes = "SELECT length(payload) FROM conversation_events ORDER BY 1 DESC"
        assert fetch(record_database, sizes)[0] == (3_000_000,)

    @pytest.mark.usefixtures("same_day")
    def test_puts_each_call_into_the_partition_of_its_day(self, record_database: str) -> None:
        now = time.time()
        with writing(record_database) as (queue, _):
            queue.submit([record(call_at(now - n * 86_400)) for n in range(3)])
            all_settled(queue)
        places = "SELECT DISTINCT tableoid::regclass::text FROM conversation_events"
        days = {time.strftime("%Y%m%d", time.gmtime(now - n * 86_400)) for n in range(3)}
        assert {name for (name,) in fetch(record_database, places)} == {f"conversation_events_{day}" for day in days}

    def test_uses_the_default_partition_when_a_day_cannot_be_made(
        self, database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A reader that holds that table for long delays the day's partition and no record."""
        migrate(database)
        with psycopg.connect(database) as reader, writing(database) as (queue, _):
            reader.execute("SELECT count(*) FROM conversation_events")
            queue.submit(whole_call())
            assert all_settled(queue).stored == 7
        assert "put off" in caplog.text
        places = "SELECT DISTINCT tableoid::regclass::text FROM conversation_events"
        assert fetch(database, places) == [("conversation_events_default",)]

    @pytest.mark.usefixtures("same_day")
    def test_counts_what_is_older_than_retention_and_stores_the_rest(self, record_database: str) -> None:
        """The spool of a process that died long ago brings no dropped day back."""
        now = time.time()
        old, kept = call_at(now - 3 * 86_400), call_at(now - 2 * 86_400)
        with writing(record_database, keep=timedelta(days=2)) as (queue, _):
            queue.submit([*whole_call(old), *whole_call(kept)])
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped) == (7, {"expired": 7})
        assert {call_id for call_id, _ in stored_keys(record_database)} == {kept}
        day = time.strftime("%Y%m%d", time.gmtime(now - 3 * 86_400))
        assert fetch(record_database, f"SELECT to_regclass('conversation_calls_{day}')") == [(None,)]


class Observer:
    """Keeps what it is told, and then breaks if it is to."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.told: list[tuple[int, int, float]] = []
        self.threads: set[str] = set()
        self._breaks = breaks

    def written(self, records: int, size_bytes: int, duration_s: float) -> None:
        self.told.append((records, size_bytes, duration_s))
        self.threads.add(threading.current_thread().name)
        if self._breaks:
            raise RuntimeError("the observer is broken")


class TestWhoeverLooksOn:
    def test_is_told_of_each_batch_once_it_was_written(self, record_database: str) -> None:
        fails_first(record_database, "57014", 1)
        records = [*whole_call(), *whole_call()]
        observer = Observer()
        with writing(record_database) as (queue, writer):
            writer.tell(observer)
            queue.submit(records)
            assert all_settled(queue).stored == len(records)
        assert sum(told[0] for told in observer.told) == len(records)
        assert sum(told[1] for told in observer.told) == sum(each.size_bytes for each in records)
        assert all(told[2] > 0 for told in observer.told)
        assert observer.threads == {"luthien-record-writer"}

    def test_is_told_no_more_when_it_breaks_and_nothing_is_lost(
        self, record_database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        observer = Observer(breaks=True)
        with writing(record_database) as (queue, writer):
            writer.tell(observer)
            for _ in range(3):
                queue.submit(whole_call())
                eventually(lambda: queue.stats().unsaved == 0)
            assert queue.stats().stored == 3 * len(whole_call())
            assert queue.stats().retried_batches == 0
        assert len(observer.told) == 1
        assert [each.getMessage() for each in caplog.records if "told no more" in each.getMessage()] != []


class TestAPoisonRecord:
    POISON: tuple[dict[str, Any], ...] = (
        {"trace_id": "\0"},
        {"span_id": "\ud800"},
        {"sequence": 2**31},
        {"payload_bytes": 2**63},
        {"recorded_at_ns": 10**30},
        {"attributes": {"a": float("nan")}},
        {"attributes": {"a": "\0"}},
        {"attributes": {"a": b"bytes"}},
        {"event_type": "call_outcome", "attributes": {"luthien.outcome": "fine"}},
        {"payload": "text"},
    )

    def test_of_any_kind_is_set_aside_with_its_error_and_its_neighbours_are_stored(
        self, record_database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls = [whole_call() for _ in self.POISON]
        odd = [replace(record(payload=b"a secret"), **values) for values in self.POISON]
        batch = [each for call, one in zip(calls, odd, strict=True) for each in (*call[:4], one, *call[4:])]
        with writing(record_database, limits=BatchLimits(1000, 10**8, 0.005)) as (queue, _):
            queue.submit(batch)
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped, stats.retried_batches) == (7 * len(odd), {"quarantined": len(odd)}, 0)
        assert stored_keys(record_database) == sorted(key for call in calls for key in keys(call))
        aside = fetch(record_database, "SELECT call_id, reason, error FROM conversation_quarantine")
        assert {call_id for call_id, _, _ in aside} == {each.call_id for each in odd}
        assert {reason for _, reason, _ in aside} == {"refused"}
        assert all(": " in error for _, _, error in aside)
        assert "a record cannot be stored and is set aside: OverflowError" in caplog.messages
        assert "secret" not in caplog.text
        told = {vars(entry)[CALL_ID] for entry in caplog.records if "set aside" in entry.getMessage()}
        assert told == {str(each.call_id) for each in odd}

    @pytest.mark.parametrize(
        "unix_s",
        [time.time() + 2 * 86_400, 253_402_300_801, 2**48 / 1000 - 1],
        ids=["in two days", "in the year 10000", "at the end of all ids"],
    )
    def test_is_one_whose_call_is_of_a_time_that_has_not_come(self, record_database: str, unix_s: float) -> None:
        odd, fine = record(call_at(unix_s)), record(call_at(time.time() + 3600))
        with writing(record_database) as (queue, _):
            queue.submit([odd, fine])
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped) == (1, {"quarantined": 1})
        assert stored_keys(record_database) == [(fine.call_id, 0)]
        assert fetch(record_database, "SELECT call_id, reason, payload FROM conversation_quarantine") == [
            (odd.call_id, "implausible", odd.payload)
        ]

    def test_is_one_whose_key_has_other_content(self, record_database: str) -> None:
        call_id = new_call_id()
        with writing(record_database) as (queue, _):
            queue.submit([record(call_id, payload=b"first")])
            all_settled(queue)
            queue.submit([record(call_id, payload=b"second"), record(call_id, 1)])
            stats = all_settled(queue)
        assert (stats.stored, stats.replayed, stats.dropped) == (2, 0, {"quarantined": 1})
        aside = "SELECT payload, reason FROM conversation_quarantine"
        assert fetch(record_database, aside) == [(b"second", "conflict")]

    def test_is_not_one_that_is_refused_only_once(self, record_database: str) -> None:
        """As when the partition of its day appears while it is on its way to another."""
        fails_first(record_database, "23514", times=1)
        with writing(record_database) as (queue, _):
            queue.submit([record()])
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped) == (1, {})

    def test_is_lost_and_counted_when_even_the_quarantine_refuses_it(self, record_database: str) -> None:
        execute(
            record_database,
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE data_exception; END $$",
            "CREATE TRIGGER fail BEFORE INSERT ON conversation_quarantine FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        with writing(record_database) as (queue, _):
            queue.submit([*whole_call(), record(payload=b"no", trace_id="\0"), *whole_call()])
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped) == (14, {"unstorable": 1})


class TestTroubleThatPasses:
    @pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "53100", "57P01", "25006", "42501"])
    @pytest.mark.parametrize("table", ["conversation_events", "conversation_calls"])
    def test_costs_no_record(self, record_database: str, sqlstate: str, table: str) -> None:
        fails_first(record_database, sqlstate, times=2, table=table)
        records = whole_call()
        with writing(record_database) as (queue, _):
            queue.submit(records)
            stats = all_settled(queue)
        assert (stats.stored, stats.replayed, stats.dropped, stats.retried_batches) == (7, 0, {}, 2)
        assert stored_keys(record_database) == sorted(keys(records))

    def test_between_the_halves_of_a_batch_leaves_what_was_stored_as_stored(self, record_database: str) -> None:
        """A poison record splits the batch, then the database fails: the first half is not written again."""
        poison, rest = record(trace_id="\0"), record()
        execute(
            record_database,
            "CREATE SEQUENCE failures",
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.call_id = '{rest.call_id}' AND nextval('failures') <= 2"
            " THEN RAISE EXCEPTION 'as told' USING ERRCODE = '57P01'; END IF; RETURN NEW; END $$",
            "CREATE TRIGGER fail BEFORE INSERT ON conversation_events FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        with writing(record_database) as (queue, _):
            queue.submit([*whole_call(), poison, rest])
            stats = all_settled(queue)
        assert (stats.stored, stats.replayed, stats.dropped, stats.retried_batches) == (8, 0, {"quarantined": 1}, 2)

    def test_is_told_once_and_so_is_its_end(self, record_database: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "luthien")
        fails_first(record_database, "53100", times=4)
        with writing(record_database) as (queue, _):
            queue.submit([record()])
            all_settled(queue)
        ours = [entry.message for entry in caplog.records if entry.name.startswith("luthien")]
        assert ours == [
            "the database does not take records, they wait: as told",
            "the database takes records again",
        ]

    def test_is_a_schema_that_is_not_there_yet(self, database: str) -> None:
        records = whole_call()
        with writing(database) as (queue, _):
            queue.submit(records)
            eventually(lambda: queue.stats().retried_batches >= 2)
            assert queue.stats().unsaved == 7
            migrate(database)
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped) == (7, {})
        assert stored_keys(database) == sorted(keys(records))

    def test_is_a_connection_that_lost_its_temporary_tables(self, record_database: str) -> None:
        with writing(record_database) as (queue, writer):
            queue.submit(whole_call())
            all_settled(queue)
            with writer._pool.connection(timeout=DEADLINE_S) as conn:
                conn.execute("DISCARD ALL")
            queue.submit(whole_call())
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped) == (14, {})


class TestASlowDatabase:
    def test_is_given_smaller_batches_and_time_for_a_single_record(
        self, record_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        execute(
            record_database,
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(CASE NEW.event_type WHEN 'call_outcome' THEN 0.4 ELSE 0.06 END);"
            " RETURN NEW; END $$",
            "CREATE TRIGGER fail BEFORE INSERT ON conversation_events FOR EACH ROW EXECUTE FUNCTION fail()",
        )

        def prepare_hastily(conn: psycopg.Connection[Any]) -> None:
            prepare(conn)
            conn.execute("SET statement_timeout = '200ms'")

        monkeypatch.setattr(writer_module, "prepare", prepare_hastily)
        with writing(record_database) as (queue, _):
            queue.submit(whole_call())
            stats = all_settled(queue)
        assert (stats.stored, stats.dropped, stats.retried_batches) == (7, {}, 0)


class TestTheNetwork:
    @pytest.mark.parametrize("harm", ["cut", "reset"])
    def test_may_break_again_and_again_while_records_flow(
        self, record_database: str, proxy: TcpProxy, harm: str
    ) -> None:
        calls = [whole_call() for _ in range(300)]
        with writing(proxy.dsn(record_database)) as (queue, _):
            for n, call in enumerate(calls):
                queue.submit(call)
                if n % 60 == 30:
                    eventually(lambda: queue.stats().stored > 0)
                    getattr(proxy, harm)()
            stats = all_settled(queue)
        assert stats.stored + stats.replayed == stats.appended == 2100
        assert stats.dropped == {}
        assert stored_keys(record_database) == sorted(key for call in calls for key in keys(call))
        rows = "SELECT DISTINCT records_stored, decisions FROM conversation_calls"
        assert fetch(record_database, rows) == [(7, 2)]

    @pytest.mark.parametrize("harm", ["reset", "cut", "terminate"])
    def test_may_break_in_the_middle_of_a_copy(self, record_database: str, proxy: TcpProxy, harm: str) -> None:
        payload = random.Random(4).randbytes(1_000_000)
        batch = [record(payload=payload) for _ in range(3)]
        with writing(proxy.dsn(record_database)) as (queue, _):
            queue.submit([record()])
            all_settled(queue)
            proxy.stall_after(1_500_000)
            queue.submit(batch)
            assert proxy.held.wait(DEADLINE_S)
            if harm == "terminate":
                execute(record_database, ADMIN_SHUTDOWN)
            else:
                getattr(proxy, harm)()
            proxy.resume()
            stats = all_settled(queue)
        assert (stats.stored, stats.replayed, stats.dropped) == (4, 0, {})
        assert stats.retried_batches >= 1
        assert keys(batch) < set(stored_keys(record_database))

    def test_may_swallow_all_that_is_sent(self, record_database: str, proxy: TcpProxy) -> None:
        """A line that stays open and says nothing is given up, and a new one tried."""
        with writing(proxy.dsn(record_database), silence_s=0.3) as (queue, _):
            queue.submit([record()])
            all_settled(queue)
            proxy.stall()
            records = whole_call()
            queue.submit(records)
            eventually(lambda: queue.stats().retried_batches >= 2)
            assert queue.unsaved(records[0].call_id) == records
            proxy.resume()
            stats = all_settled(queue)
        assert stats.stored + stats.replayed == 8
        assert keys(records) < set(stored_keys(record_database))

    def test_may_be_away_from_the_start(self, record_database: str, proxy: TcpProxy) -> None:
        proxy.refuse()
        records = whole_call()
        with writing(proxy.dsn(record_database)) as (queue, _):
            queue.submit(records)
            eventually(lambda: queue.stats().retried_batches >= 2)
            proxy.accept()
            assert all_settled(queue).stored == 7
        assert stored_keys(record_database) == sorted(keys(records))

    def test_is_tried_anew_at_every_attempt_to_write(self, record_database: str, proxy: TcpProxy) -> None:
        """Once the writer's pause is over; a pool left to itself would wait for minutes after a long outage."""
        proxy.hang_up()
        with writing(proxy.dsn(record_database)) as (queue, _):
            queue.submit(whole_call())
            eventually(lambda: queue.stats().retried_batches >= 4)
            assert proxy.taken >= 4
            proxy.accept()
            assert all_settled(queue).stored == 7

    def test_that_is_away_fills_the_queue_to_its_bounds_and_no_further(
        self, record_database: str, proxy: TcpProxy
    ) -> None:
        """What is refused is counted by reason; all the rest is stored when the database is back, once."""
        queue = RecordQueue(40, 101_000)
        proxy.refuse()
        small = [record(payload=b"x") for _ in range(60)]
        large = [record(payload=b"x" * 30_000) for _ in range(2)]
        with writing(proxy.dsn(record_database), queue) as (queue, _):
            queue.submit([*large, *small[:30]])
            eventually(lambda: queue.stats().retried_batches >= 1)
            assert queue.submit([record(payload=b"x" * 30_000)]).refused == 1
            queue.submit([record(payload=b"x" * 200_000), *small[30:]])
            stats = queue.stats()
            assert stats.dropped == {"queue_full_bytes": 1, "too_large": 1, "queue_full_records": 22}
            assert stats.unsaved == 40
            assert stats.unsaved_bytes <= 101_000
            proxy.accept()
            stats = all_settled(queue)
        assert stats.stored == stats.appended == 40
        assert set(stored_keys(record_database)) == keys([*large, *small[:38]])


ADMIN_SHUTDOWN = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'luthien-record' AND datname = current_database()
"""


class TestARestartOfPostgres:
    def test_in_the_middle_of_the_flow_costs_nothing(self, tmp_path: Path) -> None:
        """A server of our own is stopped and started: what came before, meanwhile and after is there, once."""
        before, meanwhile, after = ([whole_call() for _ in range(100)] for _ in range(3))
        queue = RecordQueue(100_000, 10**9)

        def submit(calls: list[list[StageRecord]]) -> None:
            for call in calls:
                queue.submit(call)

        with embedded_postgres(tmp_path) as dsn:
            migrate(dsn)
            writer = RecordWriter(queue, dsn, QUICK)
            writer.start()
            submit(before)
            eventually(lambda: queue.stats().stored > 0)
        try:
            retried = queue.stats().retried_batches
            submit(meanwhile)
            eventually(lambda: queue.stats().retried_batches > retried)
            assert queue.stats().unsaved >= 700
            with embedded_postgres(tmp_path) as dsn_again:
                assert dsn_again == dsn
                submit(after)
                stats = all_settled(queue)
                assert writer.stop(DEADLINE_S) == 0
                calls = [*before, *meanwhile, *after]
                assert stored_keys(dsn) == sorted(key for call in calls for key in keys(call))
        finally:
            writer.stop(0)
        assert stats.stored + stats.replayed == stats.appended == 2100
        assert stats.dropped == {}


class TestStopping:
    def test_writes_what_is_left_and_leaves_no_thread(self, record_database: str) -> None:
        queue = RecordQueue(100_000, 10**9)
        with writing(record_database, queue, BatchLimits(50, 10**8, 3600.0)) as (_, writer):
            queue.submit([each for _ in range(50) for each in whole_call()])
            assert writer.stop(DEADLINE_S) == 0
            assert queue.stats().stored == 350
            eventually(lambda: not threads())
            assert queue.submit([record()]).refused == 1
            assert writer.stop(DEADLINE_S) == 0
        backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'luthien-record'"
        eventually(lambda: fetch(record_database, backends) == [(0,)])

    def test_before_it_was_started_gives_up_what_waits(self, record_database: str) -> None:
        queue = RecordQueue(10, 10**6)
        queue.submit([record()])
        assert RecordWriter(queue, record_database, QUICK).stop(DEADLINE_S) == 1
        assert queue.stats().dropped == {"stopped": 1}

    def test_does_not_sleep_through_the_return_of_the_database(
        self, record_database: str, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Although the next attempt would have come in an hour."""
        monkeypatch.setattr(writer_module, "_FIRST_BACKOFF_S", 7200.0)
        proxy.refuse()
        with writing(proxy.dsn(record_database)) as (queue, writer):
            queue.submit(whole_call())
            eventually(lambda: queue.stats().retried_batches == 1)
            proxy.accept()
            assert writer.stop(DEADLINE_S) == 0
            assert queue.stats().stored == 7

    def test_gives_up_in_time_when_the_database_is_away(
        self, record_database: str, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy.refuse()
        with writing(proxy.dsn(record_database)) as (queue, writer):
            queue.submit(whole_call())
            assert writer.stop(0.3) == 7
            assert queue.stats().dropped == {"stopped": 7}
            assert "7 records were lost: the database did not take them within 0.3 s" in caplog.messages
            eventually(lambda: "luthien-record-writer" not in threads())
        eventually(lambda: not threads())

    @pytest.mark.parametrize("sent_bytes", [0, 1_500_000], ids=["before the copy", "in the middle of it"])
    def test_gives_up_in_time_when_the_database_says_nothing_and_writes_nothing_after(
        self, record_database: str, proxy: TcpProxy, sent_bytes: int
    ) -> None:
        """What was counted as lost does not turn up later."""
        batch = [record(payload=random.Random(5).randbytes(1_000_000)) for _ in range(3)]
        with writing(proxy.dsn(record_database)) as (queue, writer):
            queue.submit([record()])
            all_settled(queue)
            proxy.stall_after(sent_bytes)
            queue.submit(batch)
            assert proxy.held.wait(DEADLINE_S)
            assert writer.stop(0.2) == 3
            eventually(lambda: "luthien-record-writer" not in threads())
            stats = queue.stats()
            assert (stats.stored, stats.dropped, stats.unsaved) == (1, {"stopped": 3}, 0)
            proxy.resume()
        eventually(lambda: not threads())
        backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'luthien-record'"
        eventually(lambda: fetch(record_database, backends) == [(0,)])
        assert len(stored_keys(record_database)) == 1

    def test_gives_up_in_time_when_not_even_a_connection_comes_about(
        self, record_database: str, proxy: TcpProxy
    ) -> None:
        proxy.stall()
        with writing(proxy.dsn(record_database)) as (queue, writer):
            queue.submit(whole_call())
            assert writer.stop(0.2) == 7
            eventually(lambda: "luthien-record-writer" not in threads())
        proxy.refuse()
        eventually(lambda: not threads())


class TestTheBackoff:
    def test_grows_up_to_a_limit_and_is_never_in_step(self) -> None:
        mine, others = ([*itertools.islice(backoffs(), 2000)] for _ in range(2))
        assert all(0.05 <= pause_s <= 10 for pause_s in mine)
        assert all(0.1 * 2**n / 2 <= pause_s <= 0.1 * 2**n for n, pause_s in enumerate(mine[:6]))
        assert min(mine[10:]) >= 5
        assert not set(mine) & set(others)
