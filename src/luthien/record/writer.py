"""The thread that writes the record to Postgres, and keeps trying while Postgres is away."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import psycopg
from opentelemetry.instrumentation.utils import suppress_instrumentation
from psycopg_pool import ConnectionPool

from luthien.exchange import StageRecord, call_time_ms
from luthien.record.source import RecordSource
from luthien.store.deadline import GIVING_UP_S, SILENCE_S, WatchedConnection, connection_options
from luthien.store.partitions import PartitionKeeper, day_of, day_range
from luthien.store.retention import first_kept_day
from luthien.store.write import is_about_content, is_too_slow, prepare, quarantine, write_batch

_log = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
# While the writer is being stopped.
_MAX_LAST_BACKOFF_S = 0.2
# A call id from further in the future is implausible: each such day would get partitions of its own.
_MAX_AHEAD_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is written: at so many records, so many bytes, or when its oldest record is so old."""

    max_records: int
    max_bytes: int
    max_age_s: float


class BatchObserver(Protocol):
    """Is told of each batch, in the writer's thread."""

    def written(self, records: int, size_bytes: int, duration_s: float) -> None:
        """So many records of so many bytes were written, at an attempt that took so long."""
        ...


class RecordWriter:
    """Takes batches from the source until it is stopped. Owns its thread and its connections.

    Both belong to the process that called `start`: a forked child has neither, and must make a writer of its own.

    Args:
        keep: how long calls are kept, in whole days; records of older ones, as an old spool has them, are not stored.
        silence_s: how long the database may be silent before the connection is given up.
    """

    def __init__(
        self,
        source: RecordSource,
        dsn: str,
        limits: BatchLimits,
        *,
        keep: timedelta | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._source = source
        self._limits = limits
        self._keep = keep
        self._silence_s = silence_s
        self._partitions = PartitionKeeper()
        self._draining = threading.Event()
        self._giving_up = threading.Event()
        self._trouble: str | None = None
        self._observer: BatchObserver | None = None
        self._pool = ConnectionPool(
            dsn,
            connection_class=WatchedConnection,
            min_size=1,
            max_size=1,
            num_workers=1,
            open=False,
            name="luthien-record",
            # Short, since the thread does not hear "stop" while it waits for a connection, which goes on being made.
            timeout=0.5,
            # The writer alone decides when it is tried again; the pool would wait longer and longer.
            reconnect_timeout=0.0,
            # Every statement says itself where its transaction begins.
            kwargs={"autocommit": True, **connection_options("luthien-record")},
            configure=self._configure,
        )
        self._thread = threading.Thread(target=self._run, name="luthien-record-writer", daemon=True)

    def tell(self, observer: BatchObserver) -> None:
        """Tells an observer of each batch from now on. One that breaks is told no more, and the writer goes on."""
        self._observer = observer

    def start(self) -> None:
        self._pool.open(wait=False)
        self._thread.start()

    def stop(self, deadline_s: float) -> int:
        """Writes what is left, in at most `deadline_s`; returns how many records had to be given up.

        A statement that is under way shortly before that is abandoned.
        """
        ends = time.monotonic() + deadline_s
        self._source.close()
        self._draining.set()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline_s - GIVING_UP_S))
            self._giving_up.set()
            self._thread.join(GIVING_UP_S)
        lost = self._source.abandon("stopped")
        if lost:
            _log.error("%d records were lost: the database did not take them within %.1f s", lost, deadline_s)
        # Its thread may be in the middle of connecting, for five seconds at most, and ends by itself.
        self._pool.close(timeout=max(0.0, ends - time.monotonic()))
        return lost

    def _configure(self, conn: WatchedConnection) -> None:
        conn.silence_s = self._silence_s
        conn.is_given_up = self._giving_up.is_set
        prepare(conn)

    def _run(self) -> None:
        limits = self._limits
        with suppress_instrumentation():
            while not self._giving_up.is_set():
                batch = self._source.take(limits.max_records, limits.max_bytes, limits.max_age_s)
                if not batch:
                    return
                self._write(batch)

    def _write(self, batch: Sequence[StageRecord]) -> None:
        """Writes a batch, however long Postgres is away, unless the writer gives up."""
        for pause_s in backoffs():
            if self._giving_up.is_set():
                return
            began = time.monotonic()
            try:
                self._attempt(batch)
            except Exception as error:  # noqa: BLE001 - the writer loop: it must outlive whatever a batch does to it
                self._say_trouble(error)
                batch = self._source.retry()
                self._pause(pause_s)
            else:
                self._say_back()
                self._observe(batch, time.monotonic() - began)
                return

    def _observe(self, batch: Sequence[StageRecord], duration_s: float) -> None:
        if self._observer is None:
            return
        try:
            self._observer.written(len(batch), sum(record.size_bytes for record in batch), duration_s)
        except Exception:  # noqa: BLE001 - the writer loop: it must outlive whoever looks on
            self._observer = None
            _log.exception("whoever is told of the batches broke, and is told no more")

    def _attempt(self, batch: Sequence[StageRecord]) -> None:
        """Settles the records of a batch one by one or all at once; when it raises, some may be left."""
        with self._pool.connection() as conn:
            try:
                plausible = self._plausible(conn, self._kept(batch))
                self._partitions.ensure(conn, {day_of(record.call_id) for record in plausible})
                self._write_isolating(conn, plausible)
            except BaseException:
                # The next attempt begins with a new one: this may be broken, read-only, or lack its tables.
                conn.close()
                raise

    def _kept(self, batch: Sequence[StageRecord]) -> Sequence[StageRecord]:
        """The batch without what is older than retention: storing it would bring a dropped day back."""
        if self._keep is None:
            return batch
        oldest_id = day_range(first_kept_day(self._keep))[0]
        expired = [record for record in batch if record.call_id < oldest_id]
        if expired:
            _log.warning("%d records are of days that are not kept any more, and are not stored", len(expired))
            self._source.settle(expired, dropped=len(expired), reason="expired")
        return [record for record in batch if record.call_id >= oldest_id]

    def _plausible(self, conn: WatchedConnection, batch: Sequence[StageRecord]) -> list[StageRecord]:
        """The batch without those records whose call ids no call can have; these are set aside."""
        newest_ms = time.time_ns() // 1_000_000 + _MAX_AHEAD_MS
        plausible: list[StageRecord] = []
        for record in batch:
            if call_time_ms(record.call_id) <= newest_ms:
                plausible.append(record)
            else:
                self._set_aside(conn, record, "implausible", "the call id is of a time that has not come")
        return plausible

    def _write_isolating(self, conn: WatchedConnection, batch: Sequence[StageRecord]) -> None:
        """Writes a batch; a record that Postgres refuses is found by halving, and set aside alone.

        What takes longer than a statement may is halved, too: over a slow line, no batch might ever get through.
        """
        try:
            self._write_once(conn, batch)
        except Exception as error:
            if not (is_about_content(error) or is_too_slow(error)):
                raise
            if len(batch) == 1:
                self._write_or_set_aside(conn, batch[0])
                return
            middle = len(batch) // 2
            self._write_isolating(conn, batch[:middle])
            self._write_isolating(conn, batch[middle:])

    def _write_or_set_aside(self, conn: WatchedConnection, record: StageRecord) -> None:
        """Once more and with patience: its day's partition may have appeared while it was on its way."""
        try:
            self._write_once(conn, [record], is_patient=True)
        except Exception as error:
            if not is_about_content(error):
                raise
            self._set_aside(conn, record, "refused", f"{type(error).__name__}: {error}")

    def _write_once(self, conn: WatchedConnection, batch: Sequence[StageRecord], *, is_patient: bool = False) -> None:
        if batch:
            written = write_batch(conn, batch, is_patient=is_patient)
            self._source.settle(
                batch,
                stored=written.stored,
                replayed=written.replayed,
                dropped=written.conflicting,
                reason="quarantined",
            )

    def _set_aside(self, conn: WatchedConnection, record: StageRecord, reason: str, error: str) -> None:
        """Puts a record into quarantine; lost is only what not even that takes."""
        said = {"luthien.call_id": str(record.call_id)}
        _log.error("a record cannot be stored and is set aside: %s", error.partition(":")[0], extra=said)
        try:
            quarantine(conn, record, reason, error)
        except Exception as refusal:
            if not is_about_content(refusal):
                raise
            # Not the error itself: it may quote the row.
            _log.error("a record was lost, the quarantine did not take it: %s", type(refusal).__name__)
            self._source.settle([record], dropped=1, reason="unstorable")
        else:
            self._source.settle([record], dropped=1, reason="quarantined")

    def _pause(self, pause_s: float) -> None:
        if not self._draining.wait(pause_s):
            return
        self._giving_up.wait(min(pause_s, _MAX_LAST_BACKOFF_S))

    def _say_trouble(self, error: Exception) -> None:
        """Once for each kind of trouble in a row, not once for each attempt."""
        kind = type(error).__name__
        if self._trouble == kind or self._giving_up.is_set():
            return
        self._trouble = kind
        is_foreign, said = True, kind  # not its text, which may quote a record
        if isinstance(error, psycopg.Error):
            is_foreign, said = False, error.diag.message_primary or str(error).partition("\n")[0]
        _log.warning("the database does not take records, they wait: %s", said, exc_info=is_foreign)

    def _say_back(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            _log.info("the database takes records again")


def backoffs() -> Iterator[float]:
    """How long to wait before each new attempt, in seconds: longer and longer up to a limit, and never in step."""
    longest_s = _FIRST_BACKOFF_S
    while True:
        yield random.uniform(longest_s / 2, longest_s)  # noqa: S311 - jitter
        longest_s = min(longest_s * 2, _MAX_BACKOFF_S)
