"""How values are shown to people: nothing invisible stays invisible, nothing active stays active."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from typing import Any

from markupsafe import Markup, escape

from luthien.debug.diffing.values import dumps, parse
from luthien.debug.showing.invisible import unusual_chars, with_invisible

_MAX_SHOWN_CHARS = 200_000
_CHIP_CHARS, _BLANK_CHARS = 60, 30
_NONE = "\N{EN DASH}"
_BLANKS = re.compile(r"[ \t\r\n\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_LEXEMES = re.compile(r'[\[{]\s*[\]}]|[\[{\]},:]|"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s\[{\]},:"]+', re.DOTALL)


def visible(text: object) -> Markup:
    """Escaped text in which control, bidirectional and invisible characters stand as their code point."""
    # Escaped before anything is put in; what is put in is ours.
    return Markup(with_invisible(str(escape(str(text))), _chip))  # noqa: S704


def visible_with_blanks(text: str, *, ends: bool = True) -> Markup:
    """As `visible`, and every blank leaves a mark, too. Without `ends`, the end of a line is a mark only."""
    pieces, position = list[Markup](), 0
    for match in _BLANKS.finditer(text):
        pieces += (visible(text[position : match.start()]), _blanks(match[0], ends=ends))
        position = match.end()
    return Markup("").join([*pieces, visible(text[position:])])


def html_chars(text: str, *, with_blanks: bool = False) -> int:
    """About how long a text is as HTML, by `visible` or `visible_with_blanks`."""
    blanks = len(_BLANKS.findall(text)) if with_blanks else 0
    return len(escape(text)) + _CHIP_CHARS * unusual_chars(text) + _BLANK_CHARS * blanks


def _chip(character: str) -> str:
    name = escape(unicodedata.name(character, "").lower())
    title = f' title="{name}"' if name else ""
    return f'<span class="chip"{title}>U+{ord(character):04X}</span>'


def plain(text: str) -> str:
    """The same for where no markup can be: such characters stand as their code point between angle brackets."""
    return with_invisible(text, lambda character: f"⟨U+{ord(character):04X}⟩")


def _blanks(run: str, *, ends: bool) -> Markup:
    """A mark for each of a run of blanks; the ends of lines stay ends of lines."""
    marks = {" ": "\N{MIDDLE DOT}", "\t": "\N{RIGHTWARDS ARROW}\t", "\r": "\N{SYMBOL FOR CARRIAGE RETURN}"}
    marks["\n"] = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}" + ("\n" if ends else "")
    plain = "".join(marks.get(character) or f"<{ord(character):04X}>" for character in run)
    return Markup('<span class="blank">{}</span>').format(plain)


def pretty(value: Any) -> Markup:
    """A payload, or a value of a diff, laid out for reading; long ones are cut, and say so."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else dumps(value)
    if len(text) <= 2 * _MAX_SHOWN_CHARS:
        with suppress(ValueError, RecursionError):
            text = laid_out(text)
    if len(text) <= _MAX_SHOWN_CHARS:
        return visible(text)
    rest = len(text) - _MAX_SHOWN_CHARS
    return visible(text[:_MAX_SHOWN_CHARS]) + Markup('<span class="chip">{} more characters</span>').format(rest)


def laid_out(text: str) -> str:
    """JSON with one item a line; an empty list is `[]`. Numbers and strings keep their text.

    Raises ValueError if it is no JSON, RecursionError beyond the parser's depth.
    """
    parse(text)
    pieces: list[str] = []
    line = "\n"
    for lexeme in _LEXEMES.findall(text):
        if lexeme in "[{":
            line += "  "
            pieces += (lexeme, line)
        elif lexeme in "]}":
            line = line[:-2]
            pieces += (line, lexeme)
        elif lexeme == ",":
            pieces += (lexeme, line)
        elif lexeme == ":":
            pieces.append(": ")
        elif lexeme[0] in "[{":
            pieces.append(lexeme[0] + lexeme[-1])
        else:
            pieces.append(lexeme)
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
