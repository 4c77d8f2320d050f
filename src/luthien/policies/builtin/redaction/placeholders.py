"""Placeholders that stand for values in one call, and the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import regex

from luthien.policies.builtin.open_pattern import OpenPattern
from luthien.policies.builtin.redaction.patterns import Kind
from luthien.policies.builtin.substitution import TimeLimit

_PLACEHOLDER = rf"\[(?:{'|'.join(Kind)})-[1-9][0-9]{{0,8}}\]"
_FIND = regex.compile(_PLACEHOLDER)
_OPEN = OpenPattern(_PLACEHOLDER).pattern


class Placeholders:
    """Which value each placeholder of a call stands for. One value has one placeholder, wherever it stands."""

    def __init__(self) -> None:
        self._by_value: dict[tuple[Kind, str], str] = {}
        self._values: dict[str, tuple[Kind, str]] = {}
        self._numbers: Counter[Kind] = Counter()
        self._taken: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._values)

    def avoid(self, text: str) -> None:
        """What stands in the request already is not given out: it would come back as somebody's value."""
        self._taken.update(_FIND.findall(text))

    def of(self, kind: Kind, value: str) -> str:
        placeholder = self._by_value.get((kind, value))
        if placeholder is None:
            placeholder = self._by_value[kind, value] = self._next(kind)
            self._values[placeholder] = (kind, value)
        return placeholder

    def _next(self, kind: Kind) -> str:
        while True:
            self._numbers[kind] += 1
            placeholder = f"[{kind}-{self._numbers[kind]}]"
            if placeholder not in self._taken:
                return placeholder

    def value(self, placeholder: str) -> tuple[Kind, str] | None:
        return self._values.get(placeholder)


class Restorer:
    """Puts the values back; asked for in a growing text, as `Substitution` is."""

    lookbehind_chars = 0

    def __init__(self, placeholders: Placeholders, counts: Counter[Kind]) -> None:
        self._placeholders = placeholders
        self._counts = counts

    def matches(self, text: str, start: int, end: int, limit: TimeLimit) -> Iterator[regex.Match[str]]:
        while (match := limit.find(_FIND.search, text, start)) and match.start() < end:
            if self._placeholders.value(match.group()):
                yield match
            start = match.end()

    def replacement(self, match: regex.Match[str]) -> str:
        found = self._placeholders.value(match.group())
        if found is None:
            raise LookupError("a placeholder that was never given out")
        kind, value = found
        self._counts[kind] += 1
        return value

    def undecided_from(self, text: str, start: int, limit: TimeLimit) -> int:
        attempt = limit.find(_OPEN.search, text, start, partial=True)
        return len(text) if attempt is None else int(attempt.start())

    def apply(self, text: str, limit: TimeLimit) -> str:
        pieces: list[str] = []
        done = 0
        for match in self.matches(text, 0, len(text), limit):
            pieces += (text[done : match.start()], self.replacement(match))
            done = match.end()
        return "".join([*pieces, text[done:]]) if pieces else text


def in_words(counts: Iterable[tuple[Kind, int]]) -> str:
    """`2 email, 1 card`: kinds and numbers, and never a value."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts))
