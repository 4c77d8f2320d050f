"""What the requests and messages of OpenAI Chat Completions are made of, whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from luthien.formats.blocks import Block, BlockKind, Json, object_of
from luthien.formats.format import TextSlot, objects, text_or_none
from luthien.formats.parts import (
    About,
    Part,
    PartKind,
    Place,
    call_at,
    content_of,
    definitions,
    each_of,
    other_at,
    part_at,
    role_kind,
    text_in,
    whole_body,
)

TEXTS = {
    "reasoning_content": BlockKind.REASONING,
    "reasoning": BlockKind.REASONING,
    "content": BlockKind.TEXT,
    "refusal": BlockKind.TEXT,
}
CALL_REASONS = frozenset({"tool_calls", "function_call"})

# What says something about a message and is none of its parts.
_ABOUT_MESSAGE = frozenset(
    {"role", "name", "tool_call_id", "id", "index", "type", "status", "cache_control", "weight"}
)
_TOOL_ROLES = frozenset({"tool", "function"})
_CONTENT_KINDS = {
    "text": None,
    "refusal": PartKind.REFUSAL,
    "image_url": PartKind.IMAGE,
    "input_audio": PartKind.AUDIO,
    "file": PartKind.FILE,
    "video_url": PartKind.FILE,
}
_FIELD_KINDS = {
    "content": None,
    "refusal": PartKind.REFUSAL,
    "reasoning_content": PartKind.REASONING,
    "reasoning": PartKind.REASONING,
    "images": PartKind.IMAGE,
}


def tool_name(tool: Json) -> str:
    """The name in a tool's definition, in a choice of one, or in a call."""
    part = part_of(tool)
    return text_or_none((part or tool).get("name")) or ""


def part_of(call: Json) -> Json:
    """What a call says of its tool: a function's name and arguments, or a custom tool's name and input."""
    return object_of(call.get("function")) or object_of(call.get("custom"))


def input_key(part: Json) -> str:
    return "input" if "input" in part and "arguments" not in part else "arguments"


def text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(text_or_none(part.get("text")) or "" for part in objects(content))


def write_call(call: Json, block: Block) -> None:
    part = part_of(call)
    part["name"], part[input_key(part)] = block.name, block.text


@dataclass(slots=True)
class ChoiceSlot(TextSlot):
    """A text with its tokens beside it, which would tell what it was before it was changed."""

    logprobs: Any
    field: str

    def set(self, text: str) -> None:
        if text != self.text and isinstance(self.logprobs, dict) and self.logprobs.get(self.field):
            self.logprobs[self.field] = []
        TextSlot.set(self, text)


def request_parts(body: Json) -> list[Part]:
    return [*_request_parts(whole_body(body))]


def response_parts(body: Json) -> list[Part]:
    choices = (place for name, place in whole_body(body).members() if name == "choices")
    return [part for place in choices for part in each_of(place, _choice_parts)]


def _request_parts(body: Place) -> Iterator[Part]:
    for name, place in body.members():
        if name == "messages":
            yield from each_of(place, _message_parts)
        elif name in {"tools", "functions"}:
            yield from definitions(place)
        elif name == "prediction":
            yield from _prediction(place)


def _prediction(place: Place) -> Iterator[Part]:
    """What the client expects the model to say."""
    about = About(PartKind.TEXT, "assistant")
    if "content" not in object_of(place.value):
        yield other_at(place)
    elif place.value["content"] is not None:
        yield from content_of(place.at("content"), about, partial(_content_part, about))


def _choice_parts(choice: Place) -> Iterator[Part]:
    if "message" not in choice.value:
        return
    message = choice.at("message")
    if isinstance(message.value, dict):
        yield from _message_parts(message, "assistant", choice.value.get("logprobs"))
    elif message.value is not None:
        yield other_at(message)


def _message_parts(message: Place, default_role: str = "", logprobs: Any = None) -> Iterator[Part]:
    for name, place in message.members():
        if name not in _ABOUT_MESSAGE:
            for part in _field_parts(name, place, _about(message.value, default_role)):
                if logprobs and part.slot is not None and name in _FIELD_KINDS:
                    part.slot = ChoiceSlot(part.slot.container, part.slot.key, part.role, logprobs, name)
                yield part


def _about(message: Json, default_role: str) -> About:
    role = text_or_none(message.get("role")) or default_role
    if role not in _TOOL_ROLES:
        return About(role_kind(role), role)
    name, call_id = (text_or_none(message.get(key)) or "" for key in ("name", "tool_call_id"))
    return About(PartKind.TOOL_RESULT, role, name, call_id)


def _field_parts(name: str, place: Place, about: About) -> Iterator[Part]:
    match name:
        case "tool_calls":
            return each_of(place, lambda call: [_call(call, about.role)], about)
        case "function_call" if isinstance(place.value, dict):
            return iter([_call(place, about.role)])
        case "reasoning_details":
            return each_of(place, lambda detail: [_detail(detail, about)], about)
        case "annotations":
            return each_of(place, lambda found: [_annotation(found, about.role)], about)
        case "audio" if isinstance(place.value, dict):
            return iter([text_in(place, "transcript", about.of_kind(PartKind.AUDIO))])
        case _ if name in _FIELD_KINDS:
            said = about.of_kind(_FIELD_KINDS[name] or about.kind)
            return content_of(place, said, partial(_content_part, said))
        case _:
            return iter([other_at(place, about)])


def _content_part(about: About, place: Place) -> Iterator[Part]:
    kind = text_or_none(place.value.get("type")) or ""
    if kind not in _CONTENT_KINDS:
        yield other_at(place, about)
    else:
        about = about.of_kind(_CONTENT_KINDS[kind] or about.kind)
        yield text_in(place, "refusal" if kind == "refusal" else "text", about)


def _call(place: Place, role: str) -> Part:
    call: Json = place.value
    said = part_of(call) or call
    return call_at(place, said, input_key(said), tool_name(call), text_or_none(call.get("id")) or "", role)


def _detail(place: Place, about: About) -> Part:
    """Reasoning as some routers keep it: a text, a summary, or what only the provider can read."""
    detail: Json = place.value
    is_signed = bool(detail.get("signature") or detail.get("data"))
    key = "summary" if "summary" in detail else "text"
    return text_in(place, key, about.of_kind(PartKind.REASONING), is_signed=is_signed)


def _annotation(place: Place, role: str) -> Part:
    """Where an answer has something from: what the provider's search gave back."""
    name = text_or_none(place.value.get("type")) or ""
    return part_at(place, About(PartKind.TOOL_RESULT, role, name))
