"""OpenAI Chat Completions.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from luthien.formats import jsontext
from luthien.formats.blocks import Blocks
from luthien.formats.format import (
    Json,
    Pieces,
    ResponseFacts,
    TextSlot,
    count_or_none,
    count_within,
    error_message,
    index_of,
    number_or_none,
    objects,
    text_or_none,
    text_slots,
    whole,
)
from luthien.formats.openai_chat_blocks import OpenAIChatBlocks
from luthien.formats.openai_chat_details import REASONING, detail_slots
from luthien.formats.openai_chat_parts import ChoiceSlot, request_parts, response_parts
from luthien.formats.parts import Part
from luthien.formats.sse import Chunk
from luthien.telemetry import conventions as names

_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_TEXT_FIELDS = ("content", "refusal", "reasoning_content", "reasoning")
# A choice speaks in one of these at a time: first it reasons, then it answers, then it calls its tools.
_SPOKEN = (*_TEXT_FIELDS, "tool_calls", "function_call", "audio", "reasoning_details")
# Fields of a delta that state a value; every other string is a fragment to be appended.
_STATED = frozenset({"id", "type", "role", "index", "format"})


class OpenAIChat:
    name = "openai.chat_completions"
    provider = "openai"
    path = "/v1/chat/completions"
    blocks: Blocks = OpenAIChatBlocks()
    keep_alive = b": keep-alive\n\n"

    def request_attributes(self, body: Json) -> Mapping[str, Any]:
        max_tokens = body.get("max_completion_tokens")
        return {
            names.REQUEST_MAX_TOKENS: number_or_none(body.get("max_tokens") if max_tokens is None else max_tokens),
            names.REQUEST_TEMPERATURE: number_or_none(body.get("temperature")),
            names.REQUEST_TOP_P: number_or_none(body.get("top_p")),
            names.REQUEST_FREQUENCY_PENALTY: number_or_none(body.get("frequency_penalty")),
            names.REQUEST_PRESENCE_PENALTY: number_or_none(body.get("presence_penalty")),
            names.REQUEST_SEED: number_or_none(body.get("seed")),
            names.REQUEST_CHOICES: number_or_none(body.get("n")),
        }

    def request_texts(self, body: Json) -> list[TextSlot]:
        return [
            slot
            for message in objects(body.get("messages"))
            for slot in _message_slots(message, text_or_none(message.get("role")) or "")
        ]

    def response_texts(self, body: Json) -> list[TextSlot]:
        return [slot for choice in objects(body.get("choices")) for _, slot in _all_slots(choice, "message")]

    def request_parts(self, body: Json) -> list[Part]:
        return request_parts(body)

    def response_parts(self, body: Json) -> list[Part]:
        return response_parts(body)

    def add_system_message(self, body: Json, text: str) -> None:
        messages = body.get("messages")
        others = messages if isinstance(messages, list) else []
        body["messages"] = [{"role": "system", "content": text}, *others]

    def response_facts(self, body: Json) -> ResponseFacts:
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        reasons = (choice.get("finish_reason") for choice in objects(body.get("choices")))
        return ResponseFacts(
            model=text_or_none(body.get("model")),
            response_id=text_or_none(body.get("id")),
            finish_reasons=tuple(reason for reason in reasons if isinstance(reason, str)),
            input_tokens=count_or_none(usage.get("prompt_tokens")),
            output_tokens=count_or_none(usage.get("completion_tokens")),
            cached_tokens=count_within(usage, "prompt_tokens_details", "cached_tokens"),
            reasoning_tokens=count_within(usage, "completion_tokens_details", "reasoning_tokens"),
        )

    def assembler(self) -> OpenAIChatAssembler:
        return OpenAIChatAssembler()

    def repeats(self) -> None:
        return None

    def chunk_texts(self, body: Json) -> list[tuple[str, str]]:
        return [(key, slot.text) for key, slot in _chunk_slots(body)]

    def with_chunk_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        body = jsontext.parse_object(chunk.data or b"")
        for (_, slot), text in zip(_chunk_slots(body), texts, strict=True):
            slot.set(text)
        return Chunk.of(body, chunk.event)

    def ended_texts(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        goes_on: dict[str, set[str]] = {}
        for choice in objects((chunk.json or {}).get("choices")):
            delta = choice.get("delta")
            fields = {field for field in _SPOKEN if delta.get(field)} if isinstance(delta, dict) else set()
            fields |= REASONING if fields & REASONING else frozenset()
            if choice.get("finish_reason"):
                goes_on[str(index_of(choice))] = set()
            elif fields:
                goes_on[str(index_of(choice))] = fields
        keys = ((key, *key.split("/")) for key in open_keys)
        return [
            key for key, index, field in keys if index in goes_on and field.partition(".")[0] not in goes_on[index]
        ]

    def is_terminal(self, chunk: Chunk) -> bool:
        return chunk.data is not None and chunk.data.strip() == b"[DONE]"

    def stream_error(self, chunk: Chunk) -> str | None:
        error = (chunk.json or {}).get("error")
        return error_message(error) if error else None

    def error_body(self, status: int, code: str, message: str) -> bytes:
        return jsontext.render(openai_error(status, code, message))

    def error_frame(self, status: int, code: str, message: str, position: int = 0) -> bytes:
        return b"data: %s\n\n" % self.error_body(status, code, message)


def openai_error(status: int, code: str, message: str) -> Json:
    """An error as all of OpenAI's endpoints have it."""
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _message_slots(message: Json, role: str) -> Iterator[TextSlot]:
    for field in _TEXT_FIELDS:
        if field in message:
            yield from text_slots(message, field, role)
    yield from (slot for _, slot in detail_slots(message, role))


def _all_slots(choice: Json, holder: str) -> Iterator[tuple[str, TextSlot]]:
    yield from _choice_slots(choice, holder)
    message = choice.get(holder)
    if isinstance(message, dict):
        yield from detail_slots(message, "assistant")


def _chunk_slots(body: Json) -> Iterator[tuple[str, TextSlot]]:
    for choice in objects(body.get("choices")):
        for field, slot in _all_slots(choice, "delta"):
            yield f"{index_of(choice)}/{field}", slot


def _choice_slots(choice: Json, holder: str) -> Iterator[tuple[str, TextSlot]]:
    message = choice.get(holder)
    if isinstance(message, dict):
        for field in _TEXT_FIELDS:
            if field in message:
                for slot in text_slots(message, field, "assistant"):
                    yield field, ChoiceSlot(slot.container, slot.key, slot.role, choice.get("logprobs"), field)


class OpenAIChatAssembler:
    """Merges `chat.completion.chunk` objects into the `chat.completion` they stand for."""

    def __init__(self) -> None:
        self._top: Json = {}
        self._choices: dict[int, Json] = {}

    def add(self, chunk: Chunk) -> None:
        body = chunk.json
        if body is None:
            return
        # Azure's filters remark on prompt and text in chunks of their own, whose id, model and object are empty.
        is_remark = body.get("object") == "" and bool(self._top.get("object"))
        for key, value in body.items():
            if key == "choices":
                for choice in objects(value):
                    self._add_choice(choice)
            elif key not in self._top or (value is not None and not is_remark):
                self._top[key] = value

    def _add_choice(self, choice: Json) -> None:
        index = index_of(choice)
        known = self._choices.setdefault(index, {"index": index, "message": {}, "finish_reason": None})
        for key, value in choice.items():
            if key in {"index", "message"}:
                continue
            if key == "delta":
                _merge(known["message"], value if isinstance(value, dict) else {})
            elif key == "logprobs" and isinstance(value, dict):
                if not isinstance(known.get(key), dict):
                    known[key] = {}
                _merge(known[key], value)
            elif isinstance(value, dict) and isinstance(known.get(key), dict):
                known[key] = {**known[key], **value}
            elif value is not None or key not in known:
                known[key] = value

    def result(self) -> Json | None:
        if not self._top and not self._choices:
            return None
        top = dict(self._top)
        if top.get("object") == "chat.completion.chunk":
            top["object"] = "chat.completion"
        top.pop("obfuscation", None)  # pads the chunks of a stream; the plain response has none
        top["choices"] = [self._choices[index] for index in sorted(self._choices)]
        assembled: Json = whole(top)
        for choice in assembled["choices"]:
            for call in objects(choice["message"].get("tool_calls")):
                call.pop("index", None)  # a position in the stream; the plain response has none
        return assembled


def _merge(known: Json, delta: Json) -> None:
    """Adds a delta: strings are appended, objects merged, list items matched by their `index`."""
    for key, value in delta.items():
        if isinstance(value, str) and key not in _STATED:
            pieces = known.get(key)
            if not isinstance(pieces, Pieces):
                pieces = known[key] = Pieces()
            pieces.parts.append(value)
        elif isinstance(value, dict):
            if not isinstance(known.get(key), dict):
                known[key] = {}
            _merge(known[key], value)
        elif isinstance(value, list):
            if not isinstance(known.get(key), _Items):
                known[key] = _Items()
            known[key].merge(value)
        elif key not in known or value not in (None, ""):
            known[key] = value


class _Items(list[Any]):
    """A merged list. What has an index is merged with what came before under it; all else is added."""

    def __init__(self) -> None:
        super().__init__()
        self._by_index: dict[int, Json] = {}

    def merge(self, items: list[Any]) -> None:
        for item in items:
            index = count_or_none(item.get("index")) if isinstance(item, dict) else None
            if index is None:
                self.append(item)
                continue
            if index not in self._by_index or _is_another(self._by_index[index], item):
                self._by_index[index] = {}
                self.append(self._by_index[index])
            _merge(self._by_index[index], item)


def _is_another(known: Json, item: Json) -> bool:
    """Some providers give every call the same index, whole, and tell them apart by their ids."""
    return bool(known.get("id") and item.get("id")) and known["id"] != item["id"]
