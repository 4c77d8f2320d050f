"""Which path speaks which wire format.

The endpoints are plain ASGI: a call is the hot path, and all that FastAPI would do for it is done here already.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS
from luthien.gateway.boundary import SCOPE_CALL_ID
from luthien.gateway.live import Live
from luthien.gateway.passthrough import PassthroughEndpoint
from luthien.pipeline.client import Client
from luthien.pipeline.orchestrator import Orchestrator
from luthien.pipeline.passage import Passthrough


class CallEndpoint:
    """One path of the gateway. The others are asked for at each call: they are there only while the app runs."""

    def __init__(
        self, wire_format: WireFormat, orchestrator: Callable[[], Orchestrator], live: Callable[[], Live]
    ) -> None:
        self._format = wire_format
        self._orchestrator = orchestrator
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        with self._live().call() as taken:
            terms = taken.admit(client, self._format.provider)
            await self._orchestrator().run(scope[SCOPE_CALL_ID], self._format, client, terms)


def call_routes(
    orchestrator: Callable[[], Orchestrator], passthrough: Callable[[], Passthrough], live: Callable[[], Live]
) -> list[BaseRoute]:
    """All below /v1/."""
    calls = [(each, CallEndpoint(each, orchestrator, live)) for each in FORMATS]
    return [
        *(Route(each.path, endpoint, methods=["POST"], name=each.name) for each, endpoint in calls),
        Route("/v1/{rest:path}", PassthroughEndpoint(passthrough, live), name="passthrough"),
    ]
