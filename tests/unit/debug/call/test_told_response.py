"""What was done to a response is told in the same words whatever its wire format."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from luthien.debug.call.told_response import told_of_response
from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.values import parse
from tests.wire_tools import anthropic_tools, openai_tools, responses_tools

Json = dict[str, Any]
ARGUMENTS = {"path": "/etc/passwd", "lines": 10}
MADE = {"chat": openai_tools, "messages": anthropic_tools, "responses": responses_tools}


def told(before: Json, change: Callable[[Json], object]) -> str:
    after = copy.deepcopy(before)
    change(after)
    came, given = (json.dumps(each) for each in (before, after))
    return told_of_response(diff_payloads(came.encode(), given.encode()).ops, parse(came), parse(given))


def says(body: Json, text: str) -> None:
    if "choices" in body:
        body["choices"][0]["message"]["content"] = text
    elif "output" in body:
        body["output"][0]["content"][0]["text"] = text
    else:
        body["content"][0]["text"] = text


def calls(body: Json, number: int, **more: Any) -> None:
    """Gives a call of a tool these arguments besides."""
    if "choices" in body:
        function = body["choices"][0]["message"]["tool_calls"][number]["function"]
        function["arguments"] = json.dumps({**json.loads(function["arguments"]), **more})
    elif "output" in body:
        item = body["output"][1 + number]
        item["arguments"] = json.dumps({**json.loads(item["arguments"]), **more})
    else:
        body["content"][1 + number]["input"].update(more)


def drops_a_call(body: Json) -> None:
    if "choices" in body:
        body["choices"][0]["message"]["tool_calls"].pop()
    else:
        (body.get("output") or body["content"]).pop()


@pytest.fixture(params=MADE)
def body(request: pytest.FixtureRequest) -> Json:
    made: Json = MADE[request.param]("Let me see.", ("read_file", ARGUMENTS), ("read_file", {"path": "/tmp"}))
    return made


def test_a_text(body: Json) -> None:
    assert told(body, lambda after: says(after, "No.")) == "changed the answer"


def test_arguments_by_the_calls_that_they_are_of(body: Json) -> None:
    one = told(body, lambda after: calls(after, 0, path="/a", dry=True))
    assert one == "changed the arguments of 1 tool call"


def test_arguments_of_several_calls(body: Json) -> None:
    def change(after: Json) -> None:
        calls(after, 0, path="/a")
        calls(after, 1, path="/b")

    assert told(body, change) == "changed the arguments of 2 tool calls"


def test_calls(body: Json) -> None:
    assert told(body, drops_a_call) == "removed 1 tool call"


def test_a_text_and_a_call_and_how_it_ended() -> None:
    def change(after: Json) -> None:
        choice = after["choices"][0]
        choice["message"]["content"] = "[blocked]"
        del choice["message"]["tool_calls"]
        choice["finish_reason"] = "stop"

    body = openai_tools("Let me see.", ("read_file", ARGUMENTS), ("shell", ARGUMENTS))
    assert told(body, change) == "changed the answer and the finish reason, and removed 2 tool calls"


def test_texts_that_came_and_went() -> None:
    body = anthropic_tools("Let me see.")
    assert told(body, lambda after: after["content"].append({"type": "text", "text": "More."})) == "added 1 text"


def test_other_fields_by_name() -> None:
    body = openai_tools("Let me see.")
    assert told(body, lambda after: after.update(id="x")) == "changed id"
    assert told(body, lambda after: after["usage"].pop("total_tokens")) == "changed the token counts"
    assert told(body, lambda after: after["choices"][0].pop("logprobs")) == "removed logprobs"
    assert told(body, lambda after: after.update(error={"code": "x"})) == "added an error"


def test_the_whole() -> None:
    diff = diff_payloads(b"[1]", b'{"a": 1}')
    assert told_of_response(diff.ops, [], {}) == "changed the whole response"
