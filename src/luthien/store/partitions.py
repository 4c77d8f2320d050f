"""Which day a call belongs to, and that day's partitions.

A call id is a UUIDv7: it begins with 48 bits of Unix milliseconds, so a UTC day is a range of ids, whatever the
remaining bits say.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

log = logging.getLogger(__name__)

_DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1).toordinal()

_DAYS_REMEMBERED = 1000

_DEFAULT_PARTITION_WILL_DO = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
    psycopg.errors.InsufficientPrivilege,
)


def day_of(call_id: UUID) -> date:
    """The UTC day at which a call id was made; ValueError beyond the year 9999."""
    return date.fromordinal(_EPOCH + (call_id.int >> 80) // _DAY_MS)


def day_range(day: date) -> tuple[UUID, UUID]:
    """The first id of a UTC day, and the first of the next, which is the day's no more; ValueError before 1970."""
    first_ms = (day.toordinal() - _EPOCH) * _DAY_MS
    if first_ms < 0:
        raise ValueError(f"no call id is of the day {day}")
    return UUID(int=first_ms << 80), UUID(int=(first_ms + _DAY_MS) << 80)


class PartitionKeeper:
    """Makes each day's partitions once, before the first rows of that day are inserted.

    For one thread. The migrations define what a day's partitions are (`luthien_create_day`); this only remembers
    which days it has asked for.
    """

    def __init__(self, *, retry_after_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry_after_s = retry_after_s
        self._clock = clock
        self._made: set[date] = set()
        self._not_before: dict[date, float] = {}

    def ensure(self, conn: psycopg.Connection[Any], days: Iterable[date]) -> frozenset[date]:
        """Sees to the partitions of these days and returns those that had to be put off.

        Needs a connection without an open transaction: the locks that a new partition takes must be gone before rows
        are inserted. A day is put off when Postgres would have had to wait too long for a lock or does not allow it:
        its rows may be inserted all the same, the default partition takes them, and they are moved when a later
        attempt succeeds. Other errors of psycopg pass through.
        """
        wanted = set(days) - self._made
        if not wanted:
            return frozenset()
        if conn.info.transaction_status is not TransactionStatus.IDLE:
            raise ValueError("partitions are made in a transaction of their own")
        return frozenset(day for day in sorted(wanted) if not self._make(conn, day))

    def _make(self, conn: psycopg.Connection[Any], day: date) -> bool:
        now = self._clock()
        if now < self._not_before.get(day, now):
            return False
        try:
            with conn.transaction():
                conn.execute("SELECT luthien_create_day(%s)", (day,))
        except _DEFAULT_PARTITION_WILL_DO as error:
            log.warning("partitions of %s put off: %s", day, str(error).partition("\n")[0])
            self._put_off(day, now + self._retry_after_s)
            return False
        self._remember(day)
        return True

    def _put_off(self, day: date, until: float) -> None:
        if len(self._not_before) >= _DAYS_REMEMBERED:
            self._not_before.clear()
        self._not_before[day] = until

    def _remember(self, day: date) -> None:
        if len(self._made) >= _DAYS_REMEMBERED:
            self._made.clear()
        self._made.add(day)
        self._not_before.pop(day, None)
