"""The chores of the record's upkeep."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from luthien.record.upkeep import Chore, Connection
from luthien.store.partitions import PartitionKeeper
from luthien.store.retention import prune, strays

_log = logging.getLogger(__name__)

_HOUR_S = 3600.0
_DAYS_AHEAD = 2
_LOOK_S = 300.0
# Other chores wait meanwhile. A day takes a tenth of a second.
_PRUNE_S = 5.0


def partitions_ahead() -> Chore:
    """Makes the partitions of today and the days that follow, before any call needs them."""
    keeper = PartitionKeeper()

    def make(conn: Connection) -> None:
        today = datetime.now(UTC).date()
        keeper.ensure(conn, [today + timedelta(days=number) for number in range(_DAYS_AHEAD + 1)])

    return Chore("partitions ahead", _HOUR_S, make)


def retention(keep: timedelta) -> Chore:
    """Drops the days that are older than `keep`. What is in use, or too much at once, goes an hour later."""

    def drop(conn: Connection) -> None:
        pruned = prune(conn, keep, within_s=_PRUNE_S)
        if pruned.dropped:
            size = sum(day.size_bytes for day in pruned.dropped)
            _log.info(
                "%d days are older than %d days and were dropped: %d bytes", len(pruned.dropped), keep.days, size
            )
        if pruned.strays:
            _log.info("%d rows of the default partitions are older than %d days", pruned.strays, keep.days)
        if pruned.put_off:
            _log.warning(
                "%d older days, from %s on, are put off for an hour", len(pruned.put_off), pruned.put_off[0].day
            )

    return Chore("retention", _HOUR_S, drop)


class DefaultPartitions:
    """Watches the default partitions, where nothing should ever be."""

    def __init__(self) -> None:
        self.rows: int | None = None
        """How many rows were in them when they were last looked at; None before that."""

    def chore(self) -> Chore:
        return Chore("default partitions", _LOOK_S, self._look)

    def _look(self, conn: Connection) -> None:
        rows = sum(each.rows for each in strays(conn))
        if rows and rows != self.rows:
            _log.warning("the default partitions have %d rows that should be in a day's: run `luthien repair`", rows)
        self.rows = rows
