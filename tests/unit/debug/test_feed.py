"""When the live feed asks the database for changes."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from luthien.debug.call.lookup import Lookup
from luthien.debug.live import Feed
from luthien.store.feed import Held, Position, Tip


class QuietRecord:
    """Nothing changes in it, whatever transactions end."""

    def __init__(self) -> None:
        self.xid = 7
        self.looks = 0

    async def tip(self) -> Tip:
        return Tip(Position.before(self.xid, 0), self.xid)

    async def held(self) -> Held | None:
        return None

    async def changes(self, after: Position, limit: int) -> list[tuple[Position, Any]]:
        self.looks += 1
        return []


async def test_looks_again_only_when_a_transaction_has_ended() -> None:
    """Of nothing else can anything come; and a look is into every day that there is."""
    record = QuietRecord()
    feed = Feed(cast("Lookup", record), "")
    for xid, looks in ((7, 1), (7, 1), (8, 2), (8, 2), (9, 3)):
        record.xid = xid
        assert not await feed._read()
        assert record.looks == looks
    assert feed.kept.tip == Position(6, UUID(int=2**128 - 1))
