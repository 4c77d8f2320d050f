"""Every policy in every wire format, plain and streamed: what the provider gets, what the client gets, what is kept.

A policy is added with a `Case` or more in `CASES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import pytest

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from tests.chunks import chunks_of
from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import Json, anthropic_request, openai_request, responses_request
from tests.wire_tools import (
    Call,
    anthropic_tools,
    anthropic_tools_stream,
    openai_tools,
    openai_tools_stream,
    responses_tools,
    responses_tools_stream,
)

EMAIL = "jane@example.com"
RUN, READ = ("run", {"command": "rm -rf /"}), ("read", {"path": "a secret"})
GONE = "[The call of the tool run was blocked by a policy.]"


@dataclass(frozen=True)
class Asked:
    """What a request says, whatever its format."""

    text: str = "Hello"
    system: str | None = None
    max_tokens: int = 100
    tools: tuple[str, ...] = ("run", "read")


@dataclass(frozen=True)
class Said:
    """What a response says, whatever its format: its texts in one, and its calls."""

    text: str = "Let me see."
    calls: tuple[Call, ...] = (RUN, READ)


@dataclass(frozen=True)
class Case:
    """One policy at work. What it makes of a request or a response is what it is without one, unless it is said."""

    name: str
    policy: str
    config: Json
    decisions: tuple[tuple[str, str, str], ...]
    """What is recorded, as (side, action, reason)."""
    asked: Asked = Asked()
    sent: Asked | None = None
    """What the provider gets."""
    answered: Said = Said()
    given: Said | None = None
    """What the client gets."""
    blocked: str = ""
    """What the client is told instead."""

    @property
    def is_request_blocked(self) -> bool:
        return bool(self.blocked) and self.decisions[-1][0] == "request"


CASES = [
    Case("noop", "noop", {}, (("request", "allow", ""), ("response", "allow", ""))),
    Case(
        "add_system_message",
        "add_system_message",
        {"text": "Be kind."},
        (("request", "modify", "added a system message"),),
        sent=Asked(system="Be kind."),
    ),
    Case(
        "replace_text",
        "replace_text",
        {"rules": [{"find": "secret", "replace": "[hidden]"}]},
        (("request", "modify", "replaced 1 match"), ("response", "modify", "replaced 2 matches")),
        asked=Asked("What is the secret?"),
        sent=Asked("What is the [hidden]?"),
        answered=Said("The secret is that there is no secret.", (READ,)),
        given=Said("The [hidden] is that there is no [hidden].", (READ,)),
    ),
    Case(
        "redact",
        "redact",
        {"rules": [{"kinds": ["email"], "action": "reversible"}]},
        (("request", "modify", "redacted 1 email"), ("response", "modify", "gave back 2 email")),
        asked=Asked(f"Write to {EMAIL}"),
        sent=Asked("Write to [email-1]"),
        answered=Said("I write to [email-1].", (("send", {"to": ["[email-1]"]}),)),
        given=Said(f"I write to {EMAIL}.", (("send", {"to": [EMAIL]}),)),
    ),
    Case(
        "redact-response",
        "redact",
        {"rules": [{"kinds": ["email"], "in": ["response"]}]},
        (("request", "allow", ""), ("response", "modify", "redacted 2 email")),
        answered=Said(f"I write to {EMAIL}.", (("send", {"to": EMAIL}),)),
        given=Said("I write to [email].", (("send", {"to": "[email]"}),)),
    ),
    Case(
        "redact-blocks",
        "redact",
        {"rules": [{"kinds": ["email"], "action": "block"}]},
        (("request", "block", "the request contains 1 email"),),
        asked=Asked(f"Write to {EMAIL}"),
        blocked="the request contains 1 email",
    ),
    Case(
        "limit",
        "limit",
        {"max_tokens": {"at_most": 1000}, "tools": {"deny": ["run"]}},
        (("request", "modify", "removed the tools 'run'; {max_tokens} is 1000 instead of 9000"),),
        asked=Asked(max_tokens=9000),
        sent=Asked(max_tokens=1000, tools=("read",)),
    ),
    Case(
        "limit-blocks",
        "limit",
        {"models": {"deny": ["*-test"]}},
        (("request", "block", "the model '{model}' is not permitted"),),
        blocked="is not permitted",
    ),
    Case(
        "block_tools",
        "block_tools",
        {"rules": [{"tool": "run"}], "definitions": "remove"},
        (("request", "modify", "removed the tools run"), ("response", "modify", "dropped a call of the tool run")),
        sent=Asked(tools=("read",)),
        given=Said(f"Let me see.{GONE}", (READ,)),
    ),
    Case(
        "block_tools-all",
        "block_tools",
        {"rules": [{"when": [{"pointer": "/command", "matches": "rm"}]}], "text": ""},
        (("request", "allow", ""), ("response", "modify", "dropped a call of the tool run")),
        answered=Said("Let me see.", (RUN,)),
        given=Said("Let me see.", ()),
    ),
    Case(
        "block_tools-blocks",
        "block_tools",
        {"rules": [{"tool": "run"}], "action": "block"},
        (("request", "allow", ""), ("response", "block", "the model called the tool run")),
        answered=Said("Let me see.", (READ, RUN)),
        blocked="the model called the tool run",
    ),
]


@dataclass(frozen=True)
class Format:
    """How a wire format says what `Asked` and `Said` say."""

    wire: WireFormat
    ask: Callable[[Asked], Json]
    asked: Callable[[Json], Asked]
    plain: Callable[..., Json]
    stream: Callable[..., list[bytes]]
    said: Callable[[Json], Said]
    max_tokens: str


def ask_openai(asked: Asked) -> Json:
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in asked.tools]
    return openai_request(asked.text, tools=tools, max_tokens=asked.max_tokens)


def asked_openai(body: Json) -> Asked:
    *system, user = body["messages"]
    tools = tuple(tool["function"]["name"] for tool in body["tools"])
    return Asked(user["content"], system[0]["content"] if system else None, body["max_tokens"], tools)


def said_openai(body: Json) -> Said:
    message = body["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    assert (body["choices"][0]["finish_reason"] == "tool_calls") == bool(calls)
    return Said(
        (message.get("content") or "").replace("\n\n", ""),
        tuple((call["name"], json.loads(call["arguments"])) for call in calls),
    )


def ask_responses(asked: Asked) -> Json:
    tools = [{"type": "function", "name": name, "parameters": {}} for name in asked.tools]
    return responses_request(asked.text, tools=tools, max_output_tokens=asked.max_tokens)


def asked_responses(body: Json) -> Asked:
    tools = tuple(tool["name"] for tool in body["tools"])
    return Asked(body["input"][0]["content"], body.get("instructions"), body["max_output_tokens"], tools)


def said_responses(body: Json) -> Said:
    texts = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    return Said("".join(texts), tuple((call["name"], json.loads(call["arguments"])) for call in calls))


def ask_anthropic(asked: Asked) -> Json:
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in asked.tools]
    return anthropic_request(asked.text, tools=tools) | {"max_tokens": asked.max_tokens}


def asked_anthropic(body: Json) -> Asked:
    tools = tuple(tool["name"] for tool in body["tools"])
    return Asked(body["messages"][0]["content"], body.get("system"), body["max_tokens"], tools)


def said_anthropic(body: Json) -> Said:
    texts = [block["text"] for block in body["content"] if block["type"] == "text"]
    calls = [block for block in body["content"] if block["type"] == "tool_use"]
    assert (body["stop_reason"] == "tool_use") == bool(calls)
    return Said("".join(texts), tuple((call["name"], call["input"]) for call in calls))


FORMATS = [
    Format(
        OPENAI_CHAT, ask_openai, asked_openai, openai_tools, openai_tools_stream, said_openai, "max_tokens"
    ),
    Format(
        OPENAI_RESPONSES, ask_responses, asked_responses, responses_tools, responses_tools_stream, said_responses,
        "max_output_tokens",
    ),
    Format(
        ANTHROPIC_MESSAGES, ask_anthropic, asked_anthropic, anthropic_tools, anthropic_tools_stream, said_anthropic,
        "max_tokens",
    ),
]  # fmt: skip


def added_up(wire_format: WireFormat, raw: bytes) -> Any:
    assembler = wire_format.assembler()
    for chunk in chunks_of(raw):
        assembler.add(chunk)
    return assembler.result()


@dataclass
class Played:
    """A case as it was played in one format."""

    case: Case
    format: Format
    streamed: bool
    request: Json
    original: bytes
    """What the provider said."""
    response: httpx.Response
    provider: ScriptedProvider
    gateway: Gateway

    def whole(self, raw: bytes) -> Any:
        return added_up(self.format.wire, raw) if self.streamed else json.loads(raw)

    @cached_property
    def call(self) -> Any:
        return self.gateway.call(self.response)

    def stage(self, name: str) -> Any:
        return self.call["stages"][name]["payload"]

    def check_decisions(self) -> None:
        told = [(made["side"], made["action"], made["reason"]) for made in self.call["decisions"]]
        names = {"max_tokens": self.format.max_tokens, "model": self.request["model"]}
        assert told == [(side, action, reason.format(**names)) for side, action, reason in self.case.decisions]

    def check_request(self) -> None:
        [turn] = self.provider.turns
        sent = self.case.asked if self.case.sent is None else self.case.sent
        assert self.format.asked(turn.json) == sent
        assert self.stage("request_original") == self.request
        assert self.gateway.raw(self.response, "request_final") == turn.body
        assert self.call["changed"]["request"] == (self.case.sent is not None)

    def check_response(self) -> None:
        assert self.response.status_code == 200, self.response.text
        given = self.case.answered if self.case.given is None else self.case.given
        whole = self.whole(self.response.content)
        assert self.format.said(whole) == given
        assert self.stage("response_original") == self.whole(self.original)
        assert self.stage("response_final") == whole
        assert whole["usage"] == self.whole(self.original)["usage"]
        assert (self.call["outcome"], self.call["changed"]["response"]) == ("completed", self.case.given is not None)
        if self.case.given is None:
            assert self.response.content == self.original
        self.check_end()

    def check_end(self) -> None:
        if self.streamed:
            *chunks, last = chunks_of(self.response.content)
            assert self.format.wire.is_terminal(last)
            assert not any(self.format.wire.is_terminal(chunk) for chunk in chunks)
        if self.streamed and self.format.wire is OPENAI_RESPONSES:
            numbers = [(chunk.json or {})["sequence_number"] for chunk in [*chunks, last]]
            assert numbers == [*range(len(numbers))]

    def check_block(self) -> None:
        assert self.call["outcome"] == "blocked"
        assert self.case.blocked in self.response.text
        assert self.stage("request_original") == self.request
        if self.case.is_request_blocked:
            assert self.provider.turns == []
            assert self.response.status_code == 403
            return
        assert self.response.status_code == (200 if self.streamed else 403)
        assert "rm -rf" in json.dumps(self.stage("response_original"))
        assert "rm -rf" not in self.response.text + json.dumps(self.stage("response_final"))
        assert not any(self.format.wire.is_terminal(chunk) for chunk in chunks_of(self.response.content))


@pytest.fixture(scope="module", params=CASES, ids=[case.name for case in CASES])
def playing(
    request: pytest.FixtureRequest, shared_record_database: str, shared_provider: ScriptedProvider
) -> Iterator[tuple[Case, ScriptedProvider, Gateway]]:
    """A case, and a gateway that runs its policy in front of a provider."""
    case: Case = request.param
    policies = [{"policy": case.policy, "config": case.config}]
    with running_gateway(shared_record_database, shared_provider.url, policies) as gateway:
        yield case, shared_provider, gateway


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("wire", FORMATS, ids=[each.wire.name for each in FORMATS])
def test_every_policy(playing: tuple[Case, ScriptedProvider, Gateway], wire: Format, streamed: bool) -> None:
    case, provider, gateway = playing
    said: Sequence[Any] = (case.answered.text, *case.answered.calls)
    frames, body = wire.stream(*said), json.dumps(wire.plain(*said)).encode()
    provider.turns.clear()
    provider.will(streams(*frames) if streamed else answers(body))
    request = wire.ask(case.asked) | {"stream": streamed}
    response = gateway.post(wire.wire.path, request)
    original = b"".join(frames) if streamed else body
    played = Played(case, wire, streamed, request, original, response, provider, gateway)
    played.check_decisions()
    if case.blocked:
        played.check_block()
    else:
        played.check_request()
        played.check_response()
