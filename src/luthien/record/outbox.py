"""What waits in memory for the writer, and what it has taken and not settled yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from luthien.exchange import StageRecord
from luthien.record.folder import Segment

Entry = tuple[float, StageRecord, Segment | None]
"""When it came, on the monotonic clock; the record; the segment that has it, None when only memory has."""


@dataclass(slots=True)
class Load:
    """So many records, and what they cost in memory."""

    records: int = 0
    size_bytes: int = 0

    def add(self, records: int, size_bytes: int) -> None:
        self.records += records
        self.size_bytes += size_bytes

    def take_off(self, records: int, size_bytes: int) -> None:
        self.records -= records
        self.size_bytes -= size_bytes


class Outbox:
    """Belongs to `Unsaved` or a `RecordQueue`, whose lock is held when anything here is called."""

    def __init__(self) -> None:
        self.load = Load()
        """Of all that is here, taken or not."""
        self.waiting: deque[Entry] = deque()
        self.in_flight: list[Entry] = []
        self._waiting_bytes = 0

    def put(self, entry: Entry) -> None:
        size = entry[1].size_bytes
        self.waiting.append(entry)
        self._waiting_bytes += size
        self.load.add(1, size)

    def put_in_flight(self, entries: Iterable[Entry], load: Load) -> None:
        """Adds what the writer has taken from elsewhere."""
        self.in_flight += entries
        self.load.add(load.records, load.size_bytes)

    def is_batch(self, max_records: int, max_bytes: int) -> bool:
        """Whether so much waits as the writer takes at once."""
        return len(self.waiting) >= max_records or self._waiting_bytes >= max_bytes

    def take(self, max_records: int, max_bytes: int) -> list[StageRecord]:
        """The next batch, now in flight: at least one record, however large it is, if any waits."""
        batch: list[StageRecord] = []
        size = 0
        while self.waiting and len(batch) < max_records:
            record = self.waiting[0][1]
            if batch and size + record.size_bytes > max_bytes:
                break
            self.in_flight.append(self.waiting.popleft())
            batch.append(record)
            size += record.size_bytes
        self._waiting_bytes -= size
        return batch

    def settle(self, records: Sequence[StageRecord]) -> list[Entry]:
        """Forgets those of the records that are in flight, each once; returns what was known of them."""
        settled = Counter(id(record) for record in records)
        gone: list[Entry] = []
        left: list[Entry] = []
        for entry in self.in_flight:
            record = entry[1]
            if settled[id(record)]:
                settled[id(record)] -= 1
                self.load.take_off(1, record.size_bytes)
                gone.append(entry)
            else:
                left.append(entry)
        self.in_flight = left
        return gone

    def clear(self) -> list[Entry]:
        """Forgets everything; returns what was known of it."""
        entries = [*self.in_flight, *self.waiting]
        self.waiting.clear()
        self.in_flight.clear()
        self._waiting_bytes = 0
        self.load.take_off(self.load.records, self.load.size_bytes)
        return entries

    @property
    def records(self) -> list[StageRecord]:
        return [record for _, record, _ in (*self.in_flight, *self.waiting)]

    def since(self) -> list[float]:
        """When the oldest in flight and the oldest that waits came."""
        return [entries[0][0] for entries in (self.in_flight, self.waiting) if entries]
