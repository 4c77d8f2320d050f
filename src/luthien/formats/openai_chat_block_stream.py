"""A stream of OpenAI Chat Completions, cut into blocks and put together again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from luthien.formats import jsontext
from luthien.formats.blocks import BlockKind, Frame, GrowingBlock, Json, Piece, check_readable, finish, object_of
from luthien.formats.format import count_or_none, index_of, objects, text_or_none
from luthien.formats.openai_chat_parts import CALL_REASONS, TEXTS, input_key, part_of, text_of, write_call
from luthien.formats.sse import Chunk

# A call in the old form has no index.
_OLD_CALL = -1


@dataclass(slots=True)
class _Choice:
    """One choice of a stream, as far as it was read, and as far as it was written."""

    texts: dict[str, GrowingBlock] = field(default_factory=dict)
    calls: dict[int, GrowingBlock] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    last_call: int | None = None
    kept_calls: int = 0
    has_lost_calls: bool = False
    has_lost_reasoning: bool = False
    """What is said of it in detail goes, too: the same again, and its signature."""
    has_spoken: bool = False


class ChatBlockStream:
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
            for name, kind in TEXTS.items():
                if text := text_of(delta.get(name)):
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

    def _text(self, choice: _Choice, name: str, kind: BlockKind) -> GrowingBlock:
        known = choice.texts.get(name)
        if known is None or known.is_finished:
            finish([block for key, block in choice.texts.items() if key != name])
            known = choice.texts[name] = self._begun(kind)
        return known

    def _begun(self, kind: BlockKind) -> GrowingBlock:
        self._count += 1
        return GrowingBlock(kind, self._count - 1)

    def _call(self, choice: _Choice, index: int, call: Json) -> GrowingBlock:
        part, call_id = part_of(call), text_or_none(call.get("id")) or ""
        name, text = text_or_none(part.get("name")) or "", text_or_none(part.get(input_key(part))) or ""
        known = choice.calls.get(index)
        # Some providers give every call the same index, whole: those with ids tell them apart.
        is_another = call_id and choice.ids.get(index) not in {None, "", call_id}
        is_another = is_another or (name and known is not None and _is_whole(known))
        if known is None or is_another:
            if known is not None:
                known.is_finished = True
            _finish_before_call(choice)
            known = choice.calls[index] = self._begun(BlockKind.TOOL_CALL)
            known.origin = jsontext.Whole()
            choice.last_call = index
        elif known.is_finished and (name or text.strip()):
            raise ValueError("a tool call went on after it was whole")
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
        has_lost = any(choice.has_lost_calls or choice.has_lost_reasoning for choice in self._choices.values())
        if not changed and not has_lost:
            return (frame.chunk,)
        return self._rewritten(frame, is_first)

    def _begin(self, piece: Piece, body: Json) -> bool:
        """Whether this is the first piece of its block that is written; counts the calls that are kept."""
        block = piece.block
        if block.place is not None:
            return False
        choice = self._choices[index_of([*objects(body["choices"])][piece.path[0]])]
        block.place = choice.kept_calls
        choice.has_lost_reasoning |= block.kind is BlockKind.REASONING and block.change is not None
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
            if known.has_lost_reasoning:
                object_of(choice.get("delta")).pop("reasoning_details", None)
            if choice.get("finish_reason") in CALL_REASONS and known.has_lost_calls and not known.kept_calls:
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
            write_call(call, change)
        if "index" in call and self._choices[index_of(choice)].has_lost_calls:
            call["index"] = piece.block.place

    def _say(self, choice: Json, text: str) -> None:
        if not text:
            return
        known, delta = self._choices[index_of(choice)], choice["delta"]
        before = text_of(delta.get("content"))
        delta["content"] = before + ("\n\n" if known.has_spoken else "") + text
        known.has_spoken = True


def _finish(choice: _Choice) -> None:
    finish([*choice.texts.values(), *choice.calls.values()])


def _finish_before_call(choice: _Choice) -> None:
    """Finishes what a new call shows to be whole: the texts, and the call before it.

    Some providers stream calls side by side. What goes on is told by its arguments, which are not an object yet.
    """
    finish([*choice.texts.values()])
    before = None if choice.last_call is None else choice.calls[choice.last_call]
    if before is not None and _is_whole(before):
        before.is_finished = True


def _is_whole(call: GrowingBlock) -> bool:
    """Whether nothing can follow: the call has its name, and arguments that are an object."""
    whole: jsontext.Whole = call.origin
    return any(call.names) and bool(call.texts) and whole.of(call.texts)


def _says_something(choice: Json) -> bool:
    return choice.get("finish_reason") is not None or any(
        value is not None for value in object_of(choice.get("delta")).values()
    )
