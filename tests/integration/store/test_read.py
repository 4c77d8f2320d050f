"""What the pages read: what was written, in order, and in words when the database cannot be asked."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from luthien.errors import StoreBusy, StoreError
from luthien.exchange import StageRecord, new_call_id
from luthien.store import read
from luthien.store.call_filter import EVERY_CALL
from luthien.store.migrate import migrate, migrations_folder, read_migrations
from luthien.store.read import RecordReader
from luthien.store.windows import NEWEST
from tests.playbook import DEADLINE_S
from tests.records import call_at, record, store, whole_call
from tests.tcp_proxy import proxy_to

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


class TestAList:
    DAY_S = 86_400.0

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
    async def test_gives_every_call_once_newest_first_whatever_its_age_and_the_size_of_a_page(
        self, record_database: str, reader: RecordReader, limit: int
    ) -> None:
        now = time.time()
        ages = [0.0, 0.1, 1, 2, 2.001, 3, 31.9, 32, 33, 34, 34.001, 400, 5000]
        newest_first = [call_at(now - age * self.DAY_S) for age in ages] + [UUID(int=3), UUID(int=0)]
        store(record_database, *(record(call_id) for call_id in random.Random(8).sample(newest_first, len(ages) + 2)))
        listed: list[UUID] = []
        before: UUID | None = None
        while rows := await reader.calls(EVERY_CALL, before, limit):
            assert len(rows) <= limit
            listed += [row["call_id"] for row in rows]
            before = listed[-1]
        assert listed == newest_first

    async def test_shows_a_call_whose_process_has_a_clock_that_is_ahead(
        self, record_database: str, reader: RecordReader
    ) -> None:
        ahead = record(call_at(time.time() + self.DAY_S))
        store(record_database, ahead)
        assert [row["call_id"] for row in await reader.calls(EVERY_CALL, None, 50)] == [ahead.call_id]


class TestASession:
    AGES_D = (0.0, 0.1, 1.9, 2.1, 31, 33, 95, 97, 300, 729, 1080, 5000)

    @pytest.mark.parametrize("limit", [1, 5, 100])
    async def test_gives_every_call_once_both_ways_whatever_their_age(
        self, record_database: str, reader: RecordReader, limit: int
    ) -> None:
        oldest_first = [UUID(int=0), *(call_at(time.time() - days * 86_400) for days in reversed(self.AGES_D))]
        ours = [
            record(each, attributes={"gen_ai.conversation.id": "ours", "gen_ai.request.model": f"m{number % 3}"})
            for number, each in enumerate(oldest_first)
        ]
        store(record_database, *ours, *(record(attributes={"gen_ai.conversation.id": "theirs"}) for _ in range(3)))
        for backwards in (False, True):
            since, before, found = UUID(int=0), NEWEST, list[UUID]()
            while rows := await reader.session_calls("ours", since, before, limit, backwards=backwards):
                ids = [row["call_id"] for row in rows]
                found = ids + found if backwards else found + ids
                since, before = (since, ids[0]) if backwards else (UUID(int=ids[-1].int + 1), before)
            assert found == oldest_first
        totals = await reader.session_totals("ours", limit)
        latest = oldest_first[-limit:]
        assert (totals["calls"], totals["oldest"], totals["newest"]) == (len(latest), latest[0], latest[-1])
        assert totals["unfinished"] == len(latest)
        assert totals["models"] == sorted({f"m{oldest_first.index(each) % 3}" for each in latest})
        assert totals["input_tokens"] is None
        assert await reader.session_count("ours", oldest_first[2], oldest_first[-2]) == len(oldest_first) - 4

    async def test_that_nobody_named_adds_up_to_nothing(self, reader: RecordReader) -> None:
        totals = await reader.session_totals("nobody's", 10)
        assert (totals["calls"], totals["oldest"], totals["models"]) == (0, None, None)


class TestACall:
    async def test_comes_back_as_it_was_recorded_and_in_order(
        self, record_database: str, reader: RecordReader
    ) -> None:
        records = whole_call()
        records[4] = replace(records[4], wire_sha256=b"w" * 32, wire_bytes=9, payload_ref=0, payload=None)
        store(record_database, *random.Random(6).sample(records, len(records)))
        store(record_database, *whole_call())
        found = await reader.call(records[0].call_id)
        assert found is not None
        assert found.row["call_id"] == records[0].call_id
        assert found.row["records_stored"] == 7
        back = [replace(each, attributes=_as_json(each)) for each in records]
        assert found.records == back

    async def test_that_nobody_recorded_is_none(self, reader: RecordReader) -> None:
        assert await reader.call(new_call_id()) is None

    async def test_without_trace_and_payload_comes_back_without_them(
        self, record_database: str, reader: RecordReader
    ) -> None:
        bare = record(payload=None, trace_id="", span_id="")
        store(record_database, bare)
        found = await reader.call(bare.call_id)
        assert found is not None
        assert found.records == [bare]
        assert found.row["trace_id"] is None

    @given(recorded_at_us=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    async def test_has_its_times_to_the_microsecond(
        self, record_database: str, reader: RecordReader, recorded_at_us: int
    ) -> None:
        """From the year 1 to the end of the year 9999, and in whatever time zone the server thinks."""
        written = record(recorded_at_ns=recorded_at_us * 1000)
        store(make_conninfo(record_database, options="-c TimeZone=Pacific/Kiritimati"), written)
        found = await reader.call(written.call_id)
        assert found is not None
        assert found.records[0].recorded_at_ns == recorded_at_us * 1000

    async def test_is_read_by_a_server_in_any_time_zone(self, record_database: str) -> None:
        written = record(recorded_at_ns=253_402_300_799_999_999_000)
        store(record_database, written)
        far_east = RecordReader(make_conninfo(record_database, options="-c TimeZone=Pacific/Kiritimati"))
        await far_east.open()
        found = await far_east.call(written.call_id)
        await far_east.close()
        assert found is not None
        assert found.records == [written]


def _as_json(each: StageRecord) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in each.attributes.items()}


class TestTheList:
    async def test_is_newest_first_and_goes_on_where_a_page_ended(
        self, record_database: str, reader: RecordReader
    ) -> None:
        calls = [record() for _ in range(5)]
        store(record_database, *calls)
        newest_first = [each.call_id for each in reversed(calls)]
        first = await reader.calls(EVERY_CALL, None, 2)
        assert [row["call_id"] for row in first] == newest_first[:2]
        rest = await reader.calls(EVERY_CALL, newest_first[1], 100)
        assert [row["call_id"] for row in rest] == newest_first[2:]
        assert await reader.calls(EVERY_CALL, newest_first[-1], 100) == []

    async def test_holds_no_payload(self, record_database: str, reader: RecordReader) -> None:
        store(record_database, *whole_call())
        [row] = await reader.calls(EVERY_CALL, None, 10)
        assert not [name for name, value in row.items() if "payload" in name or isinstance(value, bytes)]


@contextmanager
def impatient(reader: RecordReader) -> Iterator[None]:
    """While the block runs, a connection is waited for only as long as it takes to see that none comes."""
    patience_s, reader._pool.timeout = reader._pool.timeout, 0.2
    try:
        yield
    finally:
        reader._pool.timeout = patience_s


class TestADatabaseThatCannotBeAsked:
    async def test_because_it_is_not_there_is_said_to_be_away(self) -> None:
        reader = RecordReader(NOWHERE, timeout_s=0.2)
        await reader.open()
        for ask in (reader.calls(EVERY_CALL, None, 1), reader.call(new_call_id()), reader.pending_migrations()):
            with pytest.raises(StoreError, match="the database is away"):
                await ask
        await reader.close()

    async def test_because_others_ask_is_said_to_be_busy(self, record_database: str) -> None:
        reader = RecordReader(record_database, timeout_s=DEADLINE_S)
        await reader.open()
        async with AsyncExitStack() as stack:
            for _ in range(read._CONNECTIONS):
                await stack.enter_async_context(reader._connection())
            with impatient(reader), pytest.raises(StoreBusy, match="connections for reading the record are in use"):
                await reader.calls(EVERY_CALL, None, 1)
        assert await reader.calls(EVERY_CALL, None, 1) == []
        assert reader._taken == 0, "else a database that is away would be called busy"
        await reader.close()

    async def test_because_it_says_nothing_is_given_up(
        self, record_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with proxy_to(record_database) as proxy:
            reader = RecordReader(proxy.dsn(record_database), timeout_s=DEADLINE_S)
            await reader.open()
            assert await reader.calls(EVERY_CALL, None, 1) == []
            proxy.stall()
            monkeypatch.setattr(read._Connection, "silence_s", 0.2)
            monkeypatch.setattr(read._PlainConnection, "silence_s", 0.2)
            for ask in (reader.calls(EVERY_CALL, None, 1), reader.pending_migrations()):
                with impatient(reader), pytest.raises(StoreError, match="the database is away"):
                    await ask
            monkeypatch.undo()
            proxy.resume()
            assert await reader.calls(EVERY_CALL, None, 1) == []
            await reader.close()

    async def test_for_a_while_is_asked_again(self, record_database: str) -> None:
        with proxy_to(record_database) as proxy:
            reader = RecordReader(proxy.dsn(record_database), timeout_s=DEADLINE_S)
            await reader.open()
            assert await reader.calls(EVERY_CALL, None, 1) == []
            proxy.refuse()
            with impatient(reader), pytest.raises(StoreError):
                await reader.calls(EVERY_CALL, None, 1)
            proxy.accept()
            assert await reader.calls(EVERY_CALL, None, 1) == []
            await reader.close()

    async def test_because_it_has_no_tables_is_told_apart(self, database: str) -> None:
        reader = RecordReader(database)
        await reader.open()
        with pytest.raises(StoreError, match="run `luthien migrate`"):
            await reader.calls(EVERY_CALL, None, 1)
        assert await reader.pending_migrations() == [each.name for each in read_migrations(migrations_folder())]
        migrate(database)
        assert await reader.calls(EVERY_CALL, None, 1) == []
        assert await reader.pending_migrations() == []
        await reader.close()

    async def test_is_read_on_after_its_columns_changed_their_types(
        self, record_database: str, reader: RecordReader
    ) -> None:
        """A statement that Postgres had prepared for the old ones would fail for ever."""
        written = record()
        store(record_database, written)
        for _ in range(8):
            assert await reader.call(written.call_id)
        with psycopg.connect(record_database, autocommit=True) as conn:
            conn.execute("ALTER TABLE conversation_calls ALTER COLUMN stages_stored TYPE bigint")
        for _ in range(8):
            assert await reader.call(written.call_id)
