"""What providers say, in all wire formats: written from their public descriptions."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def openai_request(text: str = "Hello", **fields: Any) -> Json:
    return {"model": "gpt-test", "messages": [{"role": "user", "content": text}], **fields}


def openai_response(text: str = "Hello there") -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-test-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        "system_fingerprint": "fp_1",
    }


def sse(value: Json | str, event: str | None = None) -> bytes:
    data = value if isinstance(value, str) else json.dumps(value)
    return (f"event: {event}\n" if event else "").encode() + f"data: {data}\n\n".encode()


DONE = sse("[DONE]")


def openai_chunk(delta: Json, finish_reason: str | None = None, *, index: int = 0, **fields: Any) -> bytes:
    return sse(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "gpt-test-2026",
            "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
            **fields,
        }
    )


def openai_stream(*texts: str, usage: bool = True) -> list[bytes]:
    """The frames of a streamed answer, end marker included."""
    frames = [openai_chunk({"role": "assistant", "content": ""})]
    frames += [openai_chunk({"content": text}) for text in texts]
    frames.append(openai_chunk({}, "stop"))
    if usage:
        counts = {"prompt_tokens": 9, "completion_tokens": len(texts), "total_tokens": 9 + len(texts)}
        frames.append(
            sse(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion.chunk",
                    "created": 1700000000,
                    "model": "gpt-test-2026",
                    "choices": [],
                    "usage": counts,
                }
            )
        )
    return [*frames, DONE]


def responses_request(text: str = "Hello", **fields: Any) -> Json:
    return {"model": "gpt-test", "input": [{"role": "user", "content": text}], **fields}


def responses_message(text: str, status: str = "completed") -> Json:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": [part]}


def responses_response(text: str = "Hello there") -> Json:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": "gpt-test-2026",
        "output": [responses_message(text)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
        },
    }


def responses_events(*bodies: Json) -> list[bytes]:
    """The frames of these events, numbered."""
    return [sse({**body, "sequence_number": number}, body["type"]) for number, body in enumerate(bodies)]


def responses_text(*texts: str, output_index: int = 0) -> list[Json]:
    """The events of one message."""
    whole = "".join(texts)
    place = {"item_id": "msg_1", "output_index": output_index, "content_index": 0}
    part = responses_message(whole)["content"][0]
    opened = responses_message("", "in_progress") | {"content": []}
    return [
        {"type": "response.output_item.added", "output_index": output_index, "item": opened},
        {"type": "response.content_part.added", **place, "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": text, "logprobs": []} for text in texts),
        {"type": "response.output_text.done", **place, "text": whole, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": output_index, "item": responses_message(whole)},
    ]


def responses_stream(*texts: str) -> list[bytes]:
    """The frames of a streamed answer, end marker included."""
    opened = responses_response() | {"status": "in_progress", "output": [], "usage": None}
    return responses_events(
        {"type": "response.created", "response": opened},
        {"type": "response.in_progress", "response": opened},
        *responses_text(*texts),
        {"type": "response.completed", "response": responses_response("".join(texts))},
    )


def anthropic_request(text: str = "Hello", **fields: Any) -> Json:
    return {"model": "claude-test", "max_tokens": 64, "messages": [{"role": "user", "content": text}], **fields}


def anthropic_response(text: str = "Hello there") -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-2026",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }


def anthropic_event(body: Json) -> bytes:
    return sse(body, body["type"])


def anthropic_stream(*texts: str) -> list[bytes]:
    """The frames of a streamed answer, end marker included."""
    message = anthropic_response() | {
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }
    deltas: list[Json] = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts
    ]
    bodies: list[Json] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": len(texts)},
        },
        {"type": "message_stop"},
    ]
    return [anthropic_event(body) for body in bodies]
