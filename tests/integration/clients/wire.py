"""Answers of providers that only clients make a difference of: tools, reasoning, structured output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.integration.clients.adversity import CHAT, MESSAGES, RESPONSES
from tests.wire import Json, anthropic_event, anthropic_response, responses_response
from tests.wire_tools import (
    anthropic_tools,
    anthropic_tools_stream,
    openai_tools,
    openai_tools_stream,
    responses_tools,
    responses_tools_stream,
)

SIGNATURE = "EqQBCkYIARgCKkDsecretU2lnbmF0dXJl"


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
    RESPONSES: partial(responses_tools_stream, ""),
    MESSAGES: partial(anthropic_tools_stream, ""),
}
TOOL_ANSWERS: dict[str, Callable[..., Json]] = {
    CHAT: partial(openai_tools, ""),
    RESPONSES: partial(responses_tools, ""),
    MESSAGES: partial(anthropic_tools, ""),
}
