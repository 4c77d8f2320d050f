"""OpenAI Chat Completions.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from luthien.formats import jsontext
from luthien.formats.format import (
    Json,
    Pieces,
    ResponseFacts,
    TextSlot,
    count_or_none,
    objects,
    text_or_none,
    text_slots,
    whole,
)
from luthien.formats.sse import Chunk
from luthien.telemetry import conventions as names

_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_TEXT_FIELDS = ("content", "refusal", "reasoning_content", "reasoning")
# Fields of a delta that state a value; every other string is a fragment to be appended.
_STATED = frozenset({"id", "type", "role", "index"})


class OpenAIChat:
    name = "openai.chat_completions"
    provider = "openai"
    path = "/v1/chat/completions"

    def request_attributes(self, body: Json) -> Mapping[str, Any]:
        return {
            names.REQUEST_MAX_TOKENS: body.get("max_completion_tokens", body.get("max_tokens")),
            names.REQUEST_TEMPERATURE: body.get("temperature"),
            names.REQUEST_TOP_P: body.get("top_p"),
            names.REQUEST_FREQUENCY_PENALTY: body.get("frequency_penalty"),
            names.REQUEST_PRESENCE_PENALTY: body.get("presence_penalty"),
            names.REQUEST_SEED: body.get("seed"),
            names.REQUEST_CHOICES: body.get("n"),
        }

    def request_texts(self, body: Json) -> list[TextSlot]:
        return [
            slot
            for message in objects(body.get("messages"))
            if "content" in message
            for slot in text_slots(message, "content", str(message.get("role", "")))
        ]

    def response_texts(self, body: Json) -> list[TextSlot]:
        messages = [choice.get("message") for choice in objects(body.get("choices"))]
        return [
            slot
            for message in objects(messages)
            for field in _TEXT_FIELDS
            if field in message
            for slot in text_slots(message, field, "assistant")
        ]

    def add_system_message(self, body: Json, text: str) -> None:
        messages = body.get("messages")
        body["messages"] = [{"role": "system", "content": text}, *(messages or [])]

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
        )

    def assembler(self) -> OpenAIChatAssembler:
        return OpenAIChatAssembler()

    def chunk_texts(self, body: Json) -> list[tuple[str, str]]:
        return [
            (f"{choice.get('index', 0)}/{field}", delta[field])
            for choice in objects(body.get("choices"))
            if isinstance(delta := choice.get("delta"), dict)
            for field in _TEXT_FIELDS
            if isinstance(delta.get(field), str)
        ]

    def with_chunk_texts(self, chunk: Chunk, texts: Mapping[str, str]) -> Chunk:
        body = jsontext.parse_object(chunk.data or b"")
        for choice in objects(body.get("choices")):
            delta = choice.get("delta")
            for field in _TEXT_FIELDS:
                key = f"{choice.get('index', 0)}/{field}"
                if isinstance(delta, dict) and key in texts and isinstance(delta.get(field), str):
                    delta[field] = texts[key]
        return Chunk.of(body, chunk.event)

    def ended_texts(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        finished = {
            f"{choice.get('index', 0)}/"
            for choice in objects((chunk.json or {}).get("choices"))
            if choice.get("finish_reason") is not None
        }
        return [key for key in open_keys if key[: key.index("/") + 1] in finished]

    def is_terminal(self, chunk: Chunk) -> bool:
        return chunk.data is not None and chunk.data.strip() == b"[DONE]"

    def stream_error(self, chunk: Chunk) -> str | None:
        error = (chunk.json or {}).get("error")
        if not error:
            return None
        return str(error.get("message", "") if isinstance(error, dict) else error) or "unspecified error"

    def error_body(self, status: int, code: str, message: str) -> bytes:
        kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return jsontext.render({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def error_frame(self, status: int, code: str, message: str) -> bytes:
        return b"data: %s\n\n" % self.error_body(status, code, message)


class OpenAIChatAssembler:
    """Merges `chat.completion.chunk` objects into the `chat.completion` they stand for."""

    def __init__(self) -> None:
        self._top: Json = {}
        self._choices: dict[Any, Json] = {}

    def add(self, chunk: Chunk) -> None:
        body = chunk.json
        if body is None:
            return
        for key, value in body.items():
            if key == "choices":
                for choice in objects(value):
                    self._add_choice(choice)
            elif value is not None or key not in self._top:
                self._top[key] = value

    def _add_choice(self, choice: Json) -> None:
        index = choice.get("index", 0)
        known = self._choices.setdefault(
            index if isinstance(index, int) else 0, {"index": index, "message": {}, "finish_reason": None}
        )
        for key, value in choice.items():
            if key == "delta":
                _merge(known["message"], value if isinstance(value, dict) else {})
            elif key == "logprobs" and isinstance(value, dict):
                if not isinstance(known.get(key), dict):
                    known[key] = {}
                _merge(known[key], value)
            elif value is not None or key not in known:
                known[key] = value

    def result(self) -> Json | None:
        if not self._top and not self._choices:
            return None
        top = dict(self._top)
        if top.get("object") == "chat.completion.chunk":
            top["object"] = "chat.completion"
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
            pieces.append(value)
        elif isinstance(value, dict):
            if not isinstance(known.get(key), dict):
                known[key] = {}
            _merge(known[key], value)
        elif isinstance(value, list):
            if not isinstance(known.get(key), list):
                known[key] = []
            _merge_list(known[key], value)
        elif value is not None or key not in known:
            known[key] = value


def _merge_list(known: list[Any], items: list[Any]) -> None:
    by_index = {item["index"]: item for item in objects(known) if isinstance(item.get("index"), int)}
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("index"), int):
            target = by_index.get(item["index"])
            if target is None:
                target = by_index[item["index"]] = {}
                known.append(target)
            _merge(target, item)
        else:
            known.append(item)
