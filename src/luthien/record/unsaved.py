"""Records that are not in the database yet: handed in, in memory, being written, or on the disk only.

Memory is bounded in records and in bytes. Half of it is for records that the spool has: when that is full, later ones
stay on the disk until all before them has been read back. So there is always room for what comes in.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Condition
from uuid import UUID

from luthien.exchange import StageRecord
from luthien.record.folder import Segment
from luthien.record.group import Group
from luthien.record.inbox import Inbox, Submission
from luthien.record.outbox import Entry, Load, Outbox
from luthien.record.sink import Receipt
from luthien.record.stats import RecordStats
from luthien.record.stretch import Backlog, ReadBack, Stretch
from luthien.record.untold import Untold

_log = logging.getLogger(__name__)

_RETRY_S = 1.0


class Unsaved:
    """What the spool's thread, the writer's, and everybody who submits or asks share, behind one lock.

    No file is opened, read, written or removed under it.

    Args:
        max_records, max_bytes: bounds on what is in memory.
        untold: where records of which nothing is kept are noted.
        on_free: removes a segment that nobody needs any more, and says whether it could.
        on_awaited: told that somebody waits for a receipt.
    """

    def __init__(
        self,
        max_records: int,
        max_bytes: int,
        untold: Untold,
        on_free: Callable[[Segment], bool],
        on_awaited: Callable[[], None],
    ) -> None:
        self._untold = untold
        self._on_free = on_free
        self._changed = Condition()
        self._stats = RecordStats()
        self._bounds = Load(max_records, max_bytes)
        self._outbox = Outbox()
        self._inbox = Inbox(self._bounds, self._outbox.load, self._stats, untold, on_awaited)
        self._backlog = Backlog()
        self._free: list[Segment] = []
        self._awaited: tuple[int, int] | None = None
        self._is_disks_turn = False
        self._is_closed = False
        self._is_finished = False
        self._left_behind = 0

    # Those who submit

    def hand_in(self, records: Sequence[StageRecord], trouble: str | None) -> tuple[Receipt, bool]:
        """Takes records in as far as there is room; the flag says that so much is pending as is worth one write.

        `trouble` is what is wrong with the disk: then a lack of room is put down to it.
        """
        with self._changed:
            submission = self._inbox.accept(records, "closed" if self._is_closed else None, trouble)
            is_worth_a_group = self._inbox.is_worth_a_group
        if not submission.records:
            submission.receipt.settle(sum(submission.refused.values()), submission.refused)
        return submission.receipt, is_worth_a_group

    # The spool's thread

    def next_group(self) -> list[Submission]:
        """The oldest of what is pending, as much as is worth one write. It stays pending until `publish`."""
        with self._changed:
            return self._inbox.next_group()

    @property
    def is_worth_a_group(self) -> bool:
        with self._changed:
            return self._inbox.is_worth_a_group or (self._is_closed and bool(self._inbox.pending))

    @property
    def is_over(self) -> bool:
        """Whether nothing is pending, and nothing will be."""
        with self._changed:
            return self._is_closed and not self._inbox.pending

    def publish(self, submissions: Sequence[Submission], group: Group) -> None:
        """Lets the writer have what was pending."""
        with self._changed:
            if self._is_finished:  # abandoned meanwhile
                return
            was_empty = not self._outbox.waiting
            self._publish(submissions, group)
            # The writer is woken up for the first record and for a full batch, not for all in between.
            if was_empty or (self._awaited and self._outbox.is_batch(*self._awaited)):
                self._changed.notify()
        self._give_back()

    def _publish(self, submissions: Sequence[Submission], group: Group) -> None:
        self._inbox.remove(len(submissions))
        for record, reason in group.lost:
            self._untold.lost(record, reason)
        self._stats.appended += len(group.entries)
        if group.dropped:
            self._stats.dropped.update(group.dropped)
            self._stats.tombstones += group.tombstones
        self._stats.spool_bytes += group.end - group.start
        kept = group.entries
        if group.not_crash_proof:
            self._stats.not_crash_proof.update(group.not_crash_proof)
            kept = [entry for entry in group.entries if entry[2] is not None]
            for entry in group.entries:
                if entry[2] is None:
                    self._outbox.put(entry)
        if group.segment is None or not kept:
            return
        group.segment.holds += len(kept)
        if self._has_room_for(kept):
            for entry in kept:
                self._outbox.put(entry)
        else:
            self._backlog.spill(group.segment, group.start, group.end, len(kept), kept[0][0])

    def _has_room_for(self, entries: Sequence[Entry]) -> bool:
        load, size = self._outbox.load, sum(record.size_bytes for _, record, _ in entries)
        return (
            not self._backlog.is_spilling
            and load.records + len(entries) <= self._bounds.records // 2
            and load.size_bytes + size <= self._bounds.size_bytes // 2
        )

    def adopt(self, segments: Sequence[Segment]) -> None:
        """Adds what a dead process left."""
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        with self._changed:
            for segment in segments:
                since_s = now_s - max(0, now_ms - segment.since_ms) / 1000
                self._backlog.add(Stretch(segment, 0, segment.size_bytes, None, since_s))
                self._stats.spool_bytes += segment.size_bytes
            self._changed.notify()

    def let_go(self, segment: Segment) -> None:
        """Says that a segment is sealed."""
        with self._changed:
            self._let_go(segment, 1)

    def _let_go(self, segment: Segment, holds: int) -> None:
        segment.holds -= holds
        if segment.holds == 0:
            self._free.append(segment)

    def _give_back(self) -> None:
        if not self._free:
            return
        with self._changed:
            free, self._free = self._free, []
        for segment in free:
            if self._on_free(segment):
                with self._changed:
                    self._stats.spool_bytes -= segment.size_bytes

    @property
    def spool_bytes(self) -> int:
        return self._stats.spool_bytes

    def finish(self) -> None:
        """Nothing more will be published."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()
        self._give_back()

    # The writer

    def take(self, max_records: int, max_bytes: int, max_age_s: float) -> list[StageRecord]:
        """As `RecordSource.take`: from memory and from the disk in turn, while there is something in both."""
        while True:
            with self._changed:
                stretch = self._next_stretch(max_records, max_bytes, max_age_s)
                if stretch is None:
                    return self._outbox.take(max_records, max_bytes)
                end, room_bytes = stretch.end, self._bounds.size_bytes // 2 - self._outbox.load.size_bytes
            records = self._read_back(stretch, end, max_records, min(max_bytes, room_bytes))
            if records:
                return records

    def _next_stretch(self, max_records: int, max_bytes: int, max_age_s: float) -> Stretch | None:
        """Waits for what to take: the stretch to read, or None for what waits in memory, or for nothing any more."""
        while True:
            self._awaited = None
            now_s = time.monotonic()
            stretch = self._backlog.ready(now_s)
            waiting = self._outbox.waiting
            due_in_s = waiting[0][0] + max_age_s - now_s if waiting else None
            is_due = due_in_s is not None and (
                due_in_s <= 0 or self._is_closed or self._outbox.is_batch(max_records, max_bytes)
            )
            if stretch is not None and (self._is_disks_turn or not is_due):
                self._is_disks_turn = False
                return stretch
            if is_due or (self._is_finished and not waiting):
                self._is_disks_turn = True
                return None
            ready_in_s = self._backlog.ready_in(now_s)
            self._awaited = max_records, max_bytes
            self._changed.wait(min((each for each in (due_in_s, ready_in_s) if each is not None), default=None))

    def _read_back(self, stretch: Stretch, end: int, max_records: int, max_bytes: int) -> list[StageRecord]:
        """Not under the lock: whoever submits must not wait for the disk."""
        try:
            read = stretch.read(end, max_records, max_bytes)
        except OSError as error:
            if stretch.retry_at_s == 0.0:
                _log.error("a part of the spool cannot be read; it stays where it is, and is tried again: %s", error)
            stretch.retry_at_s = time.monotonic() + _RETRY_S
            return []
        for damage in read.damages:
            _log.error("%s is damaged from byte %d to %d", stretch.segment.path, damage.start, damage.end)
        with self._changed:
            if stretch not in self._backlog.stretches:  # abandoned meanwhile
                return []
            self._receive(stretch, read)
        self._give_back()
        return read.records

    def _receive(self, stretch: Stretch, read: ReadBack) -> None:
        entries = [(stretch.since_s, record, stretch.segment) for record in read.records]
        self._outbox.put_in_flight(entries, Load(len(entries), read.size_bytes))
        stretch.found += len(read.records)
        if stretch.is_adopted:
            stretch.segment.holds += len(read.records)
            self._stats.adopted += len(read.records) + len(read.damages)
            for damage in read.damages:
                self._stats.dropped["torn" if damage.is_last else "damaged"] += 1
        if stretch.is_read:
            self._backlog.stretches.remove(stretch)
            if stretch.unread:
                self._stats.dropped["damaged"] += stretch.unread
            self._let_go(stretch.segment, 1 + stretch.unread)

    def settle(self, records: Sequence[StageRecord], stored: int, replayed: int, dropped: int, reason: str) -> None:
        """As `RecordSource.settle`."""
        with self._changed:
            gone = self._outbox.settle(records)
            if not gone:
                return
            for _, _, segment in gone:
                if segment is not None:
                    self._let_go(segment, 1)
            self._stats.stored += stored
            self._stats.replayed += replayed
            if dropped:
                self._stats.dropped[reason] += dropped
        self._give_back()

    def retry(self) -> list[StageRecord]:
        """As `RecordSource.retry`."""
        with self._changed:
            self._stats.retried_batches += 1
            return [record for _, record, _ in self._outbox.in_flight]

    # The end

    def close(self) -> None:
        """Refuses records from now on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def abandon(self, reason: str) -> tuple[int, int]:
        """Gives up what is unsaved: how many records are lost by that, and how many the disk still has."""
        with self._changed:
            self._is_closed = self._is_finished = True
            pending, entries = self._inbox.records, self._outbox.clear()
            lost = len(pending) + sum(segment is None for _, _, segment in entries)
            left = len(pending) + len(entries) - lost + self._backlog.unread
            self._stats.appended += len(pending)
            if lost:
                self._stats.dropped[reason] += lost
            self._left_behind += left
            unsettled = [*self._inbox.pending]
            self._inbox.remove(len(unsettled))
            self._backlog.stretches.clear()
            self._changed.notify_all()
        for submission in unsettled:
            refused = Counter(submission.refused) + Counter({reason: len(submission.records)})
            submission.receipt.settle(refused.total(), refused)
        self._give_back()
        return lost, left

    # Whoever asks

    def of_call(self, call_id: UUID) -> list[StageRecord]:
        """The records of a call that are in memory."""
        with self._changed:
            records = self._outbox.records + self._inbox.records
        return [record for record in records if record.call_id == call_id]

    def calls(self) -> frozenset[UUID]:
        """The calls that have records in memory."""
        with self._changed:
            records = self._outbox.records + self._inbox.records
        return frozenset(record.call_id for record in records)

    def oldest_age_s(self) -> float:
        """As `RecordSource.oldest_unsaved_age_s`."""
        with self._changed:
            since = [*self._backlog.since(), *self._outbox.since()]
            if self._inbox.pending:
                since.append(self._inbox.pending[0].since_s)
        return time.monotonic() - min(since) if since else 0.0

    def stats(self) -> RecordStats:
        with self._changed:
            stats = self._stats.copy()
            stats.unsaved = self._outbox.load.records + self._backlog.unread + self._left_behind
            stats.unsaved_bytes = self._outbox.load.size_bytes + self._inbox.load.size_bytes
            stats.pending = self._inbox.load.records
            return stats
