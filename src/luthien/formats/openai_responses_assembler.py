"""Puts a stream of OpenAI Responses together as the plain response it would have been."""

from __future__ import annotations

from dataclasses import dataclass, field

from luthien.formats.format import Json, Pieces, text_or_none, whole
from luthien.formats.openai_responses_stream import (
    FOR_READERS,
    ITEM,
    KINDS,
    PARTS,
    item_key,
    list_of,
    part_index,
    type_of,
)
from luthien.formats.sse import Chunk

_ITEM_TYPES = {
    "response.output_text": "message",
    "response.refusal": "message",
    "response.function_call_arguments": "function_call",
    "response.mcp_call_arguments": "mcp_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.code_interpreter_call_code": "code_interpreter_call",
}
_NEW_PARTS: dict[str, Json] = {
    "response.output_text": {"type": "output_text", "text": "", "annotations": []},
    "response.reasoning_text": {"type": "reasoning_text", "text": ""},
    "response.refusal": {"type": "refusal", "refusal": ""},
    "response.reasoning_summary_text": {"type": "summary_text", "text": ""},
}


@dataclass(slots=True)
class _Item:
    value: Json
    parts: dict[tuple[str, int], Json] = field(default_factory=dict)


class ResponsesAssembler:
    """Builds the response up from its events; when an event says the whole response, that is what it is."""

    def __init__(self) -> None:
        self._top: Json = {}
        self._items: dict[str, _Item] = {}

    def add(self, chunk: Chunk) -> None:
        body = chunk.json
        if body is None:
            return
        kind = type_of(body)
        name, _, how = kind.rpartition(".")
        response, item, part = body.get("response"), body.get("item"), body.get("part")
        if isinstance(response, dict):
            self._take(response)
        elif name == ITEM and isinstance(item, dict):
            self._items[item_key(body)] = _Item(_own(item))
        elif name in PARTS and isinstance(part, dict):
            self._place(body, PARTS[name], part)
        elif name in KINDS and how in ("delta", "done"):
            self._say(body, name, how)
        elif kind == "response.output_text.annotation.added":
            self._annotate(body)
        elif kind == "error" or (not kind and body.get("error")):
            self._top["error"] = body.get("error") or {
                key: value for key, value in body.items() if key not in ("type", "sequence_number")
            }

    def _take(self, response: Json) -> None:
        self._top |= response
        items = list_of(response.get("output"))
        if items:
            self._items = {
                str(index): _Item(_own(item) if isinstance(item, dict) else item) for index, item in enumerate(items)
            }

    def _item(self, body: Json, kind: str) -> _Item:
        key = item_key(body)
        if key not in self._items:
            item: Json = {"type": _ITEM_TYPES.get(kind, "reasoning")}
            if text_or_none(body.get("item_id")):
                item["id"] = body["item_id"]
            self._items[key] = _Item(item)
        return self._items[key]

    def _place(self, body: Json, place: str, part: Json) -> None:
        item = self._item(body, "response.output_text" if place == "content" else "")
        known = _part_of(item, place, part_index(body, place), {})
        known.clear()
        known.update(_own(part))

    def _say(self, body: Json, kind: str, how: str) -> None:
        place, value = KINDS[kind]
        text = body.get("delta" if how == "delta" else value)
        if not isinstance(text, str):
            return
        item, name = self._item(body, kind), place
        if place in FOR_READERS:
            listed = "summary" if place == "summary" else "content"
            container = _part_of(item, listed, part_index(body, place), _NEW_PARTS[kind])
            name = "refusal" if place == "refusal" else "text"
        elif isinstance(item.value, dict):
            container = item.value
        else:
            return
        if how == "done":
            container[name] = text
            return
        grown = container.get(name)
        if not isinstance(grown, Pieces):
            grown = container[name] = Pieces(*([grown] if isinstance(grown, str) else ()))
        grown.parts.append(text)

    def _annotate(self, body: Json) -> None:
        item = self._item(body, "response.output_text")
        part = _part_of(item, "content", part_index(body, "text"), _NEW_PARTS["response.output_text"])
        if not isinstance(part.get("annotations"), list):
            part["annotations"] = []
        part["annotations"].append(body.get("annotation"))

    def result(self) -> Json | None:
        if not self._top and not self._items:
            return None
        response = dict(self._top)
        if self._items:
            response["output"] = [item.value for item in self._items.values()]
        assembled: Json = whole(response)
        return assembled


def _part_of(item: _Item, listed: str, index: int, new: Json) -> Json:
    if (listed, index) not in item.parts:
        if not isinstance(item.value, dict):
            return {}
        parts = item.value.get(listed)
        if not isinstance(parts, list):
            parts = item.value[listed] = []
        if not (0 <= index < len(parts) and isinstance(parts[index], dict)):
            parts.append(_own(new))
            item.parts[listed, index] = parts[-1]
        else:
            item.parts[listed, index] = parts[index]
    return item.parts[listed, index]


def _own(value: Json) -> Json:
    """A copy whose parts and lists may grow: those of a chunk are for reading only."""
    return {
        key: [_own(x) if isinstance(x, dict) else x for x in each] if isinstance(each, list) else each
        for key, each in value.items()
    }
