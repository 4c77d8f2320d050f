"""Two calls side by side: what is known of both, and what differs in the stages that were asked for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from luthien.exchange import new_call_id
from tests.browser import barriers, browser_page, watched
from tests.integration.debug.conversations import POLICIES, agents_at_work, chat, post_in
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, running_gateway
from tests.wire import anthropic_request, anthropic_response, openai_request, openai_response

HTML = {"accept": "text/html"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def guarded(shared_record_database: str, shared_provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as running:
        yield running


@pytest.fixture(scope="module")
def made(guarded: Gateway, shared_provider: ScriptedProvider) -> dict[str, str]:
    return agents_at_work(guarded, shared_provider, "agent-2")


def compared(gateway: Gateway, a: str, b: str, query: str = "") -> Json:
    response = gateway.get(f"/debug/compare.json?a={a}&b={b}{query}")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


def html_of(gateway: Gateway, query: str) -> httpx.Response:
    return gateway.get(f"/debug/compare?{query}", gateway.headers | HTML)


def fact(found: Json, name: str) -> Json:
    [wanted] = [each for each in found["facts"] if each["name"] == name]
    return dict(wanted)


def test_two_turns_differ_in_what_was_added(guarded: Gateway, made: dict[str, str]) -> None:
    found = compared(guarded, made["asked"], made["read"])
    assert list(found["stages"]) == ["request_original", "response_final"]
    ops = [op for op in found["stages"]["request_original"]["diff"]["ops"] if op["op"] == "add"]
    assert {op["after_ptr"] for op in ops} >= {"/messages/1", "/messages/2"}
    assert fact(found, "Format")["difference"] == "differs"
    assert fact(found, "Model asked for")["difference"] is None
    html = html_of(guarded, f"a={made['asked']}&b={made['read']}").text
    assert f'href="/debug/calls/{made["asked"]}"' in html
    assert f"/debug/compare?a={made['read']}&amp;b={made['asked']}" in html
    assert 'id="request_original-diff"' in html
    assert 'id="request_final-diff"' not in html


def test_the_same_request_twice_has_no_difference(guarded: Gateway, made: dict[str, str]) -> None:
    found = compared(guarded, made["named"], made["retried"], "&stage=request_original&stage=request_final")
    assert list(found["stages"]) == ["request_original", "request_final"]
    assert all(stage["diff"]["ops"] == [] for stage in found["stages"].values())
    page = html_of(guarded, f"a={made['named']}&b={made['retried']}&stage=request_original").text
    assert "No difference." in page


def test_the_same_prompt_to_two_providers_is_compared_by_what_is_said(
    guarded: Gateway, shared_provider: ScriptedProvider
) -> None:
    shared_provider.will(answers(openai_response("Paris")))
    one = post_in(guarded, "two", openai_request("Capital?"))
    shared_provider.will(answers(anthropic_response("Paris, in France")))
    other = post_in(guarded, "two", anthropic_request("Capital?"), "/v1/messages")
    found = compared(guarded, one, other)
    assert found["stages"]["request_original"]["compared"] == "parts"
    assert found["stages"]["request_original"]["diff"]["ops"] == []
    [op] = found["stages"]["response_final"]["diff"]["ops"]
    assert (op["before"], op["after"]) == ("Paris", "Paris, in France")
    assert "compared by the parts that both have" in html_of(guarded, f"a={one}&b={other}").text
    as_they_are = compared(guarded, one, other, "&as=payload")["stages"]["request_original"]
    assert as_they_are["compared"] == "payload"
    assert "wire formats are different" in as_they_are["notes"][0]
    assert as_they_are["diff"]["ops"]


def test_numbers_say_how_much_they_differ(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
    shared_provider.will(answers(openai_response()))
    one = post_in(guarded, "n", openai_request())
    shared_provider.will(answers(openai_response() | {"usage": usage}))
    other = post_in(guarded, "n", openai_request())
    found = compared(guarded, one, other)
    assert fact(found, "Tokens out") == {"name": "Tokens out", "a": "3", "b": "6", "difference": "B 3 more (100%)"}
    assert fact(compared(guarded, other, one), "Tokens out")["difference"] == "B 3 less (50%)"
    assert fact(found, "Tokens in")["difference"] is None


OLD = uuid.UUID("01900000-0000-7000-8000-000000000000")


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("b={id}&a=nonsense", 400, "This is no id of a call"),
        (f"b={{id}}&a={OLD}", 404, "There is no such call"),
        ("b={id}&a={young}", 202, "Nothing of this call is in the database yet"),
        ("b={id}&a=%3Cscript%3Ealert(1)%3C/script%3E", 400, "This is no id of a call"),
        ("b={id}&a=" + "x" * 5000, 400, "This is no id of a call"),
        ("b=previous&a=previous", 400, "This is no id of a call"),
    ],
)
def test_what_is_wrong_with_an_id_is_said_at_its_field(
    guarded: Gateway, made: dict[str, str], query: str, status: int, words: str
) -> None:
    query = query.format(id=made["asked"], young=new_call_id())
    page = html_of(guarded, query)
    assert page.status_code == status
    assert words in page.text
    assert page.text.count('aria-invalid="true"') == 1
    assert "<script>alert" not in page.text
    twin = guarded.get(f"/debug/compare.json?{query}")
    assert twin.status_code == status
    [(name, trouble)] = twin.json()["fields"].items()
    assert trouble.startswith(words)
    assert f'id="{name}-trouble"' in page.text


def test_without_ids_there_is_a_form_and_no_reproach(guarded: Gateway) -> None:
    page = html_of(guarded, "")
    assert page.status_code == 200
    assert "aria-invalid" not in page.text
    assert guarded.get("/debug/compare.json").status_code == 400


def test_with_one_id_the_form_waits_for_the_other(guarded: Gateway, made: dict[str, str]) -> None:
    """A call's page leads there: "Compare with another call"."""
    page = html_of(guarded, f"b={made['asked']}")
    assert page.status_code == 200
    assert "aria-invalid" not in page.text
    assert f'value="{made["asked"]}"' in page.text
    twin = guarded.get(f"/debug/compare.json?b={made['asked']}")
    assert twin.status_code == 400
    assert twin.json()["fields"] == {"a": "Enter the id of a call."}


def test_nobody_compares_without_a_sign_in(guarded: Gateway) -> None:
    assert guarded.get("/debug/compare", HTML).status_code == 401


def test_an_id_may_be_the_address_of_a_page(guarded: Gateway, made: dict[str, str]) -> None:
    address = f"https://example.com/debug/calls/{made['asked']}.json"
    assert compared(guarded, address, made["read"].replace("-", ""))["a"]["call_id"] == made["asked"]


def test_the_previous_turn_is_the_one_that_a_call_goes_on_from(guarded: Gateway, made: dict[str, str]) -> None:
    """Not the one just before it in time, which may be another agent's."""
    for later, earlier in (("told", "read"), ("below_again", "below"), ("compacted", "summed_up")):
        response = html_of(guarded, f"a=previous&b={made[later]}&stage=request_final")
        assert response.status_code == 307
        assert response.headers["location"] == f"/debug/compare?a={made[earlier]}&b={made[later]}&stage=request_final"
    first = html_of(guarded, f"a=previous&b={made['asked']}")
    assert first.status_code == 404
    assert "The other call is the first of its session." in first.text
    assert "a=previous&amp;b=" in guarded.get(f"/debug/calls/{made['told']}", guarded.headers | HTML).text


def test_a_call_without_a_session_has_no_turn_before_it(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    shared_provider.will(answers(openai_response()))
    call = guarded.call(guarded.post("/v1/chat/completions", openai_request()))
    response = html_of(guarded, f"a=previous&b={call['call_id']}")
    assert response.status_code == 404
    assert "names no session" in response.text


def test_stages_that_are_not_there_say_so(record_database: str, provider: ScriptedProvider) -> None:
    with running_gateway(record_database, provider.url) as gateway:
        one = chat(gateway, provider, "s", [{"role": "user", "content": "Hello"}])
        provider.will(answers({"error": {"message": "no"}}, status=500))
        other = post_in(gateway, "s", openai_request())
        with psycopg.connect(record_database, autocommit=True) as conn:
            conn.execute(
                "DELETE FROM conversation_events WHERE call_id = %s AND event_type = 'request_original'", [other]
            )
            conn.execute(
                "UPDATE conversation_calls SET records_stored = records_stored - 1 WHERE call_id = %s", [other]
            )
        found = compared(gateway, one, other)
        lost = found["stages"]["request_original"]
        assert (lost["a"], lost["b"], lost["diff"]) == ("recorded", "missing", None)
        assert lost["notes"] == ["B: this stage is not in the record."]
        assert fact(found, "Record")["b"] == "partial"
        assert "Nothing to compare" in html_of(gateway, f"a={one}&b={other}").text


def test_a_difference_in_what_was_masked_is_told_and_not_shown(
    guarded: Gateway, shared_provider: ScriptedProvider
) -> None:
    made = []
    for secret in ("one", "other"):
        shared_provider.will(answers(openai_response()))
        tools = [{"type": "mcp", "server_url": "https://example.com", "authorization": f"Bearer {secret}"}]
        made.append(post_in(guarded, "m", openai_request(tools=tools)))
    stage = compared(guarded, *made)["stages"]["request_original"]
    assert stage["redacted"]
    assert stage["diff"]["ops"] == []
    html = html_of(guarded, f"a={made[0]}&b={made[1]}").text
    assert "content redacted" in html
    assert "Bearer one" not in html


def test_two_of_the_largest_calls_are_compared(guarded: Gateway, shared_provider: ScriptedProvider) -> None:
    made = []
    for end in "ab":
        shared_provider.will(answers(openai_response()))
        made.append(post_in(guarded, "huge", openai_request("x" * 15_000_000 + end)))
    assert compared(guarded, *made)["stages"]["request_original"]["diff"]["ops"]
    page = html_of(guarded, f"a={made[0]}&b={made[1]}")
    assert page.status_code == 200
    assert len(page.content) < 3_000_000


def test_in_a_browser_two_calls_are_chosen_and_swapped(guarded: Gateway, made: dict[str, str]) -> None:
    for dark, width in ((False, 1200), (True, 360)):
        with browser_page(dark=dark, width=width) as page:
            troubles = watched(page)
            page.goto(f"{guarded.url}/debug/sign-in?token={TOKEN}")
            page.goto(f"{guarded.url}/debug/compare?b={made['told']}&a=previous")
            assert page.get_by_label("Call A").input_value() == made["read"]
            assert barriers(page) == []
            page.get_by_role("link", name="Swap A and B").click()
            assert page.get_by_label("Call A").input_value() == made["told"]
            page.get_by_label("response original").check()
            page.get_by_role("button", name="Compare", exact=True).click()
            assert page.get_by_role("heading", name="Response original").is_visible()
            assert barriers(page) == []
            over = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not page.evaluate(over)
            assert troubles == []


def test_in_a_browser_what_is_wrong_is_read_out_at_the_field(guarded: Gateway, made: dict[str, str]) -> None:
    with browser_page() as page:
        page.goto(f"{guarded.url}/debug/sign-in?token={TOKEN}")
        page.goto(f"{guarded.url}/debug/compare")
        assert barriers(page) == []
        page.get_by_label("Call A").fill(made["asked"])
        page.get_by_label("Call B").fill("nonsense")
        page.keyboard.press("Enter")
        page.wait_for_url("**a=*")
        field = page.get_by_label("Call B")
        assert field.get_attribute("aria-invalid") == "true"
        described = page.locator(f"#{field.get_attribute('aria-describedby')}")
        assert "This is no id of a call" in described.inner_text()
        assert page.get_by_label("Call A").input_value() == made["asked"]
        assert barriers(page) == []
