"""A call's page in a real browser: what it shows in each state, its keys, and what it does while a call runs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from luthien.exchange import STAGES, new_call_id
from tests.browser import browser_page, watched
from tests.playbook import (
    DEADLINE_S,
    TOKEN,
    Gateway,
    ScriptedProvider,
    Turn,
    answers,
    eventually,
    running_gateway,
    streams,
)
from tests.wire import openai_request, openai_response, openai_stream

OPENAI = "/v1/chat/completions"
POLICIES: list[dict[str, Any]] = [
    {"policy": "add_system_message", "config": {"text": "Be kind."}},
    {"policy": "replace_text", "config": {"rules": [{"find": "secret", "replace": "[hidden]"}]}},
    {"policy": "replace_text", "mode": "shadow", "config": {"rules": [{"find": "Hello", "replace": "Bye"}]}},
]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202eevil\u200b"


@pytest.fixture
def gateway(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, POLICIES) as running:
        yield running


def made_call(gateway: Gateway, provider: ScriptedProvider, answer: str = "Hello, a secret", **more: Any) -> str:
    provider.will(answers(openai_response(answer)))
    return str(gateway.call(gateway.post(OPENAI, openai_request("Tell me a secret"), **more))["call_id"])


@contextmanager
def opened(gateway: Gateway, path: str, **options: Any) -> Iterator[Page]:
    """A page of a signed-in browser in which nothing must go wrong."""
    with browser_page(**options) as page:
        page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}&next=/debug/help")
        troubles = watched(page)
        page.goto(gateway.url + path)
        yield page
        assert troubles == []


def violations(page: Page) -> list[str]:
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in Axe().run(page).response["violations"]]


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def pressed(page: Page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def focused(page: Page) -> str:
    """The id of what has the focus, or of what it is in."""
    return str(page.evaluate("document.activeElement.closest('[id]')?.id ?? ''"))


def test_every_part_is_there_and_accessible(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(*openai_stream("Hello ", "sec", "ret", " end")))
    call_id = gateway.call(gateway.post(OPENAI, openai_request("a secret", stream=True)))["call_id"]
    with opened(gateway, f"/debug/calls/{call_id}", dark=True, width=360) as page:
        expect(page.locator(".verdict")).to_contain_text("add_system_message added 1 message")
        for heading in ("Decisions", "Request", "Response", "Stream", "Times", "Stages"):
            expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        for landmark in ("Calls", "Export", "On this page"):
            expect(page.get_by_role("navigation", name=landmark)).to_be_visible()
        for details in page.locator("details").all():
            details.evaluate("element => { element.open = true; }")
        assert overflow(page) == 0
        assert violations(page) == []


def test_the_header_says_what_came_of_the_call(gateway: Gateway, provider: ScriptedProvider) -> None:
    call_id = made_call(gateway, provider)
    with opened(gateway, f"/debug/calls/{call_id}") as page:
        header = page.locator("header.call")
        said = header.inner_text()
        for part in ("completed", "HTTP 200", "complete", "All that this call recorded is here.", "9 in, 3 out"):
            assert part in said
        for part in ("whole", "provider", "policies", "gateway", "from the provider, once asked", "to the client"):
            assert part in said
        assert "gpt-test asked, gpt-test-2026 used" in said


def test_what_why_at_what_cost_and_how_certain_stand_on_the_first_screen(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    call_id = made_call(gateway, provider)
    with opened(gateway, f"/debug/calls/{call_id}") as page:
        page.set_viewport_size({"width": 1280, "height": 800})
        rows = page.locator(".answers > div")
        assert [row.locator("dt").inner_text() for row in rows.all()] == ["Outcome", "Why", "Cost", "Trust"]
        for row, said in zip(
            rows.all()[1:],
            (
                "add_system_message (request) added a system message; replace_text (request) replaced 1 match",
                "in policies",
                "complete",
            ),
            strict=True,
        ):
            expect(row).to_contain_text(said)
            expect(row).to_be_in_viewport()
        expect(rows.last).to_contain_text("Every change is traced to who made it.")
        expect(page.locator("#decisions tbody tr").first).to_be_in_viewport()


def test_decisions_are_anchors_and_shadow_is_told_apart(gateway: Gateway, provider: ScriptedProvider) -> None:
    call_id = made_call(gateway, provider)
    with opened(gateway, f"/debug/calls/{call_id}") as page:
        rows = page.locator("#decisions tbody tr")
        expect(rows).to_have_count(5)
        expect(rows.first).to_have_attribute("id", "decision-1")
        expect(rows.first).to_contain_text("added a system message")
        rows.first.get_by_role("link", name="r").first.click()
        page.wait_for_url("**#request-r*")
        expect(page.locator(":target")).to_be_in_viewport()
        expect(page.locator(":target")).to_contain_text("by add_system_message")
        page.locator(":target .blame").first.click()
        page.wait_for_url("**#decision-1")
        expect(page.locator("#decision-1")).to_be_in_viewport()
        last = rows.last
        expect(last.locator("th")).to_contain_text("shadow")
        last.get_by_role("link", name="would have changed").click()
        shadow = page.locator("#shadow > details")
        expect(shadow).to_have_count(1)
        expect(shadow.locator("del").first).to_have_text("Hello")
        expect(shadow.locator("ins").first).to_have_text("Bye")
        assert violations(page) == []


def test_ids_are_copied_by_button_and_by_key(gateway: Gateway, provider: ScriptedProvider) -> None:
    call_id = made_call(gateway, provider)
    with opened(gateway, f"/debug/calls/{call_id}") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy id").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == call_id
        page.evaluate("navigator.clipboard.writeText('')")
        page.keyboard.press("c")
        page.wait_for_function(f"async () => await navigator.clipboard.readText() === '{call_id}'")


def test_the_neighbours_are_those_of_the_list_that_was_come_from(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    provider.will(answers(openai_response("Hello")))
    made = [
        gateway.post(OPENAI, openai_request(), headers={"luthien-session-id": session}).headers["luthien-call-id"]
        for session in ("a", "b", "a", "b", "a")
    ]
    for each in made:
        gateway.call(each)
    with opened(gateway, f"/debug/calls/{made[2]}?session=a") as page:
        for key, where in (
            ("]", f"/debug/calls/{made[0]}?session=a"),
            ("[", f"/debug/calls/{made[2]}?session=a"),
            ("[", f"/debug/calls/{made[4]}?session=a"),
            ("u", "/debug/calls?session=a"),
        ):
            page.keyboard.press(key)
            page.wait_for_url(gateway.url + where)
        page.goto(f"{gateway.url}/debug/calls/{made[2]}")
        expect(page.get_by_role("link", name="Older call")).to_have_attribute("href", f"/debug/calls/{made[1]}")
        page.goto(f"{gateway.url}/debug/calls/{made[2]}?since=nonsense&session=a")
        expect(page.get_by_role("link", name="All calls")).to_have_attribute("href", "/debug/calls")


class TestKeys:
    def test_j_and_k_move_the_focus_through_a_list_and_o_opens(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        made = [made_call(gateway, provider) for _ in range(3)]
        with opened(gateway, "/debug/calls") as page:
            for key, place in (("j", 2), ("j", 1), ("j", 0), ("j", 0), ("k", 1)):
                page.keyboard.press(key)
                assert page.evaluate("document.activeElement.getAttribute('href')").startswith(
                    f"/debug/calls/{made[place]}"
                )
                expect(page.locator("[data-row][aria-current=true]")).to_have_count(1)
                expect(page.locator("[data-row][aria-current=true]")).to_contain_text(made[place][:18])
            page.keyboard.press("o")
            page.wait_for_url(f"**/debug/calls/{made[1]}*")

    def test_n_and_p_move_from_change_to_change(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        call_id = made_call(gateway, provider)
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            changes = page.locator("[data-op]")
            count = changes.count()
            assert count >= 2
            ids = [changes.nth(place).get_attribute("id") for place in range(count)]
            seen = []
            for key in "n" * count + "p":
                page.keyboard.press(key)
                seen.append(focused(page))
            assert seen == [*ids, ids[-2]]

    def test_j_stops_at_decisions_changes_and_stages_and_enter_unfolds(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        call_id = made_call(gateway, provider)
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            page.keyboard.press("j")
            assert focused(page) == "decision-1"
            page.keyboard.press("k")
            assert focused(page) == "decision-1"
            page.evaluate("document.querySelector('#stage-request_final summary').focus()")
            page.keyboard.press("j")
            assert focused(page) == "stage-response_original"
            page.keyboard.press("Enter")
            expect(page.locator("#stage-response_original pre")).to_be_visible()
            page.keyboard.press("o")
            expect(page.locator("#stage-response_original pre")).not_to_be_visible()

    def test_help_is_a_dialog_a_link_and_a_page(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        with opened(gateway, "/debug/calls") as page:
            dialog = page.get_by_role("dialog", name="Keys")
            page.keyboard.press("?")
            expect(dialog).to_be_visible()
            assert violations(page) == []
            page.keyboard.press("Escape")
            expect(dialog).not_to_be_visible()
            page.get_by_role("link", name="Keys").click()
            expect(dialog).to_be_visible()
        with opened(gateway, "/debug/calls", javascript=False) as page:
            page.get_by_role("link", name="Keys").click()
            expect(page.get_by_role("heading", name="Keys")).to_be_visible()
            assert page.url.endswith("/debug/help")

    def test_keys_do_nothing_with_modifiers_in_fields_or_when_they_are_off(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        call_id = made_call(gateway, provider)
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            current = page.locator("[data-block][aria-current=true]")
            for held in ("Control", "Alt", "Meta"):
                page.keyboard.press(f"{held}+j")
            expect(current).to_have_count(0)
            page.evaluate("document.querySelector('main').append(document.createElement('input'))")
            page.locator("main > input").click()
            pressed(page, "jun?")
            assert page.locator("main > input").input_value() == "jun?"
            expect(current).to_have_count(0)
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press("?")
            page.get_by_role("checkbox", name="These keys are on").uncheck()
            page.get_by_role("button", name="Close").click()
            page.keyboard.press("j")
            expect(current).to_have_count(0)
            page.reload()
            page.keyboard.press("j")
            expect(current).to_have_count(0)

    def test_s_and_w_switch_how_diffs_are_shown(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        call_id = made_call(gateway, provider)
        with opened(gateway, f"/debug/calls/{call_id}?session=") as page:
            page.keyboard.press("s")
            page.wait_for_url("**layout=side*")
            page.keyboard.press("w")
            page.wait_for_url("**whitespace=1*")
            page.keyboard.press("s")
            page.wait_for_url(lambda url: "layout" not in url and "whitespace=1" in url)

    def test_g_then_c_goes_to_the_calls(self, gateway: Gateway) -> None:
        with opened(gateway, "/debug/help") as page:
            pressed(page, "gc")
            page.wait_for_url("**/debug/calls")


class TestStages:
    def test_small_payloads_are_on_the_page_and_large_ones_come_when_asked_for(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        call_id = made_call(gateway, provider, answer="Hello " + "x" * 450_000 + " the end")
        html = gateway.get(f"/debug/calls/{call_id}", gateway.headers | {"accept": "text/html"}).text
        assert len(html) < 150_000
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            stage = page.locator("#stage-response_original")
            stage.locator("summary").click()
            expect(stage.locator("pre")).to_contain_text("Hello xxx")
            for _ in range(2):
                stage.get_by_role("link", name="Show more").click()
                expect(stage.locator("p[aria-busy]")).to_have_count(0)
            expect(stage.locator("pre").last).to_contain_text("the end")
            assert violations(page) == []

    def test_without_javascript_the_text_is_a_link_away(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(json.dumps(openai_response(HOSTILE + "x" * 300_000), ensure_ascii=False).encode()))
        call_id = gateway.call(gateway.post(OPENAI, openai_request()))["call_id"]
        with opened(gateway, f"/debug/calls/{call_id}", javascript=False) as page:
            stage = page.locator("#stage-response_original")
            stage.locator("summary").click()
            href = stage.get_by_role("link", name="Show the text").get_attribute("href")
            assert href == f"/debug/calls/{call_id}/stages/response_original/text"
        text = gateway.get(href)
        assert text.headers["content-type"] == "text/plain; charset=utf-8"
        assert text.headers["luthien-next"] == "200000"
        assert "\u27e8U+202E\u27e9evil\u27e8U+200B\u27e9" in text.text
        rest = gateway.get(f"/debug/calls/{call_id}/stages/response_original/text?start=200000")
        assert "luthien-next" not in rest.headers
        assert gateway.get(f"/debug/calls/{call_id}/stages/nonsense/text").status_code == 404
        beyond = gateway.get(f"/debug/calls/{call_id}/stages/response_original/text?start=99999999")
        assert (beyond.status_code, beyond.text) == (200, "")

    def test_sizes_hashes_and_headers_are_there(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(openai_response("Hi"), headers={"x-request-id": "req_7"}))
        call = gateway.call(gateway.post(OPENAI, openai_request(), headers={"user-agent": "tests/1.0"}))
        with opened(gateway, f"/debug/calls/{call['call_id']}") as page:
            for name, header in (("request_original", "tests/1.0"), ("response_original", "req_7")):
                stage = page.locator(f"#stage-{name}")
                stage.locator("summary").click()
                expect(stage).to_contain_text(call["stages"][name]["payload_sha256"])
                expect(stage.locator("table")).to_contain_text(header)
                with page.expect_download() as download:
                    stage.get_by_role("link", name="Download").click()
                assert download.value.suggested_filename == f"{call['call_id']}-{name}.bin"


class TestStream:
    def test_both_lanes_are_drawn_with_what_policies_did(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(streams(*openai_stream("Hello ", "a sec", "ret", " end"), pause_s=0.02))
        call_id = gateway.call(gateway.post(OPENAI, openai_request(stream=True)))["call_id"]
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            stream = page.locator("#stream")
            frames = gateway.get(f"/debug/calls/{call_id}.json").json()["timeline"]["frames"]
            expect(stream.locator("rect.came[data-frame]")).to_have_count(frames)
            expect(stream.locator(".lanes text.lane").filter(has_text="replace_text")).to_have_count(1)
            assert stream.locator(".lanes use.rewritten").count() >= 1
            expect(stream.locator(".lanes use.first")).to_have_count(2)
            expect(stream).to_contain_text("The first from the provider")
            expect(stream).to_contain_text("The first to the client")
            slider = stream.get_by_role("slider", name="Look at one")
            slider.focus()
            page.keyboard.press("ArrowRight")
            expect(stream.locator("output")).to_contain_text("Frame 1: ")
            assert "Frame 1: " in (slider.get_attribute("aria-valuetext") or "")
            stream.locator("summary").click()
            expect(stream.locator("tbody tr")).to_have_count(frames)
            assert violations(page) == []

    def test_a_stream_of_many_chunks_is_a_small_page(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        pieces = openai_stream(*(f"w{number} " for number in range(20_000)))
        provider.will(streams(b"".join(pieces[:8000]), b"".join(pieces[8000:])))
        call_id = gateway.call(gateway.post(OPENAI, openai_request(stream=True)))["call_id"]
        with opened(gateway, f"/debug/calls/{call_id}", width=360) as page:
            stream = page.locator("#stream")
            assert 0 < stream.locator("rect").count() < 1000
            assert len(stream.inner_html()) < 200_000
            assert overflow(page) == 0


def _crowd(own: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A caller with a missing parent, 500 spans below it, and a call of two spans."""
    times = {"startTimeUnixNano": "1000000", "endTimeUnixNano": "9000000"}
    yield {"spanId": "f" * 16, "parentSpanId": "e" * 16, "name": "agent", **times}
    for number in range(500):
        before = {"startTimeUnixNano": "1000000", "endTimeUnixNano": "2000000"}
        yield {"spanId": f"{number:016x}", "parentSpanId": "f" * 16, "name": f"step {number}", **before}
    late = {"startTimeUnixNano": "8000000", "endTimeUnixNano": "9000000", "attributes": own}
    yield {"spanId": "a" * 16, "parentSpanId": "f" * 16, "name": "server", **late}
    yield {"spanId": "b" * 16, "parentSpanId": "a" * 16, "name": "luthien.exchange", **late}


class TestTempo:
    def test_spans_are_drawn_when_tempo_answers(self, record_database: str, provider: ScriptedProvider) -> None:
        tempo = ScriptedProvider()
        try:
            with running_gateway(record_database, provider.url, tempo_url=tempo.url) as gateway:
                call_id = made_call(gateway, provider)
                own = [{"key": "luthien.call_id", "value": {"stringValue": call_id}}]
                spans = [
                    {"spanId": "1" * 16, "name": "luthien.exchange", "startTimeUnixNano": "1000000"}
                    | {"endTimeUnixNano": "9000000", "attributes": own},
                    {"spanId": "2" * 16, "parentSpanId": "1" * 16, "name": HOSTILE, "startTimeUnixNano": "2000000"}
                    | {"endTimeUnixNano": "3000000", "status": {"code": 2}},
                ]
                tempo.will(answers({"batches": [{"resource": {}, "scopeSpans": [{"spans": spans}]}]}))
                with opened(gateway, f"/debug/calls/{call_id}") as page:
                    rows = page.locator("[data-spans] tbody tr")
                    expect(rows).to_have_count(2)
                    expect(rows.first).to_contain_text("luthien.exchange")
                    expect(rows.last).to_contain_text("<script>alert(1)</script>")
                    expect(rows.last).to_contain_text("\u27e8U+202E\u27e9evil")
                    expect(rows.last).to_contain_text("called by the call")
                    expect(rows.last).to_contain_text("error")
                    expect(rows.last.locator("rect")).to_have_attribute("x", "12.5%")
                    assert violations(page) == []
        finally:
            tempo.close()

    def test_of_a_long_trace_the_page_shows_what_is_around_the_call(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        """And the rest when it is asked for. One that Tempo does not have yet is asked for again, by itself."""
        tempo = ScriptedProvider()
        try:
            with running_gateway(
                record_database, provider.url, tempo_url=tempo.url, grafana_url="http://grafana.example"
            ) as gateway:
                call_id = made_call(gateway, provider)
                own = [{"key": "luthien.call_id", "value": {"stringValue": call_id}}]
                tempo.will(
                    answers({}, status=404),
                    answers({"traces": []}),
                    answers({"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [*_crowd(own)]}]}]}}),
                )
                with browser_page() as page:
                    page.clock.install()
                    page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}&next=/debug/calls/{call_id}")
                    expect(page.locator("[data-trace-said]")).to_contain_text("may still be on its way")
                    page.clock.fast_forward(5000)
                    rows = page.locator("[data-spans] tbody tr")
                    expect(rows).to_have_count(3)
                    expect(rows.nth(0)).to_contain_text("caller")
                    expect(rows.nth(0)).to_contain_text("parent not in Tempo")
                    assert violations(page) == []
                    assert overflow(page) == 0
                    page.get_by_role("button", name="Show the other 500 spans").click()
                    expect(rows).to_have_count(503)
                    expect(page.locator("[data-spans] text.bar-span").first).to_have_text("◂")
                    for name in ("Open in Grafana", "search by call id"):
                        link = page.locator("#trace").get_by_role("link", name=name)
                        expect(link).to_have_attribute("href", re.compile(r"^http://grafana\.example/explore\?"))
                    expect(page.locator("#trace").get_by_role("button", name="Copy")).to_be_visible()
        finally:
            tempo.close()

    def test_the_page_is_there_while_tempo_is_away(self, record_database: str, provider: ScriptedProvider) -> None:
        with running_gateway(record_database, provider.url, tempo_url="http://127.0.0.1:9") as gateway:
            call_id = made_call(gateway, provider)
            with opened(gateway, f"/debug/calls/{call_id}") as page:
                expect(page.locator("[data-trace-said]")).to_contain_text("Tempo cannot be reached")
                page.get_by_role("button", name="Ask again").click()
                expect(page.get_by_role("button", name="Ask again")).to_be_visible()
            with opened(gateway, f"/debug/calls/{call_id}", javascript=False) as page:
                link = page.get_by_role("link", name="Ask Tempo")
                expect(link).to_have_attribute("href", f"/debug/calls/{call_id}/trace.json")


class TestStates:
    def test_a_running_call_is_updated_in_place_until_it_is_over(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        gate = provider.gate()
        pieces = openai_stream("Hello", " you")

        async def waits(turn: Turn) -> None:
            await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
            await turn.chunk(pieces[0] + pieces[1])
            await gate.wait()
            await turn.chunk(b"".join(pieces[2:]))
            await turn.send(b"0\r\n\r\n")

        provider.will(waits)
        with running_gateway(record_database, provider.url, POLICIES, checkpoint_s=0.05) as gateway:
            body = json.dumps(openai_request(stream=True))
            calling = threading.Thread(
                target=lambda: httpx.post(gateway.url + OPENAI, content=body, timeout=DEADLINE_S * 3)
            )
            calling.start()
            try:
                call_id = gateway.only_call_id()
                states = f"/debug/calls/{call_id}.json"
                eventually(
                    lambda: gateway.get(states).json(),
                    lambda call: call["stages"]["response_original"]["state"] == "partial",
                )
                with opened(gateway, f"/debug/calls/{call_id}") as page:
                    expect(page.locator(".outcome.running")).to_be_visible()
                    expect(page.locator("#stage-response_original .tag").first).to_have_text("partial")
                    expect(page.locator("#times")).to_contain_text("not recorded yet")
                    assert violations(page) == []
                    page.evaluate("window.isTheSamePage = true")
                    page.locator("#stage-request_original summary").click()
                    gate.open()
                    expect(page.locator(".outcome.completed")).to_be_visible()
                    expect(page.locator("#stream")).to_be_visible()
                    expect(page.locator("[data-refresh]")).to_have_count(0)
            finally:
                gate.open()
                calling.join(DEADLINE_S)

    def test_without_javascript_a_running_call_refreshes_itself(self, gateway: Gateway, record_database: str) -> None:
        html = gateway.get(f"/debug/calls/{new_call_id()}", gateway.headers | {"accept": "text/html"}).text
        assert '<noscript><meta http-equiv="refresh" content="1"></noscript>' in html

    def test_a_call_of_which_nothing_is_there_yet_appears(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        with opened(gateway, f"/debug/calls/{new_call_id()}") as page:
            expect(page.get_by_role("heading", name="Not stored yet")).to_be_visible()
            assert violations(page) == []

    def test_an_unknown_call_is_said_to_be_none(self, gateway: Gateway) -> None:
        with browser_page() as page:
            page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}&next=/debug/help")
            page.goto(f"{gateway.url}/debug/calls/01900000-0000-7000-8000-000000000000?model=x")
            expect(page.get_by_role("heading", name="No such call")).to_be_visible()
            expect(page.get_by_role("link", name="All calls")).to_have_attribute("href", "/debug/calls?model=x")
            assert violations(page) == []

    def test_a_record_that_lost_something_says_what(
        self, gateway: Gateway, provider: ScriptedProvider, record_database: str
    ) -> None:
        call_id = made_call(gateway, provider)
        with psycopg.connect(record_database, autocommit=True) as conn:
            conn.execute(
                "DELETE FROM conversation_events WHERE call_id = %s AND event_type = 'response_original'", [call_id]
            )
            conn.execute(
                "UPDATE conversation_calls SET records_stored = records_stored - 1, stages_stored = stages_stored - 1"
                " WHERE call_id = %s",
                [call_id],
            )
        page_url = f"/debug/calls/{call_id}"
        eventually(
            lambda: gateway.get(f"{page_url}.json").json()["completeness"]["state"], lambda state: state == "partial"
        )
        with opened(gateway, page_url) as page:
            expect(page.locator("header.call .tag.partial")).to_be_visible()
            expect(page.locator(".verdict")).to_contain_text("response_original is missing")
            expect(page.locator("#stage-response_original .tag")).to_have_text("missing")
            expect(page.locator("#times")).to_contain_text("not recorded")
            expect(page.locator("[data-refresh]")).to_have_count(0)
            assert violations(page) == []

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_call_that_was_cut_off_and_one_of_which_nothing_was_kept_say_so(
        self, gateway: Gateway, provider: ScriptedProvider, record_database: str, kept: bool
    ) -> None:
        call_id = made_call(gateway, provider)
        process = "00000000-0000-0000-0000-0000000000aa"
        gone = ["response_final", "call_outcome"] if kept else [stage.value for stage in STAGES]
        row = (
            "UPDATE conversation_calls SET process_id = %s, stages_stored = 3, records_emitted = NULL,"
            " outcome = NULL, ended_at = NULL WHERE call_id = %s"
            if kept
            else "UPDATE conversation_calls SET process_id = %s, stages_stored = 0,"
            " records_stored = records_stored - 4 WHERE call_id = %s"
        )
        with psycopg.connect(record_database, autocommit=True) as conn:
            conn.execute(
                "INSERT INTO conversation_processes (process_id, host, pid, version, started_at, seen_at, ended_at,"
                " ended_how) VALUES (%s, 'h', 1, '0', now(), now(), now(), 'died')",
                [process],
            )
            conn.execute(row, [process, call_id])
            conn.execute(
                "DELETE FROM conversation_events WHERE call_id = %s AND event_type = ANY(%s)", [call_id, gone]
            )
        state = "interrupted" if kept else "failed"
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            expect(page.locator(f"header.call .tag.{state}")).to_be_visible()
            expect(page.locator("#stage-response_final .tag")).to_have_text("missing")
            expect(page.locator("[data-refresh]")).to_have_count(0)
            expect(page.locator("#times")).to_contain_text("not recorded")
            assert violations(page) == []

    def test_a_payload_that_is_not_json_is_shown_as_it_is(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(b"<h1>busy</h1>\x00\xff"))
        call_id = gateway.call(gateway.post(OPENAI, openai_request()))["call_id"]
        with opened(gateway, f"/debug/calls/{call_id}") as page:
            expect(page.locator(".outcome.upstream_error")).to_be_visible()
            expect(page.locator("header.call .bad").first).to_contain_text("not a JSON object")
            stage = page.locator("#stage-response_original")
            stage.locator("summary").click()
            expect(stage.locator("pre")).to_contain_text("<h1>busy</h1>U+0000")
            assert violations(page) == []

    def test_with_the_database_away_that_is_said(self, provider: ScriptedProvider) -> None:
        away = "postgresql://nobody@127.0.0.1:9/none"
        with running_gateway(away, provider.url, grace_s=1.0) as gateway, browser_page() as page:
            page.goto(f"{gateway.url}/debug/sign-in?token={TOKEN}&next=/debug/help")
            page.goto(f"{gateway.url}/debug/calls/{new_call_id()}")
            expect(page.get_by_role("heading", name="The database is away")).to_be_visible()
            assert violations(page) == []

    def test_what_clients_and_providers_say_stays_text(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(
            answers(
                openai_response(HOSTILE) | {"model": HOSTILE, "id": HOSTILE}, headers={"x-request-id": "<script>"}
            )
        )
        body = openai_request(HOSTILE) | {"model": HOSTILE, HOSTILE: HOSTILE}
        response = gateway.post(OPENAI, body, headers={"luthien-session-id": "<script>", "user-agent": "<img>"})
        call_id = gateway.call(response)["call_id"]
        with opened(gateway, f"/debug/calls/{call_id}?model=%3Cscript%3E&session=%22%3E%3Cimg%3E") as page:
            for details in page.locator("details").all():
                details.evaluate("element => { element.open = true; }")
            assert page.locator("main script, main img").count() == 0
            assert "\u202e" not in page.content()
