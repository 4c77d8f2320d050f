"""What the messages of OpenAI Chat Completions are made of, whole or in pieces."""

from __future__ import annotations

from luthien.formats.blocks import Block, BlockKind, Json, object_of
from luthien.formats.format import objects, text_or_none

TEXTS = {
    "reasoning_content": BlockKind.REASONING,
    "reasoning": BlockKind.REASONING,
    "content": BlockKind.TEXT,
    "refusal": BlockKind.TEXT,
}
CALL_REASONS = frozenset({"tool_calls", "function_call"})


def tool_name(tool: Json) -> str:
    """The name in a tool's definition, in a choice of one, or in a call."""
    part = part_of(tool)
    return text_or_none((part or tool).get("name")) or ""


def part_of(call: Json) -> Json:
    """What a call says of its tool: a function's name and arguments, or a custom tool's name and input."""
    return object_of(call.get("function")) or object_of(call.get("custom"))


def input_key(part: Json) -> str:
    return "input" if "input" in part and "arguments" not in part else "arguments"


def text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(text_or_none(part.get("text")) or "" for part in objects(content))


def write_call(call: Json, block: Block) -> None:
    part = part_of(call)
    part["name"], part[input_key(part)] = block.name, block.text
