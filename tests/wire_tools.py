"""Answers that call tools, in all wire formats, in the pieces in which providers stream them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.wire import (
    DONE,
    Json,
    anthropic_event,
    anthropic_response,
    openai_chunk,
    openai_response,
    responses_events,
    responses_message,
    responses_response,
    responses_text,
    sse,
)

Call = tuple[str, Any]
"""A tool's name, and its arguments."""


def _pieces(text: str) -> list[str]:
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def openai_tools(text: str, *calls: Call) -> Json:
    body = openai_response(text)
    choice = body["choices"][0]
    choice["finish_reason"] = "tool_calls"
    choice["message"]["tool_calls"] = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for at, (name, arguments) in enumerate(calls)
    ]
    return body


def openai_tools_stream(text: str, *calls: Call) -> list[bytes]:
    frames = [openai_chunk({"role": "assistant", "content": None})]
    frames += [openai_chunk({"content": piece}) for piece in _pieces(text)]
    for at, (name, arguments) in enumerate(calls):
        begun = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": ""}}
        frames.append(openai_chunk({"tool_calls": [begun]}))
        for piece in _pieces(json.dumps(arguments)):
            frames.append(openai_chunk({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}))
    frames.append(openai_chunk({}, "tool_calls"))
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    frames.append(sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000,
                       "model": "gpt-test-2026", "choices": [], "usage": usage}))  # fmt: skip
    return [*frames, DONE]


def anthropic_tools(text: str, *calls: Call) -> Json:
    tools = [
        {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": arguments}
        for at, (name, arguments) in enumerate(calls)
    ]
    said = [{"type": "text", "text": text}] if text else []
    return anthropic_response() | {"content": [*said, *tools], "stop_reason": "tool_use"}


def anthropic_tools_stream(text: str, *calls: Call) -> list[bytes]:
    message = anthropic_response() | {"content": [], "stop_reason": None}
    blocks: list[tuple[Json, list[Json]]] = []
    if text:
        blocks.append(
            ({"type": "text", "text": ""}, [{"type": "text_delta", "text": each} for each in _pieces(text)])
        )
    for at, (name, arguments) in enumerate(calls):
        begun = {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": each} for each in _pieces(json.dumps(arguments))]
        blocks.append((begun, deltas))
    bodies: list[Json] = [{"type": "message_start", "message": message}]
    for index, (begun, deltas) in enumerate(blocks):
        bodies.append({"type": "content_block_start", "index": index, "content_block": begun})
        bodies += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        bodies.append({"type": "content_block_stop", "index": index})
    ends = {"stop_reason": "tool_use", "stop_sequence": None}
    bodies.append({"type": "message_delta", "delta": ends, "usage": {"output_tokens": 3}})
    bodies.append({"type": "message_stop"})
    return [anthropic_event(body) for body in bodies]


def responses_call(at: int, name: str, arguments: Any) -> Json:
    return {
        "id": f"fc_{at}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{at}",
        "name": name,
        "arguments": json.dumps(arguments),
    }


def responses_tools(text: str, *calls: Call) -> Json:
    said = [responses_message(text)] if text else []
    return responses_response() | {"output": [*said, *(responses_call(at, *call) for at, call in enumerate(calls))]}


def responses_item(item: Json, output_index: int) -> list[Json]:
    """The events of a function call, of reasoning with parts of a summary, or of what a provider does itself."""
    place = {"item_id": item["id"], "output_index": output_index}
    events: list[Json] = []
    opened = dict(item)
    if "arguments" in item:
        opened["arguments"] = ""
        kind = "response.function_call_arguments"
        events += [{"type": f"{kind}.delta", **place, "delta": each} for each in _pieces(item["arguments"])]
        events.append({"type": f"{kind}.done", **place, "name": item["name"], "arguments": item["arguments"]})
    for index, part in enumerate(item.get("summary", ())):
        opened["summary"] = []
        at, kind = {**place, "summary_index": index}, "response.reasoning_summary"
        events.append({"type": f"{kind}_part.added", **at, "part": part | {"text": ""}})
        events += [{"type": f"{kind}_text.delta", **at, "delta": each} for each in _pieces(part["text"])]
        events.append({"type": f"{kind}_text.done", **at, "text": part["text"]})
        events.append({"type": f"{kind}_part.done", **at, "part": part})
    return [
        {"type": "response.output_item.added", "output_index": output_index, "item": opened},
        *events,
        {"type": "response.output_item.done", "output_index": output_index, "item": item},
    ]


def responses_tools_stream(text: str, *calls: Call) -> list[bytes]:
    body = responses_tools(text, *calls)
    opened = body | {"status": "in_progress", "output": [], "usage": None}
    events: list[Json] = [{"type": f"response.{name}", "response": opened} for name in ("created", "in_progress")]
    events += responses_text(*_pieces(text)) if text else []
    for index, item in enumerate(body["output"]):
        events += responses_item(item, index) if item["type"] == "function_call" else []
    return responses_events(*events, {"type": "response.completed", "response": body})


def joined(frames: Sequence[bytes]) -> bytes:
    return b"".join(frames)
