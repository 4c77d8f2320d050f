"""`limit`: what a request may ask for, in both formats, and the words in which it is refused."""

from __future__ import annotations

import copy
import json
from typing import Any
from uuid import UUID

import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.formats.registry import OPENAI_CHAT
from luthien.policies.builtin.limit import Limit, LimitConfig
from luthien.policies.policy import CallContext, Request, Verdict
from luthien.policies.registry import load_chain
from tests.wire import Json, anthropic_request, openai_request

SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
SHELL = {"type": "function", "function": {"name": "shell_run", "parameters": {"type": "object"}}}
CLAUDE_SHELL = {"name": "shell_run", "input_schema": {"type": "object"}}
CLAUDE_SEARCH = {"type": "web_search_20250305", "name": "search"}
NO_SHELL = {"deny": ["shell_*"]}


async def limited(body: Json, **config: Any) -> tuple[Verdict, Json]:
    """The verdict, and the request as it is afterwards."""
    call = CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=False)
    shown = copy.deepcopy(body)
    return await Limit(LimitConfig.model_validate(config), call).on_request(Request(call, shown)), shown


@pytest.mark.parametrize(
    ("model", "models", "is_permitted"),
    [
        ("gpt-4o-mini", {"allow": ["gpt-4o*"]}, True),
        ("gpt-5", {"allow": ["gpt-4o*"]}, False),
        ("gpt-4o-audio", {"allow": ["gpt-4o*"], "deny": ["*audio*"]}, False),
        ("claude-test", {"deny": ["gpt-*"]}, True),
        ("gpt-4", {"deny": ["gpt-?"]}, False),
        ("GPT-4", {"deny": ["gpt-?"]}, True),
        ("x", {"allow": []}, False),
    ],
)
async def test_models(model: str, models: Json, is_permitted: bool) -> None:
    for body in (openai_request(), anthropic_request()):
        verdict, after = await limited(body | {"model": model}, models=models)
        expected = Verdict.allow() if is_permitted else Verdict.block(f"the model {model!r} is not permitted")
        assert (verdict, after["model"]) == (expected, model)


@pytest.mark.parametrize("model", [None, 4, ["gpt-4"]])
async def test_a_request_without_a_model(model: Any) -> None:
    verdict, _ = await limited(openai_request() | {"model": model}, models={"deny": ["x"]})
    assert verdict == Verdict.block("the request names no model")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_tokens_are_clamped_or_the_request_is_blocked(field: str) -> None:
    body = openai_request() | {field: 9000}
    verdict, after = await limited(body, max_tokens={"at_most": 1000})
    assert verdict == Verdict.modify(f"{field} is 1000 instead of 9000", 1)
    assert after == body | {field: 1000}
    verdict, after = await limited(body, max_tokens={"at_most": 1000, "action": "block"})
    assert verdict == Verdict.block(f"{field} is 9000, and at most 1000 is permitted")


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 1000}, {"max_tokens": None}, {"max_tokens": "9000"}])
async def test_tokens_within_the_limit_are_left_alone(asked: Json) -> None:
    body = openai_request(**asked)
    assert await limited(body, max_tokens={"at_most": 1000}) == (Verdict.allow(), body)


async def test_every_field_of_tokens_is_limited() -> None:
    verdict, after = await limited(
        openai_request(max_tokens=5e3, max_completion_tokens=2**70), max_tokens={"at_most": 10}
    )
    assert (after["max_tokens"], after["max_completion_tokens"], verdict.count) == (10, 10, 2)


async def test_thinking_that_would_not_fit_is_blocked_instead_of_sent_to_be_refused() -> None:
    body = anthropic_request(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 2000})
    verdict, _ = await limited(body, max_tokens={"at_most": 2000})
    assert verdict == Verdict.block(
        "thinking.budget_tokens is 2000, which does not fit into the 2000 tokens permitted"
    )
    verdict, after = await limited(body, max_tokens={"at_most": 2001})
    assert after["max_tokens"] == 2001


@pytest.mark.parametrize(
    ("make", "shell", "search"),
    [(openai_request, SHELL, SEARCH), (anthropic_request, CLAUDE_SHELL, CLAUDE_SEARCH)],
)
async def test_tools_are_removed_or_the_request_is_blocked(make: Any, shell: Json, search: Json) -> None:
    body = make(tools=[shell, search], tool_choice="auto")
    verdict, after = await limited(body, tools=NO_SHELL)
    assert verdict == Verdict.modify("removed the tools 'shell_run'", 1)
    assert after == body | {"tools": [search]}
    verdict, _ = await limited(body, tools=NO_SHELL | {"action": "block"})
    assert verdict == Verdict.block("not permitted as tools: 'shell_run'")
    assert await limited(body, tools={"allow": ["s*"]}) == (Verdict.allow(), body)


async def test_without_any_tool_left_nothing_is_said_of_tools() -> None:
    body = openai_request(tools=[SHELL], tool_choice="auto", parallel_tool_calls=True)
    assert (await limited(body, tools=NO_SHELL))[1] == openai_request()
    body = openai_request(tools=[SHELL], functions=[{"name": "search"}])
    assert (await limited(body, tools=NO_SHELL))[1] == openai_request(functions=[{"name": "search"}])


@pytest.mark.parametrize(
    "choice",
    [
        {"tool_choice": {"type": "function", "function": {"name": "shell_run"}}},
        {"tool_choice": {"type": "tool", "name": "shell_run"}},
        {"tool_choice": {"type": "custom", "custom": {"name": "shell_run"}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [SEARCH, SHELL]}}},
        {"function_call": {"name": "shell_run"}},
    ],
)
async def test_a_request_that_insists_on_a_removed_tool_is_blocked(choice: Json) -> None:
    verdict, _ = await limited(openai_request(tools=[SHELL, SEARCH], **choice), tools=NO_SHELL)
    assert verdict == Verdict.block("the request insists on the tool 'shell_run', which is not permitted")


async def test_a_tool_without_a_name_goes_by_its_type() -> None:
    body = openai_request(tools=[{"type": "code_interpreter"}, SEARCH, "junk"])
    verdict, after = await limited(body, tools={"allow": ["search"]})
    assert after["tools"] == [SEARCH]
    assert verdict.reason == "removed the tools 'code_interpreter', ''"


async def test_counts() -> None:
    body = openai_request(tools=[SHELL, SEARCH])
    verdict, _ = await limited(body, max_tools=1)
    assert verdict == Verdict.block("the request has 2 tools, and at most 1 are permitted")
    assert (await limited(body, max_tools=1, tools=NO_SHELL))[1]["tools"] == [SEARCH]
    assert await limited(body, max_messages=1) == (Verdict.allow(), body)
    verdict, _ = await limited(body, max_messages=0)
    assert verdict == Verdict.block("the request has 1 messages, and at most 0 are permitted")


async def test_bytes() -> None:
    body = openai_request("é" * 100)
    size = len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
    assert await limited(body, max_request_bytes=size) == (Verdict.allow(), body)
    verdict, _ = await limited(body, max_request_bytes=size - 1)
    assert verdict == Verdict.block(f"the request has {size} bytes, and at most {size - 1} are permitted")


@pytest.mark.parametrize("body", [{}, {"messages": 3, "tools": {}, "tool_choice": [], "model": "m"}])
async def test_strange_requests_are_for_the_provider_to_refuse(body: Json) -> None:
    config = {"max_tokens": {"at_most": 1}, "tools": NO_SHELL, "max_tools": 0, "max_messages": 0}
    assert await limited(body, **config) == (Verdict.allow(), body)


@pytest.mark.parametrize(
    ("config", "mistake"),
    [
        ("{}", "4: policies[0].config: limits nothing"),
        ("{models: {}}", "4: policies[0].config.models: must have allow, deny or both"),
        ("{models: {allow: gpt-4}}", "4: policies[0].config.models.allow: must be a list"),
        ("{models: {alow: [gpt-4]}}", "4: policies[0].config.models.alow: no such key"),
        ("{max_tokens: 5}", "4: policies[0].config.max_tokens: must be a mapping"),
        ("{max_tokens: {at_most: 0}}", "4: policies[0].config.max_tokens.at_most: "),
        ("{max_tokens: {at_most: 5, action: remove}}", "4: policies[0].config.max_tokens.action: "),
        ("{tools: {deny: [a], action: clamp}}", "4: policies[0].config.tools.action: "),
        ("{max_tools: -1}", "4: policies[0].config.max_tools: "),
        ("{max_messages: true}", "4: policies[0].config.max_messages: "),
    ],
)
def test_mistakes_are_named_with_line_and_key(config: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_chain(ConfigFile("luthien.yaml", f"\npolicies:\n  - policy: limit\n    config: {config}\n"))
    assert f"luthien.yaml:{mistake}" in str(raised.value)
