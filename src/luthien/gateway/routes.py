"""Which path speaks which wire format.

The endpoints are plain ASGI: a call is the hot path, and all that FastAPI would do for it is done here already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS
from luthien.gateway.boundary import SCOPE_CALL_ID
from luthien.gateway.passthrough import PassthroughEndpoint
from luthien.pipeline.client import Client
from luthien.pipeline.orchestrator import Orchestrator
from luthien.pipeline.passage import Passthrough


class CallEndpoint:
    """One path of the gateway. `orchestrator` is asked at each call: there is one only while the app runs."""

    def __init__(self, wire_format: WireFormat, orchestrator: Callable[[], Orchestrator]) -> None:
        self._format = wire_format
        self._orchestrator = orchestrator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        await self._orchestrator().run(scope[SCOPE_CALL_ID], self._format, client)


def call_routes(
    orchestrator: Callable[[], Orchestrator], passthrough: Callable[[], Passthrough], patterns: Sequence[str]
) -> list[BaseRoute]:
    """All below /v1/; `patterns` say what else is passed through."""
    return [
        *(Route(each.path, CallEndpoint(each, orchestrator), methods=["POST"], name=each.name) for each in FORMATS),
        Route("/v1/{rest:path}", PassthroughEndpoint(passthrough, patterns), name="passthrough"),
    ]
