"""The comparison of two parsed JSON documents: which operations lead from one to the other.

Objects go through dictdiffer, and its notions of equality and depth are kept out of it: it sees keys, and
values as opaque leaves that compare by `values.is_same`. Lists are paired by a `Pairing` first; each pair is
then compared on its own, so the two pointers of an operation may well differ in their indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, TypeAlias

import dictdiffer

from luthien.debug.ops import MAX_DEPTH, Kind, Op
from luthien.debug.values import (
    Json,
    Number,
    Repeated,
    canonical,
    has_inexact_number,
    is_same,
    is_same_number,
    pointer,
    repeats,
)
from luthien.debug.words import Budget, Segments, diff_words

MAX_OPS = 10_000
"""A part of a document that would bring a diff above this is reported as changed whole."""
MAX_ENCODING_OPS = 100
"""Objects whose keys came in another order, beyond these, share one operation."""

Pairing: TypeAlias = Callable[[str, Sequence[Json], Sequence[Json]], Iterable[tuple[int | None, int | None]]]
"""Says which elements of two lists belong together, given the pointer of the first: pairs of an index before
and an index after, None where there is no partner. Indices ascend on both sides."""


def by_position(_ptr: str, before: Sequence[Json], after: Sequence[Json]) -> Iterator[tuple[int | None, int | None]]:
    """The pairing of the first element with the first, the second with the second, and so on."""
    return zip_longest(range(len(before)), range(len(after)))


def compare(before: Json, after: Json, budget: Budget, pairing: Pairing = by_position) -> tuple[Op, ...]:
    """The operations, in the order in which `ops.apply` carries them out, named r1, r2, and so on."""
    comparison = _Comparison(budget, pairing)
    comparison.run(_Pair("", "", before, after, 0))
    ops = (*comparison.changes, *reversed(comparison.removes), *comparison.adds)
    return tuple(replace(op, id=f"r{number}") for number, op in enumerate(ops, 1))


def kind_of(value: Json) -> Kind:
    """The sort of one value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "text"
        case Number():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"


def added(ptr: str, value: Json) -> Op:
    """The operation that adds a value, its id still to be given."""
    text: Segments = (("+", canonical(value)),) if has_inexact_number(value) else ()
    return Op("", "add", kind_of(value), None, ptr, None, value, text)


def removed(ptr: str, value: Json) -> Op:
    """The operation that removes a value, its id still to be given."""
    text: Segments = (("-", canonical(value)),) if has_inexact_number(value) else ()
    return Op("", "remove", kind_of(value), ptr, None, value, None, text)


def changed(before_ptr: str, after_ptr: str, before: Json, after: Json, budget: Budget) -> Op:
    """The operation that puts one value in the place of another, whole; its id still to be given."""
    kind: Kind = kind_of(before) if kind_of(before) == kind_of(after) else "type"
    degraded = kind in ("object", "array")
    text: Segments = ()
    if isinstance(before, str) and isinstance(after, str):
        text, degraded = diff_words(before, after, budget)
    elif any(isinstance(value, Number) or has_inexact_number(value) for value in (before, after)):
        text = (("-", canonical(before)), ("+", canonical(after)))
    if isinstance(before, Number) and isinstance(after, Number) and is_same_number(before, after):
        kind = "encoding"
    return Op("", "change", kind, before_ptr, after_ptr, before, after, text, degraded=degraded)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A value before and its partner after; `depth` counts the containers they are in."""

    before_ptr: str
    after_ptr: str
    before: Json
    after: Json
    depth: int

    def at(self, *path: str) -> _Pair:
        """The pair at the same keys on both sides."""
        before: Any = self.before
        after: Any = self.after
        for key in path:
            before, after = before[key], after[key]
        ptrs = pointer(self.before_ptr, *path), pointer(self.after_ptr, *path)
        return _Pair(*ptrs, before, after, self.depth + len(path))


@dataclass(slots=True)
class _Contents:
    """What a look into two containers found: partners that differ, and values without a partner.

    `equal` are pairs whose keys are still to be compared, except within the partners at `differing` paths.
    """

    unequal: list[_Pair] = field(default_factory=list)
    equal: list[_Pair] = field(default_factory=list)
    differing: set[tuple[str | int, ...]] = field(default_factory=set)
    removes: list[Op] = field(default_factory=list)
    adds: list[Op] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.unequal) + len(self.removes) + len(self.adds)


class _Leaf:
    """A value that dictdiffer can only ask whether it is the same as another."""

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Leaf) and is_same(self.value, other.value))

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, _memo: object) -> _Leaf:
        return self


class _Fields(dict[str, "_Fields | _Leaf"]):
    """An object as dictdiffer sees it; never copied, since its values are looked up in the document."""

    __slots__ = ()

    def __deepcopy__(self, _memo: object) -> _Fields:
        return self


def _veiled(fields: dict[str, Json], levels: int) -> _Fields:
    """An object and the objects directly within it, down to so many levels; all else is leaves."""
    return _Fields(
        (key, _veiled(value, levels - 1) if levels > 1 and isinstance(value, dict) else _Leaf(value))
        for key, value in fields.items()
    )


class _Comparison:
    """The operations found so far, and the pairs still to be looked into."""

    def __init__(self, budget: Budget, pairing: Pairing) -> None:
        self.changes: list[Op] = []
        self.removes: list[Op] = []
        self.adds: list[Op] = []
        self._pending: list[_Pair] = []
        self._encoding_ops = 0
        self._budget = budget
        self._pairing = pairing

    def run(self, root: _Pair) -> None:
        if is_same(root.before, root.after):
            self._compare_keys(root, set())
        else:
            self._pending.append(root)
        while self._pending:
            self._look_into(self._pending.pop())

    def _look_into(self, pair: _Pair) -> None:
        contents = self._contents(pair)
        found = len(self.changes) + len(self.removes) + len(self.adds) + len(self._pending)
        if contents is None or found + contents.count > MAX_OPS:
            whole = changed(pair.before_ptr, pair.after_ptr, pair.before, pair.after, self._budget)
            self.changes.append(whole)
            return
        self.removes += contents.removes
        self.adds += contents.adds
        self._pending += reversed(contents.unequal)
        for same in contents.equal:
            self._compare_keys(same, contents.differing)

    def _contents(self, pair: _Pair) -> _Contents | None:
        """None for two values that are not containers of one sort, or lie too deep."""
        if pair.depth < MAX_DEPTH:
            if isinstance(pair.before, dict) and isinstance(pair.after, dict):
                return self._fields(pair, pair.before, pair.after)
            if isinstance(pair.before, list) and isinstance(pair.after, list):
                return self._elements(pair, pair.before, pair.after)
        return None

    def _fields(self, pair: _Pair, before: dict[str, Json], after: dict[str, Json]) -> _Contents:
        levels = MAX_DEPTH - pair.depth
        contents = _Contents(equal=[pair])
        for action, path, detail in dictdiffer.diff(
            _veiled(before, levels), _veiled(after, levels), dot_notation=False
        ):
            if action == "change":
                contents.unequal.append(pair.at(*path))
                contents.differing.add(tuple(path))
                continue
            parent = pair.at(*path)
            values: Any = parent.after if action == "add" else parent.before
            for key, _ in detail:
                if action == "add":
                    contents.adds.append(added(pointer(parent.after_ptr, key), values[key]))
                else:
                    contents.removes.append(removed(pointer(parent.before_ptr, key), values[key]))
        return contents

    def _elements(self, pair: _Pair, before: list[Json], after: list[Json]) -> _Contents:
        contents = _Contents()
        for i, j in self._pairing(pair.before_ptr, before, after):
            if i is None and j is not None:
                contents.adds.append(added(pointer(pair.after_ptr, j), after[j]))
            elif j is None and i is not None:
                contents.removes.append(removed(pointer(pair.before_ptr, i), before[i]))
            elif i is not None and j is not None:
                same = is_same(before[i], after[j])
                if same and not isinstance(before[i], dict | list):
                    continue
                ptrs = pointer(pair.before_ptr, i), pointer(pair.after_ptr, j)
                element = _Pair(*ptrs, before[i], after[j], pair.depth + 1)
                (contents.equal if same else contents.unequal).append(element)
            if contents.count > MAX_OPS:
                break
        return contents

    def _compare_keys(self, pair: _Pair, differing: set[tuple[str | int, ...]]) -> None:
        """Finds objects in two values, same but for what lies at `differing` paths, whose keys tell them apart."""
        todo: list[tuple[Json, Json, tuple[str | int, ...]]] = [(pair.before, pair.after, ())]
        while todo and self._encoding_ops <= MAX_ENCODING_OPS:
            before, after, path = todo.pop()
            if isinstance(before, dict) and isinstance(after, dict):
                keys = _differing_keys(before, after)
                if keys is not None:
                    self._tell_keys(pointer(pair.before_ptr, *path), pointer(pair.after_ptr, *path), *keys)
                inner: Iterable[tuple[str | int, Json, Json]] = (
                    (key, value, after[key]) for key, value in before.items() if key in after
                )
            elif isinstance(before, list) and isinstance(after, list):
                inner = zip(range(len(before)), before, after, strict=True)
            else:
                continue
            for step, old, new in inner:
                if isinstance(old, dict | list) and (*path, step) not in differing:
                    todo.append((old, new, (*path, step)))

    def _tell_keys(self, before_ptr: str, after_ptr: str, before: Json, after: Json) -> None:
        self._encoding_ops += 1
        if self._encoding_ops <= MAX_ENCODING_OPS:
            op = Op("", "change", "encoding", before_ptr, after_ptr, before, after)
        else:
            op = Op("", "change", "encoding", "", "", None, None, degraded=True)
        self.changes.append(op)


def _differing_keys(before: dict[str, Json], after: dict[str, Json]) -> tuple[Json, Json] | None:
    """What two objects repeat, where that differs, or all their keys, where the common ones are reordered."""
    if list(before) == list(after) and not isinstance(before, Repeated) and not isinstance(after, Repeated):
        return None
    repeated = repeats(before), repeats(after)
    if not is_same(list(repeated[0]), list(repeated[1])):
        return list(repeated[0]), list(repeated[1])
    if [key for key in before if key in after] != [key for key in after if key in before]:
        return list(before), list(after)
    return None
