"""Which path speaks which wire format.

The endpoints are plain ASGI: a call is the hot path, and everything FastAPI would do for it is done here already.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS
from luthien.gateway.boundary import SCOPE_CALL_ID
from luthien.pipeline.client import Client
from luthien.pipeline.orchestrator import Orchestrator


class CallEndpoint:
    """One path of the gateway. The orchestrator is asked for anew at each call: it is there once the app runs."""

    def __init__(self, wire_format: WireFormat, orchestrator: Callable[[], Orchestrator]) -> None:
        self._format = wire_format
        self._orchestrator = orchestrator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        await self._orchestrator().run(scope[SCOPE_CALL_ID], self._format, client)


def call_routes(orchestrator: Callable[[], Orchestrator]) -> list[BaseRoute]:
    return [Route(each.path, CallEndpoint(each, orchestrator), methods=["POST"], name=each.name) for each in FORMATS]
