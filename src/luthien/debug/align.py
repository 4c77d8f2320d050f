"""Which elements of two lists belong together, found before anything in them is compared.

Equal elements first: what both lists begin and end with, a longest common subsequence of the rest, and what is
then left over and equal has moved. Then elements that name the same tool call, then similar ones, then those of one
role and type that stand between the same neighbours. All of it is bounded by counting steps, and the same
with both lists the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from luthien.debug.diffing.edits import codes_of, equal_runs, longest_rising
from luthien.debug.diffing.identity import Identities, name_of, sort_of
from luthien.debug.diffing.similar import Element, Similar
from luthien.debug.diffing.values import Json

STEPS_PER_LIST = 200_000
"""What one look for a longest common subsequence may cost."""
STEPS_PER_DIFF = 1_000_000
"""What all lists of one diff may cost together, in steps of about 0.2 microseconds."""
MAX_UNEQUAL = 20_000
"""How many elements of both lists may be left without an equal one for others to be looked for."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Pairs of an index before and an index after, None where there is no partner. Pairs that cross are moves.

    `degraded`: a budget made it coarser than it could be.
    """

    pairs: Sequence[tuple[int | None, int | None]]
    degraded: bool = False


Pairing: TypeAlias = Callable[[str, Sequence[Json], Sequence[Json]], Alignment]
"""Pairs the elements of two lists, given the pointer of the first. Each index of either occurs once."""


def by_position(_ptr: str, before: Sequence[Json], after: Sequence[Json]) -> Alignment:
    """The pairing of the first element with the first, the second with the second, and so on."""
    return Alignment(list(zip_longest(range(len(before)), range(len(after)))))


def out_of_order(pairs: Iterable[tuple[int | None, int | None]]) -> set[int]:
    """The indices before of the pairs that moved: as few as possible, so that all others keep their order."""
    both = sorted((i, j) for i, j in pairs if i is not None and j is not None)
    still = {both[place][0] for place in longest_rising([j for _, j in both])}
    return {i for i, _ in both} - still


def crossing(pairs: Iterable[tuple[int | None, int | None]]) -> set[int]:
    """The indices before of the pairs that moved past another one, or were passed by one."""
    both = sorted((i, j) for i, j in pairs if i is not None and j is not None)
    found, highest, lowest = set[int](), -1, len(both) + max((j for _, j in both), default=0)
    for i, j in both:
        if j < highest:
            found.add(i)
        highest = max(highest, j)
    for i, j in reversed(both):
        if j > lowest:
            found.add(i)
        lowest = min(lowest, j)
    return found


class Aligner:
    """The pairing of one diff, whose lists share a budget."""

    def __init__(self, identities: Identities, steps: int = STEPS_PER_DIFF) -> None:
        self.steps = steps
        self._identities = identities

    def __call__(self, _ptr: str, before: Sequence[Json], after: Sequence[Json]) -> Alignment:
        head = self._common(before, after)
        tail = self._common(before[head:][::-1], after[head:][::-1])
        old, new = before[head : len(before) - tail], after[head : len(after) - tail]
        if not old or not new:
            pairs, degraded = dict[int, int](), False
        elif len(old) == len(new) == 1:
            pairs, degraded = ({0: 0} if self._may_pair(old[0], new[0]) else {}), False
        elif self._is_turned(old, new):
            turned, degraded = self._pair(new, old)
            pairs = {i: j for j, i in turned.items()}
        else:
            pairs, degraded = self._pair(old, new)
        found = [*((i, i) for i in range(head)), *_all_of(pairs, len(old), len(new), head)]
        found += ((len(before) - n, len(after) - n) for n in range(tail, 0, -1))
        return Alignment(found, degraded)

    def _pair(self, old: Sequence[Json], new: Sequence[Json]) -> tuple[dict[int, int], bool]:
        """Partners by index, and whether these are coarser than they could be."""
        pairs, is_coarse = self._equal(old, new)
        if len(old) + len(new) - 2 * len(pairs) > MAX_UNEQUAL:
            return pairs, True
        found = _Found(old, new, pairs)
        found.add_named()
        is_coarse = self._similar(found) or is_coarse
        is_coarse = self._neighbours(found) or is_coarse
        return found.pairs, is_coarse

    def _equal(self, old: Sequence[Json], new: Sequence[Json]) -> tuple[dict[int, int], bool]:
        """Equal elements: a longest common subsequence, then what is left."""
        code = self._identities.code
        before, after = codes_of([code(each) for each in old], [code(each) for each in new])
        is_coarse, pairs = False, dict[int, int]()
        if len(set(before)) < len(before) or len(set(after)) < len(after):
            runs, steps = equal_runs(before, after, max(0, min(self.steps, STEPS_PER_LIST)))
            self.steps -= steps
            is_coarse = runs is None
            pairs = {x + n: y + n for x, y, length in runs or () for n in range(length)}
        return _matched(before, after, pairs), is_coarse

    def _similar(self, found: _Found) -> bool:
        """Pairs that have most words in common; whether that was too much to look for."""
        rows, columns = found.unpaired
        rows = [i for i in rows if isinstance(found.old[i], str | dict | list)]
        columns = [j for j in columns if isinstance(found.new[j], str | dict | list)]
        if not rows or not columns:
            return False
        gaps = found.gaps()
        if len(rows) == len(columns) == 1 and gaps[0][rows[0]] == gaps[1][columns[0]]:
            return False
        similar = Similar(
            [Element(i, found.old[i], gaps[0][i]) for i in rows],
            [Element(j, found.new[j], gaps[1][j]) for j in columns],
            self.steps,
        )
        found.pairs.update(similar.pairs())
        self.steps = similar.steps
        return similar.is_cut_short

    def _neighbours(self, found: _Found) -> bool:
        """Pairs of one sort between the same neighbours; whether those were too many to look at."""
        is_coarse = False
        for rows, columns in found.runs():
            before, after = codes_of([sort_of(found.old[i]) for i in rows], [sort_of(found.new[j]) for j in columns])
            runs, steps = equal_runs(before, after, max(0, min(self.steps, STEPS_PER_LIST)))
            self.steps -= steps
            is_coarse = is_coarse or runs is None
            if runs is None:
                runs = [(n, n, 1) for n in range(min(len(rows), len(columns))) if before[n] == after[n]]
            found.pairs.update((rows[x + n], columns[y + n]) for x, y, length in runs for n in range(length))
        for rows, columns in found.runs():
            if len(rows) == len(columns):
                both = zip(rows, columns, strict=True)
                found.pairs.update((i, j) for i, j in both if self._may_pair(found.old[i], found.new[j]))
        return is_coarse

    def _may_pair(self, old: Json, new: Json) -> bool:
        """Whether one may have become the other where it stood: not if a role or type differs, and more besides."""
        if not isinstance(old, dict) or not isinstance(new, dict):
            return True
        return sort_of(old) == sort_of(new) or self._identities.rest(old) == self._identities.rest(new)

    def _common(self, before: Sequence[Json], after: Sequence[Json]) -> int:
        is_same, length = self._identities.is_same, min(len(before), len(after))
        return next((n for n in range(length) if not is_same(before[n], after[n])), length)

    def _is_turned(self, old: Sequence[Json], new: Sequence[Json]) -> bool:
        """Whether the lists are paired the other way round: it is always the same one that is taken as the first."""
        return len(old) > len(new) or (len(old) == len(new) and self._identities.precedes(new[0], old[0]))


class _Found:
    """The pairs of two lists so far."""

    def __init__(self, old: Sequence[Json], new: Sequence[Json], pairs: dict[int, int]) -> None:
        self.old, self.new, self.pairs = old, new, pairs

    @property
    def unpaired(self) -> tuple[list[int], list[int]]:
        """The indices that have no partner yet, ascending."""
        taken = set(self.pairs.values())
        return (
            [i for i in range(len(self.old)) if i not in self.pairs],
            [j for j in range(len(self.new)) if j not in taken],
        )

    def add_named(self) -> None:
        """Pairs elements that have one name: the first with the first, the second with the second."""
        rows, columns = self.unpaired
        by_name = defaultdict[Hashable, list[int]](list)
        for j in reversed(columns):
            by_name[name_of(self.new[j])].append(j)
        for i in rows:
            name = name_of(self.old[i])
            if name is not None and by_name.get(name):
                self.pairs[i] = by_name[name].pop()

    def gaps(self) -> tuple[list[int], list[int]]:
        """For each index of either list, how many pairs that did not move come before it."""
        strays = out_of_order(self.pairs.items())
        rows = {i for i in self.pairs if i not in strays}
        return _ranks(len(self.old), rows), _ranks(len(self.new), {self.pairs[i] for i in rows})

    def runs(self) -> list[tuple[list[int], list[int]]]:
        """Indices without partners that stand between the same neighbours, where both lists have some."""
        before, after = self.gaps()
        by_gap = defaultdict[int, tuple[list[int], list[int]]](lambda: ([], []))
        rows, columns = self.unpaired
        for i in rows:
            by_gap[before[i]][0].append(i)
        for j in columns:
            by_gap[after[j]][1].append(j)
        return [run for run in by_gap.values() if run[0] and run[1]]


def _ranks(length: int, members: set[int]) -> list[int]:
    ranks, rank = list[int](), 0
    for index in range(length):
        ranks.append(rank)
        rank += index in members
    return ranks


def _matched(before: list[int], after: list[int], pairs: dict[int, int]) -> dict[int, int]:
    """Also pairs the equal elements that a common subsequence left over, the first with the first."""
    taken, left = set(pairs.values()), defaultdict[int, list[int]](list)
    for j in range(len(after) - 1, -1, -1):
        if j not in taken:
            left[after[j]].append(j)
    for i, code in enumerate(before):
        if i not in pairs and left.get(code):
            pairs[i] = left[code].pop()
    return pairs


def _all_of(pairs: dict[int, int], old: int, new: int, offset: int) -> list[tuple[int | None, int | None]]:
    """Every index once: those before in order, then those after that have no partner."""
    partners = [pairs.get(i) for i in range(old)]
    taken = set(pairs.values())
    return [
        *((offset + i, None if j is None else offset + j) for i, j in enumerate(partners)),
        *((None, offset + j) for j in range(new) if j not in taken),
    ]
