"""Lists by filter: what a filter says of each call, indexed or not, page by page, and its neighbours."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from luthien.debug.search.filters import NEEDS, without
from luthien.debug.search.indexer import IndexStats, Pace, connected, index_some
from luthien.errors import StoreError
from luthien.exchange import EventType, Side, StageRecord, call_time_ms
from luthien.store.call_filter import EVERY_CALL, CallFilter, Decided, Mode, Part
from luthien.store.facets import tsquery
from luthien.store.migrate import migrate, migrations_folder
from luthien.store.partitions import day_of
from luthien.store.read import RecordReader
from luthien.store.sql import query
from luthien.store.write import prepare, write_batch
from tests.records import call_at, record

DAY_S = 86_400.0
HOSTILE = "o'br\\ien \" & | ! ( ) <-> :* = % ;--"


@dataclass(frozen=True)
class Judged:
    """What a policy decided of a call."""

    policy: str
    version: str
    side: str
    action: str
    shadow: bool
    changed: bool

    def passes(self, wanted: CallFilter) -> bool:
        return all(
            (
                wanted.policy == self.policy,
                wanted.version in (None, self.version),
                not wanted.lacks("version") or not self.version,
                wanted.side in (None, self.side),
                wanted.decided in (None, self.action) or (wanted.decided == "change" and self.changed),
                wanted.mode is None or self.shadow is (wanted.mode == "shadow"),
            )
        )


@dataclass(frozen=True)
class Made:
    """A call as a filter sees it."""

    call_id: UUID
    session: str
    model: str
    used: str
    provider: str
    format: str
    key: str
    first: Judged
    """The policy that changed the request, if any did; without a name there was none, and it is not known who did."""
    second: Judged
    outcome: str
    request_changed: bool
    response_changed: bool
    words: tuple[str, ...]

    def passes(self, wanted: CallFilter) -> bool:
        """What `CallFilter` promises, said once more."""
        changed = self.request_changed or self.response_changed
        sides = {
            "request": self.request_changed,
            "response": self.response_changed,
            "any": changed,
            "none": not changed and self.outcome != "running",
        }
        is_over = self.outcome != "running"
        looked = {self.first.policy, self.second.policy} - {""} if is_over else set()
        if wanted.version or wanted.side or wanted.decided or wanted.mode or wanted.lacks("version"):
            judged = any(each.passes(wanted) for each in (self.first, self.second))
        else:
            judged = wanted.policy in looked
        asks_change = wanted.changed_by or wanted.part or wanted.path or wanted.lacks("changed_by")
        whose = self.first.policy, self.first.policy and self.first.version
        lacking = {
            "session": not self.session,
            "model": not self.model,
            "provider": not self.provider,
            "format": not self.format,
            "key": not self.key,
            "policy": is_over and not looked,
            "path": False,
        }
        at = datetime.fromtimestamp(call_time_ms(self.call_id) / 1000, UTC)
        return all(
            (
                wanted.id is None or self.call_id.hex.startswith(wanted.id),
                wanted.session in (None, self.session),
                wanted.model in (None, self.model, self.used),
                wanted.provider in (None, self.provider),
                wanted.format in (None, self.format),
                wanted.key in (None, self.key),
                wanted.policy is None or judged,
                wanted.outcome is None or self.outcome in wanted.outcome,
                wanted.changed is None or sides[wanted.changed],
                wanted.since is None or at >= wanted.since,
                wanted.until is None or at < wanted.until,
                wanted.text is None or set(wanted.text.lower().split()) <= set(self.words),
                not asks_change or (self.request_changed and wanted.side in (None, "request")),
                all(lacking.get(name, True) for name in wanted.without or ()),
                not wanted.asks("changed_by")
                or whose == (wanted.changed_by or "", "" if wanted.lacks("version") else wanted.version or whose[1]),
                wanted.part in (None, Part.MESSAGE),
                wanted.path in (None, "/messages/*/content"),
            )
        )


def made_calls(count: int) -> list[Made]:
    """Calls of the last forty days, most of them of today; some of them still run."""
    some = random.Random(12)
    now = time.time()
    calls = []
    for number in range(count):
        age_s = some.choice((some.random() * 600, some.random() * DAY_S, some.random() * 40 * DAY_S))
        outcome = some.choice(("completed", "completed", "blocked", "upstream_error", "running"))
        request_changed = some.random() < 0.3
        first, second = (
            Judged(
                some.choice(("redact", HOSTILE, "") if side == "request" else ("redact", HOSTILE)),
                some.choice(("3f2a91c04d5e", "1.0+3f2a91c0", "")),
                side,
                some.choice(("modify", "allow", "block", "error")),
                side == "response" and some.random() < 0.5,
                request_changed if side == "request" else some.random() < 0.5,
            )
            for side in ("request", "response")
        )
        if not first.policy:
            second = replace(second, policy="")
        calls.append(
            Made(
                call_at(now - age_s),
                some.choice(("one", "two", HOSTILE, "s" * 900, "")),
                some.choice(("gpt-4o", "claude", "rare" if number % 20 == 0 else "gpt-4o", "")),
                some.choice(("gpt-4o-2024", "claude")),
                some.choice(("openai", "anthropic", "")),
                some.choice(("openai_chat", "anthropic_messages", "")),
                some.choice(("team-a", "Team-A", "")),
                first,
                second,
                outcome,
                request_changed,
                outcome != "running" and some.random() < 0.3,
                ("common", some.choice(("apple", "pear")), f"word{number}"),
            )
        )
    return sorted(calls, key=lambda each: each.call_id, reverse=True)


def records_of(made: Made) -> Iterator[StageRecord]:
    def body(*also: str) -> bytes:
        return json.dumps({"messages": [{"role": "user", "content": " ".join([*made.words, *also])}]}).encode()

    original, final = body(), body(*["added"] * made.request_changed)
    first, second = (
        {f"luthien.policy.{name}": value for name, value in {**asdict(each), "name": each.policy}.items()}
        for each in (made.first, made.second)
    )
    stages: list[tuple[EventType, bytes | None, dict[str, Any]]] = [
        (
            EventType.REQUEST_ORIGINAL,
            original,
            {
                "luthien.wire_format": made.format,
                "gen_ai.request.model": made.model,
                "gen_ai.conversation.id": made.session,
                "luthien.gateway_key": made.key,
            },
        ),
        (EventType.POLICY_DECISION, None, first),
        (
            EventType.REQUEST_FINAL,
            final,
            {"gen_ai.provider.name": made.provider, "luthien.changed": made.request_changed},
        ),
        (EventType.RESPONSE_ORIGINAL, b"{}", {"gen_ai.response.model": made.used}),
        (EventType.POLICY_DECISION, None, second),
    ]
    if made.outcome != "running":
        stages += [
            (EventType.RESPONSE_FINAL, b"{}", {"luthien.changed": made.response_changed}),
            (
                EventType.CALL_OUTCOME,
                None,
                {
                    "luthien.outcome": made.outcome,
                    "luthien.policies": tuple(
                        f"{each.policy}@{each.version}" for each in (made.first, made.second) if each.policy
                    ),
                    "luthien.records.emitted": 7,
                },
            ),
        ]
    for sequence, (event_type, payload, attributes) in enumerate(stages):
        if event_type != EventType.POLICY_DECISION or attributes["luthien.policy.name"]:
            told = {name: value for name, value in attributes.items() if value != ""}
            yield record(made.call_id, sequence, event_type, payload, attributes=told)


def store(dsn: str, *calls: Made) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        prepare(conn)
        write_batch(conn, [each for call in calls for each in records_of(call)])


def index_everything(dsn: str, *, also_running: bool = True) -> IndexStats:
    stats = IndexStats()
    with connected(dsn) as conn:
        if also_running:
            conn.execute("UPDATE conversation_unindexed SET due_at = now()")
        while index_some(conn, Pace(1.0, time.sleep), stats):
            pass
    return stats


def filters(calls: list[Made]) -> list[CallFilter]:
    """Each value of each field, and some of everything at once."""
    some = random.Random(5)
    one = some.choice(calls)
    half = datetime.fromtimestamp(call_time_ms(calls[len(calls) // 2].call_id) / 1000, UTC)
    values: dict[str, list[Any]] = {
        "id": [one.call_id.hex, one.call_id.hex[:9], one.call_id.hex[:5], "0", "f"],
        "session": ["one", HOSTILE, "s" * 900, "nobody's"],
        "model": ["gpt-4o", "claude", "rare", "gpt"],
        "provider": ["openai"],
        "format": ["anthropic_messages"],
        "key": ["team-a", "Team-A", "TEAM-A"],
        "policy": ["redact", HOSTILE],
        "outcome": [("completed",), ("blocked", "running"), ("upstream_error", "rejected"), ("rejected",)],
        "changed": ["request", "response", "any", "none"],
        "since": [half, half + timedelta(days=99)],
        "until": [half, half - timedelta(days=99)],
        "without": [("session",), ("model", "provider"), ("format",), ("key",), ("policy",)],
    }
    indexed: dict[str, list[Any]] = {
        "text": ["common", "COMMON apple", "word7", "apple pear", "absent", "comm"],
        "changed_by": ["redact", HOSTILE, "nobody"],
        "part": [Part.MESSAGE, Part.SYSTEM],
        "path": ["/messages/*/content", "/system"],
    }
    more: dict[str, list[Any]] = {
        "version": ["3f2a91c04d5e", "1.0+3f2a91c0", "3f2a"],
        "side": [*Side],
        "decided": [*Decided],
        "mode": [*Mode],
    }
    every = values | indexed | more
    alone = [CallFilter(**{name: value}) for name in values | indexed for value in every[name]]
    said_more = [
        CallFilter(**{needed: every[needed][0], name: value})
        for name in more
        for value in more[name]
        for needed in NEEDS[name]
    ]
    of_what_is_not_known = [
        CallFilter(without=("changed_by",)),
        CallFilter(without=("version", "changed_by"), side=Side.REQUEST, part=Part.MESSAGE),
        CallFilter(without=("version", "provider"), changed_by="redact"),
        CallFilter(without=("version",), policy="redact", decided=Decided.BLOCK),
        CallFilter(without=("path",), changed_by="redact"),
    ]
    several = []
    for _ in range(60):
        names = {*some.sample(sorted(every), some.randint(2, 5)), *some.sample(("policy", "changed_by"), 1)}
        several.append(without(CallFilter(**{name: some.choice(every[name]) for name in sorted(names)})))
    return [EVERY_CALL, *alone, *said_more, *of_what_is_not_known, *several]


class TestAFilter:
    @pytest.mark.parametrize("indexed", ["all", "half", "none"])
    async def test_lets_through_what_it_says_newest_first_page_by_page(
        self, record_database: str, reader: RecordReader, indexed: str
    ) -> None:
        """Whatever is indexed; but for text and changes, which only indexed calls have."""
        calls = made_calls(240)
        known = {"all": calls, "half": calls[::2], "none": []}[indexed]
        store(record_database, *known)
        if known:
            assert index_everything(record_database).failed == 0
        store(record_database, *(call for call in calls if call not in known))
        for wanted in filters(calls):
            among = known if wanted.needs_index else calls
            expected = [call.call_id for call in among if call.passes(wanted)]
            listed: list[UUID] = []
            before: UUID | None = None
            while rows := await reader.calls(wanted, before, 30):
                listed += [row["call_id"] for row in rows]
                before = listed[-1]
                if len(rows) < 30:
                    break
            assert listed == expected, wanted

    async def test_knows_the_neighbours_of_every_call(self, record_database: str, reader: RecordReader) -> None:
        calls = made_calls(120)
        store(record_database, *calls[::2])
        index_everything(record_database)
        store(record_database, *calls[1::2])
        for wanted in (EVERY_CALL, CallFilter(model="rare"), CallFilter(outcome=("blocked",), provider="openai")):
            passing = [call.call_id for call in calls if call.passes(wanted)]
            assert passing
            for newer, here, older in _triples(passing):
                assert await reader.neighbours(wanted, here) == (newer, older), wanted

    async def test_knows_the_neighbours_of_a_call_that_it_does_not_let_through(
        self, record_database: str, reader: RecordReader
    ) -> None:
        calls = made_calls(60)
        store(record_database, *calls)
        index_everything(record_database)
        wanted = CallFilter(text="apple")
        for call in calls:
            newer = [each.call_id for each in calls if each.passes(wanted) and each.call_id > call.call_id]
            older = [each.call_id for each in calls if each.passes(wanted) and each.call_id < call.call_id]
            expected = newer[-1] if newer else None, older[0] if older else None
            assert await reader.neighbours(wanted, call.call_id) == expected

    async def test_is_of_what_is_stored_not_of_what_was_once_indexed(
        self, record_database: str, reader: RecordReader
    ) -> None:
        """A call that ran when it was indexed, and is over now, is found as what it has become."""
        running = replace(made_calls(1)[0], outcome="running", response_changed=False)
        store(record_database, running)
        index_everything(record_database)
        assert await reader.calls(CallFilter(outcome=("running",)), None, 9)
        store(record_database, replace(running, outcome="blocked"))
        for _ in range(2):
            assert not await reader.calls(CallFilter(outcome=("running",)), None, 9)
            [row] = await reader.calls(CallFilter(outcome=("blocked",)), None, 9)
            assert row["call_id"] == running.call_id
            index_everything(record_database)

    async def test_that_takes_too_long_is_said_to_in_words(self, record_database: str, reader: RecordReader) -> None:
        async with reader._pool.connection() as conn:
            await conn.execute("SET statement_timeout = '50ms'")
        async with await psycopg.AsyncConnection.connect(record_database) as other:
            await other.execute("LOCK TABLE conversation_unindexed IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreError, match="narrow it by time"):
                await reader.calls(CallFilter(text="word"), None, 9)

    def test_is_planned_without_a_payload_or_a_day_that_is_read_whole(self, record_database: str) -> None:
        """Of a search that the statistics promise to be everywhere, too; and so is what the feed asks."""
        for name in ("found_before", "found_after", "list_calls", "feed_next"):
            assert "payload" not in query(name)
        calls = made_calls(200)
        with psycopg.connect(record_database, autocommit=True) as conn:
            plans = _plans_on(conn)
            conn.execute("SELECT luthien_changed_after('1', gen_random_uuid(), 200)")
            store(record_database, *calls)
            index_everything(record_database)
            conn.execute("ANALYZE")
            whole = (UUID(int=0), UUID(int=2**128 - 1))
            for wanted in (
                CallFilter(text="common"),
                CallFilter(policy="redact", version="3f2a91c04d5e", side=Side.RESPONSE),
                CallFilter(outcome=("completed", "running")),
                CallFilter(without=("session", "model")),
                CallFilter(without=("changed_by", "version")),
            ):
                conn.execute("SELECT luthien_found(%s::tsquery, %s, %s, true, 50)", (tsquery(wanted), *whole))
            conn.execute("SELECT luthien_changed_after('1', gen_random_uuid(), 200)")
        found = [plan for plan in plans if "Limit" in plan and "conversation_search" in plan]
        feed = [plan for plan in plans if "Limit" in plan and "conversation_calls" in plan]
        assert len(found) == 5
        assert len(feed) == 2
        assert not [plan for plan in found + feed if "Seq Scan" in plan]
        assert all("Bitmap Index Scan" in plan for plan in found)
        assert all("Sort" not in plan for plan in feed)


def _plans_on(conn: psycopg.Connection[Any]) -> list[str]:
    """The plans of what is asked on this connection from now on."""
    plans: list[str] = []
    conn.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    conn.execute("LOAD 'auto_explain'")
    conn.execute("SET auto_explain.log_min_duration = 0")
    conn.execute("SET auto_explain.log_nested_statements = on")
    conn.execute("SET client_min_messages = log")
    return plans


class TestWhatIsNotIndexed:
    async def test_is_counted_in_the_range_of_a_list(self, record_database: str, reader: RecordReader) -> None:
        calls = made_calls(30)
        store(record_database, *calls[10:])
        index_everything(record_database)
        store(record_database, *calls[:10])
        assert (await reader.unindexed(EVERY_CALL, None, None)).calls == 10
        assert (await reader.unindexed(EVERY_CALL, None, calls[3].call_id)).calls == 4
        assert (await reader.unindexed(EVERY_CALL, calls[3].call_id, None)).calls == 6
        assert (await reader.unindexed(CallFilter(id=calls[5].call_id.hex), None, None)).calls == 1

    async def test_is_said_of_each_call(self, record_database: str, reader: RecordReader) -> None:
        calls = made_calls(2)
        store(record_database, calls[1])
        index_everything(record_database)
        store(record_database, calls[0])
        assert [row["is_indexed"] for row in await reader.calls(EVERY_CALL, None, 9)] == [False, True]
        found = await reader.call(calls[1].call_id)
        assert found is not None
        assert found.row["is_indexed"] is True


def _triples(passing: list[UUID]) -> Iterator[tuple[UUID | None, UUID, UUID | None]]:
    around: list[UUID | None] = [None, *passing, None]
    return zip(around, passing, around[2:], strict=False)


class TestTheMigration:
    def test_gives_days_that_exist_what_they_lack_and_has_their_calls_indexed(
        self, database: str, tmp_path: Path
    ) -> None:
        earlier = shutil.copytree(migrations_folder(), tmp_path / "migrations")
        for later in [folder for folder in earlier.iterdir() if folder.name >= "20261122000500"]:
            if later.is_dir():
                shutil.rmtree(later)
        migrate(database, folder=earlier)
        [made] = made_calls(1)
        with psycopg.connect(database, autocommit=True) as conn:
            day = day_of(made.call_id)
            conn.execute("SELECT luthien_create_day(%s)", (day,))
            conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (made.call_id,))
            migrate(database)
            assert conn.execute("SELECT call_id FROM conversation_unindexed").fetchall() == [(made.call_id,)]
            for table in ("conversation_search", "conversation_changes"):
                found = conn.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{table}_{day:%Y%m%d}",)).fetchone()
                assert found == (True,)
