"""The debug pages and their JSON twins. Every one wants a sign-in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from luthien.debug.call_json import call_as_dict, diffs_as_dict, row_as_dict, timeline_as_dict
from luthien.debug.call_view import CallView, stage_named, view_call
from luthien.debug.completeness import NOTHING_YET, State, reason_in_words
from luthien.debug.lookup import Found, Listed, Lookup
from luthien.debug.shown import duration, pretty, size, visible
from luthien.debug.signin import SignIn, is_same_origin
from luthien.debug.values import dumps
from luthien.errors import StoreError
from luthien.exchange import STAGES

_STATIC = Path(__file__).parent / "static"
_RETRY_AFTER_S = 1
_FIRST_PAGE = "/debug/calls"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_templates = Environment(
    loader=PackageLoader("luthien.debug"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_templates.filters.update(reason=reason_in_words, visible=visible, pretty=pretty, size=size, duration=duration)


def debug_router(sign_in: SignIn, lookup: Callable[[], Lookup]) -> APIRouter:
    """The pages; `lookup` is asked for at each request, since it exists only while the app runs."""
    router = APIRouter(route_class=_guarded(sign_in))

    @router.get("/debug")
    async def index() -> Response:
        return RedirectResponse(_FIRST_PAGE)

    @router.get("/debug/static/luthien.css")
    async def stylesheet() -> Response:
        return FileResponse(_STATIC / "luthien.css", media_type="text/css")

    @router.get("/debug/static/icon.svg")
    async def icon() -> Response:
        return FileResponse(_STATIC / "icon.svg", media_type="image/svg+xml")

    @router.get("/debug/sign-in")
    async def sign_in_page(
        request: Request,
        token: str | None = None,
        page: Annotated[str, Query(alias="next", pattern=r"^/debug/[\w./-]*$")] = _FIRST_PAGE,
    ) -> Response:
        if token is not None:
            return _signed_in(sign_in, request, token, page)
        return _page("sign_in.html", {"possible": sign_in.is_possible, "failed": False})

    @router.post("/debug/sign-in")
    async def sign_in_form(request: Request) -> Response:
        if not is_same_origin(request):
            return _json({"error": "this form is not ours"}, status=403)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > 4096:
                return _json({"error": "that is no token"}, status=413)
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
        return _signed_in(sign_in, request, fields.get("token", [""])[0])

    @router.get("/debug/calls")
    @router.get("/debug/calls.json")
    async def calls(
        request: Request,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        found = await lookup().calls(before, limit + 1)
        listed, has_more = found[:limit], len(found) > limit
        older = str(listed[-1].row["call_id"]) if has_more else None
        if _wants_json(request):
            following = f"/debug/calls.json?before={older}&limit={limit}" if older else None
            return _json({"calls": [_as_listed(each) for each in listed], "next": following})
        return _page("calls.html", {"calls": listed, "older": older, "limit": limit, "before": before})

    @router.get("/debug/calls/{call_id}/diff.json")
    async def diff(call_id: str) -> Response:
        return await _with_view(lookup(), call_id, diffs_as_dict)

    @router.get("/debug/calls/{call_id}/timeline.json")
    async def timeline(call_id: str) -> Response:
        return await _with_view(lookup(), call_id, timeline_as_dict)

    @router.get("/debug/calls/{call_id}/stages/{stage}/raw")
    async def raw(call_id: str, stage: str) -> Response:
        found, name = await _find(lookup(), call_id), stage_named(STAGES, stage)
        if not isinstance(found, Found) or name is None:
            return _unknown(call_id, found is not None and name is not None)
        view = await asyncio.to_thread(view_call, found.call, found.evidence)
        shown = view.stages[name]
        payload = shown.raw
        if payload is None:
            return _json({"error": f"{name} is {shown.state}"}, status=404)
        kind = "capped.bin" if shown.is_capped else "bin" if shown.partial is None else "partial.sse"
        headers = {"content-disposition": f'attachment; filename="{view.call_id}-{name}.{kind}"'}
        if shown.note is not None:
            headers["luthien-note"] = shown.note
        return Response(payload, media_type="application/octet-stream", headers=headers)

    @router.get("/debug/calls/{call_id}")
    async def call(request: Request, call_id: str) -> Response:
        plain_id = call_id.removesuffix(".json")
        if plain_id != call_id or _wants_json(request):
            return await _with_view(lookup(), plain_id, call_as_dict)
        found = await _find(lookup(), plain_id)
        if found is None:
            return _page("message.html", {"title": "No such call", "text": plain_id}, status=404)
        if not isinstance(found, Found):
            return _not_yet(_page("pending.html", {"call_id": plain_id}, status=202))
        view = await asyncio.to_thread(view_call, found.call, found.evidence)
        is_pending = view.completeness.state is State.PENDING
        page = await asyncio.to_thread(
            _page, "call.html", {"view": view, "row": view.row}, status=202 if is_pending else 200
        )
        return _not_yet(page) if is_pending else page

    @router.get("/v2/debug/request/{call_id}")
    async def seed_name(call_id: UUID) -> Response:
        return RedirectResponse(f"/debug/calls/{call_id}", status_code=308)

    return router


def _guarded(sign_in: SignIn) -> type[APIRoute]:
    """Routes that ask for a sign-in, say when the database is away, and carry the headers of hostile content."""
    open_to_all = {"/debug/sign-in", "/debug/static/luthien.css", "/debug/static/icon.svg"}

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                if self.path not in open_to_all and not sign_in.is_signed_in(request):
                    response = _refusal(request, sign_in)
                else:
                    try:
                        response = await handle(request)
                    except StoreError as error:
                        response = _away(request, str(error))
                response.headers.update(_HEADERS)
                return response

            return guarded

    return Guarded


async def _find(lookup: Lookup, call_id: str) -> Any:
    try:
        return await lookup.call(UUID(call_id))
    except ValueError:
        return None


async def _with_view(lookup: Lookup, call_id: str, show: Callable[[CallView], dict[str, object]]) -> Response:
    """The JSON that `show` makes of a call; 202 while it is not all there, 404 when there is no such call."""
    found = await _find(lookup, call_id)
    if not isinstance(found, Found):
        return _unknown(call_id, found is not None)
    view = await asyncio.to_thread(view_call, found.call, found.evidence)
    text = await asyncio.to_thread(lambda: dumps(show(view)))
    is_pending = view.completeness.state is State.PENDING
    response = Response(text, status_code=202 if is_pending else 200, media_type="application/json")
    return _not_yet(response) if is_pending else response


def _as_listed(listed: Listed) -> dict[str, object]:
    return {**row_as_dict(listed.row), "completeness": listed.completeness.as_dict()}


def _unknown(call_id: str, is_pending: bool) -> Response:
    if is_pending:
        return _not_yet(_json({"call_id": call_id, "completeness": NOTHING_YET.as_dict()}, status=202))
    return _json({"error": f"there is no call {call_id}"}, status=404)


def _not_yet(response: Response) -> Response:
    response.headers["retry-after"] = str(_RETRY_AFTER_S)
    return response


def _signed_in(sign_in: SignIn, request: Request, token: str, page: str = _FIRST_PAGE) -> Response:
    if not sign_in.accepts(token):
        values = {"possible": sign_in.is_possible, "failed": True}
        return _page("sign_in.html", values, status=401)
    # Away from the address that shows the token.
    response = RedirectResponse(page, status_code=303)
    sign_in.remember(response, request)
    return response


def _refusal(request: Request, sign_in: SignIn) -> Response:
    if _wants_json(request):
        response = _json({"error": "sign in: send the debug token as a bearer token"}, status=401)
        response.headers["www-authenticate"] = 'Bearer realm="luthien debug"'
        return response
    return _page("sign_in.html", {"possible": sign_in.is_possible, "failed": False}, status=401)


def _away(request: Request, message: str) -> Response:
    if _wants_json(request):
        return _not_yet(_json({"error": message}, status=503))
    values = {"title": "The database is away", "text": message}
    return _not_yet(_page("message.html", values, status=503))


def _wants_json(request: Request) -> bool:
    path, accept = request.url.path, request.headers.get("accept", "")
    return path.endswith((".json", "/raw")) or "text/html" not in accept


def _json(value: object, status: int = 200) -> JSONResponse:
    return JSONResponse(value, status_code=status)


def _page(template: str, values: Mapping[str, object], status: int = 200) -> Response:
    # Lone surrogates are shown, and UTF-8 has no bytes for them.
    html = _templates.get_template(template).render(**values).encode("utf-8", "replace")
    return Response(html, status_code=status, media_type="text/html; charset=utf-8")
