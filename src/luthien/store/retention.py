"""How long the record is kept: whole days are dropped, and nothing younger.

What is older, and how it is dropped without standing in anybody's way, is defined by the migrations
(`luthien_drop_day`); Postgres refuses to drop a day that is not older by its own clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import psycopg

from luthien.store.partitions import PartitionKeeper
from luthien.store.sql import query

Connection = psycopg.Connection[Any]

_EPOCH = date(1970, 1, 1)
_STRAYS_AT_ONCE = 5_000
_PAUSE_S = 0.25
_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled)


@dataclass(frozen=True, slots=True)
class StoredDay:
    """The partitions of a day: about how many calls they hold, as Postgres guesses, and their size with indexes."""

    day: date
    calls: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Strays:
    """Rows in the default partition of a table that are of one day, counted from 1970."""

    table: str
    day_number: int
    rows: int

    @property
    def day(self) -> date | None:
        """None beyond the year 9999."""
        is_a_date = self.day_number <= (date.max - _EPOCH).days
        return _EPOCH + timedelta(days=self.day_number) if is_a_date else None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was dropped, what has to be tried again, and how many rows of the default partitions went."""

    dropped: tuple[StoredDay, ...]
    put_off: tuple[StoredDay, ...]
    strays: int


def first_kept_day(keep: timedelta, now: datetime | None = None) -> date:
    """The oldest UTC day of which anything is younger than `keep`, which must be whole days; 1970 at the earliest."""
    return max(_EPOCH, (now or datetime.now(UTC)).astimezone(UTC).date() - keep)


def stored_days(conn: Connection) -> list[StoredDay]:
    """The days that have partitions, oldest first."""
    return [
        StoredDay(date.fromisoformat(day), calls, size_bytes) for day, calls, size_bytes in _rows(conn, "stored_days")
    ]


def expired_days(conn: Connection, keep: timedelta) -> list[StoredDay]:
    """Those of them that are older than `keep`."""
    before = first_kept_day(keep)
    return [stored for stored in stored_days(conn) if stored.day < before]


def prune(
    conn: Connection,
    keep: timedelta,
    *,
    attempts: int = 5,
    within_s: float = math.inf,
    dropped: Callable[[StoredDay], object] = lambda day: None,
) -> Pruned:
    """Drops every day that is older than `keep`, each in a transaction of its own, and what strayed.

    Any number of processes may do so at once. A day whose tables somebody keeps locked is tried so many times; then
    it is put off, and with it all that come after it, as when the time is up. Needs a connection in autocommit mode;
    errors of psycopg pass through.
    """
    gone: list[StoredDay] = []
    put_off: list[StoredDay] = []
    ends = time.monotonic() + within_s
    for stored in expired_days(conn, keep):
        if put_off or time.monotonic() >= ends:
            put_off.append(stored)
            continue
        was_there = _patiently(partial(_value, conn, "drop_day", stored.day, keep.days), attempts)
        if was_there is None:
            put_off.append(stored)
        elif was_there:
            gone.append(stored)
            dropped(stored)
    return Pruned(tuple(gone), tuple(put_off), _drop_strays(conn, keep, ends))


def strays(conn: Connection) -> list[Strays]:
    """What is in the default partitions and has a day of its own to go to; normally nothing.

    Not among them: what was set aside because its id is of a time that has not come.
    """
    tomorrow = (datetime.now(UTC).date() - _EPOCH).days + 1
    found = [Strays(*row) for row in _rows(conn, "strays")]
    return [each for each in found if each.day_number <= tomorrow]


def repair(conn: Connection, keep: timedelta | None) -> list[Strays]:
    """Moves what strayed into the partitions of its days, which are made; returns what it had to leave.

    Left is what is older than `keep`, and what is of a day whose partition was detached or cannot be made now. Needs
    a connection in autocommit mode.
    """
    oldest = first_kept_day(keep) if keep else date.min
    days = {each.day for each in strays(conn)}
    PartitionKeeper().ensure(conn, {day for day in days if day is not None and day >= oldest})
    return strays(conn)


def _drop_strays(conn: Connection, keep: timedelta, ends: float) -> int:
    total = 0
    while deleted := _value(conn, "drop_strays", keep.days, _STRAYS_AT_ONCE):
        total += deleted
        if time.monotonic() >= ends:
            break
    return total


def _patiently(ask: Callable[[], bool], attempts: int) -> bool | None:
    """The answer; None when it did not come because of others' locks."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            return ask()
        except _BUSY:
            continue
    return None


def _rows(conn: Connection, name: str) -> Iterator[tuple[Any, ...]]:
    yield from conn.execute(query(name))


def _value(conn: Connection, name: str, *parameters: object) -> Any:
    [(value,)] = conn.execute(query(name), parameters)
    return value
