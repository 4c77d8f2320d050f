"""What providers say, in both wire formats: written from their public descriptions."""

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
