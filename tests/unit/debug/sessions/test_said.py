"""What is said in a request or a response, part by part."""

from __future__ import annotations

from luthien.debug.sessions.said import said_in_response
from luthien.formats.parts import PartKind
from luthien.formats.registry import OPENAI_CHAT
from tests.wire import openai_response


def test_the_empty_text_beside_a_tool_call_is_left_out() -> None:
    response = openai_response("")
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    response["choices"][0]["message"]["tool_calls"] = [call]
    assert [(each.kind, each.text) for each in said_in_response(response, OPENAI_CHAT)] == [
        (PartKind.TOOL_CALL, '{"at": "x"}')
    ]


def test_an_answer_of_nothing_is_an_answer() -> None:
    assert [each.text for each in said_in_response(openai_response(""), OPENAI_CHAT)] == [""]
