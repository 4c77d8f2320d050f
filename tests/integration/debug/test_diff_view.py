"""The diffs on a call's page, in a real browser: three formats, every layout, by keyboard and without scripts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import browser_page, watched
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, running_gateway
from tests.wire_tools import anthropic_tools, openai_tools, responses_tools

POLICIES: list[dict[str, Any]] = [
    {"policy": "add_system_message", "config": {"text": "Answer in one sentence."}},
    {"policy": "replace_text", "config": {"rules": [{"find": "Falcon", "replace": "the project"}]}},
    {"policy": "redact", "config": {"rules": [{"kinds": ["email"], "in": ["request", "response"]}]}},
]
TEXT = "".join(f"Line {n} of the minutes.\n" for n in range(40))
ASKED = f"{TEXT}Mail ada@example.com about Falcon, please.\n{TEXT}"
CALLS = (("send_mail", {"to": "bob@example.com", "subject": "Falcon", "urgent": True}),)
ONE_LINE = "Tell Falcon, and write to eve@example.com."
SCHEMA = {"type": "object", "properties": {"to": {"type": "string"}, "subject": {"type": "string"}}}
EARLIER = [{"role": role, "content": f"turn {n}"} for n in range(4) for role in ("user", "assistant")]
ROUTES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "openai_chat": (
        "/v1/chat/completions",
        {
            "model": "gpt-x",
            "temperature": 0.2,
            "messages": [
                {"role": "system", "content": "You are kind."},
                *EARLIER,
                {"role": "user", "content": ASKED},
            ],
            "tools": [{"type": "function", "function": {"name": "send_mail", "parameters": SCHEMA}}],
        },
        openai_tools(ONE_LINE, *CALLS),
    ),
    "openai_responses": (
        "/v1/responses",
        {
            "model": "gpt-x",
            "store": False,
            "instructions": "You are kind.",
            "input": [*EARLIER, {"role": "user", "content": ASKED}],
            "tools": [{"type": "function", "name": "send_mail", "parameters": SCHEMA}],
        },
        responses_tools(ONE_LINE, *CALLS),
    ),
    "anthropic_messages": (
        "/v1/messages",
        {
            "model": "claude-x",
            "max_tokens": 100,
            "system": "You are kind.",
            "messages": [*EARLIER, {"role": "user", "content": [{"type": "text", "text": ASKED}]}],
            "tools": [{"name": "send_mail", "input_schema": SCHEMA}],
        },
        anthropic_tools(ONE_LINE, *CALLS),
    ),
}


@pytest.fixture
def busy(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, POLICIES) as gateway:
        yield gateway


def _call(gateway: Gateway, provider: ScriptedProvider, wire_format: str) -> str:
    path, body, answer = ROUTES[wire_format]
    provider.will(answers(answer))
    response = gateway.post(path, body)
    assert response.status_code == 200, response.text
    return f"/debug/calls/{gateway.call(response)['call_id']}"


@contextmanager
def _signed_in(gateway: Gateway, path: str, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    with browser_page(**options) as page:
        troubles = watched(page)
        page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
        page.goto(gateway.url + path)
        yield page, troubles
        assert troubles == []


def _picture(page: Page, name: str) -> None:
    """Kept for people to look at, where they ask for it."""
    directory = os.environ.get("LUTHIEN_PICTURES")
    if directory:
        page.screenshot(path=f"{directory}/{name}.png", full_page=True)


def _is_wide(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@pytest.mark.parametrize("wire_format", ROUTES)
def test_each_format_is_shown_in_blocks_with_who_changed_what(
    busy: Gateway, provider: ScriptedProvider, wire_format: str
) -> None:
    path = _call(busy, provider, wire_format)
    with _signed_in(busy, path) as (page, _):
        _picture(page, f"{wire_format}_unified_light_1200")
        request, response = page.locator("section.diff").all()
        assert "40 unchanged lines" not in request.inner_text()
        assert "37 unchanged lines" in request.inner_text()
        assert request.locator("ins", has_text="the project").count() == 1
        names = " ".join(request.locator(".blame").all_inner_texts())
        assert all(each["policy"] in names for each in POLICIES)
        assert "send_mail" in response.inner_text()
        assert response.locator(".op").count() >= 2
        for anchor in page.locator(".diff a[href^='#']").evaluate_all("all => all.map(a => a.getAttribute('href'))"):
            assert page.evaluate("id => document.getElementById(id) !== null", anchor[1:]), anchor
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize(
    ("layout", "dark", "width"),
    [("unified", False, 2560), ("side", True, 360), ("side", True, 1200), ("raw", False, 360)],
)
def test_every_layout_fits_every_screen(
    busy: Gateway, provider: ScriptedProvider, layout: str, dark: bool, width: int
) -> None:
    path = f"{_call(busy, provider, 'openai_chat')}?layout={layout}"
    with _signed_in(busy, path, dark=dark, width=width) as (page, _):
        _picture(page, f"openai_{layout}_{'dark' if dark else 'light'}_{width}")
        assert not _is_wide(page)
        assert page.locator(".toggles [aria-current]").first.inner_text().lower().startswith(layout)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_all_of_it_works_by_keyboard_and_without_scripts(busy: Gateway, provider: ScriptedProvider) -> None:
    path = _call(busy, provider, "openai_chat")
    with _signed_in(busy, f"{path}?model=gpt-x", javascript=False) as (page, _):
        fold = page.locator("details.fold", has_text="unchanged messages").first
        fold.locator("summary").first.focus()
        assert not fold.get_by_text("turn 2").first.is_visible()
        page.keyboard.press("Enter")
        assert fold.get_by_text("turn 2").first.is_visible()
        link = page.get_by_role("link", name="Side by side").first
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**layout=side**")
        assert "model=gpt-x" in page.url
        page.get_by_role("link", name="White space").first.press("Enter")
        page.wait_for_url("**whitespace=1**")
        assert "layout=side" in page.url
        assert page.locator(".blank").count() > 10


def test_a_permalink_opens_the_fold_that_it_is_in(busy: Gateway, provider: ScriptedProvider) -> None:
    path = _call(busy, provider, "openai_chat")
    with _signed_in(busy, path) as (page, _):
        page.goto(f"{busy.url}{path}#request/messages/3")
        expect(page.get_by_text("turn 1").first).to_be_visible()
        page.goto(f"{busy.url}{path}#request-r1")
        expect(page.locator("[id='request-r1']")).to_be_visible()
