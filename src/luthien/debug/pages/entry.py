"""The way in: the sign-in, and the files that every page needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from luthien.debug.signin import FIRST_PAGE, SignIn, is_same_origin, own_page
from luthien.debug.web import json_response, page, sign_in_page

_STATIC = Path(__file__).parents[1] / "static"
_FILES = frozenset(path.name for path in _STATIC.iterdir() if path.is_file())
_MAX_FORM_BYTES = 16_384


def add_entry(router: APIRouter, sign_in: SignIn) -> None:
    """The sign-in by link and by form, the help, and the static files."""

    @router.get("/debug")
    async def index() -> Response:
        return RedirectResponse(FIRST_PAGE)

    @router.get("/debug/help")
    async def keys() -> Response:
        return page("help.html", {})

    @router.get("/debug/static/{name}")
    async def static(name: str) -> Response:
        if name not in _FILES:
            return json_response({"error": "there is no such file"}, status=404)
        return FileResponse(_STATIC / name)

    @router.get("/favicon.ico")
    async def icon() -> Response:
        """Where browsers look for it when they show what is no page, as JSON."""
        return FileResponse(_STATIC / "icon.svg")

    @router.get("/debug/sign-in")
    async def sign_in_link(
        request: Request, token: str | None = None, target: Annotated[str, Query(alias="next")] = FIRST_PAGE
    ) -> Response:
        if token is not None:
            return _signed_in(sign_in, request, token, own_page(target))
        return sign_in_page(sign_in, own_page(target))

    @router.post("/debug/sign-in")
    async def sign_in_form(request: Request) -> Response:
        if not is_same_origin(request):
            return json_response({"error": "this form is not ours"}, status=403)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_FORM_BYTES:
                return json_response({"error": "that is no token"}, status=413)
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
        token, target = (fields.get(name, [""])[0] for name in ("token", "next"))
        return _signed_in(sign_in, request, token, own_page(target))


def _signed_in(sign_in: SignIn, request: Request, token: str, target: str) -> Response:
    if not sign_in.accepts(token):
        return sign_in_page(sign_in, target, failed=True, status=401)
    # Away from the address that shows the token.
    response = RedirectResponse(target, status_code=303)
    sign_in.remember(response, request)
    return response
