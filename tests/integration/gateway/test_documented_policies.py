"""What `docs/policies.md` says of `redact` and `limit` is what the official SDKs see through a real gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import yaml

from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import (
    DONE,
    anthropic_event,
    anthropic_response,
    anthropic_stream,
    openai_chunk,
    openai_response,
    openai_stream,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "policies.md"
EMAIL, IBAN, CARD = "jane@example.com", "DE89370400440532013000", "4111111111111111"
KEY = "sk-" + "proj-" + "aB3dE5gH7jK9mN1pQ3sT5vX7"


def documented(policy: str) -> list[dict[str, Any]]:
    """The example in the section on a policy."""
    section = DOCUMENT.read_text().partition(f"\n## `{policy}`\n")[2].partition("\n## ")[0]
    [example] = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    policies: list[dict[str, Any]] = yaml.safe_load(example)["policies"]
    assert [entry["policy"] for entry in policies] == [policy]
    return policies


@pytest.fixture
def redacting(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, documented("redact")) as gateway:
        yield gateway


@pytest.fixture
def limiting(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, documented("limit")) as gateway:
        yield gateway


def openai_client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-client", max_retries=0)


def anthropic_client(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key="sk-ant-client", max_retries=0)


def decisions(gateway: Gateway, call_id: str) -> list[tuple[str, str, str]]:
    return [(made["side"], made["action"], made["reason"]) for made in gateway.call(call_id)["decisions"]]


def test_openai_plain(redacting: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response(f"[email-1] has [iban-1] and {CARD}")))
    with openai_client(redacting) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": f"{EMAIL} {IBAN} {CARD}"}]
        )
    assert provider.turns[0].json["messages"][0]["content"] == "[email-1] [iban-1] [card]"
    assert raw.parse().choices[0].message.content == f"{EMAIL} has {IBAN} and [card]"
    assert decisions(redacting, raw.headers["luthien-call-id"]) == [
        ("request", "modify", "redacted 1 card, 1 email, 1 iban"),
        ("response", "modify", "redacted 1 card; gave back 1 email, 1 iban"),
    ]


def test_openai_streamed_with_a_tool(redacting: Gateway, provider: ScriptedProvider) -> None:
    def calling(arguments: str) -> bytes:
        return openai_chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})

    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "send", "arguments": ""}}
    frames = [
        *openai_stream("To [em", "ai", "l-1] and", " [email-2", "].")[:-3],
        openai_chunk({"tool_calls": [start]}),
    ]
    frames += [calling('{"to": "[ema'), calling('il-1]"'), calling("}"), openai_chunk({}, "tool_calls"), DONE]
    provider.will(streams(*frames))
    with openai_client(redacting) as client:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": f"Write to {EMAIL}"}], stream=True
        )
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
        call_id = stream.response.headers["luthien-call-id"]
    assert "".join(delta.content or "" for delta in deltas) == f"To {EMAIL} and [email-2]."
    pieces = [call.function for delta in deltas for call in delta.tool_calls or []]
    assert json.loads("".join(piece.arguments or "" for piece in pieces if piece)) == {"to": EMAIL}
    assert decisions(redacting, call_id)[1] == ("response", "modify", "gave back 2 email")


def test_anthropic_plain_with_a_tool(redacting: Gateway, provider: ScriptedProvider) -> None:
    response = anthropic_response("I write to [email-1].")
    response["content"].append({"type": "tool_use", "id": "toolu_1", "name": "send", "input": {"to": ["[email-1]"]}})
    provider.will(answers(response))
    with anthropic_client(redacting) as client:
        message = client.messages.create(
            model="m",
            max_tokens=9,
            system=f"You work for {EMAIL}",
            messages=[{"role": "user", "content": "+1 415-555-2671"}],
        )
    assert provider.turns[0].json["system"] == "You work for [email-1]"
    assert provider.turns[0].json["messages"][0]["content"] == "[phone-1]"
    text, tool = message.content
    assert text.type == "text"
    assert text.text == f"I write to {EMAIL}."
    assert tool.type == "tool_use"
    assert tool.input == {"to": [EMAIL]}


def test_anthropic_streamed_with_a_tool(redacting: Gateway, provider: ScriptedProvider) -> None:
    frames = anthropic_stream("To [em", "ail-1", "].")
    block = {"type": "tool_use", "id": "toolu_1", "name": "send", "input": {}}
    tool = [
        {"type": "content_block_start", "index": 1, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": piece},
            }
            for piece in ('{"to": "[email', '-1]", "n":', " 1}")
        ),
        {"type": "content_block_stop", "index": 1},
    ]
    provider.will(streams(*frames[:-2], *(anthropic_event(event) for event in tool), *frames[-2:]))
    with (
        anthropic_client(redacting) as client,
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": f"Write to {EMAIL}"}]
        ) as stream,
    ):
        text, used = stream.get_final_message().content
    assert text.type == "text"
    assert text.text == f"To {EMAIL}."
    assert used.type == "tool_use"
    assert used.input == {"to": EMAIL, "n": 1}


def test_a_key_in_a_request_is_answered_with_403(redacting: Gateway, provider: ScriptedProvider) -> None:
    with openai_client(redacting) as client, pytest.raises(openai.PermissionDeniedError) as raised:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"Use {KEY}"}])
    assert "the request contains 1 api_key" in raised.value.message
    assert KEY not in raised.value.response.text
    with anthropic_client(redacting) as other, pytest.raises(anthropic.PermissionDeniedError):
        other.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": f"Use {KEY}"}])
    assert provider.turns == []


def test_calls_at_once_do_not_see_each_others_values(redacting: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("[email-1] [email-2]")))
    with openai_client(redacting) as client:
        said = [
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
            for text in (f"{EMAIL} b@example.com", "c@example.com")
        ]
    assert [completion.choices[0].message.content for completion in said] == [
        f"{EMAIL} b@example.com",
        "c@example.com [email-2]",
    ]


def test_limits_through_openai(limiting: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("Hi")))
    tools: Any = [{"type": "function", "function": {"name": name}} for name in ("shell_run", "search")]
    with openai_client(limiting) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini",
            max_completion_tokens=9000,
            tools=tools,
            messages=[{"role": "user", "content": "Hello"}],
        )
        with pytest.raises(openai.PermissionDeniedError, match=r"the model 'gpt-4o-preview' is not permitted"):
            client.chat.completions.create(model="gpt-4o-preview", messages=[{"role": "user", "content": "Hello"}])
    [turn] = provider.turns
    assert turn.json["max_completion_tokens"] == 1000
    assert turn.json["tools"] == tools[1:]
    assert decisions(limiting, raw.headers["luthien-call-id"]) == [
        ("request", "modify", "removed the tools 'shell_run'; max_completion_tokens is 1000 instead of 9000")
    ]


def test_limits_through_anthropic(limiting: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(*anthropic_stream("Hi")))
    with anthropic_client(limiting) as client:
        with client.messages.stream(
            model="claude-test", max_tokens=9000, messages=[{"role": "user", "content": "Hello"}]
        ) as stream:
            assert stream.get_final_text() == "Hi"
        with pytest.raises(anthropic.PermissionDeniedError, match=r"201 messages, and at most 200 are permitted"):
            client.messages.create(
                model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hello"}] * 201
            )
    [turn] = provider.turns
    assert turn.json["max_tokens"] == 1000
