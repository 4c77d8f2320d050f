"""Finding a call: in the database, on its way there, or nowhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from luthien.exchange import call_time_ms
from luthien.record.source import RecordSource
from luthien.store.read import CallRow, RecordReader, StoredCall

_GRACE_MS = 60_000
# How far ahead of ours another process's clock may be.
_SKEW_MS = 5_000


@dataclass(frozen=True, slots=True)
class Found:
    """A call of which something is stored. `is_pending`: more of it may still come."""

    call: StoredCall
    is_pending: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """A call of which nothing is stored yet, and of which something may still be."""


class Lookup:
    """Where the pages find calls. One order decides: Postgres, then this process's unsaved records, then time."""

    def __init__(self, reader: RecordReader, source: RecordSource) -> None:
        self._reader = reader
        self._source = source

    async def calls(self, before: UUID | None, limit: int) -> list[CallRow]:
        """Calls older than `before`, newest first. Raises StoreError."""
        return await self._reader.calls(before, limit)

    async def call(self, call_id: UUID) -> Found | Pending | None:
        """What is known of a call; None when there is no such call. Raises StoreError."""
        # Asked first: a record that is stored between the two questions is seen by the second.
        is_on_its_way = self._may_be_unsaved(call_id)
        call = await self._reader.call(call_id)
        if call is None:
            return Pending() if is_on_its_way else None
        return Found(call, is_pending=is_on_its_way and not is_whole(call.row))

    def _may_be_unsaved(self, call_id: UUID) -> bool:
        """Whether a record of the call waits here, or may wait in another process, which we cannot ask.

        What has waited longest here says how far behind the database is.
        """
        if self._source.unsaved(call_id):
            return True
        now_ms = time.time_ns() // 1_000_000
        behind_ms = self._source.oldest_unsaved_age_s() * 1000
        return now_ms - behind_ms - _GRACE_MS < call_time_ms(call_id) <= now_ms + _SKEW_MS

    async def not_ready_because(self) -> str | None:
        """Why calls cannot be recorded properly; None when they can. Raises StoreError."""
        pending = await self._reader.pending_migrations()
        return f"the database lacks {', '.join(pending)}: run `luthien migrate`" if pending else None


def is_whole(row: CallRow) -> bool:
    """Whether everything that the call emitted is stored."""
    emitted = row["records_emitted"]
    return emitted is not None and row["records_stored"] >= emitted
