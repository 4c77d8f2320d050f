"""The page of a session: what each call added, what policies changed in it, and which goes on from which."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from luthien.debug.addresses import session_page
from tests.browser import barriers, browser_page, watched
from tests.integration.debug.conversations import POLICIES, agents_at_work, chat, post_in
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, running_gateway
from tests.wire import openai_response, responses_response

HTML = {"accept": "text/html"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def guarded(shared_record_database: str, shared_provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as running:
        yield running


@pytest.fixture(scope="module")
def made(guarded: Gateway, shared_provider: ScriptedProvider) -> dict[str, str]:
    return agents_at_work(guarded, shared_provider)


def by_name(session: Json, made: dict[str, str]) -> dict[str, Json]:
    names = {call_id: name for name, call_id in made.items()}
    return {names[call["call_id"]]: call for call in session["calls"]}


def test_an_agents_conversation_is_told_call_by_call(guarded: Gateway, made: dict[str, str]) -> None:
    session = guarded.get("/debug/sessions/agent-1.json").json()
    assert [call["call_id"] for call in session["calls"]] == list(made.values())
    calls = by_name(session, made)
    assert {name: (call["thread"], call["words"]) for name, call in calls.items()} == {
        "asked": ("A", "a thread begins: 1 message"),
        "read": ("A", "2 messages added"),
        "below": ("B", "a thread begins: 1 message"),
        "below_again": ("B", "2 messages added"),
        "told": ("A", "2 messages added"),
        "named": ("A", "2 messages added"),
        "retried": ("A", "the same request again"),
        "went_on": ("A", "2 messages added"),
        "result": ("A", "2 messages added"),
        "summed_up": ("A", "2 messages added"),
        "compacted": ("A", "history summed up: 13 messages dropped, and an answer stands in their place"),
        "done": ("A", "2 messages added"),
    }
    follows = {name: call["turn"]["follows"] for name, call in calls.items()}
    assert follows["asked"] is follows["below"] is None
    assert follows["told"] == made["read"]
    assert follows["compacted"] == made["summed_up"]


def test_what_was_added_is_shown_and_what_was_answered_is_not_shown_twice(
    guarded: Gateway, made: dict[str, str]
) -> None:
    calls = by_name(guarded.get("/debug/sessions/agent-1.json").json(), made)
    added = calls["below_again"]["added"]
    assert [(each["kind"], each["is_echo"]) for each in added] == [("tool_call", True), ("tool_result", False)]
    assert added[1]["text"].startswith("src/writer.py:12")
    [echo, said] = calls["summed_up"]["added"]
    assert (echo["is_echo"], said["is_echo"]) == (True, False)
    assert calls["asked"]["instructions"][0]["text"].startswith("You are an agent")
    assert calls["read"]["instructions"] == []


def test_what_policies_changed_is_told_in_the_verdicts_words(guarded: Gateway, made: dict[str, str]) -> None:
    calls = by_name(guarded.get("/debug/sessions/agent-1.json").json(), made)
    assert calls["asked"]["verdict"] == "no policy changed this call"
    assert calls["told"]["verdict"] == guarded.call(made["told"])["verdict"]
    assert "block_tools" in calls["told"]["verdict"]
    assert "replace_text changed 1 of 7 messages" in calls["named"]["verdict"]
    assert calls["named"]["answer"]["said"][0]["text"] == "Good to know: [customer] it is."
    assert "Contoso" in calls["named"]["added"][1]["text"]


def test_a_session_is_added_up(guarded: Gateway, made: dict[str, str]) -> None:
    totals = guarded.get("/debug/sessions/agent-1.json").json()["totals"]
    calls = [guarded.call(call_id) for call_id in made.values()]
    assert totals["calls"] == 12
    assert totals["changed"] == sum(any(call["changed"].values()) for call in calls) > 2
    assert totals["tokens"]["input"] == sum(call["tokens"]["input"] for call in calls)
    assert totals["ms"]["total"] == pytest.approx(sum(call["ms"]["total"] for call in calls))
    assert (totals["blocked"], totals["failed"], totals["unfinished"]) == (0, 0, 0)


def test_a_session_is_paged_both_ways_and_threads_go_on(guarded: Gateway, made: dict[str, str]) -> None:
    seen: list[Json] = []
    path: str | None = "/debug/sessions/agent-1.json?limit=5"
    while path:
        part = guarded.get(path).json()
        seen += part["calls"]
        path, last = part["next"], path
    assert [call["call_id"] for call in seen] == list(made.values())
    assert [call["number"] for call in seen] == list(range(1, 13))
    assert seen[5]["turn"]["follows"] == made["told"]
    assert [call["words"] for call in seen].count("2 messages added") == 8
    back = guarded.get(part["previous"]).json()
    assert [call["call_id"] for call in back["calls"]] == list(made.values())[5:10]
    html = guarded.get(last.replace(".json", ""), guarded.headers | HTML).text
    assert "Earlier" in html
    assert "Later" not in html


def test_the_page_has_what_the_twin_has(guarded: Gateway, made: dict[str, str]) -> None:
    html = guarded.get("/debug/sessions/agent-1", guarded.headers | HTML).text
    for words in ("Thread A", "Thread B", "the same request again", "history summed up", "12</dd>"):
        assert words in html
    assert f"/debug/compare?a={made['read']}&amp;b={made['told']}" in html
    assert html.count('class="turn ') == 12


@pytest.mark.parametrize(
    "session",
    [
        "a/b",
        "../../etc",
        "..",
        "/",
        "ends.json",
        "raw/raw",
        "<script>alert(1)</script>",
        "\u202eevil\u200b",
        "%00",
        "a b&c=d#e?f",
        "x" * 256,
        "日本" * 100,
        '"quoted"',
    ],
)
def test_whatever_a_session_is_called_its_page_is_there(
    guarded: Gateway, shared_provider: ScriptedProvider, session: str
) -> None:
    shared_provider.will(answers(openai_response()))
    body = {"model": "gpt-test", "messages": [{"role": "user", "content": "Hello"}], "conversation": session}
    call = guarded.call(guarded.post("/v1/chat/completions", body))
    assert call["session_id"] == session
    listed = guarded.get("/debug/sessions.json").json()["sessions"]
    [row] = [row for row in listed if row["session_id"] == session]
    assert guarded.get(row["links"]["json"]).json()["calls"][0]["call_id"] == call["call_id"]
    page = guarded.get(row["links"]["page"], guarded.headers | HTML)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "\u202e" not in page.text
    if session not in ("..", "ends.json"):
        by_path = guarded.get(f"/debug/sessions/{quote(session, safe='')}", guarded.headers | HTML)
        assert by_path.status_code == 200


@pytest.mark.parametrize("path", ["none", "a%00b", "%ff%fe", "x" * 5000, "a/b/c.json"])
def test_a_session_without_calls_is_404_with_words(guarded: Gateway, path: str) -> None:
    response = guarded.get(f"/debug/sessions/{path}", guarded.headers | HTML)
    assert response.status_code == 404
    assert "There is no call of the session" in response.text
    assert guarded.get(f"/debug/sessions/{path}.json").json()["error"].startswith("There is no call")


def test_sessions_need_a_sign_in(guarded: Gateway, made: dict[str, str]) -> None:
    for path in (
        "/debug/sessions",
        "/debug/sessions/agent-1",
        "/debug/sessions.json",
        "/debug/sessions/agent-1.json",
    ):
        assert guarded.get(path, HTML).status_code == 401


def test_recent_sessions_are_listed(guarded: Gateway, made: dict[str, str]) -> None:
    listed = guarded.get("/debug/sessions.json").json()
    [row] = [row for row in listed["sessions"] if row["session_id"] == "agent-1"]
    assert row["calls"] == 12
    assert row["last_call"] == made["done"]
    assert row["models"] == ["claude-test"]
    assert 'href="/debug/sessions/agent-1"' in guarded.get("/debug/sessions", guarded.headers | HTML).text
    before = guarded.get(f"/debug/sessions.json?before={made['asked']}").json()
    assert all(row["session_id"] != "agent-1" for row in before["sessions"])


def test_without_sessions_the_list_says_how_they_are_named(gateway: Gateway) -> None:
    assert gateway.get("/debug/sessions.json").json() == {"sessions": [], "next": None}
    assert "luthien-session-id" in gateway.get("/debug/sessions", gateway.headers | HTML).text


def test_histories_of_openai_chat_are_followed(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    system, hello = {"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hello"}
    more = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And?"}]
    other = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Well?"}]
    chat(guarded, shared_provider, "chat-1", [system, hello], "Hi")
    chat(guarded, shared_provider, "chat-1", [system, hello, *more], streamed=True)
    chat(guarded, shared_provider, "chat-1", [system, hello, *other], temperature=0.5)
    chat(guarded, shared_provider, "chat-1", [system, {"role": "user", "content": "Bye"}])
    calls = guarded.get("/debug/sessions/chat-1.json").json()["calls"]
    assert [call["words"] for call in calls] == [
        "a thread begins: 2 messages",
        "2 messages added",
        "went back: the last message dropped, 1 added; temperature differs",
        "a thread begins, with the instructions of an earlier one: 2 messages",
    ]
    assert calls[1]["added"][0]["is_echo"]
    assert calls[1]["answer"]["said"][0]["text"] == "Hello there"


def test_input_items_of_openai_responses_are_followed(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    shared_provider.will(answers(responses_response("Hi")))
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    asked: Json = {"model": "gpt-test", "store": False, "input": "Hello"}
    post_in(guarded, "responses-1", asked, "/v1/responses")
    longer = [{"role": "user", "content": "Hello"}, said, {"role": "user", "content": "And?"}]
    post_in(guarded, "responses-1", asked | {"input": longer}, "/v1/responses")
    calls = guarded.get("/debug/sessions/responses-1.json").json()["calls"]
    assert [call["words"] for call in calls] == ["a thread begins: 1 input item", "2 input items added"]
    assert [each["is_echo"] for each in calls[1]["added"]] == [True, False]


def test_a_call_too_large_to_be_compared_says_so(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    shared_provider.will(answers(openai_response()))
    large = {"model": "gpt-test", "messages": [{"role": "user", "content": "x" * 9_000_000}]}
    post_in(guarded, "large-1", large)
    [call] = guarded.get("/debug/sessions/large-1.json").json()["calls"]
    assert call["words"].startswith("not compared here: its payloads have 8.6 MiB")
    assert call["turn"] is None


def test_calls_that_failed_or_are_no_conversation_have_their_place(
    guarded: Gateway, shared_provider: ScriptedProvider
) -> None:
    shared_provider.will(answers({"error": {"message": "no"}}, status=500))
    post_in(guarded, "odd-1", {"model": "gpt-test", "messages": [{"role": "user", "content": "Hello"}]})
    shared_provider.will(answers({"object": "list", "data": []}))
    post_in(guarded, "odd-1", {"model": "embedding", "input": "Hello"}, "/v1/embeddings")
    session = guarded.get("/debug/sessions/odd-1.json").json()
    first, second = session["calls"]
    assert first["outcome"] == "upstream_error"
    assert "no" in first["answer"]["said"][0]["text"]
    assert second["words"] == "its request is no conversation"
    assert session["totals"]["failed"] == 1


def test_in_a_browser_a_session_is_read_and_walked_through(guarded: Gateway, made: dict[str, str]) -> None:
    for dark, width in ((True, 360),):
        with browser_page(dark=dark, width=width) as page:
            troubles = watched(page)
            page.goto(f"{guarded.url}/debug/sign-in?token={TOKEN}")
            page.goto(f"{guarded.url}/debug/sessions")
            assert barriers(page) == []
            page.get_by_role("link", name="agent-1", exact=True).click()
            assert page.get_by_role("heading", level=1).inner_text() == "Session agent-1"
            assert page.locator(".turn").count() == 12
            assert barriers(page) == []
            for summary in page.locator("summary").all():
                summary.click()
            assert barriers(page) == []
            page.goto(f"{guarded.url}/debug/sessions/agent-1?limit=5")
            assert barriers(page) == []
            page.keyboard.press("]")
            page.wait_for_url("**after=*")
            assert page.locator(".turn .nth").first.inner_text() == "6"
            page.get_by_role("link", name="Compare with the call before").first.click()
            assert page.get_by_role("heading", level=1).inner_text() == "Compare two calls"
            assert troubles == []


def test_a_hostile_session_is_shown_and_stays_inert(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\u202eevil\u200b"
    shared_provider.will(answers(openai_response(hostile)))
    asked: Json = {
        "model": hostile,
        "messages": [{"role": hostile, "content": hostile}, {"role": "user", "content": f"{hostile}\n" * 200}],
        "tools": [{"type": "function", "function": {"name": hostile}}],
        "conversation": hostile,
    }
    for temperature in (0, 1):
        guarded.call(guarded.post("/v1/chat/completions", asked | {hostile: temperature}))
    with browser_page() as page:
        troubles = watched(page)
        page.goto(f"{guarded.url}/debug/sign-in?token={TOKEN}")
        page.goto(guarded.url + session_page(hostile))
        assert page.locator(".turn").count() == 2
        assert page.locator("main script, main img").count() == 0
        assert "{{7*7}}" in page.locator("h1").inner_text()
        page.get_by_role("link", name="Compare with the call before").click()
        assert "Compare two calls" in page.title() + page.locator("h1").inner_text()
        assert page.locator("main script, main img").count() == 0
        assert troubles == []


def test_without_scripts_a_session_is_whole(guarded: Gateway, made: dict[str, str]) -> None:
    with browser_page(javascript=False) as page:
        page.goto(f"{guarded.url}/debug/sign-in?token={TOKEN}")
        page.goto(f"{guarded.url}/debug/sessions/agent-1")
        page.get_by_text("tool result").first.click()
        assert page.get_by_text("def parse(text)").first.is_visible()
