"""The blocks of OpenAI Chat Completions: texts and tool calls of each choice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

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
    without,
)
from luthien.formats.format import count_or_none, index_of, objects, text_or_none
from luthien.formats.sse import Chunk

_TEXTS = {
    "reasoning_content": BlockKind.REASONING,
    "reasoning": BlockKind.REASONING,
    "content": BlockKind.TEXT,
    "refusal": BlockKind.TEXT,
}
_CALL_REASONS = frozenset({"tool_calls", "function_call"})
# A call in the old form has no index.
_OLD_CALL = -1


class OpenAIChatBlocks:
    def stream(self) -> _Stream:
        return _Stream()

    def of_response(self, body: Json) -> list[Block]:
        return numbered([_block(place) for choice in objects(body.get("choices")) for place in _places(choice)])

    def change_response(self, body: Json, blocks: Sequence[Block]) -> None:
        remaining = iter(blocks)
        for choice in objects(body.get("choices")):
            _change_choice(choice, [(place, next(remaining)) for place in _places(choice)])

    def as_stream(self, body: Json) -> list[Chunk]:
        top = {key: value for key, value in body.items() if key not in {"choices", "usage", "error"}}
        top["object"] = "chat.completion.chunk"
        chunks: list[Chunk] = []
        for choice in objects(body.get("choices")):
            rest = {key: value for key, value in choice.items() if key not in {"message", "finish_reason"}}
            delta = dict(object_of(choice.get("message")))
            if isinstance(delta.get("tool_calls"), list):
                calls = enumerate(objects(delta["tool_calls"]))
                delta["tool_calls"] = [{"index": index, **call} for index, call in calls]
            end: Json = {"index": index_of(choice), "delta": {}, "finish_reason": choice.get("finish_reason")}
            said: list[Json] = [{**rest, "delta": delta, "finish_reason": None}, end]
            chunks += [Chunk.of({**top, "choices": [part]}) for part in said]
        if body.get("usage") is not None or not chunks:
            chunks.append(Chunk.of({**top, "choices": [], "usage": body.get("usage")}))
        if body.get("error") is not None:
            chunks.append(Chunk.of({"error": body["error"]}))
        return chunks

    def remove_tools(self, body: Json, is_unwanted: Callable[[str], bool]) -> list[str]:
        removed: list[str] = []

        def goes(tool: object) -> bool:
            name = _tool_name(object_of(tool))
            if not name or not is_unwanted(name):
                return False
            removed.append(name)
            return True

        for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
            before = body.get(tools)
            after = without(before, goes)
            if after == before:
                continue
            body[tools] = after
            if not after:
                del body[tools]
                body.pop("parallel_tool_calls", None)
            if not after or _tool_name(object_of(body.get(choice))) in removed:
                body.pop(choice, None)
        return removed


def _tool_name(tool: Json) -> str:
    """The name in a tool's definition, in a choice of one, or in a call."""
    part = _part(tool)
    return text_or_none((part or tool).get("name")) or ""


def _part(call: Json) -> Json:
    """What a call says of its tool: a function's name and arguments, or a custom tool's name and input."""
    return object_of(call.get("function")) or object_of(call.get("custom"))


def _input_key(part: Json) -> str:
    return "input" if "input" in part and "arguments" not in part else "arguments"


@dataclass(slots=True)
class _Place:
    """Where in a message a block stands: a field, or a call in a list of them."""

    kind: BlockKind
    message: Json
    field: str
    call: Json | None = None


def _places(choice: Json) -> Iterator[_Place]:
    message = object_of(choice.get("message"))
    for name, kind in _TEXTS.items():
        if message.get(name):
            yield _Place(kind, message, name)
    for call in objects(message.get("tool_calls")):
        yield _Place(BlockKind.TOOL_CALL, message, "tool_calls", call)
    if isinstance(message.get("function_call"), dict):
        yield _Place(BlockKind.TOOL_CALL, message, "function_call", {"function": message["function_call"]})


def _block(place: _Place) -> Block:
    if place.call is None:
        return Block(place.kind, 0, _text_of(place.message[place.field]))
    part = _part(place.call)
    return Block(place.kind, 0, text_or_none(part.get(_input_key(part))) or "", _tool_name(place.call))


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(text_or_none(part.get("text")) or "" for part in objects(content))


def _change_choice(choice: Json, changes: list[tuple[_Place, Block]]) -> None:
    said: list[str] = []
    message = object_of(choice.get("message"))
    for place, block in changes:
        if block.is_dropped:
            said += [block.said] if block.said else []
            if place.call is None:
                message[place.field] = None
            elif place.field == "function_call":
                del message["function_call"]
            else:
                message["tool_calls"] = [call for call in message["tool_calls"] if call is not place.call]
        elif place.call is None:
            if block.text != _text_of(message[place.field]):
                message[place.field] = block.text
        else:
            _write_call(place.call, block)
    if said:
        kept = _text_of(message.get("content"))
        message["content"] = "\n\n".join([kept, *said] if kept else said)
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    has_calls = "tool_calls" in message or "function_call" in message
    if choice.get("finish_reason") in _CALL_REASONS and not has_calls:
        choice["finish_reason"] = "stop"


def _write_call(call: Json, block: Block) -> None:
    part = _part(call)
    part["name"], part[_input_key(part)] = block.name, block.text


@dataclass(slots=True)
class _Choice:
    """One choice of a stream, as far as it was read, and as far as it was written."""

    texts: dict[str, GrowingBlock] = field(default_factory=dict)
    calls: dict[int, GrowingBlock] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    kept_calls: int = 0
    has_lost_calls: bool = False
    has_spoken: bool = False


class _Stream:
    def __init__(self) -> None:
        self._choices: defaultdict[int, _Choice] = defaultdict(_Choice)
        self._count = 0

    def read(self, chunk: Chunk) -> Frame:
        body = check_readable(chunk)
        if body is None:
            return Frame(chunk)
        pieces: list[Piece] = []
        for place, choice in enumerate(objects(body.get("choices"))):
            known = self._choices[index_of(choice)]
            delta = object_of(choice.get("delta"))
            for name, kind in _TEXTS.items():
                if text := _text_of(delta.get(name)):
                    block = self._text(known, name, kind)
                    block.texts.append(text)
                    pieces.append(Piece(block, (place, name)))
            for at, call in enumerate(objects(delta.get("tool_calls"))):
                block = self._call(known, count_or_none(call.get("index")) or 0, call)
                pieces.append(Piece(block, (place, "tool_calls", at)))
            if isinstance(delta.get("function_call"), dict):
                block = self._call(known, _OLD_CALL, {"function": delta["function_call"]})
                pieces.append(Piece(block, (place, "function_call")))
            # Some say an empty one in each chunk.
            if choice.get("finish_reason"):
                _finish(known)
        return Frame(chunk, tuple(pieces))

    def end(self) -> None:
        for choice in self._choices.values():
            _finish(choice)

    def _open(self, kind: BlockKind, choice: _Choice) -> GrowingBlock:
        """Begins a block; in its choice, that ends all others."""
        _finish(choice)
        self._count += 1
        return GrowingBlock(kind, self._count - 1)

    def _text(self, choice: _Choice, name: str, kind: BlockKind) -> GrowingBlock:
        known = choice.texts.get(name)
        if known is None or known.is_finished:
            others = [block for key, block in choice.texts.items() if key != name]
            finish(others)
            self._count += 1
            known = choice.texts[name] = GrowingBlock(kind, self._count - 1)
        return known

    def _call(self, choice: _Choice, index: int, call: Json) -> GrowingBlock:
        part, call_id = _part(call), text_or_none(call.get("id")) or ""
        name, text = text_or_none(part.get("name")) or "", text_or_none(part.get(_input_key(part))) or ""
        known = choice.calls.get(index)
        # Some providers give every call the same index, whole, and tell them apart by their ids.
        is_another = call_id and choice.ids.get(index) not in {None, "", call_id}
        if known is None or is_another:
            known = choice.calls[index] = self._open(BlockKind.TOOL_CALL, choice)
        elif known.is_finished and (name or text):
            raise ValueError("a tool call went on after the next one had begun")
        if call_id:
            choice.ids[index] = call_id
        known.names.append(name)
        known.texts.append(text)
        return known

    def written(self, frame: Frame) -> Sequence[Chunk]:
        body = frame.chunk.json
        if body is None:
            return (frame.chunk,)
        is_first = [self._begin(piece, body) for piece in frame.pieces]
        changed = any(piece.block.change for piece in frame.pieces)
        if not changed and not any(choice.has_lost_calls for choice in self._choices.values()):
            return (frame.chunk,)
        return self._rewritten(frame, is_first)

    def _begin(self, piece: Piece, body: Json) -> bool:
        """Whether this is the first piece of its block that is written; counts the calls that are kept."""
        block = piece.block
        if block.place is not None:
            return False
        choice = self._choices[index_of([*objects(body["choices"])][piece.path[0]])]
        block.place = choice.kept_calls
        if block.kind is BlockKind.TOOL_CALL:
            is_lost = block.change is not None and block.change.is_dropped
            choice.has_lost_calls |= is_lost
            choice.kept_calls += not is_lost
        elif piece.path[1] == "content" and not (block.change and block.change.is_dropped):
            choice.has_spoken = True
        return True

    def _rewritten(self, frame: Frame, is_first: list[bool]) -> Sequence[Chunk]:
        body = jsontext.parse_object(frame.chunk.data or b"")
        choices = [*objects(body.get("choices"))]
        for piece, first in zip(reversed(frame.pieces), reversed(is_first), strict=True):
            choice = choices[piece.path[0]]
            if piece.block.kind is BlockKind.TOOL_CALL:
                self._write_call(choice, piece, first)
            elif piece.block.change is not None:
                self._write_text(choice, piece, first)
        for choice in choices:
            known = self._choices[index_of(choice)]
            if choice.get("finish_reason") in _CALL_REASONS and known.has_lost_calls and not known.kept_calls:
                choice["finish_reason"] = "stop"
        if body == frame.chunk.json:
            return (frame.chunk,)
        says_more = body.get("usage") is not None or any(_says_something(choice) for choice in choices)
        return (Chunk.of(body, frame.chunk.event),) if says_more else ()

    def _write_text(self, choice: Json, piece: Piece, first: bool) -> None:
        delta, name, change = choice["delta"], piece.path[1], piece.block.change
        del delta[name]
        if choice.get("logprobs") is not None:
            choice["logprobs"] = None
        if first and change is not None:
            if change.is_dropped:
                self._say(choice, change.said)
            elif change.text:
                delta[name] = change.text

    def _write_call(self, choice: Json, piece: Piece, first: bool) -> None:
        delta, field_, change = choice["delta"], piece.path[1], piece.block.change
        calls = delta[field_] if field_ == "tool_calls" else [{"function": delta[field_]}]
        at = piece.path[2] if field_ == "tool_calls" else 0
        call = [*objects(calls)][at]
        if change is not None and (change.is_dropped or not first):
            if field_ == "tool_calls":
                delta[field_] = [each for each in calls if each is not call]
            if field_ == "function_call" or not delta[field_]:
                del delta[field_]
            if first:
                self._say(choice, change.said)
            return
        if change is not None:
            _write_call(call, change)
        if "index" in call and self._choices[index_of(choice)].has_lost_calls:
            call["index"] = piece.block.place

    def _say(self, choice: Json, text: str) -> None:
        if not text:
            return
        known, delta = self._choices[index_of(choice)], choice["delta"]
        before = _text_of(delta.get("content"))
        delta["content"] = before + ("\n\n" if known.has_spoken else "") + text
        known.has_spoken = True


def _finish(choice: _Choice) -> None:
    finish([*choice.texts.values(), *choice.calls.values()])


def _says_something(choice: Json) -> bool:
    return choice.get("finish_reason") is not None or any(
        value is not None for value in object_of(choice.get("delta")).values()
    )
