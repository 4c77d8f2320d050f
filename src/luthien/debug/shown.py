"""How values are shown to people: nothing invisible stays invisible, nothing active stays active."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from typing import Any

from markupsafe import Markup

from luthien.debug.values import dumps, parse

_MAX_SHOWN_CHARS = 200_000
_NONE = "\N{EN DASH}"
_SHOWN_SPACES = frozenset("\n\t\r ")
_EMPTY = re.compile(r"\[\s*\]|\{\s*\}")


def visible(text: object) -> Markup:
    """Escaped text in which control, bidirectional and invisible characters stand as their code point."""
    return Markup("").join(
        character if _is_visible(character) else Markup('<span class="chip">U+{:04X}</span>').format(ord(character))
        for character in str(text)
    )


def plain(text: str) -> str:
    """The same where no markup can be: such characters stand as their code point between angle brackets."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if _is_visible(character) else f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{ord(character):04X}"
        "\N{MATHEMATICAL RIGHT ANGLE BRACKET}"
        for character in text
    )


def _is_visible(character: str) -> bool:
    if character < "\x7f":
        return character >= " " or character in _SHOWN_SPACES
    return unicodedata.category(character) not in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}


def pretty(value: Any) -> Markup:
    """A payload, or a value of a diff, laid out for reading; long ones are cut, and say so."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else dumps(value)
    if len(text) <= 2 * _MAX_SHOWN_CHARS:
        with suppress(ValueError, RecursionError):
            text = _indented(text)
    if len(text) <= _MAX_SHOWN_CHARS:
        return visible(text)
    rest = len(text) - _MAX_SHOWN_CHARS
    return visible(text[:_MAX_SHOWN_CHARS]) + Markup('<span class="chip">{} more characters</span>').format(rest)


def _indented(text: str) -> str:
    """JSON with one item a line; an empty list is `[]`. Numbers keep their text, which the parser would not leave."""
    parse(text)
    pieces: list[str] = []
    depth, in_string, escaped, closed = 0, False, False, 0
    for position, character in enumerate(text):
        if position < closed:
            continue
        if in_string:
            pieces.append(character)
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            pieces.append(character)
            in_string = True
        elif character in "[{":
            empty = _EMPTY.match(text, position)
            if empty:
                pieces.append(text[position] + text[empty.end() - 1])
                closed = empty.end()
                continue
            depth += 1
            pieces += (character, "\n", "  " * depth)
        elif character in "]}":
            depth -= 1
            pieces += ("\n", "  " * depth, character)
        elif character == ",":
            pieces += (",\n", "  " * depth)
        elif character == ":":
            pieces.append(": ")
        elif character not in _SHOWN_SPACES:
            pieces.append(character)
    return "".join(pieces)


def size(count: int | None) -> str:
    """Bytes, in the unit that people would use."""
    if count is None:
        return _NONE
    for unit, factor in (("MiB", 1024**2), ("KiB", 1024)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def duration(milliseconds: float | None) -> str:
    """Milliseconds, in the unit that people would use."""
    if milliseconds is None:
        return _NONE
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.1f} ms" if milliseconds >= 1 else f"{milliseconds * 1000:.0f} µs"
