"""How long the indexer rests."""

from __future__ import annotations

import pytest

from luthien.debug.search import indexer
from luthien.debug.search.indexer import Pace


class Clock:
    """Goes on when it is told to."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(indexer, "time", clock)
    return clock


def rests(clock: Clock, others_per_s: float) -> list[float]:
    """How many times as long as its work it rests, when others use so much of a core meanwhile."""
    rested: list[float] = []
    pace = Pace(0.25, rested.append, lambda: (clock.now_s - 100) * others_per_s)
    for _ in range(5):
        pace.begin()
        clock.now_s += 0.004
        pace.breathe(0.0)
    return [each / 0.004 for each in rested]


def test_it_works_a_quarter_of_the_time_when_nothing_else_is_to_be_done(clock: Clock) -> None:
    assert rests(clock, others_per_s=0.1) == pytest.approx([3] * 5)


def test_it_all_but_stops_when_calls_need_the_core(clock: Clock) -> None:
    assert rests(clock, others_per_s=0.9) == pytest.approx([19] * 5)


def test_whoever_waits_for_it_lets_it_work_all_the_time() -> None:
    rested: list[float] = []
    Pace(1.0, rested.append).breathe(0.0)
    assert rested == []
