"""What the database has of calls, as those see it who read the record. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from luthien.exchange import StageRecord

CallRow = dict[str, Any]
"""One row of `conversation_calls`, by column, and what the database knows of the call's process, if it matters."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class SetAside:
    """A record in quarantine, or one that was refused and of which the database was told; without its payload."""

    sequence: int
    event_type: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class StoredCall:
    """What the database has of one call: its row, its records in order, and those that were set aside."""

    row: CallRow
    records: list[StageRecord]
    set_aside: list[SetAside] = field(default_factory=list)
    children: list[CallRow] = field(default_factory=list)
    """The calls in which its policies asked models: `call_id`, models, `outcome` and `duration_ms`."""


@dataclass(frozen=True, slots=True)
class Unindexed:
    """So many calls, which a filter may let through, are not indexed as they are stored now.

    `or_more`: it was not counted further.
    """

    calls: int
    or_more: bool = False


def record_of(event: CallRow) -> StageRecord:
    """The record that a row of `conversation_events` is."""
    return StageRecord(
        call_id=event["call_id"],
        sequence=event["sequence"],
        event_type=event["event_type"],
        recorded_at_ns=(event["recorded_at"] - _EPOCH) // _MICROSECOND * 1000,
        trace_id=event["trace_id"] or "",
        span_id=event["span_id"] or "",
        payload=event["payload"],
        payload_sha256=event["payload_sha256"],
        payload_bytes=event["payload_bytes"],
        wire_sha256=event["wire_sha256"],
        wire_bytes=event["wire_bytes"],
        payload_ref=event["payload_ref"],
        attributes=event["attributes"],
    )


def set_aside_of(row: CallRow) -> SetAside:
    """What a row of `get_set_aside` tells of."""
    return SetAside(row["sequence"], row["event_type"] or "", row["reason"], row["error"] or "")
