"""What a shown diff is made of: blocks of fields, fields of lines, lines of spans, and folds wherever it is long.

A template turns these into HTML and decides nothing. `text` of a span is what the payload has, exactly; `html` is
how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from markupsafe import Markup

from luthien.debug.diffing.ops import Blame, Op
from luthien.debug.diffing.words import Tag

Mark: TypeAlias = Literal["same", "added", "removed", "changed", "moved"]

SIGNS: dict[Mark, str] = {
    "same": " ",
    "added": "+",
    "removed": "\N{MINUS SIGN}",
    "changed": "~",
    "moved": "\N{UP DOWN ARROW}",
}
"""What stands beside a mark, so that colour never is all there is to see."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line. `by` is the policy step that made it, where several had a part in one string."""

    tag: Tag
    text: str
    html: Markup
    by: Blame | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A piece of a line that is folded: there in `html`, or behind a link, or neither, being too big for any page."""

    tag: Tag
    text: str
    label: str
    anchor: str
    html: Markup | None = None
    link: str | None = None


Cell: TypeAlias = tuple[Span | Gap, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: unified in one cell, side by side in two, of which one may be absent."""

    mark: Mark
    cells: tuple[Cell | None, ...]

    @property
    def sign(self) -> str:
        return SIGNS[self.mark]


@dataclass(frozen=True, slots=True)
class OpNote:
    """One operation, where it is shown: its anchor, its place and what is to be known of it in words."""

    op: Op
    anchor: str
    word: str
    place: str
    notes: tuple[str, ...]
    link: tuple[str, str] | None = None
    """Where else to look, as (address, words)."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A run that is not shown at once. Without items, it is too big for the page, and `link` leads to it."""

    anchor: str
    label: str
    items: tuple[Item, ...] = ()
    link: str | None = None
    is_open: bool = False
    ops: int = 0
    """How many operations lie in it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of the document, or of the JSON in a string; `pointers` are those before and after."""

    label: str
    mark: Mark
    pointers: tuple[str | None, str | None]
    lines: tuple[Line | Fold, ...] = ()
    ops: tuple[OpNote, ...] = ()
    chips: tuple[str, ...] = ()
    is_literal: bool = False
    """Whether it is JSON (a number, null, a structure), not the text of a string."""
    items: tuple[Item, ...] = ()
    """The JSON in a string, opened."""

    @property
    def sign(self) -> str:
        return SIGNS[self.mark]

    @property
    def is_long(self) -> bool:
        """Whether its value stands below its name, not beside it."""
        return len(self.lines) != 1 or bool(self.items)


@dataclass(frozen=True, slots=True)
class Block:
    """A titled part: a message, a tool, a content part, an object."""

    anchor: str
    title: str
    detail: str
    mark: Mark
    pointers: tuple[str | None, str | None]
    items: tuple[Item, ...] = ()
    ops: tuple[OpNote, ...] = ()
    link: tuple[str, str] | None = None
    """Of the place that a part has left: where it went, as (address, words)."""

    @property
    def sign(self) -> str:
        return SIGNS[self.mark]


Item: TypeAlias = "Block | Field | Fold | Line"


@dataclass(frozen=True, slots=True)
class Toggle:
    """A link that shows the diff another way."""

    label: str
    href: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class ShownDiff:
    """A diff, ready for the template. `name` begins every anchor."""

    name: str
    title: str
    layout: str
    labels: tuple[str, str]
    sentences: tuple[str, ...]
    items: tuple[Item, ...] = ()
    toggles: tuple[tuple[Toggle, ...], ...] = ()
    raw: tuple[tuple[str, str], ...] = ()
    """Where the exact bytes are, as (words, address)."""
    places: dict[str, str] = field(default_factory=dict)
    """Where each operation is to be found: "#request-r1", or the address of the page that has it."""
