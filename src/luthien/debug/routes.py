"""The debug pages and their JSON twins, put together. Every one wants a sign-in."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from luthien.config import PUBLIC_UPSTREAMS
from luthien.debug.call.lookup import Lookup
from luthien.debug.diff import Differ
from luthien.debug.live import Feed
from luthien.debug.pages.call import add_call
from luthien.debug.pages.call_list import add_call_list
from luthien.debug.pages.compare_calls import add_compare
from luthien.debug.pages.entry import add_entry
from luthien.debug.pages.exports import UpstreamUrl, add_exports
from luthien.debug.pages.live import add_live
from luthien.debug.pages.sessions import add_sessions
from luthien.debug.pages.stages import add_stages
from luthien.debug.pages.trace import add_trace
from luthien.debug.signin import SignIn
from luthien.debug.tempo.client import Tempo
from luthien.debug.views import Views
from luthien.debug.web import guarded_by


def debug_router(
    sign_in: SignIn,
    lookup: Callable[[], Lookup],
    feed: Callable[[], Feed],
    tempo: Tempo,
    differ: Differ,
    views: Callable[[], Views],
    upstream_url: UpstreamUrl = PUBLIC_UPSTREAMS.__getitem__,
) -> APIRouter:
    """The pages. `lookup`, `feed` and `views` are asked for at each request: they exist only while the app runs.

    Args:
        differ: may be asked by several threads at once.
        upstream_url: where a provider is, for commands that ask it again.
    """
    router = APIRouter(route_class=guarded_by(sign_in, lambda call_id: views().turn(lookup, call_id)))
    add_entry(router, sign_in)
    add_call_list(router, lookup)
    add_live(router, lookup, feed)
    add_exports(router, lookup, views, upstream_url)
    add_stages(router, lookup)
    add_trace(router, lookup, tempo)
    add_call(router, lookup, tempo, views)
    add_sessions(router, lookup, differ)
    add_compare(router, lookup, differ)
    return router
