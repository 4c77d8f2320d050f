"""How much text an operation of a diff took out and put in, and whose that was. Pure.

Counted are the bytes, in UTF-8, of strings, numbers and keys: of a changed string only what differs, of what was
added or removed all of it, and nothing of what only moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import Json, Number


class Amount(NamedTuple):
    """Bytes of text."""

    removed: int = 0
    added: int = 0


def amount_of(op: Op) -> Amount:
    """What an operation took out and put in."""
    if op.op == "move" or "encoding_only" in op.flags:
        return Amount()
    if op.inside:
        return _sum(amount_of(each) for each in op.inside if each.touches_value)
    if op.text:
        return _of_segments(op.text)
    removed = 0 if op.op == "add" else _size_bytes(op.before)
    added = 0 if op.op == "remove" else _size_bytes(op.after)
    return Amount(removed, added)


def shares_of(op: Op, authors: Sequence[object]) -> list[Amount]:
    """The part that each author had in it, so that together they are all of it.

    Where it is not known of each piece whose it is, it is the last one's, who gave it on as it is.

    Args:
        authors: policies in their order, at least one; what `op.by` names, without repetitions.
    """
    if len(authors) == 1 or len(op.authors) != len(op.text) or op.inside or "encoding_only" in op.flags:
        return [Amount()] * (len(authors) - 1) + [amount_of(op)]
    named = list(dict.fromkeys((each.policy, each.version) for each in op.by))
    shares = [Amount()] * len(authors)
    for segment, place in zip(op.text, op.authors, strict=True):
        by = None if place is None else op.by[place]
        last = len(authors) - 1
        whose = last if by is None else min(last, named.index((by.policy, by.version)))
        shares[whose] = _sum((shares[whose], _of_segments([segment])))
    return shares


def _of_segments(segments: Iterable[tuple[str, str]]) -> Amount:
    return _sum(
        Amount(_bytes(text), 0) if tag == "-" else Amount(0, _bytes(text)) for tag, text in segments if tag != "="
    )


def _sum(amounts: Iterable[Amount]) -> Amount:
    removed = added = 0
    for each in amounts:
        removed += each.removed
        added += each.added
    return Amount(removed, added)


def _size_bytes(value: Json) -> int:
    size, todo = 0, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            size += sum(map(_bytes, item))
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, str):
            size += _bytes(item)
        elif isinstance(item, Number):
            size += len(item.text)
    return size


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
