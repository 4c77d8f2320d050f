"""Calls that a filter lets through, page by page. No payload is ever read.

What is equal to something is a facet in the index (`facets`), so that any combination is one search in it, in
windows of time. It may be older than what is stored, so the rows that it finds are looked at once more; calls that
are not indexed as they are stored now are looked at themselves.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from luthien.store.call_filter import NEEDS_INDEX, CallFilter
from luthien.store.facets import tsquery
from luthien.store.sql import query
from luthien.store.windows import NEWEST, Window, clipped, id_range, search_windows, windows

Connection = AsyncConnection[DictRow]

_STORED = ("session", "model", "provider", "format", "key", "policy", "outcome", "changed")
"""The filters that `conversation_calls` itself can answer."""
_FEWEST_CANDIDATES = 20


async def calls(conn: Connection, wanted: CallFilter, before: UUID, limit: int) -> list[DictRow]:
    """The calls older than `before`, newest first."""
    first, behind = id_range(wanted)
    behind = min(behind, before)
    rows: list[DictRow] = []
    if not _is_searched(wanted):
        for since, until in clipped(windows(behind), first):
            rows += await _rows(conn, wanted, since, until, limit - len(rows))
            if len(rows) >= limit:
                break
        return rows
    return await _found(conn, wanted, first, behind, limit, newest_first=True)


async def neighbours(conn: Connection, wanted: CallFilter, call_id: UUID) -> tuple[UUID | None, UUID | None]:
    """The next newer and the next older call, whether that one itself is let through or not."""
    first, behind = id_range(wanted)
    above = UUID(int=min(call_id.int + 1, NEWEST.int))
    newer = await _next(conn, wanted, max(first, above), behind, newest_first=False)
    older = await _next(conn, wanted, first, min(behind, call_id), newest_first=True)
    return newer, older


async def _next(
    conn: Connection, wanted: CallFilter, first: UUID, behind: UUID, *, newest_first: bool
) -> UUID | None:
    if _is_searched(wanted):
        found = await _found(conn, wanted, first, behind, 1, newest_first=newest_first)
        return found[0]["call_id"] if found else None
    for window in search_windows(first, behind, newest_first=newest_first):
        name = "next_older" if newest_first else "next_newer"
        row = await (await conn.execute(query(name), _bounds(window))).fetchone()
        if row is not None:
            next_id: UUID = row["call_id"]
            return next_id
    return None


async def _found(
    conn: Connection, wanted: CallFilter, first: UUID, behind: UUID, limit: int, *, newest_first: bool
) -> list[DictRow]:
    at_once = max(limit, _FEWEST_CANDIDATES)
    rows: list[DictRow] = []
    for window in search_windows(first, behind, newest_first=newest_first):
        while ids := await _candidates(conn, wanted, window, at_once, newest_first=newest_first):
            found = await _rows(conn, wanted, min(ids), UUID(int=max(ids).int + 1), len(ids), ids)
            rows += found if newest_first else found[::-1]
            if len(rows) >= limit:
                return rows[:limit]
            if len(ids) < at_once:
                break
            window = window.beyond(ids[-1], newest_first=newest_first)
    return rows


async def _candidates(
    conn: Connection, wanted: CallFilter, window: Window, limit: int, *, newest_first: bool
) -> list[UUID]:
    parameters = {
        **_bounds(window),
        **_conditions(wanted),
        "query": tsquery(wanted, window.slots),
        "needs_index": wanted.needs_index,
        "limit": limit,
    }
    found = await conn.execute(query("found_before" if newest_first else "found_after"), parameters)
    return [row["call_id"] for row in await found.fetchall()]


async def _rows(
    conn: Connection, wanted: CallFilter, since: UUID, before: UUID, limit: int, ids: list[UUID] | None = None
) -> list[DictRow]:
    return await (await conn.execute(query("list_calls"), of_list(wanted, since, before, limit, ids))).fetchall()


def of_count(wanted: CallFilter, since: UUID, before: UUID, limit: int) -> dict[str, Any]:
    """The parameters of `count_unindexed`."""
    return {"since": since, "before": before, "limit": limit, **_conditions(wanted)}


def of_list(
    wanted: CallFilter, since: UUID, before: UUID, limit: int, ids: list[UUID] | None = None
) -> dict[str, Any]:
    """The parameters of `list_calls`."""
    return {"since": since, "before": before, "limit": limit, "ids": ids, **_conditions(wanted)}


def _bounds(window: Window) -> dict[str, UUID]:
    return {"since": window.since, "before": window.before}


def _conditions(wanted: CallFilter) -> dict[str, Any]:
    asked = {name: getattr(wanted, name) for name in _STORED}
    # Whether it decided so is known before the call's row has it, and of calls whose row never will.
    policy = None if wanted.asks_decision else wanted.policy
    without = [each for each in wanted.without or () if each not in NEEDS_INDEX]
    return asked | {
        "policy": policy,
        "outcome": None if wanted.outcome is None else [*wanted.outcome],
        "without": without or None,
    }


def _is_searched(wanted: CallFilter) -> bool:
    """Whether more is asked for than a range of ids."""
    return wanted.needs_index or any(value is not None for value in _conditions(wanted).values())
