"""The blocks of OpenAI Responses; what they are, `openai_responses_items` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthien.formats.blocks import Block, Json, numbered, object_of, without_tools
from luthien.formats.format import objects
from luthien.formats.openai_responses_block_stream import ResponsesBlockStream
from luthien.formats.openai_responses_events import event, item_events
from luthien.formats.openai_responses_items import left_of, places, tool_name
from luthien.formats.openai_responses_repeats import agree_text
from luthien.formats.openai_responses_stream import list_of, type_of
from luthien.formats.sse import Chunk


class ResponsesBlocks:
    def stream(self) -> ResponsesBlockStream:
        return ResponsesBlockStream()

    def of_response(self, body: Json) -> list[Block]:
        return numbered([block for item in objects(body.get("output")) for block in places(item).values()])

    def change_response(self, body: Json, blocks: Sequence[Block]) -> None:
        remaining = iter(blocks)
        output: list[Any] = []
        for item in list_of(body.get("output")):
            if not isinstance(item, dict):
                output.append(item)
                continue
            judged = {place: (known, next(remaining)) for place, known in places(item).items()}
            left = left_of(item, {place: block for place, (known, block) in judged.items() if _differ(known, block)})
            output += [*left.before, *([] if left.item is None else [left.item]), *left.after]
        if isinstance(body.get("output"), list):
            body["output"] = output
        agree_text(body)

    def as_stream(self, body: Json) -> list[Chunk]:
        ends: Json = {name: None for name in ("usage", "error") if name in body}
        opened = {**body, **ends, "status": "in_progress", "output": []}
        opened.pop("output_text", None)
        events = [event(f"response.{name}", {"response": opened}) for name in ("created", "in_progress")]
        for index, item in enumerate(list_of(body.get("output"))):
            events += item_events(object_of(item), {"output_index": index})
        # What has failed says so at its end; an error that came as an event of its own is one again.
        if body.get("error") is not None and body.get("status") != "failed":
            events.append(event("error", object_of(body["error"])))
        return events

    def as_end(self, body: Json, terminal: Chunk) -> Chunk:
        return Chunk.of({**(terminal.json or {}), "response": body}, terminal.event)

    def remove_tools(self, body: Json, is_unwanted: Callable[[str], bool]) -> list[str]:
        tools, removed = without_tools(body.get("tools"), tool_name, is_unwanted)
        if not removed:
            return []
        body["tools"] = tools
        choice = object_of(body.get("tool_choice"))
        if type_of(choice) == "allowed_tools":
            choice["tools"], gone = without_tools(choice.get("tools"), tool_name, lambda name: name in removed)
            is_void = bool(gone) and not choice["tools"]
        else:
            is_void = tool_name(choice) in removed
        if not tools:
            del body["tools"]
            body.pop("parallel_tool_calls", None)
        if not tools or is_void:
            body.pop("tool_choice", None)
        return removed


def _differ(known: Block, judged: Block) -> bool:
    return judged.is_dropped or (known.text, known.name) != (judged.text, judged.name)
