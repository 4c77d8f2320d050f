"""Who wrote, and who deleted, each part of a text that several steps changed: their word diffs put together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from luthien.debug.diffing.words import Budget, Segments, Tag, diff_words

Piece: TypeAlias = "tuple[Tag, str, int | None]"
"""Text with its fate and the step that decided it: "=" is still as it was, "-" is deleted, "+" is new."""


class Authors:
    """The text as it was in the beginning, with all that became of it. Never modified: each step makes another.

    "=" and "-" together are the text as it was in the beginning, "=" and "+" as it is.
    """

    __slots__ = ("pieces", "text")

    def __init__(self, text: str | None, pieces: tuple[Piece, ...]) -> None:
        self.text = text
        """As it is; None where there is none."""
        self.pieces = pieces

    @classmethod
    def of(cls, text: str | None) -> Authors:
        """The beginning."""
        return cls(text, (("=", text, None),) if text else ())

    def becomes(self, text: str | None, step: int, segments: Segments) -> Authors:
        """After a step, told by its word diff; without one of these two texts, it deleted all and wrote anew."""
        if not segments or (_side(segments, "-"), _side(segments, "+")) != (self.text, text):
            segments = tuple((tag, part) for tag, part in _anew(self.text or "", text or "") if part)
        return Authors(text, tuple(_edited(self.pieces, segments, step)))

    def told(self, budget: Budget) -> tuple[list[Piece], bool]:
        """What differs between the beginning and now, as `diff_words` does, and whether it is coarser than words.

        What one step deleted and another wrote again is "=". Neighbours may have the same tag, but then they have
        different authors.
        """
        told: list[Piece] = []
        degraded = False
        for hunk in _hunks(self.pieces):
            deleted = [piece for piece in hunk if piece[0] == "-"]
            written = [piece for piece in hunk if piece[0] == "+"]
            if deleted and written:
                segments, is_coarse = diff_words(_text(deleted), _text(written), budget)
                degraded = degraded or is_coarse
                told += _signed(segments, deleted, written)
            else:
                told += hunk
        return list(_joined(told)), degraded


def _side(segments: Segments, tag: Tag) -> str:
    """One of the two texts of a word diff."""
    return "".join(text for other, text in segments if other in ("=", tag))


def _anew(before: str, after: str) -> Segments:
    return ("-", before), ("+", after)


def _edited(pieces: Iterable[Piece], segments: Segments, step: int) -> Iterator[Piece]:
    """The pieces after an edit of those that are not deleted yet."""
    todo = _Reader(pieces)
    for tag, text in segments:
        if tag == "+":
            yield "+", text, step
            continue
        for fate, part, author in todo.take(len(text), skip="-"):
            if fate == "-" or tag == "=":
                yield fate, part, author
            elif fate == "=":
                yield "-", part, step
    yield from todo.rest()


class _Reader:
    """Takes text off a row of pieces."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._left: Piece | None = None

    def take(self, chars: int, skip: Tag | None = None) -> Iterator[Piece]:
        """The next pieces of so much text; those with the fate `skip` that are on the way do not count."""
        while chars > 0:
            piece = self._left or next(self._pieces, None)
            self._left = None
            if piece is None:
                return
            fate, text, author = piece
            if fate == skip:
                yield piece
                continue
            if len(text) > chars:
                self._left = (fate, text[chars:], author)
                text = text[:chars]
            chars -= len(text)
            yield fate, text, author

    def rest(self) -> Iterator[Piece]:
        if self._left is not None:
            yield self._left
        yield from self._pieces


def _hunks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Runs of what is still as it was, and of what is not."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (run[-1][0] == "=") != (piece[0] == "="):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _signed(segments: Segments, deleted: list[Piece], written: list[Piece]) -> Iterator[Piece]:
    """A word diff between two rows of pieces, each part with the author that it has there."""
    old, new = _Reader(deleted), _Reader(written)
    for tag, text in segments:
        if tag == "=":
            for _ in (*old.take(len(text)), *new.take(len(text))):
                pass
            yield "=", text, None
        else:
            yield from (old if tag == "-" else new).take(len(text))


def _text(pieces: Iterable[Piece]) -> str:
    return "".join(text for _, text, _ in pieces)


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same with neighbours of one fate and author as one, and within a change the deletions first."""
    for run in _hunks(pieces):
        parts: list[tuple[Tag, int | None, list[str]]] = []
        for fate, text, author in sorted(run, key=lambda piece: piece[0] == "+"):
            if not parts or parts[-1][:2] != (fate, author):
                parts.append((fate, author, []))
            parts[-1][2].append(text)
        yield from ((fate, "".join(texts), author) for fate, author, texts in parts)
