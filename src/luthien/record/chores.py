"""The chores of the record's upkeep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from luthien.record.upkeep import Chore, Connection
from luthien.store.partitions import PartitionKeeper

_HOUR_S = 3600.0
_DAYS_AHEAD = 2


def partitions_ahead() -> Chore:
    """Makes the partitions of today and the days that follow, before any call needs them."""
    keeper = PartitionKeeper()

    def make(conn: Connection) -> None:
        today = datetime.now(UTC).date()
        keeper.ensure(conn, [today + timedelta(days=number) for number in range(_DAYS_AHEAD + 1)])

    return Chore("partitions ahead", _HOUR_S, make)
