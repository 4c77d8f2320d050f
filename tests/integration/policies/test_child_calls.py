"""A policy that asks a model: a call of its own, recorded, linked both ways, and ended with the one it is part of."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from pydantic import BaseModel, ConfigDict

from luthien.formats.registry import OPENAI_CHAT
from luthien.pipeline.children import MAX_CHILDREN
from luthien.policies.policy import CallContext, Credential, ModelFailed, Policy, Request, Response, Verdict
from luthien.policies.registry import BUILTIN
from tests.otlp_receiver import attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import Gateway, Play, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.wire import (
    anthropic_request,
    anthropic_response,
    openai_request,
    openai_response,
    responses_request,
    responses_response,
)

OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
KEY, CLIENTS_KEY = "sk-own-0123456789abcdef", "sk-client-0123456789abcdef"
ASKED = {
    "openai.chat_completions": openai_request("Is it fine?"),
    "openai.responses": responses_request("Is it fine?"),
    "anthropic.messages": anthropic_request("Is it fine?"),
}
RESPONSES = {
    "openai.chat_completions": openai_response("Fine."),
    "openai.responses": responses_response("Fine."),
    "anthropic.messages": anthropic_response("Fine."),
}


class AskingConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = "openai.chat_completions"
    credential: Credential
    timeout_s: float | None = None
    at_once: int = 1
    stream: bool = False


class Asking(Policy):
    """Asks a model about each request, and goes on with its answer in the details."""

    Config = AskingConfig

    async def on_request(self, request: Request) -> Verdict:
        asked = [self._ask() for _ in range(self.config.at_once)]
        answers = await asyncio.gather(*asked)
        said = self.call.format.response_texts(answers[0].body) or []
        return Verdict.allow().with_details(
            asked_call_id=str(answers[0].call_id), said=said[0].text if said else str(answers[0].body["model"])
        )

    async def _ask(self) -> Any:
        body = ASKED[self.config.format] | ({"stream": True} if self.config.stream else {})
        return await self.call.models.ask(
            self.config.format, body, credential=self.config.credential, timeout_s=self.config.timeout_s
        )


class AskingAfterwards(Asking):
    async def on_request(self, request: Request) -> Verdict:
        return Verdict.allow()

    async def on_response(self, response: Response) -> Verdict:
        answer = await self._ask()
        return Verdict.annotate("asked").with_details(asked_call_id=str(answer.call_id))

    async def on_chunk(self, chunk: Any) -> Any:
        return (chunk,)


@pytest.fixture(autouse=True)
def policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILTIN, "asking", Asking)
    monkeypatch.setitem(BUILTIN, "asking_afterwards", AskingAfterwards)
    monkeypatch.setenv("OWN_KEY", KEY)


def asking(name: str = "asking", **config: Any) -> list[dict[str, Any]]:
    return [{"policy": name, "config": {"credential": {"env": "OWN_KEY"}, **config}}]


def is_asked(turn: Turn) -> bool:
    return b"Is it fine?" in turn.body


def both(asked: Play, otherwise: Play) -> Play:
    """One provider plays the model that is asked, and the one that the client calls."""

    async def play(turn: Turn) -> None:
        await (asked if is_asked(turn) else otherwise)(turn)

    return play


@pytest.fixture
def model(provider: ScriptedProvider) -> ScriptedProvider:
    provider.will(both(answers(openai_response("Fine.")), answers(openai_response("Hello there"))))
    return provider


@pytest.mark.parametrize("format_name", [*ASKED])
def test_a_child_call_is_a_call_and_both_know_of_each_other(
    record_database: str, provider: ScriptedProvider, format_name: str
) -> None:
    provider.will(both(answers(RESPONSES[format_name]), answers(openai_response("Hello there"))))
    with running_gateway(record_database, provider.url, asking(format=format_name)) as gateway:
        response = gateway.post(OPENAI, openai_request("Hello"))
        assert response.json() == openai_response("Hello there")
        call = gateway.call(response)
        (child,) = call["children"]
        assert child["outcome"] == "completed"
        (decision,) = [each for each in call["decisions"] if each["side"] == "request"]
        assert decision["details"]["asked_call_id"] == child["call_id"] != call["call_id"]
        recorded = gateway.call(child["call_id"])
        assert recorded["parent"] == call["call_id"]
        assert recorded["wire_format"] == format_name
        assert recorded["trace_id"] == call["trace_id"]
        assert recorded["children"] == recorded["decisions"] == recorded["policies"] == []
        assert call["parent"] is None
        assert [stage["state"] for stage in recorded["stages"].values()] == ["recorded"] * 4
        assert recorded["stages"]["request_original"]["payload"] == ASKED[format_name]
        assert recorded["stages"]["response_final"]["payload"] == RESPONSES[format_name]
        assert recorded["completeness"]["state"] == call["completeness"]["state"] == "complete"
        assert recorded["tokens"] == {"input": 9, "output": 3}
        listed = {each["call_id"]: each["parent"] for each in gateway.get("/debug/calls.json").json()["calls"]}
        assert listed == {call["call_id"]: None, child["call_id"]: call["call_id"]}
        headers = {**gateway.headers, "accept": "text/html"}
        pages = {each: gateway.get(f"/debug/calls/{each}", headers).text for each in listed}
        assert f'href="/debug/calls/{child["call_id"]}"' in pages[call["call_id"]]
        assert f'href="/debug/calls/{call["call_id"]}"' in pages[child["call_id"]]
        assert f'href="/debug/calls/{call["call_id"]}">asked by a policy' in gateway.get("/debug/calls", headers).text
    turn = next(turn for turn in provider.turns if is_asked(turn))
    shown = turn.headers["x-api-key"] if format_name.startswith("anthropic") else turn.headers["authorization"]
    assert shown.removeprefix("Bearer ") == KEY


@pytest.mark.parametrize(
    ("path", "ask", "header"),
    [(OPENAI, openai_request, "authorization"), (ANTHROPIC, anthropic_request, "x-api-key")],
    ids=["openai", "anthropic"],
)
def test_the_clients_credential_goes_to_a_model_of_the_same_provider_only(
    record_database: str, model: ScriptedProvider, path: str, ask: Any, header: str
) -> None:
    config = {"credential": "client", "format": "openai.chat_completions"}
    with running_gateway(record_database, model.url, [{"policy": "asking", "config": config}]) as gateway:
        response = gateway.post(path, ask("Hello"), headers={header: CLIENTS_KEY, "cookie": "a=1"})
        asked = [turn for turn in model.turns if is_asked(turn)]
        if path == OPENAI:
            assert [turn.headers["authorization"] for turn in asked] == [CLIENTS_KEY]
            assert "cookie" not in asked[0].headers
        else:
            assert not model.turns
            (decision,) = gateway.call(response)["decisions"]
            assert decision["action"] == "error"
            assert "the client's credential is for anthropic" in decision["reason"]
            assert response.status_code == 500


def test_no_credential_is_shown_unless_there_is_one(record_database: str, model: ScriptedProvider) -> None:
    with running_gateway(record_database, model.url, asking(credential="none")) as gateway:
        gateway.post(OPENAI, openai_request("Hello"), headers={"authorization": f"Bearer {CLIENTS_KEY}"})
    (asked,) = [turn for turn in model.turns if is_asked(turn)]
    assert not {"authorization", "x-api-key"} & {*asked.headers}


def test_no_credential_is_in_the_record_or_in_spans(
    record_database: str, model: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with running_gateway(record_database, model.url, asking()) as gateway:
            response = gateway.post(
                OPENAI, openai_request("Hello"), headers={"authorization": f"Bearer {CLIENTS_KEY}"}
            )
            call = gateway.call(response)
            child_id = call["children"][0]["call_id"]
            gateway.call(child_id)
        stored = everything_in(record_database)
        assert b"Is it fine?" in stored
        for secret in (KEY, CLIENTS_KEY):
            assert secret.encode() not in stored
            assert not [body for body in receiver.bodies if secret.encode() in body]
        assert not [body for body in receiver.bodies if b"Fine." in body or b"Is it fine?" in body]
        spans = {span.span_id: span for span in receiver.spans}
        attributes = {id_: attributes_of(span.attributes) for id_, span in spans.items()}
        assert {each.get("luthien.call_id") for each in attributes.values()} == {call["call_id"], child_id}
        (exchange,) = [
            span
            for id_, span in spans.items()
            if span.name == "luthien.exchange" and attributes[id_]["luthien.call_id"] == child_id
        ]
        asking_span = spans[exchange.parent_span_id]
        assert asking_span.name == "luthien.policy.request"
        assert attributes[asking_span.span_id]["luthien.call_id"] == call["call_id"]
        assert attributes[exchange.span_id]["luthien.parent_call_id"] == call["call_id"]
        of_child = {span.name for id_, span in spans.items() if attributes[id_].get("luthien.call_id") == child_id}
        assert of_child == {
            "luthien.exchange",
            "luthien.receive",
            "luthien.policy.request",
            "chat gpt-test",
            "luthien.policy.response",
        }


def everything_in(dsn: str) -> bytes:
    """Every row of the record, as text, and the bytes that payloads are."""
    tables = ("conversation_calls", "conversation_events", "conversation_quarantine")
    with psycopg.connect(dsn) as conn:
        rows = [
            str(row[0]).encode()
            for table in tables
            for row in conn.execute(sql.SQL("SELECT row_to_json(t)::text FROM {} AS t").format(sql.Identifier(table)))
        ]
        payloads = conn.execute("SELECT payload FROM conversation_events WHERE payload IS NOT NULL").fetchall()
    return b"\n".join([*rows, *(payload for (payload,) in payloads)])


def test_several_at_once(record_database: str, model: ScriptedProvider) -> None:
    with running_gateway(record_database, model.url, asking(at_once=5)) as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request("Hello")))
        assert call["outcome"] == "completed"
        assert len({child["call_id"] for child in call["children"]}) == 5


def test_a_policy_that_asks_without_end_breaks(record_database: str, model: ScriptedProvider) -> None:
    with running_gateway(record_database, model.url, asking(at_once=MAX_CHILDREN + 1)) as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request("Hello")))
    assert call["outcome"] == "policy_error"
    (decision,) = call["decisions"]
    assert decision["reason"] == "ModelFailed: the policies of one call may ask models 100 times, and have done so"
    assert len([turn for turn in model.turns if is_asked(turn)]) <= MAX_CHILDREN


@pytest.mark.parametrize(
    ("said", "exported"),
    [({"headers": {"luthien-session-id": "s-7"}}, "s-7"), ({"more": {"user": "jane"}}, None), ({}, None)],
    ids=["session", "user", "none"],
)
def test_a_child_belongs_to_the_session_of_its_parent(
    record_database: str,
    model: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, Any],
    exported: str | None,
) -> None:
    """Whatever the policy asks, and who asks is not exported of a child either."""
    monkeypatch.setitem(ASKED, "openai.chat_completions", openai_request("Is it fine?") | {"prompt_cache_key": "own"})
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with running_gateway(record_database, model.url, asking()) as gateway:
            request = openai_request("Hello") | said.get("more", {})
            call = gateway.call(gateway.post(OPENAI, request, headers=said.get("headers")))
            child = gateway.call(call["children"][0]["call_id"])
    assert child["session_id"] == call["session_id"] == (exported or said.get("more", {}).get("user"))
    exchanges = [attributes_of(span.attributes) for span in receiver.spans if span.name == "luthien.exchange"]
    assert [exchange.get("gen_ai.conversation.id") for exchange in exchanges] == [exported] * 2


@pytest.mark.parametrize(
    ("path", "ask", "header", "format_name"),
    [
        (OPENAI, openai_request, "authorization", "openai.chat_completions"),
        (ANTHROPIC, anthropic_request, "x-api-key", "anthropic.messages"),
    ],
    ids=["openai", "anthropic"],
)
@pytest.mark.parametrize("shown_in", ["authorization", "x-api-key"])
def test_in_the_place_of_a_gateway_key_the_providers_key_is_shown(
    record_database: str,
    provider: ScriptedProvider,
    path: str,
    ask: Any,
    header: str,
    format_name: str,
    shown_in: str,
) -> None:
    gateway_key = "lk-team-a-5b1e2f80aa"
    key = {
        "name": "team-a",
        "key": {"sha256": hashlib.sha256(gateway_key.encode()).hexdigest()},
        "upstreams": {"openai": {"env": "OWN_KEY"}, "anthropic": {"env": "OWN_KEY"}},
    }
    provider.will(both(answers(RESPONSES[format_name]), answers(RESPONSES[format_name])))
    config = asking(credential="client", format=format_name)
    with running_gateway(record_database, provider.url, config, more={"keys": [key]}) as gateway:
        value = f"Bearer {gateway_key}" if shown_in == "authorization" else gateway_key
        call = gateway.call(gateway.post(path, ask("Hello"), headers={shown_in: value}))
        child = gateway.call(call["children"][0]["call_id"])
    assert (call["outcome"], child["outcome"]) == ("completed", "completed")
    assert child["gateway_key"] == "team-a"
    (asked,) = [turn for turn in provider.turns if is_asked(turn)]
    assert asked.headers[header].removeprefix("Bearer ") == KEY
    assert not [turn for turn in provider.turns if gateway_key in str(turn.headers)]
    assert gateway_key.encode() not in everything_in(record_database)


def test_a_child_of_the_response_side(record_database: str, model: ScriptedProvider) -> None:
    with running_gateway(record_database, model.url, asking("asking_afterwards")) as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request("Hello")))
        assert [each["action"] for each in call["decisions"]] == ["allow", "annotate"]
        assert call["decisions"][1]["details"] == {"asked_call_id": call["children"][0]["call_id"]}
        assert call["changed"] == {"request": False, "response": False}


@pytest.mark.parametrize(
    ("play", "reason", "outcome"),
    [
        (answers({"error": {"message": "no sk-…"}}, status=401), "status 401", "upstream_error"),
        (answers(b"Fine."), "not a JSON object", "completed"),
        (answers(b"", status=500), "status 500", "upstream_error"),
    ],
    ids=["refused", "garbage", "error"],
)
def test_a_model_that_does_not_answer_breaks_the_policy(
    record_database: str, provider: ScriptedProvider, play: Play, reason: str, outcome: str
) -> None:
    provider.will(both(play, answers(openai_response("Hello there"))))
    with running_gateway(record_database, provider.url, asking()) as gateway:
        response = gateway.post(OPENAI, openai_request("Hello"))
        assert response.status_code == 500
        assert "no sk-" not in response.text
        call = gateway.call(response)
        assert call["outcome"] == "policy_error"
        (decision,), (child,) = call["decisions"], call["children"]
        assert decision["action"] == "error"
        assert decision["reason"].startswith("ModelFailed: ")
        assert reason in decision["reason"]
        assert decision["details"] == {"asked_call_id": child["call_id"]}
        assert child["outcome"] == outcome
    assert all(is_asked(turn) for turn in provider.turns)


def test_a_model_that_takes_too_long(record_database: str, provider: ScriptedProvider) -> None:
    gate = provider.gate()

    async def never(turn: Turn) -> None:
        await gate.wait()

    provider.will(both(never, answers(openai_response("Hello there"))))
    with running_gateway(record_database, provider.url, asking(timeout_s=1)) as gateway:
        response = gateway.post(OPENAI, openai_request("Hello"))
        call = gateway.call(response)
        assert call["outcome"] == "policy_error"
        assert call["decisions"][0]["reason"] == "ModelFailed: the model did not answer within 1 s"
        child = gateway.call(call["children"][0]["call_id"])
        assert (child["outcome"], child["error"]["message"]) == ("client_disconnected", "the policy no longer waits")
        assert child["completeness"]["state"] == "complete"
        gate.open()


def test_it_ends_when_the_client_hangs_up(record_database: str, provider: ScriptedProvider) -> None:
    gate = provider.gate()

    async def never(turn: Turn) -> None:
        await gate.wait()

    provider.will(both(never, answers(openai_response("Hello there"))))
    with running_gateway(record_database, provider.url, asking()) as gateway:
        with closing(hanging(gateway)):
            eventually(lambda: provider.turns, bool)
        calls = eventually(
            lambda: gateway.get("/debug/calls.json").json()["calls"],
            lambda calls: len(calls) == 2 and all(call["outcome"] for call in calls),
        )
        assert {call["outcome"] for call in calls} == {"client_disconnected"}
        (parent,) = [gateway.call(call["call_id"]) for call in calls if call["parent"] is None]
        (child,) = [gateway.call(call["call_id"]) for call in calls if call["parent"]]
        assert parent["error"]["message"] == "the client hung up"
        assert child["error"]["message"] == "the policy no longer waits"
        assert parent["completeness"]["state"] == child["completeness"]["state"] == "complete"
        assert [stage["state"] for stage in child["stages"].values()] == [
            "recorded",
            "recorded",
            *["not_reached"] * 2,
        ]
        gate.open()


def hanging(gateway: Gateway) -> socket.socket:
    """A client that has asked, and may hang up."""
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    body = b'{"model": "gpt-test", "messages": [{"role": "user", "content": "Hello"}]}'
    connection.sendall(f"POST {OPENAI} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_it_ends_when_the_gateway_stops(record_database: str, provider: ScriptedProvider) -> None:
    gate = provider.gate()

    async def never(turn: Turn) -> None:
        await gate.wait()

    provider.will(both(never, answers(openai_response("Hello there"))))
    with running_gateway(record_database, provider.url, asking(), grace_s=0.1) as gateway:
        client = hanging(gateway)
        eventually(lambda: provider.turns, bool)
    with closing(client):
        assert b"gateway_stopped" in client.recv(65536)
    gate.open()
    with running_gateway(record_database, provider.url) as later:
        calls = later.get("/debug/calls.json").json()["calls"]
        assert {(call["outcome"], call["parent"] is None) for call in calls} == {
            ("policy_error", True),
            ("client_disconnected", False),
        }
        assert {call["completeness"]["state"] for call in calls} == {"complete"}


class Careless(Asking):
    """Waits for the first of several answers only."""

    async def on_request(self, request: Request) -> Verdict:
        asked = [asyncio.create_task(self._ask()) for _ in range(2)]  # noqa: TID251 - that is what is careless
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        return Verdict.allow()


def test_one_that_nobody_waits_for_is_ended_when_the_gateway_stops(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILTIN, "careless", Careless)
    gate = provider.gate()

    async def second_never(turn: Turn) -> None:
        if len([each for each in provider.turns if is_asked(each)]) == 2:
            await gate.wait()
        await answers(openai_response("Fine."))(turn)

    provider.will(both(second_never, answers(openai_response("Hello there"))))
    with running_gateway(record_database, provider.url, asking("careless"), grace_s=0.1) as gateway:
        assert gateway.post(OPENAI, openai_request("Hello")).status_code == 200
    gate.open()
    with running_gateway(record_database, provider.url) as later:
        calls = later.get("/debug/calls.json").json()["calls"]
        assert sorted(call["outcome"] for call in calls if call["parent"]) == ["client_disconnected", "completed"]
        assert {call["completeness"]["state"] for call in calls} == {"complete"}


@pytest.mark.parametrize("config", [{"stream": True}, {"format": "openai.chat_completions", "credential": "client"}])
def test_what_cannot_be_asked(record_database: str, model: ScriptedProvider, config: dict[str, Any]) -> None:
    """No child call is begun."""
    with running_gateway(record_database, model.url, asking(**config)) as gateway:
        call = gateway.call(gateway.post(ANTHROPIC, anthropic_request("Hello")))
        assert call["outcome"] == "policy_error"
        assert call["children"] == []
    assert model.turns == []


async def test_without_a_gateway_no_model_can_be_asked() -> None:
    call = CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=False)
    with pytest.raises(ModelFailed):
        await call.models.ask("openai.chat_completions", {})
