"""Every route of the debug pages, whichever will be added."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr

from luthien.debug.diffing.cache import DiffCache
from luthien.debug.routes import debug_router
from luthien.debug.signin import SignIn
from luthien.debug.tempo.client import Tempo
from luthien.debug.web import OPEN_TO_ALL
from luthien.settings import Settings


def unreachable() -> Any:
    raise AssertionError("somebody who is not signed in got further than the door")


ROUTER = debug_router(
    SignIn(SecretStr("token")),
    unreachable,
    unreachable,
    Tempo(Settings(data_dir=Path("/nonexistent"))),
    DiffCache(),
    unreachable,
)
ROUTES = [route for route in ROUTER.routes if isinstance(route, APIRoute)]


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
async def test_nobody_gets_in_without_signing_in(accept: str) -> None:
    app = FastAPI()
    app.include_router(ROUTER)
    paths = sorted({route.path for route in ROUTES} - set(OPEN_TO_ALL))
    assert len(paths) > 15
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in paths:
            address = re.sub(r"\{[^}]+\}", str(UUID(int=1)), path)
            response = await client.get(address, headers={"accept": accept, "authorization": "Bearer wrong"})
            assert response.status_code == 401, path
            assert response.headers["x-content-type-options"] == "nosniff"


def test_nothing_but_the_sign_in_changes_anything() -> None:
    assert {route.path for route in ROUTES if (route.methods or set()) - {"GET", "HEAD"}} == {"/debug/sign-in"}
