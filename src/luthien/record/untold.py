"""What the database has yet to be told, since no record says it: losses of whole records, deaths of processes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from luthien.exchange import StageRecord

_MAX_LOST = 4096
_MAX_DEAD = 1024


class Lost(NamedTuple):
    """A record that was refused, without its payload, and why."""

    record: StageRecord
    reason: str


class Untold:
    """Bounded: when the database is away for long, the oldest is forgotten. Any thread may note; one tells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: deque[Lost] = deque(maxlen=_MAX_LOST)
        self._dead: deque[UUID] = deque(maxlen=_MAX_DEAD)

    def lost(self, record: StageRecord, reason: str) -> None:
        with self._lock:
            self._lost.append(Lost(replace(record, payload=None), reason))

    def died(self, process_id: UUID) -> None:
        with self._lock:
            self._dead.append(process_id)

    def losses(self) -> list[Lost]:
        with self._lock:
            return [*self._lost]

    def dead(self) -> list[UUID]:
        with self._lock:
            return [*self._dead]

    def told(self, told: Sequence[Lost | UUID]) -> None:
        """Forgets them, but for what was noted since."""
        ids = {id(each) for each in told}
        with self._lock:
            for noted in (self._lost, self._dead):
                while noted and id(noted[0]) in ids:
                    noted.popleft()
