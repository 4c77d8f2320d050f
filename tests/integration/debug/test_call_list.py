"""The list of calls and the live monitor in a real browser, and their states over HTTP."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import psycopg
import pytest
from playwright.sync_api import Page, expect

from luthien.debug.search.filters import CHOICES, NAMES, NEEDS, SEVERAL, read_filter
from luthien.debug.search.in_words import conditions
from luthien.debug.search.listing import narrowed
from luthien.debug.search.matching import matches
from luthien.exchange import StageRecord
from luthien.store.call_filter import EVERY_CALL
from luthien.store.partitions import PartitionKeeper, day_of
from luthien.store.write import prepare, write_batch
from tests.browser import browser_page, watched
from tests.playbook import TOKEN, Gateway, Play, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.records import record, whole_call
from tests.tcp_proxy import proxy_to
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
HTML = {"accept": "text/html"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}\u202eevil\u200b\x07"


def store(dsn: str, *records: StageRecord) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        PartitionKeeper().ensure(conn, {day_of(each.call_id) for each in records})
        prepare(conn)
        write_batch(conn, records)


def html_of(gateway: Gateway, path: str, status: int = 200) -> str:
    response = gateway.get(path, gateway.headers | HTML)
    assert response.status_code == status, response.text
    return response.text


def called(gateway: Gateway, **more: Any) -> str:
    headers = {"luthien-session-id": more.pop("session")} if "session" in more else {}
    return str(gateway.call(gateway.post(OPENAI, openai_request("Hello") | more, headers=headers))["call_id"])


@contextmanager
def opened(gateway: Gateway, path: str, **how: Any) -> Iterator[Page]:
    """A signed-in browser on a page; nothing that must not happen may have happened at the end."""
    with browser_page(**how) as page:
        troubles = watched(page)
        page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
        page.goto(gateway.url + path)
        yield page
        assert troubles == []


@pytest.fixture
def held(gateway: Gateway, provider: ScriptedProvider) -> Iterator[Callable[[], None]]:
    """A call that runs until what is given is called."""
    gate = provider.gate()
    provider.will(holding(gate))
    thread = threading.Thread(target=gateway.post, args=(OPENAI, openai_request()))
    thread.start()
    assert eventually(lambda: provider.turns, bool)

    def release() -> None:
        gate.open()
        thread.join()

    yield release
    release()


def holding(gate: Any) -> Play:
    async def hold(turn: Turn) -> None:
        await gate.wait()
        await answers(openai_response("Hi"))(turn)

    return hold


class TestTheFilter:
    def test_is_a_form_with_every_condition(self, gateway: Gateway) -> None:
        form = html_of(gateway, "/debug/calls")
        for name in NAMES:
            assert f'name="{name}"' in form
        for name, values in CHOICES.items():
            offered = re.findall(rf'name="{name}" value="(\w+)"', form)
            if name not in SEVERAL:
                select = form[form.index(f'<select id="f-{name}"') :].partition("</select>")[0]
                offered = re.findall(r'<option value="(\w+)"', select)
            assert offered == [*values]

    def test_is_told_in_words_and_each_condition_can_be_taken_away(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        html = html_of(
            gateway,
            "/debug/calls?changed_by=redact&part=tool_arguments&model=gpt-4o&outcome=running&since=2026-11-01",
        )
        words = " ".join(
            re.sub(r"<[^>]+>", "", html[html.index('class="conditions"') :].partition("</p>")[0]).split()
        )
        assert "Calls in which policy redact changed a tool argument ×, with model gpt-4o ×" in words
        assert "that are running ×, since 2026-11-01 00:00:00 UTC ×" in words
        assert '<a href="/debug/calls?model=gpt-4o&amp;outcome=running&amp;since=2026-11-01T00%3A00%3A00Z"' in html
        assert "No call is like that" in html

    def test_says_of_a_policy_and_of_a_change_all_that_is_asked(self) -> None:
        wanted = read_filter(
            parse_qsl("policy=redact&version=3f2a&side=request&decided=block&mode=shadow&outcome=running,blocked")
        )
        found = conditions("/debug/calls", wanted)
        assert [" ".join(filter(None, (each.words, each.value, each.rest))) for each in found] == [
            "on which policy redact decided",
            "to block",
            "in version 3f2a",
            "on the request",
            "in shadow",
            "with outcome blocked or running",
        ]
        assert found[0].href == "/debug/calls?outcome=blocked%2Crunning", "and what says more of it"
        assert found[2].href == found[0].href.replace("?", "?policy=redact&side=request&decided=block&mode=shadow&")
        wanted = read_filter(
            parse_qsl("changed_by=redact&part=message&path=/messages/*/content&side=request&version=1")
        )
        found = conditions("/debug/calls", wanted)
        assert [" ".join(filter(None, (each.words, each.value, each.rest))) for each in found] == [
            "in which policy redact changed a message",
            "at /messages/*/content",
            "in version 1",
            "on the request",
        ]
        assert found[0].href == "/debug/calls?side=request&path=%2Fmessages%2F%2A%2Fcontent"
        wanted = read_filter(parse_qsl("without=model,provider,changed_by&side=request"))
        found = conditions("/debug/calls", wanted)
        assert [each.words for each in found] == [
            "that were changed, it is not known by which policy",
            "on the request",
            "for which no model was asked",
            "without a provider",
        ]
        assert found[0].href == "/debug/calls?without=model%2Cprovider"
        assert found[3].href == "/debug/calls?side=request&without=model%2Cchanged_by"

    @pytest.mark.parametrize("name", NAMES)
    def test_every_condition_has_words_and_a_way_without_it(self, name: str) -> None:
        value = {"id": "01", "since": "1h", "until": "1h"}.get(name) or CHOICES.get(name, ("x",))[0]
        needed = [(each, CHOICES.get(each, ("x",))[0]) for each in NEEDS.get(name, ())[:1]]
        wanted = read_filter([*needed, (name, value)])
        condition = conditions("/debug/calls", wanted)[-1]
        assert condition.words
        assert condition.href == "/debug/calls" + "".join(f"?{each}={said}" for each, said in needed)

    def test_that_cannot_be_read_is_shown_again_with_the_reason_at_its_field(self, gateway: Gateway) -> None:
        html = html_of(gateway, "/debug/calls?since=yesterday&model=gpt", status=400)
        assert 'value="yesterday"' in html
        assert 'value="gpt"' in html, "the rest is kept"
        field = html[html.index('id="f-since"') :].partition("</div>")[0]
        assert 'aria-invalid="true"' in field
        assert "is no time" in field
        assert "there is no such filter" in html_of(gateway, "/debug/calls?nonsense=1", status=400)
        assert "use the list" in html_of(gateway, "/debug/live?text=x", status=400)
        assert "path: only indexed calls" in html_of(gateway, "/debug/live?without=model,path", status=400)
        assert "Say policy or changed_by, too" in html_of(gateway, "/debug/calls?version=3f2a", status=400)
        several = html_of(gateway, "/debug/calls?outcome=blocked&outcome=complete", status=400)
        field = several[several.index('id="f-outcome"') :].partition('id="f-changed"')[0]
        assert 'value="blocked" checked' in field
        assert "is none of completed, blocked" in field

    def test_lets_through_what_it_says(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(openai_response("Hi")))
        one, two = called(gateway, model="one", session="s"), called(gateway, model="two")
        for query, there, not_there in (("model=one", one, two), ("session=s", one, two), (f"id={two}", two, one)):
            html = html_of(gateway, f"/debug/calls?{query}")
            assert f'data-call="{there}"' in html
            assert f'data-call="{not_there}"' not in html
            assert f'/debug/calls/{there}?{query.replace(two, two.replace("-", ""))}"' in html, "neighbours are kept"

    def test_values_of_rows_lead_to_their_filter(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(openai_response("Hi")))
        called(gateway, model="gpt-4o", session="a session")
        html = html_of(gateway, "/debug/calls")
        for query in ("model=gpt-4o", "session=a+session", "outcome=completed"):
            assert f'href="/debug/calls?{query}"' in html
        assert '<option value="gpt-4o">' in html, "and are suggested"

    def test_offers_no_filter_that_it_would_refuse(self) -> None:
        for value in ("", None, "x" * 1001, "a\0b", " padded"):
            assert narrowed("/debug/calls", EVERY_CALL, "model", value) is None
        wanted = replace(EVERY_CALL, model="m")
        assert narrowed("/debug/calls", wanted, "model", "m") is None
        wanted = replace(EVERY_CALL, policy="p", version="1", outcome=("blocked",))
        assert narrowed("/debug/calls", wanted, "outcome", "blocked") is None
        assert narrowed("/debug/calls", wanted, "policy", "q") == "/debug/calls?policy=q&outcome=blocked"
        wanted = replace(EVERY_CALL, model="m")
        assert narrowed("/debug/calls", wanted, "session", "s") == "/debug/calls?session=s&model=m"
        wanted = replace(EVERY_CALL, without=("model", "provider"))
        assert narrowed("/debug/calls", wanted, "model", "used") == "/debug/calls?model=used&without=provider"


ROW: dict[str, Any] = {
    "call_id": whole_call()[0].call_id,
    "session_id": "s",
    "model_requested": "asked",
    "model_used": "used",
    "provider": "p",
    "wire_format": "f",
    "gateway_key": "k",
    "policies": [{"name": "redact", "version": "1"}],
    "outcome": "completed",
    "request_changed": True,
    "response_changed": False,
    "started_at": datetime(2026, 11, 22, 12, tzinfo=UTC),
}
COLUMNS = ("session_id", "gateway_key", "provider", "wire_format")


@pytest.mark.parametrize(
    ("query", "row", "is_let_through"),
    [
        ("", {}, True),
        ("session=s&model=asked&provider=p&format=f&key=k&policy=redact&outcome=completed", {}, True),
        ("model=used", {}, True),
        ("model=other", {}, False),
        ("policy=other", {}, False),
        ("policy=redact", {"policies": None}, False),
        ("session=s", {"session_id": None}, False),
        ("outcome=running", {}, False),
        ("outcome=blocked,completed", {}, True),
        ("outcome=blocked,running", {}, False),
        ("outcome=blocked,running", {"outcome": None}, True),
        ("outcome=running", {"outcome": None}, True),
        ("changed=request", {}, True),
        ("changed=response", {}, False),
        ("changed=any", {"request_changed": None, "response_changed": True}, True),
        ("changed=none", {}, False),
        ("changed=none", {"request_changed": None}, True),
        ("changed=none", {"request_changed": None, "outcome": None}, False),
        ("without=session", {}, False),
        ("without=session,key,provider,format", dict.fromkeys(COLUMNS), True),
        ("without=session,key,provider,format", {**dict.fromkeys(COLUMNS), "provider": "p"}, False),
        ("without=model", {"model_requested": None}, True),
        ("without=model", {"model_used": None}, False),
        ("without=policy", {"policies": []}, True),
        ("without=policy", {"policies": None, "outcome": None}, False),
        ("since=2026-11-22T12:00Z", {}, True),
        ("since=2026-11-22T12:01Z", {}, False),
        ("until=2026-11-22T12:00Z", {}, False),
    ],
)
def test_the_feed_lets_through_what_the_list_does(query: str, row: dict[str, Any], is_let_through: bool) -> None:
    wanted = read_filter([tuple(each.split("=")) for each in query.split("&") if each])  # type: ignore[misc]
    assert matches(wanted, ROW | row) is is_let_through


class TestTheList:
    def test_goes_back_and_forth_by_addresses(self, gateway: Gateway, record_database: str) -> None:
        made = [whole_call() for _ in range(7)]
        store(record_database, *(each for call in made for each in call))
        ids = [str(call[0].call_id) for call in made][::-1]

        def shown(path: str) -> tuple[list[str], str]:
            html = html_of(gateway, path)
            return re.findall(r'data-call="([^"]+)"', html), html

        def link(html: str, kind: str) -> str:
            found = re.search(rf'href="([^"]+)" rel="{kind}"', html)
            assert found is not None
            return found[1].replace("&amp;", "&")

        path, back = "/debug/calls?limit=2&model=m", list[str]()
        for page in (ids[:2], ids[2:4], ids[4:6]):
            rows, html = shown(path)
            assert rows == page
            back.append(path)
            path = link(html, "next")
        rows, html = shown(path)
        assert rows == ids[6:]
        for page in (ids[4:6], ids[2:4], ids[:2]):
            rows, html = shown(link(html, "prev"))
            assert rows == page
        assert 'rel="prev"' not in html

    def test_without_its_database_says_so(self, record_database: str, provider: ScriptedProvider) -> None:
        with (
            proxy_to(record_database) as proxy,
            running_gateway(proxy.dsn(record_database), provider.url, grace_s=1.0) as gateway,
        ):
            proxy.refuse()
            assert "The database is away" in html_of(gateway, "/debug/calls?model=x", status=503)
            proxy.accept()

    def test_says_what_is_not_indexed_yet(self, gateway: Gateway, held: Callable[[], None]) -> None:
        eventually(lambda: gateway.get("/debug/calls.json").json()["calls"], bool)
        assert "1 of the newest calls is not searched yet" in html_of(gateway, "/debug/calls?changed_by=redact")
        assert "not searched yet" not in html_of(gateway, "/debug/calls?model=redact")

    def test_counts_what_is_not_searched_of_its_own_range_and_conditions(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        made = [whole_call() for _ in range(5)]
        made += [[record(attributes={"gen_ai.request.model": "other"})] for _ in range(2)]
        store(record_database, *(each for call in made for each in call))
        with running_gateway(record_database, provider.url, index=False) as gateway:
            for query, said in (
                ("text=x", "7 of the newest calls are not searched yet"),
                ("text=x&model=other", "2 of the newest calls are not searched yet"),
                (f"text=x&before={made[2][0].call_id}", "2 calls of this part of the list are not searched yet"),
                (f"changed_by=x&before={made[1][0].call_id}", "1 call of this part of the list is not searched yet"),
            ):
                assert said in html_of(gateway, f"/debug/calls?{query}")
                twin = gateway.get(f"/debug/calls.json?{query}").json()
                assert twin["not_searched"] == {"calls": int(said.split()[0]), "or_more": False}
            for query in ("text=x&model=nobody's", "model=other", f"text=x&before={made[0][0].call_id}"):
                assert "not searched yet" not in html_of(gateway, f"/debug/calls?{query}")
            assert "not_searched" not in gateway.get("/debug/calls.json?model=other").json()

    def test_shows_a_running_call_to_its_end_without_a_reload(
        self, gateway: Gateway, held: Callable[[], None], provider: ScriptedProvider
    ) -> None:
        eventually(lambda: gateway.get("/debug/calls.json").json()["calls"], bool)
        with opened(gateway, "/debug/calls") as page:
            row = page.locator("tr[data-call]")
            expect(row).to_contain_text("running")
            expect(page.locator("[data-live-state]")).to_have_text("Live")
            row.locator("a[data-open]").focus()
            page.evaluate("window.isTheSame = true")
            held()
            expect(row).to_contain_text("completed")
            expect(row).to_contain_text("complete")
            expect(row.locator("a[data-open]")).to_be_focused()
            provider.will(answers(openai_response("Hi")))
            for offered in ("Show 1 new call", "Show 2 new calls"):
                called(gateway)
                expect(page.locator("[data-live-new]")).to_have_text(offered)
            expect(row).to_have_count(1)
            assert page.evaluate("window.isTheSame")
            page.locator("[data-live-new]").click()
            expect(row).to_have_count(3)

    def test_misses_nothing_between_its_making_and_its_following(
        self, gateway: Gateway, record_database: str
    ) -> None:
        """What changed before the page's script ran comes, too."""
        with browser_page() as page:
            page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}&next=/debug/help")
            kept = gateway.app._now.feed.kept
            assert kept.tip is None, "nobody follows, so whoever comes begins at what is newest then"

            def late(route: Any) -> None:
                store(record_database, *whole_call())
                route.continue_()

            page.route("**/debug/static/live.js", late)
            page.goto(gateway.url + "/debug/calls?model=m")
            expect(page.locator("[data-live-new]")).to_have_text("Show 1 new call")

    @pytest.mark.parametrize("query", ["?text=x", "?before=01a20000-0000-7000-8000-000000000000"])
    def test_does_not_follow_where_nothing_can_come(self, gateway: Gateway, query: str) -> None:
        assert "data-live=" not in html_of(gateway, "/debug/calls" + query)

    def test_shows_what_is_hostile_and_does_nothing(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(openai_response("Hi") | {"model": HOSTILE}))
        with opened(gateway, "/debug/live") as live:
            called(gateway, model=HOSTILE, session="<b>s</b>")
            row = live.locator("tr[data-call]")
            expect(row).to_contain_text("<script>alert(1)</script>")
            expect(row).to_contain_text("U+202E")
            assert live.locator("td script, td img, td b").count() == 0
            live.goto(gateway.url + "/debug/calls")
            expect(row).to_contain_text("<script>alert(1)</script>")
            row.locator(".model a").first.click()
            expect(row).to_have_count(1)
            expect(live.locator(".conditions")).to_contain_text("<script>")


class TestTheMonitor:
    @pytest.mark.parametrize("path", ["/debug/live", "/debug/calls"])
    def test_finds_that_the_process_of_a_call_died(self, gateway: Gateway, record_database: str, path: str) -> None:
        """Which changes nothing in the call's row."""
        process_id = uuid4()
        first = whole_call()[0]
        store(
            record_database, replace(first, attributes={**first.attributes, "service.instance.id": str(process_id)})
        )
        with psycopg.connect(record_database, autocommit=True) as conn, opened(gateway, "/debug/help") as page:
            conn.execute(
                "INSERT INTO conversation_processes (process_id, host, pid) VALUES (%s, 'h', 5)", (process_id,)
            )
            page.clock.install()
            page.goto(gateway.url + path)
            row = page.locator("tr[data-call]")
            expect(row).to_contain_text("running")
            expect(page.locator("[data-live-state]")).to_have_text("Live")
            conn.execute("UPDATE conversation_processes SET ended_at = now(), ended_how = 'died'")
            page.clock.fast_forward(16_000)
            expect(row).to_contain_text("interrupted")

    def test_shows_calls_of_all_processes_as_they_come_run_and_end(
        self, gateway: Gateway, record_database: str, provider: ScriptedProvider
    ) -> None:
        gate = provider.gate()
        provider.will(holding(gate))
        with (
            running_gateway(record_database, provider.url) as other,
            opened(gateway, "/debug/live") as page,
        ):
            expect(page.locator("[data-live-empty]")).to_be_visible()
            threads = [
                threading.Thread(target=each.post, args=(OPENAI, openai_request())) for each in (gateway, other)
            ]
            for thread in threads:
                thread.start()
            rows = page.locator("tr[data-call]")
            expect(rows).to_have_count(2)
            expect(page.locator("[data-live-running]")).to_have_text("2 running")
            expect(page.locator("[data-live-empty]")).to_be_hidden()
            gate.open()
            for thread in threads:
                thread.join()
            expect(rows.filter(has_text="completed")).to_have_count(2)
            expect(page.locator("[data-live-running]")).to_have_text("")

    def test_waits_while_it_is_paused(self, gateway: Gateway, record_database: str) -> None:
        with opened(gateway, "/debug/live") as page:
            expect(page.locator("[data-live-state]")).to_have_text("Live")
            pause = page.get_by_role("button", name="Pause")
            pause.focus()
            page.keyboard.press("Enter")
            expect(pause).to_have_attribute("aria-pressed", "true")
            expect(page.locator("[data-live-state]")).to_have_text("Paused")
            for waiting in ("1 call waits", "2 calls wait"):
                store(record_database, *whole_call())
                expect(page.locator("[data-live-held]")).to_have_text(waiting)
            expect(page.locator("tr[data-call]")).to_have_count(0)
            page.keyboard.press("Enter")
            expect(page.locator("tr[data-call]")).to_have_count(2)
            expect(page.locator("[data-live-held]")).to_have_text("")

    def test_marks_where_the_connection_broke_and_misses_nothing(
        self, gateway: Gateway, record_database: str
    ) -> None:
        with browser_page() as page:
            page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
            page.goto(gateway.url + "/debug/live")
            state = page.locator("[data-live-state]")
            expect(state).to_have_text("Live")
            page.context.set_offline(True)
            for connection in [*gateway.server.server_state.connections]:
                connection.loop.call_soon_threadsafe(connection.transport.abort)
            expect(state).to_have_text("Not connected; trying again")
            expect(page.locator("tr.gap")).to_contain_text("The connection broke")
            store(record_database, *whole_call())
            page.context.set_offline(False)
            expect(state).to_have_text("Live")
            expect(page.locator("tr[data-call]")).to_have_count(1)
            expect(page.locator("tr.gap")).to_have_count(1)
            expect(page.locator("tr.gap")).to_contain_text("Connected again")

    def test_marks_what_it_cannot_be_told(self, gateway: Gateway, record_database: str) -> None:
        with opened(gateway, "/debug/live") as page:
            expect(page.locator("[data-live-state]")).to_have_text("Live")
            # As a page has it that slept while its database was put back.
            page.route("**/debug/live", _with_stale_position)
            page.reload()
            expect(page.locator("tr.gap")).to_contain_text("restored, or is another one")

    def test_keeps_no_more_than_it_says(self, gateway: Gateway, record_database: str) -> None:
        with opened(gateway, "/debug/live") as page:
            expect(page.locator("[data-live-state]")).to_have_text("Live")
            for _ in range(2):
                made = [whole_call() for _ in range(500)]
                store(record_database, *(each for call in made for each in call))
                newest = str(made[-1][0].call_id)
                expect(page.locator(f'tr[data-call="{newest}"]')).to_have_count(1)
            assert page.locator("[data-live-rows] tr").count() <= 500
            assert page.evaluate("document.querySelectorAll('*').length") < 25_000

    def test_without_scripts_leads_to_the_list(self, gateway: Gateway) -> None:
        with opened(gateway, "/debug/live?model=m", javascript=False) as page:
            page.get_by_role("link", name="The list", exact=True).click()
            assert page.url.endswith("/debug/calls?model=m")


def _with_stale_position(route: Any) -> None:
    response = route.fetch()
    route.fulfill(response=response, body=re.sub(r"after=\d+", f"after={1 << 60}", response.text()))
