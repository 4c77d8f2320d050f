"""Anthropic Messages.

https://docs.anthropic.com/en/api/messages and .../messages-streaming
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luthien.formats import jsontext
from luthien.formats.anthropic_blocks import AnthropicBlocks
from luthien.formats.anthropic_parts import request_parts, response_parts
from luthien.formats.blocks import Blocks
from luthien.formats.format import (
    Json,
    Pieces,
    ResponseFacts,
    TextSlot,
    count_or_none,
    error_message,
    index_of,
    number_or_none,
    objects,
    text_or_none,
    text_slots,
    whole,
)
from luthien.formats.parts import Part
from luthien.formats.sse import MAX_DEPTH, Chunk
from luthien.telemetry import conventions as names

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    504: "timeout_error",
}


class AnthropicMessages:
    name = "anthropic.messages"
    provider = "anthropic"
    path = "/v1/messages"
    blocks: Blocks = AnthropicBlocks()
    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def request_attributes(self, body: Json) -> Mapping[str, Any]:
        return {
            names.REQUEST_MAX_TOKENS: number_or_none(body.get("max_tokens")),
            names.REQUEST_TEMPERATURE: number_or_none(body.get("temperature")),
            names.REQUEST_TOP_P: number_or_none(body.get("top_p")),
            names.REQUEST_TOP_K: number_or_none(body.get("top_k")),
        }

    def request_texts(self, body: Json) -> list[TextSlot]:
        slots = list(text_slots(body, "system", "system")) if "system" in body else []
        for message in objects(body.get("messages")):
            if "content" in message:
                slots += _content_texts(message, text_or_none(message.get("role")) or "")
        return slots

    def response_texts(self, body: Json) -> list[TextSlot]:
        return list(text_slots(body, "content", "assistant")) if "content" in body else []

    def request_parts(self, body: Json) -> list[Part]:
        return request_parts(body)

    def response_parts(self, body: Json) -> list[Part]:
        return response_parts(body)

    def add_system_message(self, body: Json, text: str) -> None:
        system = body.get("system")
        if isinstance(system, list):
            body["system"] = [{"type": "text", "text": text}, *system]
        else:
            body["system"] = f"{text}\n\n{system}" if system else text

    def response_facts(self, body: Json) -> ResponseFacts:
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        inputs = [
            count_or_none(usage.get(key))
            for key in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        ]
        reason = text_or_none(body.get("stop_reason"))
        return ResponseFacts(
            model=text_or_none(body.get("model")),
            response_id=text_or_none(body.get("id")),
            finish_reasons=(reason,) if reason else (),
            input_tokens=None if inputs[0] is None else sum(count or 0 for count in inputs),
            output_tokens=count_or_none(usage.get("output_tokens")),
            cached_tokens=count_or_none(usage.get("cache_read_input_tokens")),
        )

    def assembler(self) -> AnthropicAssembler:
        return AnthropicAssembler()

    def repeats(self) -> None:
        return None

    def chunk_texts(self, body: Json) -> list[tuple[str, str]]:
        return [(f"{index_of(body)}/text", slot.text) for slot in _chunk_slots(body)]

    def with_chunk_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        body = jsontext.parse_object(chunk.data or b"")
        for slot, text in zip(_chunk_slots(body), texts, strict=True):
            slot.set(text)
        return Chunk.of(body, chunk.event)

    def ended_texts(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        body = chunk.json or {}
        match body.get("type"):
            case "content_block_stop":
                return [key for key in open_keys if key == f"{index_of(body)}/text"]
            case "message_delta" | "message_stop":
                return list(open_keys)
            case _:
                return []

    def is_terminal(self, chunk: Chunk) -> bool:
        return chunk.data is not None and (chunk.json or {}).get("type") == "message_stop"

    def stream_error(self, chunk: Chunk) -> str | None:
        body = chunk.json or {}
        if body.get("type") != "error":
            return None
        return error_message(body.get("error"))

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return jsontext.render({"type": "error", "error": {"type": kind, "message": message, "code": code}})

    def error_frame(self, status: int, code: str, message: str, position: int = 0) -> bytes:
        return b"event: error\ndata: %s\n\n" % self.error_body(status, code, message)


class AnthropicAssembler:
    """Applies a stream's events to the message that `message_start` opened."""

    def __init__(self) -> None:
        self._message: Json | None = None
        self._blocks: dict[int, Json] = {}
        self._error: Any = None

    def add(self, chunk: Chunk) -> None:
        body = chunk.json
        if body is None:
            return
        match body.get("type"):
            case "message_start":
                message = body.get("message")
                self._message = dict(message) if isinstance(message, dict) else {}
                content = objects(self._message.get("content"))
                self._blocks = {index: _own(block) for index, block in enumerate(content)}
            case "content_block_start":
                block = body.get("content_block")
                self._blocks[index_of(body)] = _own(block) if isinstance(block, dict) else {}
            case "content_block_delta":
                delta = body.get("delta")
                if isinstance(delta, dict):
                    _apply_delta(self._blocks.setdefault(index_of(body), {}), delta)
            case "message_delta":
                self._merge_top(body)
            case "error":
                self._error = body.get("error")

    def _merge_top(self, body: Json) -> None:
        message = self._message = self._message or {}
        for key, value in body.items():
            if key == "delta" and isinstance(value, dict):
                message.update(value)
            elif key == "usage" and isinstance(value, dict):
                # Totals so far. What is not counted may be null here, and then the count of the start stands.
                known = message.get("usage")
                known = known if isinstance(known, dict) else {}
                counted = {name: count for name, count in value.items() if count is not None or name not in known}
                message["usage"] = {**known, **counted}
            elif key != "type":
                message[key] = value

    def result(self) -> Json | None:
        if self._message is None and not self._blocks and self._error is None:
            return None
        message: Json = whole(self._message or {})
        if self._blocks or "content" in message:
            message["content"] = [_whole_block(block) for block in self._blocks.values()]
        if self._error is not None:
            message["error"] = self._error
        return message


def _chunk_slots(body: Json) -> Iterable[TextSlot]:
    part = body.get({"content_block_delta": "delta", "content_block_start": "content_block"}.get(_type(body), ""))
    return text_slots(part, "text", "assistant") if isinstance(part, dict) and part.get("text") else ()


def _type(body: Json) -> str:
    return text_or_none(body.get("type")) or ""


def _content_texts(message: Json, role: str) -> Iterable[TextSlot]:
    yield from text_slots(message, "content", role)
    for block in objects(message["content"]):
        if block.get("type") == "tool_result" and "content" in block:
            yield from text_slots(block, "content", "tool")


def _apply_delta(block: Json, delta: Json) -> None:
    for key, value in delta.items():
        if key == "type":
            continue
        if key == "citation":
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(value)
        elif isinstance(value, str) and key != "signature":
            pieces = block.get(key)
            if not isinstance(pieces, Pieces):
                pieces = block[key] = Pieces(*([pieces] if isinstance(pieces, str) else ()))
            pieces.parts.append(value)
        else:
            block |= _own({key: value})


def _own(block: Json) -> Json:
    """A copy whose lists may grow: those of a chunk are for reading only."""
    return {key: [*value] if isinstance(value, list) else value for key, value in block.items()}


def _whole_block(block: Json) -> Json:
    """The block with its text joined and its tool input parsed; input cut short stays in `partial_json`."""
    assembled: Json = whole(block)
    if fragments := text_or_none(assembled.get("partial_json")):
        try:
            assembled["input"] = jsontext.parse(fragments, max_depth=MAX_DEPTH)
        except jsontext.InvalidJson:
            return assembled
    assembled.pop("partial_json", None)
    return assembled
