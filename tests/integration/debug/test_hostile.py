"""Hostile payloads on every page, in a real browser: nothing runs, nothing is fetched, all is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from tests import hostile
from tests.browser import browser_page, watched
from tests.hostile import MARK, MARKUP, POISON
from tests.playbook import TOKEN, Gateway, ScriptedProvider, running_gateway

POLICIES = [{"policy": "tests.hostile:Poisonous"}]
CASES = list(hostile.corpus())


@pytest.fixture(scope="module")
def poisoned(
    shared_record_database: str, shared_provider: ScriptedProvider
) -> Iterator[tuple[Gateway, dict[str, str]]]:
    """A gateway whose record has every call of the corpus, by name."""
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as gateway:
        yield gateway, {call.name: hostile.record(gateway, shared_provider, call) for call in CASES}


@pytest.fixture
def page(poisoned: tuple[Gateway, dict[str, str]]) -> Iterator[Page]:
    gateway, _ = poisoned
    with browser_page() as opened:
        opened.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
        yield opened


def visit(page: Page, url: str) -> None:
    """Opens a page and everything on it, and sees that nothing has happened which was not ours."""
    troubles = watched(page)
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.wait_for_timeout(100)
    assert page.evaluate(f"window.{MARK}") is None
    assert page.locator("main script, main iframe, main img, main base, main link, main meta").count() == 0
    assert page.evaluate("[...document.querySelectorAll('a')].every(a => !/^javascript:/i.test(a.href))")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids)), sorted(each for each in ids if ids.count(each) > 1)[:5]
    # Chromium writes each answer that is an error into the console.
    assert [each for each in troubles if "Failed to load resource: the server responded with" not in each] == []


@pytest.mark.parametrize("name", [call.name for call in CASES])
def test_no_call_gets_out_of_its_page(page: Page, poisoned: tuple[Gateway, dict[str, str]], name: str) -> None:
    gateway, calls = poisoned
    for query in ("", "?layout=side&whitespace=1", "?layout=raw"):
        visit(page, f"{gateway.url}/debug/calls/{calls[name]}{query}")


def test_what_is_invisible_is_shown(page: Page, poisoned: tuple[Gateway, dict[str, str]]) -> None:
    gateway, calls = poisoned
    visit(page, f"{gateway.url}/debug/calls/{calls['chat']}")
    text = page.locator("main").inner_text()
    assert MARKUP[0] in text
    for point in ("U+202E", "U+200B", "U+001B", "U+0000", "U+D800", "U+2028", "U+E0041"):
        assert point in text
    assert not {"\u202e", "\u2066", "\u200b", "\x1b", "\u2028"} & set(text)


def test_the_list_and_its_filters(page: Page, poisoned: tuple[Gateway, dict[str, str]]) -> None:
    gateway, _ = poisoned
    poison = quote(POISON.replace("\x00", "").encode("utf-8", "replace"))[:900]
    for query in (
        "",
        f"?model={poison}",
        f"?text={poison}",
        f"?session={poison}",
        f"?outcome={poison}",
        f"?{poison}=1",
    ):
        visit(page, f"{gateway.url}/debug/calls{query}")


def test_addresses_that_are_no_ids(page: Page, poisoned: tuple[Gateway, dict[str, str]]) -> None:
    gateway, _ = poisoned
    for name in MARKUP[:6]:
        visit(page, f"{gateway.url}/debug/calls/{quote(name, safe='')}")


def test_the_corpus_would_be_noticed(tmp_path: Path) -> None:
    """On a page that does not escape, the same strings do run."""
    with browser_page() as page:
        page.set_content(f"<main>{''.join(MARKUP[:3])}</main>")
        page.wait_for_timeout(200)
        assert page.evaluate(f"window.{MARK}") == 1
