"""The biggest calls on their pages: what a browser gets is small, says what it leaves out, and shows the change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import browser_page, watched
from tests.hostile import long_line, many_frames
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, call_id_of, running_gateway, streams
from tests.wire import openai_request, openai_response

MAX_HTML = 4_000_000
MAX_ELEMENTS = 30_000
POLICIES: list[dict[str, Any]] = [
    {"policy": "replace_text", "config": {"rules": [{"find": "needle", "replace": "pin"}]}},
    {"policy": "add_system_message", "config": {"text": "Be brief."}},
]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(shared_record_database: str, shared_provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as running:
        yield running


@pytest.fixture
def page(gateway: Gateway) -> Iterator[Page]:
    with browser_page() as opened:
        opened.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
        yield opened


def see(page: Page, gateway: Gateway, call_id: str, *words: str) -> None:
    """Every layout of a call's page is small, and says these words."""
    for query in ("", "?layout=side", "?layout=raw&whitespace=1"):
        address = f"/debug/calls/{call_id}{query}"
        html = gateway.get(address, gateway.headers | {"accept": "text/html"}).content
        assert len(html) < MAX_HTML, address
        troubles = watched(page)
        page.goto(gateway.url + address)
        assert page.evaluate("document.querySelectorAll('*').length") < MAX_ELEMENTS, address
        assert troubles == []
    page.goto(f"{gateway.url}/debug/calls/{call_id}")
    text = page.locator("main").inner_text()
    for word in words:
        assert word in text


def post(gateway: Gateway, body: Any) -> str:
    response = gateway.post(CHAT, body)
    assert response.status_code == 200, response.text
    gateway.call(response)
    return call_id_of(response)


def test_a_line_of_thirty_megabytes(gateway: Gateway, shared_provider: ScriptedProvider, page: Page) -> None:
    shared_provider.will(answers(openai_response()))
    body = long_line(30_000_000)
    text = body["messages"][0]["content"]
    body["messages"][0]["content"] = text[:15_000_000] + " needle " + text[15_000_000:]
    see(page, gateway, post(gateway, body), "needle", "pin", "Be brief.")


def test_two_thousand_messages(gateway: Gateway, shared_provider: ScriptedProvider, page: Page) -> None:
    shared_provider.will(answers(openai_response()))
    messages = [{"role": "user", "content": f"message number {number} of a long talk"} for number in range(2000)]
    messages[1000]["content"] += " with a needle in it"
    see(
        page, gateway, post(gateway, {"model": "m", "messages": messages}), "needle", "pin", "1000 unchanged messages"
    )


def test_every_one_of_two_thousand_messages_changed(
    gateway: Gateway, shared_provider: ScriptedProvider, page: Page
) -> None:
    shared_provider.will(answers(openai_response()))
    messages = [{"role": "user", "content": f"needle {number} " * 20} for number in range(2000)]
    see(page, gateway, post(gateway, {"model": "m", "messages": messages}), "needle", "pin")


def test_a_hundred_thousand_frames(gateway: Gateway, shared_provider: ScriptedProvider, page: Page) -> None:
    frames = list(many_frames(100_000)())
    shared_provider.will(streams(*(b"".join(frames[at : at + 500]) for at in range(0, len(frames), 500))))
    see(page, gateway, post(gateway, openai_request(stream=True)), "100002 frames")


def test_a_deep_nest(gateway: Gateway, shared_provider: ScriptedProvider, page: Page) -> None:
    shared_provider.will(answers(openai_response()))
    nest = '{"a":' * 400 + '"needle"' + "}" * 400
    body = json.dumps(openai_request("needle"))[:-1] + f', "extra": {nest}}}'
    see(page, gateway, post(gateway, body.encode()), "needle")
