"""The pictures of the documents, taken anew: `python -m tests.pictures`, or with names for some of them.

A gateway with a database of its own serves a support assistant and a coding agent, whose provider is scripted, and
Chromium takes each page in light and dark. What they say is made up; the pages are as they are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from playwright.sync_api import Page

from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from tests.browser import browser_page
from tests.playbook import TOKEN, Gateway, ScriptedProvider, eventually, running_gateway
from tests.stories import CONFIGURATION, JUDGE_KEY, Story, told
from tests.tempo_server import tempo_server

FOLDER = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 1280


@dataclass(frozen=True, slots=True)
class Picture:
    """One page: its address, made from the ids of the calls; from which element to which it is cut, and what is done
    before."""

    name: str
    address: Callable[[Story], str]
    first: str
    last: str
    """Selectors of the elements at the top and at the bottom."""

    at_most: int = 900
    """Pixels from top to bottom."""

    prepare: Callable[[Page], None] = lambda page: None


def _follows(page: Page) -> None:
    page.locator("[data-live-state]", has_text="Live").wait_for()


def _has_spans(page: Page) -> None:
    page.locator("[data-spans]").wait_for()
    page.locator("#sections").evaluate("(bar) => bar.remove()")  # it would lie over what is below it


PICTURES = [
    Picture("call", lambda story: f"/debug/calls/{story['lookup']}", "body", "#part-request", 1400),
    Picture("tool", lambda story: f"/debug/calls/{story['lookup']}", "#part-response", "#part-response"),
    Picture("side", lambda story: f"/debug/calls/{story['lookup']}?layout=side", "#part-request", "#part-request"),
    Picture("stream", lambda story: f"/debug/calls/{story['answer']}", "#part-response", "#stream .legend", 1000),
    Picture("spans", lambda story: f"/debug/calls/{story['ran']}", "#trace", "#trace", 900, _has_spans),
    Picture("list", lambda story: "/debug/calls?changed=any&since=1h", "body", "main", 760),
    Picture(
        "filter",
        lambda story: (
            "/debug/calls?policy=redact&decided=change&side=request&path=/messages/*/content"
            "&outcome=completed,upstream_error"
        ),
        "body",
        "main",
        620,
    ),
    Picture("live", lambda story: "/debug/live", "body", "main", 760, _follows),
    Picture("session", lambda story: "/debug/sessions/support-4127", "body", "main", 1000),
    Picture(
        "compare",
        lambda story: f"/debug/compare?a={story['lookup']}&b={story['answer']}",
        "table.both",
        ".diff",
        1250,
    ),
]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.pictures", description=__doc__)
    arguments.add_argument("names", nargs="*", help="; ".join(each.name for each in PICTURES))
    names = arguments.parse_args().names
    chosen = [each for each in PICTURES if not names or each.name in names]
    with gateway_with_calls() as (gateway, story):
        for dark in (False, True):
            with browser_page(dark=dark, width=WIDTH) as page:
                page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}&next=/debug/help")
                for picture in chosen:
                    _take(page, gateway, story, picture, "dark" if dark else "light")


def _take(page: Page, gateway: Gateway, story: Story, picture: Picture, theme: str) -> None:
    page.goto(gateway.url + picture.address(story))
    page.wait_for_load_state()
    picture.prepare(page)
    top, bottom = (page.locator(each).first.bounding_box() for each in (picture.first, picture.last))
    assert top is not None
    assert bottom is not None
    above = 0.0 if picture.first == "body" else 12.0
    height = min(bottom["y"] + bottom["height"] - top["y"] + above, picture.at_most)
    path = FOLDER / f"{picture.name}-{theme}.png"
    clip = {"x": 0.0, "y": top["y"] - above, "width": float(WIDTH), "height": height}
    page.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]
    print(f"{path.name}: {WIDTH} x {height:.0f}, {path.stat().st_size // 1024} KiB")  # noqa: T201 - run by hand


@contextmanager
def gateway_with_calls() -> Iterator[tuple[Gateway, Story]]:
    """All calls of the stories made, stored and indexed; one is still running."""
    os.environ[JUDGE_KEY] = "none-is-needed"
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="luthien-pictures-")))
        folder.chmod(0o755)  # for the account that runs Postgres for root
        dsn = open_.enter_context(embedded_postgres(folder / "postgres"))
        migrate(dsn)
        provider = ScriptedProvider()
        open_.callback(provider.close)
        tempo = open_.enter_context(tempo_server())
        os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{tempo.url}/v1/traces"
        around: dict[str, Any] = {"tempo_url": tempo.url, "grafana_url": "https://grafana.example"}
        gateway = open_.enter_context(running_gateway(dsn, provider.url, **CONFIGURATION, **around))
        caller = TracerProvider(resource=Resource.create({"service.name": "coding-agent"}), shutdown_on_exit=False)
        caller.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{tempo.url}/v1/traces")))
        open_.callback(caller.shutdown)
        with caller.get_tracer("agent").start_as_current_span("mend refund()"):
            story = open_.enter_context(told(gateway, provider))
        eventually(lambda: gateway.get("/debug/calls.json?changed=any").json()["calls"], bool)
        eventually(
            lambda: gateway.get(f"/debug/calls/{story['done']}/trace.json").json()["spans"],
            lambda spans: any(each["of_this_call"] and each["kind"] == "server" for each in spans),
        )
        yield gateway, story


if __name__ == "__main__":
    main()
