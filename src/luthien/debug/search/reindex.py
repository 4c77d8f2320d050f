"""Indexing calls anew, by command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg

from luthien.debug.search.indexed import ALGO
from luthien.debug.search.indexer import IndexStats, Pace, index_some
from luthien.store import index
from luthien.store.index import Sweep

Connection = psycopg.Connection[Any]

_SAY_EVERY_S = 2.0
_OTHERS_PAUSE_S = 0.2


def queue_calls(conn: Connection, *, anew: bool) -> int:
    """Has all calls indexed, or those that are not indexed by this version; returns how many did not wait already.

    Needs a connection in autocommit mode. Errors of psycopg pass through.
    """
    sweep, queued = Sweep(ALGO, anew=anew), 0
    while not sweep.is_over:
        step = sweep.step(conn)
        queued += step.queued
        if not step.calls and not sweep.is_over:  # somebody else is at it
            time.sleep(_OTHERS_PAUSE_S)
    return queued


def index_queued(conn: Connection) -> Iterator[tuple[int, int, str]]:
    """Indexes what waits, without a rest. Now and then: how many calls were, how many could not be, and what is left.

    Gateways may take part. Errors of psycopg pass through.
    """
    stats, unhurried = IndexStats(), Pace(1.0, time.sleep)
    said_at = time.monotonic()
    while index_some(conn, unhurried, stats):
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            yield stats.indexed, stats.failed, _left(conn)
    yield stats.indexed, stats.failed, _left(conn)


def _left(conn: Connection) -> str:
    waiting, _ = index.lag(conn)
    return f"{waiting:,} or more" if waiting >= index.MOST_WAITING else f"{waiting:,}"
