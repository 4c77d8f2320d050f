"""A real browser: Debian's Chromium, headless, one for all tests of a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)

from tests.playbook import DEADLINE_S
from tests.programs import program

expect.set_options(timeout=DEADLINE_S * 1000)
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@dataclass
class _Shared:
    """The browser of this process, from the first test that wants one, and the event loop that its driver runs on.

    Playwright leaves its loop marked as the one that runs in this thread. Between tests it is not, so that others can
    run loops of their own.
    """

    playwright: Playwright
    browser: Browser
    loop: asyncio.AbstractEventLoop


_shared: _Shared | None = None


@contextmanager
def browser_page(*, dark: bool = False, width: int = 1200, javascript: bool = True) -> Iterator[Page]:
    """A page with cookies and storage of its own. Without Chromium the test is skipped, but never in CI."""
    options = {
        "color_scheme": "dark" if dark else "light",
        "viewport": {"width": width, "height": 900},
        "java_script_enabled": javascript,
    }
    outer = asyncio._get_running_loop()
    try:
        context = _new_context(options)
        context.set_default_timeout(DEADLINE_S * 1000)
        try:
            yield context.new_page()
        finally:
            with suppress(Error):  # a browser that has crashed has no contexts to close
                context.close()
    finally:
        asyncio._set_running_loop(outer)


def _new_context(options: dict[str, Any]) -> BrowserContext:
    shared = _started()
    asyncio._set_running_loop(shared.loop)
    try:
        return shared.browser.new_context(**options)
    except Error:
        if shared.browser.is_connected():
            raise
    close_browser()  # it crashed in an earlier test
    shared = _started()
    asyncio._set_running_loop(shared.loop)
    return shared.browser.new_context(**options)


def _started() -> _Shared:
    global _shared
    if _shared is None:
        chromium = program("chromium")
        # Chromium's sandbox refuses to run as root.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        playwright = sync_playwright().start()
        browser = playwright.chromium.launch(executable_path=chromium, args=[*_QUIET, *sandbox])
        _shared = _Shared(playwright, browser, asyncio.get_running_loop())
        asyncio._set_running_loop(None)
    return _shared


def close_browser() -> None:
    """At the end of the process. If that dies, its end of the driver's pipe does, and the browser with it."""
    global _shared
    if _shared is not None:
        shared, _shared = _shared, None
        asyncio._set_running_loop(shared.loop)
        try:
            with suppress(Error):
                shared.browser.close()
            shared.playwright.stop()
        finally:
            asyncio._set_running_loop(None)


def watched(page: Page) -> list[str]:
    """Collects what must not happen on our pages: console errors, dialogs, requests to other origins."""
    troubles: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            troubles.append(f"console: {message.text}")

    def request(asked: Request) -> None:
        if not asked.url.startswith("http://127.0.0.1:"):
            troubles.append(f"request: {asked.url}")

    def dialog(opened: Dialog) -> None:
        troubles.append(f"dialog: {opened.message}")
        opened.dismiss()

    page.on("console", console)
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("request", request)
    page.on("dialog", dialog)
    return troubles


def barriers(page: Page) -> list[str]:
    """What axe-core finds to keep people from using the page: one line a rule and element."""
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in found
        for node in violation["nodes"]
    ]
