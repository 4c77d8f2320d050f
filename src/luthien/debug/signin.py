"""Signing in to the debug pages: payloads are other people's secrets.

There is one token. A browser shows it once, in the link that `luthien up` prints or in the form, and gets a cookie
from which the token cannot be found; programs send it as a bearer token. Nobody passes without, from localhost
neither.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from urllib.parse import quote, unquote

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

COOKIE = "luthien_debug"
FIRST_PAGE = "/debug/calls"
"""Where one is led who came for nothing in particular."""

_COOKIE_AGE_S = 30 * 24 * 3600
# It goes with requests for pages, and not with calls.
_COOKIE_PATH = "/debug"
_MAX_TARGET_CHARS = 4_000
_TARGET = re.compile(r"/debug/[!-\[\]-~]*", re.ASCII)
_ENDS_PATH = re.compile(r"[?#]")


def new_token() -> str:
    return secrets.token_urlsafe(24)


class SignIn:
    """Knows who is signed in. Without a token nobody is."""

    def __init__(self, token: SecretStr | None) -> None:
        self._token = token.get_secret_value().encode() if token else None

    @property
    def is_possible(self) -> bool:
        return self._token is not None

    def accepts(self, token: str) -> bool:
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    def is_signed_in(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.accepts(token.strip())
        cookie = request.cookies.get(COOKIE, "")
        return self._token is not None and hmac.compare_digest(cookie.encode(), self._cookie())

    def remember(self, response: Response, request: Request) -> None:
        """Gives the browser its cookie."""
        response.set_cookie(
            COOKIE,
            self._cookie().decode(),
            max_age=_COOKIE_AGE_S,
            path=_COOKIE_PATH,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )

    def _cookie(self) -> bytes:
        return hmac.new(self._token or b"", b"luthien debug cookie", hashlib.sha256).hexdigest().encode()


def is_same_origin(request: Request) -> bool:
    """Whether a request that changes something comes from our own pages."""
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}
    return origin.partition("://")[2] == request.headers.get("host")


def own_page(target: str) -> str:
    """Where a sign-in may lead: the target if it is below /debug, whatever a browser makes of it, or the list."""
    path = unquote(_ENDS_PATH.split(target, maxsplit=1)[0])
    is_ours = (
        len(target) <= _MAX_TARGET_CHARS
        and _TARGET.fullmatch(target) is not None
        and "//" not in target
        and path.isprintable()
        and "\\" not in path
        and not {".", ".."}.intersection(path.split("/"))
    )
    return target if is_ours else FIRST_PAGE


def asked_page(request: Request) -> str:
    """The address that somebody asked for, fit to be led to after the sign-in."""
    query = request.url.query.replace("//", "%2F%2F")
    path = quote(request.url.path, safe="/:@=+")
    return own_page(f"{path}?{query}" if query else path)
