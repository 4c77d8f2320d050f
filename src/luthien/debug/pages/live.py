"""The live monitor, and the feed that it and the list follow."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from luthien.debug.call.call_json import row_as_dict
from luthien.debug.call.lookup import Listed, Lookup
from luthien.debug.kept import Change, Notice
from luthien.debug.live import KEPT, REPLAY_S, Feed, TooManyFollowers
from luthien.debug.search.filters import FilterError, read_filter
from luthien.debug.search.in_words import address
from luthien.debug.search.listing import list_values, row_as_html, suggestions
from luthien.debug.search.matching import matches, may_leave
from luthien.debug.web import Streamed, json_response, not_yet, page
from luthien.store.call_filter import EVERY_CALL, NEEDS_INDEX, CallFilter
from luthien.store.feed import Position

_BASE = "/debug/live"
_RETRY_MS = 2000
_SHOWN = 50
_MOST_TEXTS = 500
_LOST = {
    "too_many": f"more than {KEPT} calls changed meanwhile",
    "too_old": f"that was more than {REPLAY_S // 3600} hours ago",
    "unknown": "this database has never been there: it was restored, or is another one",
    "unreadable": "that is no position of this feed",
}
_HELD = "Waits for a transaction of another session, open since {} UTC; what is stored since then comes when it ends"
_RELOAD = "read /debug/calls.json for what is there, and go on from here"


class _Texts:
    """What followers are told of changes, made once for all who follow with the same filter."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, CallFilter, str | None], tuple[Change, str]] = OrderedDict()

    def of(self, change: Change, wanted: CallFilter, rows: str | None) -> str:
        key = (id(change), wanted, rows)  # the change is kept with its text, so nothing else has its id meanwhile
        if key not in self._made:
            self._made[key] = change, _call(change, wanted, rows)
            if len(self._made) > _MOST_TEXTS:
                self._made.popitem(last=False)
        return self._made[key][1]


def add_live(router: APIRouter, lookup: Callable[[], Lookup], feed: Callable[[], Feed]) -> None:
    """The page `/debug/live` and the feed `/debug/events`."""
    texts = _Texts()

    @router.get("/debug/live")
    async def live(request: Request) -> Response:
        items = request.query_params.multi_items()
        try:
            wanted = read_live_filter(items)
        except FilterError as error:
            values = {**list_values(_BASE, EVERY_CALL, items), "error": error, "suggested": {}}
            return page("live.html", values, status=400)
        tip = await lookup().tip()
        calls = await lookup().calls(wanted, None, _SHOWN)
        values = {
            **list_values(_BASE, wanted, items),
            "calls": calls,
            "processes": await _processes(lookup(), calls),
            "error": None,
            "suggested": suggestions(calls),
            "live": address("/debug/events", wanted, after=tip.position, rows="live"),
        }
        return page("live.html", values)

    @router.get("/debug/events/rows")
    async def rows_of(
        request: Request, call: Annotated[list[UUID], Query(max_length=_SHOWN)], rows: Literal["list", "live"]
    ) -> Response:
        """The rows of calls as they are now, by id: what makes no event, as that a process died, shows in them."""
        try:
            wanted = read_live_filter(request.query_params.multi_items(), also=("after", "rows", "call"))
        except FilterError as error:
            return _refusal(error)
        found = await lookup().calls_of(call)
        names = await _processes(lookup(), found)
        return json_response(
            {str(each.row["call_id"]): _row(wanted, each, names.get(each.row["process_id"]), rows) for each in found}
        )

    @router.get("/debug/events")
    async def events(request: Request) -> Response:
        items = request.query_params.multi_items()
        try:
            wanted = read_live_filter(items, also=("after", "rows"))
        except FilterError as error:
            return _refusal(error)
        rows = request.query_params.get("rows")
        if rows not in (None, "", "list", "live"):
            return json_response({"error": "rows: list or live", "parameter": "rows"}, status=400)
        came_with = request.headers.get("last-event-id") or request.query_params.get("after") or None
        following = feed()
        if following.is_full:
            return not_yet(json_response({"error": "too many follow this process already"}, status=503))
        events = _events(following, came_with, wanted, rows or None, texts)
        return Streamed(events, "text/event-stream", {"x-accel-buffering": "no"})


def _refusal(error: FilterError) -> Response:
    return json_response({"error": str(error), "parameter": error.parameter}, status=400)


async def _processes(lookup: Lookup, calls: list[Listed]) -> dict[UUID, str]:
    served_by = {each.row["process_id"] for each in calls} - {None}
    return await lookup.processes(served_by) if served_by else {}


def _row(wanted: CallFilter, listed: Listed, process: str | None, rows: str) -> str:
    return row_as_html(_BASE if rows == "live" else "/debug/calls", wanted, listed, process)


def read_live_filter(items: list[tuple[str, str]], also: tuple[str, ...] = ()) -> CallFilter:
    """As `read_filter`; but what only the index knows cannot be followed."""
    wanted = read_filter(items, also=also)
    for name in NEEDS_INDEX:
        if wanted.asks(name):
            why = "only indexed calls can be asked for this, not those that come in: use the list"
            raise FilterError("without", f"{name}: {why}") if wanted.lacks(name) else FilterError(name, why)
    return wanted


async def _events(
    feed: Feed, came_with: str | None, wanted: CallFilter, rows: str | None, texts: _Texts
) -> AsyncGenerator[str, None]:
    after = None if came_with is None else Position.read(came_with)
    yield f"retry: {_RETRY_MS}\n\n"
    try:
        with feed.one_more():
            is_lost = came_with is not None and after is None
            async with aclosing(feed.follow(after)) as changes:
                async for each in changes:
                    text = _notice(each) if isinstance(each, Notice) else texts.of(each, wanted, rows)
                    if text:
                        yield text
                    if is_lost and isinstance(each, Notice) and each.kind == "hello":
                        is_lost = False
                        yield _notice(Notice("gap", each.position, "unreadable"))
    except TooManyFollowers:
        return


def _notice(notice: Notice) -> str:
    match notice.kind:
        case "alive":  # the browser takes the id for its next Last-Event-ID, and tells nobody
            return f": alive\nid: {notice.position}\n\n" if notice.position else ": alive\n\n"
        case "gap":
            why = _LOST[notice.reason]
            data = {"reason": notice.reason, "sentence": f"What came before is not told: {why}.", "reload": _RELOAD}
        case "away":
            data = {"sentence": notice.reason}
        case "held":
            data = {"since": notice.reason, "sentence": _HELD.format(notice.reason[11:16])}
        case _:
            data = {}
    return _event(notice.kind, notice.position, {**data, "position": notice.position and str(notice.position)})


def _call(change: Change, wanted: CallFilter, rows: str | None) -> str:
    row = change.listed.row
    if not matches(wanted, row):
        if not may_leave(wanted):
            return ""
        return _event("left", change.position, {"call_id": str(row["call_id"])})
    data = {
        **row_as_dict(row),
        "completeness": change.listed.completeness.as_dict(),
        "process": change.process,
    }
    if rows is not None:
        data["html"] = _row(wanted, change.listed, change.process, rows)
    return _event("call", change.position, data)


def _event(kind: str, position: Position | None, data: object) -> str:
    # ASCII: no line of it can end but where we say, and no lone surrogate is in the way.
    at = f"id: {position}\n" if position else ""
    return f"event: {kind}\n{at}data: {json.dumps(data)}\n\n"
