"""The debug pages over HTTP: who may see them, what they answer, and what hostile content cannot do."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape

import httpx
import pytest

from luthien.exchange import new_call_id
from tests.browser import browser_page, watched
from tests.playbook import DEADLINE_S, TOKEN, Gateway, ScriptedProvider, answers, running_gateway
from tests.tcp_proxy import proxy_to
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
PAGES = ["/debug/calls", "/debug/calls/{id}"]
TWINS = ["/debug/calls.json", "/debug/calls/{id}.json", "/debug/calls/{id}/diff.json"]
OTHERS = ["/debug", "/debug/calls/{id}/stages/request_original/raw", "/debug/help"]
HTML = {"accept": "text/html"}
CHANGING = {"policy": "add_system_message", "config": {"text": "Be kind."}}
ELSEWHERE = [
    "https://evil.example",
    "//evil.example",
    "/debug",
    "/debugger",
    "/v1/models",
    "/debug/../v1",
    "/debug/%2e%2E/v1",
    "/debug/..",
    "/debug/calls/..%2fx",
    "/debug//evil.example",
    "/debug/calls?x=//evil",
    "/debug/\\evil.example",
    "/debug/%5cevil.example",
    "/debug/calls\r\nset-cookie: x",
    "/debug/calls%0d%0ax",
    "/debug/\ta",
    "/debug/\u2029",
    " /debug/calls",
    "/debug/calls?" + "x" * 4000,
    "",
]


@pytest.fixture
def call_id(gateway: Gateway, provider: ScriptedProvider) -> str:
    provider.will(answers(openai_response("Hi")))
    return str(gateway.call(gateway.post(OPENAI, openai_request("Hello")))["call_id"])


@contextmanager
def signed_in_browser(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=HTML, follow_redirects=True, timeout=DEADLINE_S) as browser:
        response = browser.get("/debug/sign-in", params={"token": TOKEN})
        assert response.url.path == "/debug/calls"
        assert TOKEN not in str(response.url)
        yield browser


def test_nobody_sees_anything_without_signing_in(gateway: Gateway, call_id: str) -> None:
    """From this very machine neither; and the token itself is not the cookie."""
    attempts: list[dict[str, str]] = [
        {},
        HTML,
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"luthien_debug={TOKEN}"},
        {"cookie": "luthien_debug=", "host": "localhost"},
    ]
    for path in [*PAGES, *TWINS, *OTHERS]:
        for headers in attempts:
            response = gateway.get(path.format(id=call_id), headers=headers)
            assert response.status_code == 401, (path, headers)
            assert "Hello" not in response.text


def test_without_a_token_nobody_can_sign_in(record_database: str, provider: ScriptedProvider) -> None:
    with running_gateway(record_database, provider.url, debug_token=None) as gateway:
        for token in ("x", TOKEN, "None"):
            assert gateway.get("/debug/calls.json", {"authorization": f"Bearer {token}"}).status_code == 401
            assert gateway.get(f"/debug/sign-in?token={token}", HTML).status_code == 401
        assert "LUTHIEN_DEBUG_TOKEN" in gateway.get("/debug/sign-in", HTML).text


def test_a_browser_signs_in_by_link_or_by_form(gateway: Gateway, call_id: str) -> None:
    with signed_in_browser(gateway) as browser:
        assert call_id in browser.get("/debug/calls").text
        cookie = next(iter(browser.cookies.jar))
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "lax"
        assert cookie.value != TOKEN
    with httpx.Client(base_url=gateway.url, headers=HTML, follow_redirects=True, timeout=DEADLINE_S) as browser:
        assert browser.post("/debug/sign-in", data={"token": "wrong"}).status_code == 401
        assert browser.post("/debug/sign-in", data={"token": TOKEN}).url.path == "/debug/calls"


def test_the_sign_in_link_leads_to_our_own_pages_only(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url, timeout=DEADLINE_S) as browser:
        for ours in ("/debug/calls/x", "/debug/calls/x?layout=side&model=a%20b#op-1", "/debug/sessions?id=%2F%2Fx"):
            response = browser.get("/debug/sign-in", params={"token": TOKEN, "next": ours})
            assert response.headers["location"] == ours
        for elsewhere in ELSEWHERE:
            linked = browser.get("/debug/sign-in", params={"token": TOKEN, "next": elsewhere})
            sent = browser.post("/debug/sign-in", data={"token": TOKEN, "next": elsewhere})
            for response in (linked, sent):
                assert (response.status_code, response.headers["location"]) == (303, "/debug/calls"), elsewhere


@pytest.mark.parametrize(
    "query", ["layout=side&fold=0", "text=//x", "text=%22%3E%3Cscript%3E&before=%2F%2F", "a=\\b"]
)
def test_a_deep_link_survives_the_sign_in(gateway: Gateway, query: str) -> None:
    """By the form on the page that was refused, also after a wrong token."""
    with httpx.Client(base_url=gateway.url, headers=HTML, timeout=DEADLINE_S) as browser:
        refused = browser.get(f"/debug/calls?{query}")
        assert refused.status_code == 401
        target = hidden_target(refused.text)
        failed = browser.post("/debug/sign-in", data={"token": "wrong", "next": target})
        assert hidden_target(failed.text) == target
        signed_in = browser.post("/debug/sign-in", data={"token": TOKEN, "next": target})
        led_to = httpx.URL(signed_in.headers["location"])
        if "\\" not in query:
            assert led_to.path == "/debug/calls"
            assert led_to.params == httpx.QueryParams(query)


def hidden_target(html: str) -> str:
    [target] = re.findall(r'<input type="hidden" name="next" value="([^"]*)">', html)
    return unescape(target)


def test_the_cookie_goes_with_pages_and_not_with_calls(gateway: Gateway, call_id: str) -> None:
    with signed_in_browser(gateway) as browser:
        [cookie] = browser.cookies.jar
        assert cookie.path == "/debug"
        old_link = browser.get(f"/v2/debug/request/{call_id}")
        assert old_link.url.path == f"/debug/calls/{call_id}"
        assert old_link.status_code == 200
        for path, carries in (("/debug", True), ("/debug/calls", True), ("/v1/models", False), ("/debugger", False)):
            assert ("cookie" in browser.build_request("GET", path).headers) is carries, path


WRONG = [("GET", "/debug/calls?limit=abc", 422), ("GET", "/debug/nothing", 404), ("GET", "/debug/", 404)]
WRONG += [("POST", "/debug/calls", 405), ("GET", "/v2/debug/request/x", 422), ("PURGE", "/debug/calls", 405)]


@pytest.mark.parametrize(("method", "path", "status"), WRONG)
def test_mistakes_are_said_in_words_to_people_and_in_json_to_scripts(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    for accept, kind in (("text/html", "text/html"), ("*/*", "application/json")):
        headers = {**gateway.headers, "accept": accept}
        response = httpx.request(method, gateway.url + path, headers=headers, timeout=DEADLINE_S)
        assert response.status_code == status
        assert response.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        if status == 405:
            assert response.headers["allow"] == "GET"
    assert response.json().keys() == {"error"}
    assert gateway.get("/nothing", {}).json() == {"detail": "Not Found"}


def test_browsers_find_the_icon_also_for_what_is_no_page(gateway: Gateway) -> None:
    icon = gateway.get("/favicon.ico", {})
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")


def test_a_permalink_survives_the_sign_in_with_what_is_behind_its_hash(gateway: Gateway, call_id: str) -> None:
    with browser_page() as page:
        page.goto(f"{gateway.url}/debug/calls/{call_id}?layout=side#stages")
        page.fill("input[name=token]", TOKEN)
        page.click("form button")
        page.wait_for_url(f"{gateway.url}/debug/calls/{call_id}?layout=side#stages")
        assert page.locator("h1").is_visible()
        troubles = watched(page)
        page.goto(f"{gateway.url}/debug/calls/{call_id}.json")
        page.goto(f"{gateway.url}/debug/calls")
        assert troubles == []


def test_a_form_on_another_site_cannot_sign_in(gateway: Gateway) -> None:
    elsewhere = {"origin": "https://evil.example"}
    response = httpx.post(
        f"{gateway.url}/debug/sign-in", data={"token": TOKEN}, headers=elsewhere, timeout=DEADLINE_S
    )
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


def test_every_page_carries_the_headers_of_hostile_content(gateway: Gateway, call_id: str) -> None:
    for path in [*PAGES, *TWINS, *OTHERS, "/debug/sign-in", "/debug/static/luthien.css"]:
        response = gateway.get(path.format(id=call_id))
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self';" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"


def test_the_page_and_its_json_twin(gateway: Gateway, call_id: str) -> None:
    page = gateway.get(f"/debug/calls/{call_id}", gateway.headers | HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "no policy looked at this call" in page.text
    by_accept = gateway.get(f"/debug/calls/{call_id}", gateway.headers | {"accept": "application/json"})
    assert by_accept.json() == gateway.get(f"/debug/calls/{call_id}.json").json()
    assert by_accept.json()["verdict"] == "no policy looked at this call"


def test_the_diff_has_the_documented_shape(gateway: Gateway, call_id: str) -> None:
    diff = gateway.diff(call_id)
    assert diff["request"] == {
        "algo": diff["request"]["algo"],
        "summary": {"same": 3, "added": 0, "removed": 0, "changed": 0, "moved": 0},
        "degraded": False,
        "ops": [],
    }


def test_the_seeds_address_leads_to_the_page(gateway: Gateway, call_id: str) -> None:
    response = gateway.get(f"/v2/debug/request/{call_id}")
    assert response.status_code == 308
    assert response.headers["location"] == f"/debug/calls/{call_id}"


def test_raw_stages_are_attachments(gateway: Gateway, call_id: str) -> None:
    response = gateway.get(f"/debug/calls/{call_id}/stages/request_original/raw")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment;")
    assert json.loads(response.content) == openai_request("Hello")
    assert gateway.get(f"/debug/calls/{call_id}/stages/nonsense/raw").status_code == 404


def test_one_stage_is_served_without_reading_the_others(record_database: str, provider: ScriptedProvider) -> None:
    """Two stages of a request of 300 kB, and two of a response of some bytes."""
    provider.will(answers(openai_response("Hi")))
    with (
        proxy_to(record_database) as proxy,
        running_gateway(proxy.dsn(record_database), provider.url, [CHANGING], index=False) as gateway,
    ):
        call = gateway.call(gateway.post(OPENAI, openai_request("Hello " * 50_000)))
        for way in ("raw", "text"):
            before = proxy.answered_bytes
            served = gateway.get(f"/debug/calls/{call['call_id']}/stages/response_final/{way}")
            assert "Hi" in served.text
            assert proxy.answered_bytes - before < 100_000
        original = gateway.get(f"/debug/calls/{call['call_id']}/stages/request_original/raw")
        assert len(original.content) > 300_000


def test_an_unknown_call_is_404_and_a_young_one_202(gateway: Gateway) -> None:
    old = uuid.UUID("01900000-0000-7000-8000-000000000000")
    for path in ("/debug/calls/{id}", "/debug/calls/{id}.json", "/debug/calls/{id}/diff.json"):
        for headers in (gateway.headers, gateway.headers | HTML):
            for unknown in (str(old), "not-an-id", "<script>"):
                assert gateway.get(path.format(id=unknown), headers).status_code == 404
            young = gateway.get(path.format(id=new_call_id()), headers)
            assert young.status_code == 202
            assert young.headers["retry-after"] == "1"


def test_calls_are_listed_newest_first_and_paged_by_key(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    made = [gateway.post(OPENAI, openai_request()).headers["luthien-call-id"] for _ in range(5)]
    gateway.call(made[-1])
    seen: list[str] = []
    path: str | None = "/debug/calls.json?limit=2"
    while path:
        page = gateway.get(path).json()
        assert len(page["calls"]) <= 2
        seen += [call["call_id"] for call in page["calls"]]
        path = page["next"]
    assert seen == made[::-1]
    html = gateway.get("/debug/calls?limit=2", gateway.headers | HTML).text
    assert f"before={made[3]}" in html
    for wrong in ("limit=0", "limit=1000", "before=x"):
        assert gateway.get(f"/debug/calls.json?{wrong}").status_code == 422


def test_a_list_without_calls_says_what_to_do(gateway: Gateway) -> None:
    assert "curl" in gateway.get("/debug/calls", gateway.headers | HTML).text
    assert gateway.get("/debug/calls.json").json() == {"calls": [], "next": None}


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}\u202eevil\u200b\x07"


def test_what_clients_and_providers_say_is_shown_and_never_active(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    provider.will(answers(openai_response(HOSTILE) | {"model": HOSTILE, "id": HOSTILE}))
    body = openai_request(HOSTILE) | {"model": HOSTILE, HOSTILE: HOSTILE}
    response = gateway.post(OPENAI, body, headers={"luthien-session-id": "<script>"})
    gateway.call(response)
    for path in ("/debug/calls", f"/debug/calls/{response.headers['luthien-call-id']}"):
        html = gateway.get(path, gateway.headers | HTML).text
        assert "<script>" not in html
        assert "<img src=x" not in html
        assert "\u202e" not in html
        assert "\u200b" not in html
    assert "U+202E" in html
    assert "{{7*7}}" in html


def test_ready_means_that_calls_can_be_recorded(gateway: Gateway, database: str, provider: ScriptedProvider) -> None:
    ready = gateway.get("/readyz", {}).json()
    assert ready.pop("configuration").keys() == {"version", "is_behind"}
    assert ready == {"status": "ready"}
    assert gateway.get("/healthz", {}).json() == {"status": "alive"}
    with running_gateway(database, provider.url, grace_s=1.0) as unmigrated:
        response = unmigrated.get("/readyz", {})
        assert response.status_code == 503
        assert "luthien migrate" in response.json()["reason"]


def test_with_the_database_away_pages_say_so_and_calls_go_on(provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("Hi")))
    away = "postgresql://nobody@127.0.0.1:9/none"
    with running_gateway(away, provider.url, grace_s=1.0) as gateway:
        assert gateway.get("/readyz", {}).status_code == 503
        response = gateway.post(OPENAI, openai_request())
        assert response.json()["choices"][0]["message"]["content"] == "Hi"
        for path, headers in (("/debug/calls.json", {}), ("/debug/calls", HTML)):
            page = gateway.get(path, gateway.headers | headers)
            assert page.status_code == 503
            assert "database is away" in page.text
