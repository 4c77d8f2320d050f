"""What the requests and responses of OpenAI Responses are made of.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from luthien.formats.blocks import Json
from luthien.formats.format import text_or_none
from luthien.formats.openai_responses_items import input_key, is_client_call, tool_name
from luthien.formats.openai_responses_stream import PartSlot, type_of
from luthien.formats.parts import (
    About,
    InputSlot,
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
    text_at,
    text_in,
    whole_body,
)

# What says something about an item and is none of its parts.
_ABOUT_ITEM = frozenset(
    {
        "id",
        "type",
        "role",
        "status",
        "phase",
        "name",
        "call_id",
        "server_label",
        "container_id",
        "approval_request_id",
    }
)
_TEXT_KINDS = {
    "input_text": None,
    "output_text": None,
    "text": None,
    "summary_text": PartKind.REASONING,
    "reasoning_text": PartKind.REASONING,
    "refusal": PartKind.REFUSAL,
}
_MEDIA_KINDS = {
    "input_image": PartKind.IMAGE,
    "computer_screenshot": PartKind.IMAGE,
    "image": PartKind.IMAGE,
    "input_file": PartKind.FILE,
    "input_audio": PartKind.AUDIO,
    "output_audio": PartKind.AUDIO,
}
# Calls that the provider carries out, with what came of them: where the call stands, and where the results do.
_HOSTED = {
    "mcp_call": ("arguments", ("output", "error")),
    "code_interpreter_call": ("code", ("outputs",)),
    "file_search_call": ("queries", ("results",)),
    "web_search_call": ("action", ("results",)),
}


def request_parts(body: Json) -> list[Part]:
    return [*_request_parts(whole_body(body))]


def response_parts(body: Json) -> list[Part]:
    found: list[Part] = []
    for name, place in whole_body(body).members():
        if name == "output":
            found += each_of(place, partial(_item_parts, "assistant"))
        elif name == "output_text":
            found.append(text_at(place, About(PartKind.TEXT, "assistant")))
    return found


def _request_parts(body: Place) -> Iterator[Part]:
    for name, place in body.members():
        if name == "instructions":
            yield from _text_or_items(place, "system")
        elif name == "input":
            yield from _text_or_items(place, "user")
        elif name == "prompt":
            yield from _prompt_parts(place)
        elif name == "tools":
            yield from definitions(place)


def _text_or_items(place: Place, role: str) -> Iterator[Part]:
    if isinstance(place.value, str):
        yield text_at(place, About(role_kind(role), role))
    else:
        yield from each_of(place, partial(_item_parts, role))


def _prompt_parts(prompt: Place) -> Iterator[Part]:
    """What is put into a prompt that the provider keeps."""
    about = About(PartKind.TEXT, "user")
    if isinstance(prompt.value, dict) and "variables" in prompt.value:
        for _, place in prompt.at("variables").members():
            if isinstance(place.value, dict):
                yield from _content_part(about, place)
            else:
                yield text_at(place, about)


def _item_parts(default_role: str, place: Place) -> Iterator[Part]:
    item: Json = place.value
    kind = type_of(item)
    call_id = text_or_none(item.get("call_id")) or text_or_none(item.get("id")) or ""
    if kind == "message" or (not kind and "role" in item):
        role = text_or_none(item.get("role")) or default_role
        yield from _field_parts(place, About(role_kind(role), role))
    elif kind == "reasoning":
        about = About(PartKind.REASONING, "assistant")
        yield from [*_reasoning_parts(place, about)] or [part_at(place, about)]
    elif kind in _HOSTED:
        yield from _hosted_parts(place, *_HOSTED[kind], call_id)
    elif is_client_call(item) or kind in {"mcp_approval_request", "tool_search_call"}:
        yield call_at(place, item, input_key(item), tool_name(item), call_id, "assistant")
    elif kind == "mcp_approval_response":
        approved = text_or_none(item.get("approval_request_id")) or ""
        yield text_in(place, "reason", About(PartKind.TOOL_RESULT, "user", "", approved))
    elif kind.endswith("_call_output"):
        yield from _output_parts(place, call_id)
    elif kind in {"mcp_list_tools", "tool_search_output"} and isinstance(item.get("tools"), list):
        yield from definitions(place.at("tools"))
    elif kind == "image_generation_call":
        yield part_at(place, About(PartKind.IMAGE, "assistant", tool_name(item), call_id))
    elif kind == "compaction":
        yield part_at(place, About(PartKind.TEXT, "assistant"), is_signed=True)
    elif kind in _TEXT_KINDS or kind in _MEDIA_KINDS:
        yield from _content_part(About(role_kind(default_role), default_role), place)
    else:
        yield other_at(place)


def _field_parts(item: Place, about: About) -> Iterator[Part]:
    for name, place in item.members():
        if name == "content":
            yield from content_of(place, about, partial(_content_part, about))
        elif name not in _ABOUT_ITEM:
            yield other_at(place, about)


def _reasoning_parts(item: Place, about: About) -> Iterator[Part]:
    for name, place in item.members():
        if name in {"summary", "content"}:
            yield from content_of(place, about, partial(_content_part, about))
        elif name == "encrypted_content":
            yield part_at(place, about, is_signed=True)
        elif name not in _ABOUT_ITEM:
            yield other_at(place, about)


def _content_part(about: About, place: Place) -> Iterator[Part]:
    kind = type_of(place.value)
    if kind in _MEDIA_KINDS:
        yield text_in(place, "transcript", about.of_kind(_MEDIA_KINDS[kind]))
    elif kind in _TEXT_KINDS:
        about = about.of_kind(_TEXT_KINDS[kind] or about.kind)
        part = text_in(place, "refusal" if kind == "refusal" else "text", about)
        if part.slot is not None:
            part.slot = PartSlot(part.slot.container, part.slot.key, about.role)
        yield part
    else:
        yield other_at(place, about)


def _hosted_parts(place: Place, inputs: str, results: tuple[str, ...], call_id: str) -> Iterator[Part]:
    item: Json = place.value
    called = About(PartKind.TOOL_CALL, "assistant", tool_name(item), call_id)
    found = About(PartKind.TOOL_RESULT, "tool", called.name, call_id)
    if item.get(inputs) is None:
        inputs = ""
        if not any(item.get(name) is not None for name in results):
            yield part_at(place, called)
    for name, member in place.members():
        if name == inputs:
            yield part_at(member, called, InputSlot(item, name, called.role))
        elif name in results:
            yield from _results(member, found)
        elif name not in _ABOUT_ITEM:
            yield other_at(member, called)


def _output_parts(place: Place, call_id: str) -> Iterator[Part]:
    about = About(PartKind.TOOL_RESULT, "tool", "", call_id)
    if place.value.get("output") is None:
        yield part_at(place, about)
    else:
        yield from _results(place.at("output"), about)


def _results(place: Place, about: About) -> Iterator[Part]:
    """What a tool gave back: a text, an object, or a list of them."""
    if isinstance(place.value, list):
        yield from each_of(place, partial(_result, about), about)
    elif isinstance(place.value, dict):
        yield from _result(about, place)
    else:
        yield text_at(place, about)


def _result(about: About, place: Place) -> Iterator[Part]:
    """Logs, what was found, what a shell wrote and how it ended: each has a form of its own, and all are results."""
    kind = type_of(place.value)
    if kind in _MEDIA_KINDS or kind in _TEXT_KINDS:
        yield from _content_part(about, place)
    elif "stdout" in place.value or "stderr" in place.value:
        yield from (text_at(member, about) for _, member in place.members())
    else:
        yield text_in(place, "logs" if kind == "logs" else "text", about)
