"""The debug pages over HTTP: who may see them, what they answer, and what hostile content cannot do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from luthien.exchange import new_call_id
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, running_gateway
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
PAGES = ["/debug/calls", "/debug/calls/{id}"]
TWINS = ["/debug/calls.json", "/debug/calls/{id}.json", "/debug/calls/{id}/diff.json"]
OTHERS = ["/debug", "/debug/calls/{id}/stages/request_original/raw", "/v2/debug/request/{id}"]
HTML = {"accept": "text/html"}


@pytest.fixture
def call_id(gateway: Gateway, provider: ScriptedProvider) -> str:
    provider.will(answers(openai_response("Hi")))
    return str(gateway.call(gateway.post(OPENAI, openai_request("Hello")))["call_id"])


@contextmanager
def signed_in_browser(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=HTML, follow_redirects=True, timeout=20) as browser:
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
    with httpx.Client(base_url=gateway.url, headers=HTML, follow_redirects=True) as browser:
        assert browser.post("/debug/sign-in", data={"token": "wrong"}).status_code == 401
        assert browser.post("/debug/sign-in", data={"token": TOKEN}).url.path == "/debug/calls"


def test_the_sign_in_link_leads_to_our_own_pages_only(gateway: Gateway) -> None:
    ours = gateway.get(f"/debug/sign-in?token={TOKEN}&next=/debug/calls/x", HTML)
    assert ours.headers["location"] == "/debug/calls/x"
    for elsewhere in ("https://evil.example", "//evil.example", "/debug/../v1", "/debug/calls?x=//evil"):
        response = httpx.get(gateway.url + "/debug/sign-in", params={"token": TOKEN, "next": elsewhere})
        assert "evil" not in response.headers.get("location", "")


def test_a_form_on_another_site_cannot_sign_in(gateway: Gateway) -> None:
    response = httpx.post(
        f"{gateway.url}/debug/sign-in", data={"token": TOKEN}, headers={"origin": "https://evil.example"}
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
