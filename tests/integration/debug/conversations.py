"""Conversations as agents have them, by the official SDKs, through a gateway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
from pydantic import BaseModel

from tests.playbook import Gateway, ScriptedProvider, answers, call_id_of, streams
from tests.wire import anthropic_response, openai_response, openai_stream
from tests.wire_tools import Call, anthropic_tools, anthropic_tools_stream

Json = dict[str, Any]

POLICIES: list[Json] = [
    {"policy": "replace_text", "config": {"rules": [{"find": "Contoso", "replace": "[customer]"}]}},
    {
        "policy": "block_tools",
        "config": {"rules": [{"tool": "shell", "when": [{"pointer": "/command", "matches": r"\brm\b"}]}]},
    },
]
SUMMARY = (
    "The parser of nested lists was mended in src/parser.py, and its callers were looked through: only writer.py has"
    " to change. A test for empty input is still to be written. The customer wants to see it on Friday. "
) * 3
CODER = "You are an agent that writes code. Use your tools, and be brief."
SEARCHER = "You search a code base and report what you find."


@dataclass
class Agent:
    """An agent of one thread, at an Anthropic SDK: what it was told and answered is its history."""

    gateway: Gateway
    provider: ScriptedProvider
    session: str
    system: str = CODER
    messages: list[Json] = field(default_factory=list)

    def hears(self, text: str) -> Agent:
        self.messages.append({"role": "user", "content": text})
        return self

    def gets(self, *results: str) -> Agent:
        """Gives the results of the tools that were called last."""
        calls = [block["id"] for block in self.messages[-1]["content"] if block["type"] == "tool_use"]
        blocks = [
            {"type": "tool_result", "tool_use_id": call, "content": text}
            for call, text in zip(calls, results, strict=True)
        ]
        self.messages.append({"role": "user", "content": blocks})
        return self

    def answered(self, text: str, *calls: Call, streamed: bool = False, remember: bool = True) -> str:
        """Calls, and is answered so; returns the id of the call."""
        if streamed:
            self.provider.will(streams(*anthropic_tools_stream(text, *calls)))
        else:
            self.provider.will(answers(anthropic_tools(text, *calls) if calls else anthropic_response(text)))
        asked: Json = {
            "model": "claude-test",
            "max_tokens": 512,
            "system": self.system,
            "messages": self.messages,
            "tools": [{"name": name, "input_schema": {"type": "object"}} for name in ("read_file", "shell", "task")],
            "extra_headers": {"x-claude-code-session-id": self.session},
        }
        with anthropic.Anthropic(base_url=self.gateway.url, api_key="k", max_retries=0) as client:
            blocks, call_id = _asked_streamed(client, asked) if streamed else _asked(client, asked)
        if remember:
            content = [block.model_dump(mode="json", exclude_none=True) for block in blocks]
            self.messages.append({"role": "assistant", "content": content})
        self.gateway.call(call_id)
        return call_id


def _asked(client: anthropic.Anthropic, asked: Json) -> tuple[Sequence[BaseModel], str]:
    raw = client.messages.with_raw_response.create(**asked)
    return raw.parse().content, raw.headers["luthien-call-id"]


def _asked_streamed(client: anthropic.Anthropic, asked: Json) -> tuple[Sequence[BaseModel], str]:
    with client.messages.stream(**asked) as stream:
        return stream.get_final_message().content, stream.response.headers["luthien-call-id"]


def agents_at_work(gateway: Gateway, provider: ScriptedProvider, session: str = "agent-1") -> dict[str, str]:
    """A conversation of twelve calls: tools, an agent below, a retry, a summary; the ids of its calls by name."""
    main = Agent(gateway, provider, session)
    below = Agent(gateway, provider, session, SEARCHER)
    made: dict[str, str] = {}
    main.hears("The parser fails for nested lists. Mend it, please, and look through its callers.")
    made["asked"] = main.answered("I look at it.", ("read_file", {"path": "src/parser.py"}))
    main.gets("def parse(text):\n    ...\n" * 30)
    made["read"] = main.answered("Another agent may search.", ("task", {"prompt": "Find callers"}), streamed=True)
    below.hears("Find all callers of parse() and list them by file, with the line of each.")
    made["below"] = below.answered("", ("shell", {"command": "grep -rn 'parse(' src"}))
    below.gets("src/writer.py:12: parse(line)\nsrc/app.py:80: parse(text)")
    made["below_again"] = below.answered("Two callers: src/writer.py:12 and src/app.py:80.")
    main.gets("Two callers: src/writer.py:12 and src/app.py:80.")
    made["told"] = main.answered("I clean up first.", ("shell", {"command": "rm -rf build"}), remember=False)
    main.messages.append({"role": "assistant", "content": [{"type": "text", "text": "I clean up first."}]})
    main.hears("No need to. By the way, this is for Contoso; they want to see it on Friday.")
    made["named"] = main.answered("Good to know: Contoso it is.", remember=False)
    made["retried"] = main.answered("Good to know.")
    main.hears("Go on with writer.py, then.")
    made["went_on"] = main.answered("I read it.", ("read_file", {"path": "src/writer.py"}), streamed=True)
    main.gets("import parser\n")
    made["result"] = main.answered("That one has to change.")
    main.hears("Sum this conversation up, so that it can go on without it.")
    made["summed_up"] = main.answered(f"<summary>{SUMMARY}</summary>")
    main.messages = []
    main.hears(f"This goes on from a conversation that ran out of room.\n\n{SUMMARY}\n\nGo on where it ended.")
    made["compacted"] = main.answered("I write the test.", ("shell", {"command": "pytest -q"}))
    main.gets("1 passed")
    made["done"] = main.answered("All is done.")
    return made


def chat(
    gateway: Gateway,
    provider: ScriptedProvider,
    session: str,
    messages: list[Json],
    answer: str = "Hello there",
    *,
    streamed: bool = False,
    **fields: Any,
) -> str:
    """One call of OpenAI's SDK; returns its id."""
    provider.will(streams(*openai_stream(answer)) if streamed else answers(openai_response(answer)))
    asked: Json = {"model": "gpt-test", "messages": messages, "extra_headers": {"luthien-session-id": session}}
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(**asked, stream=streamed, **fields)
        for _ in raw.parse() if streamed else ():
            pass
    call_id = raw.headers["luthien-call-id"]
    gateway.call(call_id)
    return str(call_id)


def post_in(gateway: Gateway, session: str, body: Json, path: str = "/v1/chat/completions") -> str:
    response = gateway.post(path, json.dumps(body).encode(), headers={"luthien-session-id": session})
    gateway.call(response)
    return call_id_of(response)
