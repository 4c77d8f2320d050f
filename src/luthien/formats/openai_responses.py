"""OpenAI Responses.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from luthien.formats import jsontext
from luthien.formats.blocks import Blocks
from luthien.formats.format import (
    Json,
    Repeats,
    ResponseFacts,
    TextSlot,
    count_or_none,
    count_within,
    error_message,
    number_or_none,
    objects,
    text_or_none,
    text_slots,
)
from luthien.formats.openai_chat import openai_error
from luthien.formats.openai_responses_assembler import ResponsesAssembler
from luthien.formats.openai_responses_blocks import ResponsesBlocks
from luthien.formats.openai_responses_parts import request_parts, response_parts
from luthien.formats.openai_responses_repeats import ResponsesRepeats
from luthien.formats.openai_responses_stream import PartSlot, ended, is_terminal, item_slots, pieces, type_of
from luthien.formats.parts import Part
from luthien.formats.sse import Chunk
from luthien.telemetry import conventions as names

# Inputs that a model wrote for its tools: JSON or code of their own.
INPUTS = frozenset({"arguments", "input", "code"})
_SHELL = ("stdout", "stderr")


class OpenAIResponses:
    name = "openai.responses"
    provider = "openai"
    path = "/v1/responses"
    blocks: Blocks = ResponsesBlocks()
    keep_alive = b": keep-alive\n\n"

    def request_attributes(self, body: Json) -> Mapping[str, Any]:
        return {
            names.REQUEST_MAX_TOKENS: number_or_none(body.get("max_output_tokens")),
            names.REQUEST_TEMPERATURE: number_or_none(body.get("temperature")),
            names.REQUEST_TOP_P: number_or_none(body.get("top_p")),
        }

    def request_texts(self, body: Json) -> list[TextSlot]:
        slots = list(text_slots(body, "instructions", "system")) if "instructions" in body else []
        slots += _variables(body.get("prompt"))
        if isinstance(body.get("input"), str):
            return [*slots, TextSlot(body, "input", "user")]
        return slots + [slot for item in objects(body.get("input")) for slot in _input_slots(item)]

    def response_texts(self, body: Json) -> list[TextSlot]:
        slots: list[TextSlot] = [
            slot for item in objects(body.get("output")) for _, place, slot in item_slots(item) if _is_read(place)
        ]
        if isinstance(body.get("output_text"), str):
            slots.append(TextSlot(body, "output_text", "assistant"))
        return slots

    def request_parts(self, body: Json) -> list[Part]:
        return request_parts(body)

    def response_parts(self, body: Json) -> list[Part]:
        return response_parts(body)

    def add_system_message(self, body: Json, text: str) -> None:
        known = body.get("instructions")
        if isinstance(known, list):
            body["instructions"] = [{"role": "developer", "content": text}, *known]
        else:
            body["instructions"] = f"{text}\n\n{known}" if known else text

    def response_facts(self, body: Json) -> ResponseFacts:
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        details = body.get("incomplete_details")
        why = text_or_none(details.get("reason")) if isinstance(details, dict) else None
        reason = why or text_or_none(body.get("status"))
        return ResponseFacts(
            model=text_or_none(body.get("model")),
            response_id=text_or_none(body.get("id")),
            finish_reasons=(reason,) if reason else (),
            input_tokens=count_or_none(usage.get("input_tokens")),
            output_tokens=count_or_none(usage.get("output_tokens")),
            cached_tokens=count_within(usage, "input_tokens_details", "cached_tokens"),
            reasoning_tokens=count_within(usage, "output_tokens_details", "reasoning_tokens"),
        )

    def assembler(self) -> ResponsesAssembler:
        return ResponsesAssembler()

    def repeats(self) -> Repeats:
        return ResponsesRepeats()

    def chunk_texts(self, body: Json) -> list[tuple[str, str]]:
        return [(said.keys[0], said.slot.text) for said in pieces(body) if said.is_for_readers]

    def with_chunk_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        body = jsontext.parse_object(chunk.data or b"")
        slots = [said.slot for said in pieces(body) if said.is_for_readers]
        for slot, text in zip(slots, texts, strict=True):
            slot.set(text)
        return Chunk.of(body, chunk.event)

    def ended_texts(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        return ended(chunk.json or {}, list(open_keys))

    def is_terminal(self, chunk: Chunk) -> bool:
        return chunk.data is not None and is_terminal(chunk.json or {})

    def stream_error(self, chunk: Chunk) -> str | None:
        body = chunk.json or {}
        response = body.get("response")
        match type_of(body):
            case "error":
                return error_message(body.get("error") or body)
            case "response.failed":
                return error_message(response.get("error") if isinstance(response, dict) else None)
            case "" if body.get("error"):
                return error_message(body["error"])
            case _:
                return None

    def error_body(self, status: int, code: str, message: str) -> bytes:
        return jsontext.render(openai_error(status, code, message))

    def error_frame(self, status: int, code: str, message: str, position: int = 0) -> bytes:
        # Flat, as it is documented, and nested, as it is sent: the SDKs raise on the second alone.
        error = {"type": "error", "sequence_number": position, "code": code, "message": message, "param": None}
        return Chunk.of(error | openai_error(status, code, message), "error").raw


def _is_read(place: str) -> bool:
    return place.partition("/")[0] not in INPUTS


def _input_slots(item: Json) -> Iterator[TextSlot]:
    """Messages, what tools gave back, and reasoning; whatever else there is, is left alone."""
    role = text_or_none(item.get("role")) or ("user" if item.get("type") == "message" else "assistant")
    if "content" in item:
        yield from text_slots(item, "content", role)
        for part in objects(item["content"]):
            if isinstance(part.get("refusal"), str):
                yield PartSlot(part, "refusal", role)
    if "summary" in item:
        yield from text_slots(item, "summary", role)
    if "output" in item:
        yield from text_slots(item, "output", "tool")
        for part in objects(item["output"]):  # of a shell
            yield from (TextSlot(part, name, "tool") for name in _SHELL if isinstance(part.get(name), str))


def _variables(prompt: Any) -> Iterator[TextSlot]:
    """What is put into a prompt that the provider keeps."""
    variables = prompt.get("variables") if isinstance(prompt, dict) else None
    for name, value in variables.items() if isinstance(variables, dict) else ():
        if isinstance(value, str):
            yield TextSlot(variables, name, "user")
        elif isinstance(value, dict) and isinstance(value.get("text"), str):
            yield TextSlot(value, "text", "user")
