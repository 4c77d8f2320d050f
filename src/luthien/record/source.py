"""What the writer and the debug pages need of whatever records wait in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from luthien.exchange import StageRecord
from luthien.record.stats import RecordStats
from luthien.record.untold import Untold


class RecordSource(Protocol):
    """Records on their way to the database: `Spool` or, where a crash may lose what waits, `RecordQueue`.

    One thread takes and settles; any thread may ask.
    """

    process_id: UUID
    """Who records here."""
    untold: Untold
    """What the database has yet to be told of what was lost."""

    @property
    def trouble(self) -> str | None:
        """Why records would not survive a crash now, although they should; None while all is well."""
        ...

    def start(self) -> None:
        """Gets ready; before anything is taken."""
        ...

    def take(self, max_records: int, max_bytes: int, max_age_s: float) -> list[StageRecord]:
        """The next batch; none only when nothing more will come. They stay unsaved until they are settled."""
        ...

    def settle(
        self,
        records: Sequence[StageRecord],
        *,
        stored: int = 0,
        replayed: int = 0,
        dropped: int = 0,
        reason: str = "",
    ) -> None:
        """What became of some of the records that `take` gave."""
        ...

    def retry(self) -> list[StageRecord]:
        """Counts a batch that has to be tried again, and returns what is left of it."""
        ...

    def close(self) -> None:
        """Refuses records from now on; what is there can still be taken."""
        ...

    def abandon(self, reason: str) -> int:
        """Ends it; returns how many records are lost by that."""
        ...

    def unsaved(self, call_id: UUID) -> list[StageRecord]:
        """The records of a call that wait in this process's memory."""
        ...

    def unsaved_calls(self) -> frozenset[UUID]:
        """The calls that have records in this process's memory."""
        ...

    def taken_over(self) -> frozenset[UUID]:
        """The dead processes whose records are being taken over here."""
        ...

    def oldest_unsaved_age_s(self) -> float:
        """How long, in seconds, the oldest unsaved record has waited; 0 when nothing waits."""
        ...

    def stats(self) -> RecordStats: ...
