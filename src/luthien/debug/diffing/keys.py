"""Objects that are the same but for the order of their keys, or for occurrences of a key that do not count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from luthien.debug.diffing.values import Json, Repeated, is_same, repeats

Tree: TypeAlias = "dict[str | int, Tree]"
"""Paths by their steps; what is at the end of one is empty."""

_Path: TypeAlias = "tuple[()] | tuple[_Path, str | int]"
_NONE: Tree = {}


def told_apart_by_keys(before: Json, after: Json, differing: Tree) -> Iterator[tuple[list[str | int], Json, Json]]:
    """Finds such objects in two values that are the same but for what lies at `differing` paths.

    Of each its path, and what each side's keys are: all of them where their order changed, or every occurrence of
    those that are repeated, as [key, value].
    """
    todo: list[tuple[Json, Json, _Path, Tree]] = [(before, after, (), differing)]
    while todo:
        old, new, path, tree = todo.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            keys = _differing_keys(old, new)
            if keys is not None:
                yield _steps(path), *keys
            inner: Iterable[tuple[str | int, Json, Json]] = (
                (key, value, new[key]) for key, value in old.items() if key in new
            )
        elif isinstance(old, list) and isinstance(new, list):
            inner = zip(range(len(old)), old, new, strict=True)
        else:
            continue
        for step, one, other in inner:
            if isinstance(one, dict | list) and tree.get(step) != {}:
                todo.append((one, other, (path, step), tree.get(step, _NONE)))


def may_be_told_apart(before: Json, after: Json) -> bool:
    """Whether keys may tell two values apart that are the same: no, of objects of scalars in one order."""
    if type(before) is dict and type(after) is dict and list(before) == list(after):
        return any(isinstance(value, dict | list) for value in before.values())
    return isinstance(before, dict | list)


def _steps(path: _Path) -> list[str | int]:
    steps = list[str | int]()
    while path:
        path, step = path
        steps.append(step)
    return steps[::-1]


def _differing_keys(before: dict[str, Json], after: dict[str, Json]) -> tuple[Json, Json] | None:
    if list(before) == list(after) and not isinstance(before, Repeated) and not isinstance(after, Repeated):
        return None
    repeated = repeats(before), repeats(after)
    if not is_same(list(repeated[0]), list(repeated[1])):
        return list(repeated[0]), list(repeated[1])
    if [key for key in before if key in after] != [key for key in after if key in before]:
        return list(before), list(after)
    return None
