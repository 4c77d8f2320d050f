"""The simplest that the record may be: a queue in memory.

It is bounded in records and in bytes. What does not fit is refused, counted by reason, and never waited for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from luthien.exchange import StageRecord
from luthien.record.outbox import Outbox
from luthien.record.sink import Receipt
from luthien.record.stats import RecordStats
from luthien.record.untold import Untold


class RecordQueue:
    """A `RecordSink` in memory: records wait here until the writer says what became of them.

    Any thread may submit and ask; one thread takes. A forked child has a copy of what was waiting, which nobody
    writes there: make the queue where it is used.

    Args:
        max_records, max_bytes: bounds on what waits, records being written included.
        clock: seconds, monotonic.
    """

    def __init__(self, max_records: int, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.process_id = uuid4()
        self.untold = Untold()
        self._clock = clock
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._outbox = Outbox()
        self._awaited: tuple[int, int] | None = None
        self._closed = False
        self._stats = RecordStats()

    def start(self) -> None:
        """Memory needs nothing."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        now = self._clock()
        refused: Counter[str] = Counter()
        with self._changed:
            was_empty = not self._outbox.waiting
            for record in records:
                if reason := self._refusal(record):
                    self._stats.dropped[reason] += 1
                    refused[reason] += 1
                    self.untold.lost(record, reason)
                    continue
                self._outbox.put((now, record, None))
                self._stats.appended += 1
            # The writer is woken up for the first record and for a full batch, not for all in between.
            if self._outbox.waiting and (was_empty or (self._awaited and self._outbox.is_batch(*self._awaited))):
                self._changed.notify()
        return Receipt.settled(refused.total(), refused)

    def _refusal(self, record: StageRecord) -> str | None:
        if self._closed:
            return "closed"
        if record.size_bytes > self._max_bytes:
            return "too_large"
        if self._outbox.load.records >= self._max_records:
            return "queue_full_records"
        if self._outbox.load.size_bytes + record.size_bytes > self._max_bytes:
            return "queue_full_bytes"
        return None

    def take(self, max_records: int, max_bytes: int, max_age_s: float) -> list[StageRecord]:
        """The next batch for the writer: waits until the oldest record is `max_age_s` old or a batch is full.

        Returns at least one record however large it is, and none only when the queue is closed and empty.
        They stay unsaved until `settle` says what became of them.
        """
        with self._changed:
            waiting = self._outbox.waiting
            while not waiting and not self._closed:
                self._changed.wait()
            self._awaited = max_records, max_bytes
            while waiting and not self._closed and not self._outbox.is_batch(max_records, max_bytes):
                remaining_s = waiting[0][0] + max_age_s - self._clock()
                if remaining_s <= 0:
                    break
                self._changed.wait(remaining_s)
            self._awaited = None
            return self._outbox.take(max_records, max_bytes)

    def settle(
        self,
        records: Sequence[StageRecord],
        *,
        stored: int = 0,
        replayed: int = 0,
        dropped: int = 0,
        reason: str = "",
    ) -> None:
        """What became of some of the records that `take` gave; they are no longer unsaved.

        Those that were given up in the meantime were counted then, and are not counted again.
        """
        with self._changed:
            if not self._outbox.settle(records):
                return
            self._stats.stored += stored
            self._stats.replayed += replayed
            if dropped:
                self._stats.dropped[reason] += dropped

    def retry(self) -> list[StageRecord]:
        """Counts a batch that has to be tried again, and returns what is left of it."""
        with self._changed:
            self._stats.retried_batches += 1
            return [record for _, record, _ in self._outbox.in_flight]

    def close(self) -> None:
        """Refuses records from now on; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self, reason: str) -> int:
        """Refuses records from now on and gives up what is still unsaved; returns how many records that were.

        What the writer was about to store when it was stopped counts as lost, although Postgres may have it.
        """
        with self._changed:
            self._closed = True
            lost = len(self._outbox.clear())
            if lost:
                self._stats.dropped[reason] += lost
            self._changed.notify_all()
            return lost

    def unsaved(self, call_id: UUID) -> list[StageRecord]:
        """The records of a call that are not in the database yet."""
        with self._changed:
            records = self._outbox.records
        return [record for record in records if record.call_id == call_id]

    @property
    def trouble(self) -> str | None:
        """None: memory has none."""
        return None

    def unsaved_calls(self) -> frozenset[UUID]:
        """The calls that have unsaved records."""
        with self._changed:
            return frozenset(record.call_id for record in self._outbox.records)

    def taken_over(self) -> frozenset[UUID]:
        """None: a queue finds nothing of others."""
        return frozenset()

    def oldest_unsaved_age_s(self) -> float:
        """How long, in seconds, the oldest unsaved record has waited; 0 when nothing waits."""
        with self._changed:
            since = self._outbox.since()
            return self._clock() - min(since) if since else 0.0

    def stats(self) -> RecordStats:
        with self._changed:
            stats = self._stats.copy()
            stats.unsaved = self._outbox.load.records
            stats.unsaved_bytes = self._outbox.load.size_bytes
            return stats
