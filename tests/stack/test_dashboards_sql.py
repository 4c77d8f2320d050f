"""The dashboards, held against a database and a gateway: each statement is run as the role that Grafana has, each
link is followed. What Grafana does in between is `tests.stack.grafana`; Grafana itself was not run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from dashboards.parts import LOKI, POSTGRES, PROMETHEUS, TEMPO
from dashboards.written import written
from luthien.debug.search.indexer import MAX_BYTES
from luthien.exchange import EventType, StageRecord
from luthien.store.reports import grant_reader
from tests.playbook import Gateway, Play, ScriptedProvider, answers, call_id_of, eventually, running_gateway, streams
from tests.records import call_at, record, store
from tests.stack.grafana import STERN, Json, Value, View, dashboards, links, panels, statements
from tests.wire import openai_request, openai_response, openai_stream

CHAT = "/v1/chat/completions"
LUTHIEN = "http://localhost:8080"
DROP_MODEL = "'; DROP TABLE conversation_calls; --"
TAG_MODEL = '"><script>alert(1)</script>&model=x#?%27'
QUOTED_SESSION = 'it\'s "one"; $__timeFilter ${model} %s \\'
BOARDS = dashboards()
MAY_BE_EMPTY = {"Incomplete calls"}  # here every call is complete


@dataclass(frozen=True)
class Stack:
    """A gateway, its calls by name, and what Grafana sees of them."""

    gateway: Gateway
    ids: dict[str, str]
    conn: psycopg.Connection[dict[str, Any]]
    traces: dict[str, str]
    listed: dict[str, list[str]] = field(default_factory=dict)

    def view(self, name: str, **chosen: Value) -> View:
        now = datetime.now(UTC)
        board = BOARDS[f"luthien-{name}"]
        return View(board, now - timedelta(hours=1), now + timedelta(minutes=1), chosen)

    def rows(self, view: View, title: str) -> list[dict[str, Any]]:
        [statement] = [text for name, text in statements(view.dashboard) if name == title]
        return self.conn.execute(view.sql(statement).encode()).fetchall()

    def names(self, call_ids: list[str]) -> list[str]:
        known = {call_id: name for name, call_id in self.ids.items()}
        return sorted(known[call_id] for call_id in call_ids)

    def follow(self, url: str) -> list[str]:
        """The names of the calls that are listed at a link."""
        if url not in self.listed:
            self.listed[url] = self._list(url)
        return self.listed[url]

    def _list(self, url: str) -> list[str]:
        assert url.startswith(LUTHIEN), url
        response = self.gateway.get(url.removeprefix(LUTHIEN), {**self.gateway.headers, "accept": "application/json"})
        assert response.status_code == 200, f"{url}: {response.text}"
        return self.names([each["call_id"] for each in response.json()["calls"]])


def replacing(old: str, new: str, **more: Any) -> Json:
    return {"policy": "replace_text", "config": {"rules": [{"find": old, "replace": new, "in": ["request"]}]}, **more}


@pytest.fixture(scope="module")
def stack(
    module_record_database: str, shared_provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    file = tmp_path_factory.mktemp("policies") / "own.py"
    file.write_text(STERN)
    policies = [
        replacing("classified", "[hidden]"),
        {"policy": f"{file}:Stern"},
        replacing("Hello", "Goodbye", mode="shadow"),
    ]
    with ExitStack() as open_:
        reader = open_.enter_context(reading(module_record_database))
        gateway = open_.enter_context(running_gateway(module_record_database, shared_provider.url, policies))
        ids = made_calls(gateway, shared_provider)
        older = older_calls()
        store(module_record_database, *(each for call in older.values() for each in call))
        traces = {name: gateway.call(call_id)["trace_id"] for name, call_id in ids.items()}
        owner = open_.enter_context(psycopg.connect(module_record_database, autocommit=True))
        eventually(
            lambda: owner.execute("SELECT count(*) FROM conversation_unindexed").fetchone(), lambda row: row == (0,)
        )
        ids |= {name: str(records[0].call_id) for name, records in older.items()}
        yield Stack(gateway, ids, reader, traces)


class reading:  # noqa: N801
    """A connection as the role `grafana`, which may read the reports; the role goes with it."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def __enter__(self) -> psycopg.Connection[dict[str, Any]]:
        with psycopg.connect(self._dsn, autocommit=True) as owner:
            owner.execute("CREATE ROLE grafana LOGIN PASSWORD 'a word'")
        grant_reader(self._dsn, "grafana")
        dsn = make_conninfo(self._dsn, user="grafana", password="a word")
        self._conn = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        return self._conn

    def __exit__(self, *_: object) -> None:
        self._conn.close()
        with psycopg.connect(self._dsn, autocommit=True) as owner:
            owner.execute("DROP OWNED BY grafana")
            owner.execute("DROP ROLE grafana")


def made_calls(gateway: Gateway, provider: ScriptedProvider) -> dict[str, str]:
    """The ids of all calls by name, the oldest first."""
    fine = answers(openai_response("Fine."))
    wanted: dict[str, tuple[Play, Json, str | None]] = {
        "plain": (fine, openai_request("Hello"), None),
        "streamed": (streams(*openai_stream("One", " two")), openai_request("Hi", stream=True), "one"),
        "changed": (fine, openai_request("This is classified."), "one"),
        "changed too": (fine, openai_request("Also classified, and classified."), None),
        "blocked": (fine, openai_request("This is forbidden."), "one"),
        "broken": (fine, openai_request("This is fragile."), None),
        "failed": (answers({"error": {"message": "no"}}, status=500), openai_request("Hi"), None),
        "drop": (fine, openai_request("Hi", model=DROP_MODEL), QUOTED_SESSION),
        "tag": (fine, openai_request("Hi classified", model=TAG_MODEL), None),
    }
    ids = {}
    for name, (play, body, session) in wanted.items():
        provider.will(play)
        headers = {} if session is None else {"luthien-session-id": session}
        ids[name] = call_id_of(gateway.post(CHAT, body, headers=headers))
    ids["rejected"] = call_id_of(gateway.post(CHAT, b"{"))
    return ids


def older_calls() -> dict[str, list[StageRecord]]:
    """Calls of three hours ago by name, of which less is known than of others."""
    redact = {"name": "redact", "action": "modify", "changed": True}
    return {
        "by nobody known": changed_call(b"one", name="noted", version="1", action="allow"),
        "in no version": changed_call(b"one", **redact),
        "in a version": changed_call(b"one", **redact, version="1"),
        "too large": changed_call(b"one" * (MAX_BYTES // 5), **redact, version="1"),
    }


def changed_call(text: bytes, **decided: Any) -> list[StageRecord]:
    call_id = call_at(time.time() - 3 * 3600)
    decision = {f"luthien.policy.{name}": value for name, value in {**decided, "side": "request"}.items()}
    ended = {
        "luthien.outcome": "completed",
        "luthien.policies": (f"{decided['name']}@{decided.get('version', '')}",),
        "luthien.records.emitted": 4,
    }
    before, after = (b'{"messages": [{"role": "user", "content": "%s"}]}' % each for each in (text, text[::-1]))
    return [
        record(call_id, 0, EventType.REQUEST_ORIGINAL, before),
        record(call_id, 1, EventType.POLICY_DECISION, None, attributes=decision),
        record(call_id, 2, EventType.REQUEST_FINAL, after, attributes={"luthien.changed": True}),
        record(call_id, 3, EventType.CALL_OUTCOME, None, attributes=ended),
    ]


def test_the_json_is_not_stale() -> None:
    texts = written()
    stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make docs`"
    assert {path.name for path in texts} == {path.name for path in Path("dashboards").glob("*.json")}


@pytest.mark.parametrize("uid", BOARDS)
def test_every_panel_says_what_it_shows_and_asks_one_of_the_four_data_sources(uid: str) -> None:
    known = {each.uid for each in (PROMETHEUS, TEMPO, LOKI, POSTGRES)}
    board = BOARDS[uid]
    for variable in board["templating"]["list"]:
        assert (variable.get("datasource") or {}).get("uid", POSTGRES.uid) in known
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] in known
        assert {target["datasource"]["uid"] for target in panel["targets"]} <= known


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_lie_beside_and_below_each_other(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(BOARDS[uid]):
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("uid", BOARDS)
def test_every_row_that_is_a_call_or_a_policy_can_be_opened(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        asked = str([target.get("rawSql") for target in panel["targets"]])
        if panel["type"] == "table" and any(f"report_{each}" in asked for each in ("calls", "decisions", "changes")):
            assert [*links(panel)], panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_every_statement_runs_as_the_role_that_grafana_has(stack: Stack, uid: str) -> None:
    board = BOARDS[uid]
    view = stack.view(uid.removeprefix("luthien-"))
    for name, statement in statements(board):
        found = stack.conn.execute(view.sql(statement).encode()).fetchall()
        assert found or name in MAY_BE_EMPTY, name


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (
            {},
            {"plain", "streamed", "changed", "changed too", "blocked", "broken", "failed", "drop", "tag", "rejected"},
        ),
        ({"outcome": ["blocked", "policy_error"]}, {"blocked", "broken"}),
        ({"outcome": ["upstream_error"]}, {"failed"}),
        ({"outcome": ["rejected"]}, {"rejected"}),
        ({"session": "one"}, {"streamed", "changed", "blocked"}),
        ({"session": "one", "outcome": ["completed"]}, {"streamed", "changed"}),
        ({"model": [DROP_MODEL, TAG_MODEL]}, {"drop", "tag"}),
        ({"model": ["gpt-test-2026"], "session": QUOTED_SESSION}, {"drop"}),
        ({"session": QUOTED_SESSION}, {"drop"}),
        ({"session": "') OR 1 = 1 --"}, set()),
        ({"model": ["' OR '1' = '1"]}, set()),
        ({"provider": ["openai"], "model": [TAG_MODEL]}, {"tag"}),
        ({"policy": ["nobody"]}, set()),
        ({"policy": ["Stern", "nobody"], "outcome": ["blocked"]}, {"blocked"}),
    ],
)
def test_calls_are_those_that_are_chosen(stack: Stack, chosen: dict[str, Value], expected: set[str]) -> None:
    view = stack.view("calls", **chosen)
    found = stack.rows(view, "Calls")
    assert stack.names([each["call_id"] for each in found]) == sorted(expected)
    [sums] = stack.rows(view, "In this time")
    assert sums["calls"] == len(expected)
    assert sum(each["value"] for each in stack.rows(view, "Outcomes")) == len(expected)
    assert sum(each["calls"] for each in stack.rows(view, "By model and provider")) == len(expected)


@pytest.mark.parametrize("model", ["$__timeFrom()", "a'$__timeFilter(b') OR true --", "') $__timeTo() OR ('' IN ('"])
def test_a_macro_in_a_value_is_no_way_out_of_it(stack: Stack, model: str) -> None:
    """Grafana expands macros after it has put values in: what is chosen breaks the statement, and opens nothing."""
    with suppress(psycopg.errors.SyntaxError):
        assert stack.rows(stack.view("calls", model=[model]), "Calls") == []


@pytest.mark.parametrize("uid", ["luthien-calls", "luthien-policies"])
def test_statements_look_into_the_days_that_are_asked_for_and_at_no_record(stack: Stack, uid: str) -> None:
    last = datetime.fromtimestamp((UUID(stack.ids["rejected"]).int >> 80) / 1000, UTC)  # its day, whichever it is now
    view = View(BOARDS[uid], last.replace(hour=0, minute=0, second=0, microsecond=0), last)
    tables = {f"conversation_{each}_{last:%Y%m%d}" for each in ("calls", "decisions", "changes")}
    for name, statement in statements(view.dashboard):
        [plan] = stack.conn.execute(b"EXPLAIN (FORMAT JSON) " + view.sql(statement).encode()).fetchall()
        found = {relation for relation in relations(plan["QUERY PLAN"]) if relation.startswith("conversation_")}
        assert found, name
        assert found <= tables, name


def relations(plan: Any) -> Iterator[str]:
    """The tables that a plan reads."""
    if isinstance(plan, list):
        for each in plan:
            yield from relations(each)
    elif isinstance(plan, dict):
        yield from (value for key, value in plan.items() if key == "Relation Name")
        yield from relations([each for each in plan.values() if isinstance(each, dict | list)])


def test_a_row_tells_of_its_call(stack: Stack) -> None:
    rows = {stack.names([each["call_id"]])[0]: each for each in stack.rows(stack.view("calls"), "Calls")}
    assert [name for name, each in rows.items() if each["changed"]] == ["tag", "changed too", "changed"]
    assert rows["changed"] | {"changed": "request", "outcome": "completed", "record": "complete"} == rows["changed"]
    assert rows["changed"]["policies"] == "Stern, replace_text"
    assert (rows["changed"]["input_tokens"], rows["changed"]["http_status"]) == (9, 200)
    assert (rows["failed"]["http_status"], rows["broken"]["outcome"]) == (500, "policy_error")
    assert {each["record"] for each in rows.values()} == {"complete"}


def test_sums_of_calls(stack: Stack) -> None:
    [sums] = stack.rows(stack.view("calls"), "In this time")
    counted = {name: sums[name] for name in ("changed", "blocked", "failed", "rejected", "running", "incomplete")}
    assert counted == {"changed": 3, "blocked": 1, "failed": 2, "rejected": 1, "running": 0, "incomplete": 0}
    assert (sums["input_tokens"], sums["output_tokens"]) == (9 * 6, 3 * 5 + 2)


def test_decisions_are_counted_by_policy_and_action(stack: Stack) -> None:
    found = stack.rows(stack.view("policies"), "Decisions by action")
    counted = {(each["policy"], each["action"], each["side"], each["mode"]): each["decisions"] for each in found}
    assert counted["replace_text", "modify", "request", "enforce"] == 3
    assert counted["replace_text", "modify", "request", "shadow"] == 1
    assert counted["Stern", "block", "request", "enforce"] == 1
    assert counted["Stern", "error", "request", "enforce"] == 1
    [ours] = stack.rows(stack.view("policies", policy=["Stern"]), "In this time")
    assert (ours["blocking"], ours["errors"], ours["changing"]) == (1, 1, 0)
    assert ours["changed_share"] == pytest.approx(0.3)
    by_policy = stack.rows(stack.view("policies", policy=["replace_text"]), "By policy and version")
    [requests] = [each for each in by_policy if each["side"] == "request" and each["mode"] == "enforce"]
    assert (requests["calls"], requests["changed"], requests["blocked"], requests["errors"]) == (9, 3, 0, 0)
    assert requests["changed_share"] == pytest.approx(3 / 9)


def test_changes_are_counted_in_bytes_messages_and_paths(stack: Stack) -> None:
    [change] = stack.rows(stack.view("policies", policy=["replace_text"]), "Bytes and messages changed")
    assert (change["calls"], change["messages"], change["places"], change["part"]) == (3, 3, 3, "message")
    assert (change["bytes_removed"], change["bytes_added"]) == (4 * len("classified"), 4 * len("[hidden]"))
    [path] = stack.rows(stack.view("policies", policy=["replace_text"]), "Most changed paths")
    assert (path["path"], path["places"]) == ("/messages/*/content", 3)


def test_the_links_of_policies_open_exactly_the_calls_they_count(stack: Stack) -> None:
    view = stack.view("policies")

    def opened(title: str, column: str, row: Json) -> list[str]:
        return stack.follow(view.link(link_on(view, title, column), row))

    decisions = stack.rows(view, "Decisions by action")
    for row in decisions:
        assert len(opened("Decisions by action", "action", row)) == row["decisions"], row
    [shadow] = [each for each in decisions if (each["mode"], each["action"]) == ("shadow", "modify")]
    assert opened("Decisions by action", "action", shadow) == ["plain"]
    for row in stack.rows(view, "By policy and version"):
        for column in ("calls", "changed", "blocked", "errors"):
            assert len(opened("By policy and version", column, row)) == row[column], (column, row)
    for title in ("Bytes and messages changed", "Most changed paths"):
        for row in stack.rows(view, title):
            assert len(opened(title, "calls", row)) == row["calls"], (title, row)


def test_rows_open_the_calls_of_which_nobody_knows_what_others_say(stack: Stack) -> None:
    """Who changed it, in which version, or at which path."""
    now = datetime.now(UTC)
    view = View(BOARDS["luthien-policies"], now - timedelta(hours=4), now - timedelta(hours=2))

    def opened(title: str, *named: str) -> dict[tuple[str, ...], list[str]]:
        found = {}
        for row in stack.rows(view, title):
            calls = stack.follow(view.link(link_on(view, title, "calls"), row))
            assert len(calls) == row["calls"], row
            found[tuple(row[each] for each in named)] = calls
        return found

    assert opened("By policy and version", "policy", "version") == {
        ("noted", "1"): ["by nobody known"],
        ("redact", ""): ["in no version"],
        ("redact", "1"): ["in a version", "too large"],
    }
    assert opened("Bytes and messages changed", "policy", "version", "part") == {
        ("", "", "message"): ["by nobody known"],
        ("redact", "", "message"): ["in no version"],
        ("redact", "1", "message"): ["in a version"],
        ("redact", "1", "other"): ["too large"],
    }
    assert opened("Most changed paths", "policy", "path") == {
        ("", "/messages/*/content"): ["by nobody known"],
        ("redact", "/messages/*/content"): ["in a version", "in no version"],
        ("redact", ""): ["too large"],
    }


def test_failed_calls_are_opened_whatever_broke_them(stack: Stack) -> None:
    view = stack.view("calls")
    assert stack.follow(view.link(link_on(view, "In this time", "failed"))) == ["broken", "failed"]
    rows = {(each["model"], each["provider"]): each for each in stack.rows(view, "By model and provider")}
    row = rows["gpt-test", "openai"]
    assert stack.follow(view.link(link_on(view, "By model and provider", "failed"), row)) == ["failed"]


def test_the_links_of_a_row_open_its_call_its_trace_and_those_like_it(stack: Stack) -> None:
    view = stack.view("calls")
    rows = stack.rows(view, "Calls")
    for row in rows:
        [name] = stack.names([row["call_id"]])
        page = view.link(link_on(view, "Calls", "call_id"), row)
        assert page == f"{LUTHIEN}/debug/calls/{stack.ids[name]}"
        assert stack.gateway.get(page.removeprefix(LUTHIEN)).status_code == 200
        explore = urlsplit(view.link(link_on(view, "Calls", "trace_id"), row))
        assert explore.path == "/explore"
        [pane] = json.loads(parse_qs(explore.query)["panes"][0]).values()
        assert pane["queries"][0]["query"] == row["trace_id"] == stack.traces[name]
        assert pane["datasource"] == TEMPO.uid
        assert name in stack.follow(view.link(link_on(view, "Calls", "outcome"), row))
        for column in ("model", "provider", "session"):
            like_it = [each for each in rows if each[column] == row[column]]
            found = stack.follow(view.link(link_on(view, "Calls", column), row))
            assert found == stack.names([each["call_id"] for each in like_it]), (column, row)
    hostile = {stack.names([each["call_id"]])[0]: each for each in rows}
    assert stack.follow(view.link(link_on(view, "Calls", "model"), hostile["drop"])) == ["drop"]
    assert stack.follow(view.link(link_on(view, "Calls", "model"), hostile["tag"])) == ["tag"]
    assert stack.follow(view.link(link_on(view, "Calls", "session"), hostile["drop"])) == ["drop"]
    for row in stack.rows(view, "By model and provider"):
        for column in ("calls", "changed", "blocked", "failed"):
            found = stack.follow(view.link(link_on(view, "By model and provider", column), row))
            assert len(found) == row[column], (column, row)


@pytest.mark.parametrize("uid", BOARDS)
def test_every_link_leads_somewhere(stack: Stack, uid: str) -> None:
    """To a route of the gateway that takes its filters, to a dashboard that there is, or to Explore."""
    view = stack.view(uid.removeprefix("luthien-"))
    found = {view.link(link["url"]) for link in view.dashboard["links"] if link["type"] == "link"}
    for panel in panels(view.dashboard):
        asked = [target["rawSql"] for target in panel["targets"] if "rawSql" in target]
        rows = [row for each in asked for row in stack.conn.execute(view.sql(each).encode()).fetchall()]
        row = rows[0] if rows else Labels(call_id=stack.ids["plain"], outcome="blocked")
        found |= {view.link(url, row) for _, url in links(panel)}
    for url in found:
        check_link(stack, url)


class Labels(dict[str, Any]):
    """Of a series, or of a row where there is none: each has a value, as some call has it."""

    def __missing__(self, name: str) -> str:
        known = {"gen_ai_request_model": DROP_MODEL, "outcome": "blocked", "part": "message"}
        return known.get(name.removeprefix("luthien_"), "replace_text")

    def get(self, name: str, default: object = None) -> Any:
        return self[name]


def check_link(stack: Stack, url: str) -> None:
    if url.startswith("/d/"):
        assert urlsplit(url).path.removeprefix("/d/") in {*BOARDS, "luthien-record", "luthien-gateway"}
    elif not url.startswith("/explore?"):
        assert url.startswith(f"{LUTHIEN}/"), url
        response = stack.gateway.get(url.removeprefix(LUTHIEN))
        assert response.status_code == 200, f"{url}: {response.status_code}"


def link_on(view: View, title: str, column: str) -> str:
    [panel] = [each for each in panels(view.dashboard) if each["title"] == title]
    [url] = [url for name, url in links(panel) if name == column]
    return url
