"""The thread that writes the record to Postgres, and keeps trying while Postgres is away."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from opentelemetry.instrumentation.utils import suppress_instrumentation
from psycopg_pool import ConnectionPool, PoolTimeout

from luthien.exchange import StageRecord
from luthien.record.queue import RecordQueue
from luthien.store.partitions import PartitionKeeper, day_of
from luthien.store.write import Written, prepare, quarantine, write_batch

_log = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
# Postgres is away, or says "again": the batch is whole and is tried again. Everything else is about its content.
_TRANSIENT = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is written: at so many records, so many bytes, or when its oldest record is so old."""

    max_records: int
    max_bytes: int
    max_age_s: float


class RecordWriter:
    """Takes batches from the queue until it is stopped. Owns its thread and its connections."""

    def __init__(self, queue: RecordQueue, dsn: str, limits: BatchLimits) -> None:
        self._queue = queue
        self._limits = limits
        self._partitions = PartitionKeeper()
        self._stopping = threading.Event()
        self._is_away = False
        self._pool = ConnectionPool(
            dsn,
            min_size=1,
            max_size=2,
            open=False,
            name="luthien-record",
            timeout=5.0,
            # A server that vanished without a word must not hold the thread for minutes.
            kwargs={"connect_timeout": 5, "application_name": "luthien-record", "tcp_user_timeout": 20_000},
            configure=_configure,
            check=ConnectionPool.check_connection,
        )
        self._thread = threading.Thread(target=self._run, name="luthien-record-writer", daemon=True)

    def start(self) -> None:
        self._pool.open(wait=False)
        self._thread.start()

    def stop(self, deadline_s: float) -> int:
        """Writes what is left, for at most `deadline_s`; returns how many records had to be given up."""
        self._queue.close()
        ends = time.monotonic() + deadline_s
        self._thread.join(deadline_s)
        self._stopping.set()
        self._thread.join(max(0.0, ends - time.monotonic()) + 1.0)
        lost = self._queue.abandon("stopped")
        if lost:
            _log.error("%d records were lost: the database did not take them within %.1f s", lost, deadline_s)
        self._pool.close(timeout=1.0)
        return lost

    def _run(self) -> None:
        with suppress_instrumentation():
            while batch := self._queue.take(self._limits.max_records, self._limits.max_bytes, self._limits.max_age_s):
                self._write(batch)

    def _write(self, batch: Sequence[StageRecord]) -> None:
        """Writes a batch, however long Postgres is away, unless the writer is being stopped."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            try:
                written, poisoned = self._attempt(batch)
            except _TRANSIENT as error:
                self._say_away(error)
                self._queue.settle(retried=True)
            except Exception:  # noqa: BLE001 - the writer loop: it must outlive whatever a batch does to it
                _log.exception("a batch could not be written and is tried again")
                self._queue.settle(retried=True)
            else:
                self._say_back()
                self._queue.settle(
                    stored=written.stored,
                    replayed=written.replayed,
                    dropped=written.conflicting + poisoned,
                    reason="quarantined",
                )
                return
            self._stopping.wait(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    def _attempt(self, batch: Sequence[StageRecord]) -> tuple[Written, int]:
        with self._pool.connection() as conn:
            conn.autocommit = True  # every statement below says itself where its transaction begins
            try:
                self._partitions.ensure(conn, {day_of(record.call_id) for record in batch})
                return self._write_isolating(conn, batch)
            finally:
                if not conn.closed:
                    conn.autocommit = False

    def _write_isolating(self, conn: psycopg.Connection[Any], batch: Sequence[StageRecord]) -> tuple[Written, int]:
        """Writes a batch; a record that Postgres refuses is found by halving, and set aside alone."""
        try:
            return write_batch(conn, batch), 0
        except _TRANSIENT:
            raise
        except (psycopg.Error, ValueError, TypeError, OverflowError) as error:
            if len(batch) == 1:
                _log.error("a record cannot be stored and is set aside: %s", type(error).__name__)
                quarantine(conn, batch[0], "refused", f"{type(error).__name__}: {error}")
                return Written(0, 0, 0), 1
        middle = len(batch) // 2
        first, poisoned_first = self._write_isolating(conn, batch[:middle])
        second, poisoned_second = self._write_isolating(conn, batch[middle:])
        total = Written(
            first.stored + second.stored,
            first.replayed + second.replayed,
            first.conflicting + second.conflicting,
        )
        return total, poisoned_first + poisoned_second

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            _log.warning("the database is away, records wait: %s", str(error).partition("\n")[0])

    def _say_back(self) -> None:
        if self._is_away:
            self._is_away = False
            _log.info("the database is back")


def _configure(conn: psycopg.Connection[Any]) -> None:
    prepare(conn)
    conn.commit()
