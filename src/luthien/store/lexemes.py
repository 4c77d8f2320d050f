"""What a text is made of for a search, the same for what is indexed and for what is asked. Pure.

Words are runs of letters, digits and underscores, without regard to case, in one Unicode normal form; what stands
between underscores is a word, too. Scripts that are written without spaces are cut into single characters and pairs.
A long word counts by its beginning.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_WORD_CHARS = 64
MAX_ASKED = 64
"""How many words may be searched for at once; in scripts without spaces, nearly as many characters."""

# Marks belong to their letters. What \w has not: combining marks, and vowel signs of the scripts of India.
_WORD = re.compile(
    r"[\w\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    r"\u0900-\u0963\u0966-\u0dff\u0e00-\u0e4e]+"
)
# The same of a text in ASCII: what is between its words becomes spaces.
_ASCII_GAPS = {code: " " for code in range(128) if not _WORD.match(chr(code))}
_DENSE = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def words_of(text: str) -> Iterator[str]:
    """The words of a text, in the order in which they first occur; some more than once."""
    for run in dict.fromkeys(_runs(text)):
        if run.isascii() and "_" not in run:
            yield run[:MAX_WORD_CHARS]
        else:
            yield from _indexed(run)


def asked_words(text: str) -> list[str]:
    """The words that a document must have to hold this text; none if there is nothing to search for."""
    return list(dict.fromkeys(word for run in _runs(text) for word in _asked(run)))


def plain(text: str) -> str:
    """What Postgres can hold and compare: NFC, no NUL, no lone surrogate."""
    return unicodedata.normalize("NFC", text.replace("\0", "\ufffd").encode("utf-8", "replace").decode())


def _runs(text: str) -> list[str]:
    # Case first: it may undo the normal form.
    normal = plain(text.casefold())
    if normal.isascii():
        return normal.translate(_ASCII_GAPS).split()
    found: list[str] = _WORD.findall(normal)
    return found


def _indexed(run: str) -> Iterator[str]:
    if run.isascii():
        yield run[:MAX_WORD_CHARS]
        if "_" in run:
            yield from (part[:MAX_WORD_CHARS] for part in run.split("_") if part)
        return
    for piece, is_dense in _pieces(run):
        if is_dense:
            yield from piece
            yield from _pairs(piece)
        else:
            yield piece[:MAX_WORD_CHARS]
            if "_" in piece:
                yield from (part[:MAX_WORD_CHARS] for part in piece.split("_") if part)


def _asked(run: str) -> Iterator[str]:
    for piece, is_dense in _pieces(run):
        if is_dense and len(piece) > 1:
            yield from _pairs(piece)
        elif piece.strip("_"):
            yield piece[:MAX_WORD_CHARS]


def _pieces(run: str) -> Iterator[tuple[str, bool]]:
    """A run cut where its script becomes one without spaces, or ceases to be."""
    end = 0
    for match in _DENSE.finditer(run):
        if match.start() > end:
            yield run[end : match.start()], False
        yield match[0], True
        end = match.end()
    if end < len(run):
        yield run[end:], False


def _pairs(piece: str) -> Iterator[str]:
    return (piece[at : at + 2] for at in range(len(piece) - 1))
