"""What all debug pages share: who may see them, the headers they carry, and how they are rendered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from luthien.debug.addresses import session_page
from luthien.debug.call.completeness import reason_in_words
from luthien.debug.showing.shown import duration, plain, pretty, size, visible
from luthien.debug.signin import SignIn
from luthien.errors import StoreError

OPEN_TO_ALL = "/debug/sign-in", "/debug/static/{name}"
"""Paths, as the routes write them, that need no sign-in."""

AT_ONCE = 3
"""How many pages that read whole calls are made at a time: each may take much memory, and a thread for seconds."""

_WHOLE_CALL = "/debug/calls/{call_id}"
_WAITS_FOR_TEMPO = "/debug/calls/{call_id}/trace.json"
_RETRY_AFTER_S = 1
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

templates = Environment(
    loader=PackageLoader("luthien.debug"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
templates.filters.update(
    reason=reason_in_words, visible=visible, plain=plain, pretty=pretty, size=size, duration=duration
)
templates.globals.update(session_page=session_page)


def guarded_by(sign_in: SignIn) -> type[APIRoute]:
    """Routes that ask for a sign-in, say when the database is away, and carry the headers of hostile content.

    Those of whole calls wait for each other, and are not made for who has gone meanwhile.
    """
    making = asyncio.Semaphore(AT_ONCE)

    async def made(handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
        await request.is_disconnected()  # takes the request's own message; the next one is that it has gone
        async with making:
            return Response(status_code=499) if await request.is_disconnected() else await handle(request)

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                if self.path not in OPEN_TO_ALL and not sign_in.is_signed_in(request):
                    response = _refusal(request, sign_in)
                else:
                    try:
                        is_large = self.path.startswith(_WHOLE_CALL) and self.path != _WAITS_FOR_TEMPO
                        response = await (made(handle, request) if is_large else handle(request))
                    except StoreError as error:
                        response = _away(request, str(error))
                response.headers.update(_HEADERS)
                return response

            return guarded

    return Guarded


def not_yet(response: Response) -> Response:
    """An answer that will be another one in a moment."""
    response.headers["retry-after"] = str(_RETRY_AFTER_S)
    return response


def _refusal(request: Request, sign_in: SignIn) -> Response:
    if wants_json(request):
        response = json_response({"error": "sign in: send the debug token as a bearer token"}, status=401)
        response.headers["www-authenticate"] = 'Bearer realm="luthien debug"'
        return response
    return page("sign_in.html", {"possible": sign_in.is_possible, "failed": False}, status=401)


def _away(request: Request, message: str) -> Response:
    if wants_json(request):
        return not_yet(json_response({"error": message}, status=503))
    values = {"title": "The database is away", "text": message}
    return not_yet(page("message.html", values, status=503))


def wants_json(request: Request) -> bool:
    """Whether a script asks, not a browser."""
    path, accept = request.url.path, request.headers.get("accept", "")
    return path.endswith((".json", "/raw")) or "text/html" not in accept


def json_response(value: object, status: int = 200) -> JSONResponse:
    return JSONResponse(value, status_code=status)


def page(template: str, values: Mapping[str, object], status: int = 200) -> Response:
    # Lone surrogates are shown, and UTF-8 has no bytes for them.
    html = templates.get_template(template).render(**values).encode("utf-8", "replace")
    return Response(html, status_code=status, media_type="text/html; charset=utf-8")
