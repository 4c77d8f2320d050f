"""What dictdiffer sees of two objects: their keys, and of what differs opaque leaves."""

from __future__ import annotations

from collections.abc import Callable

from luthien.debug.diffing.values import Json


class _Leaf:
    """A value of which dictdiffer need not know more than that it differs from any other that it is shown."""

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, _memo: object) -> _Leaf:
        return self


class Fields(dict[str, "Fields | _Leaf"]):
    """An object as dictdiffer sees it; never copied, since its values are looked up in the document."""

    __slots__ = ()

    def __deepcopy__(self, _memo: object) -> Fields:
        return self


def veiled(
    before: dict[str, Json], after: dict[str, Json], levels: int, is_same: Callable[[Json, Json], bool]
) -> tuple[Fields, Fields]:
    """What differs of two objects and those directly within them, down to so many levels; all else is leaves."""
    old, new = Fields(), Fields()
    for key, value in before.items():
        if key not in after:
            old[key] = _Leaf(value)
            continue
        other = after[key]
        if levels > 1 and isinstance(value, dict) and isinstance(other, dict):
            old[key], new[key] = veiled(value, other, levels - 1, is_same)
        elif not is_same(value, other):
            old[key], new[key] = _Leaf(value), _Leaf(other)
    new.update((key, _Leaf(value)) for key, value in after.items() if key not in before)
    return old, new
