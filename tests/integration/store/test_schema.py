"""What the tables take, what the view shows, and how Postgres goes about the questions that the pages ask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.exchange import Outcome, new_call_id
from luthien.store.call_filter import EVERY_CALL
from luthien.store.migrate import migrate
from luthien.store.partitions import PartitionKeeper, day_range
from luthien.store.search import of_list
from luthien.store.sql import query
from luthien.store.windows import session_windows, windows

LAST_DAY = date(2026, 11, 22)
DAYS = [LAST_DAY - timedelta(days=n) for n in range(7)]
CALLS_A_DAY = 2000


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    migrate(database)
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def week(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A week of evenly spread calls, each with three events; one call in forty was blocked."""
    PartitionKeeper().ensure(conn, DAYS)
    conn.execute("CREATE TEMP TABLE ids (id uuid, n int)")
    for day in DAYS:
        first, end = (bound.int for bound in day_range(day))
        with conn.cursor() as cursor, cursor.copy("COPY ids FROM STDIN") as copy:
            for n in range(CALLS_A_DAY):
                copy.write_row((UUID(int=first + (end - first) // CALLS_A_DAY * n), n))
    conn.execute("""
        INSERT INTO conversation_calls (call_id, session_id, outcome, model_used)
        SELECT id, 's' || n / 20, CASE WHEN n % 40 = 0 THEN 'blocked' ELSE 'completed' END, repeat('m', 100) FROM ids
    """)
    conn.execute("""
        INSERT INTO conversation_events (call_id, sequence, event_type, recorded_at, payload)
        SELECT id, sequence, 'request_original', now(), 'a payload' FROM ids, generate_series(0, 2) AS sequence
    """)
    conn.execute("""
        INSERT INTO conversation_quarantine (call_id, sequence, record_sha256, reason) SELECT id, n, '', 'x' FROM ids
    """)
    conn.execute("ANALYZE")
    return conn


class TestConversationCalls:
    @pytest.mark.parametrize("outcome", [None, *Outcome])
    def test_every_outcome_and_a_call_that_still_runs_are_taken(
        self, conn: psycopg.Connection[Any], outcome: Outcome | None
    ) -> None:
        conn.execute("INSERT INTO conversation_calls (call_id, outcome) VALUES (%s, %s)", (new_call_id(), outcome))

    def test_no_other_outcome_is(self, conn: psycopg.Connection[Any]) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match="conversation_calls_outcome_check"):
            conn.execute("INSERT INTO conversation_calls (call_id, outcome) VALUES (%s, 'fine')", (new_call_id(),))

    def test_nothing_but_the_id_is_needed_and_counts_begin_at_zero(self, conn: psycopg.Connection[Any]) -> None:
        """Any kind of record may be the first of its call to arrive."""
        conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (new_call_id(),))
        [row] = conn.execute("SELECT row_to_json(c) FROM conversation_calls AS c")
        own = {"call_id", "stored_xid"}
        assert {name: value for name, value in row[0].items() if value is not None and name not in own} == {
            "decisions": 0,
            "records_stored": 0,
            "stages_stored": 0,
            "records_tombstoned": 0,
            "records_not_crash_proof": 0,
        }


class TestTheViewForPeople:
    PAYLOAD = b'{"model": "m", "messages": [{"role": "user", "content": "\\u00e9 \xc3\xa9"}]}'

    def insert(self, conn: psycopg.Connection[Any], payload: bytes | None, *, is_safe: bool) -> None:
        conn.execute(
            "INSERT INTO conversation_events"
            " (call_id, sequence, event_type, recorded_at, payload, payload_is_jsonb_safe)"
            " VALUES (%s, 0, 'request_original', now(), %s, %s)",
            (new_call_id(), payload, is_safe),
        )

    def test_shows_safe_payloads_as_jsonb(self, conn: psycopg.Connection[Any]) -> None:
        self.insert(conn, self.PAYLOAD, is_safe=True)
        assert conn.execute("SELECT payload FROM conversation_events_json").fetchall() == [
            (json.loads(self.PAYLOAD),)
        ]

    @pytest.mark.parametrize("payload", [b"\xff\xfe\x00", b"data: [DONE]", b'"\\u0000"', b"[" * 100_000, None])
    def test_shows_null_for_others_and_does_not_fail(
        self, conn: psycopg.Connection[Any], payload: bytes | None
    ) -> None:
        self.insert(conn, payload, is_safe=False)
        self.insert(conn, self.PAYLOAD, is_safe=True)
        rows = conn.execute("SELECT payload FROM conversation_events_json ORDER BY call_id").fetchall()
        assert rows == [(None,), (json.loads(self.PAYLOAD),)]
        found = conn.execute("SELECT call_id FROM conversation_events_json WHERE payload->>'model' = 'm'")
        assert len(found.fetchall()) == 1

    def test_has_every_column_of_its_table(self, conn: psycopg.Connection[Any]) -> None:
        view = conn.execute("SELECT * FROM conversation_events_json").description or ()
        table = conn.execute("SELECT * FROM conversation_events").description or ()
        assert [column.name for column in view] == [column.name for column in table]

    def test_opens_no_payload_to_those_who_may_not_read_the_table(
        self, database: str, conn: psycopg.Connection[Any]
    ) -> None:
        role = sql.Identifier(f"viewer_{uuid4().hex}")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'viewer'").format(role))
        conn.execute(sql.SQL("GRANT SELECT ON conversation_events_json TO {}").format(role))
        viewer = make_conninfo(database, user=role.as_string().strip('"'), password="viewer")
        with psycopg.connect(viewer) as mine, pytest.raises(psycopg.errors.InsufficientPrivilege):
            mine.execute("SELECT payload FROM conversation_events_json")
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


class TestPlans:
    """Of the very statements that the pages run."""

    NEWEST = UUID(int=2**128 - 1)
    PAGE = "SELECT * FROM conversation_calls WHERE call_id < %s ORDER BY call_id DESC LIMIT 50"
    NOON_MS = (day_range(LAST_DAY)[0].int >> 80) + 12 * 3_600_000

    def list_calls(self, conn: psycopg.Connection[Any], before: UUID) -> list[list[dict[str, Any]]]:
        """The plans of the statements of one page, in the order in which they are asked."""
        return [
            under_limit(plan(conn, query("list_calls"), **of_list(EVERY_CALL, since, until, 51)))
            for since, until in windows(before, self.NOON_MS)
        ]

    @pytest.mark.parametrize(
        ("table", "statement"),
        [
            ("conversation_calls", query("get_call")),
            ("conversation_events", query("get_events")),
            ("conversation_events", "SELECT * FROM conversation_events_json WHERE call_id = %(call_id)s"),
            ("conversation_quarantine", "SELECT * FROM conversation_quarantine WHERE call_id = %(call_id)s"),
        ],
    )
    def test_a_look_up_by_id_touches_one_partition(
        self, week: psycopg.Connection[Any], table: str, statement: str
    ) -> None:
        call_id = UUID(int=day_range(DAYS[3])[0].int + 12345)
        nodes = plan(week, statement, call_id=call_id)
        assert relations(nodes, table) == [f"{table}_20261119"]
        assert touched(nodes) == {"20261119"}
        assert not read_whole(nodes)

    def test_the_first_page_touches_the_last_days_only(self, week: psycopg.Connection[Any]) -> None:
        nodes, *_ = self.list_calls(week, self.NEWEST)
        days = [f"{day:%Y%m%d}" for day in reversed(DAYS[:3])]
        assert relations(nodes, "conversation_calls") == [f"conversation_calls_{day}" for day in [*days, "default"]]
        assert touched(nodes) == {*days, "default"}
        assert "Merge Append" in {node["Node Type"] for node in nodes}

    def test_a_later_page_takes_its_days_one_after_the_other(self, week: psycopg.Connection[Any]) -> None:
        """Without the default partition there is nothing to merge: a day is not opened before it is needed."""
        nodes, *_ = self.list_calls(week, UUID(int=day_range(DAYS[3])[0].int + 12345))
        assert touched(nodes) == {f"{day:%Y%m%d}" for day in DAYS[3:6]}
        kinds = {node["Node Type"] for node in nodes}
        assert "Append" in kinds
        assert "Merge Append" not in kinds

    @pytest.mark.parametrize("before", [NEWEST, day_range(DAYS[2])[0]])
    def test_no_page_of_calls_sorts_or_reads_a_day_whole_or_a_payload(
        self, week: psycopg.Connection[Any], before: UUID
    ) -> None:
        for nodes in self.list_calls(week, before):
            if touched(nodes) == {"default"}:  # of an empty table Postgres takes whatever it likes
                continue
            assert not read_whole(nodes)
            assert not [node for node in nodes if "Sort" in node["Node Type"]]
            assert indexes(nodes) == {"pkey"}
            assert not [column for node in nodes for column in node.get("Output", ()) if "payload" in column]
            assert not relations(nodes, "conversation_events")

    @pytest.mark.parametrize(
        ("column", "value", "index"),
        [
            ("session_id", "s3", "session_id_call_id_idx"),
            ("outcome", "blocked", "outcome_call_id_idx"),
        ],
    )
    def test_the_calls_of_a_session_or_a_rare_outcome_walk_their_own_index_and_sort_nothing(
        self, week: psycopg.Connection[Any], column: str, value: str, index: str
    ) -> None:
        statement = self.PAGE.replace("WHERE", f"WHERE {column} = %s AND")
        nodes = plan(week, statement, value, self.NEWEST)
        assert {node["Node Type"] for node in nodes} == {"Limit", "Merge Append", "Index Scan"}
        assert indexes(nodes) == {index}

    @pytest.mark.parametrize("name", ["session_after", "session_before", "session_totals", "session_count"])
    def test_what_a_session_asks_opens_the_days_of_its_window_only_and_reads_none_whole(
        self, week: psycopg.Connection[Any], name: str
    ) -> None:
        ranges = session_windows(UUID(int=0), self.NEWEST, newest_first=True, now_ms=self.NOON_MS)
        (first, behind), *_ = ranges
        nodes = plan(week, query(name), session="s3", since=first, before=behind, limit=21)
        assert touched(nodes) == {*(f"{day:%Y%m%d}" for day in DAYS[:3]), "default"}
        assert indexes(nodes) == {"session_id_call_id_idx"}
        assert not set(read_whole(nodes)) - {"conversation_calls_default"}  # which has nothing
        days = [(newer.int - older.int >> 80) / 86_400_000 for older, newer in ranges[1:-1]]
        assert max(days) <= 64
        assert sum(days) > 2 * 365

    def test_the_list_looks_further_only_for_the_calls_it_shows_and_only_into_their_days(
        self, week: psycopg.Connection[Any]
    ) -> None:
        """Each is looked up in the quarantine, in one partition; processes are few, and may be read whole."""
        before = day_range(DAYS[2])[0]
        since, until = next(iter(windows(before, self.NOON_MS)))
        nodes = plan(week, query("list_calls"), analyze=True, **of_list(EVERY_CALL, since, until, 50))
        assert touched(nodes) == touched(under_limit(nodes))
        assert not read_whole(nodes)
        assert not relations(nodes, "conversation_events")
        assert not [column for node in nodes for column in node.get("Output", ()) if "payload" in column]
        loops = {
            node["Relation Name"]: node["Actual Loops"]
            for node in nodes
            if node.get("Relation Name", "").startswith("conversation_quarantine")
        }
        assert {relation: times for relation, times in loops.items() if times} == {
            f"conversation_quarantine_{DAYS[3]:%Y%m%d}": 50
        }


class TestProcesses:
    @pytest.mark.parametrize(
        ("seen_s", "is_ended", "server_s", "alive"),
        [
            (1, False, 3600, True),
            (59, False, 3600, True),
            (61, False, 3600, False),
            (1, True, 3600, False),
            (61, True, 3600, False),
            (None, False, 3600, None),
            # The server was just started, and cannot have heard of anybody.
            (3600, False, 59, True),
            (3600, False, 61, False),
            (3600, True, 1, False),
            (None, False, 1, None),
        ],
    )
    def test_live_while_they_are_heard_of(
        self, conn: psycopg.Connection[Any], seen_s: int | None, is_ended: bool, server_s: int, alive: bool | None
    ) -> None:
        ago = "now() - %s * interval '1 second'"
        row = conn.execute(
            f"SELECT luthien_is_alive({ago}, CASE WHEN %s THEN now() END, {ago})".encode(),
            (seen_s, is_ended, server_s),
        ).fetchone()
        assert row == (alive,)

    def test_end_in_one_of_two_ways(self, conn: psycopg.Connection[Any]) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match="ended_how"):
            conn.execute(
                "INSERT INTO conversation_processes (process_id, ended_how) VALUES (%s, 'bored')", (uuid4(),)
            )


def under_limit(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes that find the calls; what is above them is done to those found."""
    found = [node for node in nodes if node["Node Type"] == "Limit"]
    for node in found:
        found.extend(node.get("Plans", ()))
    return found


def plan(
    conn: psycopg.Connection[Any], statement: str, *parameters: object, analyze: bool = False, **named: object
) -> list[dict[str, Any]]:
    """The nodes of the plan that Postgres chooses, the outermost first; with `analyze`, of a run."""
    options = b"FORMAT JSON, VERBOSE" + (b", ANALYZE" if analyze else b"")
    [(plans,)] = conn.execute(b"EXPLAIN (" + options + b") " + statement.encode(), parameters or named)
    nodes = [plans[0]["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", ()))
    return nodes


def relations(nodes: list[dict[str, Any]], table: str) -> list[str]:
    """The partitions of a table that a plan may open, whether or not it will."""
    names = [node["Relation Name"] for node in nodes if "Relation Name" in node]
    return sorted(name for name in names if re.fullmatch(rf"{table}_(\d{{8}}|default)", name))


def touched(nodes: list[dict[str, Any]]) -> set[str]:
    """The days, of whichever tables, that a plan may open."""
    names = relations(nodes, "conversation_[a-z]+")
    return {name.rpartition("_")[2] for name in names if name != "conversation_processes"}


def indexes(nodes: list[dict[str, Any]]) -> set[str]:
    """Without the partition's name in front: `conversation_calls_20261122_pkey` is `pkey`."""
    names = [node["Index Name"] for node in nodes if "Index Name" in node]
    return {re.sub(r"^conversation_[a-z]+_(\d{8}|default)_", "", name) for name in names}


def read_whole(nodes: list[dict[str, Any]]) -> list[str]:
    """The partitions that are read from one end to the other; there are few processes, and none of a day."""
    whole = relations([node for node in nodes if node["Node Type"] == "Seq Scan"], "conversation_[a-z]+")
    return [name for name in whole if name != "conversation_processes"]
