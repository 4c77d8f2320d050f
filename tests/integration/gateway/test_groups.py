"""Groups in a running gateway: each call goes through the policies of its own, and its record says which."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from luthien.policies.policy import Policy, Request, Verdict
from luthien.policies.registry import BUILTIN
from luthien.telemetry import conventions as names
from tests.otlp_receiver import attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway
from tests.wire import anthropic_request, anthropic_response, openai_request, openai_response

OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
KEY = "lk-0123456789abcdef"


class AsksForAnother(Policy):
    """Rewrites the model to one that another group would take."""

    async def on_request(self, request: Request) -> Verdict:
        request.body["model"] = "vip-model"
        return Verdict.modify()


def says(text: str) -> dict[str, Any]:
    return {"policy": "add_system_message", "config": {"text": text}}


MORE: dict[str, Any] = {
    "keys": [
        {
            "name": "team-a",
            "key": {"sha256": hashlib.sha256(KEY.encode()).hexdigest()},
            "upstreams": {"openai": {"env": "KEY_OPENAI"}},
        }
    ],
    "groups": [
        {"name": "keyed", "match": {"keys": ["team-a"]}, "policies": [says("keyed"), {"use": "default"}]},
        {"name": "vip", "match": {"models": ["vip-*"]}, "policies": [says("vip")]},
        {"name": "messages", "match": {"routes": [ANTHROPIC]}, "policies": [says("messages"), {"use": "vip"}]},
        {"name": "rewriting", "match": {"models": ["small"]}, "policies": [{"policy": "asks_for_another"}]},
    ],
}


@pytest.fixture
def grouped(record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("KEY_OPENAI", "sk-openai")
    monkeypatch.setitem(BUILTIN, "asks_for_another", AsksForAnother)
    with running_gateway(record_database, provider.url, [says("default")], more=MORE) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("path", "body", "headers", "group", "said"),
    [
        (OPENAI, openai_request(), {"authorization": f"Bearer {KEY}"}, "keyed", ["default", "keyed"]),
        (OPENAI, openai_request(model="vip-1"), {"authorization": f"Bearer {KEY}"}, "keyed", ["default", "keyed"]),
        (OPENAI, openai_request(model="vip-1"), {}, "vip", ["vip"]),
        (OPENAI, openai_request(), {}, None, ["default"]),
        (OPENAI, {"messages": [{"role": "user", "content": "no model"}]}, {}, None, ["default"]),
    ],
)
def test_each_condition(
    grouped: Gateway,
    provider: ScriptedProvider,
    path: str,
    body: Any,
    headers: dict[str, str],
    group: str | None,
    said: list[str],
) -> None:
    provider.will(answers(openai_response()))
    call = grouped.call(grouped.post(path, body, headers=headers))
    assert call["group"] == group
    told = [each["content"] for each in provider.turns[0].json["messages"] if each["role"] == "system"]
    assert told == said
    assert [each["name"] for each in call["policies"]] == ["add_system_message"] * len(said)
    assert [decision["side"] for decision in call["decisions"]] == ["request"] * len(said)


def test_a_route(grouped: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(anthropic_response()))
    call = grouped.call(grouped.post(ANTHROPIC, anthropic_request()))
    assert call["group"] == "messages"
    assert provider.turns[0].json["system"] == "vip\n\nmessages"
    page = grouped.get(f"/debug/calls/{call['call_id']}", {**grouped.headers, "accept": "text/html"}).text
    assert "group messages" in page


def test_a_call_keeps_its_group_whatever_its_policies_make_of_the_model(
    grouped: Gateway, provider: ScriptedProvider
) -> None:
    provider.will(answers(openai_response()))
    call = grouped.call(grouped.post(OPENAI, openai_request(model="small")))
    assert provider.turns[0].json == openai_request(model="vip-model")
    assert call["group"] == "rewriting"


def test_no_group_takes_what_is_passed_through(grouped: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers({}))
    response = grouped.post("/v1/embeddings", {"model": "vip-1"}, headers={"authorization": f"Bearer {KEY}"})
    call = grouped.call(response)
    assert (call["group"], call["policies"], call["gateway_key"]) == (None, [], "team-a")
    assert provider.turns[0].json == {"model": "vip-1"}


def test_a_request_that_is_no_json_has_the_group_of_its_path(grouped: Gateway) -> None:
    call = grouped.call(grouped.post(ANTHROPIC, b"no"))
    assert (call["outcome"], call["group"]) == ("rejected", "messages")


def test_spans_name_the_group_and_the_configuration(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.will(answers(openai_response()))
    group = {"name": "it", "match": {"models": ["gpt-*"]}, "policies": []}
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with running_gateway(record_database, provider.url, more={"groups": [group]}) as gateway:
            call = gateway.call(gateway.post(OPENAI, openai_request()))
        [exchange] = [attributes_of(span.attributes) for span in receiver.spans if span.name == names.EXCHANGE]
    assert exchange[names.POLICY_GROUP] == "it"
    assert exchange[names.CONFIG_VERSION] == call["configuration"]
