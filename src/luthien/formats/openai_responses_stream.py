"""The streams of OpenAI Responses: what their events say, in pieces and again as a whole.

A text comes as deltas; then it is said again by its own `.done` event, by that of its part, by that of its item,
and by the event that ends the stream, whose `response` has everything in it.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthien.formats.format import Json, TextSlot, count_or_none, text_or_none

# What is said in pieces: the events are called so, with `.delta` or `.done` behind it. The place in an item, and
# the field of the `.done` event that has it whole.
KINDS = {
    "response.output_text": ("text", "text"),
    "response.reasoning_text": ("text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_summary_text": ("summary", "text"),
    "response.function_call_arguments": ("arguments", "arguments"),
    "response.mcp_call_arguments": ("arguments", "arguments"),
    "response.custom_tool_call_input": ("input", "input"),
    "response.code_interpreter_call_code": ("code", "code"),
}
FOR_READERS = frozenset({"text", "refusal", "summary"})
ITEM_INPUTS = {
    "arguments": "response.function_call_arguments",
    "input": "response.custom_tool_call_input",
    "code": "response.code_interpreter_call_code",
}
PARTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
ITEM = "response.output_item"
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class PartSlot(TextSlot):
    """A text with its tokens beside it, which would tell what it was before it was set."""

    __slots__ = ()

    def set(self, text: str) -> None:
        self.container[self.key] = text
        if self.container.get("logprobs"):
            self.container["logprobs"] = []


@dataclass(frozen=True, slots=True)
class Said:
    """A text that an event says, or a part of one.

    `keys` are the names under which the pieces of the text may have come: by its item's index or by its id.
    """

    kind: str
    keys: tuple[str, ...]
    slot: TextSlot

    @property
    def is_for_readers(self) -> bool:
        return KINDS[self.kind][0] in FOR_READERS


def type_of(body: Json) -> str:
    return text_or_none(body.get("type")) or ""


def is_terminal(body: Json) -> bool:
    return type_of(body) in _TERMINAL


def item_slots(item: Json) -> Iterator[tuple[str, str, TextSlot]]:
    """The texts of an output item, as (kind, place in the item, slot)."""
    for index, part in enumerate(list_of(item.get("content"))):
        for kind, name, slot in part_slots(part):
            yield kind, f"{name}/{index}", slot
    for index, part in enumerate(list_of(item.get("summary"))):
        for kind, name, slot in part_slots(part, "summary"):
            if name == "text":
                yield kind, f"summary/{index}", slot
    for name, kind in ITEM_INPUTS.items():
        if isinstance(item.get(name), str):
            kind = "response.mcp_call_arguments" if type_of(item) == "mcp_call" else kind
            yield kind, f"{name}/0", TextSlot(item, name, "assistant")


def part_slots(part: Any, listed: str = "content") -> Iterator[tuple[str, str, TextSlot]]:
    if not isinstance(part, dict):
        return
    if isinstance(part.get("text"), str):
        is_reasoning = part.get("type") == "reasoning_text"
        kind = "response.reasoning_text" if is_reasoning else "response.output_text"
        kind = "response.reasoning_summary_text" if listed == "summary" else kind
        yield kind, "text", PartSlot(part, "text", "assistant")
    if isinstance(part.get("refusal"), str):
        yield "response.refusal", "refusal", PartSlot(part, "refusal", "assistant")


def pieces(body: Json) -> Iterator[Said]:
    """What an event adds to texts: a delta, or what a part or an item begins with."""
    name, _, how = type_of(body).rpartition(".")
    if how == "delta" and name in KINDS and isinstance(body.get("delta"), str):
        yield Said(name, (_key(body, name),), PartSlot(body, "delta", "assistant"))
    elif how == "added":
        yield from (said for said in _within(body, name) if said.slot.text)


def wholes(body: Json) -> Iterator[Said]:
    """The texts that an event says again, whole."""
    name, _, how = type_of(body).rpartition(".")
    if how == "done" and name in KINDS:
        value = KINDS[name][1]
        if isinstance(body.get(value), str):
            yield Said(name, (_key(body, name),), PartSlot(body, value, "assistant"))
    elif how == "done":
        yield from _within(body, name)
    for index, item in enumerate(output_of(body)):
        if isinstance(item, dict):
            for kind, place, slot in item_slots(item):
                yield Said(kind, tuple(f"{key}/{place}" for key in item_keys(index, item)), slot)


def _within(body: Json, name: str) -> Iterator[Said]:
    part, item = body.get("part"), body.get("item")
    if name in PARTS and isinstance(part, dict):
        for kind, _, slot in part_slots(part, PARTS[name]):
            yield Said(kind, (_key(body, kind),), slot)
    elif name == ITEM and isinstance(item, dict):
        for kind, place, slot in item_slots(item):
            yield Said(kind, (f"{item_key(body)}/{place}",), slot)


def _key(body: Json, kind: str) -> str:
    """The name of the text that an event is about, as "item/place/index": equal for all its pieces."""
    place = KINDS[kind][0]
    return f"{item_key(body)}/{place}/{part_index(body, place) if place in FOR_READERS else 0}"


def part_index(body: Json, place: str) -> int:
    return count_or_none(body.get("summary_index" if place == "summary" else "content_index")) or 0


def item_key(body: Json) -> str:
    """Which item an event is about. Some providers give no index; with others the id is another in each event."""
    index = count_or_none(body.get("output_index"))
    if index is not None:
        return str(index)
    item = body.get("item")
    return f"#{text_or_none(item.get('id') if isinstance(item, dict) else body.get('item_id')) or ''}"


def item_keys(index: int, item: Json) -> tuple[str, str]:
    return str(index), f"#{text_or_none(item.get('id')) or ''}"


def output_of(body: Json) -> list[Any]:
    response = body.get("response")
    return list_of(response.get("output")) if isinstance(response, dict) else []


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def ended(body: Json, open_keys: Sequence[str]) -> list[str]:
    """Those of the texts that are said to be whole."""
    name, _, how = type_of(body).rpartition(".")
    if how != "done":
        return []
    if name in KINDS:
        return [key for key in open_keys if key == _key(body, name)]
    if name in PARTS:
        place = "summary" if PARTS[name] == "summary" else ""
        places = ("summary",) if place else ("text", "refusal")
        ends = {f"{item_key(body)}/{each}/{part_index(body, place)}" for each in places}
        return [key for key in open_keys if key in ends]
    return [key for key in open_keys if key.rsplit("/", 2)[0] == item_key(body)] if name == ITEM else []
