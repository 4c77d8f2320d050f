"""What became of every record, counted since the process began."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class RecordStats:
    """What is only of a spool is 0 where records wait in memory alone.

    `appended` and `adopted` together are always the sum of `stored`, `replayed`, `unsaved` and what was dropped for
    other reasons than those for which a record is refused. A refused record that left a tombstone counts as dropped,
    for its payload, and its tombstone as a record of its own. A record whose commit was not confirmed is written
    again, and is `replayed` then.
    """

    appended: int = 0
    stored: int = 0
    replayed: int = 0
    retried_batches: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unsaved: int = 0
    unsaved_bytes: int = 0
    pending: int = 0
    """Handed in, and not yet with the kernel; not counted as appended before they are."""
    adopted: int = 0
    """Read from the spools of dead processes, places included where something is damaged or torn off."""
    tombstones: int = 0
    """Records that lost their payloads, and say why."""
    not_crash_proof: Counter[str] = field(default_factory=Counter)
    """Records that waited in memory only, by reason."""
    spool_bytes: int = 0
    """On the disk, what was adopted included."""
    spool_max_bytes: int = 0
    """How much of the disk it may use."""

    def copy(self) -> RecordStats:
        return replace(self, dropped=Counter(self.dropped), not_crash_proof=Counter(self.not_crash_proof))
