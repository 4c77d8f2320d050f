"""The list of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from luthien.debug.call_json import row_as_dict
from luthien.debug.filters import FilterError, query_of, read_filter
from luthien.debug.lookup import Listed, Lookup
from luthien.debug.web import json_response, page, wants_json


def add_call_list(router: APIRouter, lookup: Callable[[], Lookup]) -> None:
    """The list, newest first, of all calls or of those that a filter lets through."""

    @router.get("/debug/calls")
    @router.get("/debug/calls.json")
    async def calls(
        request: Request,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        try:
            wanted = read_filter(request.query_params.multi_items(), also=("before", "limit"))
        except FilterError as error:
            if wants_json(request):
                return json_response({"error": str(error), "parameter": error.parameter}, status=400)
            return page("message.html", {"title": "This filter cannot be read", "text": str(error)}, status=400)
        found = await lookup().calls(wanted, before, limit + 1)
        listed, has_more = found[:limit], len(found) > limit
        older = str(listed[-1].row["call_id"]) if has_more else None
        if wants_json(request):
            following = f"/debug/calls.json?{query_of(wanted, before=older, limit=limit)}" if older else None
            return json_response({"calls": [_as_listed(each) for each in listed], "next": following})
        values = {"calls": listed, "older": older, "limit": limit, "before": before, "wanted": wanted}
        return page("calls.html", values)


def _as_listed(listed: Listed) -> dict[str, object]:
    return {**row_as_dict(listed.row), "completeness": listed.completeness.as_dict()}
