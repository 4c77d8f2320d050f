"""What a request and a response offer to those who write policies."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.policies.policy import CallContext, PartKind, Request, Response
from tests.wire import (
    anthropic_request,
    anthropic_response,
    openai_request,
    openai_response,
    responses_request,
    responses_response,
)

FORMATS: list[Any] = [
    (OPENAI_CHAT, openai_request("Hi"), openai_response("Ho")),
    (ANTHROPIC_MESSAGES, anthropic_request("Hi"), anthropic_response("Ho")),
    (OPENAI_RESPONSES, responses_request("Hi"), responses_response("Ho")),
]


def call(wire_format: WireFormat) -> CallContext:
    return CallContext(UUID(int=0), wire_format, "m", streaming=False)


@pytest.mark.parametrize(("wire_format", "asked", "answered"), FORMATS, ids=lambda each: getattr(each, "name", ""))
def test_parts_and_tools(wire_format: WireFormat, asked: dict[str, Any], answered: dict[str, Any]) -> None:
    tools = [{"type": "function", "name": "find"}, {"type": "function", "name": "run"}]
    request = Request(
        call(wire_format), {**asked, "tools": tools, "tool_choice": {"type": "function", "name": "run"}}
    )
    assert [(part.kind, part.text) for part in request.parts()] == [
        (PartKind.TEXT, "Hi"),
        (PartKind.TOOL_DEFINITION, None),
        (PartKind.TOOL_DEFINITION, None),
    ]
    assert [(part.name, part.value) for part in request.tools()] == [("find", tools[0]), ("run", tools[1])]
    assert request.remove_tools(lambda name: name == "run") == ["run"]
    assert request.body == {**asked, "tools": tools[:1]}
    response = Response(call(wire_format), answered)
    assert {(part.kind, part.text) for part in response.parts()} == {(PartKind.TEXT, "Ho")}
