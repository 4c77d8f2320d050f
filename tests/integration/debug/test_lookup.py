"""Whether a call is there, on its way, or nowhere: Postgres first, then what waits here, then the call's age."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest

from luthien.debug.lookup import Found, Lookup, Pending, is_whole
from luthien.errors import StoreError
from luthien.exchange import StageRecord, new_call_id
from luthien.record.queue import RecordQueue
from luthien.store.read import RecordReader
from luthien.store.write import prepare, write_batch
from tests.records import call_at, record, whole_call


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
    reader = RecordReader(record_database)
    await reader.open()
    yield Lookup(reader, queue)
    await reader.close()


def store(dsn: str, *records: StageRecord) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        prepare(conn)
        write_batch(conn, records)


class TestACallThatIsStored:
    async def test_whole_is_found_however_young_it_is(self, record_database: str, lookup: Lookup) -> None:
        records = whole_call()
        store(record_database, *records)
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert not found.is_pending
        assert len(found.call.records) == 7
        assert is_whole(found.call.row)

    async def test_in_part_is_pending_while_more_may_come(self, record_database: str, lookup: Lookup) -> None:
        records = whole_call()
        store(record_database, *records[:6])
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert found.is_pending
        assert not is_whole(found.call.row)

    async def test_in_part_is_pending_no_more_when_it_is_old(self, record_database: str, lookup: Lookup) -> None:
        records = whole_call(call_at(time.time() - 120))
        store(record_database, *records[1:])
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert not found.is_pending

    async def test_in_part_is_pending_however_old_when_the_rest_waits_here(
        self, record_database: str, lookup: Lookup, queue: RecordQueue
    ) -> None:
        """The record of an hour-long stream that has just ended."""
        records = whole_call(call_at(time.time() - 3600))
        store(record_database, *records[:6])
        queue.submit(records[6:])
        found = await lookup.call(records[0].call_id)
        assert isinstance(found, Found)
        assert found.is_pending

    async def test_is_in_the_list(self, record_database: str, lookup: Lookup) -> None:
        first, second = record(), record()
        store(record_database, first, second)
        assert [row["call_id"] for row in await lookup.calls(None, 1)] == [second.call_id]
        assert [row["call_id"] for row in await lookup.calls(second.call_id, 5)] == [first.call_id]


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
        for ask in (lookup.call(waiting.call_id), lookup.calls(None, 1), lookup.not_ready_because()):
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
