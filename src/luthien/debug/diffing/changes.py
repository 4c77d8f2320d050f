"""One operation, made of the values that it is about."""

from __future__ import annotations

from luthien.debug.diffing.ops import Flag, Kind, Op, kind_of
from luthien.debug.diffing.values import Json, Number, canonical, has_inexact_number, is_same_number, pointer
from luthien.debug.diffing.words import Budget, Segments, diff_words, spelling

_TEXT_TYPES = ("text", "input_text", "output_text")
_INPUT = "/input"
_NO_OTHERS: tuple[Json, ...] = ({}, {"type": "message"})


def added(ptr: str, value: Json, *, degraded: bool = False) -> Op:
    """The operation that adds a value, its id still to be given."""
    text: Segments = (("+", canonical(value)),) if has_inexact_number(value) else ()
    return Op("", "add", kind_of(value), None, ptr, None, value, text, degraded=degraded)


def removed(ptr: str, value: Json, *, degraded: bool = False) -> Op:
    """The operation that removes a value, its id still to be given."""
    text: Segments = (("-", canonical(value)),) if has_inexact_number(value) else ()
    return Op("", "remove", kind_of(value), ptr, None, value, None, text, degraded=degraded)


def moved(before_ptr: str, after_ptr: str, before: Json, after: Json, *, same: bool, degraded: bool = False) -> Op:
    """The operation that moves an element within its list, whatever else changes in it; its id still to be given."""
    kind: Kind = kind_of(before) if kind_of(before) == kind_of(after) else "type"
    text: Segments = (("=", canonical(before)),) if same and has_inexact_number(before) else ()
    return Op("", "move", kind, before_ptr, after_ptr, before, after, text, degraded=degraded)


def changed(before_ptr: str, after_ptr: str, before: Json, after: Json, budget: Budget) -> Op:
    """The operation that puts one value in the place of another, whole; its id still to be given."""
    kind: Kind = kind_of(before) if kind_of(before) == kind_of(after) else "type"
    text: Segments = ()
    flags: tuple[Flag, ...] = ()
    degraded = kind in ("object", "array")
    old, new = (before, after) if kind == "text" else (_only_text(before, before_ptr), _only_text(after, after_ptr))
    if isinstance(old, str) and isinstance(new, str) and kind in ("text", "type"):
        if old == new:
            flags = ("encoding_only",)
        else:
            text, degraded = diff_words(old, new, budget)
            flags = spelling(text, budget)
    elif any(isinstance(value, Number) or has_inexact_number(value) for value in (before, after)):
        text = (("-", canonical(before)), ("+", canonical(after)))
    if isinstance(before, Number) and isinstance(after, Number) and is_same_number(before, after):
        kind = "encoding"
    return Op("", "change", kind, before_ptr, after_ptr, before, after, text, degraded=degraded, flags=flags)


def _only_text(value: Json, ptr: str) -> str | None:
    """The text that a string is, or a list of one part that has nothing but text.

    As the input of a response, a string is the one message of a user with that content.
    """
    match value:
        case str():
            return value
        case [{"type": str(name), "text": str(text), **others}] if name in _TEXT_TYPES and not any(others.values()):
            return text
        case [{"role": "user", "content": content, **others}] if ptr == _INPUT and others in _NO_OTHERS:
            return _only_text(content, pointer(ptr, 0, "content"))
        case _:
            return None
