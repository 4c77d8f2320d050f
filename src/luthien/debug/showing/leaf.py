"""Single values written as lines: text, numbers, structures, base64, and the JSON in strings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import TypeAlias

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import Json, Repeated, canonical, parse
from luthien.debug.diffing.words import Tag
from luthien.debug.showing.blobs import Blob, blob_in
from luthien.debug.showing.lines import Pen, Segment
from luthien.debug.showing.options import DiffOptions
from luthien.debug.showing.room import BLOCK_CHARS, FIELD_CHARS, ONE_FOLD_CHARS, Room
from luthien.debug.showing.rows import Fold, Line, Mark
from luthien.debug.showing.shown import laid_out, size

_MAX_JSON_CHARS = 200_000
_MAX_INLINE_ITEMS = 20
_BEGINNING_CHARS = 7_000
_MAX_LITERAL_CHARS = 500_000
_TAGS: dict[Mark, Tag] = {"same": "=", "added": "+", "removed": "-", "changed": "=", "moved": "="}
_JSON_CHIP = "JSON in a string"
_LOOKS_LIKE_JSON = frozenset({"", "null", "true", "false"})

Written: TypeAlias = tuple[tuple[Line | Fold, ...], tuple[str, ...], bool]
"""Lines, what to say beside them, and whether they are JSON and not text."""


class Leaves:
    """Writes values that are shown as a whole."""

    def __init__(self, room: Room, options: DiffOptions) -> None:
        self._pen = Pen(room, options)

    def is_leaf(self, value: Json, mark: Mark) -> bool:
        """Whether a value stands on lines of its own: all but containers, and of those the short lists."""
        if isinstance(value, list):
            is_flat = len(value) <= _MAX_INLINE_ITEMS and not any(isinstance(each, (dict, list)) for each in value)
            return not value or (mark != "changed" and is_flat)
        return not isinstance(value, dict) or not value

    def plain(self, value: Json, mark: Mark, anchor: str) -> Written:
        """A value that is the same on both sides, or only on one."""
        tag = _TAGS[mark]
        if not isinstance(value, str):
            return self._pen.lines([Segment(tag, _literal(value))], anchor), (), True
        blob = blob_in(value)
        if blob is not None:
            return self._pen.lines([Segment(tag, _told(blob))], anchor), ("base64, folded",), True
        opened = _opened(value)
        if opened is not None:
            return self._pen.lines([Segment(tag, opened)], anchor), (_JSON_CHIP,), True
        if value in _LOOKS_LIKE_JSON:
            return self._pen.lines([Segment(tag, f'"{value}"')], anchor), (), True
        return self._pen.lines([Segment(tag, value)], anchor), (), False

    def changed(self, op: Op, anchor: str) -> Written:
        """A value in the place of another, or one that came or went as a whole."""
        if op.op != "change":
            value, mark = (op.after, "added") if op.op == "add" else (op.before, "removed")
            return self.plain(value, mark, anchor)  # type: ignore[arg-type]
        if op.kind in ("encoding", "bytes") and not op.touches_value:
            return (), (), True
        if op.kind == "bytes":
            return (), (), True
        if isinstance(op.before, str) and isinstance(op.after, str):
            return self._changed_text(op, op.before, op.after, anchor)
        before, after = (_whole(value) for value in (op.before, op.after))
        return self._replaced(before, after, anchor), (), True

    def _changed_text(self, op: Op, before: str, after: str, anchor: str) -> Written:
        blobs = blob_in(before), blob_in(after)
        if any(blobs):
            told = [_told(blob) if blob else text for blob, text in zip(blobs, (before, after), strict=True)]
            return self._replaced(told[0], told[1], anchor), ("base64, folded",), True
        if not before or not after:
            gone = Segment("-", before or ('""\n' if "\n" in after else '""'))
            return self._pen.lines([gone, Segment("+", after or '""')], anchor), (), False
        authors: Sequence[int | None] = op.authors if len(op.authors) == len(op.text) else [None] * len(op.text)
        segments = [
            Segment(tag, text, None if author is None or author >= len(op.by) else op.by[author])
            for (tag, text), author in zip(op.text, authors, strict=True)
        ]
        return self._pen.lines(segments or [Segment("-", before), Segment("+", after)], anchor), (), False

    def _replaced(self, before: str, after: str, anchor: str) -> tuple[Line | Fold, ...]:
        """One below the other if either has several lines, so that no line is half of each."""
        if "\n" in before or "\n" in after:
            before, after = before + "\n", after + "\n"
        return self._pen.lines([Segment("-", before), Segment("+", after)], anchor)

    def weight(self, values: Iterable[Json]) -> int:
        """About how many characters of HTML some values take, counted only so far as to know that it is too many."""
        chars, todo = 0, list(values)
        while todo and chars <= ONE_FOLD_CHARS:
            value = todo.pop()
            chars += FIELD_CHARS
            if isinstance(value, str):
                chars += self._pen.weight(value[:_BEGINNING_CHARS])
            elif isinstance(value, dict):
                todo += value.values()
            elif isinstance(value, list):
                chars += BLOCK_CHARS * len(value)
                todo += value[:ONE_FOLD_CHARS]
        return chars


def _told(blob: Blob) -> str:
    return f"{blob.kind}, {size(blob.size_bytes)}, SHA-256 {blob.sha256}"


def json_in(value: Json) -> Json:
    """The object or list in a string; None also if opening it would hide something: a key that occurs twice."""
    if not isinstance(value, str) or len(value) > _MAX_JSON_CHARS or value.lstrip()[:1] not in ("{", "["):
        return None
    try:
        found = parse(value)
    except (ValueError, RecursionError):
        return None
    return found if found and not _has_repeats(found) else None


def _has_repeats(value: Json) -> bool:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, Repeated):
            return True
        todo += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return False


def _opened(text: str) -> str | None:
    """The JSON in a string laid out, if it is an object or a list."""
    if len(text) > _MAX_JSON_CHARS or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return laid_out(text)
    except (ValueError, RecursionError):
        return None


def _literal(value: Json) -> str:
    if isinstance(value, list) and value:
        return "[" + ", ".join(_scalar(each) for each in value) + "]"
    return _scalar(value)


def _whole(value: Json) -> str:
    """One side of a changed value, as JSON laid out, keys in their order; what is very long ends in an ellipsis."""
    pieces: list[str] = []
    todo: list[tuple[Json | _Plain, str]] = [(value, "\n")]
    chars = 0
    while todo and chars < _MAX_LITERAL_CHARS:
        item, line = todo.pop()
        if isinstance(item, _Plain):
            pieces.append(item.text)
        elif isinstance(item, (dict, list)) and item:
            is_object, inner = isinstance(item, dict), line + "  "
            pairs = item.pairs if isinstance(item, Repeated) else item.items() if isinstance(item, dict) else None
            entries = [("", each) for each in item] if pairs is None else [(_scalar(k) + ": ", v) for k, v in pairs]
            pieces.append("{" if is_object else "[")
            todo.append((_Plain(line + ("}" if is_object else "]")), line))
            for number, (name, each) in reversed(list(enumerate(entries))):
                todo += ((each, inner), (_Plain(("," if number else "") + inner + name), inner))
        else:
            pieces.append(_scalar(item))
        chars += len(pieces[-1])
    return "".join(pieces) + ("…" if todo else "")


@dataclass(frozen=True, slots=True)
class _Plain:
    text: str


def _scalar(value: Json) -> str:
    return encode_basestring(value) if isinstance(value, str) else canonical(value)
