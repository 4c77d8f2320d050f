"""Which path speaks which wire format.

The endpoints are plain ASGI: a call is the hot path, and all that FastAPI would do for it is done here already.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, FORMATS, OPENAI_CHAT
from luthien.gateway.boundary import SCOPE_CALL_ID
from luthien.pipeline.client import Client
from luthien.pipeline.orchestrator import Orchestrator


class CallEndpoint:
    """One path of the gateway. `orchestrator` is asked at each call: there is one only while the app runs."""

    def __init__(self, wire_format: WireFormat, orchestrator: Callable[[], Orchestrator]) -> None:
        self._format = wire_format
        self._orchestrator = orchestrator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        await self._orchestrator().run(scope[SCOPE_CALL_ID], self._format, client)


class UnknownEndpoint:
    """Everything else below /v1/: refused, since passing it on would walk around every policy."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_anthropic = any(name == b"anthropic-version" for name, _ in scope["headers"])
        wire_format = ANTHROPIC_MESSAGES if is_anthropic else OPENAI_CHAT
        served = " and ".join(f"POST {each.path}" for each in FORMATS)
        message = f"{scope['method']} {scope['path']} is not passed on: this gateway serves {served}"
        body = wire_format.error_body(404, "unknown_endpoint", message)
        await Response(body, status_code=404, media_type="application/json")(scope, receive, send)


def call_routes(orchestrator: Callable[[], Orchestrator]) -> list[BaseRoute]:
    return [
        *(Route(each.path, CallEndpoint(each, orchestrator), methods=["POST"], name=each.name) for each in FORMATS),
        Route("/v1/{rest:path}", UnknownEndpoint(), name="unknown"),
    ]
