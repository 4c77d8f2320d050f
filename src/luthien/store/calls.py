"""What records say of their calls: rows of `conversation_calls`, to be merged in any order."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from luthien.exchange import EventType, StageRecord, call_time_ms

Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_STAGES = frozenset({EventType.POLICY_DECISION, EventType.RESPONSE_TIMELINE, EventType.CALL_OUTCOME})
_BITS = {"int4": 31, "int8": 63}
# An entry of an index has at most 2,704 bytes: whoever chose a longer one would keep the call out of the record.
_MAX_SESSION_BYTES = 1024

# Which attribute of which kind of record fills which column of a call. Each column has one owner.
_COLUMNS: dict[str, dict[str, str]] = {
    EventType.REQUEST_ORIGINAL: {
        "luthien.wire_format": "wire_format",
        "gen_ai.request.model": "model_requested",
        "luthien.streaming": "streaming",
        "gen_ai.conversation.id": "session_id",
    },
    EventType.REQUEST_FINAL: {
        "gen_ai.provider.name": "provider",
        "luthien.changed": "request_changed",
    },
    EventType.RESPONSE_ORIGINAL: {
        "gen_ai.response.model": "model_used",
        "gen_ai.usage.input_tokens": "input_tokens",
        "gen_ai.usage.output_tokens": "output_tokens",
    },
    EventType.RESPONSE_FINAL: {"luthien.changed": "response_changed"},
    EventType.CALL_OUTCOME: {
        "luthien.outcome": "outcome",
        "http.response.status_code": "http_status",
        "error.type": "error_type",
        "luthien.error.message": "error_message",
        "luthien.duration": "duration_ms",
        "luthien.duration.gateway": "gateway_ms",
        "luthien.duration.policy": "policy_ms",
        "luthien.duration.upstream": "upstream_ms",
        "luthien.first_chunk.upstream": "upstream_first_chunk_ms",
        "luthien.first_chunk.client": "client_first_chunk_ms",
        "luthien.records.emitted": "records_emitted",
        "luthien.records.refused": "records_refused",
    },
}

CALL_COLUMNS = {
    "call_id": "uuid",
    "trace_id": "text",
    "session_id": "text",
    "gateway_key": "text",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "wire_format": "text",
    "provider": "text",
    "model_requested": "text",
    "model_used": "text",
    "streaming": "bool",
    "outcome": "text",
    "http_status": "int4",
    "error_type": "text",
    "error_message": "text",
    "policies": "jsonb",
    "request_changed": "bool",
    "response_changed": "bool",
    "decisions": "int4",
    "input_tokens": "int8",
    "output_tokens": "int8",
    "duration_ms": "float8",
    "gateway_ms": "float8",
    "policy_ms": "float8",
    "upstream_ms": "float8",
    "upstream_first_chunk_ms": "float8",
    "client_first_chunk_ms": "float8",
    "records_emitted": "int4",
    "records_stored": "int4",
    "process_id": "uuid",
    "records_refused": "int4",
    "stages_stored": "int4",
    "records_tombstoned": "int4",
    "records_not_crash_proof": "int4",
    "parent_call_id": "uuid",
}
"""The columns, in the order in which they are copied, and their types."""


def call_rows(records: Iterable[StageRecord]) -> list[Row]:
    """One row a call; a column that no record fills is not in it. Counts are of these records."""
    rows: dict[UUID, Row] = {}
    for record in records:
        row = rows.get(record.call_id)
        if row is None:
            row = rows[record.call_id] = {
                "call_id": record.call_id,
                "trace_id": record.trace_id or None,
                "started_at": _EPOCH + timedelta(milliseconds=call_time_ms(record.call_id)),
                "decisions": 0,
                "records_stored": 0,
                "stages_stored": 0,
                "records_tombstoned": 0,
                "records_not_crash_proof": 0,
            }
        _count(row, record)
        _contribute(row, record)
    return list(rows.values())


def _count(row: Row, record: StageRecord) -> None:
    is_tombstone = "luthien.record.refused" in record.attributes
    row["records_stored"] += 1
    row["records_tombstoned"] += is_tombstone
    row["stages_stored"] += record.event_type not in _NO_STAGES and not is_tombstone
    row["records_not_crash_proof"] += "luthien.record.not_crash_proof" in record.attributes


def _contribute(row: Row, record: StageRecord) -> None:
    get = record.attributes.get
    for attribute, column in _COLUMNS.get(record.event_type, {}).items():
        row[column] = _fitting(get(attribute), CALL_COLUMNS[column])
    if "service.instance.id" in record.attributes:
        row["process_id"] = _as_uuid(get("service.instance.id"))
    if (
        "luthien.gateway_key" in record.attributes
    ):  # on the first record, so also while the call runs, and on the last
        row["gateway_key"] = _fitting(get("luthien.gateway_key"), "text")
    if "luthien.parent_call_id" in record.attributes:
        row["parent_call_id"] = _as_uuid(get("luthien.parent_call_id"))
    if record.event_type == EventType.REQUEST_ORIGINAL:
        user = _fitting(get("luthien.session.user"), "text")
        row["session_id"] = _clipped(row["session_id"] or user)
    elif record.event_type == EventType.POLICY_DECISION:
        row["decisions"] += 1
    elif record.event_type == EventType.CALL_OUTCOME:
        row["ended_at"] = as_time(record.recorded_at_ns)
        steps = [str(step).rpartition("@") for step in get("luthien.policies") or ()]
        row["policies"] = Jsonb([{"name": name, "version": version} for name, _, version in steps])


def _fitting(value: Any, kind: str) -> Any:
    """The value if its column can hold it, else None: a client's or a provider's oddity costs no record."""
    if kind == "text":
        return as_text(value) if isinstance(value, str) else None
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "float8":
        return value if isinstance(value, float) or is_integer(value, "int8") else None
    return value if is_integer(value, kind) else None


def _as_uuid(value: object) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None


def _clipped(session_id: str | None) -> str | None:
    return session_id and session_id.encode()[:_MAX_SESSION_BYTES].decode("utf-8", "ignore")


def is_integer(value: object, kind: str) -> bool:
    """Whether a column of type `int4` or `int8` can hold it."""
    limit = 1 << _BITS[kind]
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def as_time(ns: int) -> datetime:
    """A point in time as Postgres keeps it, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def as_text(value: str) -> str:
    """Without what a text column cannot hold."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
