"""Calls to be taken elsewhere: files of one, texts of it to copy, and a line for each that a filter lets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from luthien.config import PUBLIC_UPSTREAMS
from luthien.debug.call.lookup import Found, Listed, Lookup
from luthien.debug.diff import Differ
from luthien.debug.export.forms import FORMS, Whole, all_texts, children, export_call
from luthien.debug.export.lines import Line, as_lines, line_of, line_without
from luthien.debug.export.parties import Addresses, NotInRecord
from luthien.debug.pages.call import unknown_call
from luthien.debug.search.filters import FilterError, read_filter
from luthien.debug.views import EXPORTS_AT_ONCE, Sought, Views
from luthien.debug.web import Streamed, json_response, not_yet, page
from luthien.errors import StoreBusy

UpstreamUrl = Callable[[str], str]

_COPIED = ("curl", "curl-provider", "pytest")
_MAX_COPIED_CHARS = 200_000
_LIMIT, _MAX_LIMIT = 10_000, 1_000_000


def add_exports(
    router: APIRouter,
    lookup: Callable[[], Lookup],
    views: Callable[[], Views],
    upstream_url: UpstreamUrl = PUBLIC_UPSTREAMS.__getitem__,
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
        if not views().exports.take():
            raise StoreBusy(f"{EXPORTS_AT_ONCE} exports are under way here: ask again when one of them is whole")
        found = as_lines(lookup(), wanted, before, limit, payloads=payloads, whole=_line_by(views()))
        headers = {"content-disposition": 'attachment; filename="calls.ndjson"'}
        return Streamed(found, "application/x-ndjson", headers, views().exports.give_back)

    @router.get("/debug/calls/{call_id}/export.{form}")
    async def export(request: Request, call_id: str, form: str) -> Response:
        sought = await views().find(lookup(), call_id)
        if not isinstance(sought, Sought) or form not in FORMS:
            return unknown_call(call_id, sought is not None and form in FORMS)
        asked = await children(lookup(), sought.found, [form])
        return await views().make(export_file, lookup(), sought, asked, _addresses(request, upstream_url), form)

    @router.get("/debug/calls/{call_id}/exports")
    async def exports(request: Request, call_id: str) -> Response:
        sought = await views().find(lookup(), call_id)
        if sought is None:
            return page("message.html", {"title": "No such call", "text": call_id}, status=404)
        if not isinstance(sought, Sought):
            return not_yet(page("pending.html", {"call_id": call_id}, status=202))
        asked = await children(lookup(), sought.found, _COPIED)
        return await views().make(exports_page, lookup(), sought, asked, _addresses(request, upstream_url))


def _line_by(views: Views) -> Line:
    """Lines of big calls are made where their pages are."""

    async def line(lookup: Lookup, listed: Listed) -> str:
        sought = await views.find(lookup, str(listed.row["call_id"]))
        if not isinstance(sought, Sought):
            return line_without(listed)
        return await views.make_resting(line_of, lookup, sought, listed)

    return line


def export_file(found: Found, differ: Differ, asked: tuple[Found, ...], addresses: Addresses, form: str) -> Response:
    """A call in one form, to be kept; `asked` are the calls that its policies made."""
    try:
        text, name = export_call(form, Whole(found, asked), addresses, differ)
    except NotInRecord as missing:
        return json_response({"error": str(missing)}, status=404)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=FORMS[form].media_type, headers=headers)


def exports_page(found: Found, differ: Differ, asked: tuple[Found, ...], addresses: Addresses) -> Response:
    """The page to copy from."""
    texts = all_texts(Whole(found, asked), addresses, _COPIED, differ)
    values = {
        "call_id": found.call.row["call_id"],
        "forms": FORMS,
        "texts": {name: text for name, text in texts.items() if isinstance(text, str)},
        "missing": {name: str(why) for name, why in texts.items() if isinstance(why, NotInRecord)},
        "max_chars": _MAX_COPIED_CHARS,
    }
    return page("copy.html", values)


def _addresses(request: Request, upstream_url: UpstreamUrl) -> Addresses:
    """The gateway is where the page was asked for. Another process must be able to read it."""
    upstreams = {provider: upstream_url(provider) for provider in PUBLIC_UPSTREAMS}
    return Addresses(str(request.base_url).rstrip("/"), upstreams.__getitem__)
