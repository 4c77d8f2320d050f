"""Calls to be taken elsewhere: files of one, texts of it to copy, and a line for each that a filter lets through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from luthien.config import PUBLIC_UPSTREAMS
from luthien.debug.call.lookup import Found, Lookup
from luthien.debug.export.forms import FORMS, all_texts, export_call, whole_call
from luthien.debug.export.lines import as_lines
from luthien.debug.export.parties import Addresses, NotInRecord
from luthien.debug.pages.call import find_call, unknown_call
from luthien.debug.search.filters import FilterError, read_filter
from luthien.debug.web import json_response, not_yet, page

UpstreamUrl = Callable[[str], str]

_COPIED = ("curl", "curl-provider", "pytest")
_MAX_COPIED_CHARS = 200_000
_LIMIT, _MAX_LIMIT = 10_000, 1_000_000


def add_exports(
    router: APIRouter, lookup: Callable[[], Lookup], upstream_url: UpstreamUrl = PUBLIC_UPSTREAMS.__getitem__
) -> None:
    """To be added before the page of a call, whose address would take in that of the lines.

    Args:
        upstream_url: where a provider is.
    """

    @router.get("/debug/calls/export.ndjson")
    async def lines(
        request: Request,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_LIMIT)] = _LIMIT,
        payloads: bool = True,
    ) -> Response:
        try:
            wanted = read_filter(request.query_params.multi_items(), also=("before", "limit", "payloads"))
        except FilterError as error:
            return json_response({"error": str(error), "parameter": error.parameter}, status=400)
        found = as_lines(lookup(), wanted, before, limit, payloads=payloads)
        headers = {"content-disposition": 'attachment; filename="calls.ndjson"'}
        return StreamingResponse(found, media_type="application/x-ndjson", headers=headers)

    @router.get("/debug/calls/{call_id}/export.{form}")
    async def export(request: Request, call_id: str, form: str) -> Response:
        found = await find_call(lookup(), call_id)
        if not isinstance(found, Found) or form not in FORMS:
            return unknown_call(call_id, found is not None and form in FORMS)
        whole = await whole_call(lookup(), found, [form])
        try:
            text, name = await asyncio.to_thread(export_call, form, whole, _addresses(request, upstream_url))
        except NotInRecord as missing:
            return json_response({"error": str(missing)}, status=404)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(text, media_type=FORMS[form].media_type, headers=headers)

    @router.get("/debug/calls/{call_id}/exports")
    async def exports(request: Request, call_id: str) -> Response:
        found = await find_call(lookup(), call_id)
        if found is None:
            return page("message.html", {"title": "No such call", "text": call_id}, status=404)
        if not isinstance(found, Found):
            return not_yet(page("pending.html", {"call_id": call_id}, status=202))
        addresses = _addresses(request, upstream_url)
        whole = await whole_call(lookup(), found, _COPIED)
        texts = await asyncio.to_thread(all_texts, whole, addresses, _COPIED)
        values = {
            "call_id": found.call.row["call_id"],
            "forms": FORMS,
            "texts": {name: text for name, text in texts.items() if isinstance(text, str)},
            "missing": {name: str(why) for name, why in texts.items() if isinstance(why, NotInRecord)},
            "max_chars": _MAX_COPIED_CHARS,
        }
        return await asyncio.to_thread(page, "copy.html", values)


def _addresses(request: Request, upstream_url: UpstreamUrl) -> Addresses:
    """The gateway is where the page was asked for."""
    return Addresses(str(request.base_url).rstrip("/"), upstream_url)
