"""What tells the elements of lists apart, and what they have in common: their content, their ids, their sort."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from luthien.debug.diffing.ops import MAX_DEPTH, kind_of
from luthien.debug.diffing.values import Json, Number, canonical

_IDS = ("tool_call_id", "tool_use_id", "call_id", "id")
_ALIKE = {"developer": "system", "input_text": "text", "output_text": "text"}
_DEEP = object()


class Identities:
    """One code for all equal values, whatever the order of their keys; made once for each value."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}
        self._by_content: dict[Hashable, int] = {}
        self._order: dict[tuple[int, int], bool] = {}
        self._alive: list[Json] = []

    def code(self, value: Json) -> Hashable:
        """Equal for equal values, and only for those."""
        if isinstance(value, dict | list) and id(value) not in self._codes:
            self._alive.append(value)
        return self._code(value, 0)

    def _code(self, value: Json, depth: int) -> Hashable:
        if not isinstance(value, dict | list):
            return value
        code = self._codes.get(id(value))
        if code is None:
            content: Hashable
            if depth > MAX_DEPTH:
                content = (_DEEP, canonical(value))
            elif isinstance(value, dict):
                content = frozenset([(key, self._code(item, depth + 1)) for key, item in value.items()])
            else:
                content = tuple([self._code(item, depth + 1) for item in value])
            # Numbers below 2 are for booleans, which Python calls equal to them.
            code = self._codes[id(value)] = self._by_content.setdefault(content, len(self._by_content) + 2)
        return code

    def is_same(self, before: Json, after: Json) -> bool:
        """Equality of two parsed values, however deep."""
        try:
            return before == after
        except RecursionError:
            return self.code(before) == self.code(after)

    def rest(self, value: Json) -> Hashable:
        """What an object has besides its role and type."""
        if not isinstance(value, dict):
            return self.code(value)
        return frozenset([(key, self.code(item)) for key, item in value.items() if key not in ("role", "type")])

    def precedes(self, one: Json, other: Json) -> bool:
        """An order of values, of use only in that it does not depend on which of two comes first.

        It is that of the first values within them that differ, and kept for all pairs on the way there.
        """
        way = list[tuple[int, int]]()
        self._alive += (one, other)
        precedes = self._find_order(one, other, way)
        self._order.update(dict.fromkeys(way, precedes))
        return precedes

    def _find_order(self, one: Json, other: Json, way: list[tuple[int, int]]) -> bool:
        for _ in range(MAX_DEPTH):
            way.append((id(one), id(other)))
            if way[-1] in self._order:
                return self._order[way[-1]]
            first, second = kind_of(one), kind_of(other)
            if first != second:
                return first < second
            if isinstance(one, str) and isinstance(other, str):
                return one < other
            if isinstance(one, Number) and isinstance(other, Number):
                return one.text < other.text
            if isinstance(one, dict) and isinstance(other, dict):
                keys, others = sorted(one), sorted(other)
                if keys != others:
                    return keys < others
                pairs: Iterable[tuple[Json, Json]] = ((one[key], other[key]) for key in keys)
            elif isinstance(one, list) and isinstance(other, list):
                if len(one) != len(other):
                    return len(one) < len(other)
                pairs = zip(one, other, strict=True)
            else:
                return bool(one) < bool(other)
            differing = next((pair for pair in pairs if not self.is_same(*pair)), None)
            if differing is None:
                return False
            one, other = differing
        return canonical(one) < canonical(other)


def sort_of(value: Json) -> Hashable:
    """What must be the same of two elements for one to have become the other: for objects, role and type.

    A system message may be called the developer's, and text of a message its input or output.
    """
    if not isinstance(value, dict):
        return kind_of(value)
    role, kind = (
        _ALIKE.get(name, name) if isinstance(name, str) else None for name in (value.get("role"), value.get("type"))
    )
    return (role, None if role is not None and kind == "message" else kind)


def name_of(value: Json) -> Hashable | None:
    """What names an element: the id of its tool call, or its own, or those within a message; a tool's name."""
    if not isinstance(value, dict):
        return None
    names = _ids([value])
    if not names and "role" in value:
        names = [name for key in ("content", "tool_calls") for name in _ids(value.get(key))]
    if not names and "role" not in value:
        function = value.get("function")
        names = [name for each in (value, function) for name in [_text(each, "name")] if name is not None]
    return (sort_of(value), *names) if names else None


def _ids(elements: Json) -> list[str]:
    if not isinstance(elements, list):
        return []
    found = (next((name for key in _IDS if (name := _text(each, key)) is not None), None) for each in elements)
    return [name for name in found if name is not None]


def _text(value: Json, key: str) -> str | None:
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else None
