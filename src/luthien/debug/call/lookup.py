"""Finding a call: in the database, on its way there, or nowhere; and what can still come of it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from luthien.debug.call.completeness import Completeness, Evidence, completeness_of
from luthien.exchange import call_time_ms
from luthien.record.source import RecordSource
from luthien.store.call_filter import CallFilter
from luthien.store.feed import Held, Position, Tip
from luthien.store.read import RecordReader
from luthien.store.stored import CallRow, StoredCall, Unindexed

_GRACE_MS = 60_000
# How far another process's clock, or the database's, may be from ours.
_SKEW_MS = 5_000


@dataclass(frozen=True, slots=True)
class Found:
    """A call of which something is stored, and what is known of the rest."""

    call: StoredCall
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Listed:
    """A call in a list."""

    row: CallRow
    completeness: Completeness


@dataclass(frozen=True, slots=True)
class Pending:
    """A call of which nothing is stored yet, and of which something may still be."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits in this process, at one moment; asked before the database, so that nothing falls in between."""

    calls: frozenset[UUID]
    taken_over: frozenset[UUID]
    now: datetime
    oldest_age: timedelta


class Lookup:
    """Where the pages find calls. One order decides: Postgres, then this process's unsaved records, then time.

    Args:
        process_id: who we are, if calls are recorded here.
    """

    def __init__(self, reader: RecordReader, source: RecordSource, process_id: UUID | None = None) -> None:
        self._reader = reader
        self._source = source
        self._process_id = process_id

    async def calls(self, wanted: CallFilter, before: UUID | None, limit: int) -> list[Listed]:
        """The calls that a filter lets through, older than `before`, newest first. Raises StoreError."""
        waiting = self._waiting()
        rows = await self._reader.calls(wanted, before, limit)
        return [self._listed(row, waiting) for row in rows]

    async def calls_of(self, ids: Collection[UUID]) -> list[Listed]:
        """The calls with these ids that there are, newest first. Raises StoreError."""
        waiting = self._waiting()
        return [self._listed(row, waiting) for row in await self._reader.calls_of(ids)]

    async def tip(self) -> Tip:
        """Where the feed of changes is. Raises StoreError."""
        return await self._reader.tip()

    async def held(self) -> Held | None:
        """What keeps back changes that are stored; None when nothing does. Raises StoreError."""
        return await self._reader.held()

    async def changes(self, after: Position, limit: int) -> list[tuple[Position, Listed]]:
        """The calls that changed after a position, in the order of their last changes. Raises StoreError."""
        waiting = self._waiting()
        rows = await self._reader.changes(after, limit)
        at_s = int(waiting.now.timestamp())
        return [
            (Position(int(row.pop("stored_xid")), row["call_id"], at_s), self._listed(row, waiting)) for row in rows
        ]

    async def missed(self, after: Position, limit: int) -> int:
        """How many calls changed after a position, counted up to `limit`. Raises StoreError."""
        return await self._reader.missed(after, limit)

    async def processes(self, ids: Iterable[UUID]) -> dict[UUID, str]:
        """`host:pid` of the processes that said so. Raises StoreError."""
        found = await self._reader.processes(ids)
        return {process_id: f"{host}:{pid}" for process_id, (host, pid) in found.items()}

    async def neighbours(self, wanted: CallFilter, call_id: UUID) -> tuple[UUID | None, UUID | None]:
        """The next newer and the next older call that a filter lets through; None where there is none.

        Raises StoreError.
        """
        return await self._reader.neighbours(wanted, call_id)

    async def unindexed(self, wanted: CallFilter, before: UUID | None, since: UUID | None) -> Unindexed:
        """How many calls of a list's range a search does not know yet. Raises StoreError.

        Args:
            before: where the list began; None for the newest.
            since: the oldest call in it; None if the list has come to its end.
        """
        return await self._reader.unindexed(wanted, before, since)

    async def session(
        self, session_id: str, since: UUID, before: UUID, limit: int, *, backwards: bool = False
    ) -> list[Listed]:
        """So many calls of a session from the beginning of a range of ids, or from its end, oldest first.

        Raises StoreError.
        """
        waiting = self._waiting()
        rows = await self._reader.session_calls(session_id, since, before, limit, backwards=backwards)
        return [self._listed(row, waiting) for row in rows]

    async def session_totals(self, session_id: str, limit: int) -> CallRow:
        """What the latest calls of a session, so many at most, add up to. Raises StoreError."""
        return await self._reader.session_totals(session_id, limit)

    async def session_count(self, session_id: str, since: UUID, before: UUID) -> int:
        """How many calls of a session a range of ids has. Raises StoreError."""
        return await self._reader.session_count(session_id, since, before)

    async def sessions(self, before: UUID, limit: int) -> tuple[list[CallRow], UUID | None]:
        """The sessions of the latest calls before an id, and the id to go on before. Raises StoreError."""
        return await self._reader.sessions(before, limit)

    async def payload_bytes(self, call_ids: Sequence[UUID]) -> dict[UUID, int]:
        """How many bytes of payloads are stored of each call. Raises StoreError."""
        return await self._reader.payload_bytes(call_ids)

    async def call(self, call_id: UUID, kinds: Sequence[str] | None = None) -> Found | Pending | None:
        """What is known of a call; None when there is no such call. Raises StoreError.

        Args:
            kinds: the kinds of record whose payloads are wanted, if not all are.
        """
        waiting = self._waiting()
        call = await self._reader.call(call_id, kinds)
        if call is None:
            return Pending() if call_id in waiting.calls or _is_young(call_id, waiting) else None
        return Found(call, self._evidence(call.row, waiting))

    def _listed(self, row: CallRow, waiting: _Waiting) -> Listed:
        completeness = completeness_of(self._evidence(row, waiting), ended_how=row["process_ended_how"])
        return Listed(row, completeness)

    def _waiting(self) -> _Waiting:
        oldest_age = timedelta(seconds=self._source.oldest_unsaved_age_s())
        calls, taken_over = self._source.unsaved_calls(), self._source.taken_over()
        return _Waiting(calls, taken_over, datetime.fromtimestamp(time.time(), UTC), oldest_age)

    def _evidence(self, row: CallRow, waiting: _Waiting) -> Evidence:
        return Evidence(
            emitted=row["records_emitted"],
            stored=row["records_stored"],
            stages_stored=row["stages_stored"],
            tombstoned=row["records_tombstoned"],
            set_aside=row["records_set_aside"],
            refused=row["records_refused"] or 0,
            end_is_lost=row["is_end_set_aside"] and row["records_emitted"] is None,
            process=self._process_of(row),
            may_come=self._may_come(row, waiting),
        )

    def _process_of(self, row: CallRow) -> Literal["alive", "dead", "unknown"]:
        if row["process_id"] is not None and row["process_id"] == self._process_id:
            return "alive"
        is_alive = row["process_is_alive"]
        return "unknown" if is_alive is None else "alive" if is_alive else "dead"

    def _may_come(self, row: CallRow, waiting: _Waiting) -> bool:
        """Whether records of the call may be on their way: here, or in another process, which we cannot ask.

        A process says until when all that it took in is saved: what a call that ended before then lacks is lost.
        """
        if row["call_id"] in waiting.calls or row["process_id"] in waiting.taken_over:
            return True
        process = self._process_of(row)
        if process == "unknown":
            return _is_young(row["call_id"], waiting)
        if process == "dead" or row["ended_at"] is None:
            return False
        is_ours = row["process_id"] == self._process_id
        saved_until = waiting.now - waiting.oldest_age if is_ours else row["process_saved_until"]
        skew = timedelta(milliseconds=0 if is_ours else _SKEW_MS)
        return saved_until is None or saved_until - skew <= row["ended_at"]

    async def not_ready_because(self) -> str | None:
        """Why calls cannot be recorded properly; None when they can. Raises StoreError."""
        pending = await self._reader.pending_migrations()
        return f"the database lacks {', '.join(pending)}: run `luthien migrate`" if pending else None


def _is_young(call_id: UUID, waiting: _Waiting) -> bool:
    """Whether another process may still have all of a call.

    What has waited longest here says how far behind the database is.
    """
    now_ms = waiting.now.timestamp() * 1000
    behind_ms = waiting.oldest_age.total_seconds() * 1000
    return now_ms - behind_ms - _GRACE_MS < call_time_ms(call_id) <= now_ms + _SKEW_MS
