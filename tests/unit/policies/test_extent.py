"""How much of a body a policy changed: from the first byte that differs to the last."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

from luthien.policies.extent import Extent, extent_between, extent_in_turns


@pytest.mark.parametrize(
    ("before", "after", "removed", "added"),
    [
        (b"", b"", 0, 0),
        (b"same", b"same", 0, 0),
        (b"", b"new", 0, 3),
        (b"old", b"", 3, 0),
        (b"a needle in hay", b"a pin in hay", 6, 3),
        (b"a needle and a needle", b"a pin and a pin", 19, 13),
        (b"aaa", b"aaaaa", 0, 2),
        (b"aaaaa", b"aaa", 2, 0),
        (b"abab", b"ab", 2, 0),
        (b"\x00\xff", b"\xff\x00", 2, 2),
    ],
)
def test_the_extent_of_a_change(before: bytes, after: bytes, removed: int, added: int) -> None:
    assert extent_between(before, after) == Extent(removed, added)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072, 2 * 1024 * 1024 + 1])
def test_one_byte_is_found_wherever_it_is(size: int) -> None:
    before = b"x" * size
    for place, inserted in product((0, 1, size // 2, 65_535, size - 1), (b"", b"y", b"yz")):
        if place >= size:
            continue
        after = before[:place] + b"w" + inserted + before[place + 1 :]
        assert extent_between(before, after) == Extent(1, 1 + len(inserted)), place


async def test_others_have_their_turn_while_a_large_body_is_compared() -> None:
    before = b"x" * (32 * 1024 * 1024)
    after = before[:-1] + b"y"
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        assert await extent_in_turns(before, after) == Extent(1, 1)
        counting.cancel()
    assert turns >= 31


async def test_a_small_body_is_compared_at_once() -> None:
    """No other task runs in between: a call is not slowed down by it."""
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "another")
    assert await extent_in_turns(b"a" * 500_000, b"b") == Extent(500_000, 1)
    assert ran == []
