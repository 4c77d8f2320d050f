"""A stream of OpenAI Responses, cut into blocks and put together again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from luthien.formats.blocks import Block, BlockKind, Frame, GrowingBlock, Json, Piece, check_readable, finish
from luthien.formats.format import count_or_none
from luthien.formats.openai_responses_events import PART_LISTS, begun, input_events, item_events, part_events
from luthien.formats.openai_responses_items import (
    WHOLE_ITEM,
    Place,
    block_of_part,
    changed_part,
    is_gone,
    is_made_of_parts,
    left_of,
    message_instead,
    new_part,
    places,
    unsealed,
)
from luthien.formats.openai_responses_stream import ITEM, KINDS, PARTS, item_key, output_of, pieces, type_of
from luthien.formats.sse import Chunk


@dataclass(slots=True)
class _Item:
    """One item, as far as it was read, and as far as it was written."""

    opening: Chunk
    """The event with which it began."""
    value: Json
    blocks: dict[Place, GrowingBlock] = field(default_factory=dict)
    parts: dict[Place, Json] = field(default_factory=dict)
    """What each part was last said to be."""
    is_empty: bool = True
    """Whether its one block stands for parts that have not come."""
    index: int | None = None
    """Its index on the wire; None until the first of its blocks that stay is written."""
    written: Counter[str] = field(default_factory=Counter)
    """How many parts were written of each list."""
    owed: list[Json] = field(default_factory=list)
    """Messages to come behind it."""

    @property
    def changes(self) -> dict[Place, Block]:
        return {place: block.change for place, block in self.blocks.items() if block.change is not None}

    @property
    def at(self) -> Json:
        return {"output_index": self.index} if "output_index" in (self.opening.json or {}) else {}


class ResponsesBlockStream:
    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._count = 0
        self._written = 0

    # Reading

    def read(self, chunk: Chunk) -> Frame:
        body = check_readable(chunk) or {}
        value = body.get("item")
        if isinstance(value, dict) and type_of(body) == f"{ITEM}.added":
            return self._begin(chunk, body, value)
        item = self._items.get(item_key(body))
        if item is None:
            if any(True for _ in pieces(body)) or output_of(body) or type_of(body) == f"{ITEM}.done":
                raise ValueError("something was said of an item that has not begun")
            return Frame(chunk)
        if isinstance(value, dict) and type_of(body) == f"{ITEM}.done":
            self._end(item, value)
            return self._frame(chunk, item, *item.blocks.values())
        return self._frame(chunk, item, self._add(item, body))

    def end(self) -> None:
        for item in self._items.values():
            finish([*item.blocks.values()])

    @staticmethod
    def _frame(chunk: Chunk, item: _Item, *blocks: GrowingBlock) -> Frame:
        return Frame(chunk, tuple([Piece(block, (item,)) for block in blocks]))

    def _begin(self, chunk: Chunk, body: Json, value: Json) -> Frame:
        key = item_key(body)
        if key in self._items:
            finish([*self._items[key].blocks.values()])
        item = self._items[key] = _Item(chunk, value)
        item.is_empty = not any(value.get(listed) for listed in PART_LISTS.get(type_of(value), ()))
        for place, block in places(value).items():
            grown = self._grow(item, place, block)
            if is_made_of_parts(value) and block.text:
                raise ValueError("an item began with text that belongs to no part")
            if any(True for _ in pieces(body)) and grown.kind is not BlockKind.OTHER:
                grown.texts.append(block.text)
        return self._frame(chunk, item, *item.blocks.values())

    def _grow(self, item: _Item, place: Place, block: Block) -> GrowingBlock:
        names = [block.name] if block.name else []
        grown = item.blocks[place] = GrowingBlock(block.kind, self._count, place, names)
        self._count += 1
        return grown

    def _add(self, item: _Item, body: Json) -> GrowingBlock:
        name, _, how = type_of(body).rpartition(".")
        place = _place(item, body, name)
        block = next(iter(item.blocks.values())) if place is None else self._at(item, place)
        part = body.get("part")
        if name in PARTS and isinstance(part, dict) and place is not None:
            item.parts[place] = part
            block.kind = block_of_part(item.value, part).kind
        for said in pieces(body):
            if block.is_finished:
                raise ValueError("a block went on after its end")
            if block.kind is not BlockKind.OTHER:
                block.texts.append(said.slot.text)
            elif is_made_of_parts(item.value):
                raise ValueError("there is text in a part that is of another kind")
        block.is_finished |= name in PARTS and how == "done"
        return block

    def _at(self, item: _Item, place: Place) -> GrowingBlock:
        """The block there, which may be the one that the item began with."""
        if place in item.blocks:
            item.is_empty = False
        elif item.is_empty and is_made_of_parts(item.value):
            (block,) = item.blocks.values()
            block.origin = place
            item.blocks, item.is_empty = {place: block}, False
        return item.blocks.get(place) or self._grow(item, place, new_part(item.value))

    def _end(self, item: _Item, value: Json) -> None:
        if type_of(value) != type_of(item.value):
            raise ValueError("an item ended as one of another type")
        for place, known in places(value).items():
            block = self._at(item, place)
            if place[0] and value.get(place[0]):
                item.parts[place] = value[place[0]][place[1]]
            if not any(block.texts):
                block.texts = [known.text]
            if known.name != "".join(block.names or [known.name]):
                raise ValueError("a call ended as one of another tool")
            block.names = [known.name]
        finish([*item.blocks.values()])

    # Writing

    def written(self, frame: Frame) -> Sequence[Chunk]:
        if not frame.pieces:
            return (frame.chunk,)
        item: _Item = frame.pieces[0].path[0]
        match type_of(frame.chunk.json or {}):
            case "response.output_item.added":
                return self._write_begin(item, [piece.block for piece in frame.pieces])
            case "response.output_item.done":
                return self._write_end(item, frame.chunk)
        return self._write_within(item, frame.pieces[0].block, frame.chunk)

    def _write_begin(self, item: _Item, blocks: list[GrowingBlock]) -> Sequence[Chunk]:
        """Waits for a block that stays, if these do not."""
        if all(is_gone(item.value, block.change) for block in blocks):
            return [chunk for block in blocks for chunk in self._instead(item, block)]
        return self._opened(item)

    def _opened(self, item: _Item) -> list[Chunk]:
        """The event with which it begins, if that was not written; a changed call is said whole at once."""
        if item.index is not None:
            return []
        item.index, self._written = self._written, self._written + 1
        if is_made_of_parts(item.value):
            value = unsealed(item.value) if item.changes else item.value
            return [_with(item.opening, {**item.at, "item": value})]
        call = left_of(item.value, item.changes).item or item.value
        for block in item.blocks.values():
            block.place = 0
        if call is item.value:
            return [_with(item.opening, item.at)]
        return [_with(item.opening, {**item.at, "item": begun(call)}), *input_events(call, item.at)]

    def _instead(self, item: _Item, block: GrowingBlock) -> list[Chunk]:
        """What stands in the place of a block that is gone: before its item, or behind it if that has begun."""
        if block.place is not None or block.change is None:
            return []
        block.place = 0
        if not block.change.said:
            return []
        message = message_instead(item.value, block.origin, block.change.said)
        if item.index is None:
            return self._message(item, message)
        item.owed.append(message)
        return []

    def _message(self, item: _Item, message: Json) -> list[Chunk]:
        index, self._written = self._written, self._written + 1
        return item_events(message, {"output_index": index} if "output_index" in (item.opening.json or {}) else {})

    def _write_within(self, item: _Item, block: GrowingBlock, chunk: Chunk) -> Sequence[Chunk]:
        if is_gone(item.value, block.change):
            return self._instead(item, block)
        events = self._opened(item)
        if not is_made_of_parts(item.value):
            return events if block.change else [*events, _with(chunk, item.at)]
        events += self._changed(item, block)
        listed = block.origin[0]
        return events if block.change else [*events, _with(chunk, {**item.at, f"{listed}_index": block.place})]

    @staticmethod
    def _changed(item: _Item, block: GrowingBlock) -> list[Chunk]:
        """All events of a part that was changed, when the first of them is due."""
        if block.place is not None:
            return []
        listed = block.origin[0]
        block.place = item.written[listed]
        item.written[listed] += 1
        if block.change is None:
            return []
        part = changed_part(item.value, listed, item.parts.get(block.origin, {}), block.change)
        return part_events(item.value, listed, block.place, part, item.at)

    def _write_end(self, item: _Item, chunk: Chunk) -> Sequence[Chunk]:
        events: list[Chunk] = []
        for block in item.blocks.values():
            if is_gone(item.value, block.change):
                events += self._instead(item, block)
            elif is_made_of_parts(item.value):
                events += [*self._opened(item), *self._changed(item, block)]
        value = (chunk.json or {})["item"]
        left = left_of(value, item.changes).item
        if left is None and item.index is None:
            return events
        events.append(_with(chunk, {**item.at, "item": begun(value) if left is None else left}))
        for message in item.owed:
            events += self._message(item, message)
        return events


def _with(chunk: Chunk, fields: Json) -> Chunk:
    """The event with other values in those of the fields that it has: the very chunk if they are the same."""
    body = chunk.json or {}
    new = body | {key: value for key, value in fields.items() if key in body}
    return chunk if new == body else Chunk.of(new, chunk.event)


def _place(item: _Item, body: Json, name: str) -> Place | None:
    """Where in the item the block is that an event is about; None if it does not say."""
    if not is_made_of_parts(item.value):
        return WHOLE_ITEM
    said = PARTS.get(name) or ("summary" if KINDS.get(name, ("",))[0] == "summary" else "")
    listed = said or next((each for each in ("summary", "content") if f"{each}_index" in body), "")
    if not listed and name not in KINDS:
        return None
    listed = listed or "content"
    if listed not in PART_LISTS[type_of(item.value)]:
        raise ValueError("an item has parts that do not belong to it")
    return listed, count_or_none(body.get(f"{listed}_index")) or 0
