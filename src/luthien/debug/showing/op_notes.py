"""What is to be known of an operation besides its two values, in words. Pure."""

from __future__ import annotations

import unicodedata

from luthien.debug.diffing.ops import Flag, Op
from luthien.debug.diffing.values import Json, Number
from luthien.debug.showing.phrases import listed

WORDS = {"add": "added", "remove": "removed", "change": "changed", "move": "moved"}
_FLAGS: dict[Flag, str] = {
    "encoding_only": "the same content, spelled another way",
    "whitespace_only": "only white space differs",
}
_TYPES = {dict: "an object", list: "a list", str: "text", bool: "a boolean", Number: "a number", type(None): "null"}
_MAX_KEYS = 12


def notes_of(op: Op) -> tuple[str, ...]:
    """Sentences without a full stop, none for an operation whose values say it all."""
    notes = [_FLAGS[flag] for flag in op.flags if flag in _FLAGS]
    if "normalization_only" in op.flags:
        notes.append(_normal_forms(op.before, op.after))
    if op.op == "change" and op.kind == "type":
        notes.append(f"was {_TYPES[type_of(op.before)]}, is {_TYPES[type_of(op.after)]}")
    if op.op == "add" and op.after is None:
        notes.append("null now; it was absent before, which is not the same")
    if op.op == "remove" and op.before is None:
        notes.append("was null; it is absent now, which is not the same")
    if op.kind == "encoding":
        notes.append(_encoding(op))
    if op.kind == "bytes":
        notes.append(_binary(op))
    if op.inside:
        notes.append("a string on the wire, which holds JSON: compared as JSON")
    if op.degraded:
        notes.append("told more coarsely than it could be, for its size")
    return tuple(notes)


def type_of(value: Json) -> type:
    return next(kind for kind in _TYPES if isinstance(value, kind))


def _encoding(op: Op) -> str:
    before, after = op.before, op.after
    if isinstance(after, Number):
        return "the same number, written differently"
    if isinstance(before, dict) and isinstance(after, dict):
        return f"the same JSON, but for white space or escapes: {_bytes(before)} before, {_bytes(after)} after"
    if not isinstance(before, list) or not isinstance(after, list):
        return "the order of keys differs in more objects than are told one by one"
    if all(isinstance(key, str) for key in (*before, *after)):
        return f"the order of its keys differs: {_keys(before)} before, {_keys(after)} after"
    return "keys that occur more than once differ"


def _binary(op: Op) -> str:
    if isinstance(op.before, dict) and isinstance(op.after, dict):
        return f"not text, so compared by hash: {_bytes(op.before)} before, {_bytes(op.after)} after"
    return "not text"


def _bytes(described: dict[str, Json]) -> str:
    count, digest = described.get("bytes"), described.get("sha256")
    size = count.text if isinstance(count, Number) else "?"
    return f"{size} bytes, SHA-256 {str(digest)[:16]}…"


def _keys(keys: list[Json]) -> str:
    names = [str(key)[:40] for key in keys[:_MAX_KEYS]]
    return listed(names) if len(keys) <= _MAX_KEYS else ", ".join(names) + f" and {len(keys) - _MAX_KEYS} more"


def _normal_forms(before: Json, after: Json) -> str:
    forms = [_normal_form(value) for value in (before, after)]
    return f"the same text in another Unicode normal form: {forms[0]} before, {forms[1]} after"


def _normal_form(value: Json) -> str:
    text = value if isinstance(value, str) else ""
    names = [form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, text)]
    return " and ".join(names) or "neither NFC nor NFD"
