"""A call id says its own day, and the keeper asks Postgres for each day once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.pq import TransactionStatus

from luthien.exchange import new_call_id
from luthien.store.partitions import PartitionKeeper, day_of, day_range

DAYS = st.dates(date(1970, 1, 1), date.max)
TODAY = date(2026, 11, 22)


@given(DAYS, st.integers(0, 86_400_000 - 1), st.integers(0, 2**80 - 1))
def test_an_id_of_any_moment_of_a_day_lies_within_the_days_range(day: date, moment_ms: int, rest: int) -> None:
    first, end = day_range(day)
    call_id = UUID(int=((first.int >> 80) + moment_ms) << 80 | rest)
    assert day_of(call_id) == day
    assert first <= call_id < end


@given(DAYS.filter(lambda day: day < date.max))
def test_days_follow_each_other_without_gap_or_overlap(day: date) -> None:
    assert day_range(day)[1] == day_range(day + timedelta(days=1))[0]


def test_a_new_call_is_of_the_current_utc_day() -> None:
    before = datetime.now(UTC).date()
    day = day_of(new_call_id())
    assert before <= day <= datetime.now(UTC).date()


def test_the_bounds_are_unix_milliseconds_in_the_first_48_bits() -> None:
    assert day_range(date(1970, 1, 2)) == (
        UUID("00000526-5c00-0000-0000-000000000000"),
        UUID("00000a4c-b800-0000-0000-000000000000"),
    )


def test_there_is_no_day_before_1970_and_none_after_9999() -> None:
    with pytest.raises(ValueError, match="1969-12-31"):
        day_range(date(1969, 12, 31))
    with pytest.raises(ValueError, match="year"):
        day_of(UUID(int=2**128 - 1))


class FakePostgres:
    """A connection that notes which days were asked for, and may refuse them."""

    def __init__(self) -> None:
        self.asked: list[date] = []
        self.refusal: psycopg.Error | None = None
        self.transaction_status = TransactionStatus.IDLE

    @property
    def info(self) -> FakePostgres:
        return self

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def execute(self, query: str, parameters: tuple[date]) -> None:
        assert "luthien_create_day" in query
        self.asked.extend(parameters)
        if self.refusal is not None:
            raise self.refusal

    def connection(self) -> psycopg.Connection[Any]:
        return cast("psycopg.Connection[Any]", self)


def test_a_day_is_asked_for_once() -> None:
    postgres, keeper = FakePostgres(), PartitionKeeper()
    for _ in range(3):
        assert keeper.ensure(postgres.connection(), [TODAY, TODAY]) == frozenset()
    assert postgres.asked == [TODAY]


def test_days_are_asked_for_in_order() -> None:
    """Two writers that want the same days do not wait for each other in a circle."""
    postgres = FakePostgres()
    days = [TODAY + timedelta(days=n) for n in range(5)]
    PartitionKeeper().ensure(postgres.connection(), reversed(days))
    assert postgres.asked == days


def test_a_day_that_was_put_off_is_asked_for_again_only_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    postgres, keeper = FakePostgres(), PartitionKeeper(retry_after_s=60, clock=lambda: now)
    postgres.refusal = psycopg.errors.LockNotAvailable("canceling statement due to lock timeout\nCONTEXT: …")
    assert keeper.ensure(postgres.connection(), [TODAY]) == {TODAY}
    assert caplog.messages == ["partitions of 2026-11-22 put off: canceling statement due to lock timeout"]
    now = 159.9
    assert keeper.ensure(postgres.connection(), [TODAY]) == {TODAY}
    assert len(postgres.asked) == 1
    now, postgres.refusal = 160.0, None
    assert keeper.ensure(postgres.connection(), [TODAY]) == frozenset()
    assert len(postgres.asked) == 2


def test_an_error_that_the_default_partition_cannot_help_passes_through() -> None:
    postgres, keeper = FakePostgres(), PartitionKeeper()
    postgres.refusal = psycopg.OperationalError("the connection is lost")
    with pytest.raises(psycopg.OperationalError, match="lost"):
        keeper.ensure(postgres.connection(), [TODAY])
    postgres.refusal = None
    assert keeper.ensure(postgres.connection(), [TODAY]) == frozenset()
    assert postgres.asked == [TODAY, TODAY]


def test_an_open_transaction_is_refused() -> None:
    postgres = FakePostgres()
    postgres.transaction_status = TransactionStatus.INTRANS
    with pytest.raises(ValueError, match="transaction of their own"):
        PartitionKeeper().ensure(postgres.connection(), [TODAY])


@pytest.mark.parametrize("refusal", [None, psycopg.errors.LockNotAvailable("busy")])
def test_what_is_remembered_is_bounded(refusal: psycopg.Error | None) -> None:
    postgres, keeper = FakePostgres(), PartitionKeeper()
    postgres.refusal = refusal
    keeper.ensure(postgres.connection(), (TODAY + timedelta(days=n) for n in range(5000)))
    assert len(keeper._made) + len(keeper._not_before) <= 1000
