"""What the tables hold after a batch was written: once, twice, in any order, by one or by many."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from luthien.exchange import EventType, new_call_id
from luthien.record.marks import not_crash_proof, tombstone
from luthien.store.calls import as_time
from luthien.store.jsonb import MAX_BYTES, MAX_MARKS, is_jsonb_safe
from luthien.store.partitions import PartitionKeeper, day_of
from luthien.store.sql import query
from luthien.store.write import Written, is_about_content, prepare, quarantine, write_batch
from tests.records import SPAN_ID, TRACE_ID, keys, record, whole_call

# The database is emptied of nothing between examples: each has calls of its own.
against_postgres = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def shared_database(postgres_dsn: str, migrated_template: str) -> str:
    """One for all tests here that change no table; it goes with its server."""
    name = "test_write"
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}".encode())
        conn.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    return make_conninfo(postgres_dsn, dbname=name)


@pytest.fixture
def conn(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that writes, to tables in which nothing is."""
    with connected(shared_database) as conn:
        conn.execute("TRUNCATE conversation_calls, conversation_events, conversation_quarantine")
        yield conn


def connected(dsn: str) -> psycopg.Connection[Any]:
    conn = psycopg.connect(dsn, autocommit=True)
    prepare(conn)
    return conn


def call_row(conn: psycopg.Connection[Any], call_id: UUID) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        [row] = cursor.execute("SELECT * FROM conversation_calls WHERE call_id = %s", (call_id,))
        del row["stored_xid"]  # another one each time
    return row


def stored_keys(conn: psycopg.Connection[Any]) -> list[tuple[UUID, int]]:
    return conn.execute("SELECT call_id, sequence FROM conversation_events ORDER BY 1, 2").fetchall()


def set_aside(conn: psycopg.Connection[Any]) -> list[tuple[UUID, int, str]]:
    return conn.execute("SELECT call_id, sequence, reason FROM conversation_quarantine ORDER BY 1, 2").fetchall()


class TestARecord:
    def test_is_stored_as_it_is(self, conn: psycopg.Connection[Any]) -> None:
        call_id = new_call_id()
        wire = hashlib.sha256(b"wire").digest()
        written = record(
            call_id,
            2,
            EventType.RESPONSE_ORIGINAL,
            b'{"a": 1}',
            recorded_at_ns=1_763_812_345_123_457_999,
            wire_sha256=wire,
            wire_bytes=2**40,
            payload_ref=1,
            attributes={"luthien.chunks": 3, "texts": ("ä", "\U0001f600"), "none": None},
        )
        assert write_batch(conn, [written]) == Written(1, 0, 0)
        with conn.cursor(row_factory=dict_row) as cursor:
            [row] = cursor.execute("SELECT * FROM conversation_events").fetchall()
        assert row == {
            "call_id": call_id,
            "sequence": 2,
            "event_type": "response_original",
            "recorded_at": datetime.fromtimestamp(1_763_812_345, UTC).replace(microsecond=123_457),
            "trace_id": TRACE_ID,
            "span_id": SPAN_ID,
            "payload": b'{"a": 1}',
            "payload_sha256": hashlib.sha256(b'{"a": 1}').digest(),
            "payload_bytes": 8,
            "payload_is_jsonb_safe": True,
            "payload_ref": 1,
            "wire_sha256": wire,
            "wire_bytes": 2**40,
            "attributes": {"luthien.chunks": 3, "texts": ["ä", "\U0001f600"], "none": None},
        }

    @pytest.mark.parametrize(
        "payload",
        [
            None,
            b"",
            bytes(range(256)) * 3,
            b"\x00" * 5000,
            random.Random(1).randbytes(32 * 1024 * 1024),
            b'{"content": "' + b"and so on, " * 3_000_000 + b'"}',
        ],
        ids=["none", "empty", "every byte", "zeros", "32 MiB of noise", "33 MB of text"],
    )
    def test_keeps_its_payload_to_the_byte(self, conn: psycopg.Connection[Any], payload: bytes | None) -> None:
        write_batch(conn, [record(payload=payload)])
        [(stored,)] = conn.execute("SELECT payload FROM conversation_events").fetchall()
        assert stored == payload

    @given(payload=st.binary(max_size=300))
    @against_postgres
    def test_keeps_any_payload_to_the_byte(self, conn: psycopg.Connection[Any], payload: bytes) -> None:
        written = record(payload=payload)
        write_batch(conn, [written])
        [(stored,)] = conn.execute(
            "SELECT payload FROM conversation_events WHERE call_id = %s", (written.call_id,)
        ).fetchall()
        assert stored == payload


class TestACall:
    def test_is_described_by_its_records(self, conn: psycopg.Connection[Any]) -> None:
        records = whole_call()
        write_batch(conn, records)
        row = call_row(conn, records[0].call_id)
        assert {name: value for name, value in row.items() if value is not None} == {
            "call_id": records[0].call_id,
            "trace_id": TRACE_ID,
            "session_id": "a session",
            "gateway_key": "team-a",
            "started_at": datetime.fromtimestamp((records[0].call_id.int >> 80) / 1000, UTC),
            "ended_at": as_time(records[-1].recorded_at_ns),
            "wire_format": "openai_chat",
            "provider": "openai",
            "model_requested": "m",
            "model_used": "m-1",
            "streaming": False,
            "outcome": "completed",
            "http_status": 200,
            "policies": [{"name": "first", "version": "1"}, {"name": "second", "version": "2"}],
            "request_changed": False,
            "response_changed": True,
            "decisions": 2,
            "input_tokens": 3,
            "output_tokens": 5,
            "duration_ms": 12.5,
            "records_emitted": 7,
            "records_stored": 7,
            "stages_stored": 4,
            "records_tombstoned": 0,
            "records_not_crash_proof": 0,
        }

    @pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
    def test_keeps_the_parent_that_one_of_its_records_names(self, conn: psycopg.Connection[Any], order: int) -> None:
        """What is no id names nobody."""
        call_id, parent_id = new_call_id(), new_call_id()
        named = record(call_id, 0, attributes={"luthien.parent_call_id": str(parent_id)})
        for each in [named, record(call_id, 1, EventType.REQUEST_FINAL)][::order]:
            write_batch(conn, [each])
        assert call_row(conn, call_id)["parent_call_id"] == parent_id
        odd = record(attributes={"luthien.parent_call_id": "nobody"})
        write_batch(conn, [odd])
        assert call_row(conn, odd.call_id)["parent_call_id"] is None

    @given(data=st.data())
    @against_postgres
    def test_is_the_same_however_its_records_come(self, conn: psycopg.Connection[Any], data: st.DataObject) -> None:
        """In any order, spread over any batches, some of them more than once."""
        records = whole_call()
        write_batch(conn, records)
        at_once = call_row(conn, records[0].call_id)

        call_id = new_call_id()
        copies = [replace(each, call_id=call_id) for each in records]
        repeated = data.draw(st.lists(st.sampled_from(copies), max_size=5))
        shuffled = data.draw(st.permutations(copies + repeated))
        cuts = sorted(data.draw(st.sets(st.integers(0, len(shuffled)))))
        batches = [shuffled[start:end] for start, end in itertools.pairwise([0, *cuts, len(shuffled)])]
        written = [write_batch(conn, batch) for batch in batches if batch]
        assert sum(each.stored for each in written) == len(copies)
        assert sum(each.replayed for each in written) == len(repeated)

        row = call_row(conn, call_id)
        own = {"call_id": at_once["call_id"], "started_at": at_once["started_at"]}
        assert row | own == at_once

    def test_whose_records_are_written_again_stays_as_it_is(self, conn: psycopg.Connection[Any]) -> None:
        records = whole_call()
        write_batch(conn, records)
        before = call_row(conn, records[0].call_id)
        assert write_batch(conn, records) == Written(0, 7, 0)
        assert write_batch(conn, [*records[3:], *records[3:]]) == Written(0, 8, 0)
        assert call_row(conn, records[0].call_id) == before
        assert stored_keys(conn) == sorted(keys(records))
        assert set_aside(conn) == []

    @pytest.mark.parametrize("session_id", ["s" * 10_000, "\U0001f600" * 1024, "ä" * 513])
    def test_with_an_overlong_session_is_recorded_all_the_same(
        self, conn: psycopg.Connection[Any], session_id: str
    ) -> None:
        """An index takes 2,704 bytes; the client chose the session's name."""
        rng = random.Random(2)
        varied = "".join(chr(ord(each) + rng.randrange(2)) for each in session_id)
        attributes = {"gen_ai.conversation.id": varied}
        written = record(attributes=attributes)
        assert write_batch(conn, [written]).stored == 1
        kept = call_row(conn, written.call_id)["session_id"]
        assert varied.startswith(kept)
        assert 1020 <= len(kept.encode()) <= 1024
        assert conn.execute("SELECT attributes FROM conversation_events").fetchone() == (attributes,)

    @pytest.mark.parametrize(
        ("event_type", "attribute", "value"),
        [
            (EventType.RESPONSE_ORIGINAL, "gen_ai.usage.input_tokens", 12.0),
            (EventType.RESPONSE_ORIGINAL, "gen_ai.usage.output_tokens", 2**63),
            (EventType.RESPONSE_ORIGINAL, "gen_ai.response.model", 7),
            (EventType.REQUEST_ORIGINAL, "luthien.streaming", "yes"),
            (EventType.REQUEST_ORIGINAL, "service.instance.id", "no id"),
            (EventType.CALL_OUTCOME, "http.response.status_code", 2**31),
            (EventType.CALL_OUTCOME, "luthien.duration", True),
            (EventType.CALL_OUTCOME, "luthien.duration.policy", 10**400),
        ],
    )
    def test_has_nothing_in_a_column_that_cannot_hold_what_was_said(
        self, conn: psycopg.Connection[Any], event_type: EventType, attribute: str, value: object
    ) -> None:
        """A provider's odd number costs neither the record nor the call; the attribute keeps it."""
        written = record(event_type=event_type, payload=None, attributes={attribute: value})
        assert write_batch(conn, [written]).stored == 1
        known = {"call_id", "trace_id", "started_at", "ended_at", "policies", "decisions", "records_stored"}
        known |= {"stages_stored", "records_tombstoned", "records_not_crash_proof"}
        row = call_row(conn, written.call_id)
        assert {name for name, kept in row.items() if kept is not None} <= known
        assert conn.execute("SELECT attributes FROM conversation_events").fetchone() == ({attribute: value},)

    def test_shows_damaged_text_where_its_record_is_whole(self, conn: psycopg.Connection[Any]) -> None:
        """A column takes neither NUL nor a lone surrogate; `jsonb` takes neither, so such a record is refused."""
        with pytest.raises(psycopg.errors.DataError):
            write_batch(conn, [record(attributes={"gen_ai.request.model": "m\0"})])
        with pytest.raises(psycopg.errors.DataError):
            write_batch(conn, [record(attributes={"gen_ai.request.model": "m\ud800"})])
        assert stored_keys(conn) == []


class TestTheSameKey:
    OTHERS = (
        {"payload": b"other", "payload_sha256": hashlib.sha256(b"other").digest()},
        {"payload_sha256": None},
        {"wire_sha256": b"w" * 32},
        {"event_type": "request_final"},
        {"span_id": "0000000000000001"},
        {"recorded_at_ns": 1_763_812_345_000_000_000},
        {"payload_ref": 7},
    )

    def test_does_not_count_twice_what_was_kept_in_part(self, conn: psycopg.Connection[Any]) -> None:
        process, call = uuid4(), whole_call()
        call[0] = tombstone(replace(call[0], attributes={"service.instance.id": str(process)}), "spool_full")
        call[3] = not_crash_proof(call[3], "disk_full")
        for _ in range(2):
            write_batch(conn, call)
        row = call_row(conn, call[0].call_id)
        counts = ("records_stored", "stages_stored", "records_tombstoned", "records_not_crash_proof", "decisions")
        assert [row[name] for name in counts] == [7, 3, 1, 1, 2]
        assert row["process_id"] == process

    @pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
    @pytest.mark.parametrize("is_one_batch", [False, True], ids=["later", "in one batch"])
    def test_with_other_content_goes_to_quarantine_once(
        self, conn: psycopg.Connection[Any], other: dict[str, Any], is_one_batch: bool
    ) -> None:
        first = whole_call()
        second = replace(first[0], **other)
        if is_one_batch:
            assert write_batch(conn, [*first, second]) == Written(7, 0, 1)
        else:
            assert write_batch(conn, first) == Written(7, 0, 0)
            assert write_batch(conn, [second]) == Written(0, 0, 1)
        assert write_batch(conn, [*first[1:], second]) == Written(0, 6, 1)
        assert set_aside(conn) == [(second.call_id, 0, "conflict")]
        assert call_row(conn, second.call_id)["records_stored"] == 7
        assert conn.execute("SELECT payload FROM conversation_events WHERE sequence = 0").fetchone() == (
            first[0].payload,
        )

    def test_costs_the_neighbours_of_a_conflict_nothing(self, conn: psycopg.Connection[Any]) -> None:
        call, other = whole_call(), whole_call()
        write_batch(conn, call[:3])
        conflicting = replace(call[1], span_id="0000000000000001")
        assert write_batch(conn, [*other, conflicting, *call]) == Written(7 + 4, 2 + 1, 1)
        assert stored_keys(conn) == sorted(keys(call) | keys(other))

    def test_is_looked_up_row_by_row_however_much_was_recorded(self, conn: psycopg.Connection[Any]) -> None:
        """Postgres does not know how many rows a temporary table has, and must not read every record ever stored."""
        days = [day_of(UUID(int=(1_763_800_000_000 + n * 86_400_000) << 80)) for n in range(5)]
        PartitionKeeper().ensure(conn, days)
        conn.execute(
            "INSERT INTO conversation_events (call_id, sequence, event_type, recorded_at)"
            " SELECT (lpad(to_hex(1763800000000 + n * 21600), 12, '0') || repeat('0', 20))::uuid, 0, 'x', now()"
            " FROM generate_series(0, 19999) AS n"
        )
        conn.execute("ANALYZE")
        [(plans,)] = conn.execute(f"EXPLAIN (FORMAT JSON) {query('known_events')}".encode())
        nodes = [plans[0]["Plan"]]
        for node in nodes:
            nodes.extend(node.get("Plans", ()))
        whole = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"]
        assert whole == ["incoming_events"]


class TestQuarantine:
    def test_keeps_all_of_a_record(self, conn: psycopg.Connection[Any]) -> None:
        odd = record(
            payload=b"\x00\xff",
            sequence=2**40,
            event_type="odd\0\ud800",
            recorded_at_ns=10**30,
            wire_sha256=b"\x01",
            attributes={"nan": float("nan"), "bytes": b"\x02", "text": "\0\ud800"},
        )
        quarantine(conn, odd, "refused", "an error\0\ud800")
        [row] = conn.execute(
            "SELECT sequence, reason, error, event_type, payload, attributes FROM conversation_quarantine"
        ).fetchall()
        assert row[:5] == (-1, "refused", "an error\ufffd?", "odd\ufffd?", b"\x00\xff")
        rest = json.loads(row[5])
        assert rest["sequence"] == 2**40
        assert rest["recorded_at_ns"] == 10**30
        assert rest["wire_sha256"] == "01"
        assert rest["attributes"]["bytes"] == "02"
        assert rest["attributes"]["text"] == "\0\ud800"
        assert "payload" not in rest

    def test_takes_the_same_record_once_and_another_beside_it(self, conn: psycopg.Connection[Any]) -> None:
        first = record()
        for each in (first, first, replace(first, span_id="other")):
            quarantine(conn, each, "refused", "x")
        assert len(set_aside(conn)) == 2

    def test_takes_attributes_that_nothing_can_write_down(self, conn: psycopg.Connection[Any]) -> None:
        cycle: dict[str, Any] = {}
        cycle["self"] = cycle
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for attributes in (cycle, {"deep": deep}, {(1, 2): "a key"}):
            quarantine(conn, record(attributes=attributes), "refused", "x")
        assert len(set_aside(conn)) == 3


class TestTwoWriters:
    def test_of_overlapping_batches_do_not_deadlock_and_store_all_once(
        self, shared_database: str, conn: psycopg.Connection[Any]
    ) -> None:
        calls = [whole_call() for _ in range(30)]
        records = [each for call in calls for each in call]
        PartitionKeeper().ensure(conn, {day_of(call[0].call_id) for call in calls})
        together = threading.Barrier(4)

        def write(seed: int) -> int:
            rng = random.Random(seed)
            stored = 0
            with connected(shared_database) as mine:
                together.wait()
                for _ in range(15):
                    stored += write_batch(mine, rng.sample(records, 60)).stored
                return stored + write_batch(mine, rng.sample(records, len(records))).stored

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(write, range(4))) == len(records)
        assert stored_keys(conn) == sorted(keys(records))
        for call in calls:
            row = call_row(conn, call[0].call_id)
            assert (row["records_stored"], row["decisions"]) == (7, 2)

    def test_wait_for_one_another_where_both_have_the_same_record(
        self, shared_database: str, conn: psycopg.Connection[Any]
    ) -> None:
        records = whole_call()
        with connected(shared_database) as other, ThreadPoolExecutor(1) as pool:
            with other.transaction():
                write_batch(other, records[:3])
                waiting = pool.submit(write_batch, conn, records)
                with psycopg.connect(shared_database, autocommit=True) as watcher:
                    blockers = "SELECT pg_blocking_pids(%s)"
                    while not watcher.execute(blockers, (conn.info.backend_pid,)).fetchall()[0][0]:
                        assert not waiting.done()
            assert waiting.result() == Written(4, 3, 0)
        assert call_row(conn, records[0].call_id)["records_stored"] == 7


class TestAConnection:
    @pytest.mark.parametrize("name", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"])
    def test_bounds_how_long_the_server_may_take(self, conn: psycopg.Connection[Any], name: str) -> None:
        [(value,)] = conn.execute("SELECT current_setting(%s)", (name,))
        assert value.removesuffix("s").isdigit() or value == "1min"
        assert value != "0"

    def test_goes_on_after_the_tables_got_new_columns(self, record_database: str) -> None:
        with connected(record_database) as mine:
            for _ in range(7):
                write_batch(mine, whole_call())
            with psycopg.connect(record_database, autocommit=True) as other:
                other.execute("ALTER TABLE conversation_events ADD COLUMN later text, ADD COLUMN more int DEFAULT 3")
                other.execute("ALTER TABLE conversation_calls ADD COLUMN later text")
                other.execute("ALTER TABLE conversation_calls ALTER COLUMN stages_stored TYPE bigint")
            records = whole_call()
            assert write_batch(mine, records) == Written(7, 0, 0)
            assert write_batch(mine, records) == Written(0, 7, 0)
            assert call_row(mine, records[0].call_id)["records_stored"] == 7

    def test_is_ready_before_there_are_any_tables(self, database: str) -> None:
        with connected(database) as early, pytest.raises(psycopg.errors.UndefinedTable):
            write_batch(early, [record()])

    def test_can_be_used_again_after_a_batch_was_refused(self, conn: psycopg.Connection[Any]) -> None:
        with pytest.raises(psycopg.errors.DataError):
            write_batch(conn, [record(), record(trace_id="\0"), record()])
        assert stored_keys(conn) == []
        assert write_batch(conn, whole_call()).stored == 7

    def test_wakes_up_those_who_listen_for_new_records_only(
        self, shared_database: str, conn: psycopg.Connection[Any]
    ) -> None:
        records = whole_call()
        with psycopg.connect(shared_database, autocommit=True) as listener:
            listener.execute("LISTEN luthien_records")
            write_batch(conn, records)
            [heard] = listener.notifies(timeout=20, stop_after=1)
            assert heard.payload == ""
            write_batch(conn, records)
            conn.execute("NOTIFY luthien_records, 'the end'")
            [heard] = listener.notifies(timeout=20, stop_after=1)
            assert heard.payload == "the end"


REFUSALS = (psycopg.Error, ValueError, TypeError, OverflowError, AttributeError, RecursionError)


class TestAnError:
    @pytest.mark.parametrize(
        "odd",
        [
            {"trace_id": "\0"},
            {"span_id": "\ud800"},
            {"event_type": "\0"},
            {"sequence": 2**31},
            {"sequence": -(2**31) - 1},
            {"sequence": "1"},
            {"sequence": [1]},
            {"payload_bytes": 2**63},
            {"payload_ref": 2**40},
            {"payload": "text"},
            {"payload": 5},
            {"wire_sha256": "text"},
            {"recorded_at_ns": 10**30},
            {"recorded_at_ns": -(10**30)},
            {"recorded_at_ns": "now"},
            {"attributes": {"a": float("nan")}},
            {"attributes": {"a": "\0"}},
            {"attributes": {"a": "\udc00"}},
            {"attributes": {"a": b"bytes"}},
            {"attributes": {(1, 2): "a key"}},
            {"attributes": {"a": 10**5000}},
            {"event_type": "call_outcome", "attributes": {"luthien.outcome": "fine"}},
            {"event_type": "call_outcome", "attributes": {"luthien.policies": 3}},
        ],
        ids=lambda odd: "-".join(map(ascii, odd))[:40],
    )
    def test_of_a_record_that_cannot_be_stored_is_told_from_trouble_with_the_database(
        self, conn: psycopg.Connection[Any], odd: dict[str, Any]
    ) -> None:
        written = replace(record(), **odd)
        with pytest.raises(REFUSALS) as caught:
            write_batch(conn, [written])
        assert is_about_content(caught.value)
        assert stored_keys(conn) == []

    @pytest.mark.parametrize(
        ("sqlstate", "is_content"),
        [
            ("22P02", True),
            ("23514", True),
            ("54000", True),
            ("XX000", True),
            ("P0001", True),
            ("0A000", False),
            ("40001", False),
            ("40P01", False),
            ("55P03", False),
            ("57014", False),
            ("57P01", False),
            ("53100", False),
            ("25006", False),
            ("42P01", False),
            ("42501", False),
            ("58030", False),
            ("08006", False),
        ],
    )
    def test_is_judged_by_what_postgres_calls_it(
        self, conn: psycopg.Connection[Any], sqlstate: str, is_content: bool
    ) -> None:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$".encode())
        assert is_about_content(caught.value) is is_content

    def test_of_a_lost_connection_is_not_about_the_records(self, conn: psycopg.Connection[Any]) -> None:
        conn.close()
        with pytest.raises(psycopg.OperationalError) as caught:
            write_batch(conn, [record()])
        assert not is_about_content(caught.value)


NUMBERS = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,8})?([eE][+-]?[0-9]{1,7})?", fullmatch=True),
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["0", "1", "0.0", "1.5", "1." + "0" * 900, "9" * 999, "9" * 1000, "0." + "1" * 20_000]),
        st.sampled_from(["e", "E"]),
        st.sampled_from(["", "+", "-"]),
        st.sampled_from(["0", "308", "999", "1000", "00001", "131071", "400000", "99999999999999999999"]),
    ),
    st.integers().map(str),
    st.sampled_from(["01", "1.", ".5", "+1", "-", "NaN", "-Infinity", "1e", "0x10", "9" * 999, "9" * 200_000]),
)
ESCAPES = [r"\n", r"\\", r"\"", r"\/", r"\u0000", r"\u00e9", r"\ud83d\ude00", r"\ud83d", r"\ude00", r"\uD83D\u0041"]
ESCAPES += [
    r"\x",
    r"\u12",
    r"\\u0000",
    r"\\\u0000",
    r"\\ud83d\ude00",
    "\t",
    "\x7f",
    "\x00",
    "é",
    "\U0001f600",
    "e1234",
]
STRINGS = st.lists(st.one_of(st.sampled_from(ESCAPES), st.text(max_size=5)), max_size=6).map(
    lambda parts: f'"{"".join(parts)}"'
)
SPACES = st.sampled_from(["", " ", "\n", "\t\r", "\x0b", "\xa0", "\ufeff"])
SCALARS = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null", "True", ""]))
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(STRINGS, inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)
JSON_LIKE = st.builds("{}{}{}".format, SPACES, DOCUMENTS, SPACES).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


class TestAPayloadThatIsCalledSafe:
    """Its cast in `conversation_events_json` must not fail: one that did would break every query over the view."""

    def casts(self, conn: psycopg.Connection[Any], *payloads: bytes) -> None:
        written = [record(payload=payload) for payload in payloads]
        assert write_batch(conn, written).stored == len(payloads)
        shown = conn.execute(
            "SELECT call_id, payload_is_jsonb_safe, payload IS NOT NULL, octet_length(payload::text) > 0"
            " FROM conversation_events_json WHERE call_id = ANY(%s)",
            ([each.call_id for each in written],),
        ).fetchall()
        are_safe = {each.call_id: is_jsonb_safe(payload) for each, payload in zip(written, payloads, strict=True)}
        assert {row[0]: row[1:] for row in shown} == {
            call_id: (is_safe, is_safe, is_safe or None) for call_id, is_safe in are_safe.items()
        }

    @given(payloads=st.lists(JSON_LIKE, min_size=8, max_size=8))
    @example(payloads=[b'"\\ud83d\\ude00"'])
    @settings(against_postgres, max_examples=75)
    def test_is_cast_by_postgres_whatever_looks_like_json(
        self, conn: psycopg.Connection[Any], payloads: list[bytes]
    ) -> None:
        self.casts(conn, *payloads)

    @given(payload=JSON_LIKE, data=st.data())
    @against_postgres
    def test_is_cast_by_postgres_whatever_byte_is_damaged(
        self, conn: psycopg.Connection[Any], payload: bytes, data: st.DataObject
    ) -> None:
        at = data.draw(st.integers(0, len(payload)))
        damage = data.draw(st.binary(min_size=1, max_size=2))
        self.casts(conn, payload[:at] + damage + payload[at + data.draw(st.integers(0, 2)) :])

    @pytest.mark.parametrize(
        ("payload", "is_safe"),
        [
            (b'{"model": "m", "n": [1, -2.5e3, true, null, ""]}', True),
            (b'{"a": 1, "a": 2}', True),
            (b' \t\r\n"x" ', True),
            (b"1", True),
            (b"{}", True),
            (b'"\\ud83d\\ude00 \xf0\x9f\x98\x80 \\u00e9"', True),
            (b'"' + b"9f0e1234" * 1000 + b'"', True),
            (b'"' + b"7" * 5000 + b'"', True),
            (b'"e99999 \\" E-99999 ' + b"1" * 2000 + b'"', True),
            (b"1e999", True),
            (b"1e-999", True),
            (nested(199), True),
            (nested(99, b'{"a":[', b"]}"), True),
            (b"", False),
            (b"   ", False),
            (b'"\\u0000"', False),
            (b'{"\\u0000": 1}', False),
            (b'"\\ud800"', False),
            (b'"\\udc00"', False),
            (b'"\\ude00\\ud83d"', False),
            (b'"\\\\ud83d\\ude00"', False),
            (b'"\xed\xa0\xbd\xed\xb8\x80"', False),
            (b"1e400000", False),
            (b"1e-400000", False),
            (b"0e400000", False),
            (b"-1E+99999999999999999999", False),
            (b"[" + b"7" * 200_000 + b"]", False),
            (b"0." + b"7" * 20_000, False),
            (b"NaN", False),
            (b"[Infinity]", False),
            (b"\xef\xbb\xbf{}", False),
            (b"\xff\xfe{}", False),
            (b'"\xff"', False),
            (b'"\xc0\x80"', False),
            (b"{}{}", False),
            (b"[1,]", False),
            (b"data: {}\n\n", False),
            (b'"a\nb"', False),
            (nested(499), False),
            (nested(501), False),
            (nested(5000), False),
            (nested(100_000), False),
            (nested(50_000, b'{"a":[', b"]}"), False),
            (b'"' + b"x" * MAX_BYTES + b'"', False),
            (b"[" + b"1," * MAX_MARKS + b"1]", False),
            (b"[" + b"1," * (MAX_MARKS - 2) + b"1]", True),
            (b"[" + b"[]," * (MAX_MARKS // 2 - 2) + b"1]", True),
            (b'"' + b"x" * (MAX_BYTES - 2) + b'"', True),
        ],
        ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else str(value),
    )
    def test_is_what_it_should_be(self, conn: psycopg.Connection[Any], payload: bytes, is_safe: bool) -> None:
        assert is_jsonb_safe(payload) is is_safe
        self.casts(conn, payload)

    def test_is_any_that_the_clients_send(self) -> None:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "été \U0001f600 re-use e-1234"}],
            "temperature": 0.7,
        }
        assert is_jsonb_safe(json.dumps(body).encode())
        assert is_jsonb_safe(json.dumps(body, ensure_ascii=False).encode())
