"""The spool: a local write-ahead journal between the span processor and the writer thread, one for each process.

Records are handed to the kernel by a thread of the spool's own, many at once, and only then are their receipts
settled: from there on they survive the end of the process, however sudden. They also stay in memory, from where the
writer takes them; the journal is read back only when memory is short, and by whichever process comes after one that
died. See docs/decisions/0007-spool-format.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from luthien.exchange import StageRecord
from luthien.record.bell import Bell
from luthien.record.folder import Folder, Segment
from luthien.record.group import Group, for_memory, for_segment
from luthien.record.inbox import Submission
from luthien.record.journal import Journal
from luthien.record.sink import Receipt
from luthien.record.stats import RecordStats
from luthien.record.unsaved import Unsaved
from luthien.record.untold import Untold

_log = logging.getLogger(__name__)

_STOP_S = 1.0
# A process may also die, or stop without a database, after this one has started.
_ADOPT_S = 60.0
_SAY_S = 10.0
# What nobody waits for is written with what somebody waits for, or when it has lain for so long.
_LINGER_S = 0.1


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Bounds of one process's spool.

    The last 5% of each are kept for what has no payload. What dead processes left counts as this one's.
    """

    max_bytes: int
    """On the disk."""
    max_memory_records: int
    max_memory_bytes: int
    segment_bytes: int = 8 * 1024 * 1024
    """Disk space is given back a segment at a time; after a crash, about as much is written to the database twice."""


class Spool:
    """A `RecordSink` and a `RecordSource` whose records outlive the process.

    Any thread may submit and ask; one thread takes and settles. A forked child begins a spool of its own with the
    first record that it submits, and has nothing of its parent's.

    Args:
        root: the folder of all spools for one database; see `spool_root`.
        sync: whether receipts wait until the disk has the records, so that they survive a loss of power, too.
    """

    def __init__(self, root: Path, limits: SpoolLimits, *, sync: bool = False) -> None:
        self._root = root
        self._limits = limits
        self._sync = sync
        self._is_ended = False
        self._begin()
        os.register_at_fork(after_in_child=_Forked(self))

    def _begin(self) -> None:
        limits = self._limits
        self.process_id = uuid4()
        """Who records here; the folder on the disk is called so, too."""
        self.untold = Untold()
        self._bell = Bell()
        self._unsaved = Unsaved(
            limits.max_memory_records, limits.max_memory_bytes, self.untold, self._remove, self._bell.ring
        )
        self._journal = Journal(
            self._root, self.process_id, limits.segment_bytes, self._unsaved.let_go, sync=self._sync
        )
        self._adopted: list[Folder] = []
        self._thread = threading.Thread(target=self._run, name="luthien-spool", daemon=True)
        self._adopts_at_s = time.monotonic() + _ADOPT_S
        self._said: Counter[str] = Counter()
        self._says_at_s = 0.0
        self._is_started = False
        self._starts_by_itself = False

    def start(self) -> None:
        """Opens the spool, takes over those of dead processes, and starts the thread.

        When the disk does not let it, records wait in memory.
        """
        self._journal.segment()
        self._adopt()
        self._start_thread()

    def _adopt(self) -> None:
        self._adopts_at_s = time.monotonic() + _ADOPT_S
        for folder in Folder.adopt_all(self._root):
            segments = folder.find_segments()
            if segments:
                size = sum(segment.size_bytes for segment in segments)
                _log.warning("%d bytes that another process left in %s are taken over", size, folder.path)
                self._adopted.append(folder)
                self._unsaved.adopt(segments)
            else:
                self._bury(folder)

    def _bury(self, folder: Folder) -> None:
        """Gives a dead process's folder back, now that nothing is in it."""
        folder.release()
        if folder.owner is not None:
            self.untold.died(folder.owner)

    def _start_thread(self) -> None:
        self._starts_by_itself = False
        self._is_started = True
        self._thread.start()

    # Those who submit and ask

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        if self._starts_by_itself:
            with contextlib.suppress(RuntimeError):  # no more threads: the records wait
                self._start_thread()
        receipt, is_worth_a_group = self._unsaved.hand_in(records, self._journal.trouble)
        if is_worth_a_group:
            self._bell.ring()
        return receipt

    @property
    def trouble(self) -> str | None:
        """Why records are not crash-proof now: `disk_full`, `disk_failed`; None while they are."""
        return self._journal.trouble

    def unsaved(self, call_id: UUID) -> list[StageRecord]:
        return self._unsaved.of_call(call_id)

    def unsaved_calls(self) -> frozenset[UUID]:
        return self._unsaved.calls()

    def taken_over(self) -> frozenset[UUID]:
        return frozenset(folder.owner for folder in (*self._adopted,) if folder.owner is not None)

    def oldest_unsaved_age_s(self) -> float:
        return self._unsaved.oldest_age_s()

    def stats(self) -> RecordStats:
        stats = self._unsaved.stats()
        stats.spool_max_bytes = self._limits.max_bytes
        return stats

    # The writer

    def take(self, max_records: int, max_bytes: int, max_age_s: float) -> list[StageRecord]:
        return self._unsaved.take(max_records, max_bytes, max_age_s)

    def settle(
        self,
        records: Sequence[StageRecord],
        *,
        stored: int = 0,
        replayed: int = 0,
        dropped: int = 0,
        reason: str = "",
    ) -> None:
        self._unsaved.settle(records, stored, replayed, dropped, reason)

    def retry(self) -> list[StageRecord]:
        return self._unsaved.retry()

    def close(self) -> None:
        """Refuses records from now on; what is there can still be taken."""
        self._unsaved.close()
        self._bell.ring()
        if not self._is_started:
            self._unsaved.finish()

    def abandon(self, reason: str) -> int:
        """Ends the spool. What is on the disk is left to the next process; returns how many records are lost."""
        self.close()
        if self._is_started:
            self._thread.join(_STOP_S)
        self._is_ended = True
        lost, left = self._unsaved.abandon(reason)
        if left:
            _log.warning("%d records wait in %s for the next process", left, self._root)
        if self._is_started and self._thread.is_alive():
            return lost  # it hangs in the disk, and may still write: the lock dies with the process
        self._journal.release()
        while self._adopted:
            self._adopted.pop().release()
        return lost

    def _remove(self, segment: Segment) -> bool:
        try:
            segment.remove()
        except OSError as error:
            _log.error("a segment that is not needed any more cannot be removed: %s", error)
            return False
        folder = segment.folder
        if folder.segments:
            return True
        try:
            self._adopted.remove(folder)
        except ValueError:  # it is our own, or another thread has removed its last segment, too
            return True
        self._bury(folder)
        return True

    # The spool's thread

    def _run(self) -> None:
        """Sleeps until a call waits for a receipt: each time it wakes up costs a call two changes of threads."""
        while not self._unsaved.is_over:
            self._bell.wait(_LINGER_S)
            now_s = time.monotonic()
            if now_s >= self._adopts_at_s:
                self._adopt()
            if now_s >= self._says_at_s:
                self._say_losses(now_s)
            has_more = True
            while has_more and (submissions := self._unsaved.next_group()):
                self._keep(submissions)
                has_more = self._unsaved.is_worth_a_group
        self._journal.seal()
        self._say_losses(time.monotonic())
        self._unsaved.finish()

    def _say_losses(self, now_s: float) -> None:
        """Says what was refused or lost since this was said last."""
        self._says_at_s = now_s + _SAY_S
        dropped = self._unsaved.stats().dropped
        if new := dropped - self._said:
            self._said = dropped
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(new.items()))
            _log.error("records, or their payloads, were not kept (%s): see the pages of their calls", reasons)

    def _keep(self, submissions: Sequence[Submission]) -> None:
        try:
            group = self._journaled(submissions)
        except Exception:  # noqa: BLE001 - the spool's loop: without it nothing would be recorded any more
            _log.exception("the spool failed")
            self._journal.seal()
            group = for_memory(submissions, "spool_failed")
        self._unsaved.publish(submissions, group)
        for submission, refused in zip(submissions, group.refused, strict=True):
            reasons = submission.refused | refused
            submission.receipt.settle(sum(reasons.values()), reasons)

    def _journaled(self, submissions: Sequence[Submission]) -> Group:
        """Hands the records to the kernel; where that fails twice, they wait in memory."""
        for _ in range(2):
            segment = self._journal.segment()
            if segment is None:
                break
            group = for_segment(submissions, segment, self._unsaved.spool_bytes, self._limits.max_bytes)
            if not group.parts or self._journal.append(segment, group.parts):
                group.end = segment.size_bytes
                return group
        return for_memory(submissions, self._journal.trouble or "disk_failed")

    # After a fork, in the child

    def _forget(self) -> None:
        """Drops what is the parent's; what the parent had in memory or on the disk stays the parent's alone."""
        if self._is_ended:
            return
        self._journal.close_in_child()
        for folder in self._adopted:
            folder.close()
        self._begin()
        self._starts_by_itself = True


class _Forked:
    """Called in a forked child for as long as the spool lives."""

    def __init__(self, spool: Spool) -> None:
        self._spool = weakref.ref(spool)

    def __call__(self) -> None:
        spool = self._spool()
        if spool is not None:
            spool._forget()  # noqa: SLF001 - a part of it
