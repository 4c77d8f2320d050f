"""The streams of OpenAI Responses: what their events say, in pieces and again as a whole.

A text comes as deltas; then it is said again by its own `.done` event, by that of its part, by that of its item,
and by the event that ends the stream, whose `response` has everything in it.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthien.formats import jsontext
from luthien.formats.format import Json, Pieces, TextSlot, count_or_none, objects, text_or_none, whole
from luthien.formats.sse import Chunk

# What is said in pieces: the events are called so, with `.delta` or `.done` behind it. The place in an item, and
# the field of the `.done` event that has it whole.
_KINDS = {
    "response.output_text": ("text", "text"),
    "response.reasoning_text": ("text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_summary_text": ("summary", "text"),
    "response.function_call_arguments": ("arguments", "arguments"),
    "response.mcp_call_arguments": ("arguments", "arguments"),
    "response.custom_tool_call_input": ("input", "input"),
    "response.code_interpreter_call_code": ("code", "code"),
}
_FOR_READERS = frozenset({"text", "refusal", "summary"})
_ITEM_INPUTS = {
    "arguments": "response.function_call_arguments",
    "input": "response.custom_tool_call_input",
    "code": "response.code_interpreter_call_code",
}
_ITEM_TYPES = {
    "response.output_text": "message",
    "response.refusal": "message",
    "response.function_call_arguments": "function_call",
    "response.mcp_call_arguments": "mcp_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.code_interpreter_call_code": "code_interpreter_call",
}
_PARTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
_ITEM = "response.output_item"
_NEW_PARTS: dict[str, Json] = {
    "response.output_text": {"type": "output_text", "text": "", "annotations": []},
    "response.reasoning_text": {"type": "reasoning_text", "text": ""},
    "response.refusal": {"type": "refusal", "refusal": ""},
    "response.reasoning_summary_text": {"type": "summary_text", "text": ""},
}


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
        return _KINDS[self.kind][0] in _FOR_READERS


def type_of(body: Json) -> str:
    return text_or_none(body.get("type")) or ""


def item_slots(item: Json) -> Iterator[tuple[str, str, TextSlot]]:
    """The texts of an output item, as (kind, place in the item, slot)."""
    for index, part in enumerate(_list(item.get("content"))):
        for kind, name, slot in _part_slots(part):
            yield kind, f"{name}/{index}", slot
    for index, part in enumerate(_list(item.get("summary"))):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield "response.reasoning_summary_text", f"summary/{index}", PartSlot(part, "text", "assistant")
    for name, kind in _ITEM_INPUTS.items():
        if isinstance(item.get(name), str):
            yield kind, f"{name}/0", TextSlot(item, name, "assistant")


def _part_slots(part: Any) -> Iterator[tuple[str, str, TextSlot]]:
    if not isinstance(part, dict):
        return
    if isinstance(part.get("text"), str):
        is_reasoning = part.get("type") == "reasoning_text"
        kind = "response.reasoning_text" if is_reasoning else "response.output_text"
        yield kind, "text", PartSlot(part, "text", "assistant")
    if isinstance(part.get("refusal"), str):
        yield "response.refusal", "refusal", PartSlot(part, "refusal", "assistant")


def pieces(body: Json) -> Iterator[Said]:
    """What an event adds to texts: a delta, or what a part or an item begins with."""
    name, _, how = type_of(body).rpartition(".")
    if how == "delta" and name in _KINDS and isinstance(body.get("delta"), str):
        yield Said(name, (_key(body, name),), PartSlot(body, "delta", "assistant"))
    elif how == "added":
        yield from (said for said in _within(body, name) if said.slot.text)


def wholes(body: Json) -> Iterator[Said]:
    """The texts that an event says again, whole."""
    name, _, how = type_of(body).rpartition(".")
    if how == "done" and name in _KINDS:
        value = _KINDS[name][1]
        if isinstance(body.get(value), str):
            yield Said(name, (_key(body, name),), PartSlot(body, value, "assistant"))
    elif how == "done":
        yield from _within(body, name)
    for index, item in enumerate(_output(body)):
        if isinstance(item, dict):
            for kind, place, slot in item_slots(item):
                yield Said(kind, tuple(f"{key}/{place}" for key in _item_keys(index, item)), slot)


def _within(body: Json, name: str) -> Iterator[Said]:
    part, item = body.get("part"), body.get("item")
    if name in _PARTS and isinstance(part, dict):
        for kind, _, slot in _part_slots(part):
            kind = "response.reasoning_summary_text" if _PARTS[name] == "summary" else kind
            yield Said(kind, (_key(body, kind),), slot)
    elif name == _ITEM and isinstance(item, dict):
        for kind, place, slot in item_slots(item):
            yield Said(kind, (f"{_item_key(body)}/{place}",), slot)


def _key(body: Json, kind: str) -> str:
    """The name of the text that an event is about, as "item/place/index": equal for all its pieces."""
    place = _KINDS[kind][0]
    return f"{_item_key(body)}/{place}/{_part_index(body, place) if place in _FOR_READERS else 0}"


def _part_index(body: Json, place: str) -> int:
    return count_or_none(body.get("summary_index" if place == "summary" else "content_index")) or 0


def _item_key(body: Json) -> str:
    """Which item an event is about. Some providers give no index; with others the id is another in each event."""
    index = count_or_none(body.get("output_index"))
    if index is not None:
        return str(index)
    item = body.get("item")
    return f"#{text_or_none(item.get('id') if isinstance(item, dict) else body.get('item_id')) or ''}"


def _item_keys(index: int, item: Json) -> tuple[str, str]:
    return str(index), f"#{text_or_none(item.get('id')) or ''}"


def _output(body: Json) -> list[Any]:
    response = body.get("response")
    return _list(response.get("output")) if isinstance(response, dict) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def ended(body: Json, open_keys: Sequence[str]) -> list[str]:
    """Those of the texts that are said to be whole."""
    name, _, how = type_of(body).rpartition(".")
    if how != "done":
        return []
    if name in _KINDS:
        return [key for key in open_keys if key == _key(body, name)]
    if name in _PARTS:
        place = "summary" if _PARTS[name] == "summary" else ""
        places = ("summary",) if place else ("text", "refusal")
        ends = {f"{_item_key(body)}/{each}/{_part_index(body, place)}" for each in places}
        return [key for key in open_keys if key in ends]
    return [key for key in open_keys if key.rsplit("/", 2)[0] == _item_key(body)] if name == _ITEM else []


class ResponsesRepeats:
    """Makes the whole texts, and the items of the response at the end, those that the client was given."""

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}
        self._offered: set[str] = set()
        self._given: set[str] = set()

    def unsaid(self, chunk: Chunk) -> list[Chunk]:
        body = chunk.json or {}
        self._hear(body)
        missing: list[Chunk] = []
        for said in wholes(body):
            so_far, text = self._text(said.keys), said.slot.text
            if said.is_for_readers and len(text) > len(so_far) and text.startswith(so_far):
                key = next((key for key in said.keys if key in self._said), said.keys[0])
                self._said.setdefault(key, []).append(text[len(so_far) :])
                missing.append(_delta(said, key, text[len(so_far) :], body))
        return missing

    def offered(self, chunk: Chunk) -> None:
        body = chunk.json or {}
        if type_of(body).startswith(_ITEM):
            self._offered.add(_item_key(body))

    def agreed(self, chunk: Chunk) -> Chunk:
        body = chunk.json or {}
        if type_of(body).startswith(_ITEM):
            self._given.add(_item_key(body))
        self._hear(body)
        if all(said.slot.text == self._expected(said) for said in wholes(body)) and not self._is_withheld(body):
            return chunk
        body = jsontext.parse_object(chunk.data or b"")
        for said in wholes(body):
            text = self._expected(said)
            if said.slot.text != text:
                said.slot.set(text)
        if isinstance(body.get("response"), dict):
            self._agree(body["response"])
        return Chunk.of(body, chunk.event)

    def _hear(self, body: Json) -> None:
        for said in pieces(body):
            self._said.setdefault(said.keys[0], []).append(said.slot.text)

    def _text(self, keys: Sequence[str]) -> str:
        return jsontext.paired("".join(next((self._said[key] for key in keys if key in self._said), ())))

    def _expected(self, said: Said) -> str:
        """The text of a tool's input may never have come in pieces: there is nothing that could have changed it."""
        is_known = said.is_for_readers or any(key in self._said for key in said.keys)
        return self._text(said.keys) if is_known else said.slot.text

    def _is_withheld(self, body: Json) -> bool:
        return bool(self._offered - self._given) and any(True for _ in _output(body))

    def _agree(self, response: Json) -> None:
        withheld = self._offered - self._given
        output = response.get("output")
        if not isinstance(output, list):
            return
        response["output"] = [
            item
            for index, item in enumerate(output)
            if not (isinstance(item, dict) and withheld.intersection(_item_keys(index, item)))
        ]
        if isinstance(response.get("output_text"), str):
            response["output_text"] = output_text(response)


def output_text(response: Json) -> str:
    """What some providers say once more beside the output: all its text in one."""
    items = [item for item in objects(response.get("output")) if item.get("type") == "message"]
    return "".join(
        part["text"]
        for item in items
        for part in objects(item.get("content"))
        if part.get("type") == "output_text" and isinstance(part.get("text"), str)
    )


def _delta(said: Said, key: str, text: str, body: Json) -> Chunk:
    """The event that says what was not said in pieces."""
    item, place, index = key.rsplit("/", 2)
    known_id = next(
        (other.rsplit("/", 2)[0][1:] for other in said.keys if other.startswith("#")), body.get("item_id")
    )
    value: Json = {"type": f"{said.kind}.delta", "item_id": known_id}
    if not item.startswith("#"):
        value["output_index"] = int(item)
    value["summary_index" if place == "summary" else "content_index"] = int(index)
    value["delta"] = text
    if "sequence_number" in body:
        value["sequence_number"] = body["sequence_number"]
    return Chunk.of(value, f"{said.kind}.delta")


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
        elif name == _ITEM and isinstance(item, dict):
            self._items[_item_key(body)] = _Item(_own(item))
        elif name in _PARTS and isinstance(part, dict):
            self._place(body, _PARTS[name], part)
        elif name in _KINDS and how in ("delta", "done"):
            self._say(body, name, how)
        elif kind == "response.output_text.annotation.added":
            self._annotate(body)
        elif kind == "error" or (not kind and body.get("error")):
            self._top["error"] = body.get("error") or {
                key: value for key, value in body.items() if key not in ("type", "sequence_number")
            }

    def _take(self, response: Json) -> None:
        self._top |= response
        items = _list(response.get("output"))
        if items:
            self._items = {
                str(index): _Item(_own(item) if isinstance(item, dict) else item) for index, item in enumerate(items)
            }

    def _item(self, body: Json, kind: str) -> _Item:
        key = _item_key(body)
        if key not in self._items:
            item: Json = {"type": _ITEM_TYPES.get(kind, "reasoning")}
            if text_or_none(body.get("item_id")):
                item["id"] = body["item_id"]
            self._items[key] = _Item(item)
        return self._items[key]

    def _place(self, body: Json, place: str, part: Json) -> None:
        item = self._item(body, "response.output_text" if place == "content" else "")
        known = _part_of(item, place, _part_index(body, place), {})
        known.clear()
        known.update(_own(part))

    def _say(self, body: Json, kind: str, how: str) -> None:
        place, value = _KINDS[kind]
        text = body.get("delta" if how == "delta" else value)
        if not isinstance(text, str):
            return
        item, name = self._item(body, kind), place
        if place in _FOR_READERS:
            listed = "summary" if place == "summary" else "content"
            container = _part_of(item, listed, _part_index(body, place), _NEW_PARTS[kind])
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
        part = _part_of(item, "content", _part_index(body, "text"), _NEW_PARTS["response.output_text"])
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
