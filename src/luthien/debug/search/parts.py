"""What a pointer into a request or a response points at, in words that hold for every wire format. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from luthien.debug.diffing.values import Json, tokens
from luthien.exchange import Side
from luthien.store.call_filter import Part

# The top of a document, as any of the formats has it.
_TOP = {
    "system": Part.SYSTEM,
    "instructions": Part.SYSTEM,
    "tools": Part.TOOLS,
    "functions": Part.TOOLS,
    "usage": Part.USAGE,
}
_ENDS = {"finish_reason", "stop_reason", "stop_sequence", "status", "incomplete_details"}
_CONVERSATION = {"messages", "input", "output", "content", "choices"}
_ROLES = {
    "system": Part.SYSTEM,
    "developer": Part.SYSTEM,
    "tool": Part.TOOL_RESULT,
    "function": Part.TOOL_RESULT,
}
_TYPES = {
    "thinking": Part.REASONING,
    "redacted_thinking": Part.REASONING,
    "reasoning": Part.REASONING,
    "refusal": Part.REFUSAL,
    "tool_use": Part.TOOL_CALL,
    "server_tool_use": Part.TOOL_CALL,
    "mcp_tool_use": Part.TOOL_CALL,
}
_KEYS = {
    "tool_calls": Part.TOOL_CALL,
    "function_call": Part.TOOL_CALL,
    "refusal": Part.REFUSAL,
    "reasoning": Part.REASONING,
    "reasoning_content": Part.REASONING,
    "reasoning_details": Part.REASONING,
}
_ARGUMENTS = {"arguments", "input", "action", "code"}


def part_at(document: Json, ptr: str, side: Side) -> Part:
    """What stands there; a pointer to nothing counts as far as it leads."""
    path = tokens(ptr)
    if not path:
        return Part.OTHER
    top = path[0]
    if side is Side.RESPONSE and (top in _ENDS or (top == "choices" and path[-1] in _ENDS)):
        return Part.FINISH_REASON
    if top in _TOP:
        return _TOP[top]
    if top not in _CONVERSATION:
        return Part.PARAMETER if side is Side.REQUEST else Part.OTHER
    found = Part.MESSAGE
    for key, value in _steps(document, path):
        if found is Part.TOOL_CALL:
            if key in _ARGUMENTS:
                return Part.TOOL_ARGUMENTS
            continue
        found = _KEYS.get(key, found) if value is not None else found
        if found is Part.MESSAGE and isinstance(value, dict):
            found = _part_of(value)
        if found not in (Part.MESSAGE, Part.TOOL_CALL):
            return found
    return found


def _steps(document: Json, path: list[str]) -> Iterator[tuple[str, Json]]:
    """Each key on the way, and what it leads to."""
    value = document
    for key in path:
        value = _child(value, key)
        yield key, value


def _child(value: Json, key: str) -> Json:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return None


def _part_of(element: dict[str, Json]) -> Part:
    role, kind = element.get("role"), element.get("type")
    if isinstance(role, str) and role in _ROLES:
        return _ROLES[role]
    if not isinstance(kind, str):
        return Part.MESSAGE
    if kind.endswith(("_result", "_output")):
        return Part.MESSAGE if kind.endswith(("input_output", "text_output")) else Part.TOOL_RESULT
    return Part.TOOL_CALL if kind.endswith("_call") else _TYPES.get(kind, Part.MESSAGE)
