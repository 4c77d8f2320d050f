"""Every page in every state, in a real browser: readable by everybody, on every screen, with scripts and without."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Page, Route, expect

from luthien.exchange import STAGES, new_call_id
from tests.browser import barriers, browser_page, watched
from tests.playbook import (
    TOKEN,
    Gateway,
    ScriptedProvider,
    Turn,
    answers,
    call_id_of,
    eventually,
    running_gateway,
    streams,
)
from tests.wire import openai_request, openai_response, openai_stream

CHAT = "/v1/chat/completions"
POLICIES: list[dict[str, Any]] = [
    {"policy": "add_system_message", "config": {"text": "Be kind."}},
    {"policy": "replace_text", "config": {"rules": [{"find": "secret", "replace": "[hidden]"}]}},
    {"policy": "replace_text", "mode": "shadow", "config": {"rules": [{"find": "Hello", "replace": "Bye"}]}},
]
PROCESS = "00000000-0000-0000-0000-0000000000aa"
AWAY = "postgresql://nobody@127.0.0.1:9/none"


@dataclass(frozen=True)
class World:
    """Gateways by what they have, and calls by what became of them."""

    gateways: dict[str, Gateway]
    calls: dict[str, str]


@dataclass(frozen=True)
class State:
    """A page in a state: `path` may name calls, `words` is what it must say, `act` what is done on it first."""

    path: str
    words: str
    gateway: str = "whole"
    status: int = 200
    act: Callable[[Page], object] | None = None


def _pause(page: Page) -> None:
    expect(page.locator("[data-live-state]")).to_have_text("Live")
    page.get_by_role("button", name="Pause").click()


def _fall_behind(page: Page) -> None:
    """As a page does that slept while its database was put back."""

    def stale(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=re.sub(r"after=\d+", f"after={1 << 60}", response.text()))

    expect(page.locator("[data-live-state]")).to_have_text("Live")
    page.route("**/debug/live", stale)
    page.reload()


def _refuse(page: Page) -> None:
    page.get_by_label("Debug token").fill("nonsense")
    page.get_by_role("button", name="Sign in").click()


STATES: dict[str, State] = {
    "list": State("/debug/calls", "completed"),
    "list, empty": State("/debug/calls", "No call has been recorded yet", "empty"),
    "list, filtered to nothing": State("/debug/calls?model=none&since=1h", "No call is like that"),
    "list, filtered": State("/debug/calls?model=gpt-test&policy=replace_text&limit=2", "policy replace_text"),
    "list, bad filter": State("/debug/calls?since=yesterday&model=gpt", "This filter cannot be read", status=400),
    "list, unindexed": State("/debug/calls?changed_by=replace_text", "not searched yet"),
    "list, away": State("/debug/calls", "The database is away", "away", 503),
    "call": State("/debug/calls/{plain}", "add_system_message added 1 message"),
    "call, side by side": State("/debug/calls/{plain}?layout=side&whitespace=1", "Side by side"),
    "call, raw": State("/debug/calls/{plain}?layout=raw", "Raw"),
    "call, stream": State("/debug/calls/{stream}", "The first from the provider"),
    "call, pending": State("/debug/calls/{young}", "Not stored yet", status=202),
    "call, running": State("/debug/calls/{running}", "running", status=202),
    "call, partial": State("/debug/calls/{partial}", "are missing, so what else changed cannot be said"),
    "call, interrupted": State("/debug/calls/{interrupted}", "interrupted"),
    "call, record failed": State("/debug/calls/{failed}", "failed"),
    "call, not found": State("/debug/calls/01900000-0000-7000-8000-000000000000", "No such call", status=404),
    "call, away": State("/debug/calls/{young}", "The database is away", "away", 503),
    "call, no JSON": State("/debug/calls/{no_json}", "not a JSON object"),
    "call, huge": State("/debug/calls/{huge}", "unchanged"),
    "Tempo, found": State("/debug/calls/{plain}#times", "Spans in Tempo"),
    "Tempo, away": State("/debug/calls/{plain}#times", "Spans in Tempo", "lonely"),
    "Tempo, not configured": State("/debug/calls/{plain}#times", "No Tempo is configured", "bare"),
    "compare": State("/debug/compare?a={plain}&b={stream}", "differ"),
    "compare, nothing chosen": State("/debug/compare", "enter the id or the address of both"),
    "compare, bad ids": State("/debug/compare?a=nonsense&b={plain}", "This is no id of a call", status=400),
    "sessions": State("/debug/sessions", "a session"),
    "sessions, empty": State("/debug/sessions", "No recorded call names a session", "empty"),
    "session": State("/debug/sessions?id=a+session", "a thread begins"),
    "session, not found": State("/debug/sessions/none", "session", status=404),
    "live": State("/debug/live", "Live"),
    "live, empty": State("/debug/live", "No call has been recorded yet", "empty"),
    "live, bad filter": State("/debug/live?text=x", "use the list", status=400),
    "exports": State("/debug/calls/{plain}/exports", "Exports of"),
    "exports, incomplete": State("/debug/calls/{partial}/exports", "cannot be had"),
    "help": State("/debug/help", "Keys"),
    "sign-in": State("/debug/calls", "Debug token", "closed", 401),
}  # fmt: skip
WITHOUT_SCRIPTS = (
    "list", "list, bad filter", "call", "call, side by side", "call, stream", "call, pending", "call, running",
    "call, huge", "Tempo, found", "compare", "session", "live", "exports", "help", "sign-in",
)  # fmt: skip
"""A state of each page: without scripts, what differs between states is the words."""
WITH_SCRIPTS: dict[str, State] = {
    "Tempo, found": State("/debug/calls/{plain}#times", "luthien.exchange"),
    "Tempo, away": State("/debug/calls/{plain}#times", "Tempo cannot be reached", "lonely"),
    "live, paused": State("/debug/live", "Paused", act=_pause),
    "live, gap": State("/debug/live", "restored, or is another one", act=_fall_behind),
    "sign-in, refused": State("/debug/calls", "This is not the token", "closed", 401, _refuse),
}


@pytest.fixture(scope="module")
def world(
    module_record_database: str, empty_record_database: str, shared_provider: ScriptedProvider
) -> Iterator[World]:
    gate, tempo = shared_provider.gate(), ScriptedProvider()
    with ExitStack() as stack:
        stack.callback(tempo.close)
        dsns = {"whole": module_record_database, "lonely": module_record_database, "bare": module_record_database}
        dsns |= {"empty": empty_record_database, "away": AWAY, "closed": empty_record_database}
        gateways = {
            name: stack.enter_context(
                running_gateway(
                    dsn,
                    shared_provider.url,
                    POLICIES if name == "whole" else None,
                    tempo_url={"whole": tempo.url, "lonely": "http://127.0.0.1:9"}.get(name),
                    checkpoint_s=0.05,
                    grace_s=1.0,
                )
            )
            for name, dsn in dsns.items()
        }
        whole = gateways["whole"]
        calls = _recorded(whole, shared_provider, module_record_database)
        tempo.will(answers(_spans(calls["plain"])))
        shared_provider.will(_held_by(gate))
        body = json.dumps(openai_request("Hello, running", stream=True))
        calling = threading.Thread(
            target=httpx.post, args=(whole.url + CHAT,), kwargs={"content": body, "timeout": None}
        )
        calling.start()
        stack.callback(calling.join)
        stack.callback(gate.open)
        calls["running"] = eventually(
            lambda: whole.get("/debug/calls.json?outcome=running&format=openai.chat_completions").json()["calls"],
            lambda found: any(each["call_id"] not in calls.values() for each in found),
        )[0]["call_id"]
        eventually(
            lambda: whole.get(f"/debug/calls/{calls['running']}.json").json()["stages"],
            lambda stages: stages["response_original"]["state"] == "partial",
        )
        yield World(gateways, calls)


def _recorded(gateway: Gateway, provider: ScriptedProvider, dsn: str) -> dict[str, str]:
    many_lines = "".join(f"line {number} of a long talk\n" for number in range(20_000))
    plays = {
        "plain": answers(openai_response("Hello, a secret")),
        "stream": streams(*openai_stream("Hello ", "sec", "ret", " end")),
        "no_json": answers(b"<h1>busy</h1>\x00\xff"),
        "huge": answers(openai_response(f"{many_lines}secret")),
        "partial": answers(openai_response("Hello")),
        "interrupted": answers(openai_response("Hello")),
        "failed": answers(openai_response("Hello")),
    }
    calls = {}
    for name, play in plays.items():
        provider.will(play)
        body = openai_request("Tell me a secret, please", stream=name == "stream")
        response = gateway.post(CHAT, body, headers={"luthien-session-id": "a session"})
        gateway.call(response)
        calls[name] = call_id_of(response)
    _lose(dsn, calls)
    return calls


def _lose(dsn: str, calls: dict[str, str]) -> None:
    """Makes records of complete calls what crashes leave of them."""
    delete = "DELETE FROM conversation_events WHERE call_id = %s AND event_type = ANY(%s)"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO conversation_processes (process_id, host, pid, version, started_at, seen_at, ended_at,"
            " ended_how) VALUES (%s, 'h', 1, '0', now(), now(), now(), 'died')",
            [PROCESS],
        )
        conn.execute(delete, [calls["partial"], ["response_original"]])
        conn.execute(
            "UPDATE conversation_calls SET records_stored = records_stored - 1, stages_stored = stages_stored - 1"
            " WHERE call_id = %s",
            [calls["partial"]],
        )
        conn.execute(delete, [calls["interrupted"], ["response_final", "call_outcome"]])
        conn.execute(
            "UPDATE conversation_calls SET process_id = %s, stages_stored = 3, records_emitted = NULL,"
            " outcome = NULL, ended_at = NULL WHERE call_id = %s",
            [PROCESS, calls["interrupted"]],
        )
        conn.execute(delete, [calls["failed"], [stage.value for stage in STAGES]])
        conn.execute(
            "UPDATE conversation_calls SET process_id = %s, stages_stored = 0, records_stored = records_stored - 4"
            " WHERE call_id = %s",
            [PROCESS, calls["failed"]],
        )


def _spans(call_id: str) -> dict[str, Any]:
    own = [{"key": "luthien.call_id", "value": {"stringValue": call_id}}]
    span = {"spanId": "1" * 16, "name": "luthien.exchange", "startTimeUnixNano": "1000000"}
    ends = {"endTimeUnixNano": "9000000", "attributes": own}
    return {"batches": [{"resource": {}, "scopeSpans": [{"spans": [span | ends]}]}]}


def _held_by(gate: Any) -> Any:
    pieces = openai_stream("Hello", " you")

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(pieces[0] + pieces[1])
        await gate.wait()
        await turn.chunk(b"".join(pieces[2:]))
        await turn.send(b"0\r\n\r\n")

    return play


def address(world: World, state: State) -> str:
    # "young" is the id of a call that may yet come, which it is for seconds only.
    return world.gateways[state.gateway].url + state.path.format(**world.calls, young=new_call_id())


def sign_in(page: Page, world: World, state: State) -> None:
    if state.gateway != "closed":
        page.goto(f"{world.gateways[state.gateway].url}/debug/sign-in?token={TOKEN}&next=/debug/help")


def visit(page: Page, world: World, state: State) -> list[str]:
    """Opens a page in its state; returns what went wrong on the way."""
    sign_in(page, world, state)
    troubles = watched(page)
    response = page.goto(address(world, state))
    assert response is not None
    assert response.status == state.status
    if state.act is not None:
        state.act(page)
    expect(page.locator("main")).to_contain_text(state.words)
    return troubles


def faults(page: Page) -> list[str]:
    """What every page must have, and this one has not."""
    found = page.evaluate(
        """() => {
            const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
            const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
            const found = {
                "one h1": document.querySelectorAll("h1").length === 1,
                "one main": document.querySelectorAll("main").length === 1,
                "a title of its own": /^.+ · Luthien$/.test(document.title),
                "a language": document.documentElement.lang === "en",
                "ids that are unique": new Set(ids).size === ids.length,
            };
            const reach = (each) => each.getBoundingClientRect().right;
            const isScrolled = (each) => each.parentElement?.closest(".wide, pre, textarea, svg") != null;
            const far = [...document.querySelectorAll("main *")]
                .filter((each) => reach(each) > document.documentElement.clientWidth && !isScrolled(each));
            if (wide > 0) found[`${wide} px wider than the window: ${far.at(-1)?.outerHTML.slice(0, 200)}`] = false;
            return found;
        }"""
    )
    return [name for name, is_so in found.items() if not is_so]


def unseen_focus(page: Page) -> list[str]:
    """Where Tab leads first, as far as the focus is not seen there."""
    unseen = []
    for _ in range(4):
        page.keyboard.press("Tab")
        unseen += page.evaluate(
            """() => {
                const { activeElement: on } = document;
                const { outlineStyle, outlineWidth } = getComputedStyle(on);
                const { width, height } = on.getBoundingClientRect();
                const isSeen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 1 && width * height > 0;
                return on === document.body || isSeen ? [] : [on.outerHTML.slice(0, 120)];
            }"""
        )
    return unseen


def only_ours(troubles: list[str], state: State) -> list[str]:
    """Chromium writes every answer that is an error into the console."""
    told = "console: Failed to load resource: the server responded with"
    return [each for each in troubles if not (state.status >= 400 and each.startswith(told))]


@pytest.mark.parametrize("name", [*(STATES | WITH_SCRIPTS)])
def test_everybody_can_use_it(world: World, name: str) -> None:
    """Light and as narrow as a telephone, then dark and as wide as a wall, then with text of twice the size."""
    state = (STATES | WITH_SCRIPTS)[name]
    with browser_page(width=360) as page:
        troubles = visit(page, world, state)
        assert unseen_focus(page) == []
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        expect(page.locator("[aria-busy]")).to_have_count(0)
        assert faults(page) == []
        assert barriers(page) == []
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 2560, "height": 900})
        assert faults(page) == []
        assert barriers(page) == []
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert faults(page) == []
        assert only_ours(troubles, state) == []


@pytest.mark.parametrize("name", WITHOUT_SCRIPTS)
def test_it_is_whole_without_scripts(world: World, name: str) -> None:
    state = STATES[name]
    with browser_page(width=360, dark=True, javascript=False) as page:
        troubles = visit(page, world, state)
        assert faults(page) == []
        assert unseen_focus(page) == []
        for useless in page.locator("button:visible").all():
            assert useless.evaluate("each => each.form !== null"), (
                "a button that only a script could do something for"
            )
        assert only_ours(troubles, state) == []


def test_a_browser_signs_in_by_the_form(world: World) -> None:
    with browser_page() as page:
        page.goto(f"{world.gateways['empty'].url}/debug/calls")
        page.get_by_label("Debug token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Calls", exact=True)).to_be_visible()


def test_titles_tell_pages_apart(world: World) -> None:
    """What is the same page has the same title, and nothing else has."""
    titles: dict[str, set[str]] = {}
    for state in STATES.values():
        gateway = world.gateways[state.gateway]
        if state.status < 400 and state.gateway == "whole":
            path = address(world, state).removeprefix(gateway.url)
            html = gateway.get(path, gateway.headers | {"accept": "text/html"}).text
            found = re.search(r"<title>(.+?) · Luthien</title>", html)
            assert found is not None, path
            titles.setdefault(found[1], set()).add(path.partition("?")[0].partition("#")[0])
    mixed = {title: paths for title, paths in titles.items() if len(paths) > 1}
    assert mixed == {} or json.dumps([*mixed]) == '["Sessions"]', mixed
