"""What the requests and responses of Anthropic Messages are made of.

https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from luthien.formats.blocks import Json, object_of
from luthien.formats.format import text_or_none
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
    text_at,
    text_in,
    whole_body,
)

_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_RESULT = "tool_result"
_MEDIA_KINDS = {"image": PartKind.IMAGE, "container_upload": PartKind.FILE}
# What the provider's own tools give back, within the result; only the provider can read some of it.
_FOUND = frozenset(
    {
        "web_search_result",
        "tool_reference",
        "code_execution_output",
        "bash_code_execution_output",
        "tool_search_result",
    }
)
_ENCRYPTED = frozenset({"encrypted_content", "encrypted_stdout"})


def request_parts(body: Json) -> list[Part]:
    return [*_request_parts(whole_body(body))]


def response_parts(body: Json) -> list[Part]:
    role = text_or_none(body.get("role")) or "assistant"
    about = About(PartKind.TEXT, role)
    contents = (place for name, place in whole_body(body).members() if name == "content")
    return [part for place in contents for part in content_of(place, about, partial(_block_parts, about))]


def _request_parts(body: Place) -> Iterator[Part]:
    for name, place in body.members():
        if name == "system":
            about = About(PartKind.INSTRUCTION, "system")
            yield from content_of(place, about, partial(_block_parts, about))
        elif name == "messages":
            yield from each_of(place, _message_parts)
        elif name in {"tools", "mcp_servers"}:
            yield from definitions(place)


def _message_parts(message: Place) -> Iterator[Part]:
    role = text_or_none(message.value.get("role")) or ""
    about = About(role_kind(role), role)
    for name, place in message.members():
        if name == "content":
            yield from content_of(place, about, partial(_block_parts, about))
        elif name not in {"role", "id", "type"}:
            yield other_at(place, about)


def _block_parts(about: About, place: Place) -> Iterator[Part]:
    block: Json = place.value
    kind = _text(block, "type")
    if kind == "thinking":
        yield text_in(place, "thinking", about.of_kind(PartKind.REASONING), is_signed=bool(block.get("signature")))
    elif kind == "redacted_thinking":
        yield part_at(place, about.of_kind(PartKind.REASONING), is_signed=True)
    elif kind == "compaction":
        yield text_in(place, "content", about, is_signed=_is_encrypted(block))
    elif kind in _CALLS:
        yield call_at(place, block, "input", _text(block, "name"), _text(block, "id"), about.role)
    elif kind == _RESULT or kind.endswith(f"_{_RESULT}"):
        yield from _result_parts(place)
    else:
        yield from _given_parts(about, place)


def _given_parts(about: About, place: Place) -> Iterator[Part]:
    """What may be in a message and in the result of a tool."""
    kind = _text(place.value, "type")
    if kind == "document":
        yield from _document_parts(place, about)
    elif kind == "search_result":
        yield from _described_parts(place, "content", about)
    else:
        yield from _plain_parts(about, place)


def _plain_parts(about: About, place: Place) -> Iterator[Part]:
    """What may be anywhere, and is not made of other blocks."""
    block: Json = place.value
    kind = _text(block, "type")
    if kind == "text":
        yield text_in(place, "text", about)
    elif kind in _MEDIA_KINDS:
        yield part_at(place, about.of_kind(_MEDIA_KINDS[kind]))
    elif kind in _FOUND:
        name = _text(block, "tool_name") or about.name
        yield part_at(place, replace(about, kind=PartKind.TOOL_RESULT, name=name), is_signed=_is_encrypted(block))
    else:
        yield other_at(place, about)


def _result_parts(place: Place) -> Iterator[Part]:
    """What a tool gave back. Its name is that of the provider's tool; others are known by the call alone."""
    block: Json = place.value
    name = _text(block, "type").removesuffix(_RESULT).removesuffix("_")
    about = About(PartKind.TOOL_RESULT, "tool", "" if name == "mcp" else name, _text(block, "tool_use_id"))
    content = block.get("content")
    if isinstance(content, dict):
        yield from _provided_parts(place.at("content"), about)
    elif content is None or content == []:
        yield part_at(place, about)
    else:
        yield from content_of(place.at("content"), about, partial(_given_parts, about))


def _provided_parts(place: Place, about: About) -> Iterator[Part]:
    """What a tool of the provider gave back as one object: a page that was fetched, an output, an error."""
    if object_of(place.value.get("content")).get("type") == "document":
        yield from _document_parts(place.at("content"), about)
    else:
        yield part_at(place, about, is_signed=_is_encrypted(place.value))


def _document_parts(place: Place, about: About) -> Iterator[Part]:
    """A file, with its text if it is one; a document that was made of blocks is those."""
    source = object_of(place.value.get("source"))
    if source.get("type") == "content" and isinstance(source.get("content"), list):
        yield from _described_parts(place, "source", about)
    else:
        key = "content" if source.get("type") == "content" else "data"
        is_text = source.get("type") in {"text", "content"}
        file = about.of_kind(PartKind.FILE)
        yield part_at(place, file, text_in(place.at("source"), key, file).slot if is_text else None)


def _described_parts(place: Place, key: str, about: About) -> Iterator[Part]:
    """What is made of blocks under a key, with texts that describe it beside it."""
    if not place.value.get(key):
        yield part_at(place, about.of_kind(PartKind.FILE))
        return
    for name, member in place.members():
        if name in {"title", "context"}:
            yield text_at(member, about)
        elif name == key:
            content = member.at("content") if key == "source" else member
            yield from content_of(content, about, partial(_plain_parts, about))


def _is_encrypted(block: Json) -> bool:
    return any(block.get(key) for key in _ENCRYPTED)


def _text(block: Json, key: str) -> str:
    return text_or_none(block.get(key)) or ""
