"""One operation, made of the values that it is about."""

from __future__ import annotations

from dataclasses import replace

from luthien.debug.ops import Flag, Kind, Op, kind_of
from luthien.debug.values import Json, Number, canonical, has_inexact_number, is_same, is_same_number
from luthien.debug.words import Budget, Segments, diff_words, spelling

_TEXT_TYPES = ("text", "input_text", "output_text")


def added(ptr: str, value: Json, *, degraded: bool = False) -> Op:
    """The operation that adds a value, its id still to be given."""
    text: Segments = (("+", canonical(value)),) if has_inexact_number(value) else ()
    return Op("", "add", kind_of(value), None, ptr, None, value, text, degraded=degraded)


def removed(ptr: str, value: Json, *, degraded: bool = False) -> Op:
    """The operation that removes a value, its id still to be given."""
    text: Segments = (("-", canonical(value)),) if has_inexact_number(value) else ()
    return Op("", "remove", kind_of(value), ptr, None, value, None, text, degraded=degraded)


def moved(before_ptr: str, after_ptr: str, before: Json, after: Json, *, degraded: bool = False) -> Op:
    """The operation that moves an element within its list, whatever else changes in it; its id still to be given."""
    kind: Kind = kind_of(before) if kind_of(before) == kind_of(after) else "type"
    text: Segments = ()
    if has_inexact_number(before) or has_inexact_number(after):
        same = is_same(before, after)
        text = (("=", canonical(before)),) if same else (("-", canonical(before)), ("+", canonical(after)))
    return Op("", "move", kind, before_ptr, after_ptr, before, after, text, degraded=degraded)


def changed(before_ptr: str, after_ptr: str, before: Json, after: Json, budget: Budget) -> Op:
    """The operation that puts one value in the place of another, whole; its id still to be given."""
    kind: Kind = kind_of(before) if kind_of(before) == kind_of(after) else "type"
    op = Op("", "change", kind, before_ptr, after_ptr, before, after, degraded=kind in ("object", "array"))
    if isinstance(before, str) and isinstance(after, str):
        text, degraded = diff_words(before, after, budget)
        return replace(op, text=text, degraded=degraded, flags=spelling(before, after, budget))
    old, new = _only_text(before), _only_text(after)
    if old is not None and new is not None and kind == "type":
        return _in_parts(op, old, new, budget)
    if isinstance(before, Number) and isinstance(after, Number) and is_same_number(before, after):
        op = replace(op, kind="encoding")
    if any(isinstance(value, Number) or has_inexact_number(value) for value in (before, after)):
        op = replace(op, text=(("-", canonical(before)), ("+", canonical(after))))
    return op


def _in_parts(op: Op, before: str, after: str, budget: Budget) -> Op:
    """Text that became a list of one part, or the other way: what counts is the text."""
    if before == after:
        return replace(op, flags=("encoding_only",))
    text, degraded = diff_words(before, after, budget)
    flags: tuple[Flag, ...] = spelling(before, after, budget)
    return replace(op, text=text, degraded=degraded, flags=flags)


def _only_text(value: Json) -> str | None:
    """The text that a string is, or a list of one part that has nothing but text."""
    match value:
        case str():
            return value
        case [{"type": str(name), "text": str(text), **others}] if name in _TEXT_TYPES and not any(others.values()):
            return text
        case _:
            return None
