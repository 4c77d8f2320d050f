"""Where tool arguments stand, in whatever providers and clients say."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from luthien.formats.arguments import ArgumentSlot, arguments_of, change_text
from luthien.formats.format import Json
from luthien.formats.registry import ANTHROPIC_MESSAGES, FORMATS, OPENAI_CHAT, OPENAI_RESPONSES

STRANGE: list[Any] = [None, 1, "x", [], {}, [None], [1], [{}], [{"function": None}], [{"function": {"arguments": 1}}]]


def shouted(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else {key: shouted(item) for key, item in value.items()}


def test_every_place_of_openai() -> None:
    message = {
        "function_call": {"name": "f", "arguments": '{"a": "x"}'},
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": '{"b": "y"}'}},
            {"type": "custom", "custom": {"name": "g", "input": "free text"}},
        ],
    }
    arguments = arguments_of(OPENAI_CHAT)
    for slots in (
        arguments.in_request({"messages": [message]}),
        arguments.in_response({"choices": [{"message": message}]}),
    ):
        assert [slot.container[slot.key].lower() for slot in slots] == ['{"a": "x"}', '{"b": "y"}', "free text"]
    for slot in arguments.in_request({"messages": [message]}):
        slot.change(shouted)
    assert message == {
        "function_call": {"name": "f", "arguments": '{"a":"X"}'},
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": '{"b":"Y"}'}},
            {"type": "custom", "custom": {"name": "g", "input": "FREE TEXT"}},
        ],
    }


def test_every_place_of_anthropic() -> None:
    content = [
        {"type": kind, "id": "1", "name": "f", "input": {"a": "x"}} for kind in ("tool_use", "server_tool_use")
    ]
    arguments = arguments_of(ANTHROPIC_MESSAGES)
    assert len(arguments.in_request({"messages": [{"role": "assistant", "content": content}]})) == 2
    for slot in arguments.in_response({"content": content}):
        slot.change(shouted)
    assert [block["input"] for block in content] == [{"a": "X"}] * 2


def test_every_place_of_responses() -> None:
    items: list[Json] = [
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a": "x"}'},
        {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "free text"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "no argument"}]},
    ]
    arguments = arguments_of(OPENAI_RESPONSES)
    assert len(arguments.in_request({"input": items})) == 2
    for slot in arguments.in_response({"output": items}):
        slot.change(shouted)
    assert [items[0]["arguments"], items[1]["input"]] == ['{"a":"X"}', "FREE TEXT"]


ACTIONS: list[Json] = [
    {"type": "shell_call", "call_id": "1", "action": {"commands": "ls /home/jane"}},
    {"type": "computer_call", "call_id": "2", "action": {"type": "type", "text": "jane"}},
    {"type": "apply_patch_call", "call_id": "3", "operation": {"type": "create_file", "diff": "+jane"}},
]


@pytest.mark.parametrize("item", ACTIONS, ids=lambda item: str(item["type"]))
def test_what_the_tools_of_responses_are_told_to_do(item: Json) -> None:
    arguments = arguments_of(OPENAI_RESPONSES)
    field = "operation" if "operation" in item else "action"
    expected = item | {field: shouted(item[field])}
    for how in ("in_request", "in_response"):
        shown = copy.deepcopy(item)
        [slot] = getattr(arguments, how)({"input": [shown], "output": [shown]})
        slot.change(shouted)
        assert shown == expected
    keys: list[str] = []
    for kind in ("added", "done"):
        event = {"type": f"response.output_item.{kind}", "output_index": 0, "item": copy.deepcopy(item)}
        [(key, text)] = arguments.in_chunk(event)
        keys.append(key)
        assert key in arguments.ended(event, keys)
        text.set(change_text(text.text, shouted))
        assert event["item"] == expected
    assert len({*keys}) == 2


@pytest.mark.parametrize("wire_format", FORMATS, ids=lambda wire_format: wire_format.name)
@pytest.mark.parametrize("strange", STRANGE)
def test_strange_bodies_are_no_error(wire_format: Any, strange: Any) -> None:
    arguments = arguments_of(wire_format)
    bodies: list[Json] = [
        {"messages": strange},
        {"messages": [{"tool_calls": strange, "function_call": strange, "content": strange}]},
        {"choices": strange},
        {"choices": [{"message": {"tool_calls": strange}, "delta": {"tool_calls": strange}, "index": strange}]},
        {"choices": [{"message": strange, "delta": strange}]},
        {"content": strange},
        {"type": "content_block_delta", "delta": strange, "index": strange},
        {"type": strange},
    ]
    for body in bodies:
        for slot in [*arguments.in_request(body), *arguments.in_response(body)]:
            slot.change(lambda value: value)
            assert slot.chars >= 0
        assert all(isinstance(slot.text, str) for _, slot in arguments.in_chunk(body))
        assert arguments.ended(body, []) == []


def test_a_text_that_nothing_changed_is_the_very_same() -> None:
    text = '{ "n": 1.10 }'
    assert change_text(text, lambda value: value) is text
    slot = ArgumentSlot({"arguments": text}, "arguments")
    slot.change(lambda value: value)
    assert slot.container == {"arguments": text}


def test_a_format_that_nobody_has_described_is_an_error() -> None:
    class Unknown:
        name = "unknown"

    with pytest.raises(LookupError, match="unknown"):
        arguments_of(Unknown())  # type: ignore[arg-type]
