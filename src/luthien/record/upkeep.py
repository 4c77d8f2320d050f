"""What the record needs from time to time, whether calls come or not: a thread that sees to it.

It has a connection of its own, so that nothing it waits for holds the writer up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from opentelemetry.instrumentation.utils import suppress_instrumentation

from luthien.store.deadline import GIVING_UP_S, WatchedConnection, connection_options
from luthien.store.sql import query

_log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done every so many seconds, for the first time at once.

    `do` is given a connection in autocommit mode. What it raises is logged; the chore is tried again next time.
    `at_end` is done once more when the process stops in an orderly way, if the database is there.
    """

    name: str
    every_s: float
    do: Callable[[Connection], None]
    at_end: Callable[[Connection], None] | None = None


class Upkeep:
    """Does chores until it is stopped. Owns its thread and its connection; a forked child has neither."""

    def __init__(self, dsn: str, chores: Sequence[Chore]) -> None:
        self._dsn = dsn
        self._chores = chores
        self._due_at = [0.0] * len(chores)
        self._troubled: set[str] = set()
        self._stopping = threading.Event()
        self._giving_up = threading.Event()
        self._conn: WatchedConnection | None = None
        self._thread = threading.Thread(target=self._run, name="luthien-record-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Ends what is being done, and does what is to be done at the end, in at most `deadline_s`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline_s - GIVING_UP_S))
            self._giving_up.set()
            self._thread.join(GIVING_UP_S)

    def _run(self) -> None:
        with suppress_instrumentation():
            while not self._stopping.wait(max(0.0, min(self._due_at) - time.monotonic())):
                for number, chore in enumerate(self._chores):
                    if self._due_at[number] <= time.monotonic() and not self._stopping.is_set():
                        self._attempt(chore.name, chore.do)
                        self._due_at[number] = time.monotonic() + chore.every_s
            for chore in self._chores:
                if chore.at_end is not None:
                    self._attempt(chore.name, chore.at_end)
            self._disconnect()

    def _attempt(self, name: str, do: Callable[[Connection], None]) -> None:
        try:
            do(self._connected())
        except Exception as error:  # noqa: BLE001 - the upkeep's loop: one chore that fails must not end the others
            self._disconnect()
            self._say_trouble(name, error)
        else:
            self._troubled.discard(name)

    def _say_trouble(self, name: str, error: Exception) -> None:
        """Once in a row, not once for each attempt."""
        if name in self._troubled or self._giving_up.is_set():
            return
        self._troubled.add(name)
        is_foreign = not isinstance(error, psycopg.Error)
        said = type(error).__name__ if is_foreign else str(error).partition("\n")[0]
        _log.warning("upkeep: %s failed: %s", name, said, exc_info=is_foreign)

    def _connected(self) -> WatchedConnection:
        if self._conn is None or self._conn.closed:
            conn = WatchedConnection.connect(self._dsn, autocommit=True, **connection_options("luthien-upkeep"))
            conn.is_given_up = self._giving_up.is_set
            conn.execute(query("session"))
            self._conn = conn
        return self._conn

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
