"""How much of a body a policy changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass

# So much is compared at once: a call of C, which nothing else can run beside.
_STRIDE = 64 * 1024
# So much is compared before others have their turn: a fifth of a millisecond, or about that.
_TURN = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Extent:
    """From the first byte that differs to the last: how many were there, and how many are there instead."""

    removed_bytes: int
    added_bytes: int


def extent_between(before: bytes, after: bytes) -> Extent:
    """The extent of a change, found at about the speed of memory."""
    turns = _turns(before, after)
    while True:
        try:
            next(turns)
        except StopIteration as found:
            extent: Extent = found.value
            return extent


async def extent_in_turns(before: bytes, after: bytes) -> Extent:
    """The same for what may be large: every so often others have their turn."""
    turns = _turns(before, after)
    while True:
        try:
            next(turns)
        except StopIteration as found:
            extent: Extent = found.value
            return extent
        await asyncio.sleep(0)


def _turns(before: bytes, after: bytes) -> Generator[None, None, Extent]:
    shorter = min(len(before), len(after))

    def same_start(start: int, end: int) -> bool:
        return before.startswith(after[start:end], start, end)

    def same_end(start: int, end: int) -> bool:
        """Counted from the ends."""
        return before[len(before) - end : len(before) - start] == after[len(after) - end : len(after) - start]

    head = yield from _common(shorter, same_start)
    tail = yield from _common(shorter - head, same_end)
    return Extent(len(before) - head - tail, len(after) - head - tail)


def _common(limit: int, is_same: Callable[[int, int], bool]) -> Generator[None, None, int]:
    """How many of the first bytes are the same, of at most `limit`."""
    low = 0
    while low < limit and is_same(low, min(low + _STRIDE, limit)):
        low = min(low + _STRIDE, limit)
        if low % _TURN == 0:
            yield
    high = min(low + _STRIDE, limit)
    while low < high:
        middle = (low + high + 1) // 2
        if is_same(low, middle):
            low = middle
        else:
            high = middle - 1
    return low
