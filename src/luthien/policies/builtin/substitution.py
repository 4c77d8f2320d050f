"""Replacing text that may not have arrived in full yet.

A stream is cut anywhere, so what looks like no match may become one. The question asked of every prefix is:
from which position on could more text still change the outcome? Everything before it is settled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

# A noncharacter that stands for "the next character, not known yet". The engine's partial matching reports
# where an attempt ran into the end of the text; asking for this one after the pattern makes every attempt
# that can reach the end do so.
_UNKNOWN = "\U0010ffff"
_CONTEXT_CHARS = 256
_ASSERTIONS = frozenset({r"\b", r"\B", r"\Z", r"\z", r"\m", r"\M", "$"})
_TOKEN = regex.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", regex.DOTALL)


def _open(pattern: str) -> str:
    """The pattern as an attempt that succeeds only by running into the end of the text.

    An assertion that fails there might hold once there is more, so each gets the alternative of not knowing.
    """
    tokens = (match.group() for match in _TOKEN.finditer(pattern))
    loosened = "".join(f"(?:{token}|(?={_UNKNOWN}))" if token in _ASSERTIONS else token for token in tokens)
    return f"(?:{loosened}){_UNKNOWN}"


class Substitution:
    """One pattern and what to put in its place.

    Args:
        find: literal text, or a regular expression.
        replace: the replacement; for a regular expression a template (`\\1`, `\\g<name>`).

    Raises:
        ValueError: not a regular expression, or one that matches nothing at all (the empty text).
    """

    def __init__(self, find: str, replace: str, *, is_regex: bool) -> None:
        source = find if is_regex else regex.escape(find)
        try:
            self.pattern = regex.compile(source)
            self.open_pattern = regex.compile(_open(source))
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if self.pattern.fullmatch(""):
            raise ValueError("it matches the empty text, so it would match everywhere")
        self._replace = replace
        self._is_template = is_regex
        if is_regex:
            self._check_template()

    def _check_template(self) -> None:
        try:
            regex.sub(self.pattern.pattern + "|", self._replace, "")
        except (regex.error, IndexError) as error:
            raise ValueError(f"not a replacement for this pattern: {error}") from None

    def replacement(self, match: regex.Match[str]) -> str:
        return match.expand(self._replace) if self._is_template else self._replace

    def matches(self, text: str, start: int, end: int) -> Iterator[regex.Match[str]]:
        """The matches that begin in `start:end`, from left to right; empty ones are none."""
        while match := self.pattern.search(text, start):
            if match.start() >= end:
                return
            if match.end() > match.start():
                yield match
                start = match.end()
            else:
                start = match.end() + 1

    def undecided_from(self, text: str, start: int) -> int:
        """The first position from which a match could still be made, unmade or lengthened by more text."""
        attempt = self.open_pattern.search(text, start, partial=True)
        return len(text) if attempt is None else int(attempt.start())

    def apply(self, text: str) -> tuple[str, int]:
        """The whole text with every match replaced, and how many there were."""
        pieces: list[str] = []
        done = count = 0
        for match in self.matches(text, 0, len(text)):
            pieces += (text[done : match.start()], self.replacement(match))
            done = match.end()
            count += 1
        return "".join([*pieces, text[done:]]), count


@dataclass(frozen=True, slots=True)
class Edit:
    """`start:end` of the whole text so far is to read `text`."""

    start: int
    end: int
    text: str


class GrowingText:
    """A text that arrives in pieces; says which edits are certain, and how far it is settled.

    Positions count characters from the beginning of the whole text. Adding up all edits gives what
    `Substitution.apply` makes of the whole, unless something undecided grows longer than `max_held_chars`:
    then what is there is decided as it stands, so that a hostile stream cannot grow without bound.
    """

    def __init__(self, substitution: Substitution, max_held_chars: int) -> None:
        self._substitution = substitution
        self._max_held_chars = max_held_chars
        self._text = ""
        self._offset = 0
        self._settled = 0
        self._ended = False

    @property
    def settled(self) -> int:
        """Everything before this position is decided."""
        return self._offset + self._settled

    @property
    def length(self) -> int:
        return self._offset + len(self._text)

    def add(self, text: str) -> list[Edit]:
        self._text += text
        edits = self._settle(final=False)
        if len(self._text) - self._settled > self._max_held_chars:
            edits += self._settle(final=True)
        return edits

    def end(self) -> list[Edit]:
        """No more will come."""
        return self._settle(final=True)

    def _settle(self, *, final: bool) -> list[Edit]:
        edits: list[Edit] = []
        text, position = self._text, self._settled
        limit = len(text) if final else self._substitution.undecided_from(text, position)
        while position < limit:
            match = next(self._substitution.matches(text, position, limit), None)
            if match is None:
                position = limit
                break
            replacement = self._substitution.replacement(match)
            edits.append(Edit(self._offset + match.start(), self._offset + match.end(), replacement))
            position = match.end()
            if not final and position > limit:
                limit = self._substitution.undecided_from(text, position)
        self._settled = position
        self._forget()
        return edits

    def _forget(self) -> None:
        """Keeps only what is undecided and a little before it, which assertions may look back at."""
        forget = self._settled - _CONTEXT_CHARS
        if forget > _CONTEXT_CHARS:
            self._text = self._text[forget:]
            self._offset += forget
            self._settled -= forget
