"""The shortest edit of one sequence into another, within a number of steps: Myers' greedy algorithm.

It is fast exactly when there is little to show (doi:10.1007/BF01840446). A step is about 0.2 microseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from typing import TypeAlias

Runs: TypeAlias = list[tuple[int, int, int]]
"""Where equal stretches begin before and after, and how long they are; ascending on both sides."""


def codes_of(before: Sequence[Hashable], after: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Equal numbers for equal elements."""
    codes: dict[Hashable, int] = {}
    return [codes.setdefault(each, len(codes)) for each in before], [
        codes.setdefault(each, len(codes)) for each in after
    ]


def equal_runs(before: list[int], after: list[int], allowed: int) -> tuple[Runs | None, int]:
    """What the shortest edit keeps, or None if finding it takes more steps than are allowed; and the steps taken."""
    common = set(before) & set(after)
    if not common:
        return [], 0
    # What one side alone has is no part of it, and to look for a way around each is what takes most of the steps.
    old = [place for place, each in enumerate(before) if each in common]
    new = [place for place, each in enumerate(after) if each in common]
    if len(old) == len(before) and len(new) == len(after):
        return _kept(before, after, allowed)
    runs, steps = _kept([before[place] for place in old], [after[place] for place in new], allowed)
    return None if runs is None else _spread(runs, old, new), steps


def _spread(runs: Runs, old: list[int], new: list[int]) -> Runs:
    """The same runs where their elements stand in the whole: at these places on both sides."""
    spread = Runs()
    for x, y, length in runs:
        for i, j in zip(old[x : x + length], new[y : y + length], strict=True):
            start, other, known = spread[-1] if spread else (-1, -1, 0)
            if (start + known, other + known) == (i, j):
                spread[-1] = (start, other, known + 1)
            else:
                spread.append((i, j, 1))
    return spread


def _kept(before: list[int], after: list[int], allowed: int) -> tuple[Runs | None, int]:
    rounds, steps = _furthest_points(before, after, allowed)
    if rounds is None:
        return None, steps
    x, y, runs = len(before), len(after), Runs()
    for low, starts in reversed(rounds):
        start = starts[(x - y - low) // 2]
        inserted = start < 0
        start = ~start if inserted else start
        if x > start:
            runs.append((start, y - (x - start), x - start))
        x, y = start, y - (x - start)
        if inserted:
            y -= 1
        else:
            x -= 1
    return runs[::-1], steps


def _furthest_points(
    before: list[int], after: list[int], allowed: int
) -> tuple[list[tuple[int, list[int]]] | None, int]:
    """Myers' forward pass, one entry an edit; None if it costs more than is allowed. And the steps taken.

    An entry is the lowest diagonal of its round and, for every second diagonal from there, the x at which its
    run of equal elements starts: the complement of it (`~x`) if an insertion led there, not a deletion.
    """
    n, m, left = len(before), len(after), allowed
    lowest, ends, rounds = 1, list[int](), list[tuple[int, list[int]]]()
    for distance in range(n + m + 1):
        previous = [-1, *ends, -1]
        shift = 0 if -distance + 2 * max(0, distance - m) < lowest else 1
        lowest, highest = -distance + 2 * max(0, distance - m), distance - 2 * max(0, distance - n)
        ends, starts = list[int](), list[int]()
        rounds.append((lowest, starts))
        for i, k in enumerate(range(lowest, highest + 1, 2), shift):
            inserted = previous[i] < previous[i + 1]
            x = start = previous[i + 1] if inserted else previous[i] + 1
            while x < n and x - k < m and before[x] == after[x - k]:
                x += 1
            ends.append(x)
            starts.append(~start if inserted else start)
            left -= 1 + x - start
            if left < 0 or (x >= n and k == n - m):
                return (rounds if left >= 0 else None), allowed - max(left, 0)
    raise AssertionError("the last diagonal is reached by the last round")


def longest_rising(numbers: Sequence[int]) -> list[int]:
    """The places of a longest subsequence that rises, all numbers being different; takes n log n."""
    tails, ends, earlier = list[int](), list[int](), list[int]()
    for place, number in enumerate(numbers):
        length = bisect_left(tails, number)
        earlier.append(ends[length - 1] if length else -1)
        if length == len(tails):
            tails.append(number)
            ends.append(place)
        else:
            tails[length], ends[length] = number, place
    rising, place = list[int](), ends[-1] if ends else -1
    while place >= 0:
        rising.append(place)
        place = earlier[place]
    return rising[::-1]
