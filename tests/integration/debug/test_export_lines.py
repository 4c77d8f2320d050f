"""Exports of what is in the record: of many calls, of a database that goes away, of a stream that broke off."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest

from luthien.debug.apart import Failed
from luthien.debug.call.lookup import Found, Listed, Lookup
from luthien.debug.export.forms import Whole, export_call
from luthien.debug.export.lines import as_lines, line_without
from luthien.debug.export.parties import Addresses, NotInRecord
from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.record.queue import RecordQueue
from luthien.store.call_filter import EVERY_CALL
from luthien.store.read import RecordReader
from luthien.store.write import prepare, write_batch
from tests.integration.debug.har_schema import check_har
from tests.playbook import DEADLINE_S
from tests.records import record, whole_call
from tests.tcp_proxy import proxy_to
from tests.wire import openai_stream

MIB = 2**20


def store(dsn: str, calls: list[list[StageRecord]]) -> list[str]:
    """Stores them; their ids, newest first."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        prepare(conn)
        for call in calls:
            write_batch(conn, call)
    return [str(call[0].call_id) for call in reversed(calls)]


@pytest.fixture
async def lookup(record_database: str) -> AsyncIterator[Lookup]:
    reader = RecordReader(record_database, timeout_s=DEADLINE_S)
    await reader.open()
    yield Lookup(reader, RecordQueue(1, 1))
    await reader.close()


async def read(lookup: Lookup, *, payloads: bool, before: UUID | None = None, limit: int = 10**6) -> list[Any]:
    lines = as_lines(lookup, EVERY_CALL, before, limit, payloads=payloads)
    return [json.loads(line) async for some in lines for line in some.splitlines()]


async def test_more_calls_than_one_page(lookup: Lookup, record_database: str) -> None:
    ids = store(record_database, [whole_call() for _ in range(450)])
    assert [each["call_id"] for each in await read(lookup, payloads=False)] == ids
    assert [each["call_id"] for each in await read(lookup, payloads=False, limit=401)] == ids[:401]
    some = await read(lookup, payloads=True, before=UUID(ids[200]), limit=205)
    assert [each["call_id"] for each in some] == ids[201:406]
    assert all("stages" in each for each in some)


async def test_calls_are_held_one_at_a_time(lookup: Lookup, record_database: str) -> None:
    """Many calls of a mebibyte in no more memory than two of them take, give or take one."""
    calls = [whole_call() for _ in range(16)]
    large = [
        [_large(each) if each.event_type == EventType.REQUEST_ORIGINAL else each for each in call] for call in calls
    ]
    store(record_database, large)

    async def peak(limit: int) -> int:
        tracemalloc.start()
        async for line in as_lines(lookup, EVERY_CALL, None, limit, payloads=True):
            assert len(line) > MIB
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    await peak(1)  # what is made once
    assert await peak(16) < await peak(2) + 2 * MIB


def _large(each: StageRecord) -> StageRecord:
    made = record(
        each.call_id, each.sequence, each.event_type, b'"' + b"x" * MIB + b'"', attributes={**each.attributes}
    )
    return replace(made, recorded_at_ns=each.recorded_at_ns)


@pytest.mark.parametrize("payloads", [True, False])
async def test_an_error_in_the_middle_is_the_last_line_and_says_where_to_go_on(
    record_database: str, payloads: bool
) -> None:
    ids = store(record_database, [whole_call() for _ in range(250)])
    with proxy_to(record_database) as proxy:
        reader = RecordReader(proxy.dsn(record_database), timeout_s=DEADLINE_S)
        await reader.open()
        lookup = Lookup(reader, RecordQueue(1, 1))
        lines = as_lines(lookup, EVERY_CALL, None, 10**6, payloads=payloads)
        first = await anext(lines)
        reader._pool.timeout = 0.2  # to see that no connection comes
        proxy.refuse()
        rest = [each async for each in lines]
        await reader.close()
    *read_calls, last = [json.loads(line) for some in [first, *rest] for line in some.splitlines()]
    assert last == {
        "error": "the database is away; calls are still served and recorded",
        "after": read_calls[-1]["call_id"],
    }
    assert [each["call_id"] for each in read_calls] == ids[: len(read_calls)]
    assert len(read_calls) < len(ids)


async def test_a_call_that_cannot_be_made_is_named_so_that_one_can_go_on_behind_it(
    lookup: Lookup, record_database: str
) -> None:
    newest, broken, oldest = store(record_database, [whole_call() for _ in range(3)])

    async def line(_lookup: Lookup, listed: Listed) -> str:
        if str(listed.row["call_id"]) == broken:
            raise Failed("this was not made within 60 seconds")
        return line_without(listed)

    async def told(before: str | None) -> list[Any]:
        at = before and UUID(before)
        lines = as_lines(lookup, EVERY_CALL, at or None, 10, payloads=True, whole=line)
        return [json.loads(each) async for each in lines]

    first, last = await told(None)
    assert first["call_id"] == newest
    assert last == {"error": f"call {broken}: this was not made within 60 seconds", "after": newest}
    assert [each["call_id"] for each in await told(broken)] == [oldest]


async def test_of_a_stream_that_broke_off_an_archive_has_the_frames(lookup: Lookup, record_database: str) -> None:
    call_id, frames = new_call_id(), openai_stream("Hel", "lo")[:2]
    sent = b'{"model": "m", "stream": true, "messages": []}'
    attributes = {
        "luthien.wire_format": "openai.chat_completions",
        "luthien.streaming": True,
        "luthien.request.headers": '{"user-agent": "x"}',
    }
    arrived = {"luthien.checkpoint.sides": "both", "luthien.checkpoint.offset": 0, "luthien.chunks": 2}
    raw = b"".join(frames)
    records = [
        record(call_id, 0, EventType.REQUEST_ORIGINAL, sent, attributes=attributes),
        record(call_id, 1, EventType.REQUEST_FINAL, sent, attributes={"gen_ai.provider.name": "openai"}),
        record(call_id, 2, EventType.RESPONSE_PARTIAL, raw, wire_bytes=len(raw), attributes=arrived),
    ]
    store(record_database, [records])
    found = await lookup.call(call_id)
    assert isinstance(found, Found)
    text, name = export_call("har", Whole(found), Addresses("http://127.0.0.1:8080"))
    har = json.loads(text)
    check_har(har)
    assert name == f"{call_id}.har"
    for entry in har["log"]["entries"]:
        content = entry["response"]["content"]
        assert content["mimeType"] == "text/event-stream"
        assert content["text"].encode() == raw
        assert content["comment"].startswith("partial: as of the last checkpoint")
        assert entry["response"]["status"] == 0
    with pytest.raises(NotInRecord, match="the record is"):
        export_call("fixture", Whole(found), Addresses("http://127.0.0.1:8080"))
