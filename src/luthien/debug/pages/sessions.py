"""The sessions: the latest of them, and one call by call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from luthien.debug.addresses import session_json, session_page
from luthien.debug.call.lookup import Found, Listed, Lookup
from luthien.debug.diff import Differ
from luthien.debug.diffing.values import dumps
from luthien.debug.sessions.session_view import NEEDED, SessionViewer, ShownCall
from luthien.debug.showing.shown import size
from luthien.debug.web import json_response, page, wants_json
from luthien.store.stored import CallRow
from luthien.store.windows import NEWEST

MAX_CALL_BYTES = 8 * 1024 * 1024
"""Payloads of a call that has more are not read for the page of its session."""
MAX_PAGE_BYTES = 96 * 1024 * 1024
"""All that is read for one page, one call after the other; the calls that come last do without."""
MAX_TOTALLED = 10_000
"""So many of the latest calls of a session are added up."""

_LOOK_BACK = 20
_WINDOW = 2_000
_AT_ONCE = 2
_OLDEST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A part of a session: what comes after an id, or before one."""

    session_id: str
    after: UUID | None
    before: UUID | None
    limit: int


@dataclass(frozen=True, slots=True)
class _Part:
    """The calls of a part, those before it, and whether there are more after it."""

    earlier: Sequence[Listed]
    calls: Sequence[Listed]
    has_more: bool


def add_sessions(router: APIRouter, lookup: Callable[[], Lookup], differ: Differ) -> None:
    """The list of sessions and the page of one, with their JSON twins."""
    reading = asyncio.Semaphore(_AT_ONCE)

    @router.get("/debug/sessions")
    @router.get("/debug/sessions.json")
    @router.get("/debug/sessions/{session:path}")
    async def sessions(
        request: Request,
        session: str = "",
        session_id: Annotated[str, Query(alias="id")] = "",
        after: UUID | None = None,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=50)] = 20,
    ) -> Response:
        named = session_id or session.removesuffix(".json")
        if not named:
            return await _list(request, lookup(), before)
        asked = _Asked(named, after, before, limit)
        if "\0" in named:  # Postgres would refuse to look for it
            return _nothing(request, asked)
        async with reading:
            return await _session(request, lookup(), asked, differ)


async def _list(request: Request, lookup: Lookup, before: UUID | None) -> Response:
    found, further = await lookup.sessions(before or NEWEST, _WINDOW)
    if wants_json(request):
        following = f"/debug/sessions.json?before={further}" if further else None
        return json_response({"sessions": [_row_as_dict(row) for row in found], "next": following})
    values = {"sessions": found, "older": further, "before": before, "window": _WINDOW}
    return page("sessions.html", values)


async def _session(request: Request, lookup: Lookup, asked: _Asked, differ: Differ) -> Response:
    totals = await lookup.session_totals(asked.session_id, MAX_TOTALLED)
    is_whole = totals["calls"] < MAX_TOTALLED
    bounds = _bounds(totals, is_whole=is_whole)
    part = await _part_of(lookup, asked, *bounds)
    if not part.calls:
        return _nothing(request, asked)
    number = None
    if is_whole:
        number = 1 + await lookup.session_count(asked.session_id, bounds[0], part.calls[0].row["call_id"])
    shown = await show_calls(lookup, part.earlier, part.calls, number, differ)
    values: dict[str, Any] = {
        "session_id": asked.session_id,
        "totals": totals,
        "is_whole": is_whole,
        "calls": shown,
        "threads": _threads(shown),
        **_ways(asked, part, session_page),
    }
    if not wants_json(request):
        html = {"json": session_json(asked.session_id, after=asked.after, before=asked.before, limit=asked.limit)}
        return await asyncio.to_thread(page, "session.html", values | html)
    twin = {
        "session_id": asked.session_id,
        "totals": _totals_as_dict(totals, is_whole),
        "calls": [each.as_dict() for each in shown],
        "next": _ways(asked, part, session_json)["later"],
        "previous": _ways(asked, part, session_json)["earlier"],
    }
    return Response(await asyncio.to_thread(dumps, twin), media_type="application/json")


async def show_calls(
    lookup: Lookup, earlier: Sequence[Listed], calls: Sequence[Listed], first_number: int | None, differ: Differ
) -> list[ShownCall]:
    """Calls in order of time, as far as their payloads are not too much; those `earlier` are only looked back at."""
    sizes = await lookup.payload_bytes([each.row["call_id"] for each in (*earlier, *calls)])
    readable = _readable(earlier, calls, sizes)
    viewer = SessionViewer(differ)
    for each in earlier:
        found = await lookup.call(each.row["call_id"], NEEDED) if each.row["call_id"] in readable else None
        if isinstance(found, Found):
            await asyncio.to_thread(viewer.note, found)
    shown: list[ShownCall] = []
    for number, each in zip(count(first_number or 0), calls, strict=False):
        known = number if first_number else 0
        found = await lookup.call(each.row["call_id"]) if each.row["call_id"] in readable else None
        if isinstance(found, Found):
            shown.append(await asyncio.to_thread(viewer.show, each, known, found))
        else:
            shown.append(viewer.skip(each, known, _why_not(each, sizes)))
    return shown


def _readable(earlier: Sequence[Listed], calls: Sequence[Listed], sizes: Mapping[UUID, int]) -> set[UUID]:
    """The calls to be read: those of the page first, then those before it, the latest first."""
    room = MAX_PAGE_BYTES
    chosen: set[UUID] = set()
    for each in (*calls, *reversed(earlier)):
        call_id = each.row["call_id"]
        has = sizes.get(call_id)
        if has is not None and each.row["parent_call_id"] is None and has <= min(room, MAX_CALL_BYTES):
            chosen.add(call_id)
            room -= has
    return chosen


def _why_not(listed: Listed, sizes: Mapping[UUID, int]) -> str:
    if listed.row["parent_call_id"] is not None:
        return "a policy asked a model"
    has = sizes.get(listed.row["call_id"])
    if has is None:
        return "none of its records is stored"
    if has > MAX_CALL_BYTES:
        return f"not compared here: its payloads have {size(has)}, and {size(MAX_CALL_BYTES)} may be"
    return "not compared here: the calls on this page have too much together; ask for fewer with limit="


def _bounds(totals: CallRow, *, is_whole: bool) -> tuple[UUID, UUID]:
    """The range of ids that the calls of the session are in, as far as that is known."""
    if totals["calls"] and is_whole:
        return totals["oldest"], UUID(int=totals["newest"].int + 1)
    return _OLDEST, NEWEST


async def _part_of(lookup: Lookup, asked: _Asked, first: UUID, behind: UUID) -> _Part:
    """The part that is asked for; all calls are from `first` on, and before `behind`."""
    session_id, limit = asked.session_id, asked.limit
    if asked.before is not None and asked.after is None:
        until = min(asked.before, behind)
        back = await lookup.session(session_id, first, until, limit + _LOOK_BACK, backwards=True)
        return _Part(back[:-limit], back[-limit:], has_more=asked.before != NEWEST and bool(back))
    since = first if asked.after is None else max(first, UUID(int=min(asked.after.int + 1, NEWEST.int)))
    found = await lookup.session(session_id, since, behind, limit + 1)
    calls = found[:limit]
    earlier: list[Listed] = []
    if calls and asked.after is not None:
        earlier = await lookup.session(session_id, first, calls[0].row["call_id"], _LOOK_BACK, backwards=True)
    return _Part(earlier, calls, len(found) > limit)


def _ways(asked: _Asked, part: _Part, address: Callable[..., str]) -> dict[str, str | None]:
    """Links to the first, the earlier, the later and the last calls of the session; None where there are none."""
    ids = [each.row["call_id"] for each in part.calls]
    limit = asked.limit if asked.limit != 20 else None
    return {
        "first": address(asked.session_id, limit=limit) if part.earlier else None,
        "earlier": address(asked.session_id, before=ids[0], limit=limit) if part.earlier else None,
        "later": address(asked.session_id, after=ids[-1], limit=limit) if part.has_more else None,
        "last": address(asked.session_id, before=NEWEST, limit=limit) if part.has_more else None,
    }


def _threads(shown: Sequence[ShownCall]) -> list[tuple[str, list[ShownCall]]]:
    """The threads that the calls of a page are in, by name, each with its calls."""
    threads: dict[str, list[ShownCall]] = {}
    for each in shown:
        if each.thread is not None:
            threads.setdefault(each.thread, []).append(each)
    return sorted(threads.items(), key=lambda named: (len(named[0]), named[0]))


def _nothing(request: Request, asked: _Asked) -> Response:
    what = "after that call" if asked.after else "before that call" if asked.before else "in the record, or not yet"
    text = f"There is no call of the session {asked.session_id} {what}."
    if wants_json(request):
        return json_response({"error": text}, status=404)
    return page("message.html", {"title": "No such session", "text": text}, status=404)


def _row_as_dict(row: CallRow) -> dict[str, object]:
    return {
        "session_id": row["session_id"],
        "calls": row["calls"],
        "first_at": row["first_at"].isoformat(),
        "last_at": row["last_at"].isoformat(),
        "last_call": str(row["last_call"]),
        "blocked": row["blocked"],
        "changed": row["changed"],
        "models": row["models"] or [],
        "links": {"page": session_page(row["session_id"]), "json": session_json(row["session_id"])},
    }


def _totals_as_dict(totals: CallRow, is_whole: bool) -> dict[str, object]:
    return {
        "calls": totals["calls"],
        "is_whole": is_whole,
        "asked_by_policies": totals["asked_by_policies"],
        "blocked": totals["blocked"],
        "failed": totals["failed"],
        "unfinished": totals["unfinished"],
        "changed": totals["changed"],
        "tokens": {
            "input": totals["input_tokens"],
            "output": totals["output_tokens"],
            "calls": totals["with_tokens"],
        },
        "ms": {"total": totals["duration_ms"], "policy": totals["policy_ms"], "upstream": totals["upstream_ms"]},
        "started_at": totals["started_at"].isoformat(),
        "ended_at": totals["ended_at"].isoformat(),
        "models": totals["models"] or [],
    }
