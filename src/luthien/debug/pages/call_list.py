"""The list of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from luthien.debug.call.call_json import row_as_dict
from luthien.debug.call.lookup import Listed, Lookup
from luthien.debug.search.filters import FilterError, query_of, read_filter
from luthien.debug.search.in_words import address
from luthien.debug.search.listing import list_values, suggestions
from luthien.debug.web import json_response, page, wants_json
from luthien.store.call_filter import EVERY_CALL, CallFilter

_LIMIT = 50
_BASE = "/debug/calls"
# As many steps back as an address has room for; further ones lead to the newest calls.
_STEPS = 40


def add_call_list(router: APIRouter, lookup: Callable[[], Lookup]) -> None:
    """The list, newest first, of all calls or of those that a filter lets through."""

    @router.get("/debug/calls")
    @router.get("/debug/calls.json")
    async def calls(
        request: Request,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = _LIMIT,
        steps: Annotated[str, Query(pattern=r"^(?:-|[0-9a-f]{32})(?:\.[0-9a-f]{32})*$", max_length=2000)] = "-",
    ) -> Response:
        items = request.query_params.multi_items()
        try:
            wanted = read_filter(items, also=("before", "limit", "steps"))
        except FilterError as error:
            if wants_json(request):
                return json_response({"error": str(error), "parameter": error.parameter}, status=400)
            values = {**list_values(_BASE, EVERY_CALL, items), "error": error, "suggested": {}}
            return page("calls.html", values, status=400)
        # Asked for before the list, so that what changes in between comes twice rather than not at all.
        is_followed = before is None and not wanted.needs_index and not wants_json(request)
        tip = await lookup().tip() if is_followed else None
        found = await lookup().calls(wanted, before, limit + 1)
        listed, has_more = found[:limit], len(found) > limit
        older = listed[-1].row["call_id"] if has_more else None
        unindexed = await lookup().unindexed(wanted, before, older) if wanted.needs_index else None
        if wants_json(request):
            following = f"/debug/calls.json?{query_of(wanted, before=older, limit=limit)}" if older else None
            twin = {"calls": [_as_listed(each) for each in listed], "next": following}
            return json_response(twin if unindexed is None else {**twin, "not_searched": asdict(unindexed)})
        values = {
            **list_values(_BASE, wanted, items),
            **_pages(wanted, before, older, limit, steps),
            "calls": listed,
            "error": None,
            "unindexed": unindexed,
            "suggested": suggestions(listed),
            "live": tip and address("/debug/events", wanted, after=tip.position, rows="list"),
            "now": datetime.now(UTC),
            "origin": f"{request.url.scheme}://{request.url.netloc}",
        }
        return page("calls.html", values)


def _pages(wanted: CallFilter, before: UUID | None, older: UUID | None, limit: int, steps: str) -> dict[str, Any]:
    """The addresses around this page. `steps` are the pages on the way here, by the ids that they are before."""
    size = limit if limit != _LIMIT else None
    *earlier, last = steps.split(".")
    here = f"{steps}.{before.hex}" if before else "-"
    trail = ".".join(here.split(".")[-_STEPS:])

    def at(bound: str | UUID | None, way: str | None) -> str:
        return address(_BASE, wanted, before=bound, limit=size, steps=None if way in (None, "-", "") else way)

    return {
        "before": before,
        "limit": limit,
        "newest": at(None, None),
        "here": at(before, steps),
        "newer": at(None, None) if last == "-" else at(UUID(last), ".".join(earlier)),
        "older": older and at(older, trail),
        "json": address("/debug/calls.json", wanted, before=before, limit=size),
    }


def _as_listed(listed: Listed) -> dict[str, object]:
    return {**row_as_dict(listed.row), "completeness": listed.completeness.as_dict()}
