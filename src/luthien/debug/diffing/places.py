"""Where each value of one document is in the other, read off a diff's operations."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import Json, pointer, tokens

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


class Places:
    """The partner of any pointer, made once for a diff and its parsed document before.

    That document is needed because only it tells whether `/a/0` is in a list or under a key "0". What was added or
    removed, or is within a value that was changed whole, has no partner; nor has a pointer that leads nowhere.
    """

    def __init__(self, ops: Iterable[Op], before: Json) -> None:
        self._document = before
        self._out = defaultdict[str, _Strays](_Strays)
        self._in = defaultdict[str, _Strays](_Strays)
        self._whole: set[str] = set()
        self._is_absent = False
        for op in ops:
            if op.op == "change":
                if op.touches_value:
                    self._whole.add(op.before_ptr or "")
            elif "" in (op.before_ptr, op.after_ptr):
                self._is_absent = True
            else:
                self._take(op.before_ptr, op.after_ptr, self._out)
                self._take(op.after_ptr, op.before_ptr, self._in)

    @staticmethod
    def _take(ptr: str | None, other: str | None, sides: defaultdict[str, _Strays]) -> None:
        if ptr is not None:
            container, _, _ = ptr.rpartition("/")
            sides[container].partners[tokens(ptr)[-1]] = None if other is None else tokens(other)[-1]

    def after(self, before_ptr: str) -> str | None:
        """Where in the document after the value is that was at `before_ptr`."""
        return self._partner(before_ptr, is_before=True)

    def before(self, after_ptr: str) -> str | None:
        """Where in the document before the value was that is at `after_ptr`."""
        return self._partner(after_ptr, is_before=False)

    def _partner(self, ptr: str, *, is_before: bool) -> str | None:
        old, new, value = "", "", self._document
        for token in tokens(ptr):
            if old in self._whole:
                return None
            here, there = self._out.get(old, _NONE), self._in.get(new, _NONE)
            if not is_before:
                here, there = there, here
            is_list = isinstance(value, list)
            partner = here.index(token, there) if is_list else here.partners.get(token, token)
            if partner is None:
                return None
            before, after = (token, partner) if is_before else (partner, token)
            try:
                value = value[int(before) if is_list else before]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                return None
            old, new = pointer(old, before), pointer(new, after)
        return None if self._is_absent else new if is_before else old


class _Strays:
    """What is in a container of one document and not in turn in the other: by token, with its token there."""

    def __init__(self) -> None:
        self.partners: dict[str, str | None] = {}

    @cached_property
    def indices(self) -> list[int]:
        return sorted(int(token) for token in self.partners)

    @cached_property
    def ranks(self) -> list[int]:
        """How many of the others come before each."""
        return [index - nth for nth, index in enumerate(self.indices)]

    def index(self, token: str, other: _Strays) -> str | None:
        """The index over there of an element of this list: those that are no strays keep their order."""
        if token in self.partners:
            return self.partners[token]
        if _INDEX.fullmatch(token) is None:
            return None
        rank = int(token) - bisect_left(self.indices, int(token))
        return str(rank + bisect_right(other.ranks, rank))


_NONE = _Strays()
