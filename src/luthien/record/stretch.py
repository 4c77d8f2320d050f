"""Reading records back from segments: those that found no room in memory, and those of dead processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO

from luthien.exchange import StageRecord
from luthien.record.folder import Segment
from luthien.record.frames import Damage, FrameReader


@dataclass(slots=True)
class ReadBack:
    """What one reading gave. `size_bytes` is what the records cost in memory."""

    records: list[StageRecord] = field(default_factory=list)
    size_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


class Stretch:
    """A part of a segment that has yet to be read; the writer's thread reads it.

    Args:
        end: where it ends so far: what this process spills later into the same segment is added.
        records: how many are in it; None when another process wrote it and nobody knows.
        since_s: when the oldest of them came, on the monotonic clock.
    """

    __slots__ = ("_file", "_reader", "end", "found", "records", "retry_at_s", "segment", "since_s")

    def __init__(self, segment: Segment, start: int, end: int, records: int | None, since_s: float) -> None:
        self.segment = segment
        self.end = end
        self.records = records
        self.since_s = since_s
        self.found = 0
        self.retry_at_s = 0.0
        self._file: FileIO | None = None
        self._reader = FrameReader(self._pread, segment.marker, start)

    @property
    def is_adopted(self) -> bool:
        return self.records is None

    @property
    def unread(self) -> int:
        """How many records are known to be left."""
        return 0 if self.records is None else self.records - self.found

    @property
    def is_read(self) -> bool:
        return self._reader.position >= self.end

    def read(self, end: int, max_records: int, max_bytes: int) -> ReadBack:
        """The next records before `end`, at least one if there is any.

        Raises OSError, unless it has read something before.
        """
        batch = ReadBack()
        try:
            with FileIO(self.segment.path, "rb") as self._file:
                self._fill(batch, end, max_records, max_bytes)
        except FileNotFoundError:  # somebody removed it
            batch.damages.append(Damage(self._reader.position, end, is_last=False))
            self._reader.position = end
        except OSError:
            if not batch.records and not batch.damages:
                raise
        return batch

    def _fill(self, batch: ReadBack, end: int, max_records: int, max_bytes: int) -> None:
        while len(batch.records) < max_records:
            room_bytes = max_bytes - batch.size_bytes if batch.records else None
            match self._reader.next(end, room_bytes):
                case Damage() as damage:
                    batch.damages.append(damage)
                case None:
                    return
                case record:
                    batch.records.append(record)
                    batch.size_bytes += record.size_bytes

    def _pread(self, at: int, size: int) -> bytes:
        if self._file is None:
            raise ValueError("nothing is being read")
        return os.pread(self._file.fileno(), size, at)


class Backlog:
    """What has yet to be read back. Belongs to `Unsaved`, whose lock is held when anything here is called."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []

    @property
    def is_spilling(self) -> bool:
        """Whether this process has records on the disk only; later ones must go there, too, to be next to them."""
        return any(not stretch.is_adopted for stretch in self.stretches)

    @property
    def unread(self) -> int:
        return sum(stretch.unread for stretch in self.stretches)

    def spill(self, segment: Segment, start: int, end: int, records: int, since_s: float) -> None:
        """Adds what was just written to a segment."""
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.segment is segment and last.records is not None:
            last.end = end
            last.records += records
        else:
            self.add(Stretch(segment, start, end, records, since_s))

    def add(self, stretch: Stretch) -> None:
        stretch.segment.holds += 1
        self.stretches.append(stretch)

    def ready(self, now_s: float) -> Stretch | None:
        """The first that may be read; one that could not be is tried again later."""
        return next((stretch for stretch in self.stretches if stretch.retry_at_s <= now_s), None)

    def ready_in(self, now_s: float) -> float | None:
        """How long, in seconds, until one may be read; None when there is none."""
        return min((stretch.retry_at_s - now_s for stretch in self.stretches), default=None)

    def since(self) -> Sequence[float]:
        return [stretch.since_s for stretch in self.stretches]
