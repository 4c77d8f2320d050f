"""`block_tools` between a provider and the official SDKs, whose parsers say whether what is left is valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire_tools import (
    anthropic_tools,
    anthropic_tools_stream,
    openai_tools,
    openai_tools_stream,
    responses_tools,
    responses_tools_stream,
)

GONE = "[The call of the tool shell was blocked by a policy.]"
RULES = [{"tool": "shell", "when": [{"pointer": "/command", "matches": r"\brm\b"}]}, {"tool": "delete_*"}]
DELETES, LISTS, READS = ("shell", {"command": "rm -rf /"}), ("shell", {"command": "ls"}), ("read", {"path": "a"})
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def dropping(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    policies = [{"policy": "block_tools", "config": {"rules": RULES, "definitions": "remove"}}]
    with running_gateway(record_database, provider.url, policies) as gateway:
        yield gateway


@pytest.fixture
def blocking(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    policies = [{"policy": "block_tools", "config": {"rules": RULES, "action": "block"}}]
    with running_gateway(record_database, provider.url, policies) as gateway:
        yield gateway


def ask_openai(gateway: Gateway, streamed: bool, **fields: Any) -> Any:
    """The completion that the SDK makes of the answer."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0) as client:
        if not streamed:
            return client.chat.completions.create(**ASK, **fields)
        with client.chat.completions.stream(**ASK, **fields) as events:
            return events.get_final_completion()


def ask_responses(gateway: Gateway, streamed: bool, **fields: Any) -> Any:
    asked = {"model": "m", "input": "x", **fields}
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0) as client:
        if not streamed:
            return client.responses.create(**asked)
        with client.responses.stream(**asked) as events:
            return events.get_final_response()


def ask_anthropic(gateway: Gateway, streamed: bool, **fields: Any) -> Any:
    with anthropic.Anthropic(base_url=gateway.url, api_key="k", max_retries=0) as client:
        if not streamed:
            return client.messages.create(**ASK, max_tokens=9, **fields)
        with client.messages.stream(**ASK, max_tokens=9, **fields) as events:
            return events.get_final_message()


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
class TestOpenAI:
    def play(self, provider: ScriptedProvider, streamed: bool, *calls: Any) -> None:
        plain, stream = openai_tools("Let me see.", *calls), openai_tools_stream("Let me see.", *calls)
        provider.will(streams(*stream) if streamed else answers(plain))

    def test_one_call_of_several(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, DELETES, LISTS, READS)
        completion = ask_openai(dropping, streamed)
        (choice,) = completion.choices
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
        assert calls == [LISTS, READS]
        assert (choice.message.content, choice.finish_reason) == (f"Let me see.\n\n{GONE}", "tool_calls")
        assert completion.usage.total_tokens == 12
        call = dropping.call(dropping.only_call_id())
        assert call["changed"]["response"] is True
        (decision,) = [each for each in call["decisions"] if each["side"] == "response"]
        assert (decision["action"], decision["reason"]) == ("modify", "dropped a call of the tool shell")
        original = call["stages"]["response_original"]["payload"]["choices"][0]["message"]
        assert len(original["tool_calls"]) == 3

    def test_every_call(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, DELETES)
        (choice,) = ask_openai(dropping, streamed).choices
        assert not choice.message.tool_calls
        assert (choice.message.content, choice.finish_reason) == (f"Let me see.\n\n{GONE}", "stop")

    def test_what_is_allowed_passes_as_it_came(
        self, dropping: Gateway, provider: ScriptedProvider, streamed: bool
    ) -> None:
        self.play(provider, streamed, LISTS, READS)
        response = dropping.post("/v1/chat/completions", ASK | {"stream": streamed})
        assert response.content == (
            b"".join(openai_tools_stream("Let me see.", LISTS, READS))
            if streamed
            else json.dumps(openai_tools("Let me see.", LISTS, READS)).encode()
        )

    def test_a_block(self, blocking: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, READS, DELETES)
        with pytest.raises(openai.APIError, match="the model called the tool shell"):
            ask_openai(blocking, streamed)
        assert blocking.call(blocking.only_call_id())["outcome"] == "blocked"

    def test_definitions_are_removed(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, READS)
        tools = [{"type": "function", "function": {"name": name}} for name in ("delete_all", "read")]
        ask_openai(dropping, streamed, tools=tools)
        assert provider.turns[0].json["tools"] == tools[1:]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
class TestResponses:
    def play(self, provider: ScriptedProvider, streamed: bool, *calls: Any) -> None:
        plain, stream = responses_tools("Let me see.", *calls), responses_tools_stream("Let me see.", *calls)
        provider.will(streams(*stream) if streamed else answers(plain))

    def test_one_call_of_several(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, LISTS, DELETES, READS)
        response = ask_responses(dropping, streamed)
        said, first, gone, second = response.output
        assert [said.content[0].text, gone.content[0].text] == ["Let me see.", GONE]
        assert [(call.name, json.loads(call.arguments)) for call in (first, second)] == [LISTS, READS]
        assert response.output_text == f"Let me see.{GONE}"
        assert response.usage.total_tokens == 12

    def test_every_call(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, DELETES)
        response = ask_responses(dropping, streamed)
        assert [item.type for item in response.output] == ["message", "message"]
        assert response.status == "completed"

    def test_what_is_allowed_passes_as_it_came(
        self, dropping: Gateway, provider: ScriptedProvider, streamed: bool
    ) -> None:
        self.play(provider, streamed, LISTS, READS)
        response = dropping.post("/v1/responses", {"model": "m", "input": "x", "stream": streamed})
        assert response.content == (
            b"".join(responses_tools_stream("Let me see.", LISTS, READS))
            if streamed
            else json.dumps(responses_tools("Let me see.", LISTS, READS)).encode()
        )

    def test_a_block(self, blocking: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, READS, DELETES)
        with pytest.raises(openai.APIError, match="the model called the tool shell"):
            ask_responses(blocking, streamed)
        assert blocking.call(blocking.only_call_id())["outcome"] == "blocked"

    def test_definitions_are_removed(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, READS)
        names = ("delete_all", "read")
        tools: Any = [{"type": "function", "name": name, "parameters": {}, "strict": False} for name in names]
        ask_responses(dropping, streamed, tools=tools)
        assert provider.turns[0].json["tools"] == tools[1:]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
class TestAnthropic:
    def play(self, provider: ScriptedProvider, streamed: bool, *calls: Any) -> None:
        plain, stream = anthropic_tools("Let me see.", *calls), anthropic_tools_stream("Let me see.", *calls)
        provider.will(streams(*stream) if streamed else answers(plain))

    def test_one_call_of_several(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, DELETES, LISTS, READS)
        message = ask_anthropic(dropping, streamed)
        assert [block.text for block in message.content[:2]] == ["Let me see.", GONE]
        assert [(block.name, block.input) for block in message.content[2:]] == [LISTS, READS]
        assert message.stop_reason == "tool_use"
        assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)

    def test_every_call(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, DELETES)
        message = ask_anthropic(dropping, streamed)
        assert [block.text for block in message.content] == ["Let me see.", GONE]
        assert message.stop_reason == "end_turn"

    def test_what_is_allowed_passes_as_it_came(
        self, dropping: Gateway, provider: ScriptedProvider, streamed: bool
    ) -> None:
        self.play(provider, streamed, LISTS, READS)
        response = dropping.post("/v1/messages", ASK | {"max_tokens": 9, "stream": streamed})
        assert response.content == (
            b"".join(anthropic_tools_stream("Let me see.", LISTS, READS))
            if streamed
            else json.dumps(anthropic_tools("Let me see.", LISTS, READS)).encode()
        )

    def test_a_block(self, blocking: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, READS, DELETES)
        with pytest.raises(anthropic.APIStatusError, match="the model called the tool shell"):
            ask_anthropic(blocking, streamed)
        assert blocking.call(blocking.only_call_id())["outcome"] == "blocked"

    def test_definitions_are_removed(self, dropping: Gateway, provider: ScriptedProvider, streamed: bool) -> None:
        self.play(provider, streamed, READS)
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("delete_all", "read")]
        ask_anthropic(dropping, streamed, tools=tools)
        assert provider.turns[0].json["tools"] == tools[1:]
