"""The calls of a session. It may have any number of them, on any days, so they are looked for in windows of time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from luthien.store.sql import query
from luthien.store.windows import NEWEST, session_windows

Connection = AsyncConnection[DictRow]

_SMALLEST, _LARGEST = ("oldest", "started_at"), ("newest", "ended_at")


async def ids(
    conn: Connection, session_id: str, since: UUID, before: UUID, limit: int, *, backwards: bool
) -> list[UUID]:
    """So many calls of a range, from its beginning or, newest first, from its end."""
    found: list[UUID] = []
    for first, behind in session_windows(since, before, newest_first=backwards):
        asked = {"session": session_id, "since": first, "before": behind, "limit": limit - len(found)}
        rows = await conn.execute(query("session_before" if backwards else "session_after"), asked)
        found += [row["call_id"] for row in await rows.fetchall()]
        if len(found) >= limit:
            break
    return found


async def totals(conn: Connection, session_id: str, limit: int) -> DictRow:
    """What the latest calls, so many at most, add up to, with the ids of the `oldest` and the `newest` of them."""
    parts: list[DictRow] = []
    left = limit
    for first, behind in session_windows(UUID(int=0), NEWEST, newest_first=True):
        asked = {"session": session_id, "since": first, "before": behind, "limit": left}
        parts += await (await conn.execute(query("session_totals"), asked)).fetchall()
        left -= parts[-1]["calls"]
        if left <= 0:
            break
    return {name: _together(name, [part[name] for part in parts]) for name in parts[0]}


async def count(conn: Connection, session_id: str, since: UUID, before: UUID) -> int:
    """How many calls of the session a range has."""
    counted = 0
    for first, behind in session_windows(since, before, newest_first=True):
        asked = {"session": session_id, "since": first, "before": behind}
        [row] = await (await conn.execute(query("session_count"), asked)).fetchall()
        counted += row["calls"]
    return counted


def _together(name: str, parts: Iterable[Any]) -> Any:
    """What some windows say of one thing; None where none says anything."""
    said = [part for part in parts if part is not None]
    if not said:
        return None
    if name in _SMALLEST:
        return min(said)
    if name in _LARGEST:
        return max(said)
    return sorted({model for models in said for model in models}) if name == "models" else sum(said)
