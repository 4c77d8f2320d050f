"""Where a format keeps the arguments of tool calls: JSON of its own, as a text or as a value.

Apart from `WireFormat`, because few policies look there: what a reader never sees, a tool acts on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthien.formats import jsontext
from luthien.formats.anthropic_messages import AnthropicMessages
from luthien.formats.format import Json, TextSlot, WireFormat, index_of, objects
from luthien.formats.openai_chat import OpenAIChat
from luthien.formats.openai_responses import INPUTS, OpenAIResponses
from luthien.formats.openai_responses_stream import ITEM, ended, is_terminal, item_key, item_slots, pieces, type_of
from luthien.formats.parts import InputSlot
from luthien.formats.sse import MAX_DEPTH, Chunk

Change = Callable[[Any], Any]
"""Gives another JSON value in place of one, or the very same."""


@dataclass(slots=True)
class ArgumentSlot:
    """The arguments of one tool call. A text there is JSON, or else the free text of a custom tool."""

    container: Any
    key: str

    def change(self, change: Change) -> None:
        value = self.container[self.key]
        changed = change_text(value, change) if isinstance(value, str) else change(value)
        if changed is not value:
            self.container[self.key] = changed

    @property
    def chars(self) -> int:
        """How long it is, roughly when it is no text."""
        value = self.container[self.key]
        return len(value) if isinstance(value, str) else len(jsontext.render(value))


def change_text(text: str, change: Change) -> str:
    """The JSON text of the changed value; the very same text when nothing changed.

    What is not JSON, such as arguments cut short, is changed as the text it is.
    """
    try:
        value = jsontext.parse(text, max_depth=MAX_DEPTH)
    except jsontext.InvalidJson:
        changed: str = change(text)
        return changed
    changed_value = change(value)
    return text if changed_value is value else jsontext.render(changed_value).decode()


class ToolArguments(Protocol):
    def in_request(self, body: Json) -> list[ArgumentSlot]: ...

    def in_response(self, body: Json) -> list[ArgumentSlot]: ...

    def in_chunk(self, body: Json) -> list[tuple[str, TextSlot]]:
        """The fragments that a chunk adds, each with the key of the arguments it belongs to."""
        ...

    def ended(self, body: Json, open_keys: Iterable[str]) -> list[str]:
        """Those of `open_keys` to which nothing is added after this chunk."""
        ...


class OpenAIChatArguments:
    def in_request(self, body: Json) -> list[ArgumentSlot]:
        return [slot for message in objects(body.get("messages")) for slot in _called(message)]

    def in_response(self, body: Json) -> list[ArgumentSlot]:
        messages = [choice.get("message") for choice in objects(body.get("choices"))]
        return [slot for message in objects(messages) for slot in _called(message)]

    def in_chunk(self, body: Json) -> list[tuple[str, TextSlot]]:
        return [
            (f"{index_of(choice)}/{name}", TextSlot(slot.container, slot.key, "assistant"))
            for choice in objects(body.get("choices"))
            for name, slot in _named_calls(choice.get("delta"))
            if isinstance(slot.container[slot.key], str)
        ]

    def ended(self, body: Json, open_keys: Iterable[str]) -> list[str]:
        keys = [*open_keys]
        ended: list[str] = []
        for choice in objects(body.get("choices")):
            own = f"{index_of(choice)}/"
            is_last = bool(choice.get("finish_reason"))
            called = {own + name: slot for name, slot in _named_calls(choice.get("delta"))}
            if called or is_last:
                goes_on = {key for key, slot in called.items() if not is_last and not _is_whole(slot)}
                ended += [key for key in keys if key.startswith(own) and key not in goes_on]
        return ended


def _called(message: Json) -> Iterator[ArgumentSlot]:
    return (slot for _, slot in _named_calls(message))


def _is_whole(slot: ArgumentSlot) -> bool:
    """Whether a call came in one piece. Some providers then give the next one the same index."""
    text = slot.container[slot.key]
    return bool("name" in slot.container and isinstance(text, str) and text) and jsontext.is_valid(text)


def _named_calls(message: Any) -> Iterator[tuple[str, ArgumentSlot]]:
    if not isinstance(message, dict):
        return
    calls = [*_numbered(objects(message.get("tool_calls")))]
    for name, holder in [("function", message.get("function_call")), *((n, c.get("function")) for n, c in calls)]:
        if isinstance(holder, dict) and "arguments" in holder:
            yield name, ArgumentSlot(holder, "arguments")
    for name, call in calls:
        custom = call.get("custom")
        if isinstance(custom, dict) and "input" in custom:
            yield name, ArgumentSlot(custom, "input")


def _numbered(calls: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    """Those of one message or chunk: by their index, and by their place as well where they share it."""
    known: set[int] = set()
    for at, call in enumerate(calls):
        index = index_of(call)
        yield f"{index}.{at}" if index in known else str(index), call
        known.add(index)


class AnthropicMessagesArguments:
    def in_request(self, body: Json) -> list[ArgumentSlot]:
        return [slot for message in objects(body.get("messages")) for slot in _inputs(message)]

    def in_response(self, body: Json) -> list[ArgumentSlot]:
        return [*_inputs(body)]

    def in_chunk(self, body: Json) -> list[tuple[str, TextSlot]]:
        delta, block = body.get("delta"), body.get("content_block")
        if body.get("type") == "content_block_delta" and isinstance(delta, dict):
            if isinstance(delta.get("partial_json"), str):
                return [(f"{index_of(body)}/partial_json", TextSlot(delta, "partial_json", "assistant"))]
        elif body.get("type") == "content_block_start" and isinstance(block, dict) and block.get("input"):
            return [(f"{index_of(body)}/input", InputSlot(block, "input", "assistant"))]
        return []

    def ended(self, body: Json, open_keys: Iterable[str]) -> list[str]:
        if body.get("type") in ("message_delta", "message_stop"):
            return [*open_keys]
        is_end = body.get("type") == "content_block_stop"
        return [key for key in open_keys if is_end and key.startswith(f"{index_of(body)}/")]


def _inputs(message: Json) -> Iterator[ArgumentSlot]:
    for block in objects(message.get("content")):
        if "input" in block:
            yield ArgumentSlot(block, "input")


class OpenAIResponsesArguments:
    def in_request(self, body: Json) -> list[ArgumentSlot]:
        return [slot for item in objects(body.get("input")) for slot in _item_inputs(item)]

    def in_response(self, body: Json) -> list[ArgumentSlot]:
        return [slot for item in objects(body.get("output")) for slot in _item_inputs(item)]

    def in_chunk(self, body: Json) -> list[tuple[str, TextSlot]]:
        said = [(said.keys[0], said.slot) for said in pieces(body) if not said.is_for_readers]
        return [*said, *_said_actions(body)]

    def ended(self, body: Json, open_keys: Iterable[str]) -> list[str]:
        keys = [*open_keys]
        if is_terminal(body):
            return keys
        actions = {key for key, _ in _said_actions(body)}
        return [*ended(body, [key for key in keys if key not in actions]), *(key for key in keys if key in actions)]


# What shells, computers, editors and searches are told to do: JSON values, and never in pieces.
_ACTIONS = ("action", "actions", "operation")


def _item_inputs(item: Json) -> Iterator[ArgumentSlot]:
    yield from (ArgumentSlot(slot.container, slot.key) for _, _, slot in item_slots(item) if slot.key in INPUTS)
    yield from (ArgumentSlot(item, name) for name in _ACTIONS if isinstance(item.get(name), dict | list))


def _said_actions(body: Json) -> Iterator[tuple[str, TextSlot]]:
    """Those of an event that has an item, which says them whole: each time for itself."""
    item, kind = body.get("item"), type_of(body)
    if kind.startswith(f"{ITEM}.") and isinstance(item, dict):
        for name in _ACTIONS:
            if isinstance(item.get(name), dict | list):
                yield f"{item_key(body)}/{kind}/{name}", InputSlot(item, name, "assistant")


_KNOWN: dict[str, ToolArguments] = {
    OpenAIChat.name: OpenAIChatArguments(),
    OpenAIResponses.name: OpenAIResponsesArguments(),
    AnthropicMessages.name: AnthropicMessagesArguments(),
}


def arguments_of(wire_format: WireFormat) -> ToolArguments:
    """Where this format keeps them.

    Raises:
        LookupError: nobody has said; a policy that must see them cannot let the call pass.
    """
    known = _KNOWN.get(wire_format.name)
    if known is None:
        raise LookupError(f"where {wire_format.name} keeps the arguments of tools is not known")
    return known


def with_chunk_arguments(arguments: ToolArguments, chunk: Chunk, texts: Sequence[str]) -> Chunk:
    """The same chunk with other fragments, one for each that `in_chunk` finds in it."""
    body = jsontext.parse_object(chunk.data or b"")
    for (_, slot), text in zip(arguments.in_chunk(body), texts, strict=True):
        slot.set(text)
    return Chunk.of(body, chunk.event)
