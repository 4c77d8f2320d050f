"""Answers of providers that only clients make a difference of: tools, reasoning, structured output."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.integration.clients.adversity import CHAT, MESSAGES, RESPONSES
from tests.wire import (
    Json,
    anthropic_event,
    anthropic_response,
    responses_events,
    responses_response,
)
from tests.wire_tools import anthropic_tools, anthropic_tools_stream, openai_tools, openai_tools_stream

Call = tuple[str, Any]
"""A tool's name, and its arguments."""

SIGNATURE = "EqQBCkYIARgCKkDsecretU2lnbmF0dXJl"


def responses_tools(*calls: Call) -> Json:
    return responses_response() | {"output": [_function_call(at, *call) for at, call in enumerate(calls)]}


def responses_tools_stream(*calls: Call) -> list[bytes]:
    whole = responses_tools(*calls)
    opened = whole | {"status": "in_progress", "output": [], "usage": None}
    bodies: list[Json] = [{"type": "response.created", "response": opened}]
    for at, item in enumerate(whole["output"]):
        place = {"output_index": at, "item_id": item["id"]}
        begun = item | {"arguments": "", "status": "in_progress"}
        text = item["arguments"]
        pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
        bodies.append({"type": "response.output_item.added", "output_index": at, "item": begun})
        bodies += [{"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in pieces]
        done = {"name": item["name"], "arguments": text}
        bodies.append({"type": "response.function_call_arguments.done", **place, **done})
        bodies.append({"type": "response.output_item.done", "output_index": at, "item": item})
    bodies.append({"type": "response.completed", "response": whole})
    return responses_events(*bodies)


def _function_call(at: int, name: str, arguments: Any) -> Json:
    return {
        "id": f"fc_{at}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{at}",
        "name": name,
        "arguments": json.dumps(arguments),
    }


def responses_reasoning(text: str) -> Json:
    """An answer after some thought, which the provider wants back as it is."""
    reasoning = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "The secret is thought of."}],
        "encrypted_content": SIGNATURE,
    }
    whole = responses_response(text)
    return whole | {"output": [reasoning, *whole["output"]]}


def anthropic_thinking(text: str) -> Json:
    """The same of Anthropic: signed, and some of it redacted."""
    thinking = {"type": "thinking", "thinking": "The secret is thought of.", "signature": SIGNATURE}
    redacted = {"type": "redacted_thinking", "data": SIGNATURE}
    return anthropic_response() | {"content": [thinking, redacted, {"type": "text", "text": text}]}


def anthropic_thinking_stream(text: str) -> list[bytes]:
    whole = anthropic_thinking(text)
    thinking, redacted, said = whole["content"]
    deltas: list[list[Json]] = [
        [
            *({"type": "thinking_delta", "thinking": piece} for piece in ("The se", "cret is thought of.")),
            {"type": "signature_delta", "signature": thinking["signature"]},
        ],
        [],
        [{"type": "text_delta", "text": said["text"]}],
    ]
    opened = [thinking | {"thinking": "", "signature": ""}, redacted, said | {"text": ""}]
    bodies: list[Json] = [{"type": "message_start", "message": whole | {"content": [], "stop_reason": None}}]
    for index, (block, pieces) in enumerate(zip(opened, deltas, strict=True)):
        bodies.append({"type": "content_block_start", "index": index, "content_block": block})
        bodies += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in pieces]
        bodies.append({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    bodies.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 3}})
    bodies.append({"type": "message_stop"})
    return [anthropic_event(body) for body in bodies]


TOOL_STREAMS: dict[str, Callable[..., list[bytes]]] = {
    CHAT: partial(openai_tools_stream, ""),
    RESPONSES: responses_tools_stream,
    MESSAGES: partial(anthropic_tools_stream, ""),
}
TOOL_ANSWERS: dict[str, Callable[..., Json]] = {
    CHAT: partial(openai_tools, ""),
    RESPONSES: responses_tools,
    MESSAGES: partial(anthropic_tools, ""),
}
