"""What holds of a stream of OpenAI Responses.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthien.formats import jsontext
from luthien.formats import openai_responses_rules as rules
from luthien.formats.format import Json, count_or_none
from luthien.formats.openai_responses_stream import Said, item_slots, pieces, type_of, wholes
from luthien.formats.sse import Chunk
from luthien.formats.validity import (
    AFTER_END,
    DONE_MARKER,
    END_MISSING,
    NOT_JSON,
    TOOL_ARGUMENTS,
    Findings,
    Growing,
    Violation,
    check_event_name,
    is_done,
    is_same,
)

_STATUS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
# May come before the response is created, or be all that comes.
_FIRST = frozenset({"response.created", "response.queued", "response.failed", "error", "keepalive"})
_PLACE = ("output_index", "item_id", "content_index", "summary_index")
_PARTS = {"response.content_part": "content_index", "response.reasoning_summary_part": "summary_index"}
# Whose texts are in parts, and what numbers those.
_TEXTS = {
    "response.output_text": "content_index",
    "response.refusal": "content_index",
    "response.reasoning_summary_text": "summary_index",
}
_INPUTS = frozenset(
    {
        "response.function_call_arguments",
        "response.mcp_call_arguments",
        "response.custom_tool_call_input",
        "response.code_interpreter_call_code",
        "response.reasoning_text",
    }
)


class _Item:
    """One output item while it is given."""

    __slots__ = ("done", "open_parts", "parts")

    def __init__(self) -> None:
        self.parts = {"content_index": 0, "summary_index": 0}
        """How many there were."""
        self.open_parts: set[tuple[str, int]] = set()
        self.done: Json | None = None


class OpenAIResponsesValidator:
    def __init__(self) -> None:
        self._findings = Findings()
        self._has_started = False
        self._has_created = False
        self._has_failed = False
        self._has_ended = False
        self._sequence: int | None = None
        self._items: dict[int, _Item] = {}
        self._is_numbered = True
        """Whether all that belongs to an item said so."""
        self._texts: dict[str, Growing] = {}
        self._growing: tuple[tuple[object, ...], Growing] | None = None
        """While deltas of one text follow each other: where it is, and the text."""

    def check(self, chunk: Chunk) -> Sequence[Violation]:
        if chunk.data:
            body = chunk.json
            if body is None:
                self._findings.add(DONE_MARKER if is_done(chunk) else NOT_JSON)
            else:
                self._check(chunk, body)
        return self._findings.told() if self._findings.found else ()

    def end(self) -> Sequence[Violation]:
        if not self._has_ended and not self._has_failed:
            self._findings.add(END_MISSING)
        return self._findings.told()

    def _check(self, chunk: Chunk, body: Json) -> None:
        kind = type_of(body)
        if chunk.event != kind:
            check_event_name(chunk, kind, self._findings)
        # After an error, the response may still be said to have failed.
        if self._has_ended or (self._has_failed and kind != "response.failed"):
            self._findings.add(AFTER_END)
            return
        self._check_sequence(body)
        self._check_start(kind)
        if kind.endswith(".delta"):
            self._delta(kind, body)
            return
        self._growing = None
        name, _, how = kind.rpartition(".")
        if kind in _STATUS:
            self._end(kind, body)
        elif kind == "error" or (not kind and body.get("error")):
            self._has_failed = True
        elif how in ("added", "done"):
            self._check_part_of_it(body, name, how)

    def _delta(self, kind: str, body: Json) -> None:
        place = (kind, *map(body.get, _PLACE))
        if self._growing is not None and self._growing[0] == place and isinstance(body.get("delta"), str):
            self._growing[1].pieces.append(body["delta"])
            return
        self._growing = None
        name = kind.removesuffix(".delta")
        if name in _TEXTS or name in _INPUTS:
            self._check_place(body, name)
        for said in pieces(body):
            text = self._hear(said)
            self._growing = (place, text) if count_or_none(body.get("output_index")) is not None else None

    def _hear(self, said: Said) -> Growing:
        text = self._texts.setdefault(said.keys[0], Growing())
        text.pieces.append(said.slot.text)
        return text

    def _check_sequence(self, body: Json) -> None:
        number = count_or_none(body.get("sequence_number"))
        if number is None:
            self._findings.add(rules.SEQUENCE_MISSING)
            return
        if self._sequence is not None and number != self._sequence + 1:
            is_gap = number > self._sequence
            self._findings.add(rules.SEQUENCE_GAP if is_gap else rules.SEQUENCE, f"{number} after {self._sequence}")
        self._sequence = number

    def _check_start(self, kind: str) -> None:
        if not self._has_started:
            self._has_started = True
            if kind.startswith("response.") and kind not in _FIRST:
                self._findings.add(rules.CREATED_FIRST)
        if kind == "response.created":
            if self._has_created:
                self._findings.add(rules.CREATED_ONCE)
            self._has_created = True

    def _check_part_of_it(self, body: Json, name: str, how: str) -> None:
        if name == "response.output_item":
            (self._added if how == "added" else self._done)(body)
        elif name in _PARTS:
            self._check_part(body, _PARTS[name], how)
        elif name in _TEXTS or name in _INPUTS:
            self._check_place(body, name)
        if how == "added":
            for said in pieces(body):
                self._hear(said)
        else:
            self._check_texts(body)

    def _index(self, body: Json) -> int | None:
        index = count_or_none(body.get("output_index"))
        if index is None:
            self._is_numbered = False
            self._findings.add(rules.ITEM_INDEX_MISSING)
        return index

    def _added(self, body: Json) -> None:
        index = self._index(body)
        if index is None:
            return
        if index in self._items:
            self._findings.add(rules.ITEM_ADDED_TWICE, f"item {index}")
        elif index != len(self._items):
            self._findings.add(rules.ITEM_INDEX, f"{index} for {len(self._items)}")
        self._items[index] = _Item()

    def _done(self, body: Json) -> None:
        index, value = self._index(body), body.get("item")
        if index is None:
            return
        item = self._items.get(index)
        if item is None:
            self._findings.add(rules.ITEM_NOT_ADDED, f"item {index}")
            item = self._items[index] = _Item()
        elif item.done is not None:
            self._findings.add(rules.ITEM_ADDED_TWICE, f"item {index} is done twice")
        if item.open_parts:
            self._findings.add(rules.PART_NOT_DONE, f"{len(item.open_parts)} parts of item {index}")
            item.open_parts.clear()
        item.done = value if isinstance(value, dict) else {}
        self._check_input(item.done)

    def _check_input(self, item: Json) -> None:
        arguments = item.get("arguments")
        is_whole = item.get("type") == "function_call" and item.get("status") in (None, "completed")
        if is_whole and isinstance(arguments, str) and arguments and not jsontext.is_valid(arguments):
            self._findings.add(TOOL_ARGUMENTS)

    def _open_item(self, body: Json) -> _Item | None:
        index = self._index(body)
        item = None if index is None else self._items.get(index)
        if index is not None and (item is None or item.done is not None):
            self._findings.add(rules.OUTSIDE_ITEM, f"item {index}")
            return None
        return item

    def _check_part(self, body: Json, numbered_by: str, how: str) -> None:
        item, index = self._open_item(body), count_or_none(body.get(numbered_by))
        if item is None or index is None:
            return
        if how == "added":
            if index != item.parts[numbered_by]:
                self._findings.add(rules.PART_INDEX, f"{index} for {item.parts[numbered_by]}")
            item.parts[numbered_by] = index + 1
            item.open_parts.add((numbered_by, index))
        elif (numbered_by, index) in item.open_parts:
            item.open_parts.remove((numbered_by, index))
        else:
            self._findings.add(rules.OUTSIDE_PART, f"part {index}")

    def _check_place(self, body: Json, name: str) -> None:
        """A text, or a piece of one: its item is open, and so is its part."""
        item = self._open_item(body)
        numbered_by = _TEXTS.get(name)
        if item is None or numbered_by is None:
            return
        index = count_or_none(body.get(numbered_by))
        if index is not None and (numbered_by, index) not in item.open_parts:
            self._findings.add(rules.OUTSIDE_PART, f"part {index}")

    def _check_texts(self, body: Json) -> None:
        for said in wholes(body):
            self._check_text(said)

    def _check_text(self, said: Said) -> None:
        known = next((self._texts[key] for key in said.keys if key in self._texts), None)
        if known is None:
            # From here on it is known, so that one that nobody said in pieces counts once.
            self._hear(said)
            if said.slot.text and said.is_for_readers:
                self._findings.add(rules.TEXT_WITHOUT_DELTA)
            return
        if not is_same(known.whole(), said.slot.text):
            self._findings.add(rules.TEXT_DIFFERS)

    def _end(self, kind: str, body: Json) -> None:
        self._has_ended = True
        response: Any = body.get("response")
        response = response if isinstance(response, dict) else {}
        if response.get("status") != _STATUS[kind]:
            self._findings.add(rules.STATUS, _STATUS[kind])
        undone = [index for index, item in self._items.items() if item.done is None]
        if undone and kind == "response.completed":
            self._findings.add(rules.ITEM_NOT_DONE, f"{len(undone)} of {len(self._items)} items")
        if self._is_numbered:
            self._check_output(response, has_all=not undone)

    def _check_output(self, response: Json, *, has_all: bool) -> None:
        output = response.get("output")
        if not output or not isinstance(output, list):
            if self._items and has_all:
                self._findings.add(rules.OUTPUT_EMPTY)
            return
        if not self._items:
            self._findings.add(rules.OUTPUT_UNTOLD)
            return
        if has_all and len(output) != len(self._items):
            self._findings.add(rules.OUTPUT_DIFFERS, f"{len(output)} items for {len(self._items)}")
            return
        for index, item in enumerate(output):
            known = self._items.get(index)
            if known is not None and known.done is not None and _gist(item) != _gist(known.done):
                self._findings.add(rules.OUTPUT_DIFFERS, f"item {index}")


def _gist(item: object) -> object:
    """What may not differ between an item and its repetition: others give the same item other ids."""
    if not isinstance(item, dict):
        return item
    texts = [(place, slot.text) for _, place, slot in item_slots(item)]
    return item.get("type"), item.get("name"), texts
