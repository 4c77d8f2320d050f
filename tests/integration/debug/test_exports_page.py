"""The page of exports in a real browser: what is copied is what is exported, and everybody can use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page

from tests.browser import browser_page, watched
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers
from tests.wire import openai_request, openai_response

CHAT = "/v1/chat/completions"
HOSTILE = "</textarea><script>alert(1)</script>' \N{SNOWMAN}"


@pytest.fixture
def call_id(gateway: Gateway, provider: ScriptedProvider) -> str:
    provider.will(answers(openai_response(HOSTILE)))
    return str(gateway.call(gateway.post(CHAT, openai_request(HOSTILE, model=HOSTILE)))["call_id"])


@contextmanager
def signed_in(gateway: Gateway, *, javascript: bool = True) -> Iterator[Page]:
    with browser_page(javascript=javascript) as page:
        page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
        yield page


def test_buttons_copy_what_the_files_have(gateway: Gateway, call_id: str) -> None:
    with signed_in(gateway) as page:
        troubles = watched(page)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{gateway.url}/debug/calls/{call_id}/exports")
        for form in ("curl", "curl-provider", "pytest"):
            page.click(f"button[data-copy-of=text-{form}]")
            page.wait_for_selector(f"section[aria-labelledby=title-{form}] [role=status]:has-text('Copied')")
            copied = page.evaluate("navigator.clipboard.readText()")
            assert copied == gateway.get(f"/debug/calls/{call_id}/export.{form}").text
        page.goto(f"{gateway.url}/debug/calls/{call_id}")
        page.click("a[data-copy]")
        page.wait_for_selector("nav[aria-label=Export] [role=status]:has-text('Copied')")
        assert (
            page.evaluate("navigator.clipboard.readText()") == gateway.get(f"/debug/calls/{call_id}/export.curl").text
        )
        assert troubles == []


def test_without_a_clipboard_there_is_the_page_and_without_a_script_too(gateway: Gateway, call_id: str) -> None:
    with signed_in(gateway) as page:
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.goto(f"{gateway.url}/debug/calls/{call_id}")
        page.click("a[data-copy]")
        page.wait_for_url(f"**/debug/calls/{call_id}/exports")
        page.click("button[data-copy-of=text-curl]")
        page.wait_for_selector("[role=status]:has-text('Selected')")
        selected = page.evaluate("getSelection().toString()")
        assert selected == gateway.get(f"/debug/calls/{call_id}/export.curl").text
    with signed_in(gateway, javascript=False) as page:
        page.goto(f"{gateway.url}/debug/calls/{call_id}")
        page.click("nav[aria-label=Export] >> text=Copy as curl")
        assert page.input_value("#text-curl") == gateway.get(f"/debug/calls/{call_id}/export.curl").text
        assert not page.is_visible("button[data-copy-of]")
