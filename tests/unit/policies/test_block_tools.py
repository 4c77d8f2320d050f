"""Which calls `block_tools` blocks, and what it takes out of requests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any
from uuid import UUID

import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError, PolicyFailure
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT
from luthien.policies.builtin.block_tools import BlockTools, BlockToolsConfig
from luthien.policies.chain import Chain, ChainRun
from luthien.policies.policy import CallContext
from luthien.policies.registry import load_chain, make_step
from tests.unit.policies.test_blocks import contents
from tests.wire import anthropic_request, openai_request
from tests.wire_tools import anthropic_tools, openai_tools

DOCUMENT = Path(__file__).parents[3] / "docs" / "policies.md"
INSIDE = {"pointer": "/path", "matches": r"^/work/project/(?!.*\.\.)", "negate": True}


def run_of(wire_format: WireFormat = OPENAI_CHAT, **config: Any) -> ChainRun:
    step = make_step("block_tools", BlockTools, BlockToolsConfig.model_validate(config))
    return Chain((step,)).open(CallContext(UUID(int=0), wire_format, "m", streaming=False))


async def is_blocked(name: str, arguments: Any, *rules: Any) -> bool:
    run = run_of(rules=rules, action="block")
    body = openai_tools("Hm.", (name, arguments))
    if isinstance(arguments, str):
        body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = arguments
    await run.on_response(json.dumps(body).encode())
    return run.blocked is not None


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        *(("shell", "shell", True), ("shell", "Shell", False), ("shell", "shells", False)),
        *(("delete_*", "delete_file", True), ("*", "x", True), ("?b", "ab", True), ("?b", "b", False)),
    ],
)
async def test_tools_are_named_by_globs(glob: str, name: str, expected: bool) -> None:
    assert await is_blocked(name, {}, {"tool": glob}) == expected


@pytest.mark.parametrize(
    ("condition", "arguments", "expected"),
    [
        ({"pointer": "/command", "matches": r"\brm\b"}, {"command": "sudo rm -r x"}, True),
        ({"pointer": "/command", "matches": r"\brm\b"}, {"command": "ls alarm"}, False),
        ({"pointer": "/command", "matches": r"\brm\b"}, {"other": "rm"}, False),
        ({"matches": r"\brm\b"}, {"other": ["rm"]}, True),
        ({"pointer": "/args/*", "matches": "^rm$"}, {"args": ["x", "rm"]}, True),
        ({"pointer": "/args/0", "matches": "^rm$"}, {"args": ["x", "rm"]}, False),
        ({"pointer": "/args/1", "matches": "^rm$"}, {"args": ["x", "rm"]}, True),
        ({"pointer": "/a~1b/~0", "matches": "x"}, {"a/b": {"~": "x"}}, True),
        ({"pointer": "/*/n", "matches": "^3$"}, {"a": {"n": 3}}, True),
        ({"pointer": "/a/b", "matches": "."}, {"a": "text"}, False),
        (INSIDE, {"path": "/work/project/a"}, False),
        (INSIDE, {"path": "/work/project/../x"}, True),
        (INSIDE, {"path": "/etc/passwd"}, True),
        (INSIDE, {}, False),
        ({"pointer": "/command", "matches": "never"}, '{"command": "cut sh', True),
    ],
)
async def test_conditions_are_on_the_arguments(condition: Any, arguments: Any, expected: bool) -> None:
    assert await is_blocked("tool", arguments, {"when": [condition]}) == expected


async def test_all_conditions_of_a_rule_and_any_rule() -> None:
    both = {"when": [{"pointer": "/a", "matches": "x"}, {"pointer": "/b", "matches": "y"}]}
    assert await is_blocked("t", {"a": "x", "b": "y"}, both)
    assert not await is_blocked("t", {"a": "x", "b": "n"}, both)
    assert await is_blocked("t", {"a": "x", "b": "n"}, both, {"tool": "t"})


async def test_an_expression_that_takes_too_long_stops_the_call() -> None:
    run = run_of(rules=[{"when": [{"matches": "(a|a|ab?a)*c$"}]}], match_timeout_ms=1)
    body = openai_tools("", ("t", {"x": "a" * 5000 + "!c!"}))
    with pytest.raises(PolicyFailure):
        await run.on_response(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("wire_format", "plain"), [(OPENAI_CHAT, openai_tools), (ANTHROPIC_MESSAGES, anthropic_tools)]
)
async def test_a_dropped_call_leaves_a_text_or_nothing(wire_format: WireFormat, plain: Any) -> None:
    body = json.dumps(plain("Hm.", ("shell", {}), ("read", {}))).encode()
    rules = [{"tool": "shell"}]
    said = contents(json.loads(await run_of(wire_format, rules=rules).on_response(body)))
    assert "[The call of the tool shell was blocked by a policy.]" in " ".join(map(str, said))
    assert ("read", {}) in said
    run = run_of(wire_format, rules=rules, text="")
    assert contents(json.loads(await run.on_response(body))) == ["Hm.", ("read", {})]
    assert run.decisions[0].verdict.reason == "dropped a call of the tool shell"


def openai_definition(name: str) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


class TestDefinitions:
    async def test_they_are_kept_by_default(self) -> None:
        body = json.dumps(openai_request(tools=[openai_definition("shell")])).encode()
        assert await run_of(rules=[{"tool": "shell"}]).on_request(body) is body

    async def test_openai(self) -> None:
        run = run_of(rules=[{"tool": "sh*"}, {"tool": "read", "when": [{"matches": "x"}]}], definitions="remove")
        choice = {"type": "function", "function": {"name": "shell"}}
        tools = [openai_definition(name) for name in ("shell", "read", "show")]
        request = openai_request(tools=tools, tool_choice=choice, parallel_tool_calls=True)
        left = json.loads(await run.on_request(json.dumps(request).encode()))
        assert left == openai_request(tools=[openai_definition("read")], parallel_tool_calls=True)
        assert run.decisions[0].verdict.reason == "removed the tools shell, show"

    async def test_openai_without_any_left(self) -> None:
        run = run_of(rules=[{"tool": "*"}], definitions="remove")
        request = openai_request(tools=[openai_definition("a")], tool_choice="required", parallel_tool_calls=True,
                                 functions=[{"name": "b"}], function_call={"name": "b"})  # fmt: skip
        assert json.loads(await run.on_request(json.dumps(request).encode())) == openai_request()

    async def test_anthropic(self) -> None:
        run = run_of(ANTHROPIC_MESSAGES, rules=[{"tool": "shell"}], definitions="remove")
        tools = [{"name": "shell", "input_schema": {}}, {"name": "read", "input_schema": {}}]
        request = anthropic_request(tools=tools, tool_choice={"type": "tool", "name": "shell"})
        left = json.loads(await run.on_request(json.dumps(request).encode()))
        assert left == anthropic_request(tools=tools[1:])

    @pytest.mark.parametrize("wire_format", [OPENAI_CHAT, ANTHROPIC_MESSAGES])
    @pytest.mark.parametrize("tools", [None, 3, [], [3, {}, {"name": 3}]])
    async def test_what_is_not_there_is_not_touched(self, wire_format: WireFormat, tools: Any) -> None:
        run = run_of(wire_format, rules=[{"tool": "*"}], definitions="remove")
        body = json.dumps(openai_request(tools=tools, tool_choice="none")).encode()
        assert await run.on_request(body) is body


def test_mistakes_are_named() -> None:
    text = """\
        policies:
          - policy: block_tools
            config:
              rules:
                - when:
                    - {matches: "("}
                    - {pointer: command, matches: x}
              action: deny
        """
    with pytest.raises(ConfigError) as raised:
        load_chain(ConfigFile("l", dedent(text)))
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "l:6: policies[0].config.rules[0].when[0]: not a regular expression: missing ) at position 1",
        "l:7: policies[0].config.rules[0].when[1].pointer: must be a JSON pointer, as in /command",
        "l:8: policies[0].config.action: input should be 'drop' or 'block'",
    ]


def test_the_example_of_the_documentation_is_a_configuration() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## `block_tools`")[2]
    example = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert example is not None
    (step,) = load_chain(ConfigFile("l", example[1])).steps
    assert len(step.config.rules) == 3
