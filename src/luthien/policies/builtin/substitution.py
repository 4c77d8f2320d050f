"""Replacing text that may not have arrived in full yet.

A stream is cut anywhere, so what looks like no match may become one. The question asked of every prefix is:
from which position on could more text still change the outcome? Everything before it is settled.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import regex

from luthien.formats import jsontext
from luthien.policies.builtin.open_pattern import OpenPattern

# How much settled text may gather before it is dropped.
_SETTLED_CHARS = 256

# How many times its limit a search may take that other threads interrupt: on the wall's clock.
_MOST_WALL = 20

_Look = Callable[..., "regex.Match[str] | None"]


class MatchTimeout(Exception):
    """Matching took too long: a pattern that backtracks without end must not stop every other call."""


class TimeLimit:
    """How long all matching may take from one `restart` to the next, in each thread it is done in.

    What counts is the thread's own time: a machine that is busy with something else says nothing of a pattern.

    Args:
        limit_s: for a short text, in seconds; for a long one as much again for each million characters.
    """

    def __init__(self, limit_s: float) -> None:
        self._for_short_s = limit_s
        self.restart()

    def restart(self, chars: int = 0) -> None:
        self._limit_s = self._for_short_s * (1 + chars / 1e6)
        self._gives_up_at = time.perf_counter() + _MOST_WALL * self._limit_s
        self._thread: int | None = None
        self._ends_at = 0.0

    def find(self, look: _Look, text: str, start: int, *, partial: bool = False) -> regex.Match[str] | None:
        """What a pattern's `search` or `match` finds from `start` on.

        Raises:
            MatchTimeout: the limit is reached.
        """
        while (left_s := self._left_s()) > 0:
            try:
                return look(text, start, partial=partial, timeout=left_s)
            except TimeoutError:
                # The engine's clock is the process's own time: other threads may have used it up.
                if time.perf_counter() > self._gives_up_at:
                    break
        raise MatchTimeout(f"matching took longer than {self._limit_s:g} s")

    def _left_s(self) -> float:
        if self._thread != (thread := threading.get_ident()):
            self._thread, self._ends_at = thread, time.thread_time() + self._limit_s
        return self._ends_at - time.thread_time()


class Found(Protocol):
    """Where in a text a match stands."""

    def start(self) -> int: ...

    def end(self) -> int: ...


class Replacer(Protocol):
    """What is looked for in a growing text, and what to put in its place; see `Substitution`."""

    @property
    def lookbehind_chars(self) -> int: ...

    def matches(self, text: str, start: int, end: int, limit: TimeLimit) -> Iterator[Any]:
        """Each is a `Found`, and what `replacement` is asked for."""
        ...

    def replacement(self, match: Any) -> str: ...

    def undecided_from(self, text: str, start: int, limit: TimeLimit) -> int: ...


class Substitution:
    """One pattern and what to put in its place.

    Args:
        find: literal text, or a regular expression as far as `OpenPattern` covers them.
        replace: the replacement; for a regular expression a template (`\\1`, `\\g<name>`).

    Raises:
        ValueError: not a regular expression, or one that is not covered or that matches nothing at all (the
            empty text).
    """

    def __init__(self, find: str, replace: str, *, is_regex: bool) -> None:
        source = find if is_regex else regex.escape(find)
        try:
            self._pattern = regex.compile(source)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {_words(error)}") from None
        if self._pattern.fullmatch(""):
            raise ValueError("it matches the empty text, so it would match everywhere")
        self._open = OpenPattern(source)
        self._replace = replace
        self._is_template = is_regex
        if is_regex:
            self._check_template()

    @property
    def lookbehind_chars(self) -> int:
        """How far back of where it begins a match may look."""
        return self._open.lookbehind_chars

    def _check_template(self) -> None:
        try:
            regex.sub(self._pattern.pattern + "|", self._replace, "")
        except (regex.error, IndexError) as error:
            raise ValueError(f"not a replacement for this pattern: {_words(error)}") from None

    def replacement(self, match: regex.Match[str]) -> str:
        return match.expand(self._replace) if self._is_template else self._replace

    def matches(self, text: str, start: int, end: int, limit: TimeLimit) -> Iterator[regex.Match[str]]:
        """The matches that begin in `start:end`, from left to right; empty ones are none."""
        while match := limit.find(self._pattern.search, text, start):
            if match.start() >= end:
                return
            if match.end() > match.start():
                yield match
                start = match.end()
            else:
                start = match.end() + 1

    def undecided_from(self, text: str, start: int, limit: TimeLimit) -> int:
        """The first position from which a match could still be made, unmade or lengthened by more text."""
        # What was undecided before mostly still is. To search is to try every later position first.
        if limit.find(self._open.pattern.match, text, start, partial=True) is not None:
            return start
        attempt = limit.find(self._open.pattern.search, text, start, partial=True)
        return len(text) if attempt is None else int(attempt.start())

    def apply(self, text: str, limit: TimeLimit) -> tuple[str, int]:
        """The whole text with every match replaced, and how many there were."""
        pieces: list[str] = []
        done = count = 0
        for match in self.matches(text, 0, len(text), limit):
            pieces += (text[done : match.start()], self.replacement(match))
            done = match.end()
            count += 1
        return "".join([*pieces, text[done:]]), count


def _words(error: Exception) -> str:
    """What is wrong, in one line."""
    return str(error).partition("\n")[0]


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

    A character that was cut into the halves of a surrogate pair is looked at as one, and counts as two.
    """

    def __init__(self, substitution: Replacer, max_held_chars: int, limit: TimeLimit) -> None:
        self._substitution = substitution
        self._max_held_chars = max_held_chars
        self._limit = limit
        self._text = ""
        self._offset = 0
        self._settled = 0
        self._joined: list[int] = []
        """Where characters stand that came in two halves, counted as one."""

    @property
    def settled(self) -> int:
        """Everything before this position is decided."""
        return self._position(self._settled)

    @property
    def length(self) -> int:
        return self._position(len(self._text))

    def _position(self, place: int) -> int:
        """Where a place in `_text` is in all that came."""
        return self._offset + place + bisect_left(self._joined, self._offset + place)

    def add(self, text: str) -> list[Edit]:
        if _ends_in_half(self._text) and "\udc00" <= text[:1] <= "\udfff":
            self._joined.append(self._offset + len(self._text) - 1)
            self._text, text = self._text[:-1] + jsontext.paired(self._text[-1] + text[0]), text[1:]
        self._text += text
        edits = self._settle(is_final=False)
        if len(self._text) - self._settled > self._max_held_chars:
            edits += self._settle(is_final=True)
        self._forget()
        return edits

    def end(self) -> list[Edit]:
        """No more will come."""
        return self._settle(is_final=True)

    def _settle(self, *, is_final: bool) -> list[Edit]:
        edits: list[Edit] = []
        text, position = self._text, self._settled
        if not is_final and _ends_in_half(text):
            text = text[:-1]
        end = len(text) if is_final else self._undecided_from(text, position)
        while position < end:
            match: Found | None = next(self._substitution.matches(text, position, end, self._limit), None)
            if match is None:
                position = end
                break
            replacement = self._substitution.replacement(match)
            edits.append(Edit(self._position(match.start()), self._position(match.end()), replacement))
            position = match.end()
            if not is_final and position > end:
                end = self._undecided_from(text, position)
        self._settled = position
        return edits

    def _undecided_from(self, text: str, position: int) -> int:
        return self._substitution.undecided_from(text, position, self._limit)

    def _forget(self) -> None:
        """Keeps only what is undecided and a little before it, at which a match may look back."""
        forget = self._settled - self._substitution.lookbehind_chars - 1
        if forget > _SETTLED_CHARS:
            self._text = self._text[forget:]
            self._offset += forget
            self._settled -= forget


def _ends_in_half(text: str) -> bool:
    """Whether the other half of its last character may come."""
    return "\ud800" <= text[-1:] <= "\udbff"
