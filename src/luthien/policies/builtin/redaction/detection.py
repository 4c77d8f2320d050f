"""Finding what `patterns` describes, in a whole text or in one that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import regex

from luthien.policies.builtin.redaction.patterns import Compiled, Kind, patterns
from luthien.policies.builtin.substitution import TimeLimit


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: `text` is all of the match, in which the value stands at `value_start:value_end`."""

    kind: Kind
    begin: int
    text: str
    value_start: int
    value_end: int

    def start(self) -> int:
        return self.begin

    def end(self) -> int:
        return self.begin + len(self.text)

    @property
    def value(self) -> str:
        return self.text[self.value_start : self.value_end]

    def replaced(self, value: str) -> str:
        return self.text[: self.value_start] + value + self.text[self.value_end :]


class Detector:
    """The patterns of some kinds. The leftmost finding wins; of those at one place, the kind that is first."""

    def __init__(self, kinds: Iterable[Kind], phone_regions: tuple[str, ...]) -> None:
        self._patterns = patterns(kinds, phone_regions)
        self.lookbehind_chars = max((pattern.lookbehind_chars for pattern in self._patterns), default=0)

    def matches(self, text: str, start: int, end: int, limit: TimeLimit) -> Iterator[Finding]:
        """The findings that begin in `start:end`, from left to right."""
        nearest = [_candidate(pattern, text, start, end, limit) for pattern in self._patterns]
        while any(nearest):
            index, candidate = min(
                ((index, match) for index, match in enumerate(nearest) if match), key=lambda pair: pair[1].start()
            )
            # Checked only now: what lies behind another finding need not be.
            found = _finding(self._patterns[index], candidate)
            if found is None:
                nearest[index] = _candidate(self._patterns[index], text, candidate.start() + 1, end, limit)
                continue
            yield found
            for index, match in enumerate(nearest):
                if match and match.start() < found.end():
                    nearest[index] = _candidate(self._patterns[index], text, found.end(), end, limit)

    def undecided_from(self, text: str, start: int, limit: TimeLimit) -> int:
        """The first position from which a finding could still be made, unmade or lengthened by more text."""
        undecided = len(text)
        for pattern in self._patterns:
            if undecided == start:
                break
            if limit.find(pattern.open_match, text, start, partial=True) is not None:
                return start
            attempt = limit.find(pattern.open_search, text, start, partial=True)
            if attempt is not None:
                undecided = min(undecided, attempt.start())
        return undecided


def _candidate(pattern: Compiled, text: str, start: int, end: int, limit: TimeLimit) -> regex.Match[str] | None:
    if start >= end or text.find(pattern.needle, start) < 0:
        return None
    match = limit.find(pattern.search, text, start)
    return match if match and match.start() < end else None


def _finding(pattern: Compiled, match: regex.Match[str]) -> Finding | None:
    span = pattern.check(match)
    if span is None:
        return None
    begin, (start, end) = match.start(), span
    # What follows the value of a longer match is none of its own.
    return Finding(pattern.kind, begin, match.string[begin:end], start - begin, end - begin)


class Redactor:
    """Replaces findings; asked for in a growing text, as `Substitution` is.

    Args:
        replace: what to put in the place of a value.
    """

    def __init__(self, detector: Detector, replace: Callable[[Kind, str], str]) -> None:
        self._detector = detector
        self._replace = replace
        self.lookbehind_chars = detector.lookbehind_chars
        self.matches = detector.matches
        self.undecided_from = detector.undecided_from

    def replacement(self, found: Finding) -> str:
        return found.replaced(self._replace(found.kind, found.value))

    def apply(self, text: str, limit: TimeLimit) -> str:
        """The whole text with every finding replaced: the very same when there is none."""
        pieces: list[str] = []
        done = 0
        for found in self.matches(text, 0, len(text), limit):
            pieces += (text[done : found.start()], self.replacement(found))
            done = found.end()
        return "".join([*pieces, text[done:]]) if pieces else text
