"""How soon is the page of the biggest call usable in a browser?

    python -m benchmarks.browser [--rounds N]

Sends calls through a gateway with five policies and opens their pages in Chromium. "First" is the first visit,
when the diff is made; "again" are the visits after it. Usable is when the page has loaded and answers to a click: the
second frame after its load event. Ratios are to the page of a small call in the same run.
"""

from __future__ import annotations

import argparse
import base64
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Page

from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from tests.browser import browser_page
from tests.hostile import long_line, many_frames
from tests.playbook import TOKEN, Gateway, Play, ScriptedProvider, answers, call_id_of, running_gateway, streams
from tests.wire import openai_request, openai_response

_POLICIES: list[dict[str, Any]] = [
    *(
        {"policy": "replace_text", "config": {"rules": [{"find": found, "replace": written}]}}
        for found, written in (("needle", "pin"), ("haystack", "field"), ("cow", "horse"), ("red", "blue"))
    ),
    {"policy": "add_system_message", "config": {"text": "Be brief."}},
]
_USABLE = """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(
    performance.now()))))"""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    play: Play
    body: Any


def cases() -> Iterator[Case]:
    plain = answers(openai_response())
    yield Case("a small call", plain, openai_request("a needle"))
    long = long_line(30_000_000)
    text = long["messages"][0]["content"]
    long["messages"][0]["content"] = f"{text[: len(text) // 2]} needle {text[len(text) // 2 :]}"
    yield Case("one line of 30 MB", plain, long)
    talk = [{"role": "user", "content": f"message {number} of a long talk " * 10} for number in range(2000)]
    talk[1000]["content"] += "needle"
    yield Case("2,000 messages, one changed", plain, {"model": "m", "messages": talk})
    all_changed = [{"role": "user", "content": f"needle {number} " * 20} for number in range(2000)]
    yield Case("2,000 messages, all changed", plain, {"model": "m", "messages": all_changed})
    farm = "needle in a haystack, a cow and a red roof"
    by_four = [{"role": "user", "content": f"{farm} {number} " * 10} for number in range(2000)]
    yield Case("2,000 messages, four policies", plain, {"model": "m", "messages": by_four})
    short = [{"role": "user", "content": f"needle {number}"} for number in range(10_000)]
    yield Case("10,000 messages changed", plain, {"model": "m", "messages": short})
    big = [{"role": "user", "content": f"word needle of a long text {number} " * 40} for number in range(17_000)]
    answer = openai_response()
    answer["choices"][0]["message"]["content"] = "needle " + "answer in words " * 1_800_000
    yield Case("20 MB, and an answer of 29 MB", answers(answer), {"model": "m", "messages": big})
    yield Case("images of 20 MB", plain, {"model": "m", "messages": [_image(number) for number in range(10)]})
    frames = list(many_frames(100_000)())
    pieces = (b"".join(frames[at : at + 500]) for at in range(0, len(frames), 500))
    yield Case("a stream of 100,000 chunks", streams(*pieces), openai_request("needle", stream=True))


def _image(number: int) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(random.Random(number).randbytes(1_500_000)).decode()
    parts = [{"type": "text", "text": "a needle"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": parts}


def visit(page: Page, url: str) -> float:
    """Milliseconds from the click to the page that can be used."""
    page.goto("about:blank")
    page.goto(url, wait_until="load")
    return float(page.evaluate(_USABLE))


def measure(gateway: Gateway, provider: ScriptedProvider, page: Page, rounds: int) -> Iterator[str]:
    page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}")
    usual = 0.0
    for case in cases():
        provider.will(case.play)
        response = gateway.post("/v1/chat/completions", case.body)
        gateway.call(response)
        url = f"{gateway.url}/debug/calls/{call_id_of(response)}"
        first = visit(page, url)
        again = median(visit(page, url) for _ in range(rounds))
        usual = usual or again
        html = len(page.content().encode("utf-8", "replace"))
        elements = page.evaluate("document.querySelectorAll('*').length")
        yield (
            f"{case.name:30} {first:8.0f} ms {again:8.0f} ms {again / usual:8.1f}x {html / 1000:9.0f} kB"
            f" {elements:9} elements"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="luthien-bench-") as data, embedded_postgres(Path(data)) as dsn:
        migrate(dsn)
        provider = ScriptedProvider()
        with running_gateway(dsn, provider.url, _POLICIES) as gateway, browser_page() as page:
            print(f"{'':30} {'first':>11} {'again':>11} {'ratio':>9}")
            for line in measure(gateway, provider, page, rounds):
                print(line, flush=True)
        provider.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
