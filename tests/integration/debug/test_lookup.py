"""Whether a call is there, on its way, or nowhere: Postgres first, then what waits here, then the call's age."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from luthien.debug.call.call_view import view_call
from luthien.debug.call.completeness import State, state_of
from luthien.debug.call.lookup import Found, Lookup, Pending
from luthien.errors import StoreError
from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.record.processes import heartbeat, notices
from luthien.record.queue import RecordQueue
from luthien.record.spool import Spool, SpoolLimits
from luthien.store.call_filter import EVERY_CALL
from luthien.store.read import RecordReader
from tests.playbook import DEADLINE_S
from tests.records import call_at, record, store, whole_call


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> RecordQueue:
    return RecordQueue(100, 10**6, clock=clock)


@pytest.fixture
async def lookup(record_database: str, queue: RecordQueue) -> AsyncIterator[Lookup]:
    reader = RecordReader(record_database, timeout_s=DEADLINE_S)
    await reader.open()
    yield Lookup(reader, queue)
    await reader.close()


async def state(lookup: Lookup, call_id: UUID) -> State:
    """As the page and the list have it, which agree."""
    found = await lookup.call(call_id)
    assert isinstance(found, Found)
    [listed] = [each for each in await lookup.calls(EVERY_CALL, None, 50) if each.row["call_id"] == call_id]
    assert listed.completeness.state is state_of(found.evidence)
    return listed.completeness.state


def say(dsn: str, statement: LiteralString, *values: object) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement, values)


LIVES = """INSERT INTO conversation_processes (process_id, saved_until) VALUES (%s, now() + %s * interval '1 second')
    ON CONFLICT (process_id) DO UPDATE SET seen_at = now(), saved_until = EXCLUDED.saved_until"""
ENDED = """INSERT INTO conversation_processes (process_id, ended_at, ended_how) VALUES (%s, now(), 'died')
    ON CONFLICT (process_id) DO UPDATE SET ended_at = now(), ended_how = 'died'"""


def served_by(process_id: UUID, records: list[StageRecord]) -> list[StageRecord]:
    """The call as a process leaves it: its first and its last record say who served it."""
    who = {"service.instance.id": str(process_id)}
    ends = (0, len(records) - 1)
    return [
        replace(each, attributes={**each.attributes, **who}) if number in ends else each
        for number, each in enumerate(records)
    ]


class TestACallThatIsStored:
    async def test_whole_is_complete_however_young_it_is(self, record_database: str, lookup: Lookup) -> None:
        records = whole_call()
        store(record_database, *records)
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert len(found.call.records) == 7
        assert await state(lookup, records[0].call_id) is State.COMPLETE

    async def test_in_part_is_pending_while_more_may_come(self, record_database: str, lookup: Lookup) -> None:
        records = whole_call()
        store(record_database, *records[:6])
        assert await state(lookup, records[0].call_id) is State.PENDING

    async def test_in_part_and_of_no_known_process_is_partial_when_it_is_old(
        self, record_database: str, lookup: Lookup
    ) -> None:
        records = whole_call(call_at(time.time() - 120))
        store(record_database, *records[1:])
        assert await state(lookup, records[0].call_id) is State.PARTIAL

    async def test_in_part_is_pending_however_old_when_the_rest_waits_here(
        self, record_database: str, lookup: Lookup, queue: RecordQueue
    ) -> None:
        """The record of an hour-long stream that has just ended."""
        records = whole_call(call_at(time.time() - 3600))
        store(record_database, *records[:6])
        queue.submit(records[6:])
        assert await state(lookup, records[0].call_id) is State.PENDING

    async def test_that_refers_to_a_record_on_its_way_has_lost_nothing(
        self, record_database: str, lookup: Lookup
    ) -> None:
        records = whole_call()
        final = replace(records[3], payload=None, payload_ref=0)
        store(record_database, *records[1:3], final, *records[4:])
        found = await lookup.call(final.call_id)
        assert isinstance(found, Found)
        view = view_call(found.call, found.evidence)
        assert (view.completeness.state, view.completeness.losses) == (State.PENDING, ())
        assert view.stages[EventType.REQUEST_ORIGINAL].state == "awaited"
        assert view.stages[EventType.REQUEST_FINAL].state == "awaited"
        store(record_database, records[0])
        found = await lookup.call(final.call_id)
        assert isinstance(found, Found)
        view = view_call(found.call, found.evidence)
        assert view.completeness.state is State.COMPLETE
        assert view.stages[EventType.REQUEST_FINAL].payload == records[0].payload

    async def test_is_complete_when_only_checkpoints_lack_payloads(
        self, record_database: str, lookup: Lookup
    ) -> None:
        """A superseded checkpoint of a stream keeps its hash alone: that is no loss."""
        records = whole_call()
        records[1] = replace(records[1], event_type="response_partial", payload_sha256=b"x" * 32)
        store(record_database, *records)
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert view_call(found.call, found.evidence).completeness.state is State.COMPLETE

    async def test_is_in_the_list(self, record_database: str, lookup: Lookup) -> None:
        first, second = record(), record()
        store(record_database, first, second)
        assert [each.row["call_id"] for each in await lookup.calls(EVERY_CALL, None, 1)] == [second.call_id]
        assert [each.row["call_id"] for each in await lookup.calls(EVERY_CALL, second.call_id, 5)] == [first.call_id]


class TestACallOfAnotherProcess:
    """Which this one knows only from what it says in the database."""

    async def test_is_pending_while_it_runs_however_long(self, record_database: str, lookup: Lookup) -> None:
        process, records = uuid4(), whole_call(call_at(time.time() - 7200))
        store(record_database, *served_by(process, records)[:4])
        say(record_database, LIVES, process, 0)
        assert await state(lookup, records[0].call_id) is State.PENDING

    async def test_is_interrupted_when_the_process_is_dead_until_a_late_end_overrides_it(
        self, record_database: str, lookup: Lookup
    ) -> None:
        process = uuid4()
        records = served_by(process, whole_call())
        store(record_database, *records[:4])
        say(record_database, ENDED, process)
        assert await state(lookup, records[0].call_id) is State.INTERRUPTED
        store(record_database, *records[4:])
        assert await state(lookup, records[0].call_id) is State.COMPLETE

    async def test_is_pending_again_when_the_process_is_heard_of_again(
        self, record_database: str, lookup: Lookup, tmp_path: Path
    ) -> None:
        """It was taken for dead: who says that it lives, lives."""
        spool = Spool(tmp_path, SpoolLimits(10**9, 1000, 10**9))
        records = served_by(spool.process_id, whole_call())
        store(record_database, *records[:4])
        say(record_database, ENDED, spool.process_id)
        assert await state(lookup, records[0].call_id) is State.INTERRUPTED
        with psycopg.connect(record_database, autocommit=True) as conn:
            heartbeat(spool).do(conn)
        assert await state(lookup, records[0].call_id) is State.PENDING

    async def test_lacks_what_its_process_may_still_have(self, record_database: str, lookup: Lookup) -> None:
        """A process says until when it has saved all: a call that ended before then lacks what is lost."""
        process, records = uuid4(), whole_call(call_at(time.time() - 7200))
        store(record_database, *served_by(process, records)[1:])
        say(record_database, LIVES, process, -30)
        assert await state(lookup, records[0].call_id) is State.PENDING
        say(record_database, LIVES, process, +30)
        assert await state(lookup, records[0].call_id) is State.PARTIAL
        say(record_database, LIVES, process, -30)
        say(record_database, ENDED, process)
        assert await state(lookup, records[0].call_id) is State.PARTIAL

    async def test_whose_record_is_being_taken_over_here_is_pending(
        self, record_database: str, tmp_path: Path
    ) -> None:
        limits = SpoolLimits(10**9, 1000, 10**9)
        dead, heir = Spool(tmp_path, limits), Spool(tmp_path, limits)
        records = served_by(dead.process_id, whole_call())
        store(record_database, *records[:1])
        dead.start()
        dead.submit(records[1:])
        dead.abandon("stopped")
        say(record_database, ENDED, dead.process_id)
        reader = RecordReader(record_database)
        await reader.open()
        lookup = Lookup(reader, heir, heir.process_id)
        assert await state(lookup, records[0].call_id) is State.INTERRUPTED
        heir.start()
        assert await state(lookup, records[0].call_id) is State.PENDING
        heir.abandon("stopped")
        await reader.close()


class TestACallOfThisProcess:
    @pytest.fixture
    def process(self) -> UUID:
        return uuid4()

    @pytest.fixture
    async def lookup(self, record_database: str, queue: RecordQueue, process: UUID) -> AsyncIterator[Lookup]:
        reader = RecordReader(record_database)
        await reader.open()
        yield Lookup(reader, queue, process)
        await reader.close()

    async def test_is_pending_while_it_runs_whatever_the_database_thinks(
        self, record_database: str, lookup: Lookup, process: UUID
    ) -> None:
        """After an outage, our own heartbeat may be old."""
        records = whole_call(call_at(time.time() - 7200))
        store(record_database, *served_by(process, records)[:4])
        assert await state(lookup, records[0].call_id) is State.PENDING
        say(record_database, ENDED, process)
        assert await state(lookup, records[0].call_id) is State.PENDING

    async def test_lacks_what_came_before_the_oldest_that_waits(
        self, record_database: str, lookup: Lookup, process: UUID, queue: RecordQueue, clock: Clock
    ) -> None:
        records = served_by(process, whole_call(call_at(time.time() - 7200)))
        store(record_database, *records[1:])
        assert await state(lookup, records[0].call_id) is State.PARTIAL
        queue.submit([record()])
        clock.now_s += 5
        assert await state(lookup, records[0].call_id) is State.PENDING, "what has waited for 5 s may be of this call"

    async def test_that_was_refused_whole_is_no_call_that_runs(
        self, record_database: str, lookup: Lookup, process: UUID, tmp_path: Path
    ) -> None:
        """Not even the record of its end was kept: the process tells the database so."""
        spool = Spool(tmp_path, SpoolLimits(10**9, 1000, 10**9))
        spool.process_id = process
        records = served_by(process, whole_call())
        spool.close()
        spool.submit(records)
        with psycopg.connect(record_database, autocommit=True) as conn:
            notices(spool).do(conn)
            notices(spool).do(conn)
        assert spool.untold.losses() == []
        assert await state(lookup, records[0].call_id) is State.FAILED
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert [(each.sequence, each.event_type, each.reason) for each in found.call.set_aside] == [
            (each.sequence, each.event_type, "closed") for each in records
        ]


class TestACallThatIsNotStored:
    async def test_is_pending_when_its_records_wait_here(self, lookup: Lookup, queue: RecordQueue) -> None:
        """However old it is, and also while they are being written."""
        waiting = record(call_at(time.time() - 3600))
        queue.submit([waiting])
        assert await lookup.call(waiting.call_id) == Pending()
        batch = queue.take(1, 10**6, 0)
        assert await lookup.call(waiting.call_id) == Pending()
        queue.settle(batch, dropped=1, reason="quarantined")
        assert await lookup.call(waiting.call_id) is None

    async def test_is_pending_while_it_is_young(self, lookup: Lookup) -> None:
        """Another process may have it."""
        assert await lookup.call(new_call_id()) == Pending()
        assert await lookup.call(call_at(time.time() - 50)) == Pending()

    async def test_is_nowhere_when_it_is_old(self, lookup: Lookup) -> None:
        assert await lookup.call(call_at(time.time() - 61)) is None
        assert await lookup.call(call_at(0)) is None

    async def test_may_be_older_by_as_much_as_the_database_is_behind(
        self, lookup: Lookup, queue: RecordQueue, clock: Clock
    ) -> None:
        """What waits here for ten minutes says that what another process has may wait as long."""
        queue.submit([record()])
        clock.now_s += 600
        assert await lookup.call(call_at(time.time() - 650)) == Pending()
        assert await lookup.call(call_at(time.time() - 670)) is None

    async def test_is_not_thought_to_be_on_its_way_for_a_late_record_of_an_old_call(
        self, lookup: Lookup, queue: RecordQueue
    ) -> None:
        """A stream that began an hour ago and recorded something just now does not mean an hour's delay."""
        queue.submit([record(call_at(time.time() - 3600))])
        assert await lookup.call(call_at(time.time() - 1800)) is None

    async def test_is_nowhere_when_its_time_has_not_come(self, lookup: Lookup) -> None:
        """But another machine's clock may be a little ahead."""
        assert await lookup.call(call_at(time.time() + 2)) == Pending()
        assert await lookup.call(call_at(time.time() + 60)) is None


class TestADatabaseThatIsAway:
    async def test_is_said_to_be_even_of_calls_that_wait_here(self, queue: RecordQueue) -> None:
        reader = RecordReader("postgresql://nobody@127.0.0.1:1/nothing", timeout_s=0.2)
        await reader.open()
        lookup = Lookup(reader, queue)
        waiting = record()
        queue.submit([waiting])
        for ask in (lookup.call(waiting.call_id), lookup.calls(EVERY_CALL, None, 1), lookup.not_ready_because()):
            with pytest.raises(StoreError, match="the database is away"):
                await ask
        await reader.close()


class TestReadiness:
    async def test_is_a_schema_that_is_current(self, lookup: Lookup) -> None:
        assert await lookup.not_ready_because() is None

    async def test_names_what_is_missing_and_what_to_do(self, database: str, queue: RecordQueue) -> None:
        reader = RecordReader(database)
        await reader.open()
        reason = await Lookup(reader, queue).not_ready_because()
        await reader.close()
        assert reason is not None
        assert reason.startswith("the database lacks 20261122000000_record, ")
        assert reason.endswith(": run `luthien migrate`")
