"""The indexer: a thread that makes what lists and searches read of calls that were stored, and keeps out of the way.

Any number of processes share the work. What is to be done stands in the database (`store.index`), so nothing is lost
when one ends, and what was stored late is indexed late.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg

from luthien.debug.call.compared import Compared, compare_stages
from luthien.debug.call.completeness import State
from luthien.debug.call.losses import Records
from luthien.debug.diff import Diff, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.search.indexed import ALGO, entry_of, failed_entry
from luthien.store import index, worker
from luthien.store.deadline import WatchedConnection
from luthien.store.index import Claim, ReadCall, Sweep
from luthien.store.stored import CallRow
from luthien.store.worker import Worker
from luthien.store.write import is_about_content, is_of_no_batch
from luthien.telemetry import conventions as names

_log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]

MAX_BYTES = 8 * 1024 * 1024
"""A call with more bytes of payloads is not compared, and only the beginnings of its payloads are read."""

_NAME = "luthien-indexer"
# What is lost in a crash of the database is made again, so no commit waits for a disk.
_NO_SYNC: Final = "SET synchronous_commit = off"
_SAME = diff_payloads(None, None)
_AT_ONCE = 16
_TOGETHER_BYTES = 1024 * 1024
"""So many bytes of payloads are read and indexed together; a call with more, alone."""
_BEGUN_WITHIN_S = index.LEASE_S / 2
"""What was not begun so long after it was claimed is given back: one call may take the other half."""
_POLL_S = 1.0
_LAG_S = 10.0
_SWEEP_PAUSE_S = 0.2
_SWEEP_EVERY_S = 86_400.0
_SWEEP_AGAIN_S = 600.0
"""After one that found something: during an update, processes of the version before index calls in their own way."""
_MOST_WAITING = 5_000
_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 30.0
# It works in stretches of that length, so that who serves calls gets the interpreter soon.
_STRETCH_S = 0.002
_MAX_REST_S = 2.0
# Calls come first: while others need more than this part of a core, it works no more than that share of the time.
_BUSY = 0.5
_BUSY_SHARE = 0.05


@dataclass(slots=True)
class IndexStats:
    """What became of calls in this process, and how many wait in the database: no more than 10,000 are counted."""

    indexed: int = 0
    failed: int = 0
    waiting: int | None = None
    lag_s: float | None = None


def used_by_others_s() -> float:
    """How much CPU time the process has used, but for the thread that asks."""
    return time.process_time() - time.thread_time()


class Pace:
    """Rests between stretches of work: of each second, a share is worked, and less while the process is busy.

    Busy is a process whose other threads used more than half a core since the last rest began.
    """

    def __init__(
        self, share: float, rest: Callable[[float], object], others_s: Callable[[], float] = used_by_others_s
    ) -> None:
        self._share = share
        self._rest = rest
        self._others_s = others_s
        self._began = self._looked = time.monotonic()
        self._others = 0.0

    def breathe(self, stretch_s: float = _STRETCH_S) -> None:
        """Rests, if the work since the last rest was long enough."""
        worked_s = time.monotonic() - self._began
        if worked_s >= stretch_s:
            if self._share < 1.0:
                share = min(self._share, _BUSY_SHARE) if self._is_busy() else self._share
                self._rest(min(_MAX_REST_S, worked_s * (1 / share - 1)))
            self.begin()

    def _is_busy(self) -> bool:
        now, others = time.monotonic(), self._others_s()
        is_busy = others - self._others > (now - self._looked) * _BUSY
        self._looked, self._others = now, others
        return is_busy

    def begin(self) -> None:
        """What went before was no work."""
        self._began = time.monotonic()


class Indexer(Worker):
    """Indexes calls until it is stopped, then to the end of the one that is being indexed.

    Args:
        share: of the time, how much it works at most while the process has little else to do.
    """

    def __init__(self, dsn: str, *, share: float = 0.25, poll_s: float = _POLL_S) -> None:
        super().__init__(dsn, _NAME, _log, _NO_SYNC)
        self.stats = IndexStats()
        self._poll_s = poll_s
        self._pace = Pace(share, self._stopping.wait)
        self._sweep: Sweep | None = Sweep(ALGO)
        self._sweep_at = 0.0
        self._swept_up = 0
        self._lag_at = 0.0

    def _work(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            try:
                pause_s = self._round(self._connected())
                backoff_s = _FIRST_BACKOFF_S
                self._troubled.clear()
            except Exception as error:  # noqa: BLE001 - the indexer's loop: it must outlive whatever it meets
                self._disconnect()
                self._say_trouble(type(error).__name__, "calls are not indexed", error)
                pause_s, backoff_s = backoff_s, min(backoff_s * 2, _MAX_BACKOFF_S)
            self._stopping.wait(pause_s)

    def _round(self, conn: Connection) -> float:
        """One small step; returns how long to wait before the next, in seconds."""
        self._look_at_lag(conn)
        done = index_some(conn, self._pace, self.stats, self._stopping.is_set)
        if done:
            return 0.0
        return _SWEEP_PAUSE_S if self._swept(conn) else self._poll_s

    def _swept(self, conn: Connection) -> bool:
        """Whether there was something to sweep. Only while little waits, so that what waits is never much."""
        now = time.monotonic()
        if self._sweep is None and now >= self._sweep_at:
            self._sweep, self._swept_up = Sweep(ALGO), 0
        if self._sweep is None or (self.stats.waiting or 0) > _MOST_WAITING:
            return False
        swept = self._sweep.step(conn)
        self._swept_up += swept.queued
        if self._sweep.is_over:
            self._sweep, self._sweep_at = None, now + (_SWEEP_AGAIN_S if self._swept_up else _SWEEP_EVERY_S)
        return swept.calls > 0

    def _look_at_lag(self, conn: Connection) -> None:
        now = time.monotonic()
        if now >= self._lag_at:
            self.stats.waiting, self.stats.lag_s = index.lag(conn)
            self._lag_at = now + _LAG_S


def connected(dsn: str) -> WatchedConnection:
    """A connection to index on, in autocommit mode. Raises psycopg.Error."""
    return worker.connected(dsn, _NAME, _NO_SYNC)


def index_some(
    conn: Connection, pace: Pace, stats: IndexStats, is_stopping: Callable[[], bool] = lambda: False
) -> int:
    """Indexes some of the calls that are due; returns how many. Raises psycopg.Error."""
    claims = index.claim(conn, _AT_ONCE)
    until = time.monotonic() + _BEGUN_WITHIN_S
    done = 0
    together: Sequence[Claim] = ()
    try:
        rows = index.read_rows(conn, [each.call_id for each in claims]) if claims else {}
        while done < len(claims) and not is_stopping() and (done == 0 or time.monotonic() < until):
            together = _together(claims[done:], rows)
            if together[0].attempts > 1:  # it may have ended whoever was at it, and takes no other with it
                index.give_back(conn, claims[done + 1 :])
                claims = claims[: done + 1]
            pace.begin()
            _index(conn, together, rows, pace, stats)
            pace.breathe(0.0)
            done, together = done + len(together), ()
    except psycopg.Error as error:
        with suppress(psycopg.Error):  # the connection may be lost
            index.give_back(conn, claims[done + len(together) :])
            if is_of_no_batch(error):  # all others come first: it may be a lock on one of these
                index.give_back(conn, together, index.LEASE_S)
        raise
    index.give_back(conn, claims[done:])
    return done


def _together(claims: Sequence[Claim], rows: Mapping[UUID, CallRow]) -> Sequence[Claim]:
    """Those of the first calls that are indexed at once, at least one."""
    held_bytes = 0
    for number, claimed in enumerate(claims):
        row = rows.get(claimed.call_id)
        held_bytes += row["held_bytes"] if row and claimed.attempts == 1 else _TOGETHER_BYTES + 1
        if number > 0 and held_bytes > _TOGETHER_BYTES:
            return claims[:number]
    return claims


def _index(
    conn: Connection, claims: Sequence[Claim], rows: Mapping[UUID, CallRow], pace: Pace, stats: IndexStats
) -> None:
    """Calls together. One that cannot be indexed is marked with its error, and never stops the others."""
    first = claims[0]
    if first.call_id not in rows:
        index.forget(conn, first)
        return
    if first.attempts > index.MAX_ATTEMPTS:
        _give_up(conn, first, rows, stats, f"{index.MAX_ATTEMPTS} attempts were not finished")
        return
    try:
        calls = index.read_calls(conn, [rows[each.call_id] for each in claims], MAX_BYTES)
        entries = [
            (claimed, entry_of(call, _compared(call), pace.breathe))
            for claimed, call in zip(claims, calls, strict=True)
        ]
        stats.indexed += index.write_entries(conn, entries)
    except Exception as error:
        if isinstance(error, psycopg.Error) and not is_about_content(error):
            raise
        if len(claims) > 1:
            for claimed in claims:
                _index(conn, [claimed], rows, pace, stats)
        else:
            # Not its message: it may quote the call.
            _give_up(conn, first, rows, stats, type(error).__name__)


def _give_up(conn: Connection, claimed: Claim, rows: Mapping[UUID, CallRow], stats: IndexStats, why: str) -> None:
    said = {names.CALL_ID: str(claimed.call_id)}
    _log.warning("call %s cannot be indexed: %s", claimed.call_id, why, extra=said)
    stats.failed += index.write_entries(conn, [(claimed, failed_entry(rows[claimed.call_id], why))])


def _compared(call: ReadCall) -> Compared | None:
    """What the call's page compares; None where that is too much for here."""
    # What is said of a stage that is missing depends on the state, and is not indexed.
    return compare_stages(Records(call.stored), State.COMPLETE, _differ) if call.is_whole else None


def _differ(before: bytes | None, after: bytes | None, /, *, documents: Documents | None = None) -> Diff:
    """As `diff_payloads`, but of the same payloads nothing is counted, as they mostly are."""
    return _SAME if before == after else diff_payloads(before, after, documents=documents)
