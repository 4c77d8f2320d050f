"""The comparison of two parsed JSON documents: which operations lead from one to the other.

Objects go through dictdiffer, and its notions of equality and depth are kept out of it: it sees keys, and of the
values those that differ, as opaque leaves. Lists are paired by a `Pairing` first; each pair is then compared on its
own, so the two pointers of an operation may well differ in their indices. Two strings that are JSON are compared as
such besides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import dictdiffer

from luthien.debug.align import Alignment, Pairing, crossing, out_of_order
from luthien.debug.diffing.changes import added, changed, moved, removed
from luthien.debug.diffing.identity import Identities
from luthien.debug.diffing.keys import Tree, may_be_told_apart, told_apart_by_keys
from luthien.debug.diffing.ops import MAX_DEPTH, Flag, Op
from luthien.debug.diffing.values import Json, Numbers, count_marks, parse, pointer
from luthien.debug.diffing.veil import veiled
from luthien.debug.diffing.words import Budget

MAX_OPS = 10_000
"""A part of a document that would bring a diff above this is reported as changed whole."""
MAX_ENCODING_OPS = 100
"""Objects whose keys came in another order, beyond these, share one operation."""
MAX_INSIDE = 4
"""How deep JSON within strings within JSON is looked into."""
MAX_STRINGS_INSIDE = 2_000
"""How many changed strings of one diff are looked into."""

MAX_MOVES = 3
"""Within so many elements that moved and changed, one that did is removed and added: each would tell it all again."""

_CONTAINER = re.compile(r"\s*[\[{]")


@dataclass(slots=True)
class Work:
    """What all comparisons of one diff share. `values` and `strings` of JSON in strings may still be looked into."""

    pairing: Pairing
    identities: Identities
    numbers: Numbers
    values: int
    words: Budget = field(default_factory=Budget)
    strings: int = MAX_STRINGS_INSIDE
    ops_inside: int = 0


def compare(before: Json, after: Json, work: Work) -> tuple[tuple[Op, ...], bool]:
    """The operations, named r1, r2, and so on; and whether a budget made them coarser than they could be."""
    ops, is_coarse = _compare(before, after, work, 0)
    return _named(ops, "r"), is_coarse


def _compare(before: Json, after: Json, work: Work, level: int) -> tuple[tuple[Op, ...], bool]:
    comparison = _Comparison(work, level)
    comparison.run(_Pair("", "", before, after, 0))
    ops = (*comparison.changes, *reversed(comparison.removes), *comparison.moves, *comparison.adds)
    return ops, comparison.is_coarse or any(op.degraded for op in ops)


def _named(ops: tuple[Op, ...], name: str) -> tuple[Op, ...]:
    return tuple(
        replace(op, id=f"{name}{number}", inside=_named(op.inside, f"{name}{number}."))
        for number, op in enumerate(ops, 1)
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A value before and its partner after; `depth` counts the containers they are in, `moves` those that may have
    moved.
    """

    before_ptr: str
    after_ptr: str
    before: Json
    after: Json
    depth: int
    moves: int = 0

    def at(self, *path: str) -> _Pair:
        """The pair at the same keys on both sides."""
        before: Any = self.before
        after: Any = self.after
        for key in path:
            before, after = before[key], after[key]
        ptrs = pointer(self.before_ptr, *path), pointer(self.after_ptr, *path)
        return _Pair(*ptrs, before, after, self.depth + len(path), self.moves)

    def element(self, i: int, j: int, *, crosses: bool) -> _Pair:
        """The pair of one element before and one after."""
        before: Any = self.before
        after: Any = self.after
        ptrs = pointer(self.before_ptr, i), pointer(self.after_ptr, j)
        return _Pair(*ptrs, before[i], after[j], self.depth + 1, self.moves + crosses)


@dataclass(slots=True)
class _Contents:
    """What a look into two containers found: partners that differ, and values without a partner.

    `equal` are pairs whose keys are still to be compared, except within the partners at `differing` paths.
    """

    unequal: list[_Pair] = field(default_factory=list)
    equal: list[_Pair] = field(default_factory=list)
    differing: Tree = field(default_factory=dict)
    removes: list[Op] = field(default_factory=list)
    adds: list[Op] = field(default_factory=list)
    moves: list[Op] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.unequal) + len(self.removes) + len(self.adds) + len(self.moves)


class _Comparison:
    """The operations found so far, and the pairs still to be looked into."""

    def __init__(self, work: Work, level: int) -> None:
        self.changes: list[Op] = []
        self.removes: list[Op] = []
        self.adds: list[Op] = []
        self.moves: list[Op] = []
        self.is_coarse = False
        self._pending: list[_Pair] = []
        self._encoding_ops = 0
        self._work = work
        self._level = level

    def run(self, root: _Pair) -> None:
        if self._work.identities.is_same(root.before, root.after):
            self._compare_keys(root, {})
        else:
            self._pending.append(root)
        while self._pending:
            self._look_into(self._pending.pop())

    @property
    def _found(self) -> int:
        ops = len(self.changes) + len(self.removes) + len(self.adds) + len(self.moves)
        return ops + len(self._pending) + self._work.ops_inside

    def _look_into(self, pair: _Pair) -> None:
        contents = self._contents(pair)
        if contents is None or self._found + contents.count > MAX_OPS:
            self.changes.append(self._changed(pair))
            return
        self.removes += contents.removes
        self.adds += contents.adds
        self.moves += contents.moves
        self._pending += reversed(contents.unequal)
        for same in contents.equal:
            self._compare_keys(same, contents.differing)

    def _changed(self, pair: _Pair) -> Op:
        op = changed(pair.before_ptr, pair.after_ptr, pair.before, pair.after, self._work.words)
        if not isinstance(pair.before, str) or not isinstance(pair.after, str) or self._level >= MAX_INSIDE:
            return op
        return self._with_inside(op, pair.before, pair.after)

    def _with_inside(self, op: Op, before: str, after: str) -> Op:
        """A changed string with what changed in its JSON, if both are some."""
        if _CONTAINER.match(before) is None or _CONTAINER.match(after) is None:
            return op
        self._work.strings -= 1
        old, new = self._read(before), self._read(after)
        if old is None or new is None:
            return replace(op, degraded=True) if self._is_too_much else op
        inside, is_coarse = _compare(old, new, self._work, self._level + 1)
        self._work.ops_inside += len(inside)
        flags: tuple[Flag, ...] = (
            op.flags if any(each.touches_value for each in inside) else ("encoding_only", *op.flags)
        )
        return replace(op, inside=inside, flags=flags, degraded=op.degraded or is_coarse)

    @property
    def _is_too_much(self) -> bool:
        return self._work.values < 0 or self._work.strings < 0

    def _read(self, text: str) -> Json:
        """The value of a string that is JSON; None if it is not, or there is too much of that."""
        if not self._is_too_much:
            self._work.values -= count_marks(text.encode("utf-8", "surrogatepass"), self._work.values)
        if self._is_too_much:
            return None
        try:
            return parse(text, self._work.numbers)
        except (ValueError, RecursionError):
            return None

    def _contents(self, pair: _Pair) -> _Contents | None:
        """None for two values that are not containers of one sort, or lie too deep."""
        if pair.depth < MAX_DEPTH:
            if isinstance(pair.before, dict) and isinstance(pair.after, dict):
                return self._fields(pair, pair.before, pair.after)
            if isinstance(pair.before, list) and isinstance(pair.after, list):
                return self._elements(pair, pair.before, pair.after)
        return None

    def _fields(self, pair: _Pair, before: dict[str, Json], after: dict[str, Json]) -> _Contents:
        contents = _Contents(equal=[pair])
        old, new = veiled(before, after, MAX_DEPTH - pair.depth, self._work.identities.is_same)
        for action, path, detail in dictdiffer.diff(old, new, dot_notation=False):
            if contents.count > MAX_OPS:
                break
            if action == "change":
                contents.unequal.append(pair.at(*path))
                tree = contents.differing
                for step in path:
                    tree = tree.setdefault(step, {})
                continue
            parent = pair.at(*path)
            values: Any = parent.after if action == "add" else parent.before
            for key, _ in islice(detail, MAX_OPS + 1):
                if action == "add":
                    contents.adds.append(added(pointer(parent.after_ptr, key), values[key]))
                else:
                    contents.removes.append(removed(pointer(parent.before_ptr, key), values[key]))
        return contents

    def _elements(self, pair: _Pair, before: list[Json], after: list[Json]) -> _Contents:
        contents = _Contents()
        alignment = self._work.pairing(pair.before_ptr, before, after)
        self.is_coarse, coarse = self.is_coarse or alignment.degraded, alignment.degraded
        strays = out_of_order(alignment.pairs)
        crossed = crossing(alignment.pairs) if strays else set()
        if strays and pair.moves >= MAX_MOVES:
            alignment = self._without_moves(alignment, crossed, before, after)
            strays, coarse = out_of_order(alignment.pairs), True
        for i, j in alignment.pairs:
            if contents.count > MAX_OPS:
                break
            if j is None and i is not None:
                contents.removes.append(removed(pointer(pair.before_ptr, i), before[i], degraded=coarse))
            elif i is None and j is not None:
                contents.adds.append(added(pointer(pair.after_ptr, j), after[j], degraded=coarse))
            elif i is not None and j is not None:
                same = self._work.identities.is_same(before[i], after[j])
                told_apart = not same or may_be_told_apart(before[i], after[j])
                if not told_apart and i not in strays:
                    continue
                element = pair.element(i, j, crosses=i in crossed)
                if i in strays:
                    ptrs = element.before_ptr, element.after_ptr
                    contents.moves.append(moved(*ptrs, element.before, element.after, same=same, degraded=coarse))
                if told_apart:
                    (contents.equal if same else contents.unequal).append(element)
        return contents

    def _without_moves(
        self, alignment: Alignment, crossed: set[int], before: list[Json], after: list[Json]
    ) -> Alignment:
        """Takes the pairs apart that cross others and are not the same."""
        pairs = list[tuple[int | None, int | None]]()
        for i, j in alignment.pairs:
            if i in crossed and j is not None and not self._work.identities.is_same(before[i], after[j]):
                pairs += [(i, None), (None, j)]
            else:
                pairs.append((i, j))
        return Alignment(pairs, degraded=True)

    def _compare_keys(self, pair: _Pair, differing: Tree) -> None:
        """Tells of objects in two values, same but for what lies at `differing` paths, whose keys tell them apart."""
        if self._encoding_ops > MAX_ENCODING_OPS:
            return
        for path, before, after in told_apart_by_keys(pair.before, pair.after, differing):
            self._tell_keys(pointer(pair.before_ptr, *path), pointer(pair.after_ptr, *path), before, after)
            if self._encoding_ops > MAX_ENCODING_OPS:
                return

    def _tell_keys(self, before_ptr: str, after_ptr: str, before: Json, after: Json) -> None:
        self._encoding_ops += 1
        if self._encoding_ops <= MAX_ENCODING_OPS:
            op = Op("", "change", "encoding", before_ptr, after_ptr, before, after)
        else:
            op = Op("", "change", "encoding", "", "", None, None, degraded=True)
        self.changes.append(op)
