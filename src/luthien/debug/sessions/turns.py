"""How the calls of a session follow from each other: what each adds to a request before it, and which they are.

A client sends its whole history with each call. Two calls belong to one thread when the later one's history goes on
from that of the earlier: an agent that works on several things at once has several threads in one session. Pure, and
bounded: what would take too long to align counts as rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from luthien.debug.sessions.histories import OPENING_CHARS, History, Item, squeezed

MAX_ALIGNED = 250_000
"""Histories whose differing middles have more pairs of items than this share none of them, as far as is told."""

_PROBES, _PROBE_CHARS = 3, 60

How: TypeAlias = Literal["first", "same", "continued", "went_back", "rewritten", "summed_up", "began_anew"]
"""How a call follows from the one before it in its thread.

- `first`: there is none. `began_anew`: none either, though an earlier one has the same instructions.
- `same`: the same history again. `continued`: something was added at its end, and all else stayed.
- `went_back`: the end was dropped, and perhaps another one added. `rewritten`: it differs elsewhere, too.
- `summed_up`: nothing is left of it but an answer that the new one begins with.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """What leads from one history to the next: indices of items in the one before, and in this one.

    Without those that were dropped and added, both are the same, in the same order.
    """

    dropped: tuple[int, ...]
    added: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """A call's place in its session. `follows` is the place, in the order in which they were placed, of the call that
    it goes on from, and `thread` counts from 0. `step` is None where there is nothing to compare with."""

    how: How
    thread: int
    follows: int | None = None
    step: Step | None = None
    is_branch: bool = False
    """Whether another call had gone on from there already, so that a thread begins."""
    settings: tuple[str, ...] = ()
    """The other fields of the request that differ from those of the call before."""


def step_between(before: Sequence[Item], after: Sequence[Item]) -> Step:
    """The fewest items dropped and added, but where the two are too long and too different to find that."""
    start = 0
    while start < min(len(before), len(after)) and before[start].key == after[start].key:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end].key == after[-1 - end].key:
        end += 1
    olds, news = before[start : len(before) - end], after[start : len(after) - end]
    kept = _common(olds, news) if len(olds) * len(news) <= MAX_ALIGNED else []
    left, right = {start + old for old, _ in kept}, {start + new for _, new in kept}
    return Step(
        tuple(at for at in range(start, start + len(olds)) if at not in left),
        tuple(at for at in range(start, start + len(news)) if at not in right),
    )


def how_of(step: Step, before: int, after: int) -> How:
    """What a step between histories of so many items amounts to."""
    if not step.dropped and not step.added:
        return "same"
    kept = before - len(step.dropped)
    is_kept_first = not step.dropped or step.dropped[0] == kept
    if is_kept_first and (not step.added or step.added[0] == after - len(step.added)):
        return "went_back" if step.dropped else "continued"
    return "rewritten"


class Threads:
    """Places calls in threads, one after the other in order of time."""

    def __init__(self) -> None:
        self._placed: list[_Placed | None] = []
        self._last: dict[int, int] = {}
        """The place of each thread's last call."""

    def place(self, history: History | None, answer: str = "") -> Turn | None:
        """The turn of the next call; None when it has no history, which takes a place all the same.

        Args:
            answer: the text that it was answered with.
        """
        if history is None:
            self._placed.append(None)
            return None
        turn = self._turn(history)
        self._last[turn.thread] = len(self._placed)
        self._placed.append(_Placed(history, {item.key for item in history.items}, turn.thread, _probes(answer)))
        return turn

    def _turn(self, history: History) -> Turn:
        place, step = self._before(history)
        if place is not None and (known := self._placed[place]) is not None:
            is_branch = self._last[known.thread] != place
            how = how_of(step, len(known.history.items), len(history.items)) if step else "summed_up"
            settings = _differing(known.history.settings, history.settings)
            return Turn(how, len(self._last) if is_branch else known.thread, place, step, is_branch, settings)
        similar = self._under(history.instructions)
        return Turn("first" if similar is None else "began_anew", len(self._last), similar)

    def _before(self, history: History) -> tuple[int | None, Step | None]:
        """The call that this one goes on from, and how; no step when only its answer is left."""
        keys = {item.key for item in history.items}
        shared = [(len(keys & known.keys), place, known) for place, known in self._all()]
        best: tuple[tuple[int, int, bool, int], Step] | None = None
        for bound, place, known in sorted(shared, key=lambda each: each[:2], reverse=True):
            # Of repeated items a history may keep more than it has keys.
            if bound == 0 or (best and bound + len(history.items) - len(keys) < best[0][0]):
                break
            step = step_between(known.history.items, history.items)
            if not _goes_on(known.history, history, step):
                continue
            is_alike = known.history.instructions == history.instructions
            rank = (len(history.items) - len(step.added), -len(step.dropped), is_alike, place)
            if best is None or rank > best[0]:
                best = rank, step
        return (best[0][3], best[1]) if best else (self._summed_up_by(history), None)

    def _summed_up_by(self, history: History) -> int | None:
        found = (place for place, known in self._all() if _is_probed(known.probes, history.opening))
        return max(found, default=None)

    def _under(self, instructions: tuple[bytes | None, ...]) -> int | None:
        found = (place for place, known in self._all() if instructions and known.history.instructions == instructions)
        return max(found, default=None)

    def _all(self) -> Iterator[tuple[int, _Placed]]:
        return ((place, known) for place, known in enumerate(self._placed) if known is not None)


@dataclass(frozen=True, slots=True)
class _Placed:
    history: History
    keys: set[bytes]
    thread: int
    probes: tuple[str, ...]


def _goes_on(before: History, after: History, step: Step) -> bool:
    """Whether what two histories share is more than chance, or what every conversation begins with."""
    gone = frozenset(step.dropped)
    kept = [item for at, item in enumerate(before.items) if at not in gone and not item.is_instruction]
    if kept and _beginning(before) == _beginning(after):
        return True
    is_alike = before.instructions and before.instructions == after.instructions
    return sum(item.is_telling for item in kept) >= (1 if is_alike else 2)


def _beginning(history: History) -> bytes | None:
    return next((item.key for item in history.items if not item.is_instruction), None)


def _common(before: Sequence[Item], after: Sequence[Item]) -> list[tuple[int, int]]:
    """The pairs of a longest common subsequence."""
    lengths = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for old in reversed(range(len(before))):
        row, below, key = lengths[old], lengths[old + 1], before[old].key
        for new in reversed(range(len(after))):
            row[new] = below[new + 1] + 1 if key == after[new].key else max(below[new], row[new + 1])
    pairs, old, new = [], 0, 0
    while old < len(before) and new < len(after):
        if before[old].key == after[new].key:
            pairs.append((old, new))
            old, new = old + 1, new + 1
        elif lengths[old + 1][new] >= lengths[old][new + 1]:
            old += 1
        else:
            new += 1
    return pairs


def _differing(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[str, ...]:
    names = dict.fromkeys((*before, *after))
    return tuple(name for name in names if before.get(name) != after.get(name))


def _probes(answer: str) -> tuple[str, ...]:
    """Samples of an answer; none of one too short to be known again."""
    text = squeezed(answer[:OPENING_CHARS])
    if len(text) < (_PROBES + 1) * _PROBE_CHARS:
        return ()
    places = [len(text) * number // (_PROBES + 1) for number in range(1, _PROBES + 1)]
    return tuple(text[place : place + _PROBE_CHARS] for place in places)


def _is_probed(probes: Sequence[str], opening: str) -> bool:
    """Whether most samples of an answer stand in a text."""
    return bool(probes) and sum(probe in opening for probe in probes) * 2 > len(probes)
