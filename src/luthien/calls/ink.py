"""What may reach a terminal: no control or invisible character, and colour only where it is wanted."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from luthien.debug.showing.invisible import with_invisible

VARIABLES = ("NO_COLOR", "FORCE_COLOR", "TERM")
"""Of the environment: what is asked of colours."""

_STYLES = {"bold": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33", "removed": "9;31", "added": "4;32"}
_FALLBACK = (100, 24)
_MIN_WIDTH = 40


def plain(text: object) -> str:
    """The text without anything that a terminal would act on or not show: such a character stands as <U+001B>."""
    return with_invisible(str(text), _named).replace("\r", _named("\r"))


def one_line(text: object) -> str:
    """The same for a cell or a heading: ends of lines and tabs are named, too."""
    return plain(text).replace("\n", _named("\n")).replace("\t", _named("\t"))


def _named(character: str) -> str:
    return f"<U+{ord(character):04X}>"


def width_of(text: str) -> int:
    """How many columns a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def cut(text: str, width: int) -> str:
    """The text in at most so many columns, with an ellipsis where it was longer."""
    if width_of(text) <= width:
        return text
    taken, used = [], 1
    for each in text:
        used += width_of(each)
        if used > width:
            break
        taken.append(each)
    return "".join(taken) + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Ink:
    """How words are written: with colours or without, and in how many columns."""

    coloured: bool = False
    width: int = _FALLBACK[0]

    def __call__(self, text: str, style: str | None) -> str:
        """The text, which is plain already, in a style."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.coloured and style and text else text


def ink_for(stream: IO[str], environment: Mapping[str, str]) -> Ink:
    """NO_COLOR says no, FORCE_COLOR yes, TERM=dumb no; else it is a question of whether that is a terminal."""
    width = max(_MIN_WIDTH, shutil.get_terminal_size(_FALLBACK).columns)
    if environment.get("NO_COLOR"):
        return Ink(False, width)
    if environment.get("FORCE_COLOR") not in (None, "", "0"):
        return Ink(True, width)
    return Ink(stream.isatty() and environment.get("TERM") != "dumb", width)
