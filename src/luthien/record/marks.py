"""What a record says of itself when it could not be kept as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from luthien.exchange import StageRecord

# These two are conventions, too; `telemetry.conventions` must not be imported from here.
REFUSED = "luthien.record.refused"
"""Attribute of a tombstone: why the payload was not kept."""
NOT_CRASH_PROOF = "luthien.record.not_crash_proof"
"""Attribute of a record that waited in memory only: why the spool did not have it."""


def tombstone(record: StageRecord, reason: str) -> StageRecord:
    """The record without its payload: it keeps its place, its hash and its size, and says why."""
    size = len(record.payload or b"") if record.payload_bytes is None else record.payload_bytes
    return replace(record, payload=None, payload_bytes=size, attributes=_with(record, REFUSED, reason))


def not_crash_proof(record: StageRecord, reason: str) -> StageRecord:
    """The record, saying that a crash of the process could have lost it."""
    return replace(record, attributes=_with(record, NOT_CRASH_PROOF, reason))


def _with(record: StageRecord, name: str, value: str) -> Mapping[str, Any]:
    known: object = record.attributes
    return {**known, name: value} if isinstance(known, Mapping) else {name: value}
