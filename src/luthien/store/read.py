"""Reading the record. Lists never read a payload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from luthien.errors import StoreAway, StoreBusy, StoreError
from luthien.exchange import call_time_ms
from luthien.store import search, sessions
from luthien.store.call_filter import EVERY_CALL, CallFilter
from luthien.store.deadline import AsyncWatchedConnection, WatchedConnection
from luthien.store.feed import Held, Position, Tip
from luthien.store.migrate import pending
from luthien.store.sql import query
from luthien.store.stored import CallRow, StoredCall, Unindexed, record_of, set_aside_of
from luthien.store.windows import NEWEST, id_range, windows

_CONNECTIONS = 4
_MAX_COUNTED = 1_000
_SILENCE_S = 10.0
# How far the clock that ids are made with may be ahead of the one that times are taken from.
_SKEW_MS = 60_000
_AWAY = "the database is away; calls are still served and recorded"
_NOT_MIGRATED = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)


class _Connection(AsyncWatchedConnection):
    silence_s = _SILENCE_S


class _PlainConnection(WatchedConnection):
    silence_s = _SILENCE_S


class RecordReader:
    """Reads for the debug pages, on connections of its own.

    Args:
        timeout_s: how long to wait for a connection before the database is said to be away.
    """

    def __init__(self, dsn: str, *, timeout_s: float = 3.0) -> None:
        self._dsn = dsn
        self._taken = 0
        self._pool = AsyncConnectionPool(
            dsn,
            connection_class=_Connection,
            min_size=0,
            max_size=_CONNECTIONS,
            open=False,
            name="luthien-read",
            timeout=timeout_s,
            # A page is asked for when somebody wants it; the pool would wait longer and longer between its attempts.
            reconnect_timeout=0.0,
            kwargs={
                "autocommit": True,
                "connect_timeout": 3,
                "application_name": "luthien-debug",
                "row_factory": dict_row,
                # A statement that was prepared before a migration may fail after it.
                "prepare_threshold": None,
            },
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self, deadline_s: float = 1.0) -> None:
        await self._pool.close(timeout=deadline_s)

    async def calls(self, wanted: CallFilter, before: UUID | None, limit: int) -> list[CallRow]:
        """The calls that a filter lets through, older than `before`, newest first.

        Raises:
            StoreError: the database is away, or busy.
        """
        async with self._connection() as conn:
            return await search.calls(conn, wanted, before or NEWEST, limit)

    async def calls_of(self, ids: Collection[UUID]) -> list[CallRow]:
        """The calls with these ids that there are, newest first. Raises as `calls` does."""
        if not ids:
            return []
        bounds = min(ids), UUID(int=min(max(ids).int + 1, NEWEST.int))
        async with self._connection() as conn:
            found = await conn.execute(query("list_calls"), search.of_list(EVERY_CALL, *bounds, len(ids), [*ids]))
            return await found.fetchall()

    async def neighbours(self, wanted: CallFilter, call_id: UUID) -> tuple[UUID | None, UUID | None]:
        """The next newer and the next older call that a filter lets through. Raises as `calls` does."""
        async with self._connection() as conn:
            return await search.neighbours(conn, wanted, call_id)

    async def unindexed(self, wanted: CallFilter, before: UUID | None, since: UUID | None) -> Unindexed:
        """How many calls of a list's range a search does not know yet. Raises as `calls` does.

        Args:
            before: where the list began; None for the newest.
            since: the oldest call in it; None if the list has come to its end.
        """
        first, behind = id_range(wanted)
        bounds = max(first, since or first), min(behind, before or behind)
        [row] = await self._rows("count_unindexed", search.of_count(wanted, *bounds, _MAX_COUNTED + 1))
        return Unindexed(min(row["calls"], _MAX_COUNTED), row["looked_at"] > _MAX_COUNTED)

    async def call(self, call_id: UUID, kinds: Sequence[str] | None = None) -> StoredCall | None:
        """All that is stored of a call; None when nothing is. Raises as `calls` does.

        Args:
            kinds: the kinds of record whose payloads are wanted; others are as if they had lost theirs.
        """
        # In this order, so that a row that says all is stored never comes without its records.
        rows = await self._rows("get_call", {"call_id": call_id})
        if not rows:
            return None
        if kinds is None:
            events = await self._rows("get_events", {"call_id": call_id}, binary=True)
        else:
            wanted = {"call_id": call_id, "kinds": [str(kind) for kind in kinds]}
            events = await self._rows("get_events_of", wanted, binary=True)
        aside = await self._rows("get_set_aside", {"call_id": call_id})
        children = await self._rows("get_children", {"call_id": call_id, "until": _last_child(rows[0])})
        return StoredCall(
            rows[0], [record_of(event) for event in events], [set_aside_of(row) for row in aside], children
        )

    async def session_calls(
        self, session_id: str, since: UUID, before: UUID, limit: int, *, backwards: bool = False
    ) -> list[CallRow]:
        """So many calls of a session from the beginning of a range, or from its end, oldest first.

        Raises as `calls` does.
        """
        async with self._connection() as conn:
            ids = await sessions.ids(conn, session_id, since, before, limit, backwards=backwards)
        return (await self.calls_of(ids))[::-1]

    async def session_totals(self, session_id: str, limit: int) -> CallRow:
        """What the latest calls of a session, so many at most, add up to. Raises as `calls` does."""
        async with self._connection() as conn:
            return await sessions.totals(conn, session_id, limit)

    async def session_count(self, session_id: str, since: UUID, before: UUID) -> int:
        """How many calls of a session a range has. Raises as `calls` does."""
        async with self._connection() as conn:
            return await sessions.count(conn, session_id, since, before)

    async def sessions(self, before: UUID, limit: int) -> tuple[list[CallRow], UUID | None]:
        """The sessions of the latest calls before an id, of at most so many calls, and the id to go on before.

        Raises as `calls` does.
        """
        for since, until in windows(before):
            rows = await self._rows("list_sessions", {"since": since, "before": until, "limit": limit})
            found = [row for row in rows if row["session_id"] is not None]
            further = rows[0]["oldest"] if rows[0]["seen"] == limit else since if since.int else None
            if found:
                return found, further
        return [], None

    async def payload_bytes(self, call_ids: Sequence[UUID]) -> dict[UUID, int]:
        """How many bytes of payloads are stored of each call that has records. Raises as `calls` does."""
        rows = await self._rows("payload_bytes", _bounded(call_ids)) if call_ids else []
        return {row["call_id"]: row["bytes"] for row in rows}

    async def tip(self) -> Tip:
        """Where the feed of changes is. Raises as `calls` does."""
        [row] = await self._rows("feed_position", {})
        return Tip(Position.before(int(row["xmin"]), row["now_s"]), int(row["xmax"]))

    async def held(self) -> Held | None:
        """What keeps back changes that are stored; None when nothing does. Raises as `calls` does."""
        found = await self._rows("feed_held", {})
        return Held(int(found[0]["xid"]), found[0]["since"]) if found else None

    async def changes(self, after: Position, limit: int) -> list[CallRow]:
        """The calls that changed after a position, as they are now, in the order of their last changes.

        Each has its `stored_xid` besides. There may be more, also when these are fewer than `limit`; after none there
        are none. Raises as `calls` does.
        """
        start = {"xid": str(after.xid), "call_id": after.call_id}
        while found := await self._rows("feed_next", {**start, "limit": limit}):
            ids, last = [row["call_id"] for row in found], found[-1]
            bounds = {
                "since": min(ids),
                "until": max(ids),
                "last_xid": last["stored_xid"],
                "last_id": last["call_id"],
            }
            if rows := await self._rows("feed_changes", {**start, **bounds}):
                return rows
            start = {"xid": last["stored_xid"], "call_id": last["call_id"]}
        return []

    async def missed(self, after: Position, limit: int) -> int:
        """How many calls changed after a position, counted up to `limit`. Raises as `calls` does."""
        [row] = await self._rows("feed_missed", {"xid": str(after.xid), "call_id": after.call_id, "limit": limit})
        count: int = row["missed"]
        return count

    async def processes(self, ids: Iterable[UUID]) -> dict[UUID, tuple[str, int]]:
        """Host and process number of the processes that said so. Raises as `calls` does."""
        rows = await self._rows("name_processes", {"ids": [*ids]})
        return {row["process_id"]: (row["host"], row["pid"]) for row in rows if row["host"] is not None}

    async def pending_migrations(self) -> list[str]:
        """Migrations that the database still lacks. Raises as `calls` does."""
        return await asyncio.to_thread(_pending_migrations, self._dsn)

    async def _rows(self, name: str, parameters: dict[str, Any], *, binary: bool = False) -> list[CallRow]:
        """`binary` for rows with payloads, which would come in hexadecimal digits otherwise."""
        async with self._connection() as conn:
            cursor = await conn.execute(query(name), parameters, binary=binary)
            return await cursor.fetchall()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """A connection, and what can go wrong with it in words."""
        try:
            async with self._pool.connection() as conn:
                self._taken += 1
                try:
                    yield conn
                finally:
                    self._taken -= 1
        except PoolTimeout as error:
            if self._taken < _CONNECTIONS:
                raise StoreAway(_AWAY) from error
            raise StoreBusy("all connections for reading the record are in use: try again in a moment") from error
        except _NOT_MIGRATED as error:
            raise StoreError("the database has not the tables it should have: run `luthien migrate`") from error
        except psycopg.errors.QueryCanceled as error:
            raise StoreError("this search takes too long; narrow it by time") from error
        except psycopg.Error as error:
            raise StoreAway(_AWAY) from error


def _bounded(call_ids: Sequence[UUID]) -> dict[str, Any]:
    return {"calls": [*call_ids], "first": min(call_ids), "last": max(call_ids)}


def _last_child(row: CallRow) -> UUID:
    """An id above those of all children that the call can have."""
    ended_at = row["ended_at"] or datetime.now(UTC)
    ended_ms = int(ended_at.timestamp() * 1000) + _SKEW_MS
    return UUID(int=max(ended_ms, call_time_ms(row["call_id"]) + _SKEW_MS) << 80)


async def _configure(conn: _Connection) -> None:
    await conn.execute(query("reading_session"))


def _pending_migrations(dsn: str) -> list[str]:
    try:
        with _PlainConnection.connect(dsn, connect_timeout=3) as conn:
            return pending(conn)
    except psycopg.Error as error:
        raise StoreError("the database is away") from error
