"""Chores are done on time, each on its own, and whatever becomes of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from luthien.record.chores import DefaultPartitions, partitions_ahead, retention
from luthien.record.upkeep import Chore, Connection, Upkeep
from luthien.store.partitions import PartitionKeeper
from luthien.store.retention import repair, stored_days
from tests.playbook import DEADLINE_S, ScriptedProvider, eventually, running_gateway
from tests.records import call_at


@contextmanager
def keeping_up(dsn: str, *chores: Chore) -> Iterator[Upkeep]:
    upkeep = Upkeep(dsn, chores)
    upkeep.start()
    try:
        yield upkeep
    finally:
        upkeep.stop(10.0)


def counting(done: list[int]) -> Callable[[Connection], None]:
    def do(conn: Connection) -> None:
        conn.execute("SELECT 1")
        done.append(conn.info.backend_pid)

    return do


def test_a_chore_is_done_again_and_again(record_database: str) -> None:
    done: list[int] = []
    with keeping_up(record_database, Chore("count", 0.02, counting(done))):
        assert eventually(lambda: len(done) > 3, bool)
    assert len(set(done)) == 1, "on one connection"


def test_a_chore_that_fails_costs_the_others_nothing(record_database: str) -> None:
    done: list[int] = []
    failed: list[int] = []

    def fail(conn: Connection) -> None:
        failed.append(1)
        conn.execute("SELECT 1 / 0")

    with keeping_up(record_database, Chore("fail", 0.02, fail), Chore("count", 0.02, counting(done))):
        assert eventually(lambda: len(done) > 3 and len(failed) > 3, bool)


def test_what_an_exception_of_ours_says_is_not_logged(record_database: str, caplog: pytest.LogCaptureFixture) -> None:
    """It may quote what is in the record."""

    def fail(conn: Connection) -> None:
        raise LookupError("a secret")

    with keeping_up(record_database, Chore("fail", 0.02, fail)):
        eventually(lambda: caplog.messages, bool)
    assert caplog.messages == ["upkeep: fail failed: LookupError"]


def test_chores_go_on_when_their_connection_was_cut(record_database: str) -> None:
    done: list[int] = []
    with (
        keeping_up(record_database, Chore("count", 0.02, counting(done))),
        psycopg.connect(record_database, autocommit=True) as conn,
    ):
        assert eventually(lambda: bool(done), bool)
        conn.execute("SELECT pg_terminate_backend(%s)", (done[0],))
        assert eventually(lambda: len(set(done)) > 1, bool)


def test_what_is_to_be_done_at_the_end_is_done_once(record_database: str) -> None:
    done: list[int] = []
    ended: list[int] = []
    with keeping_up(record_database, Chore("count", 3600.0, counting(done), at_end=counting(ended))):
        assert eventually(lambda: bool(done), bool)
        assert ended == []
    assert len(done) == len(ended) == 1


def test_a_stop_does_not_wait_for_a_database_that_is_busy(record_database: str) -> None:
    started: list[int] = []

    def sleep(conn: Connection) -> None:
        started.append(1)
        conn.execute("SELECT pg_sleep(100)")

    upkeep = Upkeep(record_database, [Chore("sleep", 1.0, sleep)])
    upkeep.start()
    assert eventually(lambda: bool(started), bool)
    upkeep.stop(0.1)
    upkeep._thread.join(DEADLINE_S)
    assert not upkeep._thread.is_alive()


@pytest.mark.usefixtures("same_day")
def test_the_next_days_have_their_partitions_before_any_call(record_database: str) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with (
        keeping_up(record_database, partitions_ahead()),
        psycopg.connect(record_database, autocommit=True) as conn,
    ):

        def is_made() -> bool:
            [name] = conn.execute(
                "SELECT to_regclass(%s)", (f"conversation_calls_{tomorrow:%Y%m%d}",)
            ).fetchone() or [0]
            return name is not None

        assert eventually(is_made, bool)


@pytest.mark.usefixtures("same_day")
def test_days_that_are_older_than_retention_are_dropped(record_database: str) -> None:
    today = datetime.now(UTC).date()
    with psycopg.connect(record_database, autocommit=True) as conn:
        PartitionKeeper().ensure(conn, [today - timedelta(days=number) for number in (0, 2, 3, 4)])
        with (
            keeping_up(record_database, retention(timedelta(days=2))),
            keeping_up(record_database, retention(timedelta(days=2))),
        ):
            left = eventually(lambda: [each.day for each in stored_days(conn)], lambda days: len(days) == 2)
    assert left == [today - timedelta(days=2), today]


def test_a_row_in_a_default_partition_is_counted_and_said_once(
    record_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = DefaultPartitions()
    often = replace(watch.chore(), every_s=0.02)
    with psycopg.connect(record_database, autocommit=True) as conn, keeping_up(record_database, often):
        assert eventually(lambda: watch.rows, lambda rows: rows is not None) == 0
        conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (call_at(1_000_000_000.0),))
        assert eventually(lambda: watch.rows, bool) == 1
        assert repair(conn, None) == []
        assert eventually(lambda: watch.rows, lambda rows: rows == 0) == 0
    assert caplog.messages == ["the default partitions have 1 rows that should be in a day's: run `luthien repair`"]


@pytest.mark.usefixtures("same_day")
def test_a_gateway_that_is_told_how_long_to_keep_calls_does(record_database: str, provider: ScriptedProvider) -> None:
    today = datetime.now(UTC).date()
    with psycopg.connect(record_database, autocommit=True) as conn:
        PartitionKeeper().ensure(conn, [today - timedelta(days=3)])
        with running_gateway(record_database, provider.url):
            eventually(lambda: [each.day for each in stored_days(conn)], lambda days: len(days) == 4)
        assert stored_days(conn)[0].day == today - timedelta(days=3)
        with running_gateway(record_database, provider.url, keep=timedelta(days=2)):
            left = eventually(lambda: [each.day for each in stored_days(conn)], lambda days: len(days) == 3)
    assert left == [today + timedelta(days=number) for number in range(3)]
