"""The debug pages and their JSON twins, put together. Every one wants a sign-in."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from luthien.debug.cache import DiffCache
from luthien.debug.lookup import Lookup
from luthien.debug.pages.call import add_call
from luthien.debug.pages.call_list import add_call_list
from luthien.debug.pages.entry import add_entry
from luthien.debug.signin import SignIn
from luthien.debug.web import guarded_by


def debug_router(sign_in: SignIn, lookup: Callable[[], Lookup]) -> APIRouter:
    """The pages; `lookup` is asked for at each request, since it exists only while the app runs."""
    router = APIRouter(route_class=guarded_by(sign_in))
    add_entry(router, sign_in)
    add_call_list(router, lookup)
    add_call(router, lookup, DiffCache())
    return router
