"""The measure of all things: a pass-through of FastAPI and httpx that parses, forwards, and does nothing else.

Run as `python -m benchmarks.bare PORT UPSTREAM_URL`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from luthien.server import server_options
from luthien.settings import Settings

_NOT_FORWARDED = {"host", "content-length", "connection", "accept-encoding"}
_NOT_RETURNED = {"date", "content-length", "connection", "transfer-encoding", "content-encoding"}


def pass_through(upstream_url: str) -> FastAPI:
    """The app; its one route relays plain and streamed responses."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=600.0, limits=httpx.Limits(max_connections=1000)) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/chat/completions")
    async def forward(request: Request) -> Response:
        client: httpx.AsyncClient = request.app.state.client
        body = await request.body()
        is_stream = json.loads(body).get("stream") is True
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_FORWARDED}
        url = f"{upstream_url}/v1/chat/completions"
        answer = await client.send(client.build_request("POST", url, content=body, headers=headers), stream=is_stream)
        kept = {name: value for name, value in answer.headers.items() if name not in _NOT_RETURNED}
        if is_stream:
            return StreamingResponse(_relayed(answer), answer.status_code, kept)
        return Response(answer.content, answer.status_code, kept)

    return app


async def _relayed(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for data in answer.aiter_bytes():
            yield data
    finally:
        await answer.aclose()


if __name__ == "__main__":
    # The very options that Luthien serves with: the servers must not differ.
    uvicorn.run(pass_through(sys.argv[2]), port=int(sys.argv[1]), **server_options(Settings()))
