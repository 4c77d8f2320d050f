"""What becomes of records that were handed in: kept whole, as tombstones, in memory only, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from luthien.exchange import StageRecord
from luthien.record.folder import Segment
from luthien.record.frames import Unencodable, encode
from luthien.record.inbox import Submission, for_payloads
from luthien.record.marks import not_crash_proof, tombstone
from luthien.record.outbox import Entry

_FULL = "spool_full"


@dataclass(slots=True)
class Group:
    """What the spool's thread made of some submissions.

    `start` and `end` say which part of the segment holds those entries that are in it; `refused` counts for each
    submission what was refused here, by reason.
    """

    segment: Segment | None = None
    start: int = 0
    end: int = 0
    entries: list[Entry] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    """What is to be written."""
    refused: list[dict[str, int]] = field(default_factory=list)
    lost: list[tuple[StageRecord, str]] = field(default_factory=list)
    """What nothing is kept of, and why."""
    dropped: list[str] = field(default_factory=list)
    """Why a record was refused, for each of them."""
    tombstones: int = 0
    not_crash_proof: list[str] = field(default_factory=list)
    """Why a record is in memory only, for each of them."""

    def keep_in_memory(self, record: StageRecord, since_s: float, reason: str) -> None:
        self.entries.append((since_s, not_crash_proof(record, reason), None))
        self.not_crash_proof.append(reason)


def for_segment(submissions: Sequence[Submission], segment: Segment, used_bytes: int, max_bytes: int) -> Group:
    """What is to be written to a segment, of a spool that uses so many bytes of those that it may."""
    group = Group(segment, segment.size_bytes)
    room = _Room(max_bytes, used_bytes)
    for submission in submissions:
        refused = 0
        for record in submission.records:
            try:
                refused += _put(group, record, submission.since_s, segment, room)
            except Unencodable:
                group.keep_in_memory(record, submission.since_s, "unencodable")
        group.refused.append({_FULL: refused} if refused else {})
    return group


def for_memory(submissions: Sequence[Submission], reason: str) -> Group:
    """What is to be done without a disk."""
    group = Group(refused=[{} for _ in submissions])
    for submission in submissions:
        for record in submission.records:
            group.keep_in_memory(record, submission.since_s, reason)
    return group


def _put(group: Group, record: StageRecord, since_s: float, segment: Segment, room: _Room) -> bool:
    """Adds a record, or its tombstone if it is refused; says whether it is. Raises Unencodable."""
    kept, frame = record, encode(record, segment.marker)
    is_refused = not room.take(frame, record)
    if is_refused:
        group.dropped.append(_FULL)
        kept = tombstone(record, _FULL)
        frame = encode(kept, segment.marker)
        if record.payload is None or not room.take(frame, kept):
            group.lost.append((record, _FULL))
            return True
        group.tombstones += 1
    group.parts += frame
    group.entries.append((since_s, kept, segment))
    return is_refused


class _Room:
    """What is left of the spool's bytes while a group is put together."""

    __slots__ = ("_for_all", "_for_payloads")

    def __init__(self, max_bytes: int, used_bytes: int) -> None:
        self._for_all = max_bytes - used_bytes
        self._for_payloads = for_payloads(max_bytes) - used_bytes

    def take(self, frame: Sequence[bytes], record: StageRecord) -> bool:
        """Takes the frame's share if there is enough left."""
        size = sum(map(len, frame))
        if size > (self._for_all if record.payload is None else self._for_payloads):
            return False
        self._for_all -= size
        self._for_payloads -= size
        return True
