"""The page of one call, its JSON twins, and the bytes of its stages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from luthien.debug.blame import Differ
from luthien.debug.call_json import call_as_dict, diffs_as_dict, timeline_as_dict
from luthien.debug.call_view import CallView, stage_named, view_call
from luthien.debug.completeness import NOTHING_YET, State
from luthien.debug.lookup import Found, Lookup, Pending
from luthien.debug.values import dumps
from luthien.debug.web import json_response, not_yet, page, wants_json
from luthien.exchange import STAGES


def add_call(router: APIRouter, lookup: Callable[[], Lookup], differ: Differ) -> None:
    """All that is under a call's own address; `differ` may be asked by several threads at once."""

    @router.get("/debug/calls/{call_id}/diff.json")
    async def diff(call_id: str) -> Response:
        return await _with_view(lookup(), call_id, differ, diffs_as_dict)

    @router.get("/debug/calls/{call_id}/timeline.json")
    async def timeline(call_id: str) -> Response:
        return await _with_view(lookup(), call_id, differ, timeline_as_dict)

    @router.get("/debug/calls/{call_id}/stages/{stage}/raw")
    async def raw(call_id: str, stage: str) -> Response:
        found, name = await find_call(lookup(), call_id), stage_named(STAGES, stage)
        if not isinstance(found, Found) or name is None:
            return unknown_call(call_id, found is not None and name is not None)
        view = await asyncio.to_thread(view_call, found.call, found.evidence, differ)
        shown = view.stages[name]
        payload = shown.raw
        if payload is None:
            return json_response({"error": f"{name} is {shown.state}"}, status=404)
        kind = "capped.bin" if shown.is_capped else "bin" if shown.partial is None else "partial.sse"
        headers = {"content-disposition": f'attachment; filename="{view.call_id}-{name}.{kind}"'}
        if shown.note is not None:
            headers["luthien-note"] = shown.note
        return Response(payload, media_type="application/octet-stream", headers=headers)

    @router.get("/debug/calls/{call_id}")
    async def call(request: Request, call_id: str) -> Response:
        plain_id = call_id.removesuffix(".json")
        if plain_id != call_id or wants_json(request):
            return await _with_view(lookup(), plain_id, differ, call_as_dict)
        found = await find_call(lookup(), plain_id)
        if found is None:
            return page("message.html", {"title": "No such call", "text": plain_id}, status=404)
        if not isinstance(found, Found):
            return not_yet(page("pending.html", {"call_id": plain_id}, status=202))
        view = await asyncio.to_thread(view_call, found.call, found.evidence, differ)
        is_pending = view.completeness.state is State.PENDING
        html = await asyncio.to_thread(
            page, "call.html", {"view": view, "row": view.row}, status=202 if is_pending else 200
        )
        return not_yet(html) if is_pending else html

    @router.get("/v2/debug/request/{call_id}")
    async def seed_name(call_id: UUID) -> Response:
        return RedirectResponse(f"/debug/calls/{call_id}", status_code=308)


async def find_call(lookup: Lookup, call_id: str) -> Found | Pending | None:
    """What is known of the call that an address names; None also when that is no id."""
    try:
        return await lookup.call(UUID(call_id))
    except ValueError:
        return None


def unknown_call(call_id: str, is_pending: bool) -> Response:
    """The JSON answer about a call that is not in the record, or not yet."""
    if is_pending:
        return not_yet(json_response({"call_id": call_id, "completeness": NOTHING_YET.as_dict()}, status=202))
    return json_response({"error": f"there is no call {call_id}"}, status=404)


async def _with_view(
    lookup: Lookup, call_id: str, differ: Differ, show: Callable[[CallView], dict[str, object]]
) -> Response:
    """The JSON that `show` makes of a call; 202 while it is not all there, 404 when there is no such call."""
    found = await find_call(lookup, call_id)
    if not isinstance(found, Found):
        return unknown_call(call_id, found is not None)
    view = await asyncio.to_thread(view_call, found.call, found.evidence, differ)
    text = await asyncio.to_thread(lambda: dumps(show(view)))
    is_pending = view.completeness.state is State.PENDING
    response = Response(text, status_code=202 if is_pending else 200, media_type="application/json")
    return not_yet(response) if is_pending else response
