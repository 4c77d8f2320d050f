"""What all debug pages share: who may see them, the headers they carry, and how they are rendered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from luthien.debug.addresses import session_page
from luthien.debug.apart import Stopping
from luthien.debug.call.completeness import reason_in_words
from luthien.debug.showing.shown import duration, plain, pretty, size, visible
from luthien.debug.signin import SignIn, asked_page
from luthien.errors import StoreAway, StoreBusy, StoreError

OPEN_TO_ALL = "/debug/sign-in", "/debug/static/{name}", "/favicon.ico", "/v2/debug/request/{call_id}"
"""Paths, as the routes write them, that need no sign-in: they say nothing of what is recorded."""

_WAIT_FOR_OTHERS = "/debug/calls/{call_id}/trace.json", "/debug/events", "/debug/calls/export.ndjson"
"""What takes long, though it costs little at a time, has bounds of its own."""

_RETRY_AFTER_S = 1
_MISTAKES = {
    404: ("There is no such page", "nothing is at this address"),
    405: ("This page is not asked for like that", "nothing here answers this method"),
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    # Without an origin in it, a form of ours could not be told from one of another site.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

templates = Environment(
    loader=PackageLoader("luthien.debug"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
templates.filters.update(
    reason=reason_in_words, visible=visible, plain=plain, pretty=pretty, size=size, duration=duration
)
templates.globals.update(session_page=session_page)


class Streamed(StreamingResponse):
    """What comes piece by piece; what makes it is closed when nobody takes it any more, and then `is_over` called."""

    body_iterator: AsyncGenerator[str, None]

    def __init__(
        self,
        pieces: AsyncGenerator[str, None],
        media_type: str,
        headers: Mapping[str, str],
        is_over: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._is_over = is_over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.body_iterator):
                await super().__call__(scope, receive, send)
        finally:
            self._is_over()


Turn = Callable[[str | None], AbstractAsyncContextManager[None]]


def guarded_by(sign_in: SignIn, turn: Turn) -> type[APIRoute]:
    """Routes that ask for a sign-in, say when the database is away, and carry the headers of hostile content.

    They wait for their `turn`, those of a call by its id, and are not made for who has gone meanwhile.
    """

    async def made(handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
        await request.is_disconnected()  # takes the request's own message; the next one is that it has gone
        call_id = request.path_params.get("call_id")
        async with turn(None if call_id is None else call_id.removesuffix(".json")):
            return Response(status_code=499) if await request.is_disconnected() else await handle(request)

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                if self.path not in OPEN_TO_ALL and not sign_in.is_signed_in(request):
                    response = _refusal(request, sign_in)
                else:
                    try:
                        has_no_turn = self.path in OPEN_TO_ALL or self.path in _WAIT_FOR_OTHERS
                        response = await (handle(request) if has_no_turn else made(handle, request))
                    except StoreError as error:
                        response = _not_now(request, error)
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
    return sign_in_page(sign_in, asked_page(request), status=401)


def sign_in_page(sign_in: SignIn, target: str, *, failed: bool = False, status: int = 200) -> Response:
    """The form, which leads on to the target."""
    values = {"possible": sign_in.is_possible, "failed": failed, "next": target}
    return page("sign_in.html", values, status=status)


def _not_now(request: Request, error: StoreError) -> Response:
    if wants_json(request):
        reason = {StoreAway: "away", StoreBusy: "busy", Stopping: "stopping"}.get(type(error), "failed")
        return not_yet(json_response({"error": str(error), "reason": reason}, status=503))
    return not_yet(page("message.html", {"title": error.title, "text": str(error)}, status=503))


def answer_mistakes(api: FastAPI) -> None:
    """Lets the app answer in our way who asks for a page that is none, or asks for one wrongly."""

    @api.exception_handler(HTTPException)
    async def no_page(request: Request, error: HTTPException) -> Response:
        if not _is_ours(request):
            return await http_exception_handler(request, error)
        title, text = _MISTAKES.get(error.status_code, ("This went wrong", str(error.detail)))
        return _mistake(request, title, text, error.status_code, dict(error.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def cannot_be_read(request: Request, error: RequestValidationError) -> Response:
        wrong = [(".".join(map(str, each["loc"][1:])), str(each["msg"])) for each in error.errors()]
        text = "; ".join(f"{name}: {message}" for name, message in wrong)
        return _mistake(request, "This address cannot be read", text, 422, {})


def _is_ours(request: Request) -> bool:
    return f"{request.url.path}/".startswith(("/debug/", "/v2/debug/"))


def _mistake(request: Request, title: str, text: str, status: int, headers: Mapping[str, str]) -> Response:
    if wants_json(request):
        response: Response = json_response({"error": text}, status)
    else:
        response = page("message.html", {"title": title, "text": text}, status)
    response.headers.update({**headers, **_HEADERS})
    return response


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
