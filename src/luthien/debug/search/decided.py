"""What each policy decided, without its words: for counting. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from luthien.exchange import EventType, StageRecord
from luthien.store.calls import as_text, as_time, is_integer
from luthien.store.index import Decision


def decisions_of(records: Iterable[StageRecord]) -> Iterator[Decision]:
    """The decisions among the records of a call."""
    for record in records:
        if record.event_type != EventType.POLICY_DECISION:
            continue
        get = record.attributes.get
        side, policy, version, action = (
            as_text(str(get(f"luthien.policy.{name}") or "")) for name in ("side", "name", "version", "action")
        )
        duration_ms, count = get("luthien.policy.duration"), get("luthien.policy.count")
        yield Decision(
            record.sequence,
            as_time(record.recorded_at_ns),
            side,
            policy,
            version,
            action,
            get("luthien.policy.changed") is True,
            get("luthien.policy.shadow") is True,
            duration_ms if isinstance(duration_ms, float) and math.isfinite(duration_ms) else None,
            count if isinstance(count, int) and is_integer(count, "int8") else None,
        )
