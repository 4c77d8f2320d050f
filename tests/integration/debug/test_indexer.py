"""What is indexed of calls, by whom, when, and what becomes of those that cannot be."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from luthien.debug.search import indexed, indexer, texts
from luthien.debug.search.indexer import Indexer, IndexStats, Pace, connected, index_some
from luthien.debug.search.reindex import index_queued, queue_calls
from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.store import index
from luthien.store.call_filter import CallFilter
from luthien.store.facets import change_facets
from luthien.store.index import Sweep
from luthien.store.lexemes import words_of
from luthien.store.read import RecordReader
from luthien.store.write import prepare, write_batch
from tests.playbook import ScriptedProvider, answers, eventually, running_gateway
from tests.records import record, whole_call

Conn = psycopg.Connection[Any]
UNHURRIED = Pace(1.0, time.sleep)


@pytest.fixture
def conn(record_database: str) -> Iterator[Conn]:
    with connected(record_database) as conn:
        yield conn


def store(conn: Conn, *records: StageRecord) -> None:
    prepare(conn)
    write_batch(conn, records)


def call(original: object, final: object | None = None, **values: Any) -> list[StageRecord]:
    """A call that is over: its request, as it came and as it went on, and what one policy did about it."""
    call_id = new_call_id()
    stages: list[tuple[EventType, bytes | None, dict[str, Any]]] = [
        (EventType.REQUEST_ORIGINAL, body(original), {"luthien.wire_format": "openai_chat"}),
        (EventType.POLICY_DECISION, None, decision("redact") | values),
        (EventType.REQUEST_FINAL, body(original if final is None else final), {"luthien.changed": final is not None}),
        (EventType.CALL_OUTCOME, None, {"luthien.outcome": "completed", "luthien.records.emitted": 4}),
    ]
    return [
        record(call_id, sequence, event_type, payload, attributes=attributes)
        for sequence, (event_type, payload, attributes) in enumerate(stages)
    ]


def body(document: object) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def decision(policy: str) -> dict[str, Any]:
    return {
        "luthien.policy.name": policy,
        "luthien.policy.version": "1",
        "luthien.policy.side": "request",
        "luthien.policy.action": "modify",
        "luthien.policy.changed": True,
    }


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def index_all(conn: Conn) -> IndexStats:
    stats = IndexStats()
    while index_some(conn, UNHURRIED, stats):
        pass
    return stats


def lexemes(conn: Conn, call_id: UUID) -> set[str]:
    statement = "SELECT tsvector_to_array(document) FROM conversation_search WHERE call_id = %s"
    [(found,)] = conn.execute(statement, (call_id,))
    return set(found)


def column(conn: Conn, name: str, call_id: UUID) -> Any:
    [row] = conn.execute("SELECT capped, error, algo FROM conversation_search WHERE call_id = %s", (call_id,))
    return dict(zip(("capped", "error", "algo"), row, strict=True))[name]


def waiting(conn: Conn) -> int:
    [(count,)] = conn.execute("SELECT count(*) FROM conversation_unindexed")
    return int(count)


class TestWhatIsCounted:
    def test_is_each_decision_without_its_words(self, conn: Conn) -> None:
        values = {
            "luthien.policy.reason": "because of a treasure",
            "luthien.policy.duration": 1.5,
            "luthien.policy.count": 3,
            "luthien.policy.shadow": True,
        }
        records = call(says("a"), **values)
        store(conn, *records)
        index_all(conn)
        [row] = conn.execute("SELECT row_to_json(decided) FROM conversation_decisions AS decided")
        decided = row[0]
        assert decided.pop("recorded_at")
        assert decided == {
            "call_id": str(records[0].call_id),
            "sequence": 1,
            "side": "request",
            "policy": "redact",
            "version": "1",
            "action": "modify",
            "changed": True,
            "shadow": True,
            "duration_ms": 1.5,
            "count": 3,
        }

    def test_is_where_a_change_is_and_how_large(self, conn: Conn) -> None:
        store(conn, *call(says("a classified word"), says("a plain word")))
        index_all(conn)
        asked = "SELECT path, message, bytes_removed, bytes_added FROM conversation_changes"
        assert conn.execute(asked).fetchall() == [("/messages/*/content", 0, 10, 5)]

    def test_is_that_of_each_call_however_many_are_indexed_at_once(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = [call(says(f"{'long ' * number}before{number}"), says(f"after{number}")) for number in range(40)]
        store(conn, *(each for records in calls for each in records))
        monkeypatch.setattr(indexer, "_TOGETHER_BYTES", 500)
        assert index_all(conn) == IndexStats(indexed=40)
        for number, records in enumerate(calls):
            assert {f"before{number}", f"after{number}"} <= lexemes(conn, records[0].call_id)
            assert f"after{number - 1}" not in lexemes(conn, records[0].call_id)
        for table in ("conversation_changes", "conversation_decisions"):
            rows = conn.execute(f"SELECT call_id FROM {table} ORDER BY 1".encode()).fetchall()  # noqa: S608
            assert rows == [(records[0].call_id,) for records in calls]

    def test_is_counted_once_however_often_it_is_indexed(self, conn: Conn) -> None:
        store(conn, *call(says("one"), says("two")))
        index_all(conn)
        queue_calls(conn, anew=True)
        index_all(conn)
        for table in ("conversation_changes", "conversation_decisions"):
            assert conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchall() == [(1,)]  # noqa: S608


class TestWhatIsIndexed:
    def test_is_the_text_with_its_escapes_resolved_and_no_form_of_words(self, conn: Conn) -> None:
        text = 'Caf\u0065\u0301 "quoted" STRASSE Straße na\\u00efve\nline get_weather \ud800 nul\0l 数据库'
        records = call(says(text))
        store(conn, *records)
        assert index_all(conn) == IndexStats(indexed=1)
        found = lexemes(conn, records[0].call_id)
        assert {"caf\u00e9", "quoted", "strasse", "line", "get_weather", "weather", "数据", "据库", "数"} <= found
        assert not {"role", "user", "messages", "content"} & found

    def test_is_the_names_and_values_of_a_tool_s_arguments_inside_their_string(self, conn: Conn) -> None:
        arguments = json.dumps({"city_name": "Zürich", "days": 12345, "deep": json.dumps({"inner": "treasure"})})
        tool_calls = [{"type": "function", "function": {"name": "get_forecast", "arguments": arguments}}]
        records = call({"messages": [{"role": "assistant", "tool_calls": tool_calls}]})
        store(conn, *records)
        index_all(conn)
        assert {"get_forecast", "city_name", "zürich", "12345", "inner", "treasure"} <= lexemes(
            conn, records[0].call_id
        )

    @pytest.mark.parametrize("gap", [" ", ";", "\u3002"])
    def test_is_each_word_of_a_long_text_whole(self, conn: Conn, gap: str) -> None:
        words = [f"word{number}" for number in range(5_000)]
        records = call(says(gap.join(words)))
        store(conn, *records)
        index_all(conn)
        assert set(words) <= lexemes(conn, records[0].call_id)

    def test_is_each_pair_of_a_long_text_without_spaces(self, conn: Conn) -> None:
        records = call(says("文" * 9_999 + "数据" + "文" * 9_999))
        store(conn, *records)
        index_all(conn)
        assert "数据" in lexemes(conn, records[0].call_id)

    def test_is_text_that_only_begins_like_a_picture(self, conn: Conn) -> None:
        records = call(says("data:text/csv,names and a treasure"))
        store(conn, *records)
        index_all(conn)
        assert "treasure" in lexemes(conn, records[0].call_id)

    def test_is_no_picture(self, conn: Conn) -> None:
        records = call(says("data:image/png;base64," + "QUJD" * 50_000))
        store(conn, *records)
        index_all(conn)
        assert not [lexeme for lexeme in lexemes(conn, records[0].call_id) if not lexeme.startswith("=")]

    def test_is_a_row_for_each_place_that_a_policy_changed(self, conn: Conn) -> None:
        before = {"model": "m", "temperature": 1, "messages": [{"role": "user", "content": "my mail"}]}
        after = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "my [MAIL]"}]}
        records = call(before, after)
        store(conn, *records)
        index_all(conn)
        rows = conn.execute(
            "SELECT side, action, part, before_ptr, after_ptr, policy, version FROM conversation_changes ORDER BY 3"
        ).fetchall()
        assert rows == [
            ("request", "change", "message", "/messages/0/content", "/messages/0/content", "redact", "1"),
            ("request", "change", "parameter", "/temperature", "/temperature", "redact", "1"),
        ]
        assert {*change_facets("request", "message", "/messages/*/content", "redact", "1")} <= lexemes(
            conn, records[0].call_id
        )

    def test_is_not_what_would_only_have_been_changed(self, conn: Conn) -> None:
        records = call(says("as it was"), **{"luthien.policy.shadow": True})
        store(conn, *records)
        index_all(conn)
        assert conn.execute("SELECT FROM conversation_changes").fetchall() == []
        assert "=change:request * * * redact" not in lexemes(conn, records[0].call_id)


class TestACallThatIsHard:
    def test_has_so_many_rows_of_changes_and_says_that_there_are_more(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(indexed, "MAX_CHANGES", 10)
        monkeypatch.setattr(indexed, "MAX_PATHS", 1)
        changed = [*(f"k{number}" for number in range(30)), "top_p"]
        records = call(dict.fromkeys(changed, 0), dict.fromkeys(changed, 1))
        store(conn, *records)
        index_all(conn)
        assert conn.execute("SELECT count(*) FROM conversation_changes").fetchone() == (10,)
        assert column(conn, "capped", records[0].call_id) == ["changes", "paths"]
        paths = [each for each in lexemes(conn, records[0].call_id) if each.startswith("=change:request parameter /")]
        assert len({each.split()[2] for each in paths}) == 1

    def test_of_too_many_words_is_known_by_the_latest(self, conn: Conn) -> None:
        text = " ".join(f"w{number}" for number in range(40_000))
        records = call({"messages": [{"content": text}, {"content": "lately"}]})
        store(conn, *records)
        index_all(conn)
        found = lexemes(conn, records[0].call_id)
        assert "lately" in found
        assert len(found) <= texts.MAX_WORDS + 20
        assert column(conn, "capped", records[0].call_id) == ["text"]

    def test_of_one_text_that_is_too_long_is_known_by_its_beginning(self, conn: Conn) -> None:
        text = " ".join(["first", *["again"] * (texts.MAX_CHARS // 5), "last"])
        records = call(says(text), says("other"))
        store(conn, *records)
        index_all(conn)
        found = lexemes(conn, records[0].call_id)
        assert {"other", "first", "again"} <= found
        assert "last" not in found
        assert column(conn, "capped", records[0].call_id) == ["text"]

    def test_has_the_words_of_each_text_whatever_stands_beside_it(self, conn: Conn) -> None:
        texts = [
            "one",
            "e\u0301",
            "\u0301two",
            "\ud83d",
            "\ude00 three",
            "one",
            "",
            "get_weather",
            "\u6211",
            "\u7684",
        ]
        records = call({"messages": [{"content": text} for text in texts]})
        store(conn, *records)
        index_all(conn)
        words = {each for each in lexemes(conn, records[0].call_id) if not each.startswith("=")}
        assert words == {word for text in texts for word in words_of(text)}

    def test_of_too_many_bytes_is_known_by_its_beginnings_and_its_decisions(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(indexer, "MAX_BYTES", 10_000)
        records = call(says("beginning caf\u00e9 " + "x" * 20_000), says("other"))
        store(conn, *records)
        index_all(conn)
        found = lexemes(conn, records[0].call_id)
        assert {"beginning", "café", "=change:request * * * redact", "=change:request other * * *"} <= found
        assert column(conn, "capped", records[0].call_id)[0] == "payloads"

    @pytest.mark.parametrize(
        "payload",
        [
            b"\xff\xfe\x00 not text",
            b"[" * 200_000,
            b'{"a": "\\ud800\\u0000"}',
            b'{"' + b"k" * 3_000_000 + b'": "' + b"v" * 3_000_000 + b'"}',
            b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
            b"",
        ],
    )
    def test_is_indexed_whatever_its_payload_is(self, conn: Conn, payload: bytes) -> None:
        records, other = call(payload, b"{}"), call(says("ordinary"))
        store(conn, *records, *other)
        assert index_all(conn) == IndexStats(indexed=2)
        assert "ordinary" in lexemes(conn, other[0].call_id)

    def test_that_cannot_be_indexed_keeps_its_error_and_its_facets_and_stops_no_other(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad, good = call(says("poison")), call(says("ordinary"))
        entry_of = indexed.entry_of

        def entry(read: Any, *args: Any) -> Any:
            if read.row["call_id"] == bad[0].call_id:
                raise RecursionError("quotes the call")
            return entry_of(read, *args)

        monkeypatch.setattr(indexer, "entry_of", entry)
        store(conn, *bad, *good)
        assert index_all(conn) == IndexStats(indexed=1, failed=1)
        assert column(conn, "error", bad[0].call_id) == "RecursionError"
        assert "=outcome:completed" in lexemes(conn, bad[0].call_id)
        assert waiting(conn) == 0

    def test_that_ends_whoever_indexes_it_is_left_alone_after_some_attempts(self, conn: Conn) -> None:
        records = call(says("deadly"))
        store(conn, *records)
        for _ in range(index.MAX_ATTEMPTS):
            assert len(index.claim(conn, 8)) == 1
            conn.execute("UPDATE conversation_unindexed SET due_at = now()")
        assert index_all(conn) == IndexStats(failed=1)
        assert "attempts" in column(conn, "error", records[0].call_id)

    def test_that_ends_whoever_indexes_it_takes_no_other_with_it(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        older, deadly, newer = call(says("older")), call(says("deadly")), call(says("newer"))
        entry_of = indexed.entry_of

        def entry(read: Any, *args: Any) -> Any:
            if read.row["call_id"] == deadly[0].call_id:
                raise KeyboardInterrupt
            return entry_of(read, *args)

        monkeypatch.setattr(indexer, "entry_of", entry)
        store(conn, *older, *deadly, *newer)
        deaths = 0
        while waiting(conn):
            conn.execute("UPDATE conversation_unindexed SET due_at = now()")
            try:
                index_some(conn, UNHURRIED, IndexStats())
            except KeyboardInterrupt:
                deaths += 1
        assert deaths == index.MAX_ATTEMPTS
        assert [column(conn, "error", each[0].call_id) for each in (older, newer)] == [None, None]
        assert "attempts" in column(conn, "error", deadly[0].call_id)

    def test_has_as_many_attempts_as_before_after_what_was_the_database_s_fault(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its own may be that it took too long; no other that was claimed with it has a part in that."""
        monkeypatch.setattr(indexer, "_TOGETHER_BYTES", 0)
        store(conn, *call(says("older")), *call(says("newer")))
        for code in (*["53100"] * (index.MAX_ATTEMPTS + 1), "57014"):
            conn.execute(
                "CREATE OR REPLACE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE 'not now' USING ERRCODE = '{code}'; END $$"
            )
            conn.execute(
                "CREATE OR REPLACE TRIGGER refuses BEFORE INSERT ON conversation_search"
                " FOR EACH ROW EXECUTE FUNCTION refuses()"
            )
            conn.execute("UPDATE conversation_unindexed SET due_at = now()")
            with pytest.raises(psycopg.OperationalError, match="not now"):
                index_some(conn, UNHURRIED, IndexStats())
        attempts = conn.execute("SELECT attempts FROM conversation_unindexed ORDER BY call_id DESC").fetchall()
        assert attempts == [(1,), (0,)]
        conn.execute("DROP FUNCTION refuses CASCADE")
        conn.execute("UPDATE conversation_unindexed SET due_at = now()")
        assert index_all(conn) == IndexStats(indexed=2)

    def test_that_was_not_begun_in_time_is_given_back(self, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its claim would run out while another is indexed, and count as an attempt that was not finished."""
        monkeypatch.setattr(indexer, "_TOGETHER_BYTES", 0)
        monkeypatch.setattr(indexer, "_BEGUN_WITHIN_S", 0.0)
        store(conn, *call(says("older")), *call(says("old")), *call(says("newer")))
        assert index_some(conn, UNHURRIED, IndexStats()) == 1
        left = conn.execute("SELECT attempts, due_at <= now() FROM conversation_unindexed").fetchall()
        assert left == [(0, True)] * 2
        assert index_all(conn) == IndexStats(indexed=2)

    def test_whose_document_postgres_refuses_keeps_its_facets(
        self, conn: Conn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(texts, "_MAX_WORDS_BYTES", 10**9)
        monkeypatch.setattr(texts, "MAX_CHARS", 10**9)
        monkeypatch.setattr(texts, "MAX_WORDS", 10**9)
        records = call(says(" ".join(f"{number:060}" for number in range(30_000))))
        store(conn, *records)
        assert index_all(conn) == IndexStats(failed=1)
        assert column(conn, "error", records[0].call_id) == "ProgramLimitExceeded"


class TestWhen:
    def test_a_call_that_is_over_is_due_at_once_and_one_that_runs_when_it_was_quiet(self, conn: Conn) -> None:
        running, over = call(says("runs"))[:3], call(says("over"))
        store(conn, *running, *over)
        assert index_all(conn).indexed == 1
        assert waiting(conn) == 1
        conn.execute("UPDATE conversation_unindexed SET due_at = due_at - interval '10 minutes'")
        assert index_all(conn).indexed == 1
        assert "=outcome:running" in lexemes(conn, running[0].call_id)

    def test_what_is_stored_late_is_indexed_again(self, conn: Conn) -> None:
        *records, end = call(says("early"))
        store(conn, *records)
        conn.execute("UPDATE conversation_unindexed SET due_at = now()")
        index_all(conn)
        store(conn, end)
        assert index_all(conn).indexed == 1
        assert "=outcome:completed" in lexemes(conn, end.call_id)

    def test_what_changes_while_it_is_indexed_is_indexed_once_more(self, conn: Conn) -> None:
        (*records, end), other = call(says("early")), call(says("other"))
        store(conn, *records, *other)
        conn.execute("UPDATE conversation_unindexed SET due_at = now()")
        claims = index.claim(conn, 8)
        store(conn, end)
        entries = [(claimed, index.Entry(indexed.ALGO, ("stale",))) for claimed in claims]
        assert index.write_entries(conn, entries) == 1
        assert conn.execute("SELECT call_id FROM conversation_search").fetchall() == [(other[0].call_id,)]
        index_all(conn)
        assert "=outcome:completed" in lexemes(conn, end.call_id)

    def test_many_share_the_work_and_do_nothing_twice(self, record_database: str, conn: Conn) -> None:
        store(conn, *(each for _ in range(60) for each in call(says("shared"))))
        together = threading.Barrier(4)

        def work() -> int:
            with connected(record_database) as mine:
                together.wait()
                return index_all(mine).indexed

        with ThreadPoolExecutor(4) as pool:
            done = [job.result() for job in [pool.submit(work) for _ in range(4)]]
        assert sum(done) == 60
        assert waiting(conn) == 0

    def test_what_was_claimed_by_who_died_falls_to_another(self, conn: Conn) -> None:
        store(conn, *call(says("claimed")))
        assert len(index.claim(conn, 8)) == 1
        assert index_all(conn).indexed == 0
        conn.execute(
            "UPDATE conversation_unindexed SET due_at = due_at - make_interval(secs => %s)", (index.LEASE_S,)
        )
        assert index_all(conn).indexed == 1

    def test_a_call_whose_day_was_dropped_is_forgotten(self, conn: Conn) -> None:
        records = call(says("gone"))
        store(conn, *records)
        conn.execute("DELETE FROM conversation_calls")
        assert index_all(conn) == IndexStats()
        assert waiting(conn) == 0


class TestASweep:
    def sweep(self, conn: Conn, **options: Any) -> int:
        sweep, queued = Sweep(**({"algo": indexed.ALGO} | options)), 0
        while not sweep.is_over:
            queued += sweep.step(conn).queued
        return queued

    def test_finds_nothing_when_all_is_indexed(self, conn: Conn) -> None:
        store(conn, *whole_call(), *whole_call())
        index_all(conn)
        assert self.sweep(conn) == 0

    @pytest.mark.parametrize("table", ["conversation_search", "conversation_unindexed, conversation_search"])
    def test_fills_tables_that_somebody_emptied(self, conn: Conn, table: str) -> None:
        records = call(says("again"))
        store(conn, *records)
        index_all(conn)
        conn.execute(f"TRUNCATE {table}")
        assert self.sweep(conn) == 1
        index_all(conn)
        assert "again" in lexemes(conn, records[0].call_id)

    def test_has_calls_indexed_anew_that_another_version_indexed(self, conn: Conn) -> None:
        store(conn, *whole_call())
        index_all(conn)
        assert self.sweep(conn, algo=indexed.ALGO + 1) == 1
        assert self.sweep(conn, algo=indexed.ALGO - 1) == 0, "a later version would have it indexed anew in turn"

    def test_comes_back_for_what_the_version_before_indexed_meanwhile(
        self, conn: Conn, record_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Here the first two who index it are of that version."""
        monkeypatch.setattr(indexer, "_SWEEP_AGAIN_S", 0.0)
        conn.execute(
            "CREATE SEQUENCE times; CREATE FUNCTION is_older() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF nextval(''times'') <= 2 THEN NEW.algo := NEW.algo - 1; END IF; RETURN NEW; END'"
        )
        conn.execute(
            "CREATE TRIGGER older BEFORE INSERT OR UPDATE ON conversation_search"
            " FOR EACH ROW EXECUTE FUNCTION is_older()"
        )
        records = whole_call()
        store(conn, *records)
        index_all(conn)
        assert column(conn, "algo", records[0].call_id) == indexed.ALGO - 1
        mine = Indexer(record_database, poll_s=0.01)
        mine.start()
        try:
            algo = eventually(lambda: column(conn, "algo", records[0].call_id), lambda algo: algo == indexed.ALGO)
        finally:
            mine.stop(5.0)
        assert algo == indexed.ALGO


class TestReindexing:
    def test_indexes_every_call_anew_and_says_how_many(self, conn: Conn) -> None:
        store(conn, *whole_call(), *call(says("again")))
        index_all(conn)
        conn.execute("UPDATE conversation_search SET document = ''")
        assert queue_calls(conn, anew=True) == 2
        assert [*index_queued(conn)] == [(2, 0, "0")]
        assert conn.execute("SELECT count(*) FROM conversation_search WHERE document @@ 'again'").fetchone() == (1,)

    def test_of_what_is_missing_leaves_the_rest(self, conn: Conn) -> None:
        first, second = whole_call(), whole_call()
        store(conn, *first, *second)
        index_all(conn)
        conn.execute("DELETE FROM conversation_search WHERE call_id = %s", (first[0].call_id,))
        assert queue_calls(conn, anew=False) == 1


class TestInAGateway:
    def test_a_call_is_found_by_its_words_soon_after_it_ended(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        provider.will(answers({"choices": [{"message": {"role": "assistant", "content": "a rare marmalade"}}]}))
        with running_gateway(record_database, provider.url) as gateway:
            call_id = gateway.post("/v1/chat/completions", says("hello")).headers["luthien-call-id"]
            found = eventually(lambda: gateway.get("/debug/calls.json?text=marmalade").json()["calls"], bool)
            assert [each["call_id"] for each in found] == [call_id]
            assert gateway.call(call_id)["indexed"] is True

    async def test_that_does_not_index_says_what_is_not_indexed(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        provider.will(answers({}))
        with running_gateway(record_database, provider.url, index=False) as gateway:
            call_id = gateway.post("/v1/chat/completions", says("hello")).headers["luthien-call-id"]
            assert gateway.call(call_id)["indexed"] is False
            assert not [thread for thread in threading.enumerate() if thread.name == "luthien-indexer"]
        reader = RecordReader(record_database)
        await reader.open()
        assert (await reader.unindexed(CallFilter(text="hello"), None, None)).calls == 1
        await reader.close()

    def test_goes_on_after_the_database_was_away(self, record_database: str, conn: Conn) -> None:
        running = Indexer(record_database, poll_s=0.01)
        running.start()
        try:
            store(conn, *call(says("one")))
            assert eventually(lambda: running.stats.indexed, lambda count: count == 1) == 1
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'luthien-indexer' AND pid <> pg_backend_pid()"
            )
            store(conn, *call(says("two")))
            assert eventually(lambda: running.stats.indexed, lambda count: count == 2) == 2
        finally:
            running.stop(5.0)
