"""Gateway keys in a running gateway: replaced, never forwarded, never kept anywhere."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from luthien.exchange import STAGES
from luthien.telemetry import conventions as names
from tests.otlp_receiver import OtlpReceiver, attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import anthropic_request, anthropic_response, anthropic_stream, openai_request, openai_response

OPENAI, ANTHROPIC, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
A, B, OPENAI_KEY, ANTHROPIC_KEY = ("lk-team-a-5b1e2f80", "lk-team-b-77aa01c4", "sk-openai-9e2", "sk-ant-41c")
KEYS: dict[str, Any] = {
    "keys": [
        {
            "name": "team-a",
            "key": {"env": "KEY_A"},
            "upstreams": {"openai": {"env": "KEY_OPENAI"}, "anthropic": {"env": "KEY_ANTHROPIC"}},
        },
        {
            "name": "team-b",
            "key": {"sha256": hashlib.sha256(B.encode()).hexdigest()},
            "upstreams": {"openai": {"env": "KEY_OPENAI"}},
            "trusted": True,
        },
    ],
}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KEY_A": A, "KEY_OPENAI": OPENAI_KEY, "KEY_ANTHROPIC": ANTHROPIC_KEY}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def keyed(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, more=KEYS) as gateway:
        yield gateway


@pytest.fixture
def closed(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    """One that takes no keys but its own."""
    with running_gateway(record_database, provider.url, more=KEYS | {"accept_provider_keys": False}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("path", "shown", "body", "credential"),
    [
        (OPENAI, {"authorization": f"Bearer {A}"}, openai_request(), ("authorization", f"Bearer {OPENAI_KEY}")),
        (OPENAI, {"x-api-key": A}, openai_request(), ("authorization", f"Bearer {OPENAI_KEY}")),
        (ANTHROPIC, {"x-api-key": A}, anthropic_request(), ("x-api-key", ANTHROPIC_KEY)),
        (ANTHROPIC, {"authorization": f"Bearer {A}"}, anthropic_request(), ("x-api-key", ANTHROPIC_KEY)),
        ("/v1/embeddings", {"authorization": f"Bearer {A}"}, {}, ("authorization", f"Bearer {OPENAI_KEY}")),
        ("/v1/messages/count_tokens", {"x-api-key": A}, {}, ("x-api-key", ANTHROPIC_KEY)),
    ],
)
def test_the_provider_gets_its_own_key_and_the_record_a_name(
    keyed: Gateway,
    provider: ScriptedProvider,
    path: str,
    shown: dict[str, str],
    body: Any,
    credential: tuple[str, str],
) -> None:
    provider.will(answers(openai_response()))
    response = keyed.post(path, body, headers=shown)
    assert response.status_code == 200
    headers = provider.turns[0].headers
    assert {name: headers[name] for name in ("authorization", "x-api-key") if name in headers} == dict([credential])
    assert A not in str(headers)
    call = keyed.call(response)
    assert (call["outcome"], call["gateway_key"]) == ("completed", "team-a")
    listed = keyed.get("/debug/calls.json").json()["calls"]
    assert [each["gateway_key"] for each in listed] == ["team-a"]
    page = keyed.get(f"/debug/calls/{call['call_id']}", {**keyed.headers, "accept": "text/html"}).text
    assert "team-a" in page
    assert call["configuration"] in page


def test_a_providers_key_passes_as_it_is(keyed: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    response = keyed.post(OPENAI, openai_request(), headers={"authorization": "Bearer sk-mine"})
    assert provider.turns[0].headers["authorization"] == "Bearer sk-mine"
    assert keyed.call(response)["gateway_key"] is None


@pytest.mark.parametrize("shown", [{}, {"authorization": "Bearer sk-mine"}, {"x-api-key": A[:-1]}])
@pytest.mark.parametrize("path", [OPENAI, RESPONSES, ANTHROPIC, "/v1/models", "/v1/files"])
def test_who_has_no_key_is_told_so_and_its_body_is_not_recorded(
    closed: Gateway, provider: ScriptedProvider, path: str, shown: dict[str, str], record_database: str
) -> None:
    provider.will(answers(openai_response()))
    response = closed.post(path, {"model": "m", "private": "of nobody's business"}, headers=shown)
    assert response.status_code == 401
    error = response.json()["error"]
    assert error["type"] in ("authentication_error", "invalid_request_error")
    assert "a gateway key is wanted" in error["message"]
    assert provider.turns == []
    call = closed.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("rejected", "invalid_api_key")
    assert {stage: call["stages"][stage]["state"] for stage in STAGES} == {
        "request_original": "not_reached",
        "request_final": "not_reached",
        "response_original": "not_reached",
        "response_final": "gateway_generated",
    }
    assert b"nobody" not in everything(record_database)


def test_a_key_that_is_not_for_this_provider(keyed: Gateway, provider: ScriptedProvider) -> None:
    response = keyed.post(ANTHROPIC, anthropic_request(), headers={"x-api-key": B})
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"
    assert "'team-b' is not for anthropic" in response.json()["error"]["message"]
    call = keyed.call(response)
    assert (call["outcome"], call["gateway_key"], call["error"]["type"]) == (
        *("rejected", "team-b"),
        "no_provider_key",
    )
    assert provider.turns == []


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC, "/v1/models", "/v1/files"])
@pytest.mark.parametrize("shown", [{}, {"x-api-key": A}])
def test_a_key_in_the_url_is_neither_passed_on_nor_kept(
    keyed: Gateway, provider: ScriptedProvider, path: str, shown: dict[str, str], record_database: str
) -> None:
    response = keyed.post(f"{path}?key={A}", {"private": "of nobody's business"}, headers=shown)
    assert (response.status_code, "stands in the URL" in response.json()["error"]["message"]) == (400, True)
    call = keyed.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("rejected", "key_in_query")
    assert provider.turns == []
    kept = everything(record_database)
    assert A.encode() not in kept
    assert b"nobody" not in kept


def test_no_key_is_kept_anywhere(
    record_database: str,
    provider: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in the database, in what is logged at any level, nor in what is exported."""
    provider.will(answers(openai_response()), streams(*anthropic_stream("Hi")), answers(openai_response()))
    caplog.set_level(logging.DEBUG)
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with running_gateway(record_database, provider.url, [{"policy": "noop"}], more=KEYS) as gateway:
            for path, body, headers in (
                (OPENAI, openai_request(), {"authorization": f"Bearer {A}", "user-agent": f"me {A}"}),
                (ANTHROPIC, anthropic_request(stream=True), {"x-api-key": A}),
                ("/v1/embeddings", {}, {"authorization": f"Bearer {B}"}),
                (ANTHROPIC, anthropic_request(), {"x-api-key": B}),
                (OPENAI, b"no JSON", {"authorization": f"Bearer {B}"}),
            ):
                gateway.call(gateway.post(path, body, headers=headers))
        exported = b"".join(receiver.bodies)
        assert_on_spans(receiver, ["team-a", "team-a", "team-b", "team-b", "team-b"])
    for secret in (A, B, OPENAI_KEY, ANTHROPIC_KEY):
        assert secret.encode() not in everything(record_database)
        assert secret.encode() not in exported
        assert secret not in caplog.text


def assert_on_spans(receiver: OtlpReceiver, keys: list[str]) -> None:
    exchanges = [attributes_of(span.attributes) for span in receiver.spans if span.name == names.EXCHANGE]
    assert sorted(str(exchange[names.GATEWAY_KEY]) for exchange in exchanges) == sorted(keys)


def everything(dsn: str) -> bytes:
    """All that the database holds, as text and as bytes."""
    found: list[bytes] = []
    with psycopg.connect(dsn) as conn:
        conn.autocommit = True  # no lock is kept that partitions are made behind
        for table in ("calls", "events", "quarantine", "processes"):
            for (row,) in conn.execute(f"SELECT t::text FROM conversation_{table} AS t"):  # noqa: S608
                found.append(row.encode())
        found += [
            bytes(payload) for (payload,) in conn.execute("SELECT coalesce(payload, '') FROM conversation_events")
        ]
    assert len(found) > 3
    return b"\n".join(found)


@pytest.mark.parametrize(("key", "is_joined"), [(A, False), (B, True), ("sk-mine-and-unknown", False)])
def test_the_trace_of_a_trusted_key_is_joined(
    record_database: str, provider: ScriptedProvider, key: str, is_joined: bool
) -> None:
    provider.will(answers(openai_response()))
    with running_gateway(record_database, provider.url, more=KEYS, trusted_networks="none") as gateway:
        headers = {"authorization": f"Bearer {key}", "traceparent": TRACEPARENT}
        call = gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))
    assert (call["trace_id"] == TRACEPARENT.split("-")[1]) is is_joined


def test_an_anthropic_answer_is_whole(keyed: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(anthropic_response()))
    assert keyed.post(ANTHROPIC, anthropic_request(), headers={"x-api-key": A}).json() == anthropic_response()
