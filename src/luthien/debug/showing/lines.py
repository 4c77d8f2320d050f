"""Strings written as lines, in one column or in two, long stretches of them folded. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

from markupsafe import Markup

from luthien.debug.diffing.ops import Blame
from luthien.debug.diffing.words import Tag
from luthien.debug.showing.options import DiffOptions
from luthien.debug.showing.room import LINE_CHARS, ONE_FOLD_CHARS, PIECE_CHARS, Room
from luthien.debug.showing.rows import Cell, Fold, Gap, Line, Mark, Span
from luthien.debug.showing.shown import html_chars, visible, visible_with_blanks

CONTEXT_LINES = 3
"""How many unchanged lines stand before and after a change."""
_MAX_CONTEXT_CHARS, _CUT_CHARS, _SNAP_CHARS = 1_000, 400, 40
_MIN_FOLDED_LINES, _MIN_FOLDED_CHARS = 4, 400
_BEGINNING_CHARS, _BEGINNING_LINES = 6_000, 80
"""What is shown at once of a string that is the same, added or removed as a whole."""
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_PIECES = re.compile(r"[^\n]{0,4000}\n|[^\n]{1,4000}")
_SORTS: dict[Tag, str] = {"=": "unchanged", "-": "removed", "+": "added"}
_MARKS: dict[frozenset[Tag], Mark] = {
    frozenset(): "same",
    frozenset({"="}): "same",
    frozenset({"-"}): "removed",
    frozenset({"+"}): "added",
}


class Segment(NamedTuple):
    """A piece of a string, and who made it, where several had a part in it."""

    tag: Tag
    text: str
    by: Blame | None = None


_Part: TypeAlias = Span | Gap | Fold


class Pen:
    """Writes strings, and takes the room that they need."""

    def __init__(self, room: Room, options: DiffOptions) -> None:
        self._room = room
        self._whitespace = options.whitespace
        self._sides = 2 if options.layout == "side" else 1
        self._assemble = {"unified": _unified, "side": _side_by_side, "raw": _line_by_line}[options.layout]

    def lines(self, segments: Sequence[Segment], anchor: str) -> tuple[Line | Fold, ...]:
        """The lines of a string, or of a string and the one in its place. `anchor` begins those of its folds."""
        return tuple(self._assemble(self._parts(segments, anchor)))

    def _parts(self, segments: Sequence[Segment], anchor: str) -> Iterator[_Part]:
        folds = 0
        for number, segment in enumerate(segments):
            if self._room.is_empty and not self._room.leads_to(anchor):
                yield self._rest(segments[number:], anchor)
                return
            is_alone = segment.tag != "=" or len(segments) == 1
            ends = _beginning(segment.text) if is_alone else _context(segment.text, number, len(segments))
            if ends is None:
                yield from self._pieces(segment)
                continue
            head, tail = ends
            yield from self._pieces(segment._replace(text=segment.text[:head]))
            for hidden in _by_lines(segment.text, head, tail):
                folds += 1
                yield from self._hidden(segment._replace(text=hidden), f"{anchor}@{folds}", more=is_alone)
            yield from self._pieces(segment._replace(text=segment.text[tail:]))

    def _pieces(self, segment: Segment) -> Iterator[Span]:
        for text in _LINES.findall(segment.text):
            yield self._span(segment.tag, text, segment.by)

    def _span(self, tag: Tag, text: str, by: Blame | None) -> Span:
        html = self._html(tag, text)
        twice = self._sides if tag == "=" else 1
        self._room.take(twice * (len(html) + PIECE_CHARS) + (LINE_CHARS if text.endswith("\n") else 0))
        return Span(tag, text, html, by)

    def _html(self, tag: Tag, text: str) -> Markup:
        """A blank that changed always leaves a mark; the end of a line is the end of its row."""
        if self._whitespace or (tag != "=" and text.isspace()):
            return visible_with_blanks(text, ends=False)
        return visible(text.removesuffix("\n"))

    def _hidden(self, segment: Segment, anchor: str, *, more: bool) -> Iterator[_Part]:
        """Whole lines as a fold, part of a line as a gap in it; short ones as they are."""
        text, room = segment.text, self._room
        lines = text.count("\n") if text.endswith("\n") else 0
        if len(text) < _MIN_FOLDED_CHARS and lines < _MIN_FOLDED_LINES:
            yield from self._pieces(segment)
            return
        what = f"{lines:,} {{}} line{'' if lines == 1 else 's'}" if lines else f"{len(text):,} {{}} characters"
        label = what.format(f"more {_SORTS[segment.tag]}" if more and segment.tag != "=" else _SORTS[segment.tag])
        if room.is_asked_for(anchor):
            room.reach(anchor)
            yield from self._asked(segment, anchor, label)
        elif not lines:
            html, link = None, room.link(anchor)
            if room.has_folded(self.weight(text)):
                with room.in_fold():
                    html, link = self._span(*segment).html, ""
            yield Gap(segment.tag, text, label, anchor, html, link or None)
        elif room.has_folded(self.weight(text) + LINE_CHARS * lines):
            with room.in_fold():
                yield Fold(anchor, label, self._plain(segment))
        else:
            yield Fold(anchor, label, link=room.link(anchor))

    def weight(self, text: str) -> int:
        """About how much room a text takes, counted only so far as to know that it is too much."""
        if len(text) > ONE_FOLD_CHARS:
            return len(text)
        return self._sides * html_chars(text, with_blanks=self._whitespace)

    def _asked(self, segment: Segment, anchor: str, label: str) -> Iterator[_Part]:
        """What a reader asked for, as far as it fits onto one page."""
        lines, cell, taken = list[Line](), list[Span](), 0
        for piece in _PIECES.finditer(segment.text):
            if self._room.is_empty:
                break
            cell.append(self._span(segment.tag, piece[0], segment.by))
            taken = piece.end()
            if piece[0].endswith("\n") or taken == len(segment.text):
                lines.append(self._line(segment.tag, tuple(cell)))
                cell = []
        if cell:
            lines.append(self._line(segment.tag, tuple(cell)))
        items: tuple[Line | Fold, ...] = tuple(lines)
        left = len(segment.text) - taken
        if left:
            items += (Fold(f"{anchor}@more", f"{left:,} more characters, which only the exact bytes show"),)
        yield Fold(anchor, label, items, is_open=True)

    def _plain(self, segment: Segment) -> tuple[Line, ...]:
        tag, text, by = segment
        return tuple(self._line(tag, (self._span(tag, line, by),)) for line in _LINES.findall(text))

    def _line(self, tag: Tag, cell: Cell) -> Line:
        mark = _MARKS[frozenset({tag})]
        if self._sides == 1:
            return Line(mark, (cell,))
        return Line(mark, (None if tag == "+" else cell, None if tag == "-" else cell))

    def _rest(self, segments: Sequence[Segment], anchor: str) -> Fold:
        chars = sum(len(segment.text) for segment in segments)
        return Fold(f"{anchor}@rest", f"{chars:,} more characters of this text", link=self._room.link(anchor))


def _beginning(text: str) -> tuple[int, int] | None:
    """Where a long string is folded: behind its first lines, up to its end."""
    end = _nth_line(text, _BEGINNING_LINES)
    if len(text) <= _BEGINNING_CHARS + _MIN_FOLDED_CHARS and end == len(text):
        return None
    if end > _BEGINNING_CHARS:
        end = text.rfind("\n", 0, _BEGINNING_CHARS) + 1 or _snapped(text, _BEGINNING_CHARS)
    return end, len(text)


def _context(text: str, number: int, count: int) -> tuple[int, int] | None:
    """Where a stretch between changes is folded: all but some lines next to them."""
    head = _nth_line(text, CONTEXT_LINES + 1) if number > 0 else 0
    if head > _MAX_CONTEXT_CHARS:
        head = _snapped(text, _CUT_CHARS)
    tail = _nth_line_from_end(text, CONTEXT_LINES + 1) if number < count - 1 else len(text)
    if len(text) - tail > _MAX_CONTEXT_CHARS:
        tail = len(text) - _CUT_CHARS
    return (head, tail) if tail - head >= min(_MIN_FOLDED_CHARS, _MIN_FOLDED_LINES) else None


def _nth_line(text: str, count: int) -> int:
    """Where the line begins that has so many lines before it; the end of the text, if there is none."""
    position = 0
    for _ in range(count):
        position = text.find("\n", position) + 1
        if position == 0:
            return len(text)
    return position


def _nth_line_from_end(text: str, count: int) -> int:
    position = len(text)
    for _ in range(count):
        position = text.rfind("\n", 0, position)
        if position < 0:
            return 0
    return position + 1


def _snapped(text: str, position: int) -> int:
    """Just behind a space near by, so as not to cut a word."""
    space = text.rfind(" ", max(0, position - _SNAP_CHARS), position)
    return position if space < 0 else space + 1


def _by_lines(text: str, head: int, tail: int) -> Iterator[str]:
    """The end of a line, whole lines, and the beginning of a line: those of them that there are."""
    is_at_start = head == 0 or text[head - 1] == "\n"
    first = head if is_at_start else text.find("\n", head, tail) + 1
    if first == 0:
        yield text[head:tail]
        return
    last = text.rfind("\n", first, tail) + 1 or first
    yield from (part for part in (text[head:first], text[first:last], text[last:tail]) if part)


def _mark_of(cells: Iterable[Cell | None]) -> Mark:
    tags = frozenset(piece.tag for cell in cells for piece in cell or ())
    return _MARKS.get(tags, "changed")


def _unified(parts: Iterable[_Part]) -> Iterator[Line | Fold]:
    line: list[Span | Gap] = []
    for part in parts:
        if isinstance(part, Fold):
            if line:
                yield Line(_mark_of([tuple(line)]), (tuple(line),))
            line = []
            yield part
            continue
        line.append(part)
        if part.text.endswith("\n"):
            yield Line(_mark_of([tuple(line)]), (tuple(line),))
            line = []
    if line:
        yield Line(_mark_of([tuple(line)]), (tuple(line),))


def _side_by_side(parts: Iterable[_Part]) -> Iterator[Line | Fold]:
    """Rows that are level wherever both sides have the same text."""
    sides = _Columns()
    for part in parts:
        if isinstance(part, Fold):
            yield from sides.level()
            yield part
            continue
        if part.tag == "=":
            yield from sides.level(but_last=True)
        sides.put(part)
    yield from sides.level()


def _line_by_line(parts: Iterable[_Part]) -> Iterator[Line | Fold]:
    """What is in two columns in one: the lines that go, then those that come in their place."""
    come: list[Line] = []
    for row in _side_by_side(parts):
        if isinstance(row, Fold) or row.mark == "same":
            yield from come
            come = []
            yield row if isinstance(row, Fold) else Line("same", row.cells[:1])
            continue
        before, after = row.cells
        if before is not None:
            yield Line("removed", (before,))
        if after is not None:
            come.append(Line("added", (after,)))
    yield from come


class _Columns:
    def __init__(self) -> None:
        self._sides: tuple[list[list[Span | Gap]], ...] = ([[]], [[]])

    def put(self, part: Span | Gap) -> None:
        for side, other in zip(self._sides, ("+", "-"), strict=True):
            if part.tag != other:
                side[-1].append(part)
                if part.text.endswith("\n"):
                    side.append([])

    def level(self, *, but_last: bool = False) -> Iterator[Line]:
        """The rows so far; `but_last`: without the last line of each side, which goes on."""
        ends: list[list[list[Span | Gap]]] = [[side.pop()] if but_last else [[]] for side in self._sides]
        rows = zip_longest(*([tuple(line) for line in side if line] for side in self._sides))
        yield from [Line(_mark_in_columns(cells), cells) for cells in rows]
        self._sides = (ends[0], ends[1])


def _mark_in_columns(cells: tuple[Cell | None, ...]) -> Mark:
    before, after = cells
    if before is None or after is None:
        return "added" if before is None else "removed"
    return "same" if _mark_of(cells) == "same" else "changed"
