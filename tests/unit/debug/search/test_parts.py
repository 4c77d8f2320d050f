"""What a pointer points at is said in the same words for each wire format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthien.debug.diffing.values import parse
from luthien.debug.search.parts import part_at
from luthien.exchange import Side
from luthien.store.call_filter import Part

TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT = {
    "model": "m",
    "temperature": 1,
    "tools": [{"type": "function"}],
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "t"}]},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL], "refusal": "no", "reasoning_content": "r"},
        {"role": "tool", "content": "result"},
    ],
}
CHAT_ANSWER = {
    "choices": [{"finish_reason": "stop", "message": {"content": "c", "tool_calls": [TOOL_CALL], "refusal": None}}],
    "usage": {"total_tokens": 1},
    "id": "x",
}
ANTHROPIC = {
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "t"}]}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t"},
                {"type": "tool_use", "name": "n", "input": {"a": 1}},
                {"type": "text", "text": "t"},
            ],
        },
    ],
    "max_tokens": 1,
}
RESPONSES = {
    "instructions": "i",
    "input": [
        {"type": "message", "role": "developer", "content": "d"},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "output": "o"},
        {"type": "reasoning", "summary": []},
        {"role": "user", "content": [{"type": "input_text", "text": "t"}]},
    ],
}
RESPONSES_ANSWER = {
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "t"}, {"type": "refusal"}]}],
}


@pytest.mark.parametrize(
    ("document", "side", "ptr", "part"),
    [
        (CHAT, Side.REQUEST, "/model", Part.PARAMETER),
        (CHAT, Side.REQUEST, "/temperature", Part.PARAMETER),
        (CHAT, Side.REQUEST, "/tools/0", Part.TOOLS),
        (CHAT, Side.REQUEST, "/messages/0", Part.SYSTEM),
        (CHAT, Side.REQUEST, "/messages/0/content", Part.SYSTEM),
        (CHAT, Side.REQUEST, "/messages/1/content/0/text", Part.MESSAGE),
        (CHAT, Side.REQUEST, "/messages/2", Part.MESSAGE),
        (CHAT, Side.REQUEST, "/messages/2/tool_calls/0", Part.TOOL_CALL),
        (CHAT, Side.REQUEST, "/messages/2/tool_calls/0/function/name", Part.TOOL_CALL),
        (CHAT, Side.REQUEST, "/messages/2/tool_calls/0/function/arguments", Part.TOOL_ARGUMENTS),
        (CHAT, Side.REQUEST, "/messages/2/refusal", Part.REFUSAL),
        (CHAT, Side.REQUEST, "/messages/2/reasoning_content", Part.REASONING),
        (CHAT, Side.REQUEST, "/messages/3/content", Part.TOOL_RESULT),
        (CHAT, Side.REQUEST, "", Part.OTHER),
        (CHAT, Side.REQUEST, "/messages/99/nowhere", Part.MESSAGE),
        (CHAT_ANSWER, Side.RESPONSE, "/choices/0/finish_reason", Part.FINISH_REASON),
        (CHAT_ANSWER, Side.RESPONSE, "/choices/0/message/content", Part.MESSAGE),
        (CHAT_ANSWER, Side.RESPONSE, "/choices/0/message/tool_calls/0/function/arguments", Part.TOOL_ARGUMENTS),
        (CHAT_ANSWER, Side.RESPONSE, "/usage/total_tokens", Part.USAGE),
        (CHAT_ANSWER, Side.RESPONSE, "/id", Part.OTHER),
        (ANTHROPIC, Side.REQUEST, "/system/0/text", Part.SYSTEM),
        (ANTHROPIC, Side.REQUEST, "/messages/0/content/0/content/0/text", Part.TOOL_RESULT),
        (ANTHROPIC, Side.REQUEST, "/messages/1/content/0/thinking", Part.REASONING),
        (ANTHROPIC, Side.REQUEST, "/messages/1/content/1", Part.TOOL_CALL),
        (ANTHROPIC, Side.REQUEST, "/messages/1/content/1/input/a", Part.TOOL_ARGUMENTS),
        (ANTHROPIC, Side.REQUEST, "/messages/1/content/2/text", Part.MESSAGE),
        (ANTHROPIC, Side.REQUEST, "/max_tokens", Part.PARAMETER),
        (RESPONSES, Side.REQUEST, "/instructions", Part.SYSTEM),
        (RESPONSES, Side.REQUEST, "/input/0/content", Part.SYSTEM),
        (RESPONSES, Side.REQUEST, "/input/1/name", Part.TOOL_CALL),
        (RESPONSES, Side.REQUEST, "/input/1/arguments", Part.TOOL_ARGUMENTS),
        (RESPONSES, Side.REQUEST, "/input/2/output", Part.TOOL_RESULT),
        (RESPONSES, Side.REQUEST, "/input/3/summary", Part.REASONING),
        (RESPONSES, Side.REQUEST, "/input/4/content/0/text", Part.MESSAGE),
        (RESPONSES_ANSWER, Side.RESPONSE, "/status", Part.FINISH_REASON),
        (RESPONSES_ANSWER, Side.RESPONSE, "/output/0/content/0/text", Part.MESSAGE),
        (RESPONSES_ANSWER, Side.RESPONSE, "/output/0/content/1", Part.REFUSAL),
    ],
)
def test_a_pointer_points_at(document: dict[str, Any], side: Side, ptr: str, part: Part) -> None:
    assert part_at(parse(json.dumps(document)), ptr, side) is part
