"""Where one value was in each of a row of documents, and what each hop from one to the next did to it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import cast

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.places import Places
from luthien.debug.diffing.values import Json, is_same, tokens

ABSENT = cast("Json", object())
"""Where there is no value; equal to none."""


class OutOfWork(Exception):
    """What may be done to find out who made a diff is done."""


class Work:
    """How many values may still be looked for in a document."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def spend(self, steps: int = 1) -> None:
        """Raises OutOfWork."""
        self.steps -= steps
        if self.steps < 0:
            raise OutOfWork


class Hop:
    """From one document to the next: its operations by where they are, and where all else went."""

    def __init__(self, ops: Sequence[Op], document: Json) -> None:
        self.document = document
        """The one before."""
        self._places = Places(ops, document)
        self._ops_before: dict[str, Op] = {}
        self._adds = defaultdict[str, list[Op]](list)
        self._touched_before = set[str]()
        self._touched_after = set[str]()
        self.rewritten = set[str]()
        """The objects whose keys it only wrote in another order, or not as often; pointers before."""
        for op in ops:
            if not op.touches_value:
                self.rewritten.add(op.before_ptr or "")
                continue
            if op.before_ptr is not None and (op.op != "move" or op.before_ptr not in self._ops_before):
                self._ops_before[op.before_ptr] = op
            if op.op == "add":
                self._adds[_parent(op.after_ptr or "")].append(op)
            _add_parents(self._touched_before, op.before_ptr)
            _add_parents(self._touched_after, op.after_ptr)
        self._moved = {op.before_ptr for op in ops if op.op == "move"}

    def after(self, ptr: str) -> str | None:
        return self._places.after(ptr)

    def before(self, ptr: str) -> str | None:
        return self._places.before(ptr)

    def change_of(self, ptr: str) -> Op | None:
        """The operation that changed the value at this very place of the document before."""
        op = self._ops_before.get(ptr)
        return op if op is not None and op.op == "change" else None

    def has_moved(self, ptr: str) -> bool:
        return ptr in self._moved

    def touches(self, before_ptr: str, after_ptr: str) -> bool:
        """Whether the value is another now, at these two places."""
        return self.change_of(before_ptr) is not None or self.touches_within(before_ptr, after_ptr)

    def touches_within(self, before_ptr: str, after_ptr: str) -> bool:
        """Whether something in the value is."""
        return before_ptr in self._touched_before or after_ptr in self._touched_after

    def end_of(self, ptr: str) -> Op | None:
        """The operation that took a value away: it, or what it was in, was removed or changed whole."""
        while True:
            op = self._ops_before.get(ptr)
            if op is not None and op.op in ("remove", "change"):
                return op
            if not ptr:
                return None
            ptr = _parent(ptr)

    def added_to(self, container: str) -> Sequence[Op]:
        """The operations that put something into an object or a list, which is now there."""
        return self._adds.get(container, ())


@dataclass(frozen=True, slots=True)
class Route:
    """The places of one value in a row of documents, None where it was not there.

    `ended` is the number of the hop that took it away, or brought it, for good; None if it was there all along.
    `breaks` are the hops that took it away for a while, and those that put it back.
    """

    places: list[str | None]
    ended: int | None = None
    breaks: tuple[int, ...] = ()


def route_after(hops: Sequence[Hop], ptr: str, work: Work) -> Route:
    """The way of a value of the first document, as far as it goes. Raises OutOfWork."""
    places: list[str | None] = [ptr]
    breaks: list[int] = []
    at = ptr
    while len(places) <= len(hops):
        number = len(places) - 1
        work.spend()
        next_at = hops[number].after(at)
        if next_at is None:
            back = _way_back(hops, number, at, work)
            if back is None:
                return Route(places, number, tuple(breaks))
            later, next_at = back
            places += [None] * (later - number)
            breaks += (number, later)
        places.append(next_at)
        at = next_at
    return Route(places, None, tuple(breaks))


def _way_back(hops: Sequence[Hop], number: int, ptr: str, work: Work) -> tuple[int, str] | None:
    """The hop that put a value back as it was after hop `number` took it away, and where it is then."""
    end = hops[number].end_of(ptr)
    if end is None or not end.before_ptr:
        return None
    taken, rest = end.before_ptr, ptr[len(end.before_ptr) :]
    home = hops[number].after(_parent(taken))
    place = hops[number].after(taken) if end.op == "change" else None
    key = None if isinstance(value_at(hops[number].document, _parent(taken)), list) else taken.rpartition("/")[2]
    for later in range(number + 1, len(hops)):
        if home is None:
            return None
        work.spend()
        hop = hops[later]
        home, gone_from = hop.after(home), place
        change = None if gone_from is None else hop.change_of(gone_from)
        place = None if place is None else hop.after(place)
        put = [*hop.added_to(home)] if home is not None else []
        for op in put if change is None else [*put, change]:
            work.spend()
            is_there = change is op or key is None or (op.after_ptr or "").rpartition("/")[2] == key
            if is_there and is_same(op.after, end.before):
                return later, f"{op.after_ptr}{rest}"
    return None


def route_before(hops: Sequence[Hop], ptr: str, work: Work) -> Route:
    """The way of a value of the last document back to where it came from. Raises OutOfWork."""
    places: list[str | None] = [ptr]
    at: str | None = ptr
    for number in reversed(range(len(hops))):
        work.spend()
        at = hops[number].before(at) if at is not None else None
        places.append(at)
        if at is None:
            return Route([*repeat(None, number), *places[::-1]], number)
    return Route(places[::-1])


def value_at(document: Json, ptr: str) -> Json:
    """The value at a place; ABSENT if there is none."""
    value = document
    for token in tokens(ptr):
        try:
            value = value[int(token)] if isinstance(value, list) else value[token]  # type: ignore[index]
        except (LookupError, TypeError, ValueError):
            return ABSENT
    return value


def _parent(ptr: str) -> str:
    return ptr.rpartition("/")[0]


def _add_parents(found: set[str], ptr: str | None) -> None:
    while ptr:
        ptr = _parent(ptr)
        if ptr in found:
            return
        found.add(ptr)


def parents(ptr: str) -> Iterable[str]:
    """What a place is in, from the inside out."""
    while ptr:
        ptr = _parent(ptr)
        yield ptr
