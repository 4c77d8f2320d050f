"""What parts of a request or response are called: "messages 3 · user", "tool_calls 0 · get_weather". Pure.

Goes by the keys that OpenAI and Anthropic use, and serves for any other JSON.
"""

from __future__ import annotations

from luthien.debug.diffing.values import Json

_NOUNS = {
    "messages": "message",
    "input": "item",
    "output": "item",
    "tools": "tool",
    "tool_calls": "tool call",
    "content": "part",
    "system": "part",
    "choices": "choice",
    "summary": "part",
    "annotations": "annotation",
}
_IN_TITLES = ("role", "type")
_NAMES = ("name", "server_label", "title")
_IDS = ("tool_call_id", "call_id", "tool_use_id", "id")
_MAX_CHARS = 80


def noun(key: str) -> str:
    """What an element of the list under that key is called."""
    return _NOUNS.get(key, "item")


def detail_of(value: Json) -> str:
    """Role, type and name of a part: "user", "tool_use · get_weather"; nothing if it has none."""
    if not isinstance(value, dict):
        return ""
    words = [_text(value.get(key)) for key in _IN_TITLES]
    for inner in ("message", "function", "delta"):
        nested = value.get(inner)
        if isinstance(nested, dict):
            words += [_text(nested.get(key)) for key in ("role", *_NAMES)]
    words += [_text(value.get(key)) for key in _NAMES]
    words += [next((text for text in (_text(value.get(key)) for key in _IDS) if text), "")]
    return " · ".join(dict.fromkeys(word for word in words if word))


def _text(value: Json) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= _MAX_CHARS else value[:_MAX_CHARS] + "…"
