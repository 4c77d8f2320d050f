"""The queue between the span processor and the writer thread.

It is bounded in records and in bytes. What does not fit is refused, counted by reason, and never waited for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from luthien.exchange import StageRecord, call_time_ms


class Receipt:
    """Says, once it is known, whether records that were handed in are safe from then on.

    It may be settled from any thread.
    """

    __slots__ = ("_callbacks", "_lock", "_refused")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: int | None = None
        self._callbacks: list[Callable[[], object]] = []

    @classmethod
    def settled(cls, refused: int = 0) -> Receipt:
        receipt = cls()
        receipt._refused = refused
        return receipt

    @property
    def refused(self) -> int | None:
        """How many of the records were refused; None while it is not known."""
        return self._refused

    def settle(self, refused: int = 0) -> None:
        with self._lock:
            self._refused = refused
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    async def wait(self, deadline_s: float) -> bool:
        """Waits until the receipt is settled; False when that took longer than the deadline."""
        if self._refused is not None:
            return True
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()
        with self._lock:
            if self._refused is not None:
                return True
            self._callbacks.append(lambda: loop.call_soon_threadsafe(settled.set))
        try:
            await asyncio.wait_for(settled.wait(), deadline_s)
        except TimeoutError:
            return False
        return True


class RecordSink(Protocol):
    """All that the span processor knows of the record."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        """Takes records in, or refuses them, at once; never blocks and never raises."""
        ...


class DiscardingSink:
    """Stands where nothing is to be recorded."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        return Receipt.settled()


@dataclass(slots=True)
class RecordStats:
    """What became of every record, since the process began."""

    appended: int = 0
    stored: int = 0
    replayed: int = 0
    retried_batches: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unsaved: int = 0
    unsaved_bytes: int = 0


class RecordQueue:
    """A `RecordSink` in memory: records wait here until the writer says that they are stored.

    Args:
        max_records, max_bytes: bounds on what waits, records being written included.
    """

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, StageRecord]] = deque()
        self._waiting_bytes = 0
        self._in_flight: list[StageRecord] = []
        self._in_flight_bytes = 0
        self._closed = False
        self._stats = RecordStats()

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        now = time.monotonic()
        refused = 0
        with self._changed:
            was_empty = not self._waiting
            for record in records:
                if reason := self._refusal(record):
                    self._stats.dropped[reason] += 1
                    refused += 1
                    continue
                self._waiting.append((now, record))
                self._waiting_bytes += record.size_bytes
                self._stats.appended += 1
            if was_empty and self._waiting:
                self._changed.notify()
        return Receipt.settled(refused)

    def _refusal(self, record: StageRecord) -> str | None:
        if self._closed:
            return "closed"
        if len(self._waiting) + len(self._in_flight) >= self._max_records:
            return "queue_full_records"
        if self._waiting_bytes + self._in_flight_bytes + record.size_bytes > self._max_bytes:
            return "queue_full_bytes"
        return None

    def take(self, max_records: int, max_bytes: int, max_age_s: float) -> list[StageRecord]:
        """The next batch for the writer: waits until the oldest record is `max_age_s` old or a batch is full.

        Returns at least one record however large it is, and none only when the queue is closed and empty.
        They stay unsaved until `settle` says what became of them.
        """
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and not self._closed and not self._is_batch(max_records, max_bytes):
                remaining_s = self._waiting[0][0] + max_age_s - time.monotonic()
                if remaining_s <= 0:
                    break
                self._changed.wait(remaining_s)
            batch: list[StageRecord] = []
            size = 0
            while self._waiting and len(batch) < max_records:
                record = self._waiting[0][1]
                if batch and size + record.size_bytes > max_bytes:
                    break
                self._waiting.popleft()
                batch.append(record)
                size += record.size_bytes
            self._waiting_bytes -= size
            self._in_flight, self._in_flight_bytes = batch, size
            return batch

    def _is_batch(self, max_records: int, max_bytes: int) -> bool:
        return len(self._waiting) >= max_records or self._waiting_bytes >= max_bytes

    def settle(
        self, *, stored: int = 0, replayed: int = 0, dropped: int = 0, reason: str = "", retried: bool = False
    ) -> None:
        """What became of the batch that `take` gave; unless it is `retried`, it is no longer unsaved."""
        with self._changed:
            self._stats.stored += stored
            self._stats.replayed += replayed
            if dropped:
                self._stats.dropped[reason] += dropped
            if retried:
                self._stats.retried_batches += 1
            else:
                self._in_flight, self._in_flight_bytes = [], 0

    def close(self) -> None:
        """Refuses records from now on; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self, reason: str) -> int:
        """Gives up what is still unsaved; returns how many records that were."""
        with self._changed:
            lost = len(self._waiting) + len(self._in_flight)
            self._waiting.clear()
            self._in_flight = []
            self._waiting_bytes = self._in_flight_bytes = 0
            if lost:
                self._stats.dropped[reason] += lost
            return lost

    def unsaved(self, call_id: UUID) -> list[StageRecord]:
        """The records of a call that are not in the database yet."""
        with self._changed:
            records = [*self._in_flight, *(record for _, record in self._waiting)]
        return [record for record in records if record.call_id == call_id]

    def oldest_unsaved_ms(self) -> int | None:
        """The Unix time (ms) of the call whose record has waited longest; None when nothing waits."""
        with self._changed:
            oldest = self._in_flight[0] if self._in_flight else None
            oldest = oldest or (self._waiting[0][1] if self._waiting else None)
        return None if oldest is None else call_time_ms(oldest.call_id)

    def oldest_unsaved_age_s(self) -> float:
        """How old, in seconds, the oldest unsaved call is; 0 when nothing waits."""
        oldest_ms = self.oldest_unsaved_ms()
        return 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)

    def stats(self) -> RecordStats:
        with self._changed:
            stats = self._stats
            return RecordStats(
                appended=stats.appended,
                stored=stats.stored,
                replayed=stats.replayed,
                retried_batches=stats.retried_batches,
                dropped=Counter(stats.dropped),
                unsaved=len(self._waiting) + len(self._in_flight),
                unsaved_bytes=self._waiting_bytes + self._in_flight_bytes,
            )
