"""The door: every call gets its id here, outside of everything else, tracing included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any

from opentelemetry import propagate
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanContext, get_current_span
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthien.exchange import new_call_id
from luthien.settings import Network
from luthien.telemetry.context import enter_call, leave_call

Headers = list[tuple[bytes, bytes]]

CALL_ID_HEADER = b"luthien-call-id"
CALL_PATHS = "/v1/"
SCOPE_CALL_ID = "luthien.call_id"
_SCOPE_LINK = "luthien.link"
_BAGGAGE = (b"baggage", b"uberctx-", b"ot-baggage-", b"jaeger-baggage")
"""What a caller's words about itself begin with, in the forms that there are of them."""


class Boundary:
    """Makes the call id, tells the client, and decides whether a caller's trace context is believed.

    Only what comes in below `/v1/` is a call. A trusted caller's trace is joined; anybody else's becomes a
    link, and its headers go no further. Baggage never does.
    """

    def __init__(
        self, app: ASGIApp, trusted: Iterable[Network], has_trusted_key: Callable[[Headers], bool] = lambda _: False
    ) -> None:
        self._app = app
        self._trusted = tuple(trusted)
        self._has_trusted_key = has_trusted_key
        self._context_headers = context_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope = self._marked(scope)
        if scope["type"] != "http" or not scope["path"].startswith(CALL_PATHS):
            await self._app(scope, receive, send)
            return
        call_id = new_call_id()
        header = (CALL_ID_HEADER, str(call_id).encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() != CALL_ID_HEADER]
                message = {**message, "headers": [*kept, header]}
            await send(message)

        token = enter_call(call_id)
        try:
            await self._app({**scope, SCOPE_CALL_ID: call_id}, receive, send_with_id)
        finally:
            leave_call(token)

    def _marked(self, scope: Scope) -> MutableMapping[str, Any]:
        headers: Headers = scope["headers"]
        told = [pair for pair in headers if pair[0] in self._context_headers]
        if not told and not any(name.startswith(_BAGGAGE) for name, _ in headers):
            return {**scope}
        without_baggage = [pair for pair in headers if not pair[0].startswith(_BAGGAGE)]
        kept = [pair for pair in without_baggage if pair[0] not in self._context_headers]
        if sum(name == b"traceparent" for name, _ in told) > 1:  # W3C: then there is none
            return {**scope, "headers": kept}
        if self._is_trusted(scope):
            return {**scope, "headers": without_baggage}
        return {**scope, "headers": kept, _SCOPE_LINK: _caller(without_baggage)}

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope.get("client")
        try:
            address = ip_address(client[0]) if client else None
        except ValueError:
            address = None
        is_near = address is not None and any(
            address in network for network in self._trusted if network.version == address.version
        )
        return is_near or self._has_trusted_key(scope["headers"])


def context_headers() -> frozenset[bytes]:
    """The headers in which a caller can tell of a trace, in the forms that `OTEL_PROPAGATORS` says.

    A propagator may read more than the `fields` that it writes (either form of B3 reads both), so it is watched.
    """
    getter, propagator = _WatchedGetter(), propagate.get_global_textmap()
    propagator.extract([], getter=getter)
    return frozenset(name.lower().encode() for name in propagator.fields | getter.asked)


class _WatchedGetter(Getter[Headers]):
    """Finds nothing, so that a propagator that may find it elsewhere asks for that, too."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        self.asked.add(key)
        return None

    def keys(self, carrier: Headers) -> list[str]:
        return []


class _HeaderGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        wanted = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier if name == wanted] or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


def _caller(headers: Headers) -> SpanContext | None:
    context = get_current_span(propagate.extract(headers, getter=_HeaderGetter())).get_span_context()
    return context if context.is_valid else None


def link_caller(span: Span, scope: MutableMapping[str, Any]) -> None:
    """Links the server span to the trace of a caller that was not trusted to be joined."""
    caller = scope.get(_SCOPE_LINK)
    if caller is not None:
        span.add_link(caller)
