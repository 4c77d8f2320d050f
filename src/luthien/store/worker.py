"""Threads that work on the database beside everything else, for as long as the process lives."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import LiteralString

import psycopg
from opentelemetry.instrumentation.utils import suppress_instrumentation

from luthien.store.deadline import GIVING_UP_S, WatchedConnection, connection_options
from luthien.store.sql import query


class Worker(ABC):
    """Works in a thread of its own, on a connection of its own, until it is stopped; a forked child has neither.

    Args:
        name: of the thread and, to the database, of the connection.
        log: where its trouble is told.
        settings: what is set on its connection beside what is set for everybody who writes.
    """

    def __init__(self, dsn: str, name: str, log: logging.Logger, settings: LiteralString = "") -> None:
        self._stopping = threading.Event()
        self._dsn = dsn
        self._log = log
        self._settings: LiteralString = settings
        self._giving_up = threading.Event()
        self._conn: WatchedConnection | None = None
        self._troubled: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Ends what is being done, in at most `deadline_s`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline_s - GIVING_UP_S))
            self._giving_up.set()
            self._thread.join(GIVING_UP_S)

    @abstractmethod
    def _work(self) -> None:
        """Works until `_stopping` is set, whatever happens: an exception here ends the thread."""

    def _run(self) -> None:
        with suppress_instrumentation():
            self._work()
            self._disconnect()

    def _connected(self) -> WatchedConnection:
        """The connection, in autocommit mode; a new one where there is none. Raises psycopg.Error."""
        if self._conn is None or self._conn.closed:
            self._conn = connected(self._dsn, self._thread.name, self._settings, self._giving_up.is_set)
        return self._conn

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _say_trouble(self, kind: str, failed: str, error: Exception) -> None:
        """Once for each kind, until `_troubled` has it no more.

        Of an exception that is not the database's, not what it says: it may quote the record.
        """
        if kind in self._troubled or self._giving_up.is_set():
            return
        self._troubled.add(kind)
        is_foreign = not isinstance(error, psycopg.Error)
        said = type(error).__name__ if is_foreign else str(error).partition("\n")[0]
        self._log.warning("%s: %s", failed, said, exc_info=is_foreign)


def connected(
    dsn: str, name: str, settings: LiteralString = "", is_given_up: Callable[[], bool] = lambda: False
) -> WatchedConnection:
    """A connection in autocommit mode, with the settings of everybody who writes and others. Raises psycopg.Error."""
    conn = WatchedConnection.connect(dsn, autocommit=True, **connection_options(name))
    conn.is_given_up = is_given_up
    conn.execute(query("session"))
    if settings:
        conn.execute(settings)
    return conn
