"""Connections that never wait for ever.

`statement_timeout` binds a server that works. One that is gone without a word, or a proxy that keeps the line open
and says nothing, is noticed only on this side: while a connection waits, it looks at the clock, and whether anybody
still wants the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn
from psycopg.rows import DictRow, TupleRow

SILENCE_S = 45.0
"""How long a server may be silent; longer than the `statement_timeout` of `queries.sql`."""
GIVING_UP_S = 0.5
"""How long a thread may take to notice that nobody waits for its connection any longer."""

RV = TypeVar("RV")


def connection_options(application_name: str) -> dict[str, Any]:
    """What a connection needs that lives as long as the process, and must notice a server that is gone."""
    return {
        "prepare_threshold": None,  # a statement that was prepared before a migration may fail after it
        "application_name": application_name,
        "connect_timeout": 5,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }


class GaveUp(psycopg.OperationalError):
    """The answer was not waited for any longer; the connection is closed."""


def _never() -> bool:
    return False


class WatchedConnection(psycopg.Connection[TupleRow]):
    """A connection that closes itself and raises `GaveUp` when it has waited too long, or in vain."""

    silence_s = SILENCE_S
    is_given_up: Callable[[], bool] = staticmethod(_never)
    """Asked at least ten times a second, while the connection waits."""

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        return super().wait(_watched(gen, self.pgconn, self.silence_s, self.is_given_up), *args, **kwargs)


class AsyncWatchedConnection(psycopg.AsyncConnection[DictRow]):
    """`WatchedConnection` for an event loop."""

    silence_s = SILENCE_S

    async def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        return await super().wait(_watched(gen, self.pgconn, self.silence_s, _never), *args, **kwargs)


def _watched(gen: PQGen[RV], pgconn: PGconn, silence_s: float, is_given_up: Callable[[], bool]) -> PQGen[RV]:
    """Passes on what `gen` waits for, and interrupts it. Each sign of life grants another `silence_s`."""
    try:
        wanted = next(gen)
        gives_up_at = time.monotonic() + silence_s
        while True:
            ready = yield wanted
            if is_given_up():
                raise _given_up(gen, pgconn, "nobody waits for the database any longer")
            if ready:
                gives_up_at = time.monotonic() + silence_s
            elif time.monotonic() >= gives_up_at:
                raise _given_up(gen, pgconn, f"the database was silent for {silence_s:g} s")
            wanted = gen.send(ready)
    except StopIteration as finished:
        value: RV = finished.value
        return value


def _given_up(gen: PQGen[RV], pgconn: PGconn, reason: str) -> GaveUp:
    gen.close()
    pgconn.finish()
    return GaveUp(reason)
