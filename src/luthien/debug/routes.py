"""The debug pages and their JSON twins, put together. Every one wants a sign-in."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from luthien.debug.live import Feed
from luthien.debug.lookup import Lookup
from luthien.debug.pages.call import add_call
from luthien.debug.pages.call_list import add_call_list
from luthien.debug.pages.entry import add_entry
from luthien.debug.pages.live import add_live
from luthien.debug.signin import SignIn
from luthien.debug.web import guarded_by


def debug_router(sign_in: SignIn, lookup: Callable[[], Lookup], feed: Callable[[], Feed]) -> APIRouter:
    """The pages; `lookup` and `feed` are asked for at each request, since they exist only while the app runs."""
    router = APIRouter(route_class=guarded_by(sign_in))
    add_entry(router, sign_in)
    add_call_list(router, lookup)
    add_live(router, lookup, feed)
    add_call(router, lookup)
    return router
