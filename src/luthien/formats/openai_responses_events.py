"""Events of OpenAI Responses made from what is whole: an item or a part, as a provider would have streamed it.

`at` says which item an event is about: its `output_index`, or nothing where the provider does without.
"""

from __future__ import annotations

from luthien.formats.format import Json, objects
from luthien.formats.openai_responses_stream import ITEM, KINDS, item_slots, list_of, part_slots, type_of
from luthien.formats.sse import Chunk

PART_LISTS = {"message": ("content",), "reasoning": ("summary", "content")}
"""Where items that are made of parts have them."""
_PART_EVENTS = {"content": "response.content_part", "summary": "response.reasoning_summary_part"}
_INPUTS = frozenset({"arguments", "input"})


def event(kind: str, fields: Json) -> Chunk:
    return Chunk.of({"type": kind, **fields}, kind)


def begun(item: Json) -> Json:
    """An item as it is when nothing of it has been said."""
    value = dict(item)
    if "status" in value:
        value["status"] = "in_progress"
    for listed in PART_LISTS.get(type_of(item), ()):
        if listed in value:
            value[listed] = []
    for name in _INPUTS:
        if isinstance(value.get(name), str):
            value[name] = ""
    return value


def item_events(item: Json, at: Json) -> list[Chunk]:
    """All events of an item."""
    events = [event(f"{ITEM}.added", {**at, "item": begun(item)})]
    for listed in PART_LISTS.get(type_of(item), ()):
        for index, part in enumerate(list_of(item.get(listed))):
            events += part_events(item, listed, index, part, at) if isinstance(part, dict) else []
    return [*events, *input_events(item, at), event(f"{ITEM}.done", {**at, "item": item})]


def part_events(item: Json, listed: str, index: int, part: Json, at: Json) -> list[Chunk]:
    """All events of a part of an item, which is at that index in one of its lists."""
    place = {"item_id": item.get("id"), **at, f"{listed}_index": index}
    said: list[Chunk] = []
    empty = dict(part)
    for kind, name, slot in part_slots(part, listed):
        tokens: Json = {"logprobs": []} if kind == "response.output_text" else {}
        empty |= {name: ""} | ({"annotations": []} if "annotations" in part else {})
        said += [event(f"{kind}.delta", {**place, "delta": slot.text, **tokens})] if slot.text else []
        said += _annotations(part, place)
        said.append(event(f"{kind}.done", {**place, KINDS[kind][1]: slot.text, **tokens}))
    name = _PART_EVENTS[listed]
    return [
        event(f"{name}.added", {**place, "part": empty}),
        *said,
        event(f"{name}.done", {**place, "part": part}),
    ]


def _annotations(part: Json, place: Json) -> list[Chunk]:
    kind = "response.output_text.annotation.added"
    return [
        event(kind, {**place, "annotation_index": index, "annotation": annotation})
        for index, annotation in enumerate(objects(part.get("annotations")))
    ]


def input_events(item: Json, at: Json) -> list[Chunk]:
    """The events of what a model wrote for a tool; none where it is no text."""
    events: list[Chunk] = []
    place = {"item_id": item.get("id"), **at}
    for kind, _, slot in item_slots(item):
        if slot.key in _INPUTS:
            name = {"name": item["name"]} if kind == "response.function_call_arguments" and "name" in item else {}
            events += [event(f"{kind}.delta", {**place, "delta": slot.text})] if slot.text else []
            events.append(event(f"{kind}.done", {**place, **name, KINDS[kind][1]: slot.text}))
    return events
