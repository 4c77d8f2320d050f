"""What was handed in and waits for the spool's thread; whether there is room for more is decided here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthien.exchange import StageRecord
from luthien.record.marks import tombstone
from luthien.record.outbox import Load
from luthien.record.sink import Receipt
from luthien.record.stats import RecordStats
from luthien.record.untold import Untold

_RESERVED_PERCENT = 5

_GROUP_RECORDS = 512
_GROUP_BYTES = 16 * 1024 * 1024


def for_payloads(limit: int) -> int:
    """What records with a payload may use of a bound: the rest is for those without, tombstones above all."""
    return limit - limit * _RESERVED_PERCENT // 100


@dataclass(slots=True)
class Submission:
    """Records that were handed in together. `refused`: how many lost at least their payloads, by reason."""

    since_s: float
    records: list[StageRecord]
    size_bytes: int
    refused: dict[str, int]
    receipt: Receipt


class Inbox:
    """Belongs to `Unsaved`, whose lock is held when anything here is called.

    Args:
        bounds: on all that is in memory.
        kept: what is in memory apart from this.
        stats: where refusals are counted.
        untold: where records of which nothing is kept are noted.
        on_awaited: told that somebody waits for a receipt.
    """

    def __init__(
        self, bounds: Load, kept: Load, stats: RecordStats, untold: Untold, on_awaited: Callable[[], None]
    ) -> None:
        self._limit = bounds
        self._limit_of_payloads = Load(for_payloads(bounds.records), for_payloads(bounds.size_bytes))
        self._kept = kept
        self._stats = stats
        self._untold = untold
        self._on_awaited = on_awaited
        self._load = Load()
        self.pending: deque[Submission] = deque()

    @property
    def records(self) -> list[StageRecord]:
        return [record for submission in self.pending for record in submission.records]

    @property
    def load(self) -> Load:
        return self._load

    @property
    def is_worth_a_group(self) -> bool:
        """Whether so much is pending that more would not make a write of it cheaper."""
        return self._load.records >= _GROUP_RECORDS // 2 or self._load.size_bytes >= _GROUP_BYTES // 16

    def accept(self, records: Sequence[StageRecord], obstacle: str | None, shortage: str | None) -> Submission:
        """Takes in what there is room for, in place of other payloads tombstones; the receipt is not settled yet.

        Args:
            obstacle: why nothing at all is taken in.
            shortage: why there is no room, if it is known; else the bound says.
        """
        submission = Submission(time.monotonic(), [], 0, {}, Receipt(self._on_awaited))
        for record in records:
            kept: StageRecord | None = record
            if reason := obstacle or self._refusal(record, submission, shortage):
                self._stats.dropped[reason] += 1
                submission.refused[reason] = submission.refused.get(reason, 0) + 1
                kept = None if obstacle else self._tombstone(record, reason, submission)
                if kept is None:
                    self._untold.lost(record, reason)
            if kept is not None:
                submission.records.append(kept)
                submission.size_bytes += kept.size_bytes
        if submission.records:
            self._load.add(len(submission.records), submission.size_bytes)
            self.pending.append(submission)
        return submission

    def _refusal(self, record: StageRecord, before: Submission, shortage: str | None) -> str | None:
        try:
            size = record.size_bytes
        except TypeError:  # not even Postgres's quarantine could keep it
            return "malformed"
        limit = self._limit if record.payload is None else self._limit_of_payloads
        if size > limit.size_bytes:
            return "too_large"
        if self._kept.records + self._load.records + len(before.records) + 1 > limit.records:
            return shortage or "queue_full_records"
        if self._kept.size_bytes + self._load.size_bytes + before.size_bytes + size > limit.size_bytes:
            return shortage or "queue_full_bytes"
        return None

    def _tombstone(self, record: StageRecord, reason: str, before: Submission) -> StageRecord | None:
        if record.payload is None or reason == "malformed":
            return None
        stone = tombstone(record, reason)
        if self._refusal(stone, before, None):
            return None
        self._stats.tombstones += 1
        return stone

    def next_group(self) -> list[Submission]:
        """The oldest submissions, as many as are worth one write."""
        group: list[Submission] = []
        load = Load()
        for submission in self.pending:
            load.add(len(submission.records), submission.size_bytes)
            if group and (load.records > _GROUP_RECORDS or load.size_bytes > _GROUP_BYTES):
                break
            group.append(submission)
        return group

    def remove(self, submissions: int) -> None:
        """Forgets that many of the oldest."""
        for _ in range(submissions):
            submission = self.pending.popleft()
            self._load.take_off(len(submission.records), submission.size_bytes)
