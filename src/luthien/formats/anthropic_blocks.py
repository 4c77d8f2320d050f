"""The blocks of Anthropic Messages, which are called so there, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthien.formats import jsontext
from luthien.formats.blocks import (
    Block,
    BlockKind,
    Frame,
    GrowingBlock,
    Json,
    Piece,
    check_readable,
    finish,
    numbered,
    object_of,
    without_tools,
)
from luthien.formats.format import index_of, objects, text_or_none
from luthien.formats.sse import Chunk

_KINDS = {"text": BlockKind.TEXT, "tool_use": BlockKind.TOOL_CALL, "thinking": BlockKind.REASONING}
_FIELDS = {BlockKind.TEXT: "text", BlockKind.REASONING: "thinking"}
_DELTAS = {
    BlockKind.TEXT: ("text_delta", "text"),
    BlockKind.REASONING: ("thinking_delta", "thinking"),
    BlockKind.TOOL_CALL: ("input_json_delta", "partial_json"),
}

# What the last event of a stream says, and the official SDK takes from there and nowhere else.
_ALWAYS_AT_END = ("stop_reason", "stop_sequence")
_ENDS = (*_ALWAYS_AT_END, "stop_details", "container")
_BESIDE_END = ("context_management",)


class AnthropicBlocks:
    def stream(self) -> _Stream:
        return _Stream()

    def of_response(self, body: Json) -> list[Block]:
        return numbered([_block(each) for each in objects(body.get("content"))])

    def change_response(self, body: Json, blocks: Sequence[Block]) -> None:
        content: list[Json] = []
        for each, block in zip(objects(body.get("content")), blocks, strict=True):
            content += _changed(each, block)
        if isinstance(body.get("content"), list):
            body["content"] = content
        has_calls = any(each.get("type") == "tool_use" for each in content)
        if body.get("stop_reason") == "tool_use" and not has_calls:
            body["stop_reason"] = "end_turn"

    def as_stream(self, body: Json) -> list[Chunk]:
        ends = {name: body.get(name) for name in _ENDS if name in body or name in _ALWAYS_AT_END}
        has_end = ends["stop_reason"] is not None
        late = {"error", *ends, *_BESIDE_END} if has_end else {"error"}
        message = {key: value for key, value in body.items() if key not in late}
        message |= {"content": [], **dict.fromkeys(_ALWAYS_AT_END)}
        chunks = [_event("message_start", message=message)]
        for index, each in enumerate(objects(body.get("content"))):
            chunks += _as_events(each, index)
        if has_end:
            beside = {name: body[name] for name in _BESIDE_END if name in body}
            chunks.append(_event("message_delta", delta=ends, usage=object_of(body.get("usage")), **beside))
        if body.get("error") is not None:
            chunks.append(_event("error", error=body["error"]))
        return chunks

    def as_end(self, body: Json, terminal: Chunk) -> Chunk:
        return terminal

    def remove_tools(self, body: Json, is_unwanted: Callable[[str], bool]) -> list[str]:
        tools, removed = without_tools(body.get("tools"), _name, is_unwanted)
        if removed:
            body["tools"] = tools
            if not tools:
                del body["tools"]
            if not tools or object_of(body.get("tool_choice")).get("name") in removed:
                body.pop("tool_choice", None)
        return removed


def _kind(block: Json) -> BlockKind:
    return _KINDS.get(text_or_none(block.get("type")) or "", BlockKind.OTHER)


def _block(value: Json) -> Block:
    kind = _kind(value)
    text = text_or_none(value.get(_FIELDS.get(kind, ""))) or ""
    if kind is BlockKind.TOOL_CALL:
        text = text_or_none(value.get("partial_json")) or jsontext.render(value.get("input")).decode()
    return Block(kind, 0, text, _name(value))


def _name(value: Json) -> str:
    return text_or_none(value.get("name")) or ""


def _changed(value: Json, block: Block) -> list[Json]:
    """What is left of a block: itself, another, a text in its place, or nothing."""
    if block.is_dropped:
        return [{"type": "text", "text": block.said}] if block.said else []
    known = _block(value)
    if (known.text, known.name) == (block.text, block.name):
        return [value]
    if known.kind is BlockKind.TOOL_CALL:
        kept = {key: each for key, each in value.items() if key != "partial_json"}
        return [{**kept, "name": block.name, "input": jsontext.parse(block.text)}]
    # Neither a signature nor what is quoted holds for another text.
    kept = {key: each for key, each in value.items() if key not in {"signature", "citations"}}
    return [{**kept, _FIELDS[known.kind]: block.text} if known.kind in _FIELDS else value]


def _as_events(value: Json, index: int) -> list[Chunk]:
    """A whole block as the events of a stream."""
    kind = _kind(value)
    begun = dict(value)
    deltas: list[Json] = []
    if kind is not BlockKind.OTHER:
        name, key = _DELTAS[kind]
        deltas.append({"type": name, key: _block(value).text})
        begun[_FIELDS.get(kind, "input")] = {} if kind is BlockKind.TOOL_CALL else ""
        begun.pop("partial_json", None)  # of input that was cut short
    if citations := begun.pop("citations", None):
        deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
    if kind is BlockKind.REASONING and begun.get("signature"):
        deltas.append({"type": "signature_delta", "signature": begun["signature"]})
        begun["signature"] = ""
    return [
        _event("content_block_start", index=index, content_block=begun),
        *(_event("content_block_delta", index=index, delta=delta) for delta in deltas),
        _event("content_block_stop", index=index),
    ]


def _event(name: str, **fields: object) -> Chunk:
    return Chunk.of({"type": name, **fields}, name)


class _Stream:
    def __init__(self) -> None:
        self._open: dict[int, GrowingBlock] = {}
        self._count = 0
        self._written = 0
        self._kept_calls = 0
        self._has_lost_calls = False

    def read(self, chunk: Chunk) -> Frame:
        body = check_readable(chunk) or {}
        match body.get("type"):
            case "message_start" if object_of(body.get("message")).get("content"):
                raise ValueError("a message began with content that belongs to no block")
            case "content_block_start":
                return Frame(chunk, (Piece(self._begin(body)),))
            case "content_block_delta":
                return Frame(chunk, (Piece(self._add(body)),))
            case "content_block_stop" if index_of(body) in self._open:
                block = self._open.pop(index_of(body))
                block.is_finished = True
                return Frame(chunk, (Piece(block),))
            case "message_delta" | "message_stop":
                self.end()
        return Frame(chunk)

    def end(self) -> None:
        finish([*self._open.values()])
        self._open.clear()

    def _begin(self, body: Json) -> GrowingBlock:
        value = object_of(body.get("content_block"))
        index = index_of(body)
        if index in self._open:
            self._open[index].is_finished = True
        block = self._open[index] = GrowingBlock(_kind(value), self._count, value, [_name(value)])
        self._count += 1
        known = _block(value)
        if known.kind is not BlockKind.TOOL_CALL or value.get("input"):
            block.texts.append(known.text)
        return block

    def _add(self, body: Json) -> GrowingBlock:
        block = self._open.get(index_of(body))
        if block is None:
            raise ValueError("something was added to a block that is not open")
        delta = object_of(body.get("delta"))
        name, key = _DELTAS.get(block.kind, ("", ""))
        if delta.get("type") == name and (text := text_or_none(delta.get(key))):
            if block.kind is BlockKind.TOOL_CALL and len(block.texts) == 1 and block.origin.get("input"):
                block.texts.clear()  # what comes in pieces replaces what the block began with
                block.origin = {**block.origin, "input": {}}
            block.texts.append(text)
        return block

    def written(self, frame: Frame) -> Sequence[Chunk]:
        body = frame.chunk.json or {}
        for piece in frame.pieces:
            return self._write(piece.block, frame.chunk, body)
        delta = object_of(body.get("delta"))
        is_end = body.get("type") == "message_delta" and delta.get("stop_reason") == "tool_use"
        if is_end and self._has_lost_calls and not self._kept_calls:
            return (Chunk.of({**body, "delta": {**delta, "stop_reason": "end_turn"}}, frame.chunk.event),)
        return (frame.chunk,)

    def _write(self, block: GrowingBlock, chunk: Chunk, body: Json) -> Sequence[Chunk]:
        is_first = block.place is None
        if block.place is None:
            block.place = self._written
            is_lost = block.change is not None and block.change.is_dropped
            if block.kind is BlockKind.TOOL_CALL:
                self._has_lost_calls |= is_lost
                self._kept_calls += not is_lost
            self._written += not is_lost or bool(block.change and block.change.said)
        if block.change is not None:
            return self._as_changed(block, block.change) if is_first else ()
        # Numbered anew only behind blocks that are gone.
        is_moved = block.place != block.index and index_of(body) != block.place
        return (Chunk.of({**body, "index": block.place}, chunk.event),) if is_moved else (chunk,)

    @staticmethod
    def _as_changed(block: GrowingBlock, change: Block) -> Sequence[Chunk]:
        value: Json = dict(block.origin)
        return [event for each in _changed(value, change) for event in _as_events(each, block.place or 0)]
