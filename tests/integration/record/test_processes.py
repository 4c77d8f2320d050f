"""Processes say in the database that they live, how they are, who died and what was lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from luthien import __version__
from luthien.record.processes import forget_processes, heartbeat, notices
from luthien.record.queue import RecordQueue
from luthien.record.spool import Spool, SpoolLimits
from luthien.record.upkeep import Upkeep
from luthien.store.write import prepare, write_batch
from tests.playbook import eventually
from tests.records import call_at, record, whole_call

LIMITS = SpoolLimits(10**9, 1000, 10**6)


@pytest.fixture
def conn(record_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(record_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def queue() -> RecordQueue:
    return RecordQueue(1000, 10**6)


def process(conn: psycopg.Connection[Any], process_id: UUID) -> dict[str, Any]:
    row = conn.execute(
        "SELECT to_jsonb(p) || jsonb_build_object('behind', extract(epoch FROM seen_at - saved_until))"
        " FROM conversation_processes p WHERE process_id = %s",
        (process_id,),
    ).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def test_a_heartbeat_says_who_it_is_and_how_it_is(conn: psycopg.Connection[Any], queue: RecordQueue) -> None:
    queue.submit([record()])
    chore = heartbeat(queue)
    chore.do(conn)
    first = process(conn, queue.process_id)
    assert (first["pid"], first["version"], first["ended_how"]) == (os.getpid(), __version__, None)
    assert first["host"]
    assert first["stats"]["appended"] == first["stats"]["unsaved"] == 1
    assert first["stats"]["oldest_unsaved_age_s"] >= 0
    assert first["behind"] > 0, "what was taken in since may be on its way"
    chore.do(conn)
    again = process(conn, queue.process_id)
    assert again["started_at"] == first["started_at"]
    assert again["seen_at"] > first["seen_at"]


def test_a_stop_in_order_is_said_with_the_last_figures(record_database: str, conn: psycopg.Connection[Any]) -> None:
    queue = RecordQueue(1000, 10**6)
    upkeep = Upkeep(record_database, [heartbeat(queue, 3600.0)])
    upkeep.start()
    assert eventually(lambda: conn.execute("SELECT FROM conversation_processes").fetchall(), bool)
    queue.submit([record()])
    upkeep.stop(10.0)
    last = process(conn, queue.process_id)
    assert (last["ended_how"], last["stats"]["appended"]) == ("stopped", 1)
    assert last["ended_at"] is not None


def test_who_is_dead_is_said_even_of_those_who_never_spoke_and_not_of_those_who_stopped(
    conn: psycopg.Connection[Any], queue: RecordQueue
) -> None:
    alive, stopped, silent = RecordQueue(1, 1), RecordQueue(1, 1), uuid4()
    for each in (alive, stopped):
        heartbeat(each).do(conn)
    at_end = heartbeat(stopped).at_end
    assert at_end is not None
    at_end(conn)
    for process_id in (alive.process_id, stopped.process_id, silent):
        queue.untold.died(process_id)
    notices(queue).do(conn)
    assert process(conn, alive.process_id)["ended_how"] == "died"
    assert process(conn, stopped.process_id)["ended_how"] == "stopped"
    assert process(conn, silent)["ended_how"] == "died"
    assert queue.untold.dead() == []
    heartbeat(alive).do(conn)
    assert process(conn, alive.process_id)["ended_at"] is None, "whoever is heard of lives"


def test_what_was_lost_is_told_once(conn: psycopg.Connection[Any], queue: RecordQueue) -> None:
    records = whole_call()
    queue.close()
    queue.submit(records)
    losses = queue.untold.losses()
    notices(queue).do(conn)
    for each in losses:  # as when it was not heard that they were told
        queue.untold.lost(each.record, each.reason)
    notices(queue).do(conn)
    kept = conn.execute(
        "SELECT sequence, event_type, reason, payload, attributes::jsonb->>'payload_bytes'"
        " FROM conversation_quarantine ORDER BY sequence"
    ).fetchall()
    assert kept == [
        (each.sequence, each.event_type, "closed", None, None if each.payload is None else str(len(each.payload)))
        for each in records
    ]
    assert conn.execute("SELECT process_id, records_stored FROM conversation_calls").fetchall() == [
        (queue.process_id, 0)
    ]


def test_what_is_told_of_a_call_does_not_come_between_its_records(
    conn: psycopg.Connection[Any], queue: RecordQueue
) -> None:
    records = whole_call()
    prepare(conn)
    write_batch(conn, records[:3])
    queue.close()
    queue.submit(records[3:4])
    notices(queue).do(conn)
    write_batch(conn, records[4:])
    assert conn.execute("SELECT records_stored, records_emitted, outcome FROM conversation_calls").fetchall() == [
        (6, 7, "completed")
    ]


def test_a_loss_that_cannot_even_be_told_costs_no_other(conn: psycopg.Connection[Any], queue: RecordQueue) -> None:
    queue.untold.lost(record(UUID(int=2**128 - 1)), "spool_full")
    other = record()
    queue.untold.lost(other, "spool_full")
    notices(queue).do(conn)
    assert conn.execute("SELECT call_id FROM conversation_quarantine").fetchall()[-1:] == [(other.call_id,)]
    assert queue.untold.losses() == []


def test_processes_are_forgotten_with_the_last_calls_of_their_time(conn: psycopg.Connection[Any]) -> None:
    """A machine that was lost never says that it ended: what counts is when it was last heard of."""
    now = datetime.now(UTC)
    ages = {"kept": 2, "gone": 40, "lost": 41}
    ids = {name: uuid4() for name in [*ages, "alive"]}
    for name, days in ages.items():
        at = now - timedelta(days=days)
        conn.execute(
            "INSERT INTO conversation_processes (process_id, started_at, seen_at, ended_at, ended_how)"
            " VALUES (%s, %s, %s, %s, %s)",
            (ids[name], at, at, None if name == "lost" else at, None if name == "lost" else "stopped"),
        )
    conn.execute("INSERT INTO conversation_processes (process_id) VALUES (%s)", (ids["alive"],))
    prepare(conn)
    write_batch(conn, [record(call_at((now - timedelta(days=30)).timestamp()))])
    forget_processes().do(conn)
    left = {process_id for (process_id,) in conn.execute("SELECT process_id FROM conversation_processes")}
    # In its first minute a server holds nothing against those it has not heard of.
    assert left - {ids["lost"]} == {ids["kept"], ids["alive"]}
    conn.execute("DELETE FROM conversation_calls")
    forget_processes().do(conn)
    left = {process_id for (process_id,) in conn.execute("SELECT process_id FROM conversation_processes")}
    assert left - {ids["lost"]} == {ids["alive"]}


def test_a_spool_and_its_heartbeat_are_of_one_process(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    spool.start()
    heartbeat(spool).do(conn)
    said = process(conn, spool.process_id)
    assert (said["stats"]["spool_max_bytes"], said["stats"]["trouble"]) == (10**9, None)
    assert said["behind"] == 0
    spool.abandon("end")
