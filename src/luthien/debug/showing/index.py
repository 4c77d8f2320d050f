"""The operations of a diff by their places, and the entries of two containers side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple, TypeAlias

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import Json, pointer, tokens


class Absent:
    """What a side has where it has nothing; null is something."""


ABSENT: Final = Absent()
Maybe: TypeAlias = "Json | Absent"


class Entry(NamedTuple):
    """What a container has under a key or an index, on each side; `op` puts it there or takes it away.

    Of what moved away only the side before is here; what moved in has both.
    """

    before: str | int | None
    after: str | int | None
    op: Op | None = None


class OpIndex:
    """Finds the operations at a place, and says whether there are any in it."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.adds = {op.after_ptr: op for op in ops if op.op == "add"}
        self.removes = {op.before_ptr: op for op in ops if op.op == "remove"}
        self.arrivals = {op.after_ptr: op for op in ops if op.op == "move"}
        self.departures = {op.before_ptr: op for op in ops if op.op == "move"}
        self._changes: dict[tuple[str | None, str | None], list[Op]] = {}
        for op in ops:
            if op.op == "change":
                self._changes.setdefault((op.before_ptr, op.after_ptr), []).append(op)
        self._before = _prefixes(op.before_ptr for op in ops)
        self._after = _prefixes(op.after_ptr for op in ops)

    def changes(self, before_ptr: str | None, after_ptr: str | None) -> list[Op]:
        return self._changes.get((before_ptr, after_ptr), [])

    def touches(self, before_ptr: str | None, after_ptr: str | None) -> bool:
        """Whether an operation is about this place, or one in it."""
        return before_ptr in self._before or after_ptr in self._after

    def touched(
        self, before_ptr: str | None, after_ptr: str | None, *, is_list: bool
    ) -> tuple[set[str | int], set[str | int]]:
        """The keys, or indices, in two containers that an operation is about, or in which one is."""
        found = self._before.get(before_ptr or "", ()), self._after.get(after_ptr or "", ())
        before, after = ({int(each) if is_list else each for each in keys} for keys in found)
        return before, after

    def at_or_in(self, places: Sequence[tuple[str | None, str | None]]) -> Iterator[Op]:
        """The operations about some entries of one container, or about what is in them."""
        before, after = ({place[side] for place in places} - {None} for side in (0, 1))
        depth = next((ptr.count("/") for place in places for ptr in place if ptr is not None), 0)
        for op in self.ops:
            if _cut(op.before_ptr, depth) in before or _cut(op.after_ptr, depth) in after:
                yield op


def _cut(ptr: str | None, depth: int) -> str | None:
    return None if ptr is None else "/".join(ptr.split("/", depth + 1)[: depth + 1])


def _prefixes(ptrs: Iterable[str | None]) -> dict[str, list[str]]:
    """Every pointer that is about one of these, or contains one, with the keys under which it does."""
    found: dict[str, list[str]] = {}
    for each in ptrs:
        ptr, inner = each, ""
        while ptr is not None:
            is_known = ptr in found
            keys = found.setdefault(ptr, [])
            if inner:
                keys += tokens(inner)
            if is_known or not ptr:
                break
            ptr, slash, key = ptr.rpartition("/")
            inner = slash + key
    return found


def entries(
    index: OpIndex, before: Maybe, after: Maybe, before_ptr: str | None, after_ptr: str | None
) -> Iterator[Entry]:
    """What two containers of one sort hold, or the one that there is, in the order of the document after.

    What was removed, or moved away, stands where it was.
    """
    if isinstance(before, Absent) or isinstance(after, Absent):
        yield from _one_sided(before, after)
    elif isinstance(before, dict) and isinstance(after, dict):
        yield from _fields(index, before, after, before_ptr or "", after_ptr or "")
    elif isinstance(before, list) and isinstance(after, list):
        yield from _elements(index, len(before), len(after), before_ptr or "", after_ptr or "")


def _one_sided(before: Maybe, after: Maybe) -> Iterator[Entry]:
    container = after if isinstance(before, Absent) else before
    keys: Iterable[str | int] = container if isinstance(container, dict) else ()
    if isinstance(container, list):
        keys = range(len(container))
    for key in keys:
        yield Entry(None, key) if isinstance(before, Absent) else Entry(key, None)


def _fields(
    index: OpIndex, before: dict[str, Json], after: dict[str, Json], before_ptr: str, after_ptr: str
) -> Iterator[Entry]:
    gone: dict[str | None, list[str]] = {}
    last: str | None = None
    for key in before:
        if key in after:
            last = key
        else:
            gone.setdefault(last, []).append(key)

    def removed(behind: str | None) -> Iterator[Entry]:
        for key in gone.get(behind, ()):
            yield Entry(key, None, index.removes.get(pointer(before_ptr, key)))

    yield from removed(None)
    for key in after:
        if key in before:
            yield Entry(key, key)
            yield from removed(key)
        else:
            yield Entry(None, key, index.adds.get(pointer(after_ptr, key)))


def _elements(index: OpIndex, before: int, after: int, before_ptr: str, after_ptr: str) -> Iterator[Entry]:
    outs = _at(before_ptr, before, index.removes, index.departures)
    ins = _at(after_ptr, after, index.adds, index.arrivals)
    staying = [i for i in range(before) if i not in outs]
    stays_at = [j for j in range(after) if j not in ins]
    i = j = 0
    for old, new in (*zip_longest(staying, stays_at), (None, None)):
        while i < (before if old is None else old):
            yield Entry(i, None, outs.get(i))
            i += 1
        while j < (after if new is None else new):
            yield _arrived(j, ins.get(j))
            j += 1
        if old is not None and new is not None:
            yield Entry(old, new)
            i, j = old + 1, new + 1


def _arrived(index: int, op: Op | None) -> Entry:
    if op is None or op.before_ptr is None:
        return Entry(None, index, op)
    return Entry(int(op.before_ptr.rpartition("/")[2]), index, op)


def _at(ptr: str, length: int, *ops: dict[str | None, Op]) -> dict[int, Op]:
    """The operations that take something out of a list, or put something into it, by index."""
    found: dict[int, Op] = {}
    for named in ops:
        if len(named) < length:
            inside = ((each, op) for each, op in named.items() if each is not None and each.rpartition("/")[0] == ptr)
            found |= {int((each or "").rpartition("/")[2]): op for each, op in inside}
        else:
            found |= {i: named[at] for i in range(length) if (at := pointer(ptr, i)) in named}
    return found
