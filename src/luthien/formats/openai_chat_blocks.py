"""The blocks of OpenAI Chat Completions: texts and tool calls of each choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from luthien.formats.blocks import Block, BlockKind, Json, numbered, object_of, without_tools
from luthien.formats.format import index_of, objects, text_or_none
from luthien.formats.openai_chat_block_stream import ChatBlockStream
from luthien.formats.openai_chat_parts import CALL_REASONS, TEXTS, input_key, part_of, text_of, tool_name, write_call
from luthien.formats.sse import Chunk


class OpenAIChatBlocks:
    def stream(self) -> ChatBlockStream:
        return ChatBlockStream()

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

    def as_end(self, body: Json, terminal: Chunk) -> Chunk:
        return terminal

    def remove_tools(self, body: Json, is_unwanted: Callable[[str], bool]) -> list[str]:
        removed: list[str] = []
        for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
            kept, gone = without_tools(body.get(tools), tool_name, is_unwanted)
            if not gone:
                continue
            removed += gone
            body[tools] = kept
            if not kept:
                del body[tools]
                body.pop("parallel_tool_calls", None)
            if not kept or tool_name(object_of(body.get(choice))) in gone:
                body.pop(choice, None)
        return removed


@dataclass(slots=True)
class _Place:
    """Where in a message a block stands: a field, or a call in a list of them."""

    kind: BlockKind
    message: Json
    field: str
    call: Json | None = None


def _places(choice: Json) -> Iterator[_Place]:
    message = object_of(choice.get("message"))
    for name, kind in TEXTS.items():
        if message.get(name):
            yield _Place(kind, message, name)
    for call in objects(message.get("tool_calls")):
        yield _Place(BlockKind.TOOL_CALL, message, "tool_calls", call)
    if isinstance(message.get("function_call"), dict):
        yield _Place(BlockKind.TOOL_CALL, message, "function_call", {"function": message["function_call"]})


def _block(place: _Place) -> Block:
    if place.call is None:
        return Block(place.kind, 0, text_of(place.message[place.field]))
    part = part_of(place.call)
    return Block(place.kind, 0, text_or_none(part.get(input_key(part))) or "", tool_name(place.call))


def _change_choice(choice: Json, changes: list[tuple[_Place, Block]]) -> None:
    said: list[str] = []
    message = object_of(choice.get("message"))
    for place, block in changes:
        if place.kind is BlockKind.REASONING and (block.is_dropped or block.text != text_of(message[place.field])):
            message.pop("reasoning_details", None)  # it says the same again, and may be signed
        if block.is_dropped:
            said += [block.said] if block.said else []
            if place.call is None:
                message[place.field] = None
            elif place.field == "function_call":
                del message["function_call"]
            else:
                message["tool_calls"] = [call for call in message["tool_calls"] if call is not place.call]
        elif place.call is None:
            if block.text != text_of(message[place.field]):
                message[place.field] = block.text
        else:
            write_call(place.call, block)
    if said:
        kept = text_of(message.get("content"))
        message["content"] = "\n\n".join([kept, *said] if kept else said)
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    has_calls = "tool_calls" in message or "function_call" in message
    if choice.get("finish_reason") in CALL_REASONS and not has_calls:
        choice["finish_reason"] = "stop"
