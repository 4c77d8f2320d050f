"""Elements of two lists that have most of their words in common."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from luthien.debug.diffing.identity import sort_of
from luthien.debug.diffing.values import Json
from luthien.debug.diffing.words import CHARS_PER_STEP, UNSPACED

IN_PLACE = 0.3
"""What part of their words two elements have in common at least if they stand between the same neighbours."""
ANYWHERE = 0.6
"""The same for elements that also moved."""
MIN_WORDS = 4
"""How many words an element has at least that is looked for anywhere."""
MAX_CHARS = 2048
"""How much of an element's text is looked at."""
MIN_CHARS = 64
"""Less than this of each element is not worth a look."""
CHARS_PER_NODE = 8
"""A value within an element counts as much as so many characters."""
ALL_WITH_ALL = 256
"""Up to so many pairs are all compared; beyond, those that share a word which few have."""

_RARE_WORDS = 24
_MAX_BEARERS = 12
_BEST = 4
_WORD = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\W{UNSPACED}]+")
_NAMES = frozenset(("role", "type", "id"))


class Element(NamedTuple):
    """An element without a partner. `gap` is the same for elements between the same neighbours."""

    place: int
    value: Json
    gap: int


class _Likeness(NamedTuple):
    """Sorts with the most alike first, then the nearest. `words` is how many the shorter one has."""

    minus_score: float
    distance: int
    before: int
    after: int
    words: int
    is_in_place: bool


class Similar:
    """Finds partners among elements without one, in at most so many steps; `steps` is what is left of them."""

    def __init__(self, before: Sequence[Element], after: Sequence[Element], steps: int) -> None:
        self.steps = steps
        chars = min(MAX_CHARS, max(0, steps) * CHARS_PER_STEP // (2 * (len(before) + len(after))))
        self.is_cut_short = chars < MIN_CHARS
        self._before, self._after = (before, after) if not self.is_cut_short else ((), ())
        self._words = [{each.place: self._words_of(each.value, chars) for each in side} for side in (before, after)]

    def pairs(self) -> dict[int, int]:
        """An index after for each index before that has a partner."""
        found = list(self._likenesses())
        self.steps -= len(found) * len(found).bit_length()
        paired = dict(_chain([each for each in found if each.is_in_place]))
        taken = set(paired.values())
        for each in sorted(found):
            is_like = -each.minus_score >= ANYWHERE and each.words >= MIN_WORDS
            if is_like and each.before not in paired and each.after not in taken:
                paired[each.before] = each.after
                taken.add(each.after)
        return paired

    def _likenesses(self) -> Iterator[_Likeness]:
        gaps, candidates_of = {each.place: each.gap for each in self._after}, self._candidates()
        for i, value, gap in self._before:
            for j in candidates_of(i, value):
                words, others = self._words[0][i], self._words[1][j]
                fewer = min(len(words), len(others))
                self.steps -= 2 + fewer // 4
                score = 2 * len(words & others) / (len(words) + len(others)) if fewer else 0.0
                if score >= (IN_PLACE if gap == gaps[j] else ANYWHERE):
                    yield _Likeness(-score, abs(i - j), i, j, fewer, gap == gaps[j])
            if self.steps < 0:
                self.is_cut_short = True
                return

    def _candidates(self) -> Callable[[int, Json], Iterable[int]]:
        """Tells which elements after may be like one before: those of its sort, if many only those that share
        words with it that few have.
        """
        if len(self._before) * len(self._after) <= ALL_WITH_ALL:
            by_sort = defaultdict[Hashable, list[int]](list)
            for each in self._after:
                by_sort[sort_of(each.value)].append(each.place)
            return lambda _, value: by_sort.get(sort_of(value), ())
        bearers = defaultdict[tuple[Hashable, str], list[int]](list)
        for each in self._after:
            for word in sorted(self._words[1][each.place]):
                bearers[sort_of(each.value), word].append(each.place)

        def most_shared(i: int, value: Json) -> Iterable[int]:
            sort = sort_of(value)
            shared = [found for word in self._words[0][i] if (found := bearers.get((sort, word)))]
            rare = sorted(
                (found for found in shared if len(found) <= _MAX_BEARERS), key=lambda found: (len(found), found)
            )
            votes = Counter(j for found in rare[:_RARE_WORDS] for j in found)
            self.steps -= len(self._words[0][i]) + sum(votes.values())
            return nsmallest(_BEST, votes, key=lambda j: (-votes[j], abs(i - j), j))

        return most_shared

    def _words_of(self, value: Json, chars: int) -> frozenset[str]:
        """Words of the strings within a value, up to so many characters of them."""
        words, todo, left = set[str](), [value], chars
        while todo and left > 0:
            item = todo.pop()
            left -= CHARS_PER_NODE
            if isinstance(item, str):
                text = item[: max(0, left)]
                words.update(_WORD.findall(text.lower()))
                left -= len(text)
            elif isinstance(item, dict):
                todo += [each for key, each in islice(item.items(), max(0, left)) if key not in _NAMES][::-1]
            elif isinstance(item, list):
                todo += item[: max(0, left)][::-1]
        self.steps -= (chars - left) // CHARS_PER_STEP
        return frozenset(words)


def _chain(found: list[_Likeness]) -> list[tuple[int, int]]:
    """Pairs that do not cross and are, all together, the most alike."""
    columns = sorted({each.after for each in found})
    rank = {j: place for place, j in enumerate(columns, 1)}
    best: list[tuple[float, int]] = [(0.0, -1)] * (len(columns) + 1)
    ordered = sorted(found, key=lambda each: (each.before, -each.after))
    earlier = list[int]()
    for number, each in enumerate(ordered):
        weight, previous = max((best[place] for place in _below(rank[each.after] - 1)), key=itemgetter(0))
        earlier.append(previous)
        weight -= each.minus_score
        place = rank[each.after]
        while place <= len(columns):
            if weight > best[place][0]:
                best[place] = (weight, number)
            place += place & -place
    number = max((best[place] for place in _below(len(columns))), key=itemgetter(0))[1]
    pairs = list[tuple[int, int]]()
    while number >= 0:
        pairs.append((ordered[number].before, ordered[number].after))
        number = earlier[number]
    return pairs[::-1]


def _below(place: int) -> Iterator[int]:
    """The nodes of a Fenwick tree that together hold all places up to one."""
    while place:
        yield place
        place -= place & -place
    yield 0
