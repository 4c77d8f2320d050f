"""A walk through the pages with keys alone: where the focus is, and what a screen reader is told there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser import browser_page, watched
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, running_gateway
from tests.wire import openai_request, openai_response

CHAT = "/v1/chat/completions"
POLICIES: list[dict[str, Any]] = [
    {"policy": "replace_text", "config": {"rules": [{"find": "secret", "replace": "[hidden]"}]}},
    {"policy": "add_system_message", "config": {"text": "Be kind."}},
]


@pytest.fixture
def gateway(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, POLICIES) as running:
        yield running


def focused(page: Page) -> str:
    """What has the focus: its role and name, as a screen reader says them."""
    return page.locator(":focus").aria_snapshot().partition("\n")[0].removeprefix("- ").rstrip(":")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def go(page: Page, key: str) -> None:
    """Two keys that belong together, between which no time passes for the page, however slow the machine is."""
    page.evaluate("performance.now = () => 0")
    press(page, "g", key)


def test_from_the_list_to_a_change_and_back(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("Hello")))
    made = []
    for model in ("gpt-one", "gpt-two", "gpt-one"):
        call = gateway.call(gateway.post(CHAT, openai_request("a secret", model=model)))
        made.append(call["call_id"])
    with browser_page() as page:
        page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
        troubles = watched(page)
        page.goto(f"{gateway.url}/debug/calls")

        press(page, "Tab")
        assert focused(page).startswith('link "To the content"')
        press(page, "Tab", "Tab")
        assert focused(page).startswith('link "Calls"')

        press(page, "/")
        assert focused(page).startswith('textbox "Words"')
        press(page, "Tab", *"gpt-one", "Enter")
        page.wait_for_url("**model=gpt-one*")
        expect(page.locator("tr[data-call]")).to_have_count(2)
        listed = page.url

        press(page, "j", "j")
        assert focused(page).startswith(f'link "{made[0][:18]}')
        press(page, "k")
        assert focused(page).startswith(f'link "{made[2][:18]}')
        expect(page.locator("tr[aria-current=true]")).to_have_attribute("data-call", made[2])
        press(page, "Enter")
        page.wait_for_url(f"**/debug/calls/{made[2]}?model=gpt-one*")

        press(page, "n")
        first = page.locator(":focus").get_attribute("id")
        assert first is not None
        assert first.startswith("request-r")
        expect(page.locator(":focus")).to_contain_text("by")
        press(page, "n", "p")
        assert page.locator(":focus").get_attribute("id") == first
        press(page, "s")
        page.wait_for_url("**layout=side*")
        press(page, "w")
        page.wait_for_url("**whitespace=1*")
        press(page, "]")
        page.wait_for_url(f"**/debug/calls/{made[0]}?*")
        press(page, "[")
        page.wait_for_url(f"**/debug/calls/{made[2]}?*")

        page.evaluate("document.querySelector('a.skip').focus()")
        press(page, "Control+u", "Alt+j")
        assert focused(page).startswith('link "To the content"'), "keys with modifiers are the browser's"
        press(page, "?")
        dialog = page.get_by_role("dialog", name="Keys")
        expect(dialog).to_be_visible()
        assert dialog.evaluate("dialog => dialog.contains(document.activeElement)")
        press(page, "u")
        expect(dialog).to_be_visible()
        press(page, "Escape")
        expect(dialog).to_be_hidden()
        assert focused(page).startswith('link "To the content"'), "and the focus is back where it was"

        press(page, "u")
        page.wait_for_url(lambda url: "/debug/calls?" in url)
        assert "model=gpt-one" in page.url
        assert "model=gpt-one" in listed
        go(page, "l")
        page.wait_for_url("**/debug/live")
        go(page, "s")
        page.wait_for_url("**/debug/sessions")
        go(page, "c")
        page.wait_for_url("**/debug/calls")
        assert troubles == []
