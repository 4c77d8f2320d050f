"""How long the indexer rests."""

from __future__ import annotations

import time

from luthien.debug.search.indexer import Pace


def rests(others_per_s: float) -> float:
    """How many times as long as its work it rests at most, when others use so much of a core meanwhile."""
    rested: list[float] = []
    ratios: list[float] = []
    began = time.monotonic()
    pace = Pace(0.25, rested.append, lambda: (time.monotonic() - began) * others_per_s)
    for _ in range(5):
        before = time.monotonic()
        pace.begin()
        while time.monotonic() - before < 0.002:
            pass
        pace.breathe(0.0)
        ratios.append(rested[-1] / (time.monotonic() - before))
    return max(ratios)


def test_it_works_a_quarter_of_the_time_when_nothing_else_is_to_be_done() -> None:
    assert 1 < rests(others_per_s=0.1) <= 3


def test_it_all_but_stops_when_calls_need_the_core() -> None:
    assert rests(others_per_s=0.9) > 3


def test_whoever_waits_for_it_lets_it_work_all_the_time() -> None:
    rested: list[float] = []
    Pace(1.0, rested.append).breathe(0.0)
    assert rested == []
