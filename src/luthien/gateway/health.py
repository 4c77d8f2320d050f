"""Alive, and ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from luthien.errors import StoreError


class Readiness(Protocol):
    async def not_ready_because(self) -> str | None: ...


def health_router(readiness: Callable[[], Readiness], configuration: Callable[[], dict[str, object]]) -> APIRouter:
    """`configuration` says which one is gone by; not a word of what stands in it, since anybody may ask."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        try:
            reason = await readiness().not_ready_because()
        except StoreError as error:
            reason = str(error)
        if reason is not None:
            return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)
        return JSONResponse({"status": "ready", "configuration": configuration()})

    return router
