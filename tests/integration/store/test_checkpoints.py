"""What becomes of a stream's checkpoints in Postgres: their payloads go when the whole is there, and not before."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest

from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.store.partitions import PartitionKeeper, day_of
from luthien.store.write import Written, prepare, write_batch
from tests.records import record

ALL = frozenset({"original", "final", "both"})


@pytest.fixture
def conn(record_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(record_database, autocommit=True) as conn:
        prepare(conn)
        yield conn


def partial(call_id: UUID, sequence: int, sides: str, payload: bytes | None = None) -> StageRecord:
    payload = payload or f"data: {sides}\n\n".encode()
    return record(
        call_id, sequence, EventType.RESPONSE_PARTIAL, payload, attributes={"luthien.checkpoint.sides": sides}
    )


def streamed_call(call_id: UUID | None = None, **final: Any) -> list[StageRecord]:
    """A call with three checkpoints, one for each kind of side."""
    call_id = call_id or new_call_id()
    counted = {"luthien.checkpoints": 3}
    final = {"payload": b'{"final": 1}', "attributes": counted | {"luthien.changed": True}} | final
    return [
        record(call_id, 0),
        partial(call_id, 1, "both"),
        partial(call_id, 2, "original"),
        partial(call_id, 3, "final"),
        record(call_id, 4, EventType.RESPONSE_ORIGINAL, b'{"original": 1}', attributes=counted),
        record(call_id, 5, EventType.RESPONSE_FINAL, **final),
        record(
            call_id,
            6,
            EventType.CALL_OUTCOME,
            None,
            attributes=counted | {"luthien.outcome": "completed", "luthien.records.emitted": 7},
        ),
    ]


def write(conn: psycopg.Connection[Any], records: Sequence[StageRecord]) -> Written:
    PartitionKeeper().ensure(conn, {day_of(each.call_id) for each in records})
    return write_batch(conn, records)


def kept(conn: psycopg.Connection[Any], call_id: UUID) -> set[str]:
    """The sides whose checkpoint still has its payload; what it was is known of all of them."""
    rows = conn.execute(
        "SELECT attributes ->> 'luthien.checkpoint.sides', payload, payload_sha256, payload_bytes"
        " FROM conversation_events WHERE call_id = %s AND event_type = 'response_partial'",
        (call_id,),
    ).fetchall()
    for sides, payload, sha256, size in rows:
        expected = f"data: {sides}\n\n".encode()
        assert payload in (None, expected)
        assert (sha256, size) == (hashlib.sha256(expected).digest(), len(expected))
    return {sides for sides, payload, _, _ in rows if payload is not None}


def test_each_goes_when_its_side_is_recorded_whole(conn: psycopg.Connection[Any]) -> None:
    records = streamed_call()
    call_id = records[0].call_id
    write(conn, records[:4])
    assert kept(conn, call_id) == ALL
    write(conn, records[4:5])
    assert kept(conn, call_id) == {"both", "final"}
    write(conn, records[5:6])
    assert kept(conn, call_id) == set()


@pytest.mark.parametrize("seed", range(12))
def test_in_whatever_order_and_batches_they_come(conn: psycopg.Connection[Any], seed: int) -> None:
    """And replaying them brings nothing back, and nothing into quarantine."""
    calls = [streamed_call() for _ in range(3)]
    dice = random.Random(seed)
    records = [*itertools.chain(*calls)]
    dice.shuffle(records)
    left = records
    while left:
        size = dice.randint(1, 6)
        write(conn, left[:size])
        left = left[size:]
    for _ in range(2):
        for call in calls:
            assert kept(conn, call[0].call_id) == set()
        assert write(conn, records) == Written(0, len(records), 0)
    assert conn.execute("SELECT records_stored FROM conversation_calls").fetchall() == [(7,)] * 3


def test_after_the_final_one_is_stored_without_its_payload(conn: psycopg.Connection[Any]) -> None:
    records = streamed_call()
    for each in reversed(records[1:-1]):
        write(conn, [each])
    assert kept(conn, records[0].call_id) == set()


def test_a_final_that_points_at_the_original_is_whole_when_that_is(conn: psycopg.Connection[Any]) -> None:
    pointing = streamed_call(payload=None, payload_ref=4)
    call_id = pointing[0].call_id
    write(conn, [each for each in pointing if each.sequence != 4])
    assert kept(conn, call_id) == ALL
    write(conn, pointing)
    assert kept(conn, call_id) == set()


def test_nothing_goes_for_a_final_whose_payload_was_lost(conn: psycopg.Connection[Any]) -> None:
    """What the checkpoints have is then all there is."""
    records = streamed_call()
    records[5] = replace(records[5], payload=None)
    write(conn, records)
    assert kept(conn, records[0].call_id) == {"both", "final"}


def test_calls_that_do_not_end_keep_theirs_while_others_end(conn: psycopg.Connection[Any]) -> None:
    ended, open_call = streamed_call(), streamed_call()
    write(conn, [*open_call[:4], *ended])
    assert kept(conn, open_call[0].call_id) == ALL
    assert kept(conn, ended[0].call_id) == set()


def test_a_call_without_checkpoints_is_not_asked_about(conn: psycopg.Connection[Any]) -> None:
    records = [replace(each, attributes={}) for each in streamed_call() if each.sequence not in (1, 2, 3)]
    PartitionKeeper().ensure(conn, {day_of(records[0].call_id)})
    said: list[str] = []
    conn.execute("SET log_statement = 'all'")
    conn.execute("SET client_min_messages = 'log'")
    conn.add_notice_handler(lambda diagnostic: said.append(diagnostic.message_primary or ""))
    write_batch(conn, records)
    assert any("conversation_calls" in line for line in said)
    assert not any("response_partial" in line for line in said)
    write_batch(conn, streamed_call())
    assert any("response_partial" in line for line in said)
